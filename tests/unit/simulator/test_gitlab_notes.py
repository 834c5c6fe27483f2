from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.unit.simulator import gitlab_lab

NOTES = "/projects/acme%2Fml/merge_requests/1/notes"
FORM = {"Content-Type": "application/x-www-form-urlencoded;charset=UTF-8"}


@pytest.fixture
def lab() -> Iterator[gitlab_lab.Lab]:
    with gitlab_lab.Lab() as made:
        made.queue("gpu")
        yield made


def token(lab: gitlab_lab.Lab, user: str, level: int) -> str:
    data = {"user": user, "scopes": ["api"], "access_level": level}
    return str(lab.send("POST", "/_sim/gitlab/tokens", data).json()["token"])


def test_a_report_is_posted_found_and_updated_the_way_cml_does_it(lab: gitlab_lab.Lab) -> None:
    sha = lab.get("/projects/acme%2Fml/pipelines")[0]["sha"]
    [request] = lab.get(f"/projects/acme%2Fml/repository/commits/{sha}/merge_requests")
    assert request["state"] == "opened" and request["web_url"].endswith("/acme/ml/-/merge_requests/1")
    made = lab.send("POST", NOTES, headers=FORM, body=b"body=%23+Report%0Aacc%3A+0.9%0A")
    assert made.status == 201 and made.json()["body"] == "# Report\nacc: 0.9\n"
    lab.wait(5)
    [found] = lab.get(NOTES)
    updated = lab.send("PUT", f"{NOTES}/{found['id']}", headers=FORM, body=b"body=better")
    assert updated.json()["body"] == "better" and updated.json()["updated_at"] > found["updated_at"]
    state = lab.send("GET", "/_sim/state").json()
    assert [(one["target"], one["body"]) for one in state["comments"]] == [("pull/1", "better")]
    assert lab.send("DELETE", f"{NOTES}/{found['id']}").status == 204
    assert lab.get(NOTES) == []


def test_notes_are_listed_newest_first(lab: gitlab_lab.Lab) -> None:
    for number in range(3):
        lab.send("POST", NOTES, {"body": str(number)})
        lab.wait(1)
    assert [one["body"] for one in lab.get(NOTES)] == ["2", "1", "0"]
    assert [one["body"] for one in lab.get(NOTES + "?sort=asc&order_by=updated_at")] == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        pytest.param({}, "body is missing", id="missing"),
        pytest.param({"body": " "}, "can't be blank", id="blank"),
        pytest.param({"body": "x" * 1_000_001}, "maximum is 1000000 characters", id="too-long"),
    ],
)
def test_what_a_note_refuses(lab: gitlab_lab.Lab, body: dict[str, str], words: str) -> None:
    response = lab.send("POST", NOTES, body)
    assert response.status == 400 and words in response.text


def test_notes_need_their_place(lab: gitlab_lab.Lab) -> None:
    assert lab.send("POST", "/projects/acme%2Fml/merge_requests/7/notes", {"body": "x"}).status == 404
    assert lab.send("POST", "/projects/acme%2Fml/issues/4/notes", {"body": "x"}).status == 404
    lab.send("POST", "/projects/acme%2Fml/issues", {"title": "T", "iid": 4})
    assert lab.send("POST", "/projects/acme%2Fml/issues/4/notes", {"body": "x"}).status == 201
    first = lab.get("/projects/acme%2Fml/issues/4/notes")[0]["id"]
    assert lab.send("PUT", f"{NOTES}/{first}", {"body": "y"}).status == 404


def test_a_note_is_edited_by_its_author_or_a_maintainer(lab: gitlab_lab.Lab) -> None:
    one, two, chief = token(lab, "one", 30), token(lab, "two", 30), token(lab, "chief", 40)
    note = lab.send("POST", NOTES, {"body": "mine"}, token=one).json()["id"]
    answers = [lab.send("PUT", f"{NOTES}/{note}", {"body": "x"}, token=who).status for who in (two, one, chief)]
    assert answers == [403, 200, 200]


def test_sixty_notes_a_minute(lab: gitlab_lab.Lab) -> None:
    answers = [lab.send("POST", NOTES, {"body": "x"}).status for _ in range(61)]
    assert answers == [201] * 60 + [429]
    assert lab.send("GET", NOTES).status == 200


def test_the_job_token_cannot_write_anything(lab: gitlab_lab.Lab) -> None:
    payload = lab.ask(lab.runner("gpu")["token"]).json()
    lab.put(payload, "running")
    for headers in ({"JOB-TOKEN": payload["token"]}, {"PRIVATE-TOKEN": payload["token"]}):
        assert lab.send("POST", NOTES, {"body": "x"}, token=None, headers=headers).status == 401
    own = lab.send("GET", "/job", token=None, headers={"JOB-TOKEN": payload["token"]})
    assert own.json()["id"] == payload["id"]


def test_commit_comments_cannot_be_edited(lab: gitlab_lab.Lab) -> None:
    path = f"/projects/acme%2Fml/repository/commits/{'a' * 40}/comments"
    made = lab.send("POST", path, headers=FORM, body=b"note=hello")
    assert made.status == 201 and made.json()["note"] == "hello" and "id" not in made.json()
    assert len(lab.get(path)) == 1
    assert lab.send("PUT", path + "/1", {"note": "x"}).status == 404
    assert lab.send("POST", path.replace("a" * 40, "nope"), {"note": "x"}).status == 404


def test_commit_statuses_change_but_do_not_repeat(lab: gitlab_lab.Lab) -> None:
    path = f"/projects/acme%2Fml/statuses/{'b' * 40}"
    assert lab.send("POST", path, {"state": "running", "name": "gpu"}).status == 201
    assert lab.send("POST", path, {"state": "running", "name": "gpu"}).status == 400
    assert lab.send("POST", path, {"state": "success", "name": "gpu"}).json()["status"] == "success"
    assert lab.send("POST", path, {"state": "good"}).status == 400
    [shown] = lab.get(f"/projects/acme%2Fml/repository/commits/{'b' * 40}/statuses")
    assert shown["status"] == "success"


def test_a_merge_request_is_created_once_and_merged(lab: gitlab_lab.Lab) -> None:
    path = "/projects/acme%2Fml/merge_requests"
    data = {"source_branch": "f", "target_branch": "main", "title": "T"}
    made = lab.send("POST", path, data)
    assert made.status == 201 and made.json()["iid"] == 2
    assert lab.send("POST", path, data).status == 409
    assert lab.send("PUT", f"{path}/2/merge").json()["state"] == "merged"
    assert lab.send("PUT", f"{path}/2/merge").status == 405
    assert [one["iid"] for one in lab.get(path + "?state=opened")] == [1]


def multipart(name: str, filename: str | None, data: bytes) -> tuple[dict[str, str], bytes]:
    line = "----------------------------644108583528745046840525"
    disposition = f'form-data; name="{name}"' + (f'; filename="{filename}"' if filename else "")
    head = f"--{line}\r\nContent-Disposition: {disposition}\r\nContent-Type: image/png\r\n\r\n"
    return {
        "Content-Type": f"multipart/form-data;boundary={line}"
    }, head.encode() + data + f"\r\n--{line}--\r\n".encode()


def test_an_upload_keeps_every_byte_and_is_served(lab: gitlab_lab.Lab) -> None:
    png = b"\x89PNG\r\n\x1a\n\x00\x00\r\n--\xff\xfe" + bytes(range(256))
    headers, body = multipart("file", "confusion matrix.png", png)
    response = lab.send("POST", "/projects/acme%2Fml/uploads", headers=headers, body=body)
    made = response.json()
    assert response.status == 201 and made["url"].startswith("/uploads/") and len(made["url"].split("/")[2]) == 32
    assert made["alt"] == "confusion_matrix" and made["markdown"] == f"![confusion_matrix]({made['url']})"
    assert made["full_path"] == f"/-/project/{lab.project_id()}{made['url']}"
    for address in (made["full_path"], made["url"]):
        served = lab.send("GET", address, token=None)
        assert served.body == png and served.headers["Content-Type"] == "image/png"
    assert lab.send("GET", made["full_path"].replace(made["url"].split("/")[2], "0" * 32), token=None).status == 404
    assert lab.send("DELETE", f"/projects/acme%2Fml/uploads/{made['id']}").status == 204
    assert lab.send("GET", made["url"], token=None).status == 404


def test_an_upload_needs_a_file_and_a_token(lab: gitlab_lab.Lab) -> None:
    path = "/projects/acme%2Fml/uploads"
    headers, body = multipart("other", "x.png", b"x")
    assert lab.send("POST", path, headers=headers, body=body).json() == {"error": "file is missing"}
    headers, body = multipart("file", None, b"x")
    assert lab.send("POST", path, headers=headers, body=body).json() == {"error": "file is invalid"}
    headers, body = multipart("file", "x.png", b"x")
    assert lab.send("POST", path, headers=headers, body=body, token=None).status == 401


def test_a_hostile_filename_stays_a_name(lab: gitlab_lab.Lab) -> None:
    headers, body = multipart("file", "../../etc/pass wd.html", b"<script>")
    made = lab.send("POST", "/projects/acme%2Fml/uploads", headers=headers, body=body).json()
    assert made["url"].endswith("/pass_wd.html") and made["markdown"].startswith("[pass_wd.html]")
    served = lab.send("GET", made["url"], token=None)
    assert served.headers["Content-Disposition"] == "attachment"


def test_bodies_that_cannot_be_read_are_refused(lab: gitlab_lab.Lab) -> None:
    json = {"Content-Type": "application/json"}
    assert lab.send("POST", NOTES, headers=json, body=b"{").status == 400
    assert lab.send("POST", NOTES, headers=json, body=b"[]").status == 400
    assert lab.send("POST", NOTES, headers={"Content-Type": "text/xml"}, body=b"<a/>").status == 415
