"""The two sockets."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from runnerd import assets, config, errors, model
from runnerd.agent import client, state
from runnerd.forges import base as forges
from runnerd.metrics import counters
from runnerd.web import listeners, wire
from tests.support import fakes
from tests.unit.web import web_daemon


def settings(place: fakes.Place, **where: Any) -> config.Config:
    listen = place.runtime.config.listen.model_copy(update={"ops": "127.0.0.1:0", "public": "127.0.0.1:0"} | where)
    return place.runtime.config.model_copy(update={"listen": listen})


@pytest.fixture
async def both(
    running: web_daemon.Daemon, place: fakes.Place, images: assets.Assets
) -> AsyncIterator[listeners.Listeners]:
    """Both listeners, with little patience."""
    made = counters.Metrics()
    made.attach(running.reading, running.hooks)
    opened = await listeners.start(
        running.served,
        made,
        assets=images,
        settings=settings(place),
        clock=place.clock,
        head_timeout=0.1,
    )
    yield opened
    await opened.close()


async def get(where: tuple[str, int], path: str) -> int:
    async with aiohttp.ClientSession() as session, session.get(f"http://{where[0]}:{where[1]}{path}") as answer:
        return answer.status


async def test_each_socket_has_its_own_paths(both: listeners.Listeners) -> None:
    assert set(both.addresses) == {"ops", "public"}
    assert await get(both.addresses["ops"], "/healthz") == 200
    assert await get(both.addresses["public"], "/healthz") == 404
    assert await get(both.addresses["public"], "/metrics") == 404
    assert await get(both.addresses["public"], f"/agent/v1/bundle/{'a' * 64}.pyz") == 200


async def test_a_client_that_never_ends_its_head_is_cut_off(both: listeners.Listeners) -> None:
    port = both.addresses["public"][1]
    assert await web_daemon.raw(port, b"POST /webhooks/hub HTTP/1.1\r\nHost: x\r\nX-Slow: ") == b""
    assert await web_daemon.raw(port, b"") == b""


async def test_a_client_that_has_spoken_may_stay(both: listeners.Listeners) -> None:
    reader, writer = await asyncio.open_connection(*both.addresses["ops"])
    for _ in range(2):
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b" 200 " in await asyncio.wait_for(reader.readline(), 5)
        await asyncio.sleep(0.15)
        await reader.read(4096)
    writer.close()
    await writer.wait_closed()


@pytest.mark.parametrize(
    "head",
    [
        pytest.param(b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", id="line"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: x\r\nX-Big: " + b"x" * 9000 + b"\r\n\r\n", id="field"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 80 + b"\r\n", id="many"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 tls to a plain port\r\n\r\n", id="tls"),
    ],
)
async def test_a_head_that_is_too_large_or_none_is_refused_quietly(
    both: listeners.Listeners, head: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    assert b" 400 " in await web_daemon.raw(both.addresses["public"][1], head)
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_a_packed_body_is_taken_as_it_is(both: listeners.Listeners, place: fakes.Place) -> None:
    taken: list[bytes] = []

    async def webhook(headers: Any, body: bytes) -> Any:
        taken.append(body)
        return forges.WebhookAnswer(200, "noted")

    place.forge.webhook = webhook  # type: ignore[method-assign]
    head = b"POST /webhooks/hub HTTP/1.1\r\nHost: x\r\nContent-Encoding: gzip\r\nContent-Length: 5\r\n\r\n\x1f\x8bzip"
    assert b" 200 " in await web_daemon.raw(both.addresses["public"][1], head)
    assert taken == [b"\x1f\x8bzip"]


async def test_a_taken_port_is_told_in_words_and_nothing_stays_open(
    running: web_daemon.Daemon, place: fakes.Place
) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        taken = f"127.0.0.1:{holder.getsockname()[1]}"
        with pytest.raises(errors.ListenFailed, match=rf"listen\.public: {taken} is in use by another process"):
            await listeners.start(
                running.served, counters.Metrics(), settings=settings(place, public=taken), clock=place.clock
            )


async def test_a_listener_that_is_off_is_not_opened(running: web_daemon.Daemon, place: fakes.Place) -> None:
    opened = await listeners.start(
        running.served, counters.Metrics(), settings=settings(place, public=None), clock=place.clock
    )
    assert set(opened.addresses) == {"ops"}
    await opened.close()


async def test_closing_answers_who_waits(both: listeners.Listeners, place: fakes.Place) -> None:
    place.put(fakes.bought("vm-1", "ready", agent_nonce=fakes.NONCE))
    session = fakes.TOKENS.session(model.AttemptKey("key-vm-1"), fakes.NONCE)
    url = "http://{}:{}/agent/v1/register".format(*both.addresses["public"])
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {session}"}) as client:
        asked = asyncio.ensure_future(client.post(url, json={"runner_started": False}))
        for _ in range(200):
            await asyncio.sleep(0.005)
            if place.runtime.observations.of(model.InstanceId("vm-1")).asking:
                break
        await asyncio.wait_for(both.close(), 4)
        assert (await (await asked).json())["action"] == "wait"


async def test_more_requests_than_a_listener_bears_are_turned_away() -> None:
    gate = wire.Gate("tight", in_flight=1)
    go = asyncio.Event()

    async def slow(request: Any) -> Any:
        await go.wait()
        return wire.answer({})

    app = web.Application(middlewares=[gate.middleware])
    app.router.add_get("/", slow)
    async with web_daemon.served(app) as client:
        first = asyncio.ensure_future(client.get("/"))
        await asyncio.sleep(0.05)
        assert (await client.get("/")).status == 503
        go.set()
        assert (await first).status == 200
        assert (await client.get("/")).status == 200


async def test_the_shipped_agent_speaks_with_the_listener(both: listeners.Listeners, place: fakes.Place) -> None:
    place.put(fakes.bought("vm-1", "booting"))
    host, port = both.addresses["public"]
    line = client.Client(f"http://{host}:{port}", timeout=5)
    boot = fakes.TOKENS.boot(model.AttemptKey("key-vm-1"))
    welcome = client.Welcome.read(await asyncio.to_thread(line.hello, boot, fakes.NONCE))
    assert (welcome.instance, welcome.gpus, welcome.gpu) == ("vm-1", 1, "t4")
    line.session = welcome.session
    beat = await asyncio.to_thread(line.heartbeat, state.State(0.0).body())
    assert beat["action"] == "continue"
    with pytest.raises(client.Refused):
        await asyncio.to_thread(line.hello, boot, "another-nonce-of-somebody")
    await asyncio.to_thread(line.diagnostics, b"last words")
    await asyncio.to_thread(line.failed, "gate", "no GPU")
    assert place.state() == "draining"
