"""The command as a whole: names, publishing single files, finding repository and token, and what is not built in."""

from __future__ import annotations

import ast
import pathlib
import subprocess
import sys
import typing

import pytest

import runnerd.agent.cml
from runnerd.agent.cml import assets, driver, failures
from runnerd.agent.cml import context as contexts
from tests.unit.agent.cml import loopback
from tests.unit.agent.cml.loopback import PNG, SHA, reply

UUID = "00000000-0000-4000-8000-000000000000"


@pytest.fixture
def bench(tmp_path: pathlib.Path) -> typing.Iterator[loopback.Bench]:
    with loopback.bench(tmp_path) as made:
        made.write("out.png", PNG)
        made.store.on("POST", "/", reply(200, "https://asset.example/1"))
        yield made


def test_a_file_is_published_without_any_forge(bench: loopback.Bench) -> None:
    bench.env["CML_ASSET_URL"] = bench.store.url
    assert bench.run("cml", "asset", "publish", "out.png") == 0
    assert bench.out == f"https://asset.example/1?cml=png&cache-bypass={UUID}\n"
    assert bench.store.lines == ["POST /"]
    assert bench.run("/usr/local/bin/cml-publish", "--md", "out.png") == 0
    assert bench.out == f"![](https://asset.example/1?cml=png&cache-bypass={UUID})\n"
    assert '"cml publish" is deprecated' in bench.err


@pytest.mark.parametrize(
    ("options", "printed"),
    [
        ("--md --title t", '![](https://asset.example/1?cml=png&cache-bypass=%s "t")'),
        ("--md --mime-type text/csv", "[out.png](https://asset.example/1?cml=csv&cache-bypass=%s)"),
        ("--md --mime-type text/csv -t t", "[t](https://asset.example/1?cml=csv&cache-bypass=%s)"),
        ("--md --mime-type video/mp4", "![](https://asset.example/1?cml=mp4&cache-bypass=%s)"),
        ("--rm-watermark", "https://asset.example/1?cache-bypass=%s"),
        ("--mime-type image/svg+xml", "https://asset.example/1?cml=svg%%2Bxml&cache-bypass=%s"),
    ],
)
def test_what_is_printed_depends_on_type_and_options(bench: loopback.Bench, options: str, printed: str) -> None:
    assert bench.run("cml", "publish", "--url", bench.store.url, *options.split(), "out.png") == 0
    assert bench.out.strip() == printed % UUID


def test_file_takes_the_output_instead_of_printing_it(bench: loopback.Bench) -> None:
    assert bench.run("cml", "asset", "publish", "--url", bench.store.url, "-f", "url.txt", "out.png") == 0
    assert bench.out == ""
    assert (bench.directory / "url.txt").read_text() == f"https://asset.example/1?cml=png&cache-bypass={UUID}"


def test_publishing_nowhere_says_what_to_set(bench: loopback.Bench) -> None:
    bench.on_github()
    assert bench.run("cml", "publish", "out.png") == 1
    assert "set CML_ASSET_URL" in bench.err
    assert bench.run("cml", "publish", "--native", "out.png") == 1
    assert "cannot be kept on GitHub" in bench.err


def test_a_missing_file_is_named(bench: loopback.Bench) -> None:
    assert bench.run("cml", "publish", "--url", bench.store.url, "gone.png") == 1
    assert f"there is no file {bench.directory / 'gone.png'}" in bench.err


@pytest.mark.parametrize("words", ["publish", "publish a b", "comment create", "send-comment"])
def test_the_wrong_number_of_files_is_an_error(bench: loopback.Bench, words: str) -> None:
    assert bench.run("cml", *words.split()) == 1
    assert "takes one" in bench.err


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ("cml-runner --labels x --cloud aws", "runs-on: POOL"),
        ("cml runner launch --cloud aws", "runs-on: POOL"),
        ("cml-pr .", "gh pr create"),
        ("cml-send-github-check report.md --title x", "GITHUB_STEP_SUMMARY"),
        ("cml check create report.md", "GITHUB_STEP_SUMMARY"),
        ("cml-tensorboard-dev --logdir logs", "was closed"),
        ("cml ci", "fetch-depth"),
        ("cml rerun-workflow", "gh run rerun"),
    ],
)
def test_what_is_not_built_in_says_what_to_use_instead(bench: loopback.Bench, argv: str, said: str) -> None:
    assert bench.run(*argv.split()) == 1
    assert "is not built in" in bench.err
    assert said in bench.err
    assert bench.forge.asked == []


def test_an_unknown_command_is_an_error_and_help_is_not(bench: loopback.Bench) -> None:
    assert bench.run("cml", "coment", "create", "x.md") == 1
    assert "there is no command `cml coment create`" in bench.err
    for argv in (["cml", "--help"], ["cml-publish", "--help"], ["cml", "comment", "create", "--help"]):
        assert bench.run(*argv) == 0
        assert bench.out
    assert bench.run("cml", "--version") == 0
    assert bench.out.startswith("0.20.6")


@pytest.mark.parametrize(
    ("given", "repo", "env", "expected"),
    [
        ("", "https://github.com/a/b", {"CI_PROJECT_URL": "x"}, "github"),
        ("", "https://gitlab.com/a/b", {"GITHUB_REPOSITORY": "a/b"}, "gitlab"),
        ("", "https://x.example/a/b", {"GITHUB_REPOSITORY": "a/b"}, "github"),
        ("", "https://x.example/a/b", {"CI_PROJECT_URL": "x"}, "gitlab"),
        ("gitlab", "https://x.example/a/b", {"GITHUB_REPOSITORY": "a/b"}, "gitlab"),
        ("", "https://x.example/a/b", {"GITHUB_REPOSITORY": "a/b", "GITLAB_CI": "true"}, "gitlab"),
        ("", "https://acme.ghe.com/a/b", {}, "github"),
        ("", "https://x.example/a/b", {}, "driver not set"),
        ("", "https://bitbucket.org/a/b", {}, "bitbucket is not built in"),
    ],
)
def test_the_forge_is_told_by_option_then_host_then_environment(
    given: str, repo: str, env: dict[str, str], expected: str
) -> None:
    try:
        found = driver.forge(contexts.Context(env=env), given, repo)
    except failures.Failure as failure:
        found = str(failure)
    assert expected in found


@pytest.mark.parametrize(
    ("forge", "names", "foreign"),
    [
        ("github", ["REPO_TOKEN", "repo_token", "GITHUB_TOKEN"], "GITLAB_TOKEN"),
        ("gitlab", ["REPO_TOKEN", "repo_token", "GITLAB_TOKEN"], "GITHUB_TOKEN"),
    ],
)
def test_tokens_are_looked_for_in_upstreams_order_and_those_of_the_other_forge_stay(
    forge: str, names: list[str], foreign: str
) -> None:
    env = {name: f"of-{name}" for name in [*names, foreign]}
    assert driver.token(contexts.Context(env=env), "given", forge) == "given"
    for name in names:
        assert driver.token(contexts.Context(env=env), "", forge) == f"of-{name}"
        del env[name]
    with pytest.raises(failures.Failure, match=f"{foreign} is set, and is not sent to {forge}"):
        driver.token(contexts.Context(env=env), "", forge)
    with pytest.raises(failures.Failure, match="CI_JOB_TOKEN may not"):
        driver.token(contexts.Context(env={"CI_JOB_TOKEN": "x"}), "", forge)


def test_a_job_with_tokens_of_both_forges_sends_each_to_its_own(bench: loopback.Bench) -> None:
    bench.write("report.md", "x")
    bench.on_gitlab(GITHUB_TOKEN="ghtok", GITLAB_TOKEN="gltok", REPO_TOKEN="")
    bench.forge.on("POST", "/api/v4/projects/", reply(201, {"id": 1}))
    assert bench.run("cml", "comment", "create", "--target=pr/1", "report.md") == 0, bench.err
    assert {asked.headers["private-token"] for asked in bench.forge.asked} == {"gltok"}


def test_github_com_is_reached_at_its_own_host(bench: loopback.Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    from runnerd.agent.cml import transport

    urls = []

    def send(self: transport.Transport, method: str, url: str, **_: object) -> transport.Answer:
        urls.append(f"{method} {url}")
        return transport.Answer(201, {}, b'{"html_url": "u"}', url)

    monkeypatch.setattr(transport.Transport, "send", send)
    bench.write("report.md", "x")
    bench.on_github(CML_REPO="https://github.com/acme/nst", GITHUB_API_URL="https://elsewhere.example")
    assert bench.run("cml", "comment", "create", "--target=pr/1", "report.md") == 0
    bench.env["CML_REPO"] = "https://ghe.example:8443/acme/nst"
    assert bench.run("cml", "comment", "create", "--target=pr/1", "report.md") == 0
    assert urls == [
        "GET https://api.github.com/users/octocat",
        "POST https://api.github.com/repos/acme/nst/issues/1/comments",
        "GET https://ghe.example:8443/api/v3/users/octocat",
        "POST https://ghe.example:8443/api/v3/repos/acme/nst/issues/1/comments",
    ]


def test_git_tells_the_commit_when_the_environment_does_not(bench: loopback.Bench) -> None:
    env = {**bench.env, "GIT_CONFIG_GLOBAL": "/dev/null"}
    git = ["git", "-C", str(bench.directory), "-c", "user.name=n", "-c", "user.email=e@x"]
    subprocess.run([*git, "init", "-q"], check=True, env=env)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "m"], check=True, env=env)
    sha = subprocess.run(
        [*git, "rev-parse", "HEAD"], check=True, env=env, capture_output=True, text=True
    ).stdout.strip()
    bench.write("report.md", "x")
    bench.on_github(GITHUB_SHA="")
    bench.forge.on("POST", "/api/v3/repos/acme/nst/commits/", reply(201, {"html_url": "u"}))
    assert bench.run("cml", "comment", "create", "--target=commit", "report.md") == 0
    assert bench.forge.lines[-1] == f"POST /api/v3/repos/acme/nst/commits/{sha}/comments"
    assert not (bench.directory / ".gitconfig").exists()


@pytest.mark.parametrize(
    ("data", "name", "mime"),
    [
        (PNG, "x", "image/png"),
        (PNG, "x.jpg", "image/png"),
        (b"\xff\xd8\xff\xe0", "x.jpg", "image/jpeg"),
        (b"RIFF1234WEBPVP8 ", "x", "image/webp"),
        (b"GIF89a", "x", "image/gif"),
        (b"%PDF-1.7", "x", "application/pdf"),
        (b"\0\0\0 ftypisom", "x", "video/mp4"),
        (b'<?xml version="1.0"?>\n<!-- c -->\n<svg xmlns="x">', "x", "image/svg+xml"),
        (b"<html><svg></svg>", "x.html", "text/html"),
        (b'{"a": 1}', "x.json", "application/json"),
        (b"a,b\n", "x.csv", "text/csv"),
        (b"plain", "x", "text/plain"),
        (b"plain", "x.png", "text/plain"),
        (b"a\0b", "x.bin", "application/octet-stream"),
        (b"a\0b", "x.png", "application/octet-stream"),
        (b"", "x", "text/plain"),
    ],
)
def test_a_type_is_told_by_content_before_name(data: bytes, name: str, mime: str) -> None:
    assert assets.sniff(data, name) == mime


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://a.example/1", "https://a.example/1?cml=png"),
        ("https://a.example", "https://a.example/?cml=png"),
        ("https://a.example/1?x=&y=b%20c#f", "https://a.example/1?x=&y=b+c&cml=png#f"),
        ("https://a.example/1?cml=old&z=1&cml=2", "https://a.example/1?cml=png&z=1"),
    ],
)
def test_a_parameter_is_set_as_in_a_browser(url: str, expected: str) -> None:
    assert assets.with_parameter(url, "cml", "png") == expected


@pytest.mark.parametrize("url", ["data:image/png;base64,", "data:image/png,raw", "data:image/png;base64"])
def test_an_embedded_image_without_data_is_none(url: str) -> None:
    assert assets.embedded(url) is None


SOURCES = sorted(pathlib.Path(runnerd.agent.cml.__file__).parent.glob("*.py"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_the_package_needs_nothing_but_an_old_standard_library(path: pathlib.Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 9))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            assert name.startswith("runnerd.agent.cml") or name.split(".")[0] in sys.stdlib_module_names


def test_the_commit_of_a_pull_request_is_its_head_and_not_the_merge(bench: loopback.Bench) -> None:
    bench.write("report.md", "x")
    bench.on_github()
    bench.in_pull_request()
    bench.forge.on("POST", "/api/v3/repos/", reply(201, {"html_url": "u"}))
    assert bench.run("cml", "comment", "create", "report.md") == 0
    assert f"watermark.png#{SHA}" in bench.forge.asked[-1].body.decode()
