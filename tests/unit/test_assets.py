"""The store of report images."""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from provisioners.offload import Offload
from runnerd import assets, errors, model
from tests.support import clocks, fakes

PNG = b"\x89PNG\r\n\x1a\n" + b"pixels" * 50
VM = model.InstanceId("vm-1")


async def pieces(data: bytes, size: int = 64) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


@pytest.fixture
def alive() -> set[str]:
    return {"vm-1", "vm-2"}


def opened(place: fakes.Place, folder: Path, alive: set[str], **changes: Any) -> assets.Assets:
    values = {"max_bytes": 4096, "total_bytes": 20_000} | changes
    return assets.Assets(
        place.runtime.config.assets.model_copy(update=values),
        folder / "assets",
        b"the key of the images",
        place.clock.now,
        public_url="https://runnerd.example/",
        alive=lambda id: id in alive,
        offload=Offload(0),
        alarms=place.runtime.alarms,
    )


@pytest.fixture
def store(place: fakes.Place, tmp_path: Path, alive: set[str]) -> assets.Assets:
    return opened(place, tmp_path, alive)


def files(folder: Path) -> list[Path]:
    return sorted(path for path in (folder / "assets").rglob("*") if path.is_file())


async def put(store: assets.Assets, data: bytes = PNG, vm: model.InstanceId = VM) -> str:
    return await store.receive(store.capability(vm), pieces(data), length=len(data))


async def test_an_image_is_kept_under_an_address_that_nobody_guesses(store: assets.Assets, tmp_path: Path) -> None:
    url = await put(store)
    assert re.fullmatch(r"https://runnerd\.example/assets/[a-z2-7]{40}\.png", url)
    found = await store.find(url.rsplit("/", 1)[1])
    assert found is not None
    assert b"".join([piece async for piece in store.read(found)]) == PNG
    assert found.path.stat().st_mode & 0o077 == 0


async def test_the_same_content_is_kept_once(store: assets.Assets, tmp_path: Path) -> None:
    first, second = await asyncio.gather(put(store), put(store, vm=model.InstanceId("vm-2")))
    assert first == second
    assert len(files(tmp_path)) == 1
    assert store.used == len(PNG)


async def test_another_key_gives_other_addresses(store: assets.Assets, place: fakes.Place, tmp_path: Path) -> None:
    other = opened(place, tmp_path / "other", {"vm-1"})
    other._key = b"another key of the images"
    assert await put(store) != await put(other)


async def test_addresses_and_sizes_survive_a_restart(
    store: assets.Assets, place: fakes.Place, tmp_path: Path, alive: set[str]
) -> None:
    url = await put(store)
    later = opened(place, tmp_path, alive)
    assert await later.find(url.rsplit("/", 1)[1]) is not None
    await put(later, PNG + b"more")
    assert later.used == 2 * len(PNG) + 4


@pytest.mark.parametrize(
    "capability",
    ["", "vm-1", "vm-1." + "a" * 40, "../../etc", "vm-1/../vm-2.x", "vm-1." + "A" * 40, "vm-1." + "a" * 40 + "\n"],
)
async def test_a_capability_that_is_not_ours_is_refused(store: assets.Assets, capability: str) -> None:
    with pytest.raises(errors.Refused) as refused:
        await store.receive(capability, pieces(PNG))
    assert refused.value.status == 401


async def test_a_capability_is_good_for_its_own_instance_alone(store: assets.Assets) -> None:
    mac = store.capability(VM).split(".")[1]
    with pytest.raises(errors.Refused):
        store.holder(f"vm-2.{mac}")


async def test_a_capability_ends_with_its_instance(store: assets.Assets, alive: set[str], tmp_path: Path) -> None:
    alive.discard("vm-1")
    with pytest.raises(errors.Refused) as refused:
        await put(store)
    assert refused.value.status == 403
    assert not files(tmp_path)


def test_there_is_no_upload_address_without_a_public_one(store: assets.Assets) -> None:
    assert store.upload_url(VM) == f"https://runnerd.example/assets/upload/{store.capability(VM)}"
    assert store.upload_url(VM, base="http://10.0.0.1:8477/").startswith("http://10.0.0.1:8477/assets/upload/")
    store.configure(store.settings, None)
    assert store.upload_url(VM) == ""


@pytest.mark.parametrize(
    ("data", "status"),
    [
        pytest.param(b"", 400, id="empty"),
        pytest.param(b"<html><script>1</script>", 415, id="html"),
        pytest.param(b"plain words", 415, id="text"),
        pytest.param(b"\x7fELF" + b"x" * 100, 415, id="program"),
        pytest.param(b"%PDF-1.7 not configured", 415, id="pdf"),
        pytest.param(b"<!-- <svg> --><html>", 415, id="svg-in-a-comment"),
        pytest.param(b"<!DOCTYPE html><svg>", 415, id="html-with-svg"),
        pytest.param(PNG + b"x" * 5000, 413, id="too-large"),
    ],
)
async def test_what_is_not_taken_leaves_nothing_behind(
    store: assets.Assets, tmp_path: Path, data: bytes, status: int
) -> None:
    with pytest.raises(errors.Refused) as refused:
        await store.receive(store.capability(VM), pieces(data))
    assert refused.value.status == status
    assert not files(tmp_path)
    assert store.used == 0


async def test_a_large_file_of_a_wrong_kind_is_refused_before_its_end(place: fakes.Place, tmp_path: Path) -> None:
    store = opened(place, tmp_path, {"vm-1"}, max_bytes=10**7, total_bytes=10**9)
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(100):
            sent += 4096
            yield b"x" * 4096

    with pytest.raises(errors.Refused):
        await store.receive(store.capability(VM), endless())
    assert sent == 4096


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (b"\xff\xd8\xff\xe0JFIF", "jpeg"),
        (b"GIF89a...", "gif"),
        (b"RIFF\x00\x00\x00\x00WEBPVP8 ", "webp"),
        (b"RIFF\x00\x00\x00\x00WAVEfmt ", ""),
        (b"<svg/>", ""),
        (b"<svg >", "svg"),
        (b'\xef\xbb\xbf <?xml version="1.0"?><!DOCTYPE svg PUBLIC "x"><!-- a --><svg\n>', "svg"),
        (b"<svgx>", ""),
        (b"<svg>\x00", ""),
        (b"", ""),
    ],
)
def test_the_first_bytes_decide_what_a_file_is(head: bytes, kind: str) -> None:
    assert assets.sniff(head) == kind


def test_comments_cannot_make_the_look_at_a_file_slow() -> None:
    started = time.perf_counter()
    assert assets.sniff(b"<!---->" * 580 + b"x") == ""
    assert time.perf_counter() - started < 0.5


async def test_one_instance_cannot_fill_the_store(store: assets.Assets) -> None:
    with pytest.raises(errors.Refused) as refused:
        for number in range(100):
            await put(store, PNG + b"%3d" % number + b"x" * 700)
    assert refused.value.status == 429
    assert await put(store, vm=model.InstanceId("vm-2"))


async def test_a_full_store_refuses_and_alarms_until_it_was_swept(
    place: fakes.Place, tmp_path: Path, clock: clocks.ManualClock
) -> None:
    store = opened(place, tmp_path, {"vm-1"}, total_bytes=1000, max_bytes=4096)
    await put(store)
    with pytest.raises(errors.Refused) as refused:
        await put(store, PNG + b"x" * 800)
    assert refused.value.status == 507
    assert "store-full" in place.alarms()
    clock.time += 91 * 86400
    assert await store.sweep() == 1
    assert "store-full" not in place.alarms()
    await put(store, PNG + b"x" * 600)


async def test_images_are_kept_for_the_retention_and_used_ones_anew(
    store: assets.Assets, clock: clocks.ManualClock, tmp_path: Path
) -> None:
    old = await put(store)
    renewed = await put(store, PNG + b"2")
    clock.time += 60 * 86400
    assert await put(store, PNG + b"2") == renewed
    clock.time += 31 * 86400
    assert await store.find(old.rsplit("/", 1)[1]) is None
    assert await store.sweep() == 1
    assert await store.find(renewed.rsplit("/", 1)[1]) is not None
    assert store.used == len(PNG) + 1


async def test_an_upload_that_breaks_off_is_taken_back(store: assets.Assets, tmp_path: Path) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield PNG
        raise errors.Refused("the body is broken off", status=400)

    with pytest.raises(errors.Refused):
        await store.receive(store.capability(VM), broken())
    assert not files(tmp_path)
    assert store.used == 0


async def test_what_a_killed_process_left_is_swept(
    store: assets.Assets, tmp_path: Path, clock: clocks.ManualClock
) -> None:
    await put(store)
    left = tmp_path / "assets" / "tmp" / "1-1.part"
    left.write_bytes(b"half")
    os.utime(left, (clock.time, clock.time))
    assert await store.sweep() == 0
    clock.time += assets.STALE_S + 1
    assert await store.sweep() == 1
    assert not left.exists()


async def test_a_disk_that_takes_nothing_is_an_error_of_the_state(store: assets.Assets, tmp_path: Path) -> None:
    (tmp_path / "assets").write_bytes(b"a file where the directory should be")
    with pytest.raises(errors.StoreUnwritable):
        await put(store)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "..",
        "../../secret.key",
        "a" * 40,
        "a" * 40 + ".html",
        "A" * 40 + ".png",
        "a" * 39 + "/.png",
        "a" * 40 + ".png\n",
    ],
)
async def test_only_names_of_ours_are_looked_for(store: assets.Assets, name: str) -> None:
    assert await store.find(name) is None
