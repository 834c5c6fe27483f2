"""A simulated cloud whose instances are processes: both sides stay in step."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from provisioners import base, fake
from provisioners.base import EndKind, InstanceStatus, Market
from provisioners.processes import identity, records

ROOT = Path(fake.__file__).resolve().parent.parent.parent


class Cloud:
    """A simulated cloud with processes in a directory."""

    def __init__(self, directory: Path, **options: Any) -> None:
        self.directory = directory
        self.options = {"backing": "local", "boot": 0, "grace": 1, **options}
        self.context = base.Context("sim", "acme-ci", str(directory), time.time, asyncio.sleep)
        self.provisioner = fake.Fake(self.context, self.options)

    async def restarted(self) -> fake.Fake:
        self.provisioner = fake.Fake(self.context, self.options)
        await self.provisioner.start()
        return self.provisioner

    async def request(self, name: str, script: str, *, market: Market = Market.ON_DEMAND) -> base.CreateRequest:
        offer = (await self.provisioner.offers(base.Shape("t4", 1, markets=(market,))))[0]
        tags = {base.TAG_CONTROLLER: "acme-ci", base.TAG_INSTANCE: name}
        return base.CreateRequest(f"key-{name}", name, offer, script, tags, time.time() + 60)

    def members(self, name: str) -> list[identity.Identity]:
        directory = self.directory / "processes" / "instances" / name
        who = records.supervisor(directory)
        return identity.members(str(directory), [who] if who else [])

    async def until(self, ref: str, status: InstanceStatus) -> None:
        for _ in range(300):
            view = await self.provisioner.describe(ref)
            if view is not None and view.status is status:
                return
            await asyncio.sleep(0.02)
        raise AssertionError(f"{ref} is {view}, not {status}")


@pytest.fixture
async def cloud(tmp_path: Path) -> AsyncIterator[Cloud]:
    made = Cloud(tmp_path)
    await made.provisioner.start()
    yield made
    for view in (await made.provisioner.list_owned()).views:
        await made.provisioner.delete(view.ref)
        await made.until(view.ref, InstanceStatus.GONE)
        assert made.members(view.name) == []
    await made.provisioner.close()


STAYS = "#!/bin/sh\nsleep 61\n"


async def test_the_script_waits_for_the_simulated_boot(tmp_path: Path) -> None:
    cloud, started = Cloud(tmp_path, boot=0.8), tmp_path / "started"
    await cloud.provisioner.start()
    made = await cloud.provisioner.create(await cloud.request("one", f"#!/bin/sh\ntouch {started}\nsleep 61\n"))
    assert made.status is InstanceStatus.PENDING
    await asyncio.sleep(0.3)
    assert not started.exists()
    await cloud.until(made.ref, InstanceStatus.RUNNING)
    for _ in range(100):
        if started.exists():
            break
        await asyncio.sleep(0.02)
    assert started.exists()
    await cloud.provisioner.delete(made.ref)
    await cloud.until(made.ref, InstanceStatus.GONE)


async def test_a_script_that_ends_ends_its_simulated_machine(cloud: Cloud) -> None:
    made = await cloud.provisioner.create(await cloud.request("one", "#!/bin/sh\nexit 0\n"))
    await cloud.until(made.ref, InstanceStatus.GONE)
    assert (await cloud.provisioner.end_reason(made.ref)).kind is EndKind.SELF_ENDED


async def test_a_script_that_breaks_is_a_failed_machine(cloud: Cloud) -> None:
    made = await cloud.provisioner.create(await cloud.request("one", "#!/bin/sh\nexit 3\n"))
    await cloud.until(made.ref, InstanceStatus.GONE)
    reason = await cloud.provisioner.end_reason(made.ref)
    assert (reason.kind, "exit status 3" in reason.detail) == (EndKind.FAILED, True)


async def test_a_machine_that_was_taken_back_loses_its_processes_without_the_daemon(tmp_path: Path) -> None:
    cloud = Cloud(tmp_path, faults=[{"preempt_after": 0.5}])
    await cloud.provisioner.start()
    made = await cloud.provisioner.create(await cloud.request("one", STAYS, market=Market.SPOT))
    members = cloud.members("one")
    assert members
    for _ in range(200):
        if not any(identity.alive(one) for one in members):
            break
        await asyncio.sleep(0.02)
    await cloud.until(made.ref, InstanceStatus.GONE)
    assert (await cloud.provisioner.end_reason(made.ref)).kind is EndKind.PREEMPTED


async def test_a_machine_is_not_gone_while_its_processes_are_there(cloud: Cloud) -> None:
    made = await cloud.provisioner.create(
        await cloud.request("one", "#!/bin/sh\ntrap '' TERM\nwhile :; do sleep 1; done\n")
    )
    await asyncio.sleep(0.1)
    await cloud.provisioner.delete(made.ref)
    view = await cloud.provisioner.describe(made.ref)
    assert view is not None and view.status is InstanceStatus.ENDING
    await cloud.until(made.ref, InstanceStatus.GONE)
    assert cloud.members("one") == []


async def test_an_end_that_frees_capacity_is_noticed_by_the_next_create(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fake.provider, "_FRESH_S", 0.0)
    cloud = Cloud(tmp_path, regions={"us-1": {"capacity": 1}})
    await cloud.provisioner.start()
    await cloud.provisioner.create(await cloud.request("one", "#!/bin/sh\nexit 0\n"))
    second = await cloud.request("two", STAYS)
    for _ in range(100):
        try:
            made = await cloud.provisioner.create(second)
            break
        except base.ProvisionError as error:
            assert error.kind is base.Kind.CAPACITY
            await asyncio.sleep(0.05)
    await cloud.provisioner.delete(made.ref)
    await cloud.until(made.ref, InstanceStatus.GONE)


async def test_processes_that_cannot_be_started_are_a_failed_machine(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", "/no/such/python")
        made = await cloud.provisioner.create(await cloud.request("one", STAYS))
    assert made.status is InstanceStatus.GONE
    reason = await cloud.provisioner.end_reason(made.ref)
    assert (reason.kind, "could not be started" in reason.detail) == (EndKind.FAILED, True)


async def test_a_machine_whose_processes_a_crash_prevented_is_given_up(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = await cloud.request("one", STAYS)
    machine, _ = await cloud.provisioner._alone(lambda: cloud.provisioner._buy(request, []))
    assert machine is not None
    monkeypatch.setattr(fake.provider, "_LAUNCHING_S", 0.0)
    again = await cloud.restarted()
    view = await again.describe(machine.ref)
    assert view is not None and view.status is InstanceStatus.GONE
    assert "crash" in (await again.end_reason(machine.ref)).detail


async def test_a_repeated_request_starts_what_a_crash_prevented_and_nothing_twice(cloud: Cloud, tmp_path: Path) -> None:
    starts = tmp_path / "starts"
    request = await cloud.request("one", f"#!/bin/sh\necho started >> {starts}\nsleep 61\n")
    await cloud.provisioner._alone(lambda: cloud.provisioner._buy(request, []))
    again = await cloud.restarted()
    for _ in range(2):
        made = await again.create(request)
    await cloud.until(made.ref, InstanceStatus.RUNNING)
    for _ in range(100):
        if starts.exists() and starts.read_text():
            break
        await asyncio.sleep(0.02)
    assert starts.read_text() == "started\n"


async def test_a_caller_that_loses_patience_does_not_stop_the_launch(cloud: Cloud) -> None:
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
    busy = threading.Event()
    cloud.provisioner._followed = time.time() + 60
    request = await cloud.request("one", STAYS)
    blocked = asyncio.get_running_loop().run_in_executor(None, busy.wait)
    creating = asyncio.ensure_future(cloud.provisioner.create(request))
    await asyncio.sleep(0.05)
    creating.cancel()
    await asyncio.gather(creating, return_exceptions=True)
    busy.set()
    await blocked
    await cloud.provisioner.close()
    assert cloud.members("one")
    assert (await cloud.provisioner.list_owned()).views[0].status is InstanceStatus.RUNNING


DAEMON = """
import asyncio, json, sys, time
sys.path.insert(0, sys.argv[1])
from provisioners import base, fake
async def main(directory, options, names):
    cloud = fake.Fake(base.Context("sim", "acme-ci", directory, time.time, asyncio.sleep), options)
    await cloud.start()
    offer = (await cloud.offers(base.Shape("t4", 1)))[0]
    print("ready", flush=True)
    async def one(name):
        script = "#!/bin/sh\\necho " + name + " >> " + directory + "/starts\\nexec sleep 61\\n"
        tags = {base.TAG_CONTROLLER: "acme-ci", base.TAG_INSTANCE: name}
        await cloud.create(base.CreateRequest("key-" + name, name, offer, script, tags, time.time() + 60))
    await asyncio.gather(*(one(name) for name in names))
    await asyncio.sleep(60)
asyncio.run(main(sys.argv[2], json.loads(sys.argv[3]), sys.argv[4:]))
"""


async def test_a_killed_daemon_leaves_no_process_that_its_cloud_does_not_know(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fake.provider, "_LAUNCHING_S", 0.0)
    chosen, names = random.Random(3), [f"i-{number}" for number in range(5)]
    cloud = Cloud(tmp_path)
    arguments = [str(ROOT), str(tmp_path), json.dumps(cloud.options), *names]
    for _ in range(4):
        daemon = subprocess.Popen([sys.executable, "-c", DAEMON, *arguments], stdout=subprocess.PIPE)
        assert daemon.stdout is not None and daemon.stdout.readline() == b"ready\n"
        await asyncio.sleep(chosen.uniform(0.0, 0.25))
        daemon.kill()
        daemon.wait()
        daemon.stdout.close()
    # A launch that outlived its daemon needs a moment to leave its mark.
    await asyncio.sleep(0.5)
    again = await cloud.restarted()
    views = {view.name: view for view in (await again.list_owned()).views}
    starts = (tmp_path / "starts").read_text().split() if (tmp_path / "starts").exists() else []
    assert len(starts) == len(set(starts))
    for name in names:
        running = name in views and views[name].status is InstanceStatus.RUNNING
        assert bool(cloud.members(name)) is running, name
    for view in views.values():
        await again.delete(view.ref)
        await cloud.until(view.ref, InstanceStatus.GONE)
    assert [one for name in names for one in cloud.members(name)] == []
