"""The simulated clouds in a scenario: the real provisioner with the real SDK over each, answered in process.

A crash can fall between any two requests of one method: in the executor of blocking SDKs, or in the sleep of an
asynchronous transport on either side of each request.
"""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

from provisioners import base
from tests.clouds import adapter, faults, registry, wire
from tests.simulation import life

if TYPE_CHECKING:
    from tests.simulation.lab import Lab

_SPAN = tuple[float, float]


class SimulatedCloud:
    """A cloud adapter in the virtual time of a scenario, whose daemons die."""

    once_per_attempt = False

    def __init__(
        self, lab: Lab, kind: type[adapter.CloudAdapter], *, latency: _SPAN = (0.02, 0.2), **more: Any
    ) -> None:
        self._lab = lab
        self._latency = latency
        self.adapter = kind.simulated(lab.clock.now, random.Random(lab.rng.random()), **more)
        self.cloud = self.adapter.cloud
        #: Every fault that was injected here, by its class.
        self.injected: list[tuple[str, faults.Fault]] = []
        #: Called with each request before the cloud has it.
        self.on_request: Callable[[wire.Request], None] = lambda request: None
        self._seen: dict[str, adapter.VM] = {}

    def handle(self, request: wire.Request) -> wire.Answer:
        self.on_request(request)
        answer = self.adapter.handle(request)
        # A machine that comes and goes between two polls is seen all the same.
        self.vms()
        return answer

    def provisioner(self, context: base.Context, options: Mapping[str, Any], one: life.Life) -> base.Provisioner:
        connection = _Connection(self, one, self._lab.rng, self._latency)
        return self.adapter.provisioner(dataclasses.replace(context, offload=connection.executor), options, connection)

    def vms(self) -> list[adapter.VM]:
        """Return every machine of ours that there is or was."""
        for vm in self.adapter.vms():
            if vm.uid not in self._seen and vm.tags.get(base.TAG_CONTROLLER) == adapter.CONTROLLER:
                self._seen[vm.uid] = vm
        return list(self._seen.values())

    def orphans(self) -> list[str]:
        return sorted(self.adapter.orphans())

    def inject(self, kind: str, **where: Any) -> faults.Fault:
        """Let a fault of that class happen; keywords say where and how often."""
        made: faults.Fault = self.adapter.fault_classes[kind](**where)
        self.cloud.faults.append(made)
        self.injected.append((kind, made))
        return made

    def clear(self) -> None:
        """Let nothing go wrong any more."""
        self.cloud.faults.clear()
        self.adapter.unstick()


class _Connection:
    """The way from one life's provisioner to its cloud."""

    def __init__(self, cloud: SimulatedCloud, one: life.Life, rng: random.Random, latency: _SPAN) -> None:
        self._life = one
        self._rng = rng
        self._latency = latency
        self.handle = cloud.handle

    def executor(self, width: int) -> life.Executor:
        """Return the executor of a blocking SDK."""
        return life.Executor(self._life, random.Random(self._rng.random()), self._latency)

    def latency(self) -> Callable[[], float]:
        rng = random.Random(self._rng.random())
        return lambda: rng.uniform(*self._latency)

    def cross(self, seam: str) -> Awaitable[None]:
        return self._life.cross(seam)


def add(
    lab: Lab, kind: str, *, latency: _SPAN = (0.02, 0.2), cloud: Mapping[str, Any] | None = None, **options: Any
) -> SimulatedCloud:
    """Add a cloud to a scenario that has not started, and its provider, of the same name, to the configuration.

    ``cloud`` are arguments of the simulated cloud, ``options`` of the provider.
    """
    made = lab.clouds[kind] = SimulatedCloud(lab, registry.ADAPTERS[kind], latency=latency, **(cloud or {}))
    lab.plan.providers += f"  {kind}: {json.dumps(made.adapter.simulated_options(**options))}\n"
    return made
