"""What the daemon knows, as documents for people and programs: the socket, the page and ``--json`` show these.

Each function takes a running daemon and answers with JSON values; nothing is changed by asking.  What is not there is
an :class:`runnerd.errors.Refused` with the HTTP status that says so.
"""

from __future__ import annotations

from runnerd.views import sweep
from runnerd.views.costs import cost
from runnerd.views.explain import explain
from runnerd.views.lists import drained, instances, jobs, known_pool, offer_list, pools, status
from runnerd.views.pricing import prices, refresh_prices
from runnerd.views.trail import events, find_instance, find_jobs, logs

__all__ = [
    "cost",
    "drained",
    "events",
    "explain",
    "find_instance",
    "find_jobs",
    "instances",
    "jobs",
    "known_pool",
    "logs",
    "offer_list",
    "offers",
    "pools",
    "prices",
    "refresh_prices",
    "status",
    "sweep",
]

#: The offers of a pool; the module of the same name is another thing.
offers = offer_list
