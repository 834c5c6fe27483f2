"""The real thing as processes: a simulator, a daemon and what its instances start, in one directory.

Shared by the end-to-end tests and the benchmark.  It talks to both only as anybody could: over HTTP, by signals, by
the logs of the simulated clouds and by /proc.  Every wait is bounded, and on every way out each process that was
started here, or below here, is ended by its id.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml

from provisioners import base, fake
from tests.e2e import processes
from tests.support.tree import ROOT

T = TypeVar("T")

#: The stand-in for the forges' runner programs.
RUNNER = ROOT / "runnerd" / "simulator" / "runner.py"
#: Every process that is started here, and all that they start, carries it with the plant's directory.
MARK = "RUNNERD_PLANT"
#: Marks of what an instance started.
INSTANCE = "RUNNERD_INSTANCE"
#: How the names of GitLab's heartbeat records begin.
HEARTBEAT = "runnerd heartbeat "
#: States of an instance row that is over (the words of the life cycle).
CLOSED = ("gone", "failed")


@dataclass(slots=True)
class Plant:
    """A directory with a simulator, at most one daemon at a time, and what they leave."""

    directory: Path
    simulator: processes.Simulator | None = None
    daemon: processes.Child | None = None
    #: Every process that was started here.
    children: list[processes.Child] = field(default_factory=list)
    ops: str = ""
    public: str = ""
    #: Name of each fake provider -> its log of calls.
    logs: dict[str, Path] = field(default_factory=dict)
    #: Further environment of the daemon: credentials.
    variables: dict[str, str] = field(default_factory=dict)
    #: Who else has something to tell after a failure.
    tales: list[Callable[[], str]] = field(default_factory=list)
    _socket_directory: Path | None = None

    # -- parts -------------------------------------------------------------------------------------------------

    @property
    def config(self) -> Path:
        return self.directory / "runnerd.yaml"

    @property
    def state(self) -> Path:
        return self.directory / "state"

    @property
    def database(self) -> Path:
        return self.state / "runnerd.db"

    @property
    def forges(self) -> processes.Simulator:
        assert self.simulator is not None, "start_simulator() comes first"
        return self.simulator

    @property
    def running(self) -> processes.Child:
        assert self.daemon is not None, "start_daemon() comes first"
        return self.daemon

    def environment(self) -> dict[str, str]:
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
        return {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", MARK: str(self.directory)}

    def start(
        self,
        name: str,
        command: Sequence[str],
        *,
        out: Path | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> processes.Child:
        """Start a process that ends with the plant."""
        child = processes.Child(
            name, command, directory=self.directory, environment={**self.environment(), **(variables or {})}, out=out
        )
        self.children.append(child)
        return child

    def start_simulator(self, *options: str, repos: Sequence[str] = ("acme/ml",)) -> processes.Simulator:
        """A simulator on a free port, without rate limits."""
        facts = self.directory / "simulator.json"
        line = [sys.executable, "-m", "runnerd.simulator", "--listen", "127.0.0.1:0", "--json", "--no-limits"]
        line += ["--cert-dir", str(self.directory / "simulator")]
        for name in repos:
            line += ["--repo", name]
        child = self.start("simulator", [*line, *options], out=facts)

        def up() -> bool:
            assert child.status is None, f"the simulator ended with status {child.status}\n{child.tail()}"
            return facts.read_bytes().endswith(b"\n")

        processes.until(up, "the simulator is up", seconds=40)
        self.simulator = processes.Simulator(child, json.loads(facts.read_text()))
        return self.simulator

    def start_daemon(self, *, wait: bool = True, seconds: float = 40.0) -> processes.Child:
        """A daemon on the configuration; with ``wait``, until it is ready."""
        self.daemon = self.start(
            "daemon", processes.command("run", "--config", str(self.config)), variables=self.variables
        )
        if wait:
            self.await_daemon(seconds)
        return self.daemon

    def await_daemon(self, seconds: float = 40.0) -> None:
        child = self.running

        def ready() -> bool:
            assert child.status is None, f"the daemon ended with status {child.status}\n{child.tail()}"
            return self.ready()

        try:
            processes.until(ready, "the daemon is ready", seconds=seconds, pause=0.05)
        except processes.TookTooLong as error:
            raise processes.TookTooLong(f"{error}\n{child.tail()}") from None

    def ready(self) -> bool:
        return processes.call("GET", f"http://{self.ops}/readyz", timeout=5)[0] == 200

    # -- configuration -----------------------------------------------------------------------------------------

    def configure(
        self,
        *,
        forges: Mapping[str, Mapping[str, Any]] | None = None,
        providers: Mapping[str, Mapping[str, Any]] | None = None,
        limits: Mapping[str, Any] | None = None,
        pools: Mapping[str, Mapping[str, Any] | None] | None = None,
        defaults: Mapping[str, Any] | None = None,
        reconcile: Mapping[str, Any] | None = None,
        **more: Any,
    ) -> Path:
        """Write a configuration for the running simulator; what is given is laid over what is usual here."""
        self.listen()
        self.state.mkdir(mode=0o700, exist_ok=True)
        given = {name: dict(entry) for name, entry in (providers or {"sim": {}}).items()}
        for name, entry in given.items():
            entry.setdefault("type", "fake")
            self.logs[name] = self.directory / f"{name}.jsonl"
            if entry["type"] == "fake":
                entry.setdefault("machine_types", {"g4": {"gpu": "t4", "price": 0.5}})
                entry.setdefault("boot", "0s")
                entry.setdefault("log", str(self.logs[name]))
        runner = {
            "github": {"command": [sys.executable, str(RUNNER), "github"]},
            "gitlab": {"command": [sys.executable, str(RUNNER), "gitlab"]},
            "env": {"PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin"},
        }
        settings: dict[str, Any] = {
            "controller": "plant",
            "public_url": f"http://{self.public}",
            "state": str(self.state),
            "listen": {"ops": self.ops, "public": self.public, "socket": str(self.socket)},
            "forges": {name: dict(entry) for name, entry in (forges or self.both_forges()).items()},
            "providers": given,
            "limits": {"instances": 6, **(limits or {})},
            "defaults": {"max_job": "10m", "idle": "1m", "boot": "2m", "runner": runner, **(defaults or {})},
            "pools": dict(pools or {"gpu-t4": {"gpu": "t4"}}),
            "reconcile": {"interval": "2s", "list_interval": "2s", "drain": "5s", **(reconcile or {})},
            **more,
        }
        self.config.write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
        return self.config

    def listen(self) -> str:
        """Choose where the daemon will listen; the address for agents."""
        if not self.ops:
            self.ops, self.public = (f"127.0.0.1:{port}" for port in processes.free_ports(2))
        return f"http://{self.public}"

    @property
    def socket(self) -> Path:
        """A path that is short enough for a Unix socket (unix(7): 107 bytes)."""
        path = self.directory / "runnerd.sock"
        if len(os.fsencode(path)) <= 107:
            return path
        if self._socket_directory is None:
            self._socket_directory = Path(tempfile.mkdtemp(prefix="plant-", dir="/tmp"))
        return self._socket_directory / "runnerd.sock"

    def secret(self, name: str, text: str) -> str:
        """A secret in a file of its own; the reference to it."""
        path = self.directory / name
        path.touch(mode=0o600)
        path.write_text(text, encoding="utf-8")
        return f"file:{path}"

    def github(self, **more: Any) -> dict[str, Any]:
        tokens = self.forges.facts["tokens"]["github"]
        key = f"file:{tokens['app_key_file']}"
        app = {"id": int(tokens["app_id"]), "key": key}
        return {"type": "github", "url": f"{self.forges.url}/acme", "app": app, **more}

    def gitlab(self, **more: Any) -> dict[str, Any]:
        token = self.secret("gitlab.token", self.forges.facts["tokens"]["gitlab"]["token"])
        usual = {"groups": ["acme"], "poll": "2s", "idle_poll": "2s", "requests_per_minute": 100_000}
        return {"type": "gitlab", "url": self.forges.url, "token": token, **usual, **more}

    def both_forges(self) -> dict[str, dict[str, Any]]:
        return {"github": self.github(), "gitlab": self.gitlab()}

    # -- what is there -----------------------------------------------------------------------------------------

    def runners(self) -> list[str]:
        """Names of the runners that the forges still have."""
        return [one["name"] for one in self.forges.state()["runners"] if not one["name"].startswith(HEARTBEAT)]

    def heartbeats(self) -> list[str]:
        """The records that runnerd keeps at GitLab so that jobs may wait: one for each set of tags, for ever."""
        return [one["name"] for one in self.forges.state()["runners"] if one["name"].startswith(HEARTBEAT)]

    def calls(self) -> list[dict[str, Any]]:
        """Every call that the simulated clouds noted, in the order of time."""
        found: list[dict[str, Any]] = []
        for path in self.logs.values():
            if path.exists():
                # A line that is still being written has no end yet.
                found += [json.loads(line) for line in path.read_bytes().rpartition(b"\n")[0].splitlines()]
        return sorted(found, key=lambda line: float(line["at"]))

    def lives(self, provider: str) -> list[tuple[str, float, float]]:
        """Name, create and end of every instance in the journal of a fake provider; infinity for no end."""
        path = self.state / "providers" / provider / "cloud.jsonl"
        born: dict[str, tuple[str, float]] = {}
        ended: dict[str, float] = {}
        for line in path.read_bytes().splitlines() if path.exists() else ():
            what, *facts = json.loads(line)
            if what == "create":
                born[facts[0]["ref"]] = (facts[0]["name"], float(facts[0]["created_at"]))
            elif what == "end":
                ended[facts[0]] = float(facts[1])
        return [(name, began, ended.get(ref, math.inf)) for ref, (name, began) in born.items()]

    def present(self, provider: str) -> list[str]:
        """Names of the instances that a fake provider still has, asked of the provider and not of the daemon."""
        return asyncio.run(self._present(provider))

    async def _present(self, provider: str) -> list[str]:
        settings = yaml.safe_load(self.config.read_text(encoding="utf-8"))
        options = {key: value for key, value in settings["providers"][provider].items() if key not in ("type", "log")}
        context = base.Context(
            name=provider,
            controller=settings["controller"],
            directory=str(self.state / "providers" / provider),
            now=time.time,
            sleep=asyncio.sleep,
        )
        one = fake.Fake(context, options)
        await one.start()
        try:
            listing = await one.list_owned()
        finally:
            await one.close()
        return sorted(view.name for view in listing.views if view.status is not base.InstanceStatus.GONE)

    def processes(self, mark: str = INSTANCE) -> dict[int, str]:
        """Living processes of this plant that carry a mark: process id -> the mark's value."""
        found: dict[int, str] = {}
        ours, wanted = os.fsencode(f"{MARK}={self.directory}"), os.fsencode(f"{mark}=")
        below = os.fsencode(f"{self.directory}/")
        for name in os.listdir("/proc"):
            if not name.isdigit() or int(name) == os.getpid():
                continue
            try:
                variables = Path(f"/proc/{name}/environ").read_bytes().split(b"\0")
            except OSError:
                continue
            # What an instance starts has an environment of its own, with a path below our directory in it.
            if ours not in variables and not any(one.partition(b"=")[2].startswith(below) for one in variables):
                continue
            for variable in variables:
                if variable.startswith(wanted):
                    found[int(name)] = os.fsdecode(variable[len(wanted) :])
        return found

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """Return rows of the SQLite state; read only, also while the daemon runs."""
        with contextlib.closing(sqlite3.connect(f"file:{self.database}?mode=ro", uri=True, timeout=10)) as connection:
            return list(connection.execute(query))

    def instances(self) -> Counter[str]:
        """Return the number of instance rows by state."""
        try:
            return Counter(dict(self.rows("SELECT state, count(*) FROM instances GROUP BY state")))
        except sqlite3.OperationalError:
            return Counter()

    def live_rows(self) -> int:
        return sum(count for state, count in self.instances().items() if state not in CLOSED)

    def metric(self, name: str) -> dict[frozenset[tuple[str, str]], float]:
        """The samples of one metric: labels -> value."""
        status, data = processes.call("GET", f"http://{self.ops}/metrics")
        assert status == 200, (status, data[:200])
        found: dict[frozenset[tuple[str, str]], float] = {}
        for line in data.decode().splitlines():
            sample, _, value = line.rpartition(" ")
            metric, _, labels = sample.partition("{")
            if metric != name or line.startswith("#"):
                continue
            pairs = [pair.partition("=") for pair in labels.removesuffix("}").split('",') if pair]
            found[frozenset((key, text.strip('"')) for key, _, text in pairs)] = float(value)
        return found

    def story(self, lines: int = 60) -> str:
        """Return what a person needs after a failure."""
        parts = []
        for child in {one.log: one for one in self.children}.values():
            parts.append(f"--- {child.log}\n{child.tail(lines)}")
        with contextlib.suppress(sqlite3.Error, OSError):
            events = self.rows("SELECT at, subject, id, what, reason, detail FROM events ORDER BY rowid DESC LIMIT 80")
            parts.append("--- events\n" + "\n".join(" ".join(map(str, row)) for row in reversed(events)))
        parts.append(
            "--- calls\n"
            + "\n".join(json.dumps(line) for line in [one for one in self.calls() if one["call"] != "list"][-60:])
        )
        for tell in self.tales:
            parts.append(tell())
        return "\n".join(parts)

    # -- the end -----------------------------------------------------------------------------------------------

    def stop_children(self) -> None:
        """End what was started here, the last first."""
        for child in reversed(self.children):
            with contextlib.suppress(subprocess.TimeoutExpired, ProcessLookupError):
                child.stop()

    def end(self) -> int:
        """End everything that was started here; how many processes were left by what is no child of ours."""
        self.stop_children()
        left = 0
        for _ in range(50):
            found = {**self.processes(MARK), **self.processes(INSTANCE)}
            if not found:
                break
            left = max(left, len(found))
            for pid in found:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)
        if self._socket_directory is not None:
            shutil.rmtree(self._socket_directory, ignore_errors=True)
        return left


@contextlib.contextmanager
def plant(directory: Path) -> Iterator[Plant]:
    """A plant that is gone afterwards, whatever happens."""
    made = Plant(directory.resolve())
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        for number in before:
            signal.signal(number, _leave)
        yield made
    finally:
        made.end()
        for number, handler in before.items():
            signal.signal(number, handler)


def _leave(number: int, frame: object) -> None:
    raise SystemExit(128 + number)
