"""Rate limits of Google's APIs, as its documentation has them.

Rate quotas are counted by project and minute, for each group of methods ("Rate quotas"): 1,500 a minute by default.
Creates are paced by the caller, by the provider's traits; here the rest is.
"""

from __future__ import annotations

import enum

#: Creates per second and at once: 25 + 60 x 24.5 stays below the 1,500 writes a minute of a project ("Rate quotas").
CREATE_RATE, CREATE_BURST = 24.5, 25


#: Calls per second in the long run, and at once: together below 1,500 in any minute.
RATE, BURST = 20.0, 250.0


class Group(enum.Enum):
    """A group of methods with a quota of its own."""

    #: Gets of single resources.
    READ = enum.auto()
    #: Lists, in pages.
    LIST = enum.auto()
    #: Polls of operations.
    OPERATIONS = enum.auto()
    #: Changes and deletions.
    MUTATE = enum.auto()
    #: Creates: paced by who calls :meth:`Provisioner.create`.
    CREATE = enum.auto()
    #: Other APIs, rarely called.
    OTHER = enum.auto()
