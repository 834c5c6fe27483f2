"""Agents as processes of their own, over directories that an agent of an older version left in mid-life.

The daemon is a loopback server of a few lines.  Nothing here imports runnerd: an agent is its archive and its files.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

#: How the agent was when it was killed: with a job that runs on, with a job on a machine that was then started anew,
#: with a session and no runner yet, before it got its session.
CASES = ("job", "rebooted", "waiting", "fresh")
TOKEN = "rb1.golden-attempt." + "b" * 64
SESSION = "rs1.golden-attempt.nonce-of-the-agent." + "a" * 64
#: What stands for the daemon's address in the kept files.
URL = "http://127.0.0.1:1"
#: The variable by which an agent knows the processes of its runner; old runners carry it.
MARK = "RUNNERD_AGENT_RUN"
#: The parts of each request that tell what an agent knows; the rest is of its host.
_TOLD: dict[str, tuple[str, ...]] = {
    "hello": ("token", "nonce", "protocol"),
    "register": (),
    "heartbeat": ("phase", "worker", "runner", "job_started"),
    "job": ("event", "result"),
    "failed": ("stage",),
}
_RUNNER = """#!/bin/sh
echo "2026-11-23 10:00:00Z: Listening for Jobs"
echo "2026-11-23 10:00:01Z: Running job: train"
sh -e "$ACTIONS_RUNNER_HOOK_JOB_STARTED"
exec sleep 600
"""
_PATIENCE = 30.0


#: From a body to a status and a body.
Answer = Callable[[Any], tuple[int, Any]]


def _nothing(body: Any) -> tuple[int, Any]:
    return 200, {}


class Daemon:
    """Records what an agent asks, and answers."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, Any], str]] = []
        self.answers: dict[str, Answer] = {
            "hello": lambda body: (200, _welcome()),
            "register": lambda body: (200, {"action": "wait", "after": 0.1}),
            "heartbeat": lambda body: (200, {"action": "continue", "heartbeat": 0.1, "reason": ""}),
        }
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                data = self.rfile.read(int(self.headers["Content-Length"]))
                name = self.path.removeprefix("/agent/v1/")
                body = json.loads(data) if self.headers["Content-Type"] == "application/json" else {}
                outer.asked.append((name, body, self.headers["Authorization"] or ""))
                status, answer = outer.answers.get(name, _nothing)(body)
                text = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *words: object) -> None:
                """Nothing."""

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *words: object) -> None:
                """An agent that is killed cuts its requests."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def wait(self, name: str, fits: Callable[[Any], bool] = lambda body: True) -> None:
        deadline = time.monotonic() + _PATIENCE
        while not any(asked == name and fits(body) for asked, body, _ in list(self.asked)):
            assert time.monotonic() < deadline, f"no such {name} came: {self.asked[-20:]}"
            time.sleep(0.01)

    def told(self, *, beats: bool) -> list[Any]:
        """What the agent said of itself, each thing once; of heartbeats those with a job, where any are sure."""
        found = {
            json.dumps([name, bearer.removeprefix("Bearer "), {key: body.get(key) for key in _TOLD[name]}])
            for name, body, bearer in self.asked
            if name in _TOLD and (name != "heartbeat" or (beats and body["worker"]))
        }
        return [json.loads(one) for one in sorted(found)]


@contextlib.contextmanager
def _daemon() -> Iterator[Daemon]:
    made = Daemon()
    try:
        yield made
    finally:
        made.close()


def _welcome() -> dict[str, Any]:
    return {
        "session": SESSION,
        "instance": "golden-1",
        "heartbeat": 0.1,
        "gate": {"gpus": -1, "gpu": ""},
        "limits": {"unclaimed": 600.0, "unreachable": 1200.0, "max_job": 3600.0},
        "user": "",
    }


def _start(archive: Path, directory: Path, python: str) -> subprocess.Popen[bytes]:
    environment = {"PATH": os.environ["PATH"], "HOME": str(directory)}
    command = [python, "-I", "-S", str(archive), "--config", str(directory / "agent.json")]
    return subprocess.Popen(
        command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def _point(directory: Path, old: str, new: str) -> None:
    path = directory / "agent.json"
    path.write_text(path.read_text().replace(old, new))


def make(archive: Path, directory: Path, case: str) -> None:
    """Live an agent's life up to the moment of the case, and kill it there."""
    directory.mkdir(parents=True)
    with _daemon() as daemon:
        config = {"url": daemon.url, "token": TOKEN, "instance": "golden-1", "cloud": "", "preemption_notice": 120.0}
        (directory / "agent.json").write_text(json.dumps(config))
        runner = directory / "bin" / "run.sh"
        if case in ("job", "rebooted"):
            runner.parent.mkdir()
            runner.write_text(_RUNNER)
            runner.chmod(0o755)
            order = {
                "action": "run",
                "name": "golden-1",
                "kind": "github",
                "command": [str(runner)],
                "environment": {"ACTIONS_RUNNER_INPUT_JITCONFIG": "SmFzdC1hLXNlY3JldA"},
            }
            daemon.answers["register"] = lambda body: (200, order)
        elif case == "fresh":
            daemon.answers["hello"] = lambda body: (503, {"error": "starting"})
        process = _start(archive, directory, sys.executable)
        try:
            if case in ("job", "rebooted"):
                daemon.wait("heartbeat", lambda body: bool(body["worker"]))
            else:
                daemon.wait("hello" if case == "fresh" else "register")
            if case != "fresh":
                daemon.wait("heartbeat")
        finally:
            process.kill()
            process.wait()
            record = directory / "runner.json"
            if record.exists():
                os.kill(int(json.loads(record.read_text())["pid"]), signal.SIGKILL)
    _point(directory, daemon.url, URL)
    # Made anew, and full of this host's folders.
    for name in ("agent.log", "agent.lock"):
        (directory / name).unlink(missing_ok=True)
    for name in ("bin", "hooks"):
        shutil.rmtree(directory / name, ignore_errors=True)


def again(archive: Path, directory: Path, *, python: str) -> dict[str, Any]:
    """Start an agent on the directory; what it tells the daemon, and what is in its files in the end."""
    lives_on = directory.name == "job"
    has_job = directory.name in ("job", "rebooted")
    with _daemon() as daemon, contextlib.ExitStack() as host, contextlib.ExitStack() as runner:
        _point(directory, URL, daemon.url)
        clock = _clock_of_this_host(directory) if lives_on else {}
        cleared: Callable[[], bool] | None = _stand_in(directory, runner, host) if lives_on else None

        def heartbeat(body: Any) -> tuple[int, Any]:
            asked = [(name, one.get("event")) for name, one, _ in list(daemon.asked)]
            over = ("job", "ended") in asked if has_job else ("register", None) in asked
            action = "end" if over and not body["worker"] else "continue"
            return 200, {"action": action, "heartbeat": 0.1, "reason": "golden"}

        daemon.answers["heartbeat"] = heartbeat
        process = _start(archive, directory, python)
        try:
            if lives_on:
                daemon.wait("heartbeat", lambda body: body["phase"] == "job")
                runner.close()
            code = process.wait(_PATIENCE)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        _point(directory, daemon.url, URL)
        leftovers = None if cleared is None else "ended" if cleared() else "left alive"
    kept: dict[str, Any] = {}
    for name in ("agent.json", "session.json", "runner.json", "nonce"):
        path = directory / name
        if path.exists():
            kept[name] = path.read_text()
    if "runner.json" in kept:
        # Numbers of this host's processes.
        record = json.loads(kept["runner.json"])
        kept["runner.json"] = {
            key: clock.get(value, value) if key == "job_at" else value
            for key, value in record.items()
            if key not in ("pid", "started", "boot")
        }
    return {"exit": code, "told": daemon.told(beats=lives_on), "leftovers": leftovers, "files": kept}


def _clock_of_this_host(directory: Path) -> dict[float, float]:
    """Let the job have started a second ago; return what its start was in the kept file.

    The agent counts seconds since this host's boot, so the kept figure lies hours back on one host and in the future
    on another.
    """
    path = directory / "runner.json"
    record = json.loads(path.read_text())
    now = round(time.monotonic() - 1.0, 3)
    path.write_text(json.dumps({**record, "job_at": now}))
    return {now: record["job_at"]}


def _stand_in(directory: Path, runner: contextlib.ExitStack, host: contextlib.ExitStack) -> Callable[[], bool]:
    """Put a process of this host in the place of the runner that the agent left behind.

    Beside it runs what the runner has started in the background; whether that has ended is told by the result.
    """
    path = directory / "runner.json"
    record = json.loads(path.read_text())
    _, identity = runner.enter_context(sleeper({MARK: record["mark"]}))
    path.write_text(json.dumps({**record, **identity}))
    started, _ = host.enter_context(sleeper({MARK: record["mark"]}))
    return lambda: started.poll() is not None


@contextlib.contextmanager
def sleeper(environment: dict[str, str]) -> Iterator[tuple[subprocess.Popen[bytes], dict[str, Any]]]:
    """A process in a session of its own, and how files of the state name it."""
    child = subprocess.Popen(["sleep", "600"], env={"PATH": os.environ["PATH"], **environment}, start_new_session=True)
    try:
        stat = Path(f"/proc/{child.pid}/stat").read_text()
        yield (
            child,
            {
                "pid": child.pid,
                "started": int(stat.rpartition(")")[2].split()[19]),
                "boot": Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
            },
        )
    finally:
        child.kill()
        child.wait()
