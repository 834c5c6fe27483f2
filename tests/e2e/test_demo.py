"""The demo as a person runs it: one command in some directory, its exit status, its last line, and nothing left."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from provisioners.processes import identity
from runnerd.demo import processes, workspace
from tests.support.tree import ROOT

#: Seconds for the whole demo on a busy machine.
PATIENCE = 450.0

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(PATIENCE + 30)]


def start(directory: Path, *arguments: str) -> subprocess.Popen[str]:
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    return subprocess.Popen(
        [sys.executable, "-m", "runnerd.demo", *arguments],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": path},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    try:
        out, err = process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=30)
        pytest.fail(f"the demo took longer than {PATIENCE:.0f} s:\n{out}\n{err}")
    return process.returncode, out, err


def left_in(directory: Path) -> list[str]:
    """Command lines of processes that carry a mark of the demo in that directory, or work in it."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        if int(path.name) == os.getpid():
            continue
        try:
            variables = (path / "environ").read_bytes().split(b"\0")
            words = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
        except OSError:
            continue
        marks = (f"{mark}={directory}".encode() for mark in (identity.MARK, processes.MARK))
        if words and (str(directory) in words or any(one.startswith(tuple(marks)) for one in variables)):
            found.append(words)
    return found


@pytest.fixture
def somewhere(tmp_path: Path) -> Path:
    return tmp_path.resolve()


def check_whole_story(directory: Path) -> None:
    status, out, err = finish(start(directory, "--once", "--json"))
    assert status == 0, f"{out}\n{err}"
    told: dict[str, Any] = json.loads(out.splitlines()[-1])
    assert set(told) == {"jobs", "instances", "reports", "wait_seconds"}
    assert told["jobs"] == {"queued": len(workspace.JOBS), "succeeded": len(workspace.JOBS), "failed": 0}
    assert told["instances"]["created"] >= len(workspace.JOBS)
    assert told["instances"]["left"] == 0
    assert len(told["reports"]) == len(set(told["reports"])) == len(workspace.JOBS)
    assert 0 < told["wait_seconds"]["p50"] <= told["wait_seconds"]["p95"]
    for words in ("out of capacity", "kill -9", "daemon started again", "0 created twice, 0 left", "simulated"):
        assert words in err
    assert "\x1b" not in err, "colours are for terminals"
    assert left_in(directory) == []


def test_tells_the_whole_story_and_leaves_nothing_running(somewhere: Path) -> None:
    check_whole_story(somewhere)


class Listener:
    """A web server that nothing in the demo has any business with; counts the connections to it."""

    def __init__(self) -> None:
        self.connections: list[tuple[str, int]] = []
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._socket.getsockname()[1]}"

    def _accept(self) -> None:
        while True:
            try:
                connection, address = self._socket.accept()
            except OSError:
                return
            self.connections.append(address)
            connection.close()

    def close(self) -> None:
        # Closing alone does not wake the thread that accepts.
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(5)


@pytest.fixture
def foreign() -> Iterator[Listener]:
    made = Listener()
    yield made
    made.close()


@pytest.mark.skipif(shutil.which("git") is None, reason="there is no git on this host")
@pytest.mark.parametrize("origin", ["path", "http"])
def test_runs_in_a_clone_and_asks_nothing_of_its_origin(somewhere: Path, foreign: Listener, origin: str) -> None:
    """Jobs of the demo run below the clone, so git in a job may answer for the clone and its origin."""
    clone = somewhere / "clone"
    url = f"{foreign.url}/acme/meters.git" if origin == "http" else str(somewhere / "upstream")
    subprocess.run(["git", "init", "-q", str(clone)], check=True)
    subprocess.run(["git", "-C", str(clone), "remote", "add", "origin", url], check=True)
    check_whole_story(clone)
    assert foreign.connections == []


def test_an_interrupt_in_the_middle_ends_everything_that_was_started(somewhere: Path) -> None:
    process = start(somewhere)
    machines = [somewhere / ".demo" / "state" / "providers" / cloud.name / "processes" for cloud in workspace.CLOUDS]
    deadline = time.monotonic() + 90
    while not any(list(path.glob("instances/*/identity.json")) for path in machines):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "no instance within 90 s"
        time.sleep(0.1)
    assert left_in(somewhere / ".demo") != []
    process.send_signal(signal.SIGINT)
    status, out, err = finish(process)
    assert status == 130, f"{out}\n{err}"
    assert left_in(somewhere / ".demo") == []


def test_a_directory_of_something_else_is_refused_and_left_alone(somewhere: Path) -> None:
    mine = somewhere / "thesis"
    mine.mkdir()
    (mine / "chapter.txt").write_text("years of work")
    status, out, _ = finish(start(somewhere, "--once", "--directory", "thesis"))
    assert status == 1
    assert "not of an earlier demo" in out
    assert (mine / "chapter.txt").read_text() == "years of work"
