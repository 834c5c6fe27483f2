"""The agent protocol over HTTP."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import pytest
from aiohttp import web

from runnerd import errors, model, read_model
from runnerd.bootstrap import agent_archive
from runnerd.web import agents, peers, wire
from tests.support import clocks, fakes
from tests.unit.web import web_daemon

BOOT = fakes.TOKENS.boot(model.AttemptKey("key-vm-1"))
SESSION = fakes.TOKENS.session(model.AttemptKey("key-vm-1"), fakes.NONCE)


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


@pytest.fixture
def booted(place: fakes.Place) -> None:
    place.put(fakes.bought("vm-1", "booting"))


@pytest.fixture
def ready(place: fakes.Place) -> None:
    place.put(fakes.bought("vm-1", "ready", agent_nonce=fakes.NONCE))


@pytest.mark.usefixtures("booted")
async def test_hello_exchanges_the_boot_token_and_repeats_its_answer(world: Any) -> None:
    body = {"protocol": 1, "nonce": fakes.NONCE}
    first = await world.post("/agent/v1/hello", json=body, headers=bearer(BOOT))
    again = await world.post("/agent/v1/hello", json=body, headers=bearer(BOOT))
    assert (first.status, again.status) == (200, 200)
    told = await first.json()
    assert told == await again.json()
    assert told["session"] == SESSION
    assert told["instance"] == "vm-1"
    assert first.headers["Cache-Control"] == "no-store"


@pytest.mark.usefixtures("booted")
async def test_hello_with_another_nonce_is_refused_and_alarmed(world: Any, place: fakes.Place) -> None:
    await world.post("/agent/v1/hello", json={"protocol": 1, "nonce": fakes.NONCE}, headers=bearer(BOOT))
    stolen = await world.post("/agent/v1/hello", json={"protocol": 1, "nonce": "x" * 20}, headers=bearer(BOOT))
    assert stolen.status == 403
    assert "token-replayed" in place.alarms()


@pytest.mark.usefixtures("booted")
async def test_a_protocol_that_is_not_served_is_named(world: Any) -> None:
    answer = await world.post("/agent/v1/hello", json={"protocol": 9, "nonce": fakes.NONCE}, headers=bearer(BOOT))
    assert answer.status == 426
    assert "only 1" in (await answer.json())["error"]


@pytest.mark.parametrize(
    ("path", "body", "names"),
    [
        pytest.param("hello", {"nonce": fakes.NONCE}, '"protocol" is missing', id="missing"),
        pytest.param("hello", {"protocol": True, "nonce": fakes.NONCE}, '"protocol" must be a whole', id="bool-as-int"),
        pytest.param("hello", {"protocol": "1", "nonce": fakes.NONCE}, '"protocol" must be a whole', id="text-as-int"),
        pytest.param("hello", {"protocol": 1, "nonce": "n" * 129}, '"nonce" has 129', id="long"),
        pytest.param("register", {"runner_started": 0}, '"runner_started" must be true or false', id="int-as-bool"),
        pytest.param("register", {}, '"runner_started" is missing', id="empty"),
        pytest.param("heartbeat", {"phase": "lunch", "worker": False}, '"phase" must be one of', id="phase"),
        pytest.param("heartbeat", {"phase": "idle", "worker": None}, '"worker" must be', id="null"),
        pytest.param("heartbeat", {"phase": "idle", "worker": False, "runner": "a\x00b"}, '"runner" holds', id="nul"),
        pytest.param("heartbeat", {"phase": "idle", "worker": False, "runner": "\ud800"}, '"runner" holds', id="half"),
        pytest.param("job", {"event": "paused"}, '"event" must be one of ended, started', id="event"),
        pytest.param("failed", {"stage": "moon", "detail": ""}, '"stage" must be one of', id="stage"),
    ],
)
@pytest.mark.usefixtures("ready")
async def test_a_wrong_field_is_named(world: Any, path: str, body: dict[str, Any], names: str) -> None:
    token = BOOT if path == "hello" else SESSION
    answer = await world.post(f"/agent/v1/{path}", data=json.dumps(body), headers=bearer(token))
    assert answer.status == 400
    assert names in (await answer.json())["error"]


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b'"x"', b"\xff\xfe", b"[" * 30_000, b'{"protocol": ' + b"9" * 5000 + b"}"]
)
@pytest.mark.usefixtures("booted")
async def test_what_is_no_json_object_is_malformed(world: Any, body: bytes) -> None:
    answer = await world.post("/agent/v1/hello", data=body, headers=bearer(BOOT))
    assert answer.status == 400
    assert "error" in await answer.json()


@pytest.mark.usefixtures("ready")
async def test_json_over_its_limit_is_too_large(world: Any) -> None:
    body = b'{"phase": "idle", "worker": false, "runner": "' + b"x" * agents.MAX_JSON + b'"}'
    answer = await world.post("/agent/v1/heartbeat", data=body, headers=bearer(SESSION))
    assert answer.status == 413


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param({}, id="none"),
        pytest.param(bearer(""), id="empty"),
        pytest.param(bearer("rs1.key-vm-1." + fakes.NONCE + "." + "0" * 64), id="forged"),
        pytest.param(bearer(BOOT), id="boot-token"),
        pytest.param({"Authorization": f"Basic {SESSION}"}, id="basic"),
    ],
)
@pytest.mark.usefixtures("ready")
async def test_a_wrong_credential_is_refused_before_the_body_is_read(world: Any, headers: dict[str, str]) -> None:
    answer = await world.post("/agent/v1/heartbeat", data=b"not json", headers=headers)
    assert answer.status == 401


@pytest.mark.usefixtures("ready")
async def test_an_address_that_guesses_is_slowed_down_and_good_agents_beside_it_are_not(
    world: Any, clock: clocks.ManualClock
) -> None:
    beat = {"phase": "idle", "worker": False}
    found = [
        (await world.post("/agent/v1/heartbeat", json=beat, headers=bearer("guess"))).status
        for _ in range(peers.MOST + 2)
    ]
    assert found == [401] * peers.MOST + [429] * 2
    limited = await world.post("/agent/v1/heartbeat", json=beat, headers=bearer("guess"))
    assert int(limited.headers["Retry-After"]) > 0
    assert (await world.post("/agent/v1/heartbeat", json=beat, headers=bearer(SESSION))).status == 200
    elsewhere = bearer("guess") | {"X-Forwarded-For": "203.0.113.9"}
    assert (await world.post("/agent/v1/heartbeat", json=beat, headers=elsewhere)).status == 401
    await clock.advance(peers.WINDOW_S + 1)
    assert (await world.post("/agent/v1/heartbeat", json=beat, headers=bearer("guess"))).status == 401


async def test_a_session_with_another_nonce_is_refused(world: Any, place: fakes.Place) -> None:
    place.put(fakes.bought("vm-1", "ready", agent_nonce="the-nonce-of-another"))
    answer = await world.post("/agent/v1/register", json={"runner_started": False}, headers=bearer(SESSION))
    assert answer.status == 403


async def test_a_credential_never_registers_after_a_job_has_started(world: Any, place: fakes.Place) -> None:
    place.put(fakes.bought("vm-1", "busy", agent_nonce=fakes.NONCE, job_started=True))
    answer = await world.post("/agent/v1/register", json={"runner_started": False}, headers=bearer(SESSION))
    assert answer.status == 403
    assert "never registers again" in (await answer.json())["error"]


async def test_hello_to_an_instance_that_was_given_up_is_refused(world: Any, place: fakes.Place) -> None:
    place.put(fakes.bought("vm-1", "draining"))
    answer = await world.post("/agent/v1/hello", json={"protocol": 1, "nonce": fakes.NONCE}, headers=bearer(BOOT))
    assert answer.status == 403
    assert "expired" in (await answer.json())["error"]


@pytest.mark.usefixtures("ready")
async def test_registration_is_held_open_and_answered_when_the_listener_closes(world: Any, place: fakes.Place) -> None:
    asked = asyncio.ensure_future(
        world.post("/agent/v1/register", json={"runner_started": False}, headers=bearer(SESSION))
    )
    for _ in range(200):
        await asyncio.sleep(0.005)
        if place.runtime.observations.of(model.InstanceId("vm-1")).asking:
            break
    assert not asked.done()
    world.public.release()
    answer = await asked
    assert await answer.json() == {"action": "wait", "after": agents.ASK_AGAIN_S}


@pytest.mark.usefixtures("ready")
async def test_registration_that_nobody_wants_is_answered_within_the_hold(
    world: Any, place: fakes.Place, clock: clocks.ManualClock
) -> None:
    asked = asyncio.ensure_future(
        world.post("/agent/v1/register", json={"runner_started": False}, headers=bearer(SESSION))
    )
    for _ in range(200):
        await asyncio.sleep(0.005)
        if place.runtime.observations.of(model.InstanceId("vm-1")).asking:
            break
    await clock.advance(26.0)
    assert await (await asked).json() == {"action": "wait", "after": 0.0}


@pytest.mark.usefixtures("ready")
async def test_reports_reach_the_core_and_free_text_is_cut_and_cleaned(world: Any, place: fakes.Place) -> None:
    body = {"stage": "gate", "detail": "\x1b[31mno GPU\x00\ud800" + "x" * 9000}
    answer = await world.post("/agent/v1/failed", data=json.dumps(body), headers=bearer(SESSION))
    assert (answer.status, await answer.json()) == (200, {})
    row = place.row()
    assert (row.state.value, row.reason.value) == ("draining", "gate-failed")
    assert "no GPU" in row.detail
    assert "\x1b" not in row.detail
    assert len(row.detail) <= agents.MAX_TEXT


@pytest.mark.usefixtures("ready")
async def test_diagnostics_are_text_of_any_kind_up_to_their_limit(world: Any, running: web_daemon.Daemon) -> None:
    kept: list[str] = []
    running.controller.agents.on_diagnostics.append(lambda id, text: kept.append(text))
    answer = await world.post("/agent/v1/diagnostics", data=b"last words \xff\x00\n", headers=bearer(SESSION))
    assert answer.status == 200
    assert kept == ["last words \ufffd\ufffd\n"]
    large = await world.post("/agent/v1/diagnostics", data=b"x" * (agents.MAX_DIAGNOSTICS + 1), headers=bearer(SESSION))
    assert large.status == 413


@pytest.mark.usefixtures("booted")
async def test_a_state_that_cannot_be_written_asks_to_come_again(world: Any, place: fakes.Place) -> None:
    place.book.broken = fakes.FULL
    answer = await world.post("/agent/v1/hello", json={"protocol": 1, "nonce": fakes.NONCE}, headers=bearer(BOOT))
    assert answer.status == 503
    assert "Retry-After" in answer.headers


@pytest.mark.usefixtures("ready")
async def test_an_unexpected_failure_tells_the_client_nothing(
    world: Any, running: web_daemon.Daemon, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(*given: Any, **more: Any) -> None:
        raise RuntimeError("inner words")

    monkeypatch.setattr(type(running.controller.agents), "heartbeat", fail)
    answer = await world.post("/agent/v1/heartbeat", json={"phase": "idle", "worker": False}, headers=bearer(SESSION))
    text = await answer.text()
    assert answer.status == 500
    assert "inner words" not in text
    assert "Traceback" not in text
    assert "inner words" in caplog.text


@pytest.mark.usefixtures("ready")
async def test_a_body_that_does_not_come_is_timed_out(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agents, "BODY_TIMEOUT_S", 0.05)
    head = (
        f"POST /agent/v1/heartbeat HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {SESSION}\r\nContent-Length: 50\r\n\r\n"
    )
    answer = await web_daemon.raw(world.port, head.encode() + b'{"phase"', wait=10.0)
    assert answer.startswith(b"HTTP/1.1 408")


async def test_before_the_start_agents_are_asked_to_come_again(clock: clocks.ManualClock) -> None:
    unborn = read_model.Served(read_model.Progress(), agent_archive.Bundle(b"", "a" * 64))
    application = agents.Agents(unborn, peers.Peers(clock.now), on_hello=print)
    gate = wire.Gate("public")
    app = web.Application(middlewares=[gate.middleware])
    app.add_routes(application.routes())
    async with web_daemon.served(app) as client:
        answer = await client.post("/agent/v1/hello", json={}, headers=bearer(BOOT))
        assert answer.status == 503


async def test_the_agent_is_served_by_its_hash_alone(world: Any) -> None:
    answer = await world.get(f"/agent/v1/bundle/{'a' * 64}.pyz")
    assert await answer.read() == b"PK the agent"
    assert "immutable" in answer.headers["Cache-Control"]
    for other in ("b" * 64, "A" * 64, "a", "..%2f" + "a" * 64):
        assert (await world.get(f"/agent/v1/bundle/{other}.pyz")).status == 404


@pytest.mark.usefixtures("ready")
async def test_no_log_line_holds_a_credential_or_a_path(world: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="runnerd.web")
    await world.post("/agent/v1/heartbeat", json={"phase": "idle", "worker": False}, headers=bearer(SESSION))
    await world.post("/agent/v1/heartbeat", data=b"{", headers=bearer(SESSION))
    await world.get("/some/where/secret-in-path?token=secret-in-query")
    assert "/agent/v1/heartbeat -> 200" in caplog.text
    for secret in (SESSION, SESSION[-20:], "secret-in-path", "secret-in-query"):
        assert secret not in caplog.text


async def test_what_is_not_there_is_said_in_json(world: Any) -> None:
    answer = await world.get("/nothing")
    assert (answer.status, await answer.json()) == (404, {"error": "not found"})
    wrong = await world.get("/agent/v1/hello")
    assert (wrong.status, wrong.headers["Allow"]) == (405, "POST")
    assert wrong.headers["X-Content-Type-Options"] == "nosniff"


def test_failures_are_remembered_for_a_bounded_number_of_addresses(
    clock: clocks.ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "REMEMBERED", 5)
    known = peers.Peers(clock.now, most=1)
    for number in range(20):
        known.fail(f"10.0.0.{number}")
    assert len(known) == 5
    assert known.wait("10.0.0.19") > 0
    assert known.wait("10.0.0.0") == 0


def test_busy_is_a_refusal() -> None:
    assert issubclass(wire.Busy, errors.Refused)
