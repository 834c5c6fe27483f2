from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from runnerd import errors
from runnerd.kit import http


def answer(body: bytes, **headers: str) -> http.Response:
    return http.Response(200, headers, body)


@pytest.mark.parametrize(
    "body", [pytest.param(b'{"a": 1}', id="plain"), pytest.param(b'\xef\xbb\xbf{"a": 1}', id="byte order mark")]
)
def test_json_is_read_with_and_without_a_mark(body: bytes) -> None:
    assert answer(body).json() == {"a": 1}


@pytest.mark.parametrize("body", [b"<html>502</html>", b"", b"{", b"\xff\xfe"])
def test_what_is_not_json_is_an_outage_whose_effect_is_unclear(body: bytes) -> None:
    with pytest.raises(errors.ForgeUnavailable) as caught:
        answer(body).json()
    assert caught.value.maybe_created


@pytest.mark.parametrize(
    ("value", "expected"),
    [("Mon, 21 Sep 2026 14:13:20 GMT", 1_790_000_000.0), ("", None), ("yesterday", None)],
)
def test_the_servers_clock_is_read_from_its_date(value: str, expected: float | None) -> None:
    assert answer(b"", date=value).date() == expected


@pytest.fixture
async def server() -> AsyncIterator[str]:
    async def echo(request: web.Request) -> web.Response:
        return web.json_response({"path": request.raw_path, "body": (await request.read()).decode()})

    async def slow(request: web.Request) -> web.Response:
        await asyncio.sleep(30)
        return web.Response()

    async def away(request: web.Request) -> web.Response:
        raise web.HTTPFound("/echo")

    async def cut(request: web.Request) -> web.Response:
        assert request.transport is not None
        request.transport.close()
        return web.Response()

    app = web.Application()
    app.router.add_route("*", "/slow", slow)
    app.router.add_route("*", "/away", away)
    app.router.add_route("*", "/cut", cut)
    app.router.add_route("*", "/{rest:.*}", echo)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


@pytest.fixture
async def transport() -> AsyncIterator[http.AiohttpTransport]:
    made = http.AiohttpTransport()
    yield made
    await made.close()


async def test_the_address_is_sent_as_it_is(server: str, transport: http.AiohttpTransport) -> None:
    told = await transport.send(http.Request("POST", f"{server}/projects/acme%2Fml?x=a%20b", body=b"hello"))
    assert told.json() == {"path": "/projects/acme%2Fml?x=a%20b", "body": "hello"}
    assert all(name == name.lower() for name in told.headers)


async def test_a_redirect_is_an_answer_not_an_order(server: str, transport: http.AiohttpTransport) -> None:
    assert (await transport.send(http.Request("GET", f"{server}/away"))).status == 302


@pytest.mark.parametrize("path", ["/slow", "/cut"])
async def test_no_answer_may_have_been_applied(server: str, transport: http.AiohttpTransport, path: str) -> None:
    with pytest.raises(errors.TransportError) as caught:
        await transport.send(http.Request("GET", f"{server}{path}", timeout=0.3))
    assert caught.value.maybe_applied


async def test_who_cannot_be_reached_has_applied_nothing(transport: http.AiohttpTransport) -> None:
    with pytest.raises(errors.TransportError) as caught:
        await transport.send(http.Request("GET", "http://127.0.0.1:1/"))
    assert not caught.value.maybe_applied
