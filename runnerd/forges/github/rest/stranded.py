"""Stranded jobs: jobs that wait at GitHub although it announced them to no listener.

Any runner that comes online in the set unblocks one of them (pytorch/ci-infra #900), so a stranded job adds demand for
one instance.  It does so once in its life: an instance that did not help must not be followed by another.
"""

from __future__ import annotations

import collections
from collections.abc import Iterable, Mapping

#: Job ids kept of the jobs that were counted once.
HELPED_KEPT = 1000


class StrandedJobs:
    """The stranded jobs of one queue."""

    def __init__(self) -> None:
        #: Jobs that count as demand now, by job id: repository.
        self.counted: dict[str, str] = {}
        #: Ids of the jobs that were counted once, newest last.
        self.helped: dict[str, None] = {}

    def by_repository(self) -> Mapping[str, int]:
        """Return how many jobs count as demand, by repository."""
        return collections.Counter(self.counted.values())

    def restore(self, helped: Iterable[str]) -> None:
        """Take over the ids that an earlier process has counted."""
        self.helped.update(dict.fromkeys(helped))

    def mark_helped(self, job_id: str) -> bool:
        """Remember that the job has had its instance; return False when that was known."""
        if job_id in self.helped:
            return False
        self.helped[job_id] = None
        while len(self.helped) > HELPED_KEPT:
            del self.helped[next(iter(self.helped))]
        return True

    def runner_registered(self) -> None:
        """Stop counting the oldest job: a runner that takes any job of the set is on its way."""
        if self.counted:
            del self.counted[next(iter(self.counted))]

    def forget(self, job_ids: Iterable[str]) -> None:
        """Stop counting jobs that no longer wait."""
        for job_id in job_ids:
            self.counted.pop(job_id, None)
