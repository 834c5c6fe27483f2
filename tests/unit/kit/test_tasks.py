from __future__ import annotations

import asyncio
import threading

import pytest

from provisioners.offload import Offload
from runnerd.kit import tasks
from tests.support.clocks import settle


async def _fail() -> None:
    raise ValueError("broken")


async def test_a_failing_task_is_told_with_its_name_and_the_others_live_on(caplog: pytest.LogCaptureFixture) -> None:
    told: list[tuple[str, BaseException]] = []
    group = tasks.Group("forge", on_failure=lambda name, error: told.append((name, error)))
    other = group.spawn("watch", asyncio.sleep(3600))
    group.spawn("poll", _fail())
    await settle()
    assert [(name, str(error)) for name, error in told] == [("forge/poll", "broken")]
    assert "forge/poll failed: broken" in caplog.text
    assert not other.done() and len(group) == 1
    await group.close()
    assert other.cancelled() and len(group) == 0


async def test_a_cancelled_task_is_no_failure() -> None:
    told: list[str] = []
    group = tasks.Group("x", on_failure=lambda name, _: told.append(name))
    group.spawn("sleep", asyncio.sleep(3600)).cancel()
    await settle()
    assert not told


async def test_closing_with_grace_lets_work_end_by_itself() -> None:
    group = tasks.Group("x")
    gate = asyncio.Event()

    async def work() -> str:
        await gate.wait()
        return "done"

    task = group.spawn("work", work())
    asyncio.get_running_loop().call_soon(gate.set)
    await group.close(grace=5.0)
    assert task.result() == "done"


async def test_blocking_work_leaves_the_loop_unless_the_width_is_zero() -> None:
    inline = Offload(0)
    assert await inline(threading.get_ident) == threading.get_ident()
    door = Offload(1)
    try:
        assert await door(threading.get_ident) != threading.get_ident()
        with pytest.raises(ZeroDivisionError):
            await door(lambda: 1 / 0)
    finally:
        door.close()
