"""Invariants that hold at every moment, judged by what the clouds have and not by what a daemon believes.

Each names itself in its complaint: ``double``, ``blind``, ``murder``, ``overspend``, ``untracked``, ``blocked``,
``pace``, ``quota``, ``failed``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from provisioners import base
from runnerd import model
from runnerd.offers import blocklist
from runnerd.runtime import budget
from tests.simulation import life

if TYPE_CHECKING:
    from tests.simulation.lab import Lab

#: Seconds in which a daemon that lives on has written down what a refusal told it.
WRITING = 1.0
#: Seconds of complete listings in which what has no row gets one, beyond the grace of its provider; and in which side
#: resources of nobody are removed, which takes two sightings and the time that a cloud needs.
ADOPTING, SWEEPING = 60.0, 400.0
#: Seconds, beyond two rounds of listing, in which a machine whose launch failed is deleted.
CLEARING = 60.0
#: Seconds for which quotas are taken as told lately.
FRESH = 300.0
#: How much of a call more than its bucket allows is rounding.
ROUNDING = 1e-6


@dataclass(slots=True)
class Refusal:
    """A create call was refused for a place and a time, as its own failure tells."""

    pattern: str
    kind: base.Kind
    since: float
    until: float
    one: life.Life


@dataclass(slots=True)
class _Level:
    """A bucket's tokens at a time, kept beside the daemon's own."""

    tokens: float
    at: float
    paused_until: float = 0.0


class Invariants:
    """Watches one simulated world."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self.violations: list[str] = []
        #: Every create call that reached a provider, with the time: a request that is sent again counts again.
        self.requests: list[tuple[float, base.CreateRequest]] = []
        #: Failed create calls: (provider, error).
        self.failures: list[tuple[str, base.ProvisionError]] = []
        self._refusals: list[Refusal] = []
        self._levels: dict[tuple[int, str, str], _Level] = {}
        #: What has no row -> since when complete listings could have shown it.
        self._unknown: dict[tuple[str, str], float] = {}
        self._looked_at = 0.0
        #: Create calls whose answer is not there yet: attempt key -> offer.
        self._sent: dict[str, base.Offer] = {}
        #: Machines whose launch failed -> since when that could be seen; and when a deletion failed there last.
        self._broken: dict[str, float] = {}
        self._delete_failed: dict[str, float] = {}

    def complain(self, words: str) -> None:
        if words not in self.violations:
            self.violations.append(words)

    def died(self) -> None:
        """The daemon was killed: whose answers did not come will not be heard."""
        self._sent.clear()

    # -- at each call of a provider --------------------------------------------------------------------------------

    def called(self, provider: str, one: life.Life, name: str, argument: object) -> None:
        """A call is about to reach a provisioner."""
        if isinstance(argument, base.CreateRequest):
            again = any(request.key == argument.key for _, request in self.requests)
            self.requests.append((self._lab.clock.now(), argument))
            self._check_pace(provider, one, argument.offer)
            if not again:
                self._check_blocked(argument)
                self._check_quota(provider, argument.offer)
            self._sent[argument.key] = argument.offer
        elif name == "delete":
            self._check_murder(provider, str(argument))

    def answered(
        self, provider: str, one: life.Life, name: str, argument: object, error: base.ProvisionError | None
    ) -> None:
        """A call of a provisioner has an answer, or failed."""
        if not isinstance(argument, base.CreateRequest):
            if name == "delete" and error is not None:
                self._delete_failed[str(argument)] = self._lab.clock.now()
            return
        self._sent.pop(argument.key, None)
        if error is None:
            return
        self.failures.append((provider, error))
        now = self._lab.clock.now()
        if error.kind is base.Kind.THROTTLED:
            level = self._level(provider, one, argument.offer)
            level.paused_until = now + (error.retry_after or 2.0)
            return
        times = blocklist.BLOCK_TIMES_S.get(error.kind)
        if error.maybe_created or times is None:
            return
        until = now + (error.block_for or times[0])
        self._refusals.append(Refusal(error.scope or argument.offer.key, error.kind, now, until, one))

    def _check_blocked(self, request: base.CreateRequest) -> None:
        """Nobody asks again where it was refused, before its time is over."""
        daemon = self._lab.daemon
        attempt = daemon.runtime.rows.attempts.get(model.AttemptKey(request.key)) if daemon is not None else None
        if attempt is None:
            return
        for one in self._refusals:
            # A refusal that a crash followed at once was never written down.
            forgotten = not one.one.alive and one.one.died_at - one.since < WRITING
            if forgotten or not one.since + WRITING < attempt.created_at < one.until - ROUNDING:
                continue
            if base.OfferPattern(one.pattern).matches(request.offer.key):
                self.complain(
                    f"blocked: {request.offer.key} is tried {attempt.created_at - one.since:.1f} s after {one.kind}"
                    f" was told for {one.pattern}, for {one.until - one.since:.0f} s"
                )

    def _check_quota(self, provider: str, offer: base.Offer) -> None:
        """No more is asked for than the account's quotas allow, as they were told lately."""
        assert self._lab.daemon is not None
        now = self._lab.clock.now()
        asked = {request.key: request.offer for _, request in self.requests}
        for quota in self._lab.daemon.runtime.providers[provider].quotas:
            if now - quota.as_of > FRESH or not base.OfferPattern(quota.pattern).matches(offer.key):
                continue
            vms = list(self._lab.clouds[provider].vms())
            # What the cloud's own lists did not show yet when it told its quota was not in the number.
            seen = [vm for vm in vms if not vm.created_at < quota.as_of < vm.visible_at]
            there = [asked[vm.key] for vm in seen if vm.rising(now) and vm.key in asked]
            known = {vm.key for vm in vms}
            there += [one for key, one in self._sent.items() if key not in known]
            used = sum(_units(quota.unit, one) for one in there if base.OfferPattern(quota.pattern).matches(one.key))
            if _units(quota.unit, offer) and used + _units(quota.unit, offer) > quota.limit + ROUNDING:
                self.complain(
                    f"quota: {offer.key} is asked for, and {used:g} of {quota.limit:g} {quota.unit} of {quota.name} are"
                    f" in use or on their way; told {now - quota.as_of:.1f} s ago"
                )

    def _level(self, provider: str, one: life.Life, offer: base.Offer) -> _Level:
        traits = self._traits(provider)
        key = (id(one), provider, offer.region if traits.paced_by_region else "")
        if key not in self._levels:
            self._levels[key] = _Level(float(traits.create_burst), self._lab.clock.now())
        return self._levels[key]

    def _traits(self, provider: str) -> base.Traits:
        assert self._lab.daemon is not None
        return self._lab.daemon.runtime.providers[provider].provisioner.traits

    def _check_pace(self, provider: str, one: life.Life, offer: base.Offer) -> None:
        """Creates go out no faster than the provider documents, and not at all while it asks for a pause."""
        traits, now = self._traits(provider), self._lab.clock.now()
        level = self._level(provider, one, offer)
        level.tokens = min(float(traits.create_burst), level.tokens + (now - level.at) * traits.create_rate) - 1.0
        level.at = now
        if level.tokens < -ROUNDING:
            self.complain(f"pace: {-level.tokens:.2f} creates too many went to {provider} {offer.region} at {now:.2f}")
        if now < level.paused_until - WRITING:
            self.complain(f"pace: {provider} {offer.region} asked for a pause and got a create")

    def _check_murder(self, provider: str, ref: str) -> None:
        key = next((vm.key for vm in self._lab.clouds[provider].vms() if vm.ref == ref), None)
        if key is None:
            return
        agent = self._lab.machines.running.get(key)
        if agent is None or not agent.worker or not agent.up or key in self._lab.ordered:
            return
        row = next((one for one in self._lab.rows().values() if one.attempt == key), None)
        if row is not None and row.reason in (model.Reason.MAX_JOB, model.Reason.OPERATOR):
            return
        self.complain(f"murder: attempt {key} is deleted while its job runs (row: {row})")

    # -- at each step of a row -------------------------------------------------------------------------------------

    def stepped(self, old: model.Instance, new: model.Instance) -> None:
        """Check that nothing lives that the daemon writes off; what has gone makes room under a quota."""
        if new.state is model.InstanceState.GONE and new.offer:
            self._refusals = [
                one
                for one in self._refusals
                if one.kind is not base.Kind.QUOTA or not base.OfferPattern(one.pattern).matches(new.offer)
            ]
        gone = new.state is model.InstanceState.GONE or (
            old.state is model.InstanceState.UNKNOWN
            and new.state in (model.InstanceState.PLANNED, model.InstanceState.FAILED)
        )
        if not gone or old.attempt is None:
            return
        now = self._lab.clock.now()
        for vm in self._lab.vms():
            if vm.key == old.attempt and vm.rising(now):
                self.complain(f"blind: {old.id} is written off ({old.state}) and lives")

    # -- at each moment --------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Look at the whole world."""
        now = self._lab.clock.now()
        self._check_doubles(now)
        self._check_budget(now)
        self._check_untracked(now)
        self._check_failed(now)

    def _check_failed(self, now: float) -> None:
        """A machine whose launch failed costs for nothing: it goes at once, unless its cloud refuses."""
        found: dict[str, float] = {}
        for name, cloud in self._lab.clouds.items():
            settled = self._listing_is_complete(name, now)
            for vm in cloud.vms():
                if not vm.failed(now):
                    continue
                since = self._broken.get(vm.ref, now)
                refused = now - self._delete_failed.get(vm.ref, 0.0) < CLEARING
                found[vm.ref] = since if settled and not refused else now
                if now - found[vm.ref] > 2 * self._lab.settings_interval + CLEARING:
                    self.complain(
                        f"failed: the launch of {vm.ref} failed {now - since:.0f} s ago, and it is still there"
                    )
        self._broken = found

    def _check_doubles(self, now: float) -> None:
        keys: dict[str, int] = {}
        names: dict[str, int] = {}
        for cloud in self._lab.clouds.values():
            for vm in cloud.vms():
                if cloud.once_per_attempt or vm.live(now):
                    keys[vm.key] = keys.get(vm.key, 0) + 1
                if vm.rising(now):
                    names[vm.name] = names.get(vm.name, 0) + 1
        for key, count in keys.items():
            if count > 1:
                self.complain(f"double: attempt {key} yielded {count} instances")
        for name, count in names.items():
            if count > 1:
                self.complain(f"double: {count} machines named {name} live")

    def _check_budget(self, now: float) -> None:
        limits = self._lab.settings_limits
        if limits.dollars_per_day is None:
            return
        window = budget.windows(wall=now, per_day=limits.dollars_per_day)[0]
        spent = 0.0
        for vm in self._lab.vms():
            price = float(vm.tags[base.TAG_PRICE])
            end = min(vm.ends_at(), float(vm.tags[base.TAG_DEADLINE]))
            spent += budget.cost(vm.created_at, end, price, window)
        if spent > window.dollars + 0.01:
            self.complain(f"overspend: ${spent:.2f} of ${window.dollars:.2f} is spent or committed")

    def _check_untracked(self, now: float) -> None:
        """Check that each machine has a row and that orphaned resources go; time counts while listings are complete."""
        passed, self._looked_at = now - self._looked_at, now
        found: set[tuple[str, str]] = set()
        tracked = {row.attempt for row in self._lab.rows().values() if row.live}
        for name in self._lab.clouds:
            settled = self._listing_is_complete(name, now)
            for what, patience in self._nobodys(name, tracked, now):
                key = (name, what)
                found.add(key)
                since = self._unknown.setdefault(key, now)
                if not settled:
                    # The clock stands still while nobody can see it.
                    self._unknown[key] = since + passed
                elif now - since > patience:
                    self.complain(f"untracked: {what} at {name} has been nobody's for {now - since:.0f} s")
        self._unknown = {key: since for key, since in self._unknown.items() if key in found}

    def _nobodys(self, name: str, tracked: set[Any], now: float) -> Iterator[tuple[str, float]]:
        """Yield what has no owner there, each with the seconds for which that may be."""
        daemon = self._lab.daemon
        if daemon is None or not daemon.progress.started_at or name not in daemon.runtime.providers:
            return
        grace = self._traits(name).visibility_grace
        cycle = 2 * self._lab.settings_interval
        for vm in self._lab.clouds[name].vms():
            if vm.live(now) and vm.key not in tracked:
                yield f"machine {vm.name} {vm.ref}", grace + cycle + ADOPTING
        for what in self._lab.clouds[name].orphans():
            yield what, grace + cycle + SWEEPING

    def _listing_is_complete(self, name: str, now: float) -> bool:
        daemon = self._lab.daemon
        provider = daemon.runtime.providers.get(name) if daemon is not None and daemon.progress.started_at else None
        if provider is None or provider.listing is None or provider.listing.failures:
            return False
        return now - provider.listed_at < 2 * self._lab.settings_interval + 15.0


def _units(unit: base.Unit, offer: base.Offer) -> float:
    return {base.Unit.INSTANCES: 1, base.Unit.GPUS: offer.gpus, base.Unit.VCPUS: offer.cpus}[unit]
