from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.unit.simulator import gitlab_lab

HOOKS = "/projects/acme%2Fml/hooks"
SIGNING = "whsec_" + base64.b64encode(b"0123456789abcdef0123456789abcdef").decode()
#: keys of a Job Hook body as the documentation lists them
KEYS = {
    "object_kind",
    "ref",
    "tag",
    "before_sha",
    "sha",
    "retries_count",
    "build_id",
    "build_name",
    "build_stage",
    "build_status",
    "build_created_at",
    "build_started_at",
    "build_finished_at",
    "build_created_at_iso",
    "build_started_at_iso",
    "build_finished_at_iso",
    "build_duration",
    "build_queued_duration",
    "build_allow_failure",
    "build_failure_reason",
    "pipeline_id",
    "runner",
    "project_id",
    "project_name",
    "user",
    "commit",
    "repository",
    "project",
    "environment",
}


@pytest.fixture
def lab() -> Iterator[gitlab_lab.Lab]:
    with gitlab_lab.Lab() as made:
        yield made


def hook(lab: gitlab_lab.Lab, **values: Any) -> None:
    data = {"forge": "gitlab", "url": "http://runnerd.test/webhooks/gl", **values}
    assert lab.send("POST", "/_sim/hooks", data).status == 201


def bodies(lab: gitlab_lab.Lab) -> list[dict[str, Any]]:
    lab.wait(0.01)
    return [json.loads(body) for _, _, body in lab.delivered]


def test_each_change_of_a_job_is_told_without_its_tags(lab: gitlab_lab.Lab) -> None:
    hook(lab, secret="s3cret")
    _, payload = lab.running("gpu-t4", description="vm")
    lab.put(payload, "failed", failure_reason="script_failure")
    told = bodies(lab)
    assert [one["build_status"] for one in told] == ["pending", "running", "failed"]
    assert set(told[0]) == KEYS
    assert "gpu-t4" not in json.dumps(told[0]) and told[0]["runner"] is None
    assert told[1]["runner"]["tags"] == ["gpu-t4"]
    assert told[0]["build_failure_reason"] == "unknown_failure" and told[2]["build_failure_reason"] == "script_failure"
    assert told[0]["commit"]["id"] == told[0]["pipeline_id"]
    url, headers, _ = lab.delivered[0]
    assert url == "http://runnerd.test/webhooks/gl"
    assert (headers["X-Gitlab-Event"], headers["X-Gitlab-Token"]) == ("Job Hook", "s3cret")
    assert len({headers["Idempotency-Key"] for _, headers, _ in lab.delivered}) == 3


def test_a_signed_delivery_verifies(lab: gitlab_lab.Lab) -> None:
    hook(lab, signing_token=SIGNING)
    lab.queue("gpu")
    lab.wait(0.01)
    [(_, headers, body)] = lab.delivered
    assert headers["webhook-id"] == headers["Idempotency-Key"] and "X-Gitlab-Token" not in headers
    assert abs(int(headers["webhook-timestamp"]) - lab.world.now()) < 2
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    mac = hmac.new(b"0123456789abcdef0123456789abcdef", signed, hashlib.sha256).digest()
    assert headers["webhook-signature"] == "v1," + base64.b64encode(mac).decode()


def test_a_resend_is_the_same_event_again(lab: gitlab_lab.Lab) -> None:
    hook(lab)
    lab.queue("gpu")
    lab.wait(0.01)
    lab.gitlab.hooks.resend_last()
    lab.send("GET", "/version")
    lab.wait(0.01)
    one, two = lab.delivered
    assert one[2] == two[2] and one[1]["Idempotency-Key"] == two[1]["Idempotency-Key"]


def test_a_hook_hears_only_of_its_own_scope(lab: gitlab_lab.Lab) -> None:
    hook(lab, scope="acme/ml")
    lab.queue("gpu", repo="acme/other")
    lab.queue("gpu", repo="acme/ml")
    assert [one["project"]["path_with_namespace"] for one in bodies(lab)] == ["acme/ml"]


def test_a_hook_that_fails_four_times_rests_and_comes_back(lab: gitlab_lab.Lab) -> None:
    lab.queue("gpu")
    made = lab.send("POST", HOOKS, {"url": "http://runnerd.test/", "job_events": True}).json()
    lab.hook_status = 500
    for _ in range(4):
        lab.queue("gpu")
        lab.wait(1)
    assert len(lab.delivered) == 4
    assert lab.get(f"{HOOKS}/{made['id']}")["alert_status"] == "temporarily_disabled"
    lab.queue("gpu")
    lab.wait(1)
    assert len(lab.delivered) == 4
    lab.hook_status = 200
    lab.wait(60)
    lab.queue("gpu")
    lab.wait(1)
    assert len(lab.delivered) == 5
    assert lab.get(f"{HOOKS}/{made['id']}")["alert_status"] == "executable"


def test_a_test_delivery_enables_a_resting_hook(lab: gitlab_lab.Lab) -> None:
    lab.queue("gpu")
    made = lab.send("POST", HOOKS, {"url": "http://runnerd.test/", "job_events": True}).json()
    lab.hook_status = 0
    for _ in range(4):
        lab.queue("gpu")
        lab.wait(1)
    path = f"{HOOKS}/{made['id']}/test/job_events"
    assert lab.send("POST", path).status == 422
    lab.hook_status = 200
    assert lab.send("POST", path).status == 201
    lab.queue("gpu")
    assert bodies(lab)[-1]["build_status"] == "pending"
    assert lab.get(f"{HOOKS}/{made['id']}")["alert_status"] == "executable"


def test_forty_failures_disable_for_good() -> None:
    with gitlab_lab.Lab(hook_failures_temporary=10**6) as lab:
        lab.queue("gpu")
        made = lab.send("POST", HOOKS, {"url": "http://runnerd.test/", "job_events": True}).json()
        lab.hook_status = 404
        lab.queue("gpu", count=40)
        lab.wait(1)
        assert lab.get(f"{HOOKS}/{made['id']}")["alert_status"] == "disabled"
        lab.wait(86400 * 2)
        before = len(lab.delivered)
        lab.queue("gpu")
        lab.wait(1)
        assert len(lab.delivered) == before


def test_the_secrets_of_a_hook_are_write_only(lab: gitlab_lab.Lab) -> None:
    lab.queue("gpu")
    data = {"url": "https://runnerd.test/", "token": "hush", "signing_token": SIGNING, "job_events": True}
    made = lab.send("POST", HOOKS, data)
    assert made.status == 201 and "hush" not in made.text and SIGNING not in made.text
    assert made.json()["signing_token_present"] is True
    assert lab.send("POST", HOOKS, {"url": "ftp://x"}).status == 422
    assert lab.send("POST", HOOKS, {"url": "http://x", "signing_token": "plain"}).status == 422
    assert lab.send("POST", HOOKS, {}).json() == {"error": "url is missing"}
    assert lab.send("DELETE", f"{HOOKS}/{made.json()['id']}").status == 204
    assert lab.get(HOOKS) == []


def test_a_hook_without_job_events_hears_nothing(lab: gitlab_lab.Lab) -> None:
    lab.queue("gpu")
    lab.send("POST", HOOKS, {"url": "https://runnerd.test/"})
    lab.queue("gpu")
    assert bodies(lab) == []
