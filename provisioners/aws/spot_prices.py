"""Current spot prices by zone."""

from __future__ import annotations

import datetime
import logging
from collections.abc import Callable, Iterable

from provisioners import base, catalogue
from provisioners.aws import calls
from provisioners.support import numbers

log = logging.getLogger(__name__)

#: Seconds for which a price is taken as known, and for which a failure to ask is.
FRESH, _RETRY = 600.0, 60.0
SOURCE = "spot price history"


class SpotPrices:
    """The current price of each type in each zone."""

    def __init__(self, calls: calls.Calls, *, now: Callable[[], float]) -> None:
        self._calls = calls
        self._now = now
        self._asked: dict[tuple[str, str], float] = {}
        self._prices: dict[tuple[str, str], catalogue.Price] = {}

    def of(self, machine_type: str, zone: str) -> catalogue.Price | None:
        """Return the price there, None when EC2 gave none."""
        return self._prices.get((zone, machine_type))

    async def refresh(self, region: str, types: Iterable[str]) -> None:
        """Ask for what is not known any more; a failure leaves what was known."""
        now = self._now()
        wanted = sorted({one for one in types if now >= self._asked.get((region, one), 0.0)})
        if not wanted:
            return
        moment = datetime.datetime.fromtimestamp(now, datetime.UTC)
        try:
            # From now on: the price that holds at present, once per type and zone.
            rows = await self._calls.pages(
                "DescribeSpotPriceHistory",
                region,
                "SpotPriceHistory",
                InstanceTypes=wanted,
                ProductDescriptions=["Linux/UNIX"],
                StartTime=moment,
                EndTime=moment,
            )
        except base.ProvisionError as error:
            log.warning("the spot prices of %s could not be read: %s", region, error)
            self._asked.update({(region, one): now + _RETRY for one in wanted})
            return
        newest: dict[tuple[str, str], datetime.datetime] = {}
        for row in rows:
            place = (row["AvailabilityZone"], row["InstanceType"])
            dollars = numbers.real(row["SpotPrice"])
            if not dollars:
                log.warning("the spot price of %s in %s is no price: %.40r", place[1], place[0], row["SpotPrice"])
                continue
            if place not in newest or row["Timestamp"] > newest[place]:
                newest[place] = row["Timestamp"]
                self._prices[place] = catalogue.Price(dollars, SOURCE, moment.date().isoformat())
        self._asked.update({(region, one): now + FRESH for one in wanted})
