"""The process is killed in the middle of its writes; what was acknowledged is there, and nothing is half there."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import runnerd
from runnerd import errors, model, store

from .conftest import Opener

#: Writes pairs (an instance and its event in one call, from many tasks) and says each pair that is durable.
CHILD = """
import asyncio, os, sys, time
from provisioners.offload import Offload
from runnerd import model, store

async def pour(state, lane):
    number = 0
    while True:
        name = f"{lane}-{number}"
        await state.write(
            model.Instance(model.InstanceId(name), "gpu-t4", model.InstanceState.PLANNED, 1.0, float(number)),
            model.Event(float(number), "instance", name, "planned"),
        )
        os.write(1, (name + "\\n").encode())
        number += 1

async def main():
    state = await store.Store.open(sys.argv[1], offload=Offload(2), now=time.time)
    await asyncio.gather(*(pour(state, lane) for lane in range(8)))

asyncio.run(main())
"""


def killed_after(lines: int, url: str) -> list[str]:
    """What a child acknowledged until it was killed."""
    root = Path(runnerd.__file__).parent.parent
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, url], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=root, text=True
    )
    try:
        said = []
        assert child.stdout is not None
        for line in child.stdout:
            said.append(line)
            if len(said) == lines:
                break
        child.kill()
        rest, trouble = child.communicate(timeout=20)
    finally:
        child.kill()
        child.wait(20)
    assert len(said) == lines, trouble
    # A line that was cut short was not acknowledged.
    return [line.strip() for line in said + rest.splitlines(keepends=True) if line.endswith("\n")]


async def reopened(url: str, opened: Opener) -> store.Store:
    """A server takes a moment to notice that its client is dead."""
    for _ in range(100):
        try:
            return await opened(url)
        except errors.StoreBusy:
            await asyncio.sleep(0.05)
    pytest.fail("the lock of a killed process is still held")


@pytest.mark.parametrize("lines", [1, 150, 400])
async def test_everything_acknowledged_survives_a_kill(durable_url: str, opened: Opener, lines: Any) -> None:
    acknowledged = killed_after(lines, durable_url)
    state = await reopened(durable_url, opened)
    loaded = await state.load()
    stored = {each.id for each in loaded.instances}
    events = await state.events(limit=100_000)
    assert set(acknowledged) <= stored
    # A call is there whole or not at all, and each lane is without a gap.
    assert {each.id for each in events} == stored and len(events) == len(stored)
    for lane in range(8):
        numbers = sorted(int(name.split("-")[1]) for name in stored if name.startswith(f"{lane}-"))
        assert numbers == list(range(len(numbers)))
    await state.write(model.Event(1.0, "daemon", "d", "restarted"))


async def test_a_killed_process_leaves_no_lock_on_a_file(file_url: str, opened: Opener) -> None:
    killed_after(1, file_url)
    await opened(file_url)
