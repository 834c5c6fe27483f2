"""Rate limits of Amazon's APIs, as its documentation has them.

Rates: "Throttle limits" in the EC2 developer guide (per account and region); Service Quotas has no documented one and
answers about one call in six seconds in the long run.
"""

from __future__ import annotations

import enum

#: RunInstances: instances a second in the long run.
CREATE_RATE = 2.0


class Group(enum.Enum):
    """Calls that share a bucket: how many at once, how many per second in the long run."""

    #: Describe, Get and List with a filter or in pages.
    READ = (100, 20.0)
    #: TerminateInstances.
    TERMINATE = (100, 5.0)
    #: Deleting volumes and interfaces, releasing addresses, cancelling spot requests.
    CHANGE = (50, 5.0)
    #: RunInstances that only try.
    TRIAL = (5, 2.0)
    #: Systems Manager: the ids of public images.
    SSM = (40, 40.0)
    #: Security Token Service: the identity behind the credentials.
    STS = (50, 50.0)
    #: Service Quotas.
    QUOTAS = (5, 0.16)
    #: The Price List API.
    PRICES = (5, 1.0)
