"""A simulated EC2 with what stands beside it (STS, SSM parameters, Service Quotas), in front of moto.

moto knows the shapes; this adds what makes EC2 hard to use well: tokens that hold in one zone, instances that are
pending first and missing from listings for a while, capacity, quotas, request rates, refusals, lost answers, spot
interruptions.  Time and chance come from outside, so the same seed gives the same cloud.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from urllib.parse import parse_qsl

from tests.clouds import faults, wire
from tests.clouds.aws import account, beside, launch, limits, reads, refusals, schema
from tests.clouds.aws.account import Instance
from tests.clouds.aws.faults import Fault

#: Seconds for which a terminated instance is told of.
REMEMBERED = 3600.0
#: The keys that are known from the start.
KEYS = ("AKIAIOSFODNN7EXAMPLE", "simulated-secret-key")
_SCOPE = re.compile(r"Credential=([^/,]+)/\d{8}/([^/]+)/([^/]+)/aws4_request")
_PROTOCOLS = {"ec2": "ec2", "sts": "query"}


@dataclass(slots=True)
class Identity:
    """The signer of a request."""

    arn: str
    #: Actions such as ``ec2:*``.
    allowed: tuple[str, ...] = ("*",)
    expires_at: float = float("inf")
    session: str = ""


@dataclass(frozen=True, slots=True)
class Role:
    """A role that can be assumed by those who know its external id."""

    external_id: str = ""
    allowed: tuple[str, ...] = ("*",)
    #: Seconds that its credentials are good for at most.
    lasts: float = 3600.0


@dataclass(frozen=True, slots=True)
class Created:
    """One instance that was ever launched, with its idempotency key."""

    token: str
    id: str
    region: str
    zone: str
    type: str
    market: str
    at: float
    tags: Mapping[str, str]


@dataclass(slots=True)
class Heard:
    """A call as it arrived."""

    operation: str
    region: str
    access_key: str
    #: ``ok`` or the code of the refusal.
    outcome: str = "ok"


class Ec2:
    """One account."""

    def __init__(
        self,
        now: Callable[[], float],
        rng: random.Random,
        *,
        account_id: str = "111122223333",
        boot: tuple[float, float] = (8.0, 25.0),
        ending: tuple[float, float] = (1.0, 6.0),
        visibility: tuple[float, float] = (0.0, 2.0),
        throttled: bool = True,
    ) -> None:
        self.now = now
        self.rng = rng
        self.account_id = account_id
        self.boot, self.ending, self.visibility = boot, ending, visibility
        self.account = account.Account(rng)
        self.limits = limits.Limits(now, enabled=throttled)
        self.faults: list[Fault] = []
        #: ``zone/type/market`` pattern -> instances that it has room for; the first that matches counts.
        self.capacity: dict[str, int] = {}
        #: (region, Service Quotas code) -> vCPUs.
        self.quotas: dict[tuple[str, str], int] = {}
        #: What quotas are that are not set.
        self.default_quota = 4096
        #: ``zone/type`` patterns of what is not sold.
        self.not_sold: list[str] = []
        #: ``zone/type`` -> dollars.
        self.spot_prices: dict[str, float] = {}
        #: Subnet -> addresses that are left; without an entry there are enough.
        self.addresses: dict[str, int] = {}
        self.keys: dict[str, Identity] = {KEYS[0]: Identity(f"arn:aws:iam::{account_id}:user/runnerd")}
        self.roles: dict[str, Role] = {}
        #: Actions that nobody may, as patterns: ``ec2:RunInstances``.
        self.denied: set[str] = set()
        #: Called with each instance when its state changed.
        self.on_change: Callable[[Instance], None] = lambda instance: None
        self.created: list[Created] = []
        self.calls: list[Heard] = []
        #: (region, zone, token) -> what was launched with it.
        self.tokens: dict[tuple[str, str, str], launch.Taken] = {}

    # -- for tests --------------------------------------------------------------------------------------------------

    @property
    def instances(self) -> dict[str, Instance]:
        """Every instance that is still told of, by id; up to date."""
        self.tick()
        return self.account.instances

    @property
    def alive(self) -> list[Instance]:
        """The instances that cost."""
        return [one for one in self.instances.values() if one.alive]

    def find(self, ref: str) -> Instance:
        """An instance by its id, alone or after its region."""
        return self.instances[ref.rpartition("/")[2]]

    def subnet(self, zone: str) -> str:
        return self.account.subnet(zone)

    def preempt(self, ref: str) -> None:
        """A spot instance is taken back now."""
        instance = self.find(ref)
        if instance.market != "spot":
            raise ValueError(f"{ref} is no spot instance")
        self._end(instance, "Server.SpotInstanceTermination", "Spot instance termination")

    def power_off(self, ref: str) -> None:
        """The guest shuts itself down: terminated or stopped, as its launch said."""
        instance = self.find(ref)
        if instance.state not in ("pending", "running"):
            return
        reason = ("Client.InstanceInitiatedShutdown", "Instance initiated shutdown")
        if instance.form.get("InstanceInitiatedShutdownBehavior") == "terminate":
            self._end(instance, *reason)
        else:
            instance.turn("stopped", *reason)
            self.on_change(instance)

    def vanish(self, ref: str, code: str = "Server.InternalError") -> None:
        """It breaks."""
        self._end(self.find(ref), code, "Internal error on launch")

    def close(self) -> None:
        self.account.close()

    # -- time -------------------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """Let happen what is due.  Every call does; who waits for ``on_change`` calls it itself."""
        now = self.now()
        for instance in list(self.account.instances.values()):
            self._age(instance, now)

    def next_change(self) -> float:
        """Return when something is due next; infinity when nothing is."""
        times = [float("inf")]
        for instance in self.account.instances.values():
            if instance.state == "pending":
                times.append(instance.runs_at)
            if instance.alive:
                times += [at for at, _ in instance.dooms]
            if instance.gone_at is not None and instance.state == "shutting-down" and not instance.stuck:
                times.append(instance.gone_at)
        return min(times)

    def _age(self, instance: Instance, now: float) -> None:
        for at, code in sorted(instance.dooms):
            if at > now or not instance.alive:
                break
            if instance.state == "pending" and instance.runs_at <= at:
                instance.turn("running")
                self.on_change(instance)
            if instance.state == "pending":
                self._gone(instance, at, code, "launch failed")
            else:
                self._end(instance, code, code.partition(".")[2], at=at)
        if instance.state == "pending" and now >= instance.runs_at:
            instance.turn("running")
            self.on_change(instance)
        if instance.state == "shutting-down" and not instance.stuck and now >= (instance.gone_at or 0.0):
            self._gone(instance, instance.gone_at or now)
        if instance.state == "terminated" and now >= (instance.gone_at or now) + REMEMBERED:
            del self.account.instances[instance.id]
            self.account.backend(instance.region).reservations.pop(instance.reservation.id, None)

    def _end(
        self, instance: Instance, code: str, message: str, *, at: float | None = None, stuck: bool = False
    ) -> None:
        """On its way out."""
        if not instance.alive:
            return
        started = self.now() if at is None else at
        instance.turn("shutting-down", code, message)
        instance.gone_at = started + self.rng.uniform(*self.ending)
        instance.stuck = stuck
        self._close_spot(instance)
        self.on_change(instance)

    def _gone(self, instance: Instance, at: float, code: str = "", message: str = "") -> None:
        instance.gone_at = at
        instance.turn("terminated", code, message)
        self._close_spot(instance)
        if instance.subnet in self.addresses:
            self.addresses[instance.subnet] += 1
        self.on_change(instance)

    def _close_spot(self, instance: Instance) -> None:
        request = self.account.spot_requests.get(instance.spot_request)
        if request is not None and request.state == "active":
            request.state = "closed"

    def note_created(self, instance: Instance) -> None:
        """It was launched."""
        self.created.append(
            Created(
                token=instance.token,
                id=instance.id,
                region=instance.region,
                zone=instance.zone,
                type=instance.type,
                market=instance.market,
                at=instance.created_at,
                tags=dict(instance.tags),
            )
        )

    def terminate(self, instance: Instance) -> None:
        """By an API call."""
        call = faults.Call("TerminateInstances", instance.region, instance.zone, instance.type, instance.market)
        stuck = any(one.stuck for one in faults.struck([one for one in self.faults if one.stuck], call, self.rng))
        self._end(instance, "Client.UserInitiatedShutdown", "User initiated shutdown", stuck=stuck)

    # -- the API ----------------------------------------------------------------------------------------------------

    def handle(self, request: wire.Request) -> wire.Answer:
        """Answer one request, or raise :class:`wire.Lost`."""
        self.tick()
        key, region, service = _signed(request)
        form, operation = _read(request)
        heard = Heard(operation, region, key)
        self.calls.append(heard)
        protocol = _PROTOCOLS.get(service, "json")
        request_id = f"{self.rng.getrandbits(128):032x}"
        try:
            identity = self._identity(key, service, request)
            self._authorize(identity, f"{'servicequotas' if service == 'service-quotas' else service}:{operation}")
            if protocol != "json":
                schema.check(service, operation, form)
            self._rates(operation, region, form)
            return self._answer(service, operation, region, form, request, identity)
        except refusals.Refused as refused:
            heard.outcome = refused.code
            return refusals.answer(refused, protocol, request_id)
        except wire.Lost:
            heard.outcome = "lost"
            raise

    def _answer(
        self,
        service: str,
        operation: str,
        region: str,
        form: dict[str, str],
        request: wire.Request,
        identity: Identity,
    ) -> wire.Answer:
        call = launch.call(self, region, form) if operation == "RunInstances" else faults.Call(operation, region)
        struck = faults.struck([one for one in self.faults if not one.stuck], call, self.rng)
        for fault in struck:
            if fault.lost == "before":
                raise wire.Lost(sent=fault.sent)
            if fault.code:
                raise refusals.Refused(fault.code, fault.message, status=fault.status)
        if service != "ec2":
            answer = beside.answer(self, service, operation, region, form, request, identity.arn)
        elif operation == "RunInstances":
            answer = launch.run(self, region, form, struck)
        else:
            answer = reads.answer(self, operation, region, form, request)
        if any(fault.lost == "after" for fault in struck):
            raise wire.Lost(sent=True)
        return answer

    def _rates(self, operation: str, region: str, form: Mapping[str, str]) -> None:
        narrowed = any(key.startswith(("Filter.", "MaxResults", "NextToken")) for key in form)
        resources = len(schema.numbered(form, "InstanceId")) if operation == "TerminateInstances" else 1
        self.limits.spend(region, operation, narrowed=narrowed, resources=resources)

    def _identity(self, key: str, service: str, request: wire.Request) -> Identity:
        identity = self.keys.get(key)
        given = request.header("X-Amz-Security-Token")
        if identity is None or identity.session != given:
            code = {"ec2": "AuthFailure", "sts": "InvalidClientTokenId"}.get(service, "UnrecognizedClientException")
            raise refusals.Refused(code, "AWS was not able to validate the provided access credentials")
        if identity.expires_at <= self.now():
            code = {"ec2": "RequestExpired", "sts": "ExpiredToken"}.get(service, "ExpiredTokenException")
            raise refusals.Refused(code, "The security token included in the request is expired")
        return identity

    def _authorize(self, identity: Identity, action: str) -> None:
        allowed = any(fnmatchcase(action, one) for one in identity.allowed)
        if allowed and not any(fnmatchcase(action, one) for one in self.denied):
            return
        service = action.partition(":")[0]
        code = {"ec2": "UnauthorizedOperation", "sts": "AccessDenied"}.get(service, "AccessDeniedException")
        encoded = " Encoded authorization failure message: dGhpcyBpcyBub3QgcmVhbA" if service == "ec2" else ""
        raise refusals.Refused(
            code,
            f"You are not authorized to perform this operation. User: {identity.arn} is not authorized to perform: "
            f"{action} on resource: arn:aws:{service}:::* because no identity-based policy allows the {action} action."
            f"{encoded}",
        )


def _signed(request: wire.Request) -> tuple[str, str, str]:
    """Access key, region and service of the signature."""
    match = _SCOPE.search(request.header("Authorization"))
    if match is None:
        return "", "us-east-1", "ec2"
    return match[1], match[2], {"servicequotas": "service-quotas"}.get(match[3], match[3])


def _read(request: wire.Request) -> tuple[dict[str, str], str]:
    """The form and the operation."""
    target = request.header("X-Amz-Target")
    if target:
        return {}, target.rpartition(".")[2]
    form = dict(parse_qsl(request.body.decode(), keep_blank_values=True)) or request.query
    return form, form.get("Action", "")


@dataclass(slots=True)
class Guest:
    """The inside of instances, for tests without agents: what the boot script's timer does at the deadline tag."""

    cloud: Ec2
    tag: str = "runnerd-deadline"

    def watch(self) -> None:
        """Power off whatever is past its deadline."""
        for instance in list(self.cloud.instances.values()):
            deadline = instance.tags.get(self.tag)
            if deadline and self.cloud.now() >= float(deadline):
                self.cloud.power_off(instance.id)
