"""Rules about several values: names that must exist, labels that jobs can match, limits that let work through.

A broken rule is an error of the configuration; `warnings` has what works but deserves a second look. Places are key
paths, which the loader turns into lines.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from provisioners.support import spelling
from runnerd.config import fields, overlaps
from runnerd.config.forges import AnyForge
from runnerd.config.limits import Limits
from runnerd.config.pools import Pool, Provider, Team
from runnerd.kit import yamlfile

#: GitLab: a runner has at most 50 tags. GitHub: a just-in-time runner has 1 to 100 labels.
MOST_LABELS = {"gitlab": 50, "github": 100}


@dataclass(frozen=True, slots=True)
class Complaint:
    """A rule that is broken, at a key path."""

    place: yamlfile.Place
    message: str
    nearest: str | None = None


@dataclass(frozen=True, slots=True)
class Names:
    """The entries of the file by name, also those that could not be read."""

    forges: tuple[str, ...]
    providers: tuple[str, ...]
    pools: tuple[str, ...]
    teams: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Blocks:
    """The blocks of the file that could be read, although others could not."""

    #: None when it is missing or wrong.
    limits: Limits | None
    forges: Mapping[str, AnyForge]
    providers: Mapping[str, Provider]
    pools: Mapping[str, Pool]
    teams: Mapping[str, Team]


def complaints(names: Names, blocks: Blocks) -> list[Complaint]:
    """Return every broken rule among the blocks that could be read."""
    return [
        *_names(names),
        *_limits(blocks),
        *_same_jobs_twice(blocks.forges),
        *(complaint for pool in blocks.pools.values() for complaint in _pool(pool, names, blocks.forges)),
        *_overlaps(blocks.pools, blocks.forges),
    ]


def _names(names: Names) -> Iterator[Complaint]:
    for section in ("forges", "providers", "pools", "teams"):
        for name in getattr(names, section):
            if not fields.NAME.match(name):
                yield Complaint(
                    (section, name),
                    "a name has 1 to 40 of a-z, 0-9, _ and -, and begins and ends with a letter or digit",
                )


def _limits(blocks: Blocks) -> Iterator[Complaint]:
    top = blocks.limits
    if top is not None and top.instances is None:
        yield Complaint(("limits", "instances"), "is missing; add instances: 8, so that no mistake is unbounded")
    levels: list[tuple[yamlfile.Place, Limits, str]] = []
    if top is not None:
        levels.append((("limits",), top, "a daemon that may have no instance serves no job; drain the pools instead"))
    for provider in blocks.providers.values():
        reason = "a provider that may have no instance is never used; remove it"
        levels.append((("providers", provider.name, "limits"), provider.limits, reason))
    for pool in blocks.pools.values():
        reason = "a pool that may have no instance serves no job; remove it or drain it"
        levels.append((("pools", pool.name, "limits"), pool.limits, reason))
        if pool.limits.gpus is not None and 0 < pool.limits.gpus < pool.gpu_count:
            yield Complaint(
                ("pools", pool.name, "limits", "gpus"),
                f"is {pool.limits.gpus}, and each instance has {pool.gpu_count}: the pool could have none",
            )
        if pool.limits.gpus == 0 and pool.gpu_count:
            yield Complaint(("pools", pool.name, "limits", "gpus"), reason)
    for team in blocks.teams.values():
        reason = "a team that may have no instance never gets a job done; restrict the pools with allow instead"
        levels.append((("teams", team.name, "limits"), team.limits, reason))
    for place, limits, reason in levels:
        if limits.instances == 0:
            yield Complaint((*place, "instances"), reason)
        if limits.until is not None and limits.dollars_total is None:
            yield Complaint((*place, "until"), "needs dollars_total, which is missing")


def _pool(pool: Pool, names: Names, forges: Mapping[str, AnyForge]) -> Iterator[Complaint]:
    here = ("pools", pool.name)
    for key, given, known, noun in (
        ("from", pool.from_, names.providers, "provider"),
        ("forges", pool.forges, names.forges, "forge"),
    ):
        if not given and known:
            yield Complaint((*here, key), f"is empty; name at least one {noun}, or leave the key out for all")
        for index, name in enumerate(given):
            if name not in known:
                yield _unknown((*here, key, index), noun, name, known)
            elif name in given[:index]:
                yield Complaint((*here, key, index), f"{name} is listed twice")
    for key, entries in (("types", pool.types), ("options", pool.options)):
        if isinstance(entries, Mapping):
            for name in entries:
                if name not in names.providers:
                    yield _unknown((*here, key, name), "provider", name, names.providers)
    served = [forges[name] for name in pool.forges if name in forges]
    yield from _labels(pool, {forge.type for forge in served})
    if pool.untagged and served and not any(forge.type == "gitlab" for forge in served):
        yield Complaint((*here, "untagged"), "jobs without tags are GitLab's, and this pool serves no GitLab")
    if pool.bootstrap == "embedded":
        yield Complaint((*here, "bootstrap"), "embedded is not available yet; write fetch, or leave the key out")


def _unknown(place: yamlfile.Place, noun: str, name: str, known: Iterable[str]) -> Complaint:
    names = list(known)
    near = spelling.closest(name, names)
    listed = "" if near or not names else f"; there are {', '.join(names)}"
    return Complaint(place, f'there is no {noun} "{name}"{listed}', near)


def _labels(pool: Pool, kinds: set[str]) -> Iterator[Complaint]:
    here = ("pools", pool.name, "labels")
    if not pool.labels:
        yield Complaint(here, "is empty, so no job can match; name a label, or leave the key out for the pool's name")
    for kind in sorted(kinds):
        if len(pool.labels) > MOST_LABELS[kind]:
            yield Complaint(here, f"has {len(pool.labels)} labels; {kind} takes at most {MOST_LABELS[kind]}")
    seen: set[str] = set()
    for index, label in enumerate(pool.labels):
        if why := _impossible(label):
            yield Complaint((*here, index), f"no job can match this label: {why}")
        folded = label.lower() if "github" in kinds else label
        if folded in seen:
            same = " (GitHub ignores case)" if label not in pool.labels[:index] else ""
            yield Complaint((*here, index), f'"{label}" is listed twice{same}')
        seen.add(folded)


def _impossible(label: str) -> str:
    if not label:
        return "it is empty"
    if "," in label:
        return "a comma separates labels"
    if any(character.isspace() or not character.isprintable() for character in label):
        return "it contains whitespace or a control character"
    if len(label) > fields.LONGEST_LABEL:
        return f"it is longer than {fields.LONGEST_LABEL} characters"
    return ""


def _same_jobs_twice(forges: Mapping[str, AnyForge]) -> Iterator[Complaint]:
    entries = list(forges.values())
    for index, forge in enumerate(entries):
        for other in entries[:index]:
            same = overlaps.see_same_jobs(forge, other)
            if forge.type == "github" and other.type == "github":
                # Two runner groups of one organisation are two places; an organisation and its repository
                # too.
                same = forge.url.lower() == other.url.lower() and forge.runner_group == other.runner_group
            if same:
                yield Complaint(
                    ("forges", forge.name),
                    f'watches the same jobs as forge "{other.name}"; each would be counted twice',
                )


def _overlaps(pools: Mapping[str, Pool], forges: Mapping[str, AnyForge]) -> Iterator[Complaint]:
    entries = list(pools.values())
    for index, pool in enumerate(entries):
        for other in entries[:index]:
            if pool.overlap == "allowed" and other.overlap == "allowed":
                continue
            for forge_name in overlaps.common_forges(pool, other, forges):
                kind = forges[forge_name].type
                why = overlaps.common_jobs(pool, other, kind)
                if why:
                    place: yamlfile.Place = ("pools", pool.name, "labels")
                    yield Complaint(
                        place,
                        f'overlaps with pool "{other.name}" on forge "{forge_name}": {why}; '
                        "change the labels, or set overlap: allowed on both",
                    )
                    break
