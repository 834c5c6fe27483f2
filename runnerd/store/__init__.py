"""The durable state: tables, migrations and the one object that reads and writes them.

:class:`Store` is used by the controller and the listeners; ``migrate``, ``current`` and ``pending`` serve the
command line and the checks.  Nothing here decides what a state means.
"""

from __future__ import annotations

from runnerd.store.rows import Cost, Cursor, Setting, Unblock
from runnerd.store.schema import current, migrate, pending
from runnerd.store.spending import By, Spending, Sum
from runnerd.store.store import Change, State, Store

__all__ = [
    "By",
    "Change",
    "Cost",
    "Cursor",
    "Setting",
    "Spending",
    "State",
    "Store",
    "Sum",
    "Unblock",
    "current",
    "migrate",
    "pending",
]
