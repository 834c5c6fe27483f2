"""What systemd is told."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from runnerd.kit import sdnotify


def test_without_a_manager_nothing_is_sent() -> None:
    assert sdnotify.Notify({}).send(READY=1) is False


def test_facts_are_lines_and_no_value_can_add_one(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "n"))
        environ = {"NOTIFY_SOCKET": str(tmp_path / "n")}
        told = sdnotify.Notify(environ)
        assert told.send(READY=1, STATUS="two pools\nMAINPID=1")
        assert manager.recv(100) == b"READY=1\nSTATUS=two pools"
        assert environ == {}, "children must not speak for the service"


def test_a_manager_that_is_gone_is_no_reason_to_fail(tmp_path: Path) -> None:
    assert sdnotify.Notify({"NOTIFY_SOCKET": str(tmp_path / "gone")}).send(READY=1) is False


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [
        ({}, 0.0),
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, 0.0),
        ({"WATCHDOG_USEC": "often"}, 0.0),
    ],
)
def test_the_watchdog_counts_only_when_it_is_meant_for_us(environ: dict[str, str], seconds: float) -> None:
    assert sdnotify.Notify(dict(environ)).watchdog == seconds
