"""Pools and forges that see the same jobs.

A job of two pools gets its machine by chance, and a job of two forges is counted twice; both are refused unless the
operator allows them. Labels of GitHub are compared without regard to case, tags of GitLab as they are.
"""

from __future__ import annotations

import urllib.parse
from collections.abc import Iterable, Iterator, Mapping

from runnerd.config.forges import AnyForge
from runnerd.config.pools import Pool


def see_same_jobs(one: AnyForge, other: AnyForge) -> bool:
    """Return True when a job may show in both forges: the same server, and one scope within the other."""
    if one.name == other.name:
        return True
    if _server(one.url) != _server(other.url) or one.type != other.type:
        return False
    if one.type == "github" and other.type == "github":
        return one.kind == "enterprise" or other.kind == "enterprise" or _nested(one.scope, other.scope)
    if one.type == "gitlab" and other.type == "gitlab":
        mine, theirs = (*one.groups, *one.projects), (*other.groups, *other.projects)
        return any(_nested(a, b) for a in mine for b in theirs)
    return False


def _server(url: str) -> str:
    return urllib.parse.urlsplit(url).netloc.lower().removeprefix("www.")


def _nested(path_a: str, path_b: str) -> bool:
    first, second = (path.lower().strip("/") + "/" for path in (path_a, path_b))
    return first.startswith(second) or second.startswith(first)


def common_forges(pool: Pool, other: Pool, forges: Mapping[str, AnyForge]) -> Iterator[str]:
    """Yield the forges of the first pool whose jobs the second may see too."""
    for name in pool.forges:
        if name not in forges:
            continue
        for second in other.forges:
            if second in forges and see_same_jobs(forges[name], forges[second]):
                yield name
                break


def folded(labels: Iterable[str], kind: str) -> frozenset[str]:
    """Return labels as a kind of forge compares them."""
    return frozenset(label.lower() if kind == "github" else label for label in labels)


def common_jobs(pool: Pool, other: Pool, kind: str) -> str:
    """Return the jobs that match both pools, in plain words; empty when none names all labels of one of them."""
    mine, theirs = folded(pool.labels, kind), folded(other.labels, kind)
    if pool.untagged and other.untagged and kind == "gitlab":
        return "both take jobs without tags"
    if not mine or not theirs or not (mine <= theirs or theirs <= mine):
        return ""
    asked = mine if mine <= theirs else theirs
    return f"a job for [{', '.join(sorted(asked))}] matches both"
