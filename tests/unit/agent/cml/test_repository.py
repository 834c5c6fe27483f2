"""The repository of a report: whose word counts, and to which server the token goes."""

from __future__ import annotations

import pathlib
import subprocess
import typing

import pytest

from runnerd.agent.cml import context as contexts
from runnerd.agent.cml import failures, repository, transport
from tests.unit.agent.cml import loopback
from tests.unit.agent.cml.loopback import SHA, reply

ENV = {"PATH": "/usr/bin:/bin", "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null"}
GITHUB = {
    "GITHUB_ACTIONS": "true",
    "GITHUB_SERVER_URL": "https://github.com",
    "GITHUB_API_URL": "https://api.github.com",
    "GITHUB_REPOSITORY": "acme/nst",
}
GITLAB = {
    "GITLAB_CI": "true",
    "CI_SERVER_URL": "https://h:8443/gitlab",
    "CI_API_V4_URL": "https://h:8443/gitlab/api/v4",
    "CI_PROJECT_URL": "https://h:8443/gitlab/group/proj",
    "CI_PROJECT_PATH": "group/proj",
}


def git(directory: pathlib.Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-c", "user.name=n", "-c", "user.email=e@x", "-c", "protocol.file.allow=always", *arguments],
        cwd=directory,
        env=ENV,
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip()


def checkout(directory: pathlib.Path, origin: str = "") -> pathlib.Path:
    directory.mkdir(parents=True, exist_ok=True)
    git(directory, "init", "-q")
    git(directory, "commit", "-q", "--allow-empty", "-m", str(directory))
    if origin:
        git(directory, "config", "remote.origin.url", origin)
    return directory


def context(directory: pathlib.Path, **env: str) -> contexts.Context:
    return contexts.Context(env={**ENV, **env}, directory=directory)


def found(directory: pathlib.Path, given: str = "", **env: str) -> str:
    """Return the address, or the message of the refusal."""
    try:
        return repository.find(context(directory, **env), given).address
    except failures.Failure as failure:
        return str(failure)


#: Remotes of git, and the web address that they stand for outside CI; empty: none.
REMOTES = [
    ("https://github.com/acme/nst.git", "https://github.com/acme/nst"),
    ("https://github.com/acme/nst/", "https://github.com/acme/nst"),
    ("https://github.com:443/acme/nst", "https://github.com/acme/nst"),
    ("https://x:tok@github.com/acme/nst", "https://github.com/acme/nst"),
    ("git@github.com:acme/nst.git", "https://github.com/acme/nst"),
    ("git@h:a/b", "https://h/a/b"),
    ("git@h:/a/b", "https://h/a/b"),
    ("ssh://git@h:2222/a/b", "https://h/a/b"),
    ("ssh://git@gitlab.acme.example:2222/ml/nst.git", "https://gitlab.acme.example/ml/nst"),
    ("git+ssh://git@h/a/b", "https://h/a/b"),
    ("git@[::1]:a/b", "https://[::1]/a/b"),
    ("http://[::1]:8080/a/b", "http://[::1]:8080/a/b"),
    ("http://127.0.0.1:8080/acme/nst", "http://127.0.0.1:8080/acme/nst"),
    ("https://ghe.example:8443/acme/nst", "https://ghe.example:8443/acme/nst"),
    ("https://h:8443/gitlab/group/proj.git", "https://h:8443/gitlab/group/proj"),
    ("git://github.com/acme/nst", "https://github.com/acme/nst"),
    ("ssh://git@ssh.github.com:443/acme/nst.git", "https://github.com/acme/nst"),
    ("ssh://git@altssh.gitlab.com:443/acme/nst.git", "https://gitlab.com/acme/nst"),
    ("git@acme.ghe.com:ml/nst", "https://acme.ghe.com/ml/nst"),
    ("../up", ""),
    ("./up", ""),
    ("up", ""),
    ("~/up", ""),
    ("/srv/x", ""),
    ("file:///x", ""),
    ("file://h/x", ""),
    ("C:/x", ""),
    ("C:\\x", ""),
    ("codecommit::x", ""),
    ("codecommit::eu-west-1://x", ""),
    ("ext::ssh h %S /a/b", ""),
    ("s3://bucket/a/b", ""),
    ("https://h", ""),
    ("https://h:port/a/b", ""),
    ("https://[::1/a/b", ""),
]


@pytest.mark.parametrize(("remote", "address"), REMOTES)
def test_a_remote_counts_outside_ci_and_never_against_the_variables_of_a_job(
    tmp_path: pathlib.Path, remote: str, address: str
) -> None:
    assert (repository.web_address(remote) or "") == address
    checkout(tmp_path, remote)
    outside = found(tmp_path)
    if address:
        assert outside == address
    else:
        assert "names no web server" in outside and "--repo" in outside and str(tmp_path) in outside
    for job, expected in ((GITHUB, "https://github.com/acme/nst"), (GITLAB, "https://h:8443/gitlab/group/proj")):
        for more in ({}, {"GITHUB_WORKSPACE": str(tmp_path), "CI_PROJECT_DIR": str(tmp_path)}):
            assert found(tmp_path, **{**job, **more}) == expected


def test_the_repository_is_that_of_the_jobs_variables_before_that_of_a_checkout(tmp_path: pathlib.Path) -> None:
    job = {"GITHUB_SERVER_URL": "https://github.com", "GITHUB_REPOSITORY": "acme/job"}
    assert found(tmp_path, **job) == "https://github.com/acme/job"
    checkout(tmp_path, "git@github.com:acme/nst.git")
    assert found(tmp_path, **job) == "https://github.com/acme/job"
    assert found(tmp_path) == "https://github.com/acme/nst"


def test_a_repository_that_cannot_be_found_says_what_to_give(tmp_path: pathlib.Path) -> None:
    with pytest.raises(failures.Failure, match="repo not found"):
        repository.find(context(tmp_path), "")
    with pytest.raises(failures.Failure, match="on which server"):
        repository.find(context(tmp_path), "acme/nst")
    with pytest.raises(failures.Failure, match=r"--repo \.\./up is not the address"):
        repository.find(context(tmp_path, **GITHUB), "../up")
    on_gitlab = context(tmp_path, CI_SERVER_URL="https://gl.example")
    assert repository.find(on_gitlab, "acme/ml/nst").address == "https://gl.example/acme/ml/nst"
    assert "'h/gitlab', which is not an http or https address" in found(tmp_path, CI_PROJECT_URL="h/gitlab")


def without(job: dict[str, str], *names: str) -> dict[str, str]:
    return {name: value for name, value in job.items() if name not in names}


#: A job whose variables do not name the repository: where its folder is, where cml runs, the origin there, and
#: the outcome.
PARTIAL = [
    (without(GITHUB, "GITHUB_REPOSITORY"), "w", "w", "git@github.com:acme/nst", "https://github.com/acme/nst"),
    (without(GITHUB, "GITHUB_REPOSITORY"), "w", "w/sub", "https://github.com/acme/nst", "https://github.com/acme/nst"),
    (without(GITHUB, "GITHUB_REPOSITORY"), "w", "w", "https://foreign.example/a/b", "not on the job's server"),
    (without(GITHUB, "GITHUB_REPOSITORY"), "w", "w", "https://github.com:8443/a/b", "not on the job's server"),
    (without(GITHUB, "GITHUB_REPOSITORY"), "w", "w", "http://github.com/a/b", "not on the job's server"),
    (without(GITHUB, "GITHUB_REPOSITORY"), "w", "w", "../up", "names no web server"),
    (without(GITHUB, "GITHUB_REPOSITORY"), "w", "w", "", "names no remote origin"),
    (without(GITHUB, "GITHUB_REPOSITORY"), "w/inner", "w", "git@github.com:acme/nst", "only one inside"),
    (without(GITHUB, "GITHUB_REPOSITORY"), "w", "other", "git@github.com:acme/nst", "only one inside"),
    (without(GITHUB, "GITHUB_REPOSITORY"), "", "w", "git@github.com:acme/nst", "lacks GITHUB_WORKSPACE"),
    (without(GITHUB, *list(GITHUB)[1:]), "w", "w", "git@foreign.example:a/b", "https://foreign.example/a/b"),
    (without(GITHUB, *list(GITHUB)[1:]), "w", "w/sub", "git@foreign.example:a/b", "not known to compare"),
    (without(GITLAB, "CI_PROJECT_URL"), "w", "w", "../up", "https://h:8443/gitlab/group/proj"),
    (
        without(GITLAB, "CI_PROJECT_URL", "CI_PROJECT_PATH"),
        "w",
        "w",
        "https://h:8443/gitlab/x/y",
        "https://h:8443/gitlab/x/y",
    ),
    (
        without(GITLAB, "CI_PROJECT_URL", "CI_PROJECT_PATH"),
        "w",
        "w",
        "https://h:8443/other/x/y",
        "not on the job's server",
    ),
    (
        without(GITLAB, "CI_PROJECT_URL", "CI_PROJECT_PATH"),
        "w",
        "w",
        "https://h:8443/gitlab2/x",
        "not on the job's server",
    ),
    ({"GITLAB_CI": "true"}, "", "w", "https://foreign.example/a/b", "lacks CI_PROJECT_DIR"),
]


@pytest.mark.parametrize(("job", "folder", "where", "origin", "outcome"), PARTIAL)
def test_without_the_variables_only_the_jobs_own_checkout_on_its_own_server_counts(
    tmp_path: pathlib.Path, job: dict[str, str], folder: str, where: str, origin: str, outcome: str
) -> None:
    checkout(tmp_path / where, origin)
    env = dict(job)
    if folder:
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        env["GITHUB_WORKSPACE" if "GITHUB_ACTIONS" in job else "CI_PROJECT_DIR"] = str(tmp_path / folder)
    assert outcome in found(tmp_path / where, **env)


@pytest.mark.parametrize(
    ("env", "given", "server", "api"),
    [
        (GITHUB, "", "https://github.com", "https://api.github.com"),
        (GITHUB, "acme/other", "https://github.com", "https://api.github.com"),
        (GITHUB, "https://ghe.example/a/b", "", ""),
        (GITLAB, "", "https://h:8443/gitlab", "https://h:8443/gitlab/api/v4"),
        (GITLAB, "group/other", "https://h:8443/gitlab", "https://h:8443/gitlab/api/v4"),
        (GITLAB, "https://h:8443/other/a/b", "", ""),
        (without(GITLAB, "CI_API_V4_URL"), "", "https://h:8443/gitlab", "https://h:8443/gitlab/api/v4"),
        (without(GITLAB, "CI_SERVER_URL"), "", "https://h:8443/gitlab", "https://h:8443/gitlab/api/v4"),
        # As upstream, which asks each prefix of a repository that is given.
        (without(GITLAB, "CI_API_V4_URL"), "https://h:8443/gitlab/a/b", "https://h:8443/gitlab", ""),
    ],
)
def test_server_and_api_are_the_jobs_for_repositories_on_its_server(
    tmp_path: pathlib.Path, env: dict[str, str], given: str, server: str, api: str
) -> None:
    place = repository.find(context(tmp_path, **env), given)
    assert (place.server, place.api) == (server, api)


@pytest.mark.parametrize(
    ("env", "asked"),
    [
        (GITHUB, "https://api.github.com/repos/acme/nst"),
        ({"CML_REPO": "https://github.com/acme/nst"}, "https://api.github.com/repos/acme/nst"),
        (
            {**GITHUB, "GITHUB_SERVER_URL": "https://acme.ghe.com", "GITHUB_API_URL": "https://api.acme.ghe.com"},
            "https://api.acme.ghe.com/repos/acme/nst",
        ),
        (
            {**without(GITHUB, "GITHUB_API_URL"), "GITHUB_SERVER_URL": "https://acme.ghe.com"},
            "https://api.acme.ghe.com/repos/acme/nst",
        ),
        ({"CML_REPO": "https://acme.ghe.com/acme/nst"}, "https://api.acme.ghe.com/repos/acme/nst"),
        (
            {**GITHUB, "GITHUB_SERVER_URL": "https://g.example", "GITHUB_API_URL": "https://g.example/api/v3"},
            "https://g.example/api/v3/repos/acme/nst",
        ),
        (
            {**without(GITHUB, "GITHUB_API_URL"), "GITHUB_SERVER_URL": "https://g.example:8443"},
            "https://g.example:8443/api/v3/repos/acme/nst",
        ),
        ({**GITHUB, "CML_REPO": "https://g.example/acme/nst"}, "https://g.example/api/v3/repos/acme/nst"),
        (GITLAB, "https://h:8443/gitlab/api/v4/projects/group%2Fproj"),
        ({**GITLAB, "GITHUB_REPOSITORY": "a/mirror"}, "https://h:8443/gitlab/api/v4/projects/group%2Fproj"),
    ],
)
def test_every_request_goes_to_the_api_of_the_repository(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, env: dict[str, str], asked: str
) -> None:
    """The directory lies in a checkout of something else, whose server must not be asked."""
    urls: list[str] = []

    def send(self: transport.Transport, method: str, url: str, **_: object) -> transport.Answer:
        urls.append(url)
        return transport.Answer(201, {}, b'{"html_url": "u", "id": 1}', url)

    monkeypatch.setattr(transport.Transport, "send", send)
    with loopback.bench(checkout(tmp_path, "https://foreign.example/a/b")) as bench:
        bench.write("report.md", "![](plot.png)")
        bench.env.update({**env, "REPO_TOKEN": "tok123", "CI_COMMIT_SHA": SHA, "GITHUB_SHA": SHA})
        assert bench.run("cml", "comment", "create", "--target=pr/1", "report.md") == 0, bench.err
    assert urls and all(url.startswith(asked + "/") for url in urls if "/users/" not in url)


def test_a_token_does_not_follow_the_origin_of_an_enclosing_checkout(tmp_path: pathlib.Path) -> None:
    with loopback.bench(tmp_path) as bench:
        checkout(bench.directory, f"{bench.store.url}/acme/nst.git")
        bench.directory = bench.directory / "builds" / "proj"
        bench.write("report.md", "x")
        bench.on_gitlab(CI_PROJECT_DIR=str(bench.directory), CML_REPO="", CI_API_V4_URL=f"{bench.forge.url}/api/v4")
        bench.forge.on("POST", "/api/v4/projects/acme%2Fnst/", reply(201, {"id": 1}))
        assert bench.run("cml", "comment", "create", "--target=pr/1", "report.md") == 0, bench.err
        assert bench.store.asked == []
        assert bench.forge.lines == ["POST /api/v4/projects/acme%2Fnst/merge_requests/1/notes"]


class Nested(typing.NamedTuple):
    """A checkout with a submodule, and a checkout of something else around both."""

    job: pathlib.Path
    submodule: pathlib.Path


@pytest.fixture
def nested(tmp_path: pathlib.Path) -> Nested:
    library = checkout(tmp_path / "library")
    around = checkout(tmp_path / "around", "https://foreign.example/a/b")
    job = checkout(around / "builds" / "proj", "https://github.com/acme/nst")
    git(job, "submodule", "--quiet", "add", str(library), "lib")
    git(job, "commit", "-q", "-m", "add lib")
    return Nested(job, job / "lib")


def test_in_a_submodule_repository_and_commit_are_those_of_the_job(nested: Nested) -> None:
    head = git(nested.job, "rev-parse", "HEAD")
    assert git(nested.submodule, "rev-parse", "HEAD") != head
    env = {**GITHUB, "GITHUB_WORKSPACE": str(nested.job)}
    assert found(nested.submodule, **env) == "https://github.com/acme/nst"
    assert repository.commit(context(nested.submodule, **env)) == head
    assert repository.commit(context(nested.job, **env)) == head


@pytest.mark.parametrize("how", ["GIT_DIR", "GIT_COMMON_DIR", "GIT_CONFIG", "GIT_CONFIG_PARAMETERS"])
def test_in_a_job_gits_own_variables_name_no_other_repository(tmp_path: pathlib.Path, how: str) -> None:
    job = checkout(tmp_path / "job", "https://h/a/b")
    other = checkout(tmp_path / "other", "https://evil.example/x/y")
    value = {
        "GIT_DIR": str(other / ".git"),
        "GIT_COMMON_DIR": str(other / ".git"),
        "GIT_CONFIG": str(other / ".git" / "config"),
        "GIT_CONFIG_PARAMETERS": "'remote.origin.url'='https://evil.example/x/y'",
    }[how]
    env = {"GITLAB_CI": "true", "CI_PROJECT_DIR": str(job), how: value}
    assert found(job, **env) == "https://h/a/b"
    assert repository.commit(context(job, **env)) == git(job, "rev-parse", "HEAD")


@pytest.mark.parametrize(
    "env",
    [
        {**GITLAB, "CI_API_V4_URL": "https://evil.example/api/v4"},
        {**GITLAB, "CI_API_V4_URL": "https://h:8443@evil.example/api/v4"},
        {**GITLAB, "CI_API_V4_URL": "http://h:8443/gitlab/api/v4"},
        {**GITLAB, "CI_API_V4_URL": "https://h/gitlab/api/v4"},
        {**GITHUB, "GITHUB_API_URL": "https://api.github.com.evil.example"},
        {**GITHUB, "GITHUB_API_URL": "https://xapi.github.com"},
    ],
)
@pytest.mark.parametrize("named", [False, True])
def test_an_api_on_another_host_than_the_jobs_server_gets_no_token(
    tmp_path: pathlib.Path, env: typing.Mapping[str, str], named: bool
) -> None:
    given = "" if not named else "https://h:8443/gitlab/a/b" if "GITLAB_CI" in env else "https://github.com/a/b"
    assert "is not the API of the job's server" in found(tmp_path, given, **env)


def test_no_part_of_a_password_is_shown(tmp_path: pathlib.Path) -> None:
    origin = checkout(tmp_path, "ftp://me:one@two@three@h/a/b")
    assert "ftp://h/a/b" in found(origin)


def test_a_commit_outside_the_jobs_folder_is_none_of_the_jobs(nested: Nested) -> None:
    builds = nested.job.parent
    assert repository.commit(context(builds, **GITHUB, GITHUB_WORKSPACE=str(builds))) == ""
    assert repository.commit(context(builds)) == git(builds, "rev-parse", "HEAD")


@pytest.mark.parametrize(("job", "name"), [(GITHUB, "GITHUB_SHA"), (GITLAB, "CI_COMMIT_SHA")])
def test_an_unset_commit_that_git_does_not_name_either_says_where_it_was_looked_for(
    tmp_path: pathlib.Path, job: dict[str, str], name: str
) -> None:
    with loopback.bench(tmp_path) as bench:
        bench.write("report.md", "x")
        bench.env.update(job, REPO_TOKEN="tok123", GITHUB_WORKSPACE=str(tmp_path), CI_PROJECT_DIR=str(tmp_path))
        assert bench.run("cml", "comment", "create", "--target=commit", "report.md") == 1
        assert f"{name} is not set, and git names no commit of the job's checkout in {tmp_path}" in bench.err
        assert "--target=commit/SHA" in bench.err
