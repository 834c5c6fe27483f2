"""A simulated Azure subscription: what happens in it as time passes.

:class:`Arm` has the state and the future of every machine; :mod:`tests.clouds.azure.service` is the API over it.
Nothing happens by itself: each request makes time pass up to the clock's now.
"""

from __future__ import annotations

import base64
import json
import math
import random
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from tests.clouds import faults, wire
from tests.clouds.azure import limits, service, sizes, state
from tests.clouds.azure.faults import Fault

TENANT = "11111111-2222-3333-4444-555555555555"
SUBSCRIPTION = "00000000-aaaa-bbbb-cccc-000000000001"
GROUP = "runnerd"
CLIENT = "99999999-0000-0000-0000-000000000001"
#: Not a secret: what the simulated sign-in takes.
SECRET = "the-simulated-client-secret"
#: Seconds for which Azure keeps an interface for a machine that failed.
RESERVED = 180.0


class Arm:
    """One subscription.  ``handle`` is a :data:`tests.clouds.wire.Handler`."""

    def __init__(
        self,
        now: Callable[[], float],
        rng: random.Random,
        *,
        subscription: str = SUBSCRIPTION,
        group: str = GROUP,
        regions: Mapping[str, tuple[str, ...]] | None = None,
        allocation: tuple[float, float] = (2.0, 8.0),
        boot: tuple[float, float] = (12.0, 35.0),
        deletion: tuple[float, float] = (3.0, 20.0),
        visible: tuple[float, float] = (0.0, 20.0),
    ) -> None:
        self.now = now
        self.rng = rng
        self.subscription = subscription
        self.group = group
        self.regions = dict(sizes.REGIONS if regions is None else regions)
        self.sizes = dict(sizes.SIZES)
        self.images = sizes.images()
        self.restrictions: list[sizes.Restriction] = []
        self.allocation, self.boot, self.deletion, self.visible = allocation, boot, deletion, visible
        #: Seconds by which the activity log lags.
        self.activity_lag = 0.0
        #: ``Enabled``, ``Disabled``, ``Warned``.
        self.subscription_state = "Enabled"
        #: Resource group (lower case) -> region.
        self.groups = {group.lower(): next(iter(self.regions))}
        #: Ids of other resources (lower case) that exist -> region.
        self.resources: dict[str, str] = {}
        #: Quota by (region, name); what is not there has plenty.
        self.quota: dict[tuple[str, str], int] = {}
        #: How many machines there can be, by pattern ``region/zone/size/market`` (``*``, ``a|b``; ``-`` for no zone).
        self.capacity: dict[str, int] = {}
        #: Dollars per hour that the public price list tells, by (region, size, market).
        self.prices: dict[tuple[str, str, str], float] = {}
        #: Accepted terms of plans.
        self.accepted: set[tuple[str, str, str]] = set()
        self.faults: list[Fault] = []
        self.buckets = limits.Buckets(now)
        #: Called with an instance that starts to run, stops or ends.
        self.on_change: Callable[[state.Instance], None] | None = None
        self._machines: dict[tuple[str, str], state.Instance] = {}
        #: Every machine ever made.
        self.created: list[state.Instance] = []
        self.parts: dict[tuple[str, str, str], state.Part] = {}
        #: Operation -> the machine it makes or ends, and whether it makes it.
        self.operations: dict[str, tuple[state.Instance, bool]] = {}
        self.activity: list[dict[str, Any]] = []
        #: Role assignments by id.
        self.roles: dict[str, dict[str, Any]] = {}
        #: (tenant, client id) -> secret.
        self.applications = {(TENANT, CLIENT): SECRET}
        #: The principal that the daemon acts as; replace it to take rights away.
        self.daemon = state.Principal("daemon", "daemon-object-id", ("*",))
        self._tokens: dict[str, state.Principal] = {}
        #: Every call: operation and answer's status, or ``lost``.
        self.calls: list[tuple[str, str]] = []
        for region in self.regions:
            self.add_network(region)
        self._service = service.Service(self)

    def handle(self, request: wire.Request) -> wire.Answer:
        """The API, the sign-in service, the store of serial logs and the public price list, told apart by path."""
        self.tick()
        return self._service.handle(request)

    def guest(self, ref: str) -> wire.Handler:
        """The same as one machine sees it: with its instance metadata service."""

        def handle(request: wire.Request) -> wire.Answer:
            self.tick()
            return self._service.as_guest(self.find(ref), request)

        return handle

    # -- what a test looks at and does -------------------------------------------------------------------------------

    @property
    def instances(self) -> list[state.Instance]:
        """The machines that are there now."""
        self.tick()
        return list(self._machines.values())

    @property
    def billed(self) -> list[str]:
        """Names of the machines that cost money now."""
        return [one.name for one in self.instances if one.billed]

    def find(self, ref: str) -> state.Instance:
        """A machine by its name, or by any handle or id that has its name as a part."""
        parts = ref.split("/")
        for one in self.created:
            if one.name in parts:
                return one
        raise KeyError(ref)

    def subnet(self, region: str) -> str:
        """The id of the subnet that each region has."""
        return (
            f"/subscriptions/{self.subscription}/resourceGroups/network/providers/Microsoft.Network"
            f"/virtualNetworks/{region}/subnets/ci"
        )

    def security_group(self, region: str) -> str:
        """The id of the network security group that each region has."""
        return (
            f"/subscriptions/{self.subscription}/resourceGroups/network/providers/Microsoft.Network"
            f"/networkSecurityGroups/{region}"
        )

    def add_network(self, region: str) -> None:
        self.groups.setdefault("network", region)
        self.resources[self.subnet(region).lower()] = region
        self.resources[self.security_group(region).lower()] = region

    def add_identity(self, name: str = "self-delete") -> str:
        """A user-assigned identity; its id."""
        made = (
            f"/subscriptions/{self.subscription}/resourceGroups/{self.group}/providers/Microsoft.ManagedIdentity"
            f"/userAssignedIdentities/{name}"
        )
        self.resources[made.lower()] = next(iter(self.regions))
        return made

    def preempt(self, ref: str) -> None:
        """Take a spot machine back now."""
        self.tick()
        one = self.find(ref)
        if one.market != "spot":
            raise ValueError(f"{one.name} is not a spot machine")
        if one.state != "gone":
            one.preempted_at = self.now()
            self.tick()

    def power_off(self, ref: str) -> None:
        """The guest shuts down: it stops, stays, and is billed on."""
        self.tick()
        one = self.find(ref)
        if one.state == "running":
            one.power = one.state = "stopped"
            self._changed(one)

    def token(self, principal: state.Principal) -> str:
        """A token that this API takes, with the claims that Azure's have."""
        claims = {"oid": principal.oid, "tid": TENANT, "xms_mirid": principal.resource, "n": len(self._tokens)}
        parts = [base64.urlsafe_b64encode(json.dumps(one).encode()).rstrip(b"=").decode() for one in ({}, claims)]
        made = ".".join([*parts, "simulated"])
        self._tokens[made] = principal
        return made

    def principal(self, token: str) -> state.Principal | None:
        """Return the holder of a token; the daemon's rights are those it has now."""
        found = self._tokens.get(token)
        return self.daemon if found is not None and found.name == "daemon" else found

    def revoke(self) -> None:
        """No token is taken any more."""
        self._tokens.clear()

    # -- time --------------------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """Let everything happen that was due up to now, in the order of its time."""
        now = self.now()
        while True:
            due = [(at, one.name, one) for one in self._machines.values() for at in [self._next(one)] if at <= now]
            if not due:
                return
            at, _, one = min(due, key=lambda entry: entry[:2])
            self._happen(one, at)

    def _next(self, one: state.Instance) -> float:
        """Return when the next thing happens to a machine."""
        if one.state == "deleting":
            return math.inf if one.stuck else one.gone_at
        times = [one.preempted_at, one.vanishes_at]
        if one.state == "creating":
            times.append(min(one.fails_at, one.runs_at))
        elif one.state == "running" and one.provisioning == "Creating":
            times.append(one.fails_at)
        return min(times)

    def _happen(self, one: state.Instance, at: float) -> None:
        if one.state == "deleting":
            self._remove(one)
        elif at >= one.preempted_at:
            self.log(one, "Microsoft.Compute/virtualMachines/evictSpotVM/action", "Azure", {})
            self._remove(one)
        elif at >= one.vanishes_at:
            self._remove(one)
        elif at >= one.fails_at:
            one.provisioning = "Failed"
            if one.state == "creating":
                one.state = "failed"
            elif not one.runs:
                one.state, one.power = "failed", ""
            self._changed(one)
        else:
            one.state, one.power = "running", "running"
            if one.fails_at == math.inf:
                one.provisioning = "Succeeded"
            one.console = one.console or f"[    0.000000] Linux version 6.8.0-azure\n{one.name} login: \n"
            self._changed(one)

    def _changed(self, one: state.Instance) -> None:
        if self.on_change is not None:
            self.on_change(one)

    def _remove(self, one: state.Instance) -> None:
        """A machine is gone, and with it the parts that go with it."""
        failed = one.fails_at <= self.now()
        one.state, one.power = "gone", ""
        del self._machines[one.group, one.name]
        for key, part in list(self.parts.items()):
            if part.group == one.group and part.owner == one.name:
                if part.delete:
                    self.remove_part(key)
                else:
                    part.owner = ""
                    if failed and part.kind == "networkInterfaces":
                        part.reserved_until = self.now() + RESERVED
        self._changed(one)

    def remove_part(self, key: tuple[str, str, str]) -> None:
        """An interface takes an address with it that goes with its machine."""
        part = self.parts.pop(key)
        for other_key, other in list(self.parts.items()):
            if part.kind == "networkInterfaces" and other.kind == "publicIPAddresses" and other.owner == part.name:
                if other.delete and part.delete:
                    del self.parts[other_key]
                else:
                    other.owner = ""

    def log(self, one: state.Instance, operation: str, caller: str, claims: Mapping[str, str]) -> None:
        """An entry in the activity log."""
        self.activity.append(
            {
                "at": self.now(),
                "resourceId": self.id_of(one),
                "operationName": {"value": operation},
                "status": {"value": "Succeeded"},
                "caller": caller,
                "claims": dict(claims),
                "eventTimestamp": state.iso(self.now()),
            }
        )

    # -- machines ----------------------------------------------------------------------------------------------------

    def id_of(self, one: state.Instance) -> str:
        return (
            f"/subscriptions/{self.subscription}/resourceGroups/{one.group}/providers/Microsoft.Compute"
            f"/virtualMachines/{one.name}"
        )

    def machine(self, group: str, name: str) -> state.Instance | None:
        """A machine by its group and name, whatever their case."""
        for (its_group, its_name), one in self._machines.items():
            if its_group.lower() == group.lower() and its_name.lower() == name.lower():
                return one
        return None

    def used(self, pattern: str) -> int:
        """Return the number of machines in the places of a pattern ``region/zone/size/market``."""
        wanted = pattern.split("/")
        return sum(
            one.alive
            and all(
                faults.matches(want, have)
                for want, have in zip(wanted, (one.region, one.zone or "-", one.type, one.market), strict=True)
            )
            for one in self._machines.values()
        )

    def cores(self, region: str, *, family: str = "", market: str = "on-demand") -> int:
        """Cores in use, as quota counts them."""
        return sum(
            self.sizes[one.type].cores
            for one in self._machines.values()
            if one.alive
            and one.region == region
            and one.market == market
            and family in ("", self.sizes[one.type].family)
        )

    def add(self, group: str, name: str, body: dict[str, Any], struck: list[Fault]) -> state.Instance:
        """A machine whose PUT was accepted, with its whole future."""
        now, properties, tags = self.now(), body["properties"], dict(body.get("tags", {}))
        custom_data = base64.b64decode(properties["osProfile"].get("customData", ""))
        one = state.Instance(
            name=name,
            subscription=self.subscription,
            group=group,
            vm_id=str(uuid.UUID(int=self.rng.getrandbits(128), version=4)),
            region=body["location"],
            zone=(body.get("zones") or [""])[0],
            type=properties["hardwareProfile"]["vmSize"],
            market="spot" if properties.get("priority") == "Spot" else "on-demand",
            key=tags.get("runnerd-attempt", ""),
            tags=tags,
            user_data=custom_data,
            body=body,
            created_at=now,
            visible_at=now + self.between(self.visible),
            runs_at=now + self.between(self.boot),
            operation=str(uuid.UUID(int=self.rng.getrandbits(128), version=4)),
        )
        if (body.get("identity") or {}).get("type") == "SystemAssigned":
            one.principal = str(uuid.UUID(int=self.rng.getrandbits(128), version=4))
        self._fate(one, struck, now)
        self._machines[group, name] = one
        self.created.append(one)
        self.operations[one.operation] = (one, True)
        return one

    def _fate(self, one: state.Instance, struck: list[Fault], now: float) -> None:
        allocated = now + min(self.between(self.allocation), one.runs_at - now)
        place = f"{one.region}/{one.zone or '-'}/{one.type}/{one.market}".split("/")
        for pattern, most in self.capacity.items():
            here = all(faults.matches(want, have) for want, have in zip(pattern.split("/"), place, strict=True))
            if here and self.used(pattern) >= most:
                code = "ZonalAllocationFailed" if one.zone else "AllocationFailed"
                one.fails_at, one.fails_with = allocated, code
                one.fails_message = "Allocation failed. We do not have sufficient capacity for the requested VM size."
        for fault in struck:
            if fault.fails_with:
                one.fails_with, one.fails_message, one.runs = fault.fails_with, fault.message, fault.runs
                one.fails_at = one.runs_at + 1.0 if fault.runs else allocated
            if fault.preempted_after is not None and one.market == "spot":
                one.preempted_at = now + fault.preempted_after
            if fault.vanishes_after is not None:
                one.vanishes_at = one.runs_at + fault.vanishes_after
            one.visible_at = max(one.visible_at, now + fault.hidden_for)

    def end(self, one: state.Instance, struck: list[Fault]) -> None:
        """A deletion was accepted."""
        if one.state != "deleting":
            one.state, one.provisioning = "deleting", "Deleting"
            one.gone_at = self.now() + self.notice_of(one) + self.between(self.deletion)
            one.deletion = str(uuid.UUID(int=self.rng.getrandbits(128), version=4))
            one.stuck = any(fault.stuck for fault in struck)
            self.operations[one.deletion] = (one, False)
            self._changed(one)

    def notice_of(self, one: state.Instance) -> float:
        """Seconds for which a deletion waits for a running machine to approve of it."""
        profile = one.body["properties"].get("scheduledEventsProfile", {}).get("terminateNotificationProfile", {})
        minutes = str(profile.get("notBeforeTimeout", "PT0M")).removeprefix("PT").removesuffix("M")
        return 60.0 * int(minutes) if profile.get("enable") and one.power == "running" else 0.0

    def between(self, span: tuple[float, float]) -> float:
        return self.rng.uniform(*span)
