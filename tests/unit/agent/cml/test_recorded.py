"""The built-in cml sends what upstream was recorded to send: method, path, body, and the headers that matter."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import re
import typing

import pytest

from tests.unit.agent.cml import loopback
from tests.unit.agent.cml.loopback import MARK, PNG, SHA, reply

RECORDED: dict[str, list[dict[str, typing.Any]]] = json.loads(
    (pathlib.Path(__file__).parent / "fixtures" / "cml_recorded.json").read_text(encoding="utf-8")
)["requests"]

PLAIN = "# plain\nacc: 0.9\n"
WITH_IMAGE = "# Style transfer\n\n![compare](./out.png)\n[remote](https://example.com/x.png)\n"


@dataclasses.dataclass(frozen=True)
class Case:
    """One recorded command: what was typed, and what it printed."""

    argv: str
    prints: str
    in_pull_request: bool = False
    env: tuple[tuple[str, str], ...] = ()
    code: int = 0


PR_URL = "https://forge.example/acme/nst/pull/5#issuecomment-1"
CASES = {
    "github-create-in-pull-request": Case("cml comment create --publish=false plain.md", PR_URL, True),
    "github-create-on-push": Case("cml comment create --no-publish plain.md", PR_URL),
    "github-native-is-refused": Case("cml comment create --native report.md", "", True, code=1),
    "github-create-on-commit": Case(f"cml comment create --publish false --target=commit/{SHA} plain.md", PR_URL),
    "github-create-on-issue-with-title": Case(
        "cml comment create --publish=false --target issue/9 --watermark-title {TITLE} plain.md", PR_URL
    ),
    "github-create-with-image": Case("cml comment create report.md", PR_URL, env=(("CML_COMMENT_PUBLISH_URL", "URL"),)),
    "github-update-with-image": Case("cml comment update --publish-url {URL} report.md", PR_URL),
    "github-create-in-pull-request-again": Case("cml comment create --publish=false plain.md", PR_URL, True),
    "github-create-pr-flag": Case("cml comment create --publish=false --pr plain.md", PR_URL),
    "github-publish-md": Case("cml publish --url={URL} --md --title compare out.png", '![]({ASSET} "compare")'),
    "github-send-comment": Case("cml-send-comment --publish=false plain.md", PR_URL),
    "github-legacy-publish": Case("cml-publish out.png --md", "![]({ASSET})", env=(("CML_PUBLISH_URL", "URL"),)),
    "github-create-with-image-from-environment": Case(
        "cml comment create report.md", PR_URL, env=(("CML_ASSET_URL", "URL"),)
    ),
    "github-asset-publish": Case("cml asset publish out.png", "{ASSET}", env=(("CML_ASSET_URL", "URL"),)),
    "gitlab-create-native": Case("cml comment create --native report.md", "{REPO}/-/merge_requests/3#note_116"),
    "gitlab-update": Case("cml comment update --publish=false plain.md", "{REPO}/-/merge_requests/3#note_116"),
    "gitlab-create-in-merge-request": Case(
        "cml comment create --publish=false plain.md",
        "{REPO}/-/merge_requests/3#note_116",
        env=(("CI_MERGE_REQUEST_IID", "3"),),
    ),
    "gitlab-create-on-commit": Case(
        "cml comment create --publish=false --target=commit plain.md", "{REPO}/-/commit/" + SHA
    ),
    "gitlab-commit-update-is-refused": Case("cml comment update --publish=false --target=commit plain.md", "", code=1),
    "gitlab-publish-uploads": Case("cml publish --gitlab-uploads out.png", "/uploads/0123abcd/out.png"),
    "gitlab-create-on-issue": Case(
        "cml comment create --publish=false --target=issue/4 plain.md", "{REPO}/-/issues/4#note_116"
    ),
}


def test_every_recorded_case_is_replayed() -> None:
    assert set(CASES) == set(RECORDED)


@pytest.mark.parametrize("name", CASES)
def test_requests_equal_the_recorded_ones(name: str, tmp_path: pathlib.Path) -> None:
    case, recorded = CASES[name], RECORDED[name]
    with loopback.bench(tmp_path) as bench:
        bench.write("plain.md", PLAIN)
        bench.write("report.md", WITH_IMAGE)
        bench.write("out.png", PNG)
        (bench.on_github if name.startswith("github") else bench.on_gitlab)()
        if case.in_pull_request:
            bench.in_pull_request()
        asset = "https://asset.example/107"
        for request in recorded:
            published = re.search(
                r"(https://asset\.example/\d+)\?cml=png&cache-bypass=([0-9a-f-]{36})", request["body"]
            )
            if published:
                asset = published.group(1)
                bench.uuids.append(published.group(2))
        _serve(bench, asset)
        # The recorded watermark says "w train 900" for the workflow train and the run 900.
        blanks = {"{URL}": bench.store.url, "{TITLE}": "w {workflow} {run}"}
        words = [_fill(word, blanks) for word in case.argv.split()]
        bench.env.update({key: _fill(value, {"URL": bench.store.url}) for key, value in case.env})

        code = bench.run(*words)

        assert code == case.code, bench.err
        for server, asked in (("forge", bench.forge.asked), ("store", bench.store.asked)):
            expected = [request for request in recorded if request["server"] == server]
            assert [_seen(each) for each in asked] == [_told(each) for each in expected]
        printed = f"{asset}?cml=png&cache-bypass=00000000-0000-4000-8000-000000000000"
        assert bench.out.strip() == _fill(case.prints, {"{REPO}": bench.repo, "{ASSET}": printed})


def _serve(bench: loopback.Bench, asset: str) -> None:
    forge, store = bench.forge, bench.store
    store.on("POST", "/", reply(200, asset + "\n"))
    pull = {"html_url": "https://forge.example/acme/nst/pull/5", "head": {"ref": "exp"}, "base": {"ref": "main"}}
    forge.on("GET", f"/api/v3/repos/acme/nst/commits/{SHA}/pulls", reply(200, [pull]))
    forge.on(
        "GET",
        "/api/v3/repos/acme/nst/issues/5/comments",
        reply(200, [{"id": 107, "body": "hello"}, {"id": 108, "body": f"old\n\n{MARK}\n"}, {"id": 109, "body": None}]),
    )
    for method in ("POST", "PATCH"):
        forge.on(method, "/api/v3/repos/", reply(201, {"html_url": PR_URL, "id": 1}))
    merge = {"state": "opened", "web_url": "https://x/acme/nst/-/merge_requests/3"}
    closed = {"state": "closed", "web_url": "https://x/acme/nst/-/merge_requests/2"}
    project = "/api/v4/projects/acme%2Fnst"
    forge.on("GET", f"{project}/repository/commits/{SHA}/merge_requests", reply(200, [closed, merge]))
    forge.on("GET", f"{project}/repository/commits/{SHA}/comments", reply(200, [{"note": f"old\n\n{MARK}"}]))
    forge.on("GET", f"{project}/merge_requests/3/notes", reply(200, [{"id": 116, "body": f"old\n\n{MARK}"}]))
    forge.on("POST", f"{project}/uploads", reply(201, {"url": "/uploads/0123abcd/out.png"}))
    for method in ("POST", "PUT"):
        forge.on(method, project, reply(201, {"id": 116}))


def _fill(text: str, blanks: dict[str, str]) -> str:
    for blank, value in blanks.items():
        text = text.replace(blank, value)
    return text


#: Headers that are compared; the boundary of an upload is made up each time.
_COMPARED = ("accept", "authorization", "private-token", "content-type", "content-disposition")


def _normal(text: str) -> str:
    return re.sub(r"-{26}[0-9a-f]{24}", "<boundary>", text)


def _told(request: dict[str, typing.Any]) -> tuple[str, str, dict[str, str], str]:
    headers = {name: _normal(value) for name, value in request["headers"].items()}
    return request["method"], request["path"], headers, _normal(request["body"])


def _seen(asked: loopback.Asked) -> tuple[str, str, dict[str, str], str]:
    headers = {name: _normal(asked.headers[name]) for name in _COMPARED if name in asked.headers}
    if "multipart" in headers.get("content-type", ""):
        assert PNG in asked.body
        body = asked.body.replace(PNG, b"<file>").decode()
    elif headers.get("content-type") == "image/png":
        assert asked.body == PNG
        assert asked.headers["content-length"] == "70"
        body = f"<{len(asked.body)} bytes>"
    else:
        body = asked.body.decode()
    return asked.method, asked.path, headers, _normal(body)


def test_a_wrong_byte_in_a_body_is_noticed(tmp_path: pathlib.Path) -> None:
    with loopback.bench(tmp_path) as bench:
        bench.write("plain.md", PLAIN.replace("0.9", "0.8"))
        bench.on_github()
        bench.in_pull_request()
        _serve(bench, "https://asset.example/1")
        assert bench.run("cml", "comment", "create", "--publish=false", "plain.md") == 0
        recorded = RECORDED["github-create-in-pull-request"]
        seen = [_seen(each) for each in bench.forge.asked]
        assert seen[0] == _told(recorded[0])
        assert seen[1] != _told(recorded[1])
