"""Processes of an end-to-end test and what is asked of them: bounded waits, free ports, HTTP, the simulated forges."""

from __future__ import annotations

import contextlib
import json
import random
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import psutil

T = TypeVar("T")

#: Seconds between SIGTERM and SIGKILL.
GRACE = 10.0


class TookTooLong(AssertionError):
    """A bounded wait ended without what was waited for."""


def free_ports(count: int) -> list[int]:
    """Return ports of the loopback address that nothing listens on.

    They lie below those that the system gives to outgoing connections: such a connection would take the port of a
    daemon that has not started yet, or that is being restarted.
    """
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    found: list[int] = []
    while len(found) < count:
        port = random.SystemRandom().randrange(10_000, lowest)
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            found += [] if port in found else [port]
    return found


def until(look: Callable[[], T | None], words: str, *, seconds: float, pause: float = 0.1) -> T:
    """Look again until the look is true; what it saw.  Raises :class:`TookTooLong`."""
    deadline = time.monotonic() + seconds
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() > deadline:
            raise TookTooLong(f"not within {seconds:g} s: {words}")
        time.sleep(pause)


def call(
    method: str, url: str, body: Any = None, *, headers: Mapping[str, str] | None = None, timeout: float = 30.0
) -> tuple[int, bytes]:
    """Status and body of a request; status 0 when nobody answers."""
    data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, method=method)
    request.add_header("Content-Type", "application/json")
    for name, value in (headers or {}).items():
        request.add_header(name, value)
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            return int(answer.status), answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()
    except OSError:
        return 0, b""


def command(*arguments: str) -> list[str]:
    """The command line of runnerd, installed or not."""
    return [sys.executable, "-m", "runnerd.cli", *arguments]


class Child:
    """One process with its log, in a session of its own."""

    def __init__(
        self, name: str, command: Sequence[str], *, directory: Path, environment: Mapping[str, str], out: Path | None
    ) -> None:
        self.name = name
        self.log = directory / f"{name}.log"
        with contextlib.ExitStack() as files:
            log = files.enter_context(open(self.log, "ab"))
            stdout = log if out is None else files.enter_context(open(out, "wb"))
            self._process = subprocess.Popen(
                list(command),
                cwd=directory,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=log,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def status(self) -> int | None:
        """Exit status, negative for a signal; None while it runs."""
        return self._process.poll()

    def kill(self) -> None:
        """SIGKILL to this process alone."""
        self._process.kill()
        self._process.wait(GRACE)

    def stop(self, seconds: float = GRACE) -> int:
        """SIGTERM; its exit status.  Killed when it takes longer than ``seconds``."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(seconds)
            except subprocess.TimeoutExpired:
                self.kill()
        assert self._process.returncode is not None
        return self._process.returncode

    def wait(self, seconds: float) -> int:
        """Its exit status.  Raises :class:`TookTooLong`."""
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise TookTooLong(f"the {self.name} still runs after {seconds:g} s") from None

    def cpu_seconds(self) -> float:
        """User and system time used so far."""
        times = psutil.Process(self.pid).cpu_times()
        return float(times.user + times.system)

    def rss(self) -> int:
        """Bytes of memory that are resident."""
        return int(psutil.Process(self.pid).memory_info().rss)

    def tail(self, lines: int = 40) -> str:
        try:
            text = self.log.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""
        return "\n".join(line[:400] for line in text.splitlines()[-lines:])


class Simulator:
    """A running simulator."""

    def __init__(self, child: Child, facts: Mapping[str, Any]) -> None:
        self.child = child
        self.facts = facts
        self.url: str = facts["url"]

    def ask(self, method: str, path: str, body: Any = None, *, timeout: float = 60.0) -> Any:
        """The JSON answer of a control endpoint; fails when it is refused."""
        status, data = call(method, self.url + path, body, timeout=timeout)
        assert 200 <= status < 300, f"{method} {path}: {status} {data[:300]!r}\n{self.child.tail()}"
        return json.loads(data) if data else None

    def queue(
        self, forge: str, *, repo: str = "acme/ml", labels: Sequence[str] = ("gpu-t4",), **more: Any
    ) -> list[int]:
        """Queue jobs; their ids."""
        body = {"forge": forge, "repo": repo, "labels": list(labels), **more}
        ids: list[int] = self.ask("POST", "/_sim/jobs", body)["ids"]
        return ids

    def state(self) -> dict[str, Any]:
        found: dict[str, Any] = self.ask("GET", "/_sim/state")
        return found

    def jobs(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.state()["jobs"]
        return found

    def options(self, **options: Any) -> None:
        """Change options of the simulated GitHub."""
        self.ask("POST", "/_sim/github/options", options)

    def faults(self, *faults: Mapping[str, Any]) -> None:
        self.ask("POST", "/_sim/faults", {"faults": list(faults)})

    def requests(self) -> Counter[str]:
        """Return how often each endpoint was called so far."""
        return Counter(self.state()["requests"])
