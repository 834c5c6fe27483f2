"""`runnerd run` as a process of its own: start, status, SIGHUP, SIGTERM, and what it refuses to start with."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from runnerd.cli.exits import Exit
from tests.support.tree import ROOT

TEXT = """\
controller: smoke
state: {state}
listen: {{ops: "{ops}", public: "127.0.0.1:0", socket: r.sock}}
log: {{format: json}}
forges:
  hub: {{type: github, url: "http://127.0.0.1:1/acme", token: "env:RUNNERD_PAT"}}
providers:
  sky: {{type: fake}}
limits: {{instances: 2}}
reconcile: {{drain: 1s}}
pools:
  gpu-t4: {{gpu: t4}}
"""
TOKEN = "a-token-that-nobody-may-read"


def write(folder: Path, *, state: str = "state", ops: str = "127.0.0.1:0") -> Path:
    folder.mkdir(exist_ok=True)
    file = folder / "runnerd.yaml"
    file.write_text(TEXT.format(state=state, ops=ops))
    return file


def environment(**more: str) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "RUNNERD_PAT": TOKEN, **more}


def command(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "runnerd.cli", *arguments]
    return subprocess.run(line, env=environment(**more), capture_output=True, text=True, timeout=25, check=False)


class Running:
    def __init__(self, file: Path, process: subprocess.Popen[str], log: Path) -> None:
        self.file = file
        self.process = process
        self.log = log

    def lines(self) -> list[dict[str, Any]]:
        """The whole lines of the log."""
        return [json.loads(line) for line in self.log.read_text().splitlines(keepends=True) if line.endswith("\n")]

    def until(self, done: Callable[[], bool], *, within: float = 20.0) -> None:
        deadline = time.monotonic() + within
        while not done():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.02)

    def said(self, action: str) -> bool:
        return any(line.get("action") == action for line in self.lines())

    def status(self) -> dict[str, Any]:
        answer = command("status", "--json", "--config", str(self.file))
        assert answer.returncode == 0, answer.stderr
        found: dict[str, Any] = json.loads(answer.stdout)
        return found

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(timeout=20)


@contextlib.contextmanager
def daemon(file: Path, **more: str) -> Iterator[Running]:
    log = file.parent / "log"
    with log.open("w") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "runnerd.cli", "run", "--config", str(file)],
            env=environment(**more),
            stderr=stream,
            text=True,
        )
    found = Running(file, process, log)
    try:
        found.until(lambda: found.said("ready"))
        yield found
    finally:
        process.kill()
        process.wait(timeout=10)


def test_it_starts_answers_keeps_the_old_file_when_the_new_is_bad_and_ends_with_0(tmp_path: Path) -> None:
    with daemon(write(tmp_path)) as running:
        assert running.status()["controller"] == "smoke"
        assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700

        good = running.file.read_text()
        running.file.write_text(good.replace("gpu: t4}", "gpuu: t4}"))
        running.process.send_signal(signal.SIGHUP)
        running.until(lambda: running.said("reload-failed"))
        found = running.status()
        assert found["reload_ok"] is False
        assert any(one["reason"] == "reload-failed" and "gpuu" in one["detail"] for one in found["alarms"])
        assert [pool["name"] for pool in found["pools"]] == ["gpu-t4"]

        running.file.write_text(good + "  gpu-a100: {gpu: a100-40}\n")
        answer = command("reload", "--config", str(running.file))
        assert (answer.returncode, answer.stdout) == (0, "pool gpu-a100 added\n")
        assert running.status()["reload_ok"] is True

        assert running.end() == 0
        assert running.said("stopped")
        assert TOKEN not in running.log.read_text()
    assert command("status", "--config", str(running.file)).returncode == Exit.UNREACHABLE


def test_a_second_daemon_on_the_same_state_is_refused_and_the_first_goes_on(tmp_path: Path) -> None:
    with daemon(write(tmp_path / "one")) as running:
        other = write(tmp_path / "two", state=str(tmp_path / "one" / "state"))
        second = command("run", "--config", str(other))
        assert second.returncode == Exit.STATE
        assert "in use by runnerd" in second.stderr and "Traceback" not in second.stderr
        assert running.status()["pid"] == running.process.pid
        assert running.end(signal.SIGINT) == 0


def test_a_taken_port_and_a_taken_socket_are_told_before_anything_is_bought(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        where = "{}:{}".format(*taken.getsockname())
        answer = command("run", "--config", str(write(tmp_path / "port", ops=where)))
    assert answer.returncode == Exit.LISTEN
    assert where in answer.stderr and "Traceback" not in answer.stderr
    file = write(tmp_path / "sock")
    (tmp_path / "sock" / "r.sock").write_text("not a socket")
    answer = command("run", "--config", str(file))
    assert answer.returncode == Exit.LISTEN
    assert "not a socket" in answer.stderr and "Traceback" not in answer.stderr


@pytest.mark.parametrize(
    ("state", "exit", "words"),
    [
        pytest.param("nowhere/state", Exit.STATE, "does not exist", id="no parent"),
        pytest.param("runnerd.yaml", Exit.STATE, "cannot be created", id="a file in its place"),
    ],
)
def test_a_state_directory_that_cannot_be_had_is_told_in_words(
    tmp_path: Path, state: str, exit: Exit, words: str
) -> None:
    answer = command("run", "--config", str(write(tmp_path, state=state)))
    assert answer.returncode == exit, answer.stderr
    assert words in answer.stderr and "Traceback" not in answer.stderr


def test_systemd_is_told_that_it_is_ready_lives_and_stops(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(15)
        more = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "200000"}
        with daemon(write(tmp_path), **more) as running:
            assert manager.recv(4096).startswith(b"READY=1\n")
            assert manager.recv(4096) == b"WATCHDOG=1"
            assert running.end() == 0
            rest = b""
            while b"STOPPING=1" not in rest:
                rest = manager.recv(4096)


def test_a_daemon_without_work_sleeps(tmp_path: Path) -> None:
    with daemon(write(tmp_path)) as running:
        ticks = os.sysconf("SC_CLK_TCK")

        def used() -> float:
            fields = Path(f"/proc/{running.process.pid}/stat").read_text().rpartition(")")[2].split()
            return (int(fields[11]) + int(fields[12])) / ticks

        time.sleep(1.0)
        before = used()
        time.sleep(4.0)
        # One per cent of a core, and the clock's own grain of a hundredth of a second.
        assert used() - before <= 0.01 * 4.0 + 2 / ticks


def test_a_second_signal_leaves_at_once_and_the_next_start_resolves_what_is_unclear(tmp_path: Path) -> None:
    file = write(tmp_path)
    text = (
        file.read_text().replace("{type: fake}", "{type: fake, create_latency: 10m}").replace("drain: 1s", "drain: 10m")
    )
    file.write_text(text.replace("{gpu: t4}", "{gpu: t4, warm: 1}"))
    with daemon(file) as running:
        running.until(lambda: running.status()["instances"] == {"requesting": 1})
        running.process.send_signal(signal.SIGTERM)
        running.until(lambda: running.said("stop"))
        assert running.status()["stopping"] is True
        assert running.end() == Exit.PROBLEMS
    with daemon(file) as running:
        running.until(
            lambda: "unknown" in running.status()["instances"] or "requesting" in running.status()["instances"]
        )
