"""The queue that a job belongs to: the rules by which GitLab matches runners, and the operator's own.

Pure.  GitLab hands a job to a runner in whose scope it is, whose tags hold all tags of the job, that takes untagged
jobs if it has none, and that is not for protected refs only unless the ref is protected.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from runnerd import config
from runnerd.forges import base
from runnerd.forges.gitlab import jobs


@dataclass(frozen=True, slots=True)
class Protection:
    """The protected refs of a project, as patterns in which ``*`` stands for anything."""

    branches: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()

    def covers(self, ref: str, *, is_tag: bool) -> bool:
        """Return True when the ref is protected; that of a merge request pipeline is not, which is GitLab's default."""
        if ref.startswith("refs/merge-requests/"):
            return False
        return any(_wildcard(pattern, ref) for pattern in (self.tags if is_tag else self.branches))


def _wildcard(pattern: str, ref: str) -> bool:
    # Only * is special in GitLab, so the others of fnmatch are taken literally.
    return fnmatch.fnmatchcase(ref, pattern.replace("[", "[[]").replace("?", "[?]"))


def tags_fit(spec: base.QueueSpec, tags: Iterable[str]) -> bool:
    """Return True when runners of the queue match a job with these tags."""
    wanted = set(tags)
    return wanted <= set(spec.labels) if wanted else spec.untagged


def allowed(spec: base.QueueSpec, repo: str, *, public: bool) -> bool:
    """Return True when the configuration lets the project use the pool."""
    if public and not spec.public:
        return False
    return not spec.repos or config.matches(repo, spec.repos)


def candidates(specs: Sequence[base.QueueSpec], view: jobs.JobView, repo: str, *, public: bool) -> list[base.QueueSpec]:
    """Return the queues that may serve the job as far as tags and projects go, in the order of the file."""
    return [spec for spec in specs if tags_fit(spec, view.tags) and allowed(spec, repo, public=public)]


def choose(
    fitting: Sequence[base.QueueSpec], view: jobs.JobView, protection: Protection | None
) -> base.QueueSpec | None:
    """Return the one queue whose demand the job is: the first, so that overlapping pools do not buy twice.

    ``protection`` may be None when no fitting queue needs it.
    """
    for spec in fitting:
        if not spec.protected_only:
            return spec
        if protection is not None and protection.covers(view.ref, is_tag=view.is_tag):
            return spec
    return None
