"""Whether one more instance may be bought: limits and quotas, dollars counted before they are spent.

Totals are derived from the rows at the start of each pass; what is admitted between two passes is added on top until
the next one counts it from its row.  So two launches at the same moment cannot both take the last dollar.
"""

from __future__ import annotations

import calendar
from collections.abc import Iterable
from dataclasses import dataclass, field

from provisioners.base import Market, Offer
from runnerd import config, model
from runnerd.offers import quotas
from runnerd.runtime import budget, shared


@dataclass(slots=True)
class _Account:
    """One level's limits with what is used of them."""

    title: str
    limits: config.Limits
    windows: list[budget.Window] = field(default_factory=list)
    #: Per window, dollars spent or promised.
    committed: list[float] = field(default_factory=list)
    instances: int = 0
    gpus: int = 0
    #: Dollars per hour of all that lives.
    rate: float = 0.0

    def refusal(self, offer: Offer, lifetime: float, now: float) -> str:
        """Why one more instance of that offer is not admitted; empty when it is."""
        limits = self.limits
        if limits.instances is not None and self.instances >= limits.instances:
            return f"{self.title} is at its limit of {limits.instances} instances"
        if limits.gpus is not None and self.gpus + offer.gpus > limits.gpus:
            return f"{self.title} is at its limit of {limits.gpus} GPUs"
        return self._dollars(offer, lifetime, now)

    def _dollars(self, offer: Offer, lifetime: float, now: float) -> str:
        limits = self.limits
        if limits.on_reached is config.OnReached.ALERT:
            return ""
        if limits.on_reached is config.OnReached.SPOT_ONLY and offer.market is Market.SPOT:
            return ""
        if limits.dollars_per_hour is not None and self.rate + offer.price > limits.dollars_per_hour:
            return f"{self.title}: ${self.rate + offer.price:.2f} an hour would pass ${limits.dollars_per_hour:.2f}"
        for window, used in zip(self.windows, self.committed, strict=True):
            more = budget.next_commitment(offer.price, lifetime, now, window)
            if used + more > window.dollars + 1e-9:
                return (
                    f"{self.title}: ${used:.2f} of ${window.dollars:.2f} for {_which(window, now)} are spent or "
                    f"promised, one more instance may cost ${more:.2f}"
                )
        return ""

    def add(self, offer: Offer, lifetime: float, now: float, *, count: int = 1) -> None:
        """Count an admitted instance until its row is counted; a count of -1 takes it back."""
        self.instances += count
        self.gpus += count * offer.gpus
        self.rate += count * offer.price
        for index, window in enumerate(self.windows):
            self.committed[index] += count * budget.next_commitment(offer.price, lifetime, now, window)

    def affordable(self, offer: Offer, lifetime: float, now: float) -> tuple[float, float] | None:
        """Dollars left and what one instance commits, in the window that is the first to be used up."""
        tightest: tuple[float, float] | None = None
        if self.limits.on_reached is not config.OnReached.STOP:
            return None
        for window, used in zip(self.windows, self.committed, strict=True):
            more = budget.next_commitment(offer.price, lifetime, now, window)
            left = window.dollars - used
            if more > 0 and (tightest is None or left / more < tightest[0] / tightest[1]):
                tightest = (left, more)
        return tightest


class Admission:
    """The limits of the configuration with what is used of them."""

    def __init__(self, runtime: shared.Runtime) -> None:
        self._runtime = runtime
        self._accounts: dict[tuple[str, str], _Account] = {}
        self._quotas = quotas.Quotas()
        #: Seconds that an instance launched now may live at most.
        self._horizon = 0.0
        #: Admitted instances whose rows are not committed as requested yet: they do not count themselves.
        self._pending: dict[model.InstanceId, tuple[Offer, str, str, float]] = {}

    def count(self, *, horizon: float = 0.0) -> None:
        """Derive all totals from the rows; called at the start of each pass.

        ``horizon`` is the longest that an instance launched now may live: budgets of every day that it may reach are
        counted.
        """
        self._horizon = horizon
        settings = self._runtime.config
        now, wall = self._runtime.clock.now(), self._runtime.clock.wall()
        self._accounts = {("all", ""): self._account("the whole", settings.limits, wall)}
        for pool in settings.pools.values():
            self._accounts["pool", pool.name] = self._account(f"pool {pool.name}", pool.limits, wall)
        for provider in settings.providers.values():
            self._accounts["provider", provider.name] = self._account(
                f"provider {provider.name}", provider.limits, wall
            )
        for team in settings.teams.values():
            self._accounts["team", team.name] = self._account(f"team {team.name}", team.limits, wall)
        for row in self._runtime.rows.instances.values():
            if row.state not in model.MAY_COST:
                continue
            for account in self._of(row.pool, row.provider, row.repo):
                account.instances += 1
                account.gpus += row.gpus
                account.rate += row.price
                for index, window in enumerate(account.windows):
                    account.committed[index] += budget.commitment(row, now, window)
        told = {name: provider.quotas for name, provider in self._runtime.providers.items() if provider.quotas}
        self._quotas.count(told, self._runtime.rows.instances.values() if told else ())
        for offer, pool_name, repo, lifetime in self._pending.values():
            self._add(offer, pool=pool_name, repo=repo, lifetime=lifetime)
        for level, account in self._accounts.items():
            for index, window in enumerate(account.windows):
                for spent, dollars in self._runtime.rows.tally.inside(window):
                    if level[1] == self._member(level[0], spent):
                        account.committed[index] += dollars

    def _member(self, level: str, spent: budget.Account) -> str:
        """Which account of a level the dollars belong to."""
        if level == "pool":
            return spent.pool
        if level == "provider":
            return spent.provider
        return self.team(spent.repo) if level == "team" else ""

    def overruns(self) -> list[tuple[str, str]]:
        """Levels at which more is committed than the limit: a price drifted, or the limit only alerts."""
        found = []
        for account in self._accounts.values():
            for window, used in zip(account.windows, account.committed, strict=True):
                if used > window.dollars + 0.01:
                    which = _which(window, self._runtime.clock.now())
                    words = f"${used:.2f} are spent or promised for {which}, the limit is ${window.dollars:.2f}"
                    found.append((account.title, words))
        return found

    def _account(self, title: str, limits: config.Limits, wall: float) -> _Account:
        until = None
        if limits.until is not None:
            until = float(calendar.timegm(limits.until.timetuple())) + 86400.0
        windows = budget.windows(
            wall=wall,
            per_day=limits.dollars_per_day,
            per_month=limits.dollars_per_month,
            total=limits.dollars_total,
            until=until,
            horizon=self._horizon,
        )
        return _Account(title, limits, windows, [0.0] * len(windows))

    def _of(self, pool: str, provider: str, repo: str) -> Iterable[_Account]:
        team = self.team(repo)
        for key in (("all", ""), ("pool", pool), ("provider", provider), ("team", team)):
            account = self._accounts.get(key)
            if account is not None:
                yield account

    def team(self, repo: str) -> str:
        """The team that a repository belongs to; empty for none."""
        found = self._runtime.config.team_of(repo) if repo else None
        return found.name if found else ""

    def refusal(self, offer: Offer, *, pool: str, repo: str, lifetime: float) -> str:
        """Why the offer may not be bought now; empty when it may."""
        now = self._runtime.clock.now()
        for account in self._of(pool, offer.provider, repo):
            words = account.refusal(offer, lifetime, now)
            if words:
                return words
        return self._quotas.refusal(offer)

    def admit(
        self, offer: Offer, *, pool: str, repo: str, lifetime: float, instance: model.InstanceId | None = None
    ) -> str:
        """Like :meth:`refusal`, and count the instance when nothing is against it.

        With ``instance`` it stays counted until :meth:`settle`, however often totals are derived meanwhile.
        """
        words = self.refusal(offer, pool=pool, repo=repo, lifetime=lifetime)
        if not words:
            self._add(offer, pool=pool, repo=repo, lifetime=lifetime)
            if instance is not None:
                self._pending[instance] = (offer, pool, repo, lifetime)
        return words

    def settle(self, instance: model.InstanceId) -> None:
        """The row of an admitted instance stands for itself from now on, or nothing came of it."""
        self._pending.pop(instance, None)

    def release(self, offer: Offer, *, pool: str, repo: str, lifetime: float) -> None:
        """An admitted instance certainly did not come to be: what was counted for it is free for its next offer."""
        self._add(offer, pool=pool, repo=repo, lifetime=lifetime, count=-1)

    def _add(self, offer: Offer, *, pool: str, repo: str, lifetime: float, count: int = 1) -> None:
        """Count an instance of that offer at every level that it belongs to."""
        now = self._runtime.clock.now()
        for account in self._of(pool, offer.provider, repo):
            account.add(offer, lifetime, now, count=count)
        self._quotas.add(offer, count)

    def provider_refusal(self, provider: str) -> str:
        """Why nothing at all may be bought from a provider; empty when something may."""
        account = self._accounts.get(("provider", provider))
        if account is None:
            return ""
        most = account.limits.instances
        if most is not None and account.instances >= most:
            return f"provider {provider} is at its limit of {most} instances"
        return ""

    def left(self, level: str, name: str, offer: Offer, lifetime: float) -> tuple[float, float] | None:
        """Dollars left at a level and what one instance commits; None without a limit in dollars."""
        account = self._accounts.get((level, name))
        return None if account is None else account.affordable(offer, lifetime, self._runtime.clock.now())

    def totals(self, level: str, name: str) -> list[tuple[budget.Window, float]]:
        """The windows of a level with what is committed in each: for metrics and ``status``."""
        account = self._accounts.get((level, name))
        if account is None:
            return []
        wall = self._runtime.clock.wall()
        pairs = zip(account.windows, account.committed, strict=True)
        return [(window, used) for window, used in pairs if window.start <= wall]

    def team_refusals(self, offer: Offer, lifetime: float) -> dict[str, str]:
        """Teams whose budget cannot pay one more instance of that offer, with the words for it."""
        now = self._runtime.clock.now()
        found = {}
        for (level, name), account in self._accounts.items():
            if level == "team":
                words = account._dollars(offer, lifetime, now)
                if words:
                    found[name] = words
        return found


def _which(window: budget.Window, now: float) -> str:
    """A window in words."""
    return f"this {window.name}" if window.start <= now else f"the {window.name} after"
