"""Ceilings on instances, GPUs and dollars: one block for the whole, a provider, a pool and a team."""

from __future__ import annotations

import datetime
import enum
from typing import Annotated

from runnerd.config import fields
from runnerd.config.fields import Dollars, Model

#: Counts of things; the ceiling is far above any fleet and catches a slip of the keyboard.
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
    """Ceilings. One block, valid for the whole, a provider, a pool and a team; all that apply hold at
    once."""

    instances: Count | None = None
    """Instances that exist or are asked for at one time. Required at the top, so that no slip is
    unbounded."""

    gpus: Count | None = None
    """GPUs in those instances; none counted when absent."""

    dollars_per_hour: Dollars | None = None
    """US dollars per hour that all instances together may cost at launch prices."""

    dollars_per_day: Dollars | None = None
    """US dollars per calendar day, UTC. Counted as accrued plus what live instances may still run."""

    dollars_per_month: Dollars | None = None
    """US dollars per calendar month, UTC; counted like the day's."""

    dollars_total: Dollars | None = None
    """US dollars in all, until the day named by `until`."""

    until: datetime.date | None = None
    """The last day (UTC) of `dollars_total`, as YYYY-MM-DD; without it the total never starts afresh."""

    on_reached: OnReached = OnReached.STOP
    """What a reached limit in dollars does: `stop` (new instances), `spot-only` or `alert`. Instances with
    jobs are never ended for money. `stop`, because a budget that does not act is a wish."""

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
