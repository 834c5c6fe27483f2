"""Rate limits of Amazon's APIs, as its documentation has them.

Rates: "Throttle limits" in the EC2 developer guide (per account and region); Service Quotas has no documented one and
answers about one call in six seconds in the long run.
"""

from __future__ import annotations

import enum


class Group(enum.Enum):
    """Calls that share a bucket: how many at once, how many per second in the long run."""

    #: Describe, Get and List with a filter or in pages.
    READ = (100, 20.0)
    TERMINATE = (100, 5.0)
    #: Deleting volumes and interfaces, releasing addresses, cancelling spot requests.
    CHANGE = (50, 5.0)
    #: RunInstances that only try.
    TRIAL = (5, 2.0)
    SSM = (40, 40.0)
    STS = (50, 50.0)
    QUOTAS = (5, 0.16)
    PRICES = (5, 1.0)
