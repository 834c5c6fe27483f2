"""Report images over HTTP."""

from __future__ import annotations

import logging
import os
from typing import Any

import pytest

from runnerd import assets, model
from runnerd.web import peers, reports
from tests.support import fakes
from tests.unit.web import web_daemon

VM = model.InstanceId("vm-1")


def upload(images: assets.Assets) -> str:
    return images.upload_url(VM).removeprefix("https://runnerd.example")


def path(url: str) -> str:
    return url.removeprefix("https://runnerd.example")


HEADERS = {"Content-Type": "image/png", "Content-Disposition": 'inline; filename="../../plot.png"'}


async def test_an_upload_is_answered_with_the_address_and_served_there(world: Any, images: assets.Assets) -> None:
    sent = await world.post(upload(images), data=web_daemon.PNG, headers=HEADERS)
    url = await sent.text()
    assert sent.status == 200
    assert url.startswith("https://runnerd.example/assets/")
    got = await world.get(path(url) + "?cml=png&cache-bypass=0b1f")
    assert (got.status, await got.read()) == (200, web_daemon.PNG)
    assert got.headers["Content-Type"] == "image/png"
    assert got.headers["X-Content-Type-Options"] == "nosniff"
    assert "immutable" in got.headers["Cache-Control"]


async def test_head_and_conditional_requests_send_no_body(world: Any, images: assets.Assets) -> None:
    url = path(await (await world.post(upload(images), data=web_daemon.PNG)).text())
    head = await world.head(url)
    assert (head.status, head.headers["Content-Length"]) == (200, str(len(web_daemon.PNG)))
    again = await world.get(url, headers={"If-None-Match": head.headers["ETag"]})
    assert (again.status, await again.read()) == (304, b"")


async def test_an_svg_is_served_so_that_nothing_in_it_runs(world: Any, images: assets.Assets) -> None:
    url = path(await (await world.post(upload(images), data=web_daemon.SVG)).text())
    got = await world.get(url)
    assert got.headers["Content-Type"] == "image/svg+xml"
    assert got.headers["Content-Security-Policy"] == reports.POLICY
    assert "sandbox" in reports.POLICY
    assert "script-src" not in reports.POLICY


@pytest.mark.parametrize(
    ("data", "status"),
    [(b"", 400), (b"<html>", 415), (web_daemon.PNG + b"x" * 5000, 413)],
    ids=["empty", "html", "large"],
)
async def test_a_refused_upload_says_why(world: Any, images: assets.Assets, data: bytes, status: int) -> None:
    answer = await world.post(upload(images), data=data)
    assert answer.status == status
    assert await answer.text()


async def test_upstreams_client_gets_no_body_that_it_would_take_for_an_address(
    world: Any, images: assets.Assets
) -> None:
    agent = {"User-Agent": "node-fetch/1.0 (+https://github.com/bitinn/node-fetch)"}
    answer = await world.post(upload(images), data=b"<html>", headers=agent)
    assert (answer.status, await answer.text()) == (415, "")


async def test_an_upload_address_ends_with_its_instance(world: Any, images: assets.Assets, alive: set[str]) -> None:
    alive.clear()
    answer = await world.post(upload(images), data=web_daemon.PNG)
    assert answer.status == 403
    assert "has ended" in await answer.text()


async def test_who_guesses_upload_addresses_is_slowed_down(world: Any, images: assets.Assets) -> None:
    guess = "/assets/upload/vm-1." + "a" * 40
    found = [(await world.post(guess, data=web_daemon.PNG)).status for _ in range(peers.MOST + 1)]
    assert found == [401] * peers.MOST + [429]
    assert (await world.post(upload(images), data=web_daemon.PNG)).status == 200


@pytest.mark.parametrize(
    "name",
    [
        "%2e%2e%2f%2e%2e%2fsecret.key",
        "..%2Fsecret.key",
        "....//secret.key",
        "%00.png",
        "a" * 40 + ".html",
        "upload",
        "tmp%2f1-1.part",
    ],
)
async def test_nothing_but_images_is_served(world: Any, images: assets.Assets, name: str) -> None:
    status = await web_daemon.raw(world.port, f"GET /assets/{name} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    assert b" 404 " in status or b" 405 " in status or b" 400 " in status


async def test_an_upload_announced_too_large_is_refused_at_once(world: Any, images: assets.Assets) -> None:
    head = f"POST {upload(images)} HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n"
    assert b" 413 " in await web_daemon.raw(world.port, head.encode() + web_daemon.PNG)


async def test_a_slow_upload_is_timed_out(world: Any, images: assets.Assets, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reports, "UPLOAD_TIMEOUT_S", 0.05)
    head = f"POST {upload(images)} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n"
    assert b" 408 " in await web_daemon.raw(world.port, head.encode() + web_daemon.PNG[:50])
    assert images.used == 0


async def test_no_log_line_holds_an_upload_address(
    world: Any, images: assets.Assets, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    await world.post(upload(images), data=web_daemon.PNG)
    await world.post(upload(images), data=b"<html>")
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("runnerd")]
    assert any("/assets/upload/{capability} -> 200" in line for line in ours)
    assert not any(images.capability(VM) in line for line in ours)


async def test_a_disk_that_is_full_asks_to_come_again(
    world: Any, images: assets.Assets, monkeypatch: pytest.MonkeyPatch, place: fakes.Place
) -> None:
    def full(*given: Any) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    answer = await world.post(upload(images), data=web_daemon.PNG)
    assert (answer.status, answer.headers["Retry-After"]) == (503, "5")
