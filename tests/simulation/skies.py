"""What a world sees of a simulated cloud, whichever it is: its machines, and the provisioner that buys them.

A sky outlives every daemon.  What a daemon talks to it through, the real provisioner, is made anew for each life.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from provisioners import base
from provisioners.fake import Fake
from provisioners.fake.cloud import FakeCloud, Machine
from tests.simulation import life


class Box(Protocol):
    """One machine, as it really is."""

    #: What a provisioner calls it.
    ref: str
    #: The attempt that it came of, and the name that it has, by its tags.
    key: str
    name: str
    tags: Mapping[str, str]
    created_at: float
    #: The market that it was bought in.
    market: str
    #: When listings show it.
    visible_at: float

    @property
    def user_data(self) -> str: ...

    def running(self, now: float) -> bool:
        """Its system is up."""
        ...

    def rising(self, now: float) -> bool:
        """It runs, or is about to."""
        ...

    def live(self, now: float) -> bool:
        """It exists and may cost."""
        ...

    def failed(self, now: float) -> bool:
        """Its launch was accepted and failed, and it is still there, not on its way out."""
        ...

    def ends_at(self) -> float:
        """When it has ended or will by what is known now; infinite when that is open."""
        ...

    def power_off(self, now: float) -> None:
        """Its system shuts itself down."""
        ...


class Sky(Protocol):
    """A simulated cloud."""

    #: The cloud itself.
    cloud: Any
    #: One attempt yields at most one machine in all its time, not only at one time.
    once_per_attempt: bool

    def provisioner(self, context: base.Context, options: Mapping[str, Any], one: life.Life) -> base.Provisioner:
        """The provisioner of a new life, over the same cloud."""
        ...

    def boxes(self) -> Iterable[Box]:
        """Every machine that there is or was."""
        ...

    def left(self) -> list[str]:
        """Side resources that no machine needs, in words; and machines that still exist."""
        ...


class FakeBox:
    """A machine of the simulated cloud that ships with runnerd."""

    def __init__(self, cloud: FakeCloud, machine: Machine) -> None:
        self._cloud = cloud
        self._machine = machine
        self.ref = machine.ref
        self.key = machine.key
        self.name = machine.name
        self.tags: Mapping[str, str] = machine.tags
        self.created_at = machine.created_at
        self.visible_at = machine.visible_at
        self.offer = machine.offer
        self.market = machine.offer.market

    @property
    def user_data(self) -> str:
        return self._machine.user_data

    def running(self, now: float) -> bool:
        return self._machine.status(now) is base.InstanceStatus.RUNNING

    def rising(self, now: float) -> bool:
        return self._machine.status(now) in (base.InstanceStatus.RUNNING, base.InstanceStatus.PENDING)

    def live(self, now: float) -> bool:
        return self._machine.status(now) is not base.InstanceStatus.GONE

    def failed(self, now: float) -> bool:
        # It goes by itself.
        return False

    def ends_at(self) -> float:
        return self._machine.gone_at

    def power_off(self, now: float) -> None:
        self._cloud.power_off(self.ref, now)


class FakeSky:
    """The simulated cloud that ships with runnerd; made with the options that its first daemon has."""

    once_per_attempt = True

    def __init__(self) -> None:
        self.cloud: Any = None
        self._boxes: dict[str, FakeBox] = {}

    def provisioner(self, context: base.Context, options: Mapping[str, Any], one: life.Life) -> base.Provisioner:
        # Without a directory it keeps nothing by itself: the cloud is in this process.
        made = Fake(base.Context(context.name, context.controller, "", context.now, context.sleep), options, self.cloud)
        self.cloud = made.cloud
        return made

    def boxes(self) -> Iterable[Box]:
        if self.cloud is None:
            return []
        for ref, machine in self.cloud.listed.items():
            if ref not in self._boxes:
                self._boxes[ref] = FakeBox(self.cloud, machine)
        return [self._boxes[ref] for ref in self.cloud.listed]

    def left(self) -> list[str]:
        return []
