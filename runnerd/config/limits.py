"""Ceilings on instances, GPUs and dollars: one block for the whole, a provider, a pool and a team."""

from __future__ import annotations

import datetime
import enum
from typing import Annotated

from runnerd.config import fields
from runnerd.config.fields import Dollars, Model

#: Counts of things; the maximum is far above any fleet and catches typing errors.
Count = Annotated[int, *fields.whole(0, 100_000)]


class OnReached(enum.StrEnum):
    """The effect of a limit in dollars that is reached."""

    #: No new instance; those with jobs go on.
    STOP = "stop"
    #: New instances only from the spot market.
    SPOT_ONLY = "spot-only"
    #: An alarm and nothing else.
    ALERT = "alert"


class Limits(Model):
    """Ceilings. The same block at the top, at a provider, a pool and a team; all that apply hold at once."""

    instances: Count | None = None
    """Instances that exist or are being created at one time. Required at the top, so that no mistake is unbounded."""

    gpus: Count | None = None
    """GPUs in those instances; unlimited when absent."""

    dollars_per_hour: Dollars | None = None
    """US dollars per hour of all instances together, at launch prices."""

    dollars_per_day: Dollars | None = None
    """US dollars per calendar day (UTC): costs so far plus the commitment of live instances."""

    dollars_per_month: Dollars | None = None
    """US dollars per calendar month (UTC), counted like those of a day."""

    dollars_total: Dollars | None = None
    """US dollars in total, until the day in `until`."""

    until: datetime.date | None = None
    """The last day (UTC) of `dollars_total`, as YYYY-MM-DD; without it the total never resets."""

    on_reached: OnReached = OnReached.STOP
    """The effect of a limit in dollars that is reached: `stop` (no new instances), `spot-only` or `alert`.
    Instances with jobs are never ended for money."""

    @property
    def empty(self) -> bool:
        """Return True when nothing is limited."""
        names = (
            "instances",
            "gpus",
            "dollars_per_hour",
            "dollars_per_day",
            "dollars_per_month",
            "dollars_total",
        )
        return all(getattr(self, name) is None for name in names)
