"""Deliveries of the webhook: what is refused, what is passed over, what wakes."""

from __future__ import annotations

import asyncio
import json
import urllib.parse
from pathlib import Path
from typing import Any

import pytest

from runnerd import config
from runnerd.forges import base
from runnerd.forges.github import webhooks
from tests.unit.forges.github import gh_lab
from tests.unit.forges.github.gh_lab import Reply, on_virtual_time
from tests.unit.forges.github.gh_service import Service

SECRET = "It's a Secret to Everybody"


class Inbox:
    def __init__(self, directory: Path) -> None:
        self.taken: list[tuple[str, tuple[str, ...], str]] = []
        self.hooks = webhooks.Webhooks("acme", gh_lab.secret(directory, "hook", SECRET), on_job=self._take)
        self._count = 0

    def _take(self, repo: str, labels: tuple[str, ...], action: str) -> bool:
        self.taken.append((repo, labels, action))
        return "gpu-t4" in labels

    def send(self, payload: Any, *, event: str = "workflow_job", **headers: str) -> base.WebhookAnswer:
        body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        self._count += 1
        sent = {
            "x-github-event": event,
            "x-github-delivery": f"d{self._count}",
            "x-hub-signature-256": webhooks.signature(SECRET, body),
            **{name.replace("_", "-"): value for name, value in headers.items()},
        }
        return self.hooks.take(sent, body)


def delivery(action: str = "queued", id: int = 5, **job: Any) -> dict[str, Any]:
    return {
        "action": action,
        "workflow_job": {"id": id, "run_id": 7, "labels": ["gpu-t4"], "status": action, **job},
        "repository": {"full_name": "acme/ml"},
    }


@pytest.fixture
def inbox(tmp_path: Path) -> Inbox:
    return Inbox(tmp_path)


def test_the_signature_is_the_documented_one() -> None:
    expected = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
    assert webhooks.signature(SECRET, b"Hello, World!") == expected


def test_a_queued_job_is_noted(inbox: Inbox) -> None:
    assert inbox.send(delivery()).status == 202
    assert inbox.taken == [("acme/ml", ("gpu-t4",), "queued")]


@pytest.mark.parametrize(
    "signature",
    ["", "sha256=", "sha256=" + "0" * 64, "sha1=abc", "sha256=ü", "sha256=" + "0" * 10_000],
)
def test_a_wrong_signature_is_refused_before_anything_is_read(inbox: Inbox, signature: str) -> None:
    answer = inbox.send(b"{not even json", x_hub_signature_256=signature)
    assert answer.status == 401
    assert not inbox.taken


def test_a_changed_byte_breaks_the_signature(inbox: Inbox) -> None:
    body = json.dumps(delivery()).encode()
    good = webhooks.signature(SECRET, body)
    assert inbox.send(body + b" ", x_hub_signature_256=good).status == 401


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"[]",
        b"{broken",
        b"\xff\xfe",
        b"[" * 200_000,
        {},
        {"action": "queued", "workflow_job": [], "repository": {}},
        {**delivery(), "repository": {"full_name": "nonsense"}},
        {**delivery(), "workflow_job": {"id": "5"}},
    ],
)
def test_a_malformed_delivery_is_a_bad_request(inbox: Inbox, payload: Any) -> None:
    assert inbox.send(payload).status == 400
    assert not inbox.taken


@pytest.mark.parametrize("labels", [[], None, "gpu-t4", [1, 2]])
def test_no_labels_match_nothing(inbox: Inbox, labels: Any) -> None:
    assert inbox.send(delivery("completed", labels=labels)).status == 202
    assert not inbox.taken


def test_other_events_and_actions_are_passed_over(inbox: Inbox) -> None:
    assert inbox.send({"zen": "x"}, event="ping").message == "pong"
    assert inbox.send({}, event="push").status == 202
    assert inbox.send(delivery("dancing")).status == 202
    assert not inbox.taken


def test_a_delivery_counts_once_however_often_it_comes(inbox: Inbox) -> None:
    for _ in range(3):
        assert inbox.send(delivery(), x_github_delivery="same").status == 202
    assert len(inbox.taken) == 1


def test_a_malformed_delivery_may_come_again(inbox: Inbox) -> None:
    assert inbox.send(b"{", x_github_delivery="same").status == 400
    assert inbox.send(delivery(), x_github_delivery="same").status == 202
    assert len(inbox.taken) == 1


def test_a_late_queued_does_not_undo_what_came_after(inbox: Inbox) -> None:
    for action in ("in_progress", "queued", "completed", "in_progress", "queued", "waiting"):
        inbox.send(delivery(action))
    assert [action for _, _, action in inbox.taken] == ["in_progress", "completed"]


def test_the_form_encoding_is_understood(inbox: Inbox) -> None:
    body = urllib.parse.urlencode({"payload": json.dumps(delivery())}).encode()
    assert inbox.send(body, content_type="application/x-www-form-urlencoded").status == 202
    assert len(inbox.taken) == 1


def test_without_a_secret_nothing_is_taken(tmp_path: Path) -> None:
    hooks = webhooks.Webhooks("acme", None, on_job=lambda *_: True)
    assert hooks.take({"x-github-event": "workflow_job"}, b"{}").status == 403


def test_a_secret_that_cannot_be_read_is_our_fault_not_the_senders(tmp_path: Path, inbox: Inbox) -> None:
    (tmp_path / "hook").unlink()
    assert inbox.send(delivery()).status == 503


@on_virtual_time
async def test_a_delivery_only_wakes_in_scale_set_mode(tmp_path: Path) -> None:
    lab = Service(tmp_path, webhook_secret=gh_lab.secret(tmp_path, "hook", SECRET))
    async with lab.watching():
        await lab.ready()
        woken, asked = lab.sink.woken, len(lab.script.asked)
        body = json.dumps(delivery()).encode()
        headers = {"x-github-event": "workflow_job", "x-hub-signature-256": webhooks.signature(SECRET, body)}
        assert (await lab.client.webhook(headers, body)).message == "noted"
        assert lab.sink.woken == woken + 1
        await asyncio.sleep(10)
        assert len(lab.script.asked) == asked and lab.waiting == 0
        other = json.dumps(delivery(labels=["somebody-else"])).encode()
        headers["x-hub-signature-256"] = webhooks.signature(SECRET, other)
        await lab.client.webhook(headers, other)
        assert lab.sink.woken == woken + 1


@on_virtual_time
async def test_an_unlisted_repository_is_followed_once_a_delivery_names_it(tmp_path: Path) -> None:
    hook = gh_lab.secret(tmp_path, "hook", SECRET)
    lab = Service(tmp_path, mode=config.Mode.REST, webhook_secret=hook)
    listed = {
        "total_count": 1,
        "workflow_runs": [{"id": 7}],
        "jobs": [{"id": 5, "name": "train", "status": "queued", "labels": ["gpu-t4"]}],
    }
    lab.script.on("GET", "/repos/acme/ml/actions/runs", Reply(200, listed))
    async with lab.watching():
        await asyncio.sleep(60)
        assert "no repository is named" in lab.client.health(lab.spec.queue).problem
        body = json.dumps(delivery()).encode()
        headers = {"x-github-event": "workflow_job", "x-hub-signature-256": webhooks.signature(SECRET, body)}
        await lab.client.webhook(headers, body)
        await gh_lab.until(lambda: lab.waiting == 1, limit=1)
