"""A cloud as a scenario sees it: its machines, and the provisioner that buys them.

A cloud outlives every daemon.  What a daemon talks to it through, the real provisioner, is made anew for each life.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from provisioners import base
from provisioners.fake import Fake
from provisioners.fake.cloud import Machine
from tests.clouds import adapter
from tests.simulation import life


class Cloud(Protocol):
    """A simulated cloud."""

    #: The cloud itself.
    cloud: Any
    #: One attempt yields at most one machine in all its time, not only at one time.
    once_per_attempt: bool

    def provisioner(self, context: base.Context, options: Mapping[str, Any], one: life.Life) -> base.Provisioner:
        """Create the provisioner of a new life, over the same cloud."""
        ...

    def vms(self) -> Iterable[adapter.VM]:
        """Return every machine that there is or was."""
        ...

    def orphans(self) -> list[str]:
        """Return side resources that no machine needs, in words."""
        ...


class FakeVM(adapter.VM):
    """A machine of the simulated cloud that ships with runnerd."""

    instance: Machine

    def running(self, now: float) -> bool:
        return self.instance.status(now) is base.InstanceStatus.RUNNING

    def rising(self, now: float) -> bool:
        return self.instance.status(now) in (base.InstanceStatus.RUNNING, base.InstanceStatus.PENDING)

    def live(self, now: float) -> bool:
        return self.instance.status(now) is not base.InstanceStatus.GONE

    def ends_at(self) -> float:
        return self.instance.gone_at

    def power_off(self, now: float) -> None:
        self._cloud.power_off(self.ref, now)


class ShippedCloud:
    """The simulated cloud that ships with runnerd; made with the options that its first daemon has."""

    once_per_attempt = True

    def __init__(self) -> None:
        self.cloud: Any = None
        self._vms: dict[str, FakeVM] = {}

    def provisioner(self, context: base.Context, options: Mapping[str, Any], one: life.Life) -> base.Provisioner:
        # Without a directory it keeps nothing by itself: the cloud is in this process.
        made = Fake(base.Context(context.name, context.controller, "", context.now, context.sleep), options, self.cloud)
        self.cloud = made.cloud
        return made

    def vms(self) -> Iterable[adapter.VM]:
        if self.cloud is None:
            return []
        for ref, machine in self.cloud.listed.items():
            if ref not in self._vms:
                self._vms[ref] = FakeVM(self.cloud, machine, uid=ref, ref=ref, id=ref, market=machine.offer.market)
        return [self._vms[ref] for ref in self.cloud.listed]

    def orphans(self) -> list[str]:
        return []
