"""Reports become comments: targets, updates, files, watching, and what people are told when it fails."""

from __future__ import annotations

import base64
import json
import pathlib
import typing

import pytest

from tests.unit.agent.cml import loopback
from tests.unit.agent.cml.loopback import MARK, PNG, SHA, reply

ISSUE = "/api/v3/repos/acme/nst/issues/5/comments"
MADE = reply(201, {"html_url": "https://forge.example/c/1"})


@pytest.fixture
def bench(tmp_path: pathlib.Path) -> typing.Iterator[loopback.Bench]:
    with loopback.bench(tmp_path) as made:
        made.write("report.md", "# Report\n")
        made.write("plots/out.png", PNG)
        made.store.on("POST", "/", reply(200, "https://asset.example/1"))
        yield made


def on_pull_request(bench: loopback.Bench) -> None:
    bench.on_github(CML_ASSET_URL=bench.store.url)
    bench.in_pull_request()
    for method in ("POST", "PATCH"):
        bench.forge.on(method, "/api/v3/repos/acme/nst/", MADE)


def posted(bench: loopback.Bench) -> str:
    return str(bench.forge.asked[-1].json()["body"])


def page(bench: loopback.Bench, number: int, last: int, *comments: tuple[int, str]) -> loopback.Reply:
    url = f"{bench.forge.url}{ISSUE}"
    links = []
    if number < last:
        links = [f'<{url}?page={number + 1}>; rel="next"', f'<{url}?page={last}>; rel="last"']
    if number > 1:
        links.insert(0, f'<{url}?page={number - 1}>; rel="prev"')
    return reply(200, [{"id": id, "body": body} for id, body in comments], link=", ".join(links))


def test_update_finds_a_report_beyond_the_first_page_from_the_newest_on(bench: loopback.Bench) -> None:
    on_pull_request(bench)
    bench.forge.on("GET", f"{ISSUE}?page=4", page(bench, 4, 4, (401, "chatter")))
    bench.forge.on("GET", f"{ISSUE}?page=3", page(bench, 3, 4, (301, f"a {MARK}"), (302, f"b {MARK}"), (303, "x")))
    bench.forge.on("GET", ISSUE, page(bench, 1, 4, (101, f"oldest {MARK}")))
    assert bench.run("cml", "comment", "update", "report.md") == 0
    assert bench.forge.lines[1:] == [
        f"GET {ISSUE}",
        f"GET {ISSUE}?page=4",
        f"GET {ISSUE}?page=3",
        "PATCH /api/v3/repos/acme/nst/issues/comments/302",
    ]


def test_update_takes_the_first_page_when_later_ones_have_no_report(bench: loopback.Bench) -> None:
    on_pull_request(bench)
    bench.forge.on("GET", f"{ISSUE}?page=2", page(bench, 2, 2, (201, "chatter")))
    bench.forge.on("GET", ISSUE, page(bench, 1, 2, (101, f"one {MARK}"), (102, f"two {MARK}"), (103, "x")))
    assert bench.run("cml", "comment", "update", "report.md") == 0
    assert bench.forge.lines[-1] == "PATCH /api/v3/repos/acme/nst/issues/comments/102"


def test_update_posts_when_no_comment_has_the_same_title(bench: loopback.Bench) -> None:
    on_pull_request(bench)
    other = MARK.replace("CML watermark", "CML watermark other")
    bench.forge.on("GET", ISSUE, page(bench, 1, 1, (101, other), (102, "hello")))
    assert bench.run("cml", "comment", "update", "report.md") == 0
    assert bench.forge.lines[-1] == f"POST {ISSUE}"


def test_a_forge_cannot_send_the_token_to_another_server_by_its_page_links(bench: loopback.Bench) -> None:
    on_pull_request(bench)
    with loopback.Server().running() as other:
        bench.forge.on("GET", ISSUE, reply(200, [], link=f'<{other.url}/steal>; rel="next"'))
        assert bench.run("cml", "comment", "update", "report.md") == 1
        assert other.asked == []
    assert "points to another server" in bench.err


def test_gitlab_update_looks_at_later_pages_too(bench: loopback.Bench) -> None:
    bench.on_gitlab(CI_MERGE_REQUEST_IID="3")
    notes = "/api/v4/projects/acme%2Fnst/merge_requests/3/notes"
    bench.forge.on("GET", f"{notes}?page=2", reply(200, [{"id": 9, "body": MARK}, {"id": 8, "body": MARK}]))
    bench.forge.on("GET", notes, reply(200, [{"id": 20, "body": "chatter"}], x_next_page="2"))
    bench.forge.on("PUT", notes, reply(200, {"id": 9}))
    assert bench.run("cml", "comment", "update", "report.md") == 0
    assert bench.forge.lines[-1] == f"PUT {notes}/9"


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("pr/7", "issues/7/comments"),
        ("issue/9", "issues/9/comments"),
        ("commit/abc123", "commits/abc123/comments"),
        ("commit", f"commits/{SHA}/comments"),
        ("PR/7", "issues/7/comments"),
    ],
)
def test_a_target_may_be_named(bench: loopback.Bench, target: str, path: str) -> None:
    on_pull_request(bench)
    assert bench.run("cml", "comment", "create", f"--target={target}", "report.md") == 0
    assert bench.forge.lines[1:] == [f"POST /api/v3/repos/acme/nst/{path}"]


def test_without_a_pull_request_the_commit_is_commented(bench: loopback.Bench) -> None:
    bench.on_github()
    bench.forge.on("GET", f"/api/v3/repos/acme/nst/commits/{SHA}/pulls", reply(200, []))
    bench.forge.on("POST", f"/api/v3/repos/acme/nst/commits/{SHA}/comments", MADE)
    assert bench.run("cml", "comment", "create", "report.md") == 0
    assert bench.out == "https://forge.example/c/1\n"


def test_target_pr_without_a_pull_request_fails(bench: loopback.Bench) -> None:
    bench.on_github()
    bench.forge.on("GET", f"/api/v3/repos/acme/nst/commits/{SHA}/pulls", reply(200, []))
    assert bench.run("cml", "comment", "create", "--target=pr", "report.md") == 1
    assert f"no open pull request has the commit {SHA}" in bench.err
    assert bench.out == ""


@pytest.mark.parametrize("target", ["nothing", "issue", "issue/", "user/5"])
def test_a_target_that_is_none_fails_before_anything_is_posted(bench: loopback.Bench, target: str) -> None:
    on_pull_request(bench)
    assert bench.run("cml", "comment", "create", f"--target={target}", "report.md") == 1
    assert "is not a valid target" in bench.err
    assert [asked.method for asked in bench.forge.asked] == ["GET"]


def test_old_target_flags_warn_on_the_run_page(bench: loopback.Bench) -> None:
    on_pull_request(bench)
    assert bench.run("cml", "send-comment", "--head-sha=abc", "report.md") == 0
    assert bench.err.splitlines() == [
        '::warning::"cml send-comment" is deprecated, please use "cml comment create"',
        '::warning::Deprecation warning: use --target="commit/<sha>" instead of --commit-sha=<sha>',
    ]
    assert "watermark.png#abc " in posted(bench)


def test_local_files_of_every_kind_are_published_and_the_rest_is_left_as_it_is(bench: loopback.Bench) -> None:
    on_pull_request(bench)
    bench.write("docs/data.csv", "a,b\n")
    bench.write("my plot.png", PNG)
    bench.uuids = ["u1", "u2", "u3", "u4"]
    embedded = base64.b64encode(PNG).decode()
    bench.write(
        "docs/report.md",
        "# R\n\n![p](../plots/out.png 'keep')\n[d](data.csv)\n![s](../my%20plot.png)\n\n"
        f"![e](data:image/png;base64,{embedded})\n\n"
        "![gone](gone.png) [dir](.) [up](#top) <img src='../plots/out.png'>\n`![](../plots/out.png)`\n",
    )
    assert bench.run("cml", "comment", "create", "docs/report.md") == 0
    asset = "https://asset.example/1"
    assert posted(bench) == (
        f"# R\n\n![p]({asset}?cml=png&cache-bypass=u1 'keep')\n[d]({asset}?cml=csv&cache-bypass=u2)\n"
        f"![s]({asset}?cml=png&cache-bypass=u3)\n\n![e]({asset}?cml=png&cache-bypass=u4)\n\n"
        "![gone](gone.png) [dir](.) [up](#top) <img src='../plots/out.png'>\n`![](../plots/out.png)`"
        f"\n\n{MARK}\n"
    )
    assert "image not found, left as it is: gone.png" in bench.err
    seen = [(asked.headers["content-type"], asked.headers["content-disposition"]) for asked in bench.store.asked]
    assert seen == [
        ("image/png", 'inline; filename="out.png"'),
        ("text/csv", 'inline; filename="data.csv"'),
        ("image/png", 'inline; filename="my plot.png"'),
        ("image/png", 'inline; filename="file.png"'),
    ]
    assert bench.store.asked[3].body == PNG
    assert all("authorization" not in asked.headers for asked in bench.store.asked)


def test_publish_false_uploads_nothing_and_changes_nothing(bench: loopback.Bench) -> None:
    on_pull_request(bench)
    bench.write("report.md", "![](plots/out.png)\n")
    assert bench.run("cml", "comment", "create", "--publish=false", "report.md") == 0
    assert bench.store.asked == []
    assert posted(bench) == f"![](plots/out.png)\n\n\n{MARK}"


def test_no_store_is_ever_assumed_on_github(bench: loopback.Bench) -> None:
    on_pull_request(bench)
    del bench.env["CML_ASSET_URL"]
    bench.write("report.md", "![](plots/out.png)\n")
    assert bench.run("cml", "comment", "create", "report.md") == 1
    assert "out.png must be uploaded" in bench.err
    assert "set CML_ASSET_URL" in bench.err
    assert [asked.method for asked in bench.forge.asked] == ["GET"]


def test_a_report_without_files_needs_no_store(bench: loopback.Bench) -> None:
    on_pull_request(bench)
    del bench.env["CML_ASSET_URL"]
    assert bench.run("cml", "comment", "create", "report.md") == 0


def test_gitlab_keeps_the_files_itself_when_no_store_is_set(bench: loopback.Bench) -> None:
    bench.on_gitlab(CI_MERGE_REQUEST_IID="3")
    project = "/api/v4/projects/acme%2Fnst"
    bench.forge.on("POST", f"{project}/uploads", reply(201, {"url": "/uploads/ab/out.png"}))
    bench.forge.on("POST", f"{project}/merge_requests/3/notes", reply(201, {"id": 5}))
    bench.write("report.md", "![p](plots/out.png) ~*é\n")
    assert bench.run("cml", "comment", "create", "report.md") == 0
    sent = bench.forge.asked[-1].body.decode()
    assert sent.startswith("body=%21%5Bp%5D%28%2Fuploads%2Fab%2Fout.png%29+%7E*%C3%A9%0A%0A%21")


def test_a_report_with_many_links_probes_gitlab_a_bounded_number_of_times(bench: loopback.Bench) -> None:
    bench.on_gitlab(CI_MERGE_REQUEST_IID="3")
    bench.forge.on("POST", "/api/v4/projects/acme%2Fnst/merge_requests/3/notes", reply(201, {"id": 5}))
    bench.write("report.md", "[x](https://example.com)\n" * 300)
    assert bench.run("cml", "comment", "create", "report.md") == 0
    assert len(bench.forge.asked) < 25


def test_a_gitlab_under_a_path_is_found(bench: loopback.Bench) -> None:
    bench.on_gitlab(CI_MERGE_REQUEST_IID="3", CML_REPO=f"{bench.forge.url}/git/lab/ml/deep/nst")
    bench.forge.rules.clear()
    bench.forge.on("GET", "/git/lab/api/v4/version", reply(200, {"version": "18.6.0"}))
    bench.forge.on("POST", "/git/lab/api/v4/projects/ml%2Fdeep%2Fnst/merge_requests/3/notes", reply(201, {"id": 5}))
    assert bench.run("cml", "comment", "create", "report.md") == 0
    assert bench.out == f"{bench.forge.url}/git/lab/ml/deep/nst/-/merge_requests/3#note_5\n"


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (401, {"message": "Bad credentials"}, "the token is wrong or has expired"),
        (403, {"message": "Resource not accessible by integration"}, "pull-requests: write"),
        (404, {"message": "Not Found"}, "check --repo and --target"),
        (422, {"message": "body is too long"}, "at most 65536 characters"),
        (500, {"message": "oops"}, "run this again later"),
    ],
)
def test_a_refusal_is_told_with_status_place_answer_and_remedy(
    bench: loopback.Bench, status: int, body: object, said: str
) -> None:
    bench.on_github()
    bench.in_pull_request()
    bench.forge.on("POST", ISSUE, reply(status, body))
    assert bench.run("cml", "comment", "create", "report.md") == 1
    assert f"POST {bench.forge.url}{ISSUE} was answered with {status}" in bench.err
    assert json.dumps(body) in bench.err
    assert said in bench.err
    assert bench.out == ""


def test_no_token_is_printed_even_if_the_forge_repeats_it(bench: loopback.Bench) -> None:
    bench.on_github(REPO_TOKEN="ghp_verysecret", CML_COMMENT_LOG="debug")
    bench.in_pull_request()
    bench.forge.on("POST", ISSUE, reply(401, "no such token: ghp_verysecret"))
    assert bench.run("cml", "comment", "create", "report.md") == 1
    assert "no such token: ***" in bench.err
    assert "ghp_verysecret" not in bench.err + bench.out


def test_the_secret_path_of_the_store_is_not_printed(bench: loopback.Bench) -> None:
    on_pull_request(bench)
    bench.env.update(CML_ASSET_URL=f"{bench.store.url}/put/unguessable", CML_COMMENT_LOG="debug")
    bench.store.rules.clear()
    bench.store.on("POST", "/put/unguessable", reply(413, "too large"))
    bench.write("report.md", "![](plots/out.png)\n")
    assert bench.run("cml", "comment", "create", "report.md") == 1
    assert f"the asset store at {bench.store.url} did not take out.png: 413 too large" in bench.err
    assert "unguessable" not in bench.err


@pytest.mark.parametrize("answer", ["", "<html>oops</html>"])
def test_a_store_that_answers_no_url_fails_the_command(bench: loopback.Bench, answer: str) -> None:
    on_pull_request(bench)
    bench.store.rules.clear()
    bench.store.on("POST", "/", reply(200, answer))
    bench.write("report.md", "![](plots/out.png)\n")
    assert bench.run("cml", "comment", "create", "report.md") == 1
    assert "did not take out.png" in bench.err


def test_the_first_question_may_fail_without_harm(bench: loopback.Bench) -> None:
    on_pull_request(bench)
    bench.forge.rules.insert(0, ("GET", "/api/v3/users/", [None]))
    assert bench.run("cml", "comment", "create", "report.md") == 0
    assert bench.slept == []


def test_a_report_that_is_missing_or_binary_is_named(bench: loopback.Bench) -> None:
    on_pull_request(bench)
    assert bench.run("cml", "comment", "create", "gone.md") == 1
    assert f"the report {bench.directory / 'gone.md'} cannot be read: No such file" in bench.err
    assert bench.run("cml", "comment", "create", "plots/out.png") == 1
    assert "it is not UTF-8 text" in bench.err


def test_without_watermark_nothing_is_appended_and_updates_are_refused(bench: loopback.Bench) -> None:
    on_pull_request(bench)
    assert bench.run("cml", "comment", "create", "--rm-watermark", "--publish=false", "report.md") == 0
    assert posted(bench) == "# Report\n"
    assert bench.run("cml", "comment", "update", "--rm-watermark", "report.md") == 1


def test_watch_posts_on_the_first_change_and_updates_on_the_next(bench: loopback.Bench) -> None:
    on_pull_request(bench)
    bench.write("report.md", "start ![](plots/out.png)\n")
    bench.forge.on("GET", ISSUE, page(bench, 1, 1, (101, MARK)))
    changes = {2: ("report.md", b"first, longer ![](plots/out.png)\n"), 8: ("plots/out.png", PNG + b"changed")}

    def step(count: int) -> None:
        if count in changes:
            bench.write(*changes[count])
        if count == 14:
            raise KeyboardInterrupt

    bench.on_sleep = step
    assert bench.run("cml", "comment", "create", "--watch", "report.md") == 1
    comments = [asked.line for asked in bench.forge.asked if asked.method != "GET"]
    assert comments == [f"POST {ISSUE}", "PATCH /api/v3/repos/acme/nst/issues/comments/101"]
    assert bench.out.count("https://forge.example/c/1") == 2
    assert [len(asked.body) for asked in bench.store.asked] == [len(PNG), len(PNG) + 7]


def test_watch_with_a_trigger_file_posts_when_it_appears_and_removes_it(bench: loopback.Bench) -> None:
    on_pull_request(bench)

    def step(count: int) -> None:
        if count == 1:
            bench.write("report.md", "changed before the trigger\n")
        if count == 4:
            bench.write("go", "")
        if count == 9:
            raise KeyboardInterrupt

    bench.on_sleep = step
    bench.run("cml", "comment", "create", "--watch", "--trigger-file", "go", "report.md")
    assert [asked.line for asked in bench.forge.asked if asked.method == "POST"] == [f"POST {ISSUE}"]
    assert not (bench.directory / "go").exists()


def test_watch_outlives_a_failure(bench: loopback.Bench) -> None:
    on_pull_request(bench)
    bench.forge.rules = [("POST", ISSUE, [reply(422, "no"), MADE])]

    def step(count: int) -> None:
        if count in (1, 6):
            bench.write("report.md", "x" * (count + 20))
        if count == 12:
            raise KeyboardInterrupt

    bench.on_sleep = step
    bench.run("cml", "comment", "create", "--watch", "report.md")
    assert "was answered with 422" in bench.err
    assert bench.forge.lines[-1] == f"POST {ISSUE}"
    assert bench.out == "https://forge.example/c/1\n"


@pytest.mark.parametrize("answer", [{"message": "odd"}, [None], "null", "<html>"])
def test_an_answer_of_an_unexpected_shape_is_a_sentence_and_no_trace(bench: loopback.Bench, answer: object) -> None:
    bench.on_github()
    bench.forge.on("GET", f"/api/v3/repos/acme/nst/commits/{SHA}/pulls", reply(200, answer))
    assert bench.run("cml", "comment", "create", "report.md") == 1
    assert bench.err.startswith("cml: error: ")
    assert "Traceback" not in bench.err


def test_line_ends_are_kept_as_the_author_wrote_them(bench: loopback.Bench) -> None:
    on_pull_request(bench)
    bench.write("report.md", b"\xef\xbb\xbf# R\r\n\r\n![](plots/out.png)\r\n")
    assert bench.run("cml", "comment", "create", "report.md") == 0
    assert posted(bench).startswith("# R\r\n\r\n![](https://asset.example/1?")


def test_watch_waits_until_a_file_is_written_to_its_end(bench: loopback.Bench) -> None:
    on_pull_request(bench)

    def step(count: int) -> None:
        if 2 <= count <= 6:
            bench.write("report.md", "x" * (count + 20))
        if count == 12:
            raise KeyboardInterrupt

    bench.on_sleep = step
    bench.run("cml", "comment", "create", "--watch", "--rm-watermark", "--publish=false", "report.md")
    assert [asked.json()["body"] for asked in bench.forge.asked if asked.method == "POST"] == ["x" * 26]
