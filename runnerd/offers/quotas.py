"""Quotas of cloud accounts: the limits and use that the provider last reported, plus what was requested since.

A cloud counts what it runs; what was requested after its last report is counted here, so that a burst does not run
into a quota one refusal at a time.  A quota that a cloud does not report holds nothing back: the cloud refuses by
itself, and the blocklist learns from that.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from provisioners.base import Offer, Quota, Unit
from runnerd import model


@dataclass(slots=True)
class _Account:
    """One quota with its use now."""

    quota: Quota
    used: float

    def refusal(self, offer: Offer) -> str:
        quota = self.quota
        more = _units(quota.unit, gpus=offer.gpus, cpus=offer.cpus)
        if more <= 0 or self.used + more <= quota.limit + 1e-9:
            return ""
        where = f"; raise it at {quota.remedy}" if quota.remedy else ""
        if quota.limit < more:
            return f"quota {quota.name} is {quota.limit:g}; one instance needs {more:g} {quota.unit.value}{where}"
        return (
            f"quota {quota.name}: {self.used:g} of {quota.limit:g} {quota.unit.value} are used or requested; "
            f"another instance needs {more:g}{where}"
        )


class Quotas:
    """The quotas of all providers, as one pass sees them."""

    def __init__(self) -> None:
        self._accounts: dict[str, list[_Account]] = {}

    def count(self, reported: Mapping[str, Sequence[Quota]], rows: Iterable[model.Instance]) -> None:
        """Start afresh from what each provider reported, and add what was requested since."""
        self._accounts = {name: [_Account(quota, quota.used) for quota in quotas] for name, quotas in reported.items()}
        for row in rows:
            if row.state not in model.MAY_COST:
                continue
            requested_at = row.running_at or row.since
            for account in self._accounts.get(row.provider, ()):
                if requested_at > account.quota.as_of and account.quota.pattern.matches(row.offer):
                    account.used += _units(account.quota.unit, gpus=row.gpus, cpus=row.cpus)

    def refusal(self, offer: Offer) -> str:
        """Return why the account does not allow one more instance of an offer; empty when it may."""
        accounts = self._accounts.get(offer.provider, ())
        key = offer.key if accounts else ""
        for account in accounts:
            if account.quota.pattern.matches(key):
                refusal = account.refusal(offer)
                if refusal:
                    return refusal
        return ""

    def add(self, offer: Offer, count: int) -> None:
        """Count admitted instances until their rows are counted."""
        accounts = self._accounts.get(offer.provider, ())
        key = offer.key if accounts else ""
        for account in accounts:
            if account.quota.pattern.matches(key):
                account.used += count * _units(account.quota.unit, gpus=offer.gpus, cpus=offer.cpus)


def _units(unit: Unit, *, gpus: int, cpus: int) -> float:
    return {Unit.INSTANCES: 1, Unit.GPUS: gpus, Unit.VCPUS: cpus}[unit]
