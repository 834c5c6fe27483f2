"""The machines of the simulated clouds keep to themselves: nothing of them reaches this host, nothing of them stays."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from provisioners.processes import identity
from tests.clouds import machines
from tests.e2e import processes

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(60)]


@pytest.fixture
def farm(tmp_path: Path) -> Iterator[machines.Machines]:
    made = machines.Machines(tmp_path / "machines")
    yield made
    made.close()


def _prints(farm: machines.Machines, ref: str, text: str) -> str:
    processes.until(
        lambda: text in farm.console(ref), f"{ref} prints {text}: {farm.console(ref)}", seconds=10, pause=0.02
    )
    return farm.console(ref)


def test_a_machine_shows_the_gpus_of_its_type(farm: machines.Machines) -> None:
    script = b"#!/bin/sh\nnvidia-smi -L\necho status $?\n"
    farm.start("us-east-1/i-1", script, name="one", gpus=machines.gpus_of("g4dn.12xlarge"))
    farm.start("zones/a/two", script, name="two", gpus=machines.gpus_of("n1-standard-4", "nvidia-tesla-t4", 1))
    farm.start("plain", script, name="three", gpus=machines.gpus_of("m5.large"))
    lines = _prints(farm, "us-east-1/i-1", "status 0").splitlines()
    assert [line.split(": ")[0] for line in lines[:4]] == ["GPU 0", "GPU 1", "GPU 2", "GPU 3"]
    assert all("Tesla T4 (UUID: GPU-" in line for line in lines[:4])
    assert _prints(farm, "zones/a/two", "status 0").count("Tesla T4") == 1
    assert "has failed" in _prints(farm, "plain", "status 9")


def test_switching_off_is_heard_by_the_cloud_alone(farm: machines.Machines) -> None:
    farm.start("i-1", b"#!/bin/sh\nsystemctl poweroff\nsystemctl stop docker; echo $?\nsleep 100\n", name="one")
    farm.start("i-2", b"#!/bin/sh\nmkfs.ext4 -q -F /dev/sda1; echo status $?\nsleep 100\n", name="two")
    assert "could not be found" in _prints(farm, "i-1", "5\n")
    assert farm.off() == ["i-1"]
    assert "no such device" in _prints(farm, "i-2", "status 1")
    assert farm.commands("i-1") == ["systemctl poweroff", "systemctl stop docker"]
    assert farm.running == {"i-1", "i-2"}, "its cloud decides what that means"


def test_a_timer_switches_a_machine_off_when_its_script_is_over(farm: machines.Machines) -> None:
    script = b"#!/bin/sh\nsystemd-run --quiet --collect --unit=end --on-active=1 /bin/sh -c poweroff\n"
    farm.start("i-1", script, name="one")
    processes.until(farm.off, "the machine is off", seconds=10)
    assert farm.commands("i-1")[-1].startswith("poweroff")


def test_pulling_the_plug_ends_all_processes_of_one_machine_and_no_other(farm: machines.Machines) -> None:
    script = b"#!/bin/sh\ntrap '' TERM\nsetsid sh -c 'trap \"\" TERM; sleep 100' &\nsleep 100 & echo up; wait\n"
    for ref in ("i-1", "i-2"):
        farm.start(ref, script, name=ref)
        _prints(farm, ref, "up")
    farm.end(["i-1"])
    assert farm.processes() == ["i-2"]
    assert identity.alive(_self())
    farm.close()
    assert farm.processes() == []
    farm.end(["i-1", "never"])


def test_user_data_that_is_no_script_boots_nothing(farm: machines.Machines) -> None:
    farm.start("i-1", b"echo hello\n", name="one")
    assert farm.running == frozenset()
    assert "no script" in farm.console("i-1")


def _self() -> identity.Identity:
    found = identity.identify(os.getpid())
    assert found is not None
    return found
