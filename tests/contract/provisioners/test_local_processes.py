"""Guarantees of ``local`` beyond the contract: about processes, crashes and time."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from provisioners import base, local
from provisioners.processes import identity, instance_directory, records

ROOT = Path(local.__file__).resolve().parent.parent


class Yard:
    """A ``local`` provisioner in a directory, with requests for it."""

    def __init__(self, directory: Path, **options: object) -> None:
        self.directory = directory
        self.options = {"grace": 1, **options}
        self.context = base.Context("beside", "acme-ci", str(directory), time.time, asyncio.sleep)
        self.provisioner = local.Local(self.context, self.options)

    def request(self, name: str, script: str, *, lifetime: float = 60.0) -> base.CreateRequest:
        offer = base.Offer("beside", "local", "local", "local", "process", base.Market.ON_DEMAND, 0.0)
        tags = {base.TAG_CONTROLLER: "acme-ci", base.TAG_INSTANCE: name}
        return base.CreateRequest(f"key-{name}", name, offer, script, tags, time.time() + lifetime)

    def instance(self, name: str) -> Path:
        return self.directory / "instances" / name

    def members(self, name: str) -> list[identity.Identity]:
        who = records.supervisor(self.instance(name))
        return identity.members(str(self.instance(name)), [who] if who else [])

    async def status(self, name: str) -> base.InstanceStatus | None:
        view = await self.provisioner.describe(name)
        return None if view is None else view.status

    async def until(self, name: str, status: base.InstanceStatus) -> None:
        for _ in range(400):
            if await self.status(name) is status:
                return
            await asyncio.sleep(0.02)
        raise AssertionError(f"{name} is {await self.status(name)}, not {status}")


async def until_written(path: Path) -> str:
    for _ in range(400):
        if path.exists() and path.read_text().endswith("\n"):
            return path.read_text()
        await asyncio.sleep(0.02)
    raise AssertionError(f"nobody writes {path}")


@pytest.fixture
async def yard(tmp_path: Path) -> AsyncIterator[Yard]:
    made = Yard(tmp_path)
    await made.provisioner.start()
    yield made
    for view in (await made.provisioner.list_owned()).views:
        await made.provisioner.delete(view.ref)
        assert made.members(view.ref) == []


async def test_the_script_sees_a_minimal_environment_and_no_terminal(
    yard: Yard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNNERD_SECRET", "hunter2")
    seen = tmp_path / "seen"
    look = "pwd; readlink /proc/self/fd/0; env | cut -d= -f1 | sort | xargs"
    script = f"#!/bin/sh\n({look}) > {seen}.new; mv {seen}.new {seen}; sleep 61\n"
    await yard.provisioner.create(yard.request("one", script))
    where, stdin, names = (await until_written(seen)).splitlines()
    assert where == str(yard.instance("one") / "home")
    assert stdin == "/dev/null"
    assert set(names.split()) <= {"HOME", "LANG", "PATH", "PWD", "RUNNERD_INSTANCE", "RUNNERD_INSTANCE_DIRECTORY", "_"}
    for path in (yard.instance("one"), yard.instance("one") / "home"):
        assert path.stat().st_mode & 0o777 == 0o700


async def test_nothing_of_the_boot_script_is_in_any_command_line(yard: Yard) -> None:
    await yard.provisioner.create(yard.request("one", "#!/bin/sh\n: s3cret-token\nsleep 60\n"))
    lines = [Path(f"/proc/{one.pid}/cmdline").read_bytes() for one in yard.members("one")]
    assert lines and not any(b"s3cret" in line for line in lines)


async def test_a_delete_ends_also_what_left_the_group_and_shed_its_environment(yard: Yard, tmp_path: Path) -> None:
    shed, stubborn = tmp_path / "shed", tmp_path / "stubborn"
    script = (
        "#!/bin/sh\ntrap '' TERM\n"
        f"(setsid env -i /bin/sh -c 'echo $$ > {shed}; exec /bin/sleep 61' &)\n"
        f"(setsid sh -c 'trap \"\" TERM; echo $$ > {stubborn}; while :; do sleep 1; done' &)\n"
        "while :; do sleep 1; done\n"
    )
    await yard.provisioner.create(yard.request("one", script))
    strays = [identity.identify(int(await until_written(path))) for path in (shed, stubborn)]
    await yard.provisioner.delete("one")
    for stray in strays:
        assert stray is not None
        escaped = identity.send(stray, signal.SIGKILL)
        assert not escaped
    assert await yard.status("one") is base.InstanceStatus.GONE


async def test_the_end_of_the_script_takes_its_stragglers_along(yard: Yard) -> None:
    await yard.provisioner.create(yard.request("one", "#!/bin/sh\nsetsid sleep 61 &\necho done; exit 0\n"))
    await yard.until("one", base.InstanceStatus.GONE)
    assert yard.members("one") == []
    assert (await yard.provisioner.end_reason("one")).kind is base.EndKind.SELF_ENDED
    assert await yard.provisioner.console_log("one") == "done\n"


@pytest.mark.parametrize(
    ("script", "words"),
    [
        pytest.param("#!/bin/sh\nexit 3\n", "exit status 3", id="exits with an error"),
        pytest.param("#!/bin/sh\nkill -9 $$\n", "killed by signal 9", id="killed"),
        pytest.param("#!/no/such/interpreter\n", "exit status 127", id="cannot be run"),
    ],
)
async def test_a_script_that_breaks_is_a_failure_with_its_status(yard: Yard, script: str, words: str) -> None:
    await yard.provisioner.create(yard.request("one", script))
    await yard.until("one", base.InstanceStatus.GONE)
    reason = await yard.provisioner.end_reason("one")
    assert reason.kind is base.EndKind.FAILED
    assert words in reason.detail


async def test_what_a_gone_instance_knew_is_removed_and_its_console_kept(yard: Yard) -> None:
    await yard.provisioner.create(yard.request("one", "#!/bin/sh\necho hello > file; echo bye\n"))
    await yard.until("one", base.InstanceStatus.GONE)
    assert not (yard.instance("one") / "boot").exists()
    assert not (yard.instance("one") / "home").exists()
    assert await yard.provisioner.console_log("one") == "bye\n"


async def test_the_deadline_is_kept_with_nobody_watching(yard: Yard) -> None:
    await yard.provisioner.create(yard.request("one", "#!/bin/sh\nsleep 61\n", lifetime=0.6))
    who = records.supervisor(yard.instance("one"))
    assert who is not None
    for _ in range(200):
        if not identity.alive(who):
            break
        await asyncio.sleep(0.02)
    assert yard.members("one") == []
    assert json.loads((yard.instance("one") / "end.json").read_text())["cause"] == "deadline"


async def test_a_dead_supervisor_takes_the_script_along_and_the_rest_is_shown_as_stopped(
    yard: Yard, tmp_path: Path
) -> None:
    ready = tmp_path / "ready"
    script = f"#!/bin/sh\n(setsid sh -c 'echo ready > {ready}; exec sleep 61' &)\nsleep 62\n"
    await yard.provisioner.create(yard.request("one", script))
    await until_written(ready)
    who = records.supervisor(yard.instance("one"))
    assert who is not None
    identity.send(who, signal.SIGKILL)
    await yard.until("one", base.InstanceStatus.STOPPED)
    for _ in range(100):
        left = [Path(f"/proc/{one.pid}/cmdline").read_bytes() for one in yard.members("one")]
        if left == [b"sleep\x0061\x00"] or left == [b"sleep\x0061\x00", b"sleep\x0062\x00"]:
            break
        await asyncio.sleep(0.02)
    assert not any(line.startswith(b"/bin/sh") for line in left)
    await yard.provisioner.delete("one")
    assert await yard.status("one") is base.InstanceStatus.GONE
    assert yard.members("one") == []


async def test_a_supervisor_that_hangs_does_not_save_its_instance(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "_SLACK_S", 0.2)
    await yard.provisioner.create(yard.request("one", "#!/bin/sh\nsleep 61\n"))
    members = yard.members("one")
    for one in members:
        identity.send(one, signal.SIGSTOP)
    await yard.provisioner.delete("one")
    assert not any(identity.alive(one) for one in members)


async def test_a_vanished_instance_is_a_failure_not_a_success(yard: Yard) -> None:
    await yard.provisioner.create(yard.request("one", "#!/bin/sh\nsleep 61\n"))
    # Again until none is left: a shell that was just about to start another process has started it meanwhile.
    while members := yard.members("one"):
        for one in members:
            identity.send(one, signal.SIGKILL)
    await yard.until("one", base.InstanceStatus.GONE)
    assert (await yard.provisioner.end_reason("one")).kind is base.EndKind.FAILED


async def test_after_a_reboot_every_instance_is_gone_and_none_is_started_again(yard: Yard) -> None:
    await yard.provisioner.create(yard.request("one", "#!/bin/sh\nsleep 61\n"))
    who = records.supervisor(yard.instance("one"))
    assert who is not None
    record = records.read(yard.instance("one") / records.RECORD)
    assert record is not None
    records.write(yard.instance("one") / records.RECORD, {**record, "boot": "an-earlier-boot"})
    assert await yard.status("one") is base.InstanceStatus.GONE
    assert "started anew" in (await yard.provisioner.end_reason("one")).detail
    # The pid lives on under the same number, which must not matter; clear it away by its identity.
    identity.send(who, signal.SIGTERM)
    for _ in range(200):
        if not identity.alive(who):
            break
        await asyncio.sleep(0.02)


async def test_a_pid_that_was_reused_is_not_taken_for_ours(yard: Yard) -> None:
    mine = identity.identify(os.getpid())
    assert mine is not None
    assert identity.alive(mine)
    other = identity.Identity(mine.pid, mine.started - 1, mine.boot)
    assert not identity.alive(other)
    assert not identity.send(other, signal.SIGKILL)
    assert not identity.alive(identity.Identity(mine.pid, mine.started, "another boot"))


async def test_beyond_the_slots_there_is_no_capacity_and_an_end_frees_one(tmp_path: Path) -> None:
    yard = Yard(tmp_path, slots=2)
    await yard.provisioner.start()
    stays = "#!/bin/sh\nsleep 61\n"
    for name in ("one", "two"):
        await yard.provisioner.create(yard.request(name, stays))
    with pytest.raises(base.ProvisionError) as caught:
        await yard.provisioner.create(yard.request("three", stays))
    assert (caught.value.kind, caught.value.maybe_created) == (base.Kind.CAPACITY, False)
    assert caught.value.scope == "beside/local/local/local/*/*"
    await yard.provisioner.delete("one")
    await yard.provisioner.create(yard.request("three", stays))
    await asyncio.gather(*(yard.provisioner.delete(name) for name in ("two", "three")))


async def test_slots_hold_when_many_create_at_once(tmp_path: Path) -> None:
    yard = Yard(tmp_path, slots=2)
    await yard.provisioner.start()
    requests = [yard.request(f"n{number}", "#!/bin/sh\nsleep 61\n") for number in range(6)]
    results = await asyncio.gather(*(yard.provisioner.create(one) for one in requests), return_exceptions=True)
    assert sum(isinstance(one, base.InstanceView) for one in results) == 2
    for view in (await yard.provisioner.list_owned()).views:
        await yard.provisioner.delete(view.ref)


async def test_a_name_of_another_instance_is_refused_for_certain(yard: Yard) -> None:
    request = yard.request("one", "#!/bin/sh\nsleep 61\n")
    await yard.provisioner.create(request)
    again = base.CreateRequest("another-key", "one", request.offer, request.user_data, request.tags, request.deadline)
    with pytest.raises(base.ProvisionError) as caught:
        await yard.provisioner.create(again)
    assert (caught.value.kind, caught.value.maybe_created) == (base.Kind.CONFIG, False)


async def test_an_instance_gone_for_long_is_forgotten(tmp_path: Path) -> None:
    yard = Yard(tmp_path, keep=0)
    await yard.provisioner.start()
    await yard.provisioner.create(yard.request("one", "#!/bin/sh\nexit 0\n"))
    for _ in range(300):
        await yard.provisioner.list_owned()
        if not yard.instance("one").exists():
            break
        await asyncio.sleep(0.02)
    assert await yard.status("one") is None
    assert os.listdir(tmp_path / "instances") == []


@pytest.mark.parametrize("name", ["../escape", "a/b", "", ".", "..", ".new-x", "UPPER"])
async def test_a_handle_is_never_a_path(yard: Yard, tmp_path: Path, name: str) -> None:
    (tmp_path / "escape").mkdir()
    await yard.provisioner.delete(name)
    assert await yard.provisioner.describe(name) is None
    assert await yard.provisioner.console_log(name) is None
    assert (tmp_path / "escape").exists()


async def test_a_create_that_was_on_record_but_not_started_is_finished_at_the_next_start(
    yard: Yard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts = tmp_path / "starts"
    request = yard.request("one", f"#!/bin/sh\necho started >> {starts}\nsleep 61\n")

    def crash(self: instance_directory.InstanceDirectory, directory: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(instance_directory.InstanceDirectory, "_launch", crash)
        with pytest.raises(KeyboardInterrupt):
            yard.provisioner._instances.create(spec_of(yard, request), request.user_data)
    assert await yard.status("one") is base.InstanceStatus.PENDING
    again = Yard(tmp_path)
    await again.provisioner.start()
    await again.provisioner.create(request)
    assert await until_written(starts) == "started\n"
    assert await again.status("one") is base.InstanceStatus.RUNNING


async def test_however_often_it_is_launched_the_script_starts_once(yard: Yard, tmp_path: Path) -> None:
    starts = tmp_path / "starts"
    await yard.provisioner.create(yard.request("one", f"#!/bin/sh\necho started >> {starts}\nsleep 61\n"))
    launches = (asyncio.to_thread(yard.provisioner._instances._launch, yard.instance("one")) for _ in range(4))
    await asyncio.gather(*launches)
    who = records.supervisor(yard.instance("one"))
    assert who is not None and identity.alive(who)
    await asyncio.sleep(0.2)
    assert await until_written(starts) == "started\n"


async def test_a_delete_before_the_start_is_final(yard: Yard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    starts = tmp_path / "starts"
    request = yard.request("one", f"#!/bin/sh\necho started >> {starts}\n")
    with monkeypatch.context() as patch:
        patch.setattr(instance_directory.InstanceDirectory, "_launch", lambda self, directory: None)
        yard.provisioner._instances.create(spec_of(yard, request), request.user_data)
    await yard.provisioner.delete("one")
    await yard.provisioner.start()
    await yard.provisioner.create(request)
    with pytest.raises(OSError):
        yard.provisioner._instances._launch(yard.instance("one").with_name("nothing-there"))
    yard.provisioner._instances._launch(yard.instance("one"))
    assert await yard.status("one") is base.InstanceStatus.GONE
    assert not starts.exists()


def spec_of(yard: Yard, request: base.CreateRequest) -> instance_directory.Spec:
    return instance_directory.Spec(
        key=request.key,
        name=request.name,
        tags=request.tags,
        offer=request.offer.key,
        created_at=time.time(),
        starts_after=0.0,
        ends_after=60.0,
        ends_cause=records.Cause.DEADLINE,
        grace=1.0,
    )


async def test_a_launch_that_cannot_work_is_a_definite_failure_and_leaves_nothing(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    with pytest.raises(base.ProvisionError) as caught:
        await yard.provisioner.create(yard.request("one", "#!/bin/sh\n"))
    assert (caught.value.kind, caught.value.maybe_created) == (base.Kind.TRANSIENT, False)
    assert (await yard.provisioner.list_owned()).views == ()


async def test_a_damaged_record_makes_the_listing_incomplete_instead_of_empty(yard: Yard) -> None:
    yard.instance("broken").mkdir()
    (yard.instance("broken") / records.RECORD).write_text("{")
    listing = await yard.provisioner.list_owned()
    assert not listing.covers(base.Scope("beside/local/local/local"))
    assert "broken" in listing.failures["beside/local/local/local"]


DAEMON = """
import asyncio, sys, time
sys.path.insert(0, sys.argv[1])
from provisioners import base, local
async def main(directory, starts):
    provisioner = local.Local(base.Context("beside", "acme-ci", directory, time.time, asyncio.sleep), {"grace": 1})
    await provisioner.start()
    offer = base.Offer("beside", "local", "local", "local", "process", base.Market.ON_DEMAND, 0.0)
    script = "#!/bin/sh\\necho $$ >> " + starts + "\\nexec sleep 61\\n"
    tags = {base.TAG_CONTROLLER: "acme-ci", base.TAG_INSTANCE: "one"}
    print("ready", flush=True)
    await provisioner.create(base.CreateRequest("key-one", "one", offer, script, tags, time.time() + 60))
    print("created", flush=True)
    await asyncio.sleep(60)
asyncio.run(main(sys.argv[2], sys.argv[3]))
"""


async def test_however_often_the_daemon_is_killed_midway_the_script_starts_once(tmp_path: Path) -> None:
    chosen = random.Random(7)
    for turn in range(4):
        directory, starts = tmp_path / str(turn), tmp_path / f"starts-{turn}"
        for _ in range(3):
            daemon = subprocess.Popen(
                [sys.executable, "-c", DAEMON, str(ROOT), str(directory), str(starts)], stdout=subprocess.PIPE
            )
            assert daemon.stdout is not None and daemon.stdout.readline() == b"ready\n"
            time.sleep(chosen.uniform(0.0, 0.1))
            daemon.kill()
            daemon.wait()
            daemon.stdout.close()
        yard = Yard(directory)
        await yard.provisioner.start()
        await yard.provisioner.create(yard.request("one", f"#!/bin/sh\necho $$ >> {starts}\nexec sleep 61\n"))
        pids = (await until_written(starts)).split()
        views = (await yard.provisioner.list_owned()).views
        assert [(view.name, view.status) for view in views] == [("one", base.InstanceStatus.RUNNING)]
        assert len(pids) == 1
        await yard.provisioner.delete("one")
        assert not Path(f"/proc/{pids[0]}").exists()
