"""A plant in front of simulated clouds: the daemon as a process, its clouds over sockets, its instances as machines."""

from __future__ import annotations

import contextlib
import getpass
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runnerd.cli import client
from tests.clouds import machines, registry
from tests.clouds.adapter import CloudAdapter
from tests.e2e import clouds, processes
from tests.e2e import plant as plants


@dataclass(frozen=True, slots=True)
class Ran:
    """The result of a command."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Its output, which must be JSON."""
        assert self.out.strip(), f"status {self.status}: {self.err}"
        return json.loads(self.out)


@dataclass(slots=True)
class Site:
    """One plant and its clouds."""

    plant: plants.Plant
    clouds: clouds.Clouds
    machines: machines.Machines

    def cloud(self, name: str) -> CloudAdapter:
        return self.clouds.adapters[name]

    def providers(self, regions: Mapping[str, Mapping[str, str]] | None = None) -> dict[str, dict[str, Any]]:
        """Return the options of all providers; ``regions`` gives those of a cloud that are not the usual two."""
        return {
            name: adapter.served_options(self.plant.secret, (regions or {}).get(name))
            for name, adapter in self.clouds.adapters.items()
        }

    def configure(
        self,
        *,
        providers: Mapping[str, Mapping[str, Any]] | None = None,
        defaults: Mapping[str, Any] | None = None,
        pools: Mapping[str, Mapping[str, Any]] | None = None,
        **more: Any,
    ) -> Path:
        """Write a configuration that buys T4s wherever they are."""
        path = f"{self.machines.bin}:{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin"
        runner = {
            "github": {"command": [sys.executable, str(plants.RUNNER), "github"]},
            "gitlab": {"command": [sys.executable, str(plants.RUNNER), "gitlab"]},
            "env": {"PATH": path},
        }
        given = dict(providers or self.providers())
        # Jobs run as whoever runs the tests: there is no other user on these machines.
        usual = {"market": "spot-then-on-demand", "idle": "5s", "user": getpass.getuser(), "runner": runner}
        return self.plant.configure(
            providers=given,
            defaults={**usual, **(defaults or {})},
            pools=pools or {"gpu-t4": {"gpu": "t4", "from": list(given)}},
            **more,
        )

    def run(
        self,
        *arguments: str,
        seconds: float = 90.0,
        directory: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> Ran:
        """Run a command of runnerd beside the daemon, to its end."""
        done = subprocess.run(
            processes.command(*arguments),
            cwd=directory or self.plant.directory,
            env={**self.plant.environment(), **self.plant.variables, **(environment or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
        return Ran(done.returncode, done.stdout, done.stderr)

    def ask(self, *arguments: str) -> Any:
        """The JSON that a command of the running daemon answers."""
        ran = self.run(*arguments, "--socket", str(self.plant.socket), "--json")
        assert ran.status == 0, f"{arguments}: {ran.status} {ran.err}\n{ran.out[-2000:]}"
        return ran.json

    def tell(self, path: str, **query: Any) -> Any:
        """Return what the daemon answers on its socket: the same without a process for the command."""
        return client.Client(self.plant.socket).get(path, **query)

    def offers(self, pool: str) -> list[dict[str, Any]]:
        """The offers of a pool in the order in which they are tried."""
        found: list[dict[str, Any]] = self.tell(f"/v1/pools/{pool}/offers")["offers"]
        return found

    def jobs(self) -> list[dict[str, Any]]:
        """The jobs that the daemon knows."""
        found: list[dict[str, Any]] = self.tell("/v1/jobs")["jobs"]
        return found

    def explain(self, job: str) -> dict[str, Any]:
        found: dict[str, Any] = self.tell("/v1/explain", job=job)
        return found

    def await_offers(self, pool: str, providers: set[str], seconds: float = 40.0) -> None:
        """Returns when each of the providers has told what it sells to a pool."""
        processes.until(
            lambda: {one["provider"] for one in self.offers(pool)} >= providers,
            f"offers of {sorted(providers)} for {pool}",
            seconds=seconds,
            pause=0.5,
        )

    def left(self) -> list[str]:
        """Everything that still has to go, in words."""
        found = [*self.clouds.left()]
        found += [f"runner {name}" for name in self.plant.runners()]
        found += [
            f"{count} rows {state}" for state, count in self.plant.instances().items() if state not in plants.CLOSED
        ]
        found += [f"machine {name}" for name in self.machines.processes()]
        return found

    def await_nothing_left(self, seconds: float = 60.0) -> None:
        """Returns when neither clouds, forges, state nor host have anything of ours any more."""
        try:
            processes.until(lambda: not self.left(), "nothing is left", seconds=seconds, pause=0.3)
        except processes.TookTooLong as error:
            raise processes.TookTooLong(f"{error}: {self.left()}") from None


@contextlib.contextmanager
def site(
    plant: plants.Plant,
    *,
    names: Sequence[str] = registry.NAMES,
    guests: clouds.Guests | None = None,
    throttled: bool = True,
) -> Iterator[Site]:
    """Clouds for a plant, with real machines unless there are other guests; gone afterwards with all that ran there."""
    farm = machines.Machines(plant.directory / "machines", {plants.MARK: str(plant.directory)})
    made = clouds.Clouds(plant.directory, farm if guests is None else guests, names=tuple(names), throttled=throttled)
    plant.tales.append(made.story)
    made.start()
    try:
        for adapter in made.adapters.values():
            plant.variables.update(adapter.environment)
        yield Site(plant, made, farm)
        assert made.problems == []
    finally:
        # No daemon outlives its clouds: what it could not end would be its story and not theirs.
        plant.stop_children()
        made.stop()
