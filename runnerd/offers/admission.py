"""Admission: whether one more instance may be bought, by limits, budgets and quotas.

Dollars are counted before they are spent.  Totals are derived from the rows at the start of each pass; what is
reserved between two passes is added on top until its row counts for itself, so that two launches at the same moment
cannot both take the last dollar.
"""

from __future__ import annotations

import calendar
from collections.abc import Iterable
from dataclasses import dataclass, field
from types import TracebackType

from provisioners.base import Market, Offer
from runnerd import config, model
from runnerd.model import Instance, InstanceState
from runnerd.offers import blocklist, quotas
from runnerd.planner import limit_messages
from runnerd.planner.snapshot import Budget
from runnerd.runtime import budget, shared

#: Dollars that sums of floating-point numbers may be off.
_ROUNDING, _OVERRUN = 1e-9, 0.01
_DAY_S = 86400.0
#: Titles of levels whose alarms have another id, which people may have rules for.
_ALARM_ID = {limit_messages.ALL: "the whole"}


@dataclass(slots=True)
class _Account:
    """One level's limits with what is used of them."""

    title: str
    limits: config.Limits
    windows: list[budget.Window] = field(default_factory=list)
    #: For each window, dollars spent or committed.
    committed: list[float] = field(default_factory=list)
    instances: int = 0
    gpus: int = 0
    #: Dollars per hour of all that lives.
    rate: float = 0.0

    def refusal(self, offer: Offer, lifetime: float, now: float) -> str:
        """Return why one more instance of that offer is not admitted; empty when it is."""
        limits = self.limits
        if limits.instances is not None and self.instances >= limits.instances:
            return limit_messages.instances(self.title, limits.instances)
        if limits.gpus is not None and self.gpus + offer.gpus > limits.gpus:
            return limit_messages.gpus(self.title, limits.gpus)
        return self.dollars_refusal(offer, lifetime, now)

    def dollars_refusal(self, offer: Offer, lifetime: float, now: float) -> str:
        """Return why no budget of the level pays one more instance of that offer; empty when all do."""
        limits = self.limits
        if limits.on_reached is config.OnReached.ALERT:
            return ""
        if limits.on_reached is config.OnReached.SPOT_ONLY and offer.market is Market.SPOT:
            return ""
        if limits.dollars_per_hour is not None and self.rate + offer.price > limits.dollars_per_hour:
            return limit_messages.rate(self.title, then=self.rate + offer.price, limit=limits.dollars_per_hour)
        for window, used in zip(self.windows, self.committed, strict=True):
            more = budget.next_commitment(offer.price, lifetime, now, window)
            if used + more > window.dollars + _ROUNDING:
                left = Budget(window.dollars - used, window.dollars, _span(window, now))
                return limit_messages.dollars(self.title, left, left=left.left, more=more)
        return ""

    def add_row(self, row: Instance, now: float, *, count: int = 1) -> None:
        """Count an instance that may cost money; a count of -1 takes it off again."""
        self.instances += count
        self.gpus += count * row.gpus
        self.rate += count * row.price
        for index, window in enumerate(self.windows):
            self.committed[index] += count * budget.commitment(row, now, window)

    def add_offer(self, offer: Offer, lifetime: float, now: float, *, count: int = 1) -> None:
        """Count an instance of an offer that is about to be requested; a count of -1 takes it off again."""
        self.instances += count
        self.gpus += count * offer.gpus
        self.rate += count * offer.price
        for index, window in enumerate(self.windows):
            self.committed[index] += count * budget.next_commitment(offer.price, lifetime, now, window)

    def affordable(self, offer: Offer, lifetime: float, now: float) -> tuple[Budget, float] | None:
        """Return the budget that one instance after the other uses up first, and what each commits of it."""
        tightest: tuple[Budget, float] | None = None
        if self.limits.on_reached is not config.OnReached.STOP:
            return None
        for window, used in zip(self.windows, self.committed, strict=True):
            more = budget.next_commitment(offer.price, lifetime, now, window)
            left = window.dollars - used
            if more > 0 and (tightest is None or left / more < tightest[0].left / tightest[1]):
                tightest = (Budget(left, window.dollars, _span(window, now)), more)
        return tightest


class Reservation:
    """Room for one instance whose row is about to be written.

    As a context it is cancelled at its end, unless :meth:`commit` was called: from then on the row counts for itself.
    """

    def __init__(self, admission: Admission, offer: Offer, *, pool: str, repo: str, lifetime: float) -> None:
        self._admission = admission
        self.offer = offer
        self.pool = pool
        self.repo = repo
        self.lifetime = lifetime

    def commit(self) -> None:
        """Leave what is reserved to the row, which has been written."""
        self._admission.settle(self, kept=True)

    def cancel(self) -> None:
        """Give back what is reserved, because nothing came of it; nothing happens after :meth:`commit`."""
        self._admission.settle(self, kept=False)

    def __enter__(self) -> Reservation:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.cancel()


class Admission:
    """The limits of the configuration with what is used of them."""

    def __init__(self, runtime: shared.Runtime) -> None:
        self._runtime = runtime
        self._accounts: dict[tuple[str, str], _Account] = {}
        self._quotas = quotas.Quotas()
        #: Reservations whose rows are not written yet: they do not count themselves.
        self._reserved: list[Reservation] = []
        #: Ids of the alarms of levels at which more is committed than their limit.
        self._overrun: set[str] = set()
        runtime.rows.on_step.append(self._stepped)

    # -- counting ----------------------------------------------------------------------------------------------

    def count(self) -> None:
        """Derive all totals from the rows, and watch the budgets; called at the start of each pass."""
        rows = self._runtime.rows
        now = self._runtime.clock.now()
        self._accounts = self._empty_accounts()
        for row in rows.instances.values():
            if row.state not in model.MAY_COST:
                continue
            for account in self._of(row.pool, row.provider, row.repo):
                account.add_row(row, now)
        reported = {name: provider.quotas for name, provider in self._runtime.providers.items() if provider.quotas}
        self._quotas.count(reported, rows.instances.values() if reported else ())
        for reservation in self._reserved:
            self._add(reservation, 1)
        for (level, name), account in self._accounts.items():
            for index, window in enumerate(account.windows):
                for spent, dollars in rows.tally.inside(window):
                    if name == self._member(level, spent):
                        account.committed[index] += dollars
        self._watch_budgets()

    def _empty_accounts(self) -> dict[tuple[str, str], _Account]:
        settings, wall = self._runtime.config, self._runtime.clock.wall()
        # Budgets of every day that an instance launched now may reach are counted.
        horizon = max((pool.lifetime for pool in settings.pools.values()), default=0.0)
        found = {("all", ""): _account(limit_messages.ALL, settings.limits, wall, horizon)}
        for pool in settings.pools.values():
            found["pool", pool.name] = _account(f"pool {pool.name}", pool.limits, wall, horizon)
        for provider in settings.providers.values():
            found["provider", provider.name] = _account(f"provider {provider.name}", provider.limits, wall, horizon)
        for team in settings.teams.values():
            found["team", team.name] = _account(f"team {team.name}", team.limits, wall, horizon)
        return found

    def _member(self, level: str, spent: budget.Account) -> str:
        """Return the account of a level that the dollars belong to."""
        if level == "pool":
            return spent.pool
        if level == "provider":
            return spent.provider
        return self.team(spent.repo) if level == "team" else ""

    def _of(self, pool: str, provider: str, repo: str) -> Iterable[_Account]:
        team = self.team(repo)
        for key in (("all", ""), ("pool", pool), ("provider", provider), ("team", team)):
            account = self._accounts.get(key)
            if account is not None:
                yield account

    def team(self, repo: str) -> str:
        """Return the team that a repository belongs to; empty for none."""
        found = self._runtime.config.team_of(repo) if repo else None
        return found.name if found else ""

    def _stepped(self, old: Instance, new: Instance) -> None:
        """Free what an instance counted whose request certainly yielded nothing, first of all for its next offer."""
        unsure = (InstanceState.REQUESTING, InstanceState.UNKNOWN)
        if old.state not in unsure or new.state not in (InstanceState.PLANNED, InstanceState.FAILED):
            return
        now = self._runtime.clock.now()
        for account in self._of(old.pool, old.provider, old.repo):
            account.add_row(old, now, count=-1)
        offer = blocklist.offer_of(old)
        if offer is not None:
            self._quotas.add(offer, -1)

    # -- asking ------------------------------------------------------------------------------------------------

    def refusal(self, offer: Offer, *, pool: str, repo: str, lifetime: float) -> str:
        """Return why the offer may not be bought now; empty when it may."""
        now = self._runtime.clock.now()
        for account in self._of(pool, offer.provider, repo):
            refusal = account.refusal(offer, lifetime, now)
            if refusal:
                return refusal
        return self._quotas.refusal(offer)

    def provider_refusal(self, provider: str) -> str:
        """Return why nothing at all may be bought from a provider; empty when something may."""
        account = self._accounts.get(("provider", provider))
        most = account.limits.instances if account is not None else None
        if account is None or most is None or account.instances < most:
            return ""
        return limit_messages.instances(account.title, most)

    def team_refusals(self, offer: Offer, lifetime: float) -> dict[str, str]:
        """Return the teams whose budget cannot pay one more instance of that offer, with why."""
        now = self._runtime.clock.now()
        found = {
            name: account.dollars_refusal(offer, lifetime, now)
            for (level, name), account in self._accounts.items()
            if level == "team"
        }
        return {name: refusal for name, refusal in found.items() if refusal}

    def left(self, level: str, name: str, offer: Offer, lifetime: float) -> tuple[Budget, float] | None:
        """Return a level's tightest budget and what one instance commits of it; None without a limit in dollars."""
        account = self._accounts.get((level, name))
        return None if account is None else account.affordable(offer, lifetime, self._runtime.clock.now())

    def totals(self, level: str, name: str) -> list[tuple[budget.Window, float]]:
        """Return the windows of a level that hold now with what is committed in each."""
        account = self._accounts.get((level, name))
        if account is None:
            return []
        wall = self._runtime.clock.wall()
        pairs = zip(account.windows, account.committed, strict=True)
        return [(window, used) for window, used in pairs if window.start <= wall]

    # -- reserving ---------------------------------------------------------------------------------------------

    def reserve(self, offer: Offer, *, pool: str, repo: str, lifetime: float) -> Reservation | None:
        """Reserve room for one instance; None when it is refused."""
        if self.refusal(offer, pool=pool, repo=repo, lifetime=lifetime):
            return None
        reservation = Reservation(self, offer, pool=pool, repo=repo, lifetime=lifetime)
        self._reserved.append(reservation)
        self._add(reservation, 1)
        return reservation

    def settle(self, reservation: Reservation, *, kept: bool) -> None:
        """End a reservation; what it holds stays counted when its row stands for it."""
        if reservation not in self._reserved:
            return
        self._reserved.remove(reservation)
        if not kept:
            self._add(reservation, -1)

    def _add(self, reservation: Reservation, count: int) -> None:
        """Count a reservation at every level that it belongs to."""
        now = self._runtime.clock.now()
        offer = reservation.offer
        for account in self._of(reservation.pool, offer.provider, reservation.repo):
            account.add_offer(offer, reservation.lifetime, now, count=count)
        self._quotas.add(offer, count)

    # -- watching ----------------------------------------------------------------------------------------------

    def overruns(self) -> list[tuple[str, str]]:
        """Return the levels at which more is committed than the limit: a price drifted, or the limit only alerts."""
        found = []
        for account in self._accounts.values():
            for window, used in zip(account.windows, account.committed, strict=True):
                if used > window.dollars + _OVERRUN:
                    span = _span(window, self._runtime.clock.now())
                    detail = f"${used:.2f} is spent or committed {span}; the limit is ${window.dollars:.2f}"
                    found.append((account.title, detail))
        return found

    def _watch_budgets(self) -> None:
        """Alarm what is over its limit, until it no longer is."""
        over = {_ALARM_ID.get(title, title): detail for title, detail in self.overruns()}
        for id in self._overrun - set(over):
            self._runtime.alarms.clear("budget", id, "overrun")
        for id, detail in over.items():
            self._runtime.alarms.ring("budget", id, "overrun", detail)
        self._overrun = set(over)


def _account(title: str, limits: config.Limits, wall: float, horizon: float) -> _Account:
    until = None
    if limits.until is not None:
        until = float(calendar.timegm(limits.until.timetuple())) + _DAY_S
    windows = budget.windows(
        wall=wall,
        per_day=limits.dollars_per_day,
        per_month=limits.dollars_per_month,
        total=limits.dollars_total,
        until=until,
        horizon=horizon,
    )
    return _Account(title, limits, windows, [0.0] * len(windows))


def _span(window: budget.Window, now: float) -> str:
    """Return the phrase that says when the dollars of a window count: ``today``, ``in a later month``."""
    if window.name == "total":
        return "in total"
    if window.name == "day":
        return "today" if window.start <= now else "on a later day"
    return f"this {window.name}" if window.start <= now else f"in a later {window.name}"
