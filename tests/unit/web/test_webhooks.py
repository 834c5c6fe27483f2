"""Deliveries of forges."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from collections.abc import Mapping
from typing import Any

import pytest

from runnerd.forges import base as forges
from runnerd.web import peers, webhooks
from tests.support import fakes
from tests.unit.web import web_daemon

SECRET = b"the secret of the hook"


class SigningForge(fakes.ScriptedForge):
    """Checks a signature over the raw bytes, as the real clients do."""

    def __init__(self) -> None:
        super().__init__("hub")
        self.taken: list[tuple[Mapping[str, str], bytes]] = []
        self.wakes = 0
        self.hang = False
        self.error: Exception | None = None

    async def webhook(self, headers: Mapping[str, str], body: bytes) -> forges.WebhookAnswer:
        if self.error is not None:
            raise self.error
        if self.hang:
            await asyncio.get_running_loop().create_future()
        wanted = "sha256=" + hmac.new(SECRET, body, hashlib.sha256).hexdigest()
        if not hmac.compare_digest(headers.get("x-hub-signature-256", ""), wanted):
            return forges.WebhookAnswer(401, "the signature is wrong")
        try:
            json.loads(body)
        except ValueError:
            return forges.WebhookAnswer(400, "the body is not JSON")
        self.taken.append((headers, body))
        self.wakes += 1
        return forges.WebhookAnswer(200, "noted")


@pytest.fixture
def hub(place: fakes.Place) -> SigningForge:
    forge = SigningForge()
    place.runtime.forges["hub"] = forge
    return forge


def signed(body: bytes) -> dict[str, str]:
    return {"X-Hub-Signature-256": "sha256=" + hmac.new(SECRET, body, hashlib.sha256).hexdigest()}


async def test_a_delivery_reaches_its_forge_as_raw_bytes_with_lower_case_headers(world: Any, hub: SigningForge) -> None:
    body = b'{ "action":\n"queued" }'
    answer = await world.post("/webhooks/hub", data=body, headers=signed(body))
    assert (answer.status, await answer.json()) == (200, {"message": "noted"})
    headers, taken = hub.taken[0]
    assert taken == body
    assert all(name == name.lower() for name in headers)


async def test_a_repeated_delivery_only_wakes_again(world: Any, hub: SigningForge) -> None:
    body = b'{"action": "queued"}'
    found = [(await world.post("/webhooks/hub", data=body, headers=signed(body))).status for _ in range(3)]
    assert found == [200, 200, 200]
    assert hub.wakes == 3


async def test_an_unknown_forge_is_not_there(world: Any, hub: SigningForge) -> None:
    assert (await world.post("/webhooks/moon", data=b"{}")).status == 404


async def test_a_wrong_signature_is_refused(world: Any, hub: SigningForge) -> None:
    answer = await world.post("/webhooks/hub", data=b"{}", headers=signed(b"{ }"))
    assert (answer.status, await answer.json()) == (401, {"error": "the signature is wrong"})


async def test_a_malformed_body_is_a_plain_no(world: Any, hub: SigningForge) -> None:
    assert (await world.post("/webhooks/hub", data=b"{", headers=signed(b"{"))).status == 400


async def test_who_keeps_failing_is_turned_away_and_a_good_delivery_still_passes(world: Any, hub: SigningForge) -> None:
    found = [(await world.post("/webhooks/hub", data=b"{}")).status for _ in range(peers.MOST + 1)]
    assert found[-2:] == [401, 429]
    assert (await world.post("/webhooks/hub", data=b"{}", headers=signed(b"{}"))).status == 200
    huge = await world.post("/webhooks/hub", data=b"x" * (webhooks.MAX_UNTRUSTED + 1))
    assert huge.status == 413


async def test_a_huge_delivery_is_refused_by_its_announced_length(world: Any, hub: SigningForge) -> None:
    head = f"POST /webhooks/hub HTTP/1.1\r\nHost: x\r\nContent-Length: {webhooks.MAX_DELIVERY + 1}\r\n\r\n"
    answer = await web_daemon.raw(world.port, head.encode() + b"{" * 1000, wait=20.0)
    assert answer.startswith(b"HTTP/1.1 413")


async def test_a_huge_delivery_without_a_length_is_cut_off(
    world: Any, hub: SigningForge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks, "MAX_DELIVERY", 100_000)

    async def pieces() -> Any:
        for _ in range(20):
            yield b"x" * 10_000

    answer = await world.post("/webhooks/hub", data=pieces())
    assert answer.status == 413
    assert not hub.taken


async def test_large_deliveries_are_taken_a_few_at_a_time(
    world: Any, hub: SigningForge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks, "LARGE", 1000)
    monkeypatch.setattr(webhooks, "TAKE_TIMEOUT_S", 0.2)
    hub.hang = True
    body = b'"' + b"x" * 5000 + b'"'
    found = await asyncio.gather(*(world.post("/webhooks/hub", data=body, headers=signed(body)) for _ in range(5)))
    words = sorted([(await one.json())["error"] for one in found])
    assert [one.status for one in found] == [503] * 5
    assert sum("large deliveries" in one for one in words) == 5 - webhooks.MOST_LARGE
    hub.hang = False
    assert (await world.post("/webhooks/hub", data=body, headers=signed(body))).status == 200


async def test_a_forge_client_that_fails_answers_without_its_trace(world: Any, hub: SigningForge) -> None:
    hub.error = RuntimeError("inner words")
    answer = await world.post("/webhooks/hub", data=b"{}")
    text = await answer.text()
    assert answer.status == 500
    assert "inner words" not in text
    assert "Traceback" not in text


async def test_a_slow_body_is_timed_out(world: Any, hub: SigningForge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhooks, "BODY_TIMEOUT_S", 0.05)
    head = b"POST /webhooks/hub HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n"
    assert (await web_daemon.raw(world.port, head + b"{", wait=10.0)).startswith(b"HTTP/1.1 408")


async def test_a_stopping_daemon_takes_no_delivery(world: Any, hub: SigningForge, running: web_daemon.Daemon) -> None:
    running.progress.stopping = True
    assert (await world.post("/webhooks/hub", data=b"{}")).status == 503


async def test_a_broken_chunked_body_is_malformed(world: Any, hub: SigningForge) -> None:
    head = b"POST /webhooks/hub HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    answer = await web_daemon.raw(world.port, head + b"5\r\nhello\r\nzz\r\n", wait=10.0)
    assert b" 400 " in answer
