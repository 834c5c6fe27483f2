"""Renewal of prices: check the answers of a cloud's price API, count them, and keep those that are plausible.

A region's answer is taken over whole or not at all.  What a region lacks, because the API failed or answered in part,
stays as it was.  A single implausible price, such as one twenty times the known one, is left out and reported.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Collection

from provisioners import base
from provisioners.catalogue import renewed
from provisioners.catalogue.catalog import Catalog

#: A price that differs from the known one by more than this factor is an error, of the API or in reading it.
JUMP = 20.0
#: An answer with less than this share of the prices known of a region is a partial one.
WHOLE = 0.5
#: The number of refused prices that are reported one by one.
_REPORTED = 3


class Renewal:
    """One round of asking, for the regions that are configured."""

    def __init__(self, catalog: Catalog, *, regions: Collection[str], source: str, now: float, place: str) -> None:
        self._catalog = catalog
        self._regions = sorted(regions)
        self._source = source
        self._day = datetime.datetime.fromtimestamp(now, datetime.UTC).date().isoformat()
        self._place = place
        self._quotes: dict[str, dict[str, dict[base.Market, float]]] = {region: {} for region in self._regions}
        self._failures: dict[str, str] = {}
        self._refused: dict[str, dict[str, None]] = {region: {} for region in self._regions}

    @property
    def regions(self) -> list[str]:
        """The regions asked for."""
        return self._regions

    def quote(self, region: str, machine_type: str, market: base.Market, dollars: float) -> None:
        """Record a price; of two for the same machine type the higher one counts."""
        if region not in self._quotes or machine_type not in self._catalog.machines:
            return
        problem = self._judge(region, machine_type, market, dollars)
        if problem:
            self.refuse(region, f"{machine_type} {market} {problem}")
            return
        quoted = self._quotes[region].setdefault(machine_type, {})
        quoted[market] = max(dollars, quoted.get(market, 0.0))

    def refuse(self, region: str, what: str) -> None:
        """Record that something in that region's answer is left out."""
        if region in self._refused:
            self._refused[region][what] = None

    def failed(self, region: str, why: str) -> None:
        """Record that the answer for that region is not complete."""
        self._failures.setdefault(region, why)

    def finish(self, directory: str) -> list[base.Finding]:
        """Keep the plausible prices in a directory, have the catalog use them, and return what came of each region."""
        old, problem = renewed.read(directory, self._catalog.cloud)
        findings = [self._finding(base.Level.WARNING, problem)] if problem else []
        fresh: dict[str, renewed.Region] = {}
        for region in self._regions:
            quotes = self._quotes[region]
            known = sum(region in self._catalog.available_in(machine_type) for machine_type in self._catalog.machines)
            why = self._failures.get(region, "")
            if not why and not quotes:
                why = "the answer holds no price of any machine type in the catalogue"
            if not why and len(quotes) < WHOLE * known:
                why = f"the answer is partial, with {len(quotes)} of {known} machine types"
            if why:
                message = f"{region}: prices stay as they were: {why}"
                findings.append(self._finding(base.Level.ERROR, message, "run the refresh again later"))
            else:
                findings.append(self._finding(base.Level.OK, f"{region}: {self._summary(region)}"))
                prices = {
                    machine_type: (pair.get(base.Market.ON_DEMAND), pair.get(base.Market.SPOT))
                    for machine_type, pair in quotes.items()
                }
                fresh[region] = renewed.Region(self._day, self._source, prices)
            findings.extend(self._report(region))
        if fresh:
            findings.extend(self._keep(directory, renewed.Renewed({**old.by_region, **fresh})))
        return findings

    def _keep(self, directory: str, prices: renewed.Renewed) -> list[base.Finding]:
        self._catalog.use_renewed(prices)
        if not directory:
            return [self._finding(base.Level.WARNING, "renewed prices are not kept: the provider has no directory")]
        try:
            renewed.write(directory, self._catalog.cloud, prices)
        except OSError as error:
            remedy = "make the directory writable for runnerd"
            return [self._finding(base.Level.ERROR, f"renewed prices cannot be kept: {error}", remedy)]
        return []

    def _judge(self, region: str, machine_type: str, market: base.Market, dollars: float) -> str:
        """Return what is implausible about a price; empty when nothing is."""
        if not math.isfinite(dollars) or dollars <= 0:
            return f"at {dollars:g} dollars"
        known = self._catalog.price(machine_type, region=region, market=market)
        if known is None or known.dollars <= 0:
            return ""
        if dollars > known.dollars * JUMP or dollars < known.dollars / JUMP:
            return f"at {dollars:g} dollars, where {known.dollars:g} is known ({known})"
        return ""

    def _summary(self, region: str) -> str:
        spot = changed = 0
        for machine_type, pair in self._quotes[region].items():
            spot += base.Market.SPOT in pair
            dollars = pair.get(base.Market.ON_DEMAND)
            known = self._catalog.price(machine_type, region=region, market=base.Market.ON_DEMAND)
            changed += dollars is not None and known is not None and abs(dollars - known.dollars) > 0.01 * known.dollars
        on_demand = sum(base.Market.ON_DEMAND in pair for pair in self._quotes[region].values())
        text = f"{on_demand} prices on demand and {spot} spot prices of {self._day}, {changed} of them changed"
        return text if spot else f"{on_demand} prices on demand of {self._day}, {changed} of them changed"

    def _report(self, region: str) -> list[base.Finding]:
        refused = list(self._refused[region])
        if not refused:
            return []
        more = f" and {len(refused) - _REPORTED} more" if len(refused) > _REPORTED else ""
        message = f"{region}: not taken over: {'; '.join(refused[:_REPORTED])}{more}"
        return [
            self._finding(base.Level.WARNING, message, "compare with the provider's price page; set prices if right")
        ]

    def _finding(self, level: base.Level, message: str, remedy: str = "") -> base.Finding:
        return base.Finding(level, self._place, message, remedy)
