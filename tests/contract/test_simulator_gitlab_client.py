"""The served simulator, used through python-gitlab: a client that none of us wrote."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gitlab
import pytest


class Forge:
    """A simulator process with a python-gitlab client for it."""

    def __init__(self, url: str, token: str) -> None:
        self.url = url
        self.client = gitlab.Gitlab(url, private_token=token, per_page=100)

    def control(self, method: str, path: str, data: Any) -> Any:
        body = json.dumps(data).encode()
        request = urllib.request.Request(self.url + path, body, {"Content-Type": "application/json"}, method=method)
        with urllib.request.urlopen(request, timeout=10) as response:
            raw = response.read()
        return json.loads(raw) if raw else None

    def queue(self, repo: str, *labels: str, count: int = 1) -> list[int]:
        body = {"forge": "gitlab", "repo": repo, "labels": list(labels), "count": count}
        ids = self.control("POST", "/_sim/jobs", body)["ids"]
        assert isinstance(ids, list)
        return ids


@pytest.fixture(scope="module")
def forge() -> Iterator[Forge]:
    command = [sys.executable, "-m", "runnerd.simulator", "--listen", "127.0.0.1:0", "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    facts = json.loads(process.stdout.readline())
    made = Forge(facts["url"], facts["tokens"]["gitlab"]["token"])
    yield made
    made.client.session.close()
    process.terminate()
    assert process.wait(timeout=10) == 0
    process.stdout.close()


def test_the_projects_of_a_group_are_listed_with_its_subgroups(forge: Forge) -> None:
    names = {f"team{number}/sub/p" for number in range(3)} | {"team0/p"}
    for name in names:
        forge.queue(name, "gpu")
    group = forge.client.groups.get("team0")
    found = group.projects.list(include_subgroups=True, archived=False, get_all=True)
    assert {one.path_with_namespace for one in found} == {"team0/sub/p", "team0/p"}
    project = forge.client.projects.get("team0/sub/p")
    assert project.id in {one.id for one in found} and project.runners_token is None


def test_a_project_list_by_keyset_is_complete(forge: Forge) -> None:
    for number in range(7):
        forge.queue(f"many/p{number}", "gpu")
    found = forge.client.projects.list(pagination="keyset", order_by="id", sort="asc", per_page=2, get_all=True)
    ids = [one.id for one in found]
    assert ids == sorted(set(ids)) and len(ids) >= 7


@pytest.mark.parametrize("sort", ["asc", "desc"])
def test_pending_jobs_by_keyset_are_complete_and_in_order(forge: Forge, sort: str) -> None:
    ids = forge.queue(f"queue/{sort}", "gpu-t4", count=120)
    jobs = forge.client.projects.get(f"queue/{sort}").jobs
    found = jobs.list(scope=["pending"], pagination="keyset", order_by="id", sort=sort, per_page=50, iterator=True)
    listed = [(one.id, tuple(one.tag_list)) for one in found]
    assert listed == [(id, ("gpu-t4",)) for id in (ids if sort == "asc" else reversed(ids))]


def test_the_number_of_requests_shows_in_the_state(forge: Forge) -> None:
    forge.queue("count/p", "gpu", count=25)
    project = forge.client.projects.get("count/p")

    def asked() -> int:
        with urllib.request.urlopen(forge.url + "/_sim/state", timeout=10) as response:
            return int(json.load(response)["requests"].get("GET /api/v4/projects/{id}/jobs", 0))

    before = asked()
    assert len(project.jobs.list(scope=["pending"], per_page=10, get_all=True)) == 25
    assert asked() - before == 3


def test_a_runner_is_created_seen_drained_and_deleted(forge: Forge) -> None:
    forge.queue("fleet/p", "gpu")
    client = forge.client
    client.auth()
    assert client.user is not None
    group = client.groups.get("fleet")
    made = client.user.runners.create(
        {
            "runner_type": "group_type",
            "group_id": group.id,
            "tag_list": ["gpu-t4", "vm"],
            "run_untagged": False,
            "maximum_timeout": 3600,
            "description": "runnerd vm-1",
        }
    )
    assert made.token.startswith("glrt-")
    runner = client.runners.get(made.id)
    assert (runner.tag_list, runner.maximum_timeout, runner.status) == (["gpu-t4", "vm"], 3600, "never_contacted")
    assert [one.id for one in group.runners.list(get_all=True)] == [made.id]
    runner.paused = True
    runner.save()
    assert client.runners.get(made.id).paused is True
    assert runner.jobs.list(status="running", get_all=True) == []
    runner.delete()
    with pytest.raises(gitlab.GitlabGetError) as gone:
        client.runners.get(made.id)
    assert gone.value.response_code == 404


def test_a_refused_runner_says_why(forge: Forge) -> None:
    forge.client.auth()
    assert forge.client.user is not None
    with pytest.raises(gitlab.GitlabCreateError, match="runner_type does not have a valid value"):
        forge.client.user.runners.create({"runner_type": "best_type"})


def test_notes_on_a_merge_request_are_kept(forge: Forge) -> None:
    forge.queue("notes/p", "gpu")
    project = forge.client.projects.get("notes/p")
    [request] = project.mergerequests.list(state="opened", get_all=True)
    note = project.mergerequests.get(request.iid).notes.create({"body": "accuracy 0.9"})
    note.body = "accuracy 0.95"
    note.save()
    [found] = request.notes.list(get_all=True)
    assert (found.id, found.body) == (note.id, "accuracy 0.95")
    commit = project.commits.get(request.sha)
    assert [one["iid"] for one in commit.merge_requests()] == [request.iid]
    commit.comments.create({"note": "hello"})
    assert [one.note for one in commit.comments.list(get_all=True)] == ["hello"]
    commit.statuses.create({"state": "running", "name": "gpu"})
    note.delete()
    assert request.notes.list(get_all=True) == []


def test_an_upload_comes_back_byte_by_byte(forge: Forge, tmp_path: Path) -> None:
    forge.queue("files/p", "gpu")
    project = forge.client.projects.get("files/p")
    picture = tmp_path / "confusion matrix.png"
    picture.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 50)
    made: dict[str, Any] = project.upload("confusion matrix.png", filepath=str(picture))
    assert made["markdown"].startswith("![") and made["url"].startswith("/uploads/")
    with urllib.request.urlopen(forge.url + made["full_path"], timeout=10) as response:
        assert response.read() == picture.read_bytes()


def test_jobs_are_canceled_and_retried(forge: Forge) -> None:
    [id] = forge.queue("retry/p", "gpu")
    project = forge.client.projects.get("retry/p")
    job = project.jobs.get(id)
    with pytest.raises(gitlab.GitlabJobRetryError):
        job.retry()
    job.cancel()
    job.refresh()
    assert job.status == "canceled"
    again = job.retry()
    assert again["id"] != id and again["status"] == "pending"
    pipeline = project.pipelines.get(job.pipeline["id"])
    assert [one.id for one in pipeline.jobs.list(get_all=True)] == [again["id"]]
    pipeline.cancel()
    assert project.jobs.get(again["id"]).status == "canceled"
    assert project.jobs.get(again["id"]).trace() == b""


def test_project_hooks_are_managed(forge: Forge) -> None:
    forge.queue("hooks/p", "gpu")
    project = forge.client.projects.get("hooks/p")
    hook = project.hooks.create({"url": "http://127.0.0.1:9/", "job_events": True, "token": "hush"})
    assert [one.id for one in project.hooks.list(get_all=True)] == [hook.id]
    assert "hush" not in json.dumps(hook.attributes)
    hook.delete()
    assert project.hooks.list(get_all=True) == []


def test_a_wrong_token_and_a_wrong_project_are_told_as_gitlab_tells_them(forge: Forge) -> None:
    stranger = gitlab.Gitlab(forge.url, private_token="glpat-wrong")
    with pytest.raises(gitlab.GitlabAuthenticationError):
        stranger.auth()
    stranger.session.close()
    with pytest.raises(gitlab.GitlabGetError, match="404 Project Not Found"):
        forge.client.projects.get("nobody/nothing")


def test_the_client_obeys_the_rate_limit_it_is_told(forge: Forge) -> None:
    forge.queue("rate/p", "gpu")
    forge.control(
        "POST",
        "/_sim/faults",
        {
            "faults": [
                {
                    "forge": "gitlab",
                    "path": "/api/v4/projects/{id}/jobs",
                    "count": 1,
                    "status": 429,
                    "body": "Retry later",
                    "headers": {"Retry-After": "1"},
                }
            ]
        },
    )
    project = forge.client.projects.get("rate/p")
    assert len(project.jobs.list(scope=["pending"], get_all=True)) == 1
