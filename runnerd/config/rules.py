"""Rules that no single value can break: names that must exist, labels that must lead to one pool, limits that
let work through. Refuses what cannot work; what works but deserves a second look is a finding.

Reads the models and never the file; places are key paths, which the caller turns into lines.
"""

from __future__ import annotations

import urllib.parse
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from provisioners import base
from runnerd.config import fields, messages, schedule
from runnerd.kit import secrets, yamlfile

if TYPE_CHECKING:
    from runnerd import config

#: Labels that many workflows carry, so that a pool with one of them catches jobs that were not meant for it.
#: GitHub puts `self-hosted`, the system and the processor on every runner that is registered by hand.
STRAY = frozenset({"self-hosted", "linux", "x64", "arm64", "gpu", "docker"})

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
    """The entries that the file has, whether or not each of them could be read."""

    forges: tuple[str, ...]
    providers: tuple[str, ...]
    pools: tuple[str, ...]
    teams: tuple[str, ...]


def complaints(
    names: Names,
    *,
    limits: config.Limits | None,
    forges: Mapping[str, config.GitHubForge | config.GitLabForge],
    providers: Mapping[str, config.Provider],
    pools: Mapping[str, config.Pool],
    teams: Mapping[str, config.Team],
) -> list[Complaint]:
    """Every broken rule. Works on what could be read when a part could not."""
    return [
        *_names(names),
        *_limits(limits, providers, pools, teams),
        *_same_jobs_twice(forges),
        *(complaint for pool in pools.values() for complaint in _pool(pool, names, forges)),
        *_overlaps(pools, forges),
    ]


def _names(names: Names) -> Iterator[Complaint]:
    for section in ("forges", "providers", "pools", "teams"):
        for name in getattr(names, section):
            if not fields.NAME.match(name):
                yield Complaint(
                    (section, name),
                    "a name has 1 to 40 of a-z, 0-9, _ and -, and begins and ends with a letter or digit",
                )


def _limits(
    top: config.Limits | None,
    providers: Mapping[str, config.Provider],
    pools: Mapping[str, config.Pool],
    teams: Mapping[str, config.Team],
) -> Iterator[Complaint]:
    if top is not None and top.instances is None:
        yield Complaint(("limits", "instances"), "is missing; add instances: 8, so that no slip is without bound")
    levels: list[tuple[yamlfile.Place, config.Limits, str]] = []
    if top is not None:
        levels.append((("limits",), top, "a daemon that may have no instance serves no job; drain the pools instead"))
    for provider in providers.values():
        reason = "a provider that may have no instance is never used; remove it"
        levels.append((("providers", provider.name, "limits"), provider.limits, reason))
    for pool in pools.values():
        reason = "a pool that may have no instance serves no job; remove it or drain it"
        levels.append((("pools", pool.name, "limits"), pool.limits, reason))
        if pool.limits.gpus is not None and 0 < pool.limits.gpus < pool.gpu_count:
            yield Complaint(
                ("pools", pool.name, "limits", "gpus"),
                f"is {pool.limits.gpus}, and each instance has {pool.gpu_count}: the pool could have none",
            )
        if pool.limits.gpus == 0 and pool.gpu_count:
            yield Complaint(("pools", pool.name, "limits", "gpus"), reason)
    for team in teams.values():
        reason = "a team that may have no instance never gets a job done; restrict the pools with allow instead"
        levels.append((("teams", team.name, "limits"), team.limits, reason))
    for place, limits, reason in levels:
        if limits.instances == 0:
            yield Complaint((*place, "instances"), reason)
        if limits.until is not None and limits.dollars_total is None:
            yield Complaint((*place, "until"), "belongs to dollars_total, which is missing")


def _pool(
    pool: config.Pool, names: Names, forges: Mapping[str, config.GitHubForge | config.GitLabForge]
) -> Iterator[Complaint]:
    here = ("pools", pool.name)
    for key, given, known, what in (
        ("from", pool.from_, names.providers, "provider"),
        ("forges", pool.forges, names.forges, "forge"),
    ):
        if not given and known:
            yield Complaint((*here, key), f"is empty; name at least one {what}, or leave the key out for all")
        for index, name in enumerate(given):
            if name not in known:
                yield _unknown((*here, key, index), what, name, known)
            elif name in given[:index]:
                yield Complaint((*here, key, index), f"{name} stands here twice")
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


def _unknown(place: yamlfile.Place, what: str, name: str, known: Iterable[str]) -> Complaint:
    words = list(known)
    near = messages.nearest(name, words)
    listed = "" if near or not words else f"; there are {', '.join(words)}"
    return Complaint(place, f'there is no {what} "{name}"{listed}', near)


def _labels(pool: config.Pool, kinds: set[str]) -> Iterator[Complaint]:
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
            same = " (GitHub does not tell upper from lower case)" if label not in pool.labels[:index] else ""
            yield Complaint((*here, index), f'"{label}" stands here twice{same}')
        seen.add(folded)


def _impossible(label: str) -> str:
    if not label:
        return "it is empty"
    if "," in label:
        return "a comma parts labels"
    if any(character.isspace() or not character.isprintable() for character in label):
        return "it has a blank or a control character"
    if len(label) > fields.LONGEST_LABEL:
        return f"it is longer than {fields.LONGEST_LABEL} characters"
    return ""


def _same_jobs_twice(forges: Mapping[str, config.GitHubForge | config.GitLabForge]) -> Iterator[Complaint]:
    entries = list(forges.values())
    for index, one in enumerate(entries):
        for other in entries[:index]:
            same = see_same_jobs(one, other)
            if one.type == "github" and other.type == "github":
                # Two runner groups of one organisation are two places; an organisation and its repository
                # too.
                same = one.url.lower() == other.url.lower() and one.runner_group == other.runner_group
            if same:
                yield Complaint(
                    ("forges", one.name),
                    f'watches what forge "{other.name}" watches; each job would be counted twice',
                )


def see_same_jobs(one: config.GitHubForge | config.GitLabForge, other: config.GitHubForge | config.GitLabForge) -> bool:
    """True when some job may show in both forges: the same server, and scopes of which one holds the
    other."""
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


def _nested(one: str, other: str) -> bool:
    first, second = (path.lower().strip("/") + "/" for path in (one, other))
    return first.startswith(second) or second.startswith(first)


def _overlaps(
    pools: Mapping[str, config.Pool], forges: Mapping[str, config.GitHubForge | config.GitLabForge]
) -> Iterator[Complaint]:
    entries = list(pools.values())
    for index, pool in enumerate(entries):
        for other in entries[:index]:
            if pool.overlap == "allowed" and other.overlap == "allowed":
                continue
            for forge_name in _common(pool, other, forges):
                kind = forges[forge_name].type
                why = _overlap(pool, other, kind)
                if why:
                    place: yamlfile.Place = ("pools", pool.name, "labels")
                    yield Complaint(
                        place,
                        f'overlaps with pool "{other.name}" on forge "{forge_name}": {why}; '
                        "change the labels, or set overlap: allowed on both",
                    )
                    break


def _common(
    pool: config.Pool, other: config.Pool, forges: Mapping[str, config.GitHubForge | config.GitLabForge]
) -> Iterator[str]:
    for name in pool.forges:
        if name not in forges:
            continue
        for second in other.forges:
            if second in forges and see_same_jobs(forges[name], forges[second]):
                yield name
                break


def _folded(labels: Iterable[str], kind: str) -> frozenset[str]:
    return frozenset(label.lower() if kind == "github" else label for label in labels)


def _overlap(pool: config.Pool, other: config.Pool, kind: str) -> str:
    """Which job would match both pools; empty when none that names all labels of one of them."""
    mine, theirs = _folded(pool.labels, kind), _folded(other.labels, kind)
    if pool.untagged and other.untagged and kind == "gitlab":
        return "both take jobs without tags"
    if not mine or not theirs or not (mine <= theirs or theirs <= mine):
        return ""
    asked = mine if mine <= theirs else theirs
    return f"a job for [{', '.join(sorted(asked))}] matches both"


def findings(settings: config.Config) -> list[base.Finding]:
    """What works but deserves a second look."""
    return [
        *_listener_findings(settings),
        *_forge_findings(settings),
        *_provider_findings(settings),
        *(finding for pool in settings.pools.values() for finding in _pool_findings(pool, settings)),
        *_shared_label_findings(settings),
        *_secret_findings(settings),
    ]


def _warning(place: str, message: str, remedy: str = "") -> base.Finding:
    return base.Finding(base.Level.WARNING, place, message, remedy)


def _listener_findings(settings: config.Config) -> Iterator[base.Finding]:
    listen = settings.listen
    if listen.ops and not fields.loopback(listen.ops.rpartition(":")[0]):
        yield _warning(
            "listen.ops",
            "metrics and the page are open to everyone who reaches this address: they have no log-in",
            "listen on 127.0.0.1, or put a proxy with a log-in in front",
        )
    if listen.public and not fields.loopback(listen.public.rpartition(":")[0]):
        if not (settings.public_url or "").startswith("https://"):
            yield _warning(
                "listen.public",
                "instance tokens and webhooks would travel in the clear",
                "set public_url to an https address of a TLS proxy in front of this listener",
            )
    elif settings.public_url and settings.public_url.startswith("http://"):
        host = urllib.parse.urlsplit(settings.public_url).hostname or ""
        if not fields.loopback(host):
            yield _warning("public_url", "is not encrypted", "put a TLS proxy in front and write https://…")
    if settings.assets.to == "store" and settings.public_url is None:
        yield _warning(
            "assets.to",
            "images of reports cannot be shown: without public_url no forge can fetch them",
            "set public_url, or assets: {to: summary}",
        )
    if settings.assets.to == "native" and any(forge.type == "github" for forge in settings.forges.values()):
        yield _warning(
            "assets.to",
            "GitHub takes no images of reports itself",
            "write assets: {to: store} and set public_url",
        )


def _forge_findings(settings: config.Config) -> Iterator[base.Finding]:
    for name, forge in settings.forges.items():
        place = f"forges.{name}"
        if forge.retry.preempted:
            yield _warning(
                f"{place}.retry.preempted",
                "a re-run repeats whatever the job had done before it was interrupted, also publishing",
                "make such jobs safe to repeat, or set 0",
            )
        if forge.type == "github":
            if forge.mode == "rest" and not forge.repos and forge.kind != "repository":
                yield _warning(
                    f"{place}.repos",
                    "REST has no queue of an organisation: only repositories that are listed or send webhooks show",
                    "list the repositories",
                )
            if forge.public_repositories:
                yield _warning(
                    f"{place}.public_repositories",
                    "whoever can open a pull request in a public repository may run code on an instance",
                    "keep runners to private repositories",
                )
            if forge.token is not None and forge.kind != "enterprise":
                yield _warning(
                    f"{place}.token",
                    "a personal token lives long and reaches all that its owner reaches",
                    "use a GitHub App: app: {id: …, key: file:…}",
                )
            if settings.public_url and forge.webhook_secret is None:
                yield _warning(
                    f"{place}.webhook_secret",
                    "webhooks are refused, so some jobs are noticed only by asking",
                    "set a webhook with a secret and name it here",
                )


def _provider_findings(settings: config.Config) -> Iterator[base.Finding]:
    for name, provider in settings.providers.items():
        place = f"providers.{name}"
        if provider.type == "local":
            yield _warning(
                place,
                "jobs run as processes on this host, unisolated from each other and from the daemon",
                "for demonstrations and trusted jobs only",
            )
        elif provider.type != "fake" and not (provider.agent_url or settings.agent_url or settings.public_url):
            yield _warning(
                place,
                "its instances cannot reach the daemon: there is no public_url and no agent_url",
                "set public_url, or agent_url here",
            )
        for path in _inline(provider.options, f"{place}."):
            yield _warning(path, "looks like a secret in the file", "name a file in the provider's own way")


def _inline(options: object, path: str) -> Iterator[str]:
    if isinstance(options, Mapping):
        for key, value in options.items():
            yield from _inline(value, f"{path}{key}.")
    elif isinstance(options, list):
        for index, value in enumerate(options):
            yield from _inline(value, f"{path}{index}.")
    elif isinstance(options, str) and secrets.redact(options) != options:
        yield path.rstrip(".")


def _pool_findings(pool: config.Pool, settings: config.Config) -> Iterator[base.Finding]:
    place = f"pools.{pool.name}"
    served = [settings.forges[name] for name in pool.forges]
    stray = [label for label in pool.labels if label.lower() in STRAY]
    if stray:
        yield _warning(
            f"{place}.labels",
            f"a stray job that asks only for [{', '.join(stray)}] gets an instance of this pool",
            f"leave {' and '.join(stray)} out and ask for the pool's own label",
        )
    if pool.allow.public or pool.allow.forks:
        open_to = " and ".join(key for key in ("public", "forks") if getattr(pool.allow, key))
        yield _warning(
            f"{place}.allow.{open_to.split(' ')[0]}",
            "strangers may run code on an instance of this pool",
            "keep both public and forks at false",
        )
    if pool.allow.protected_only and not any(forge.type == "gitlab" for forge in served):
        yield _warning(
            f"{place}.allow.protected_only",
            "only GitLab knows protected refs for runners; on GitHub this admits no less",
            "restrict the runner group in GitHub",
        )
    most = max(pool.warm.values()) if isinstance(pool.warm, dict) else pool.warm
    ceilings = [limit for limit in (pool.limits.instances, settings.limits.instances) if limit is not None]
    if ceilings and most > min(ceilings):
        yield _warning(
            f"{place}.warm",
            f"asks for {most} warm instances, and limits allow {min(ceilings)}",
            "raise limits.instances or lower warm",
        )
    if _never_cold(pool.warm):
        yield _warning(f"{place}.warm", "no cron entry ever sets the count to 0", "add one, or write a plain number")
    if pool.idle > pool.max_idle_age:
        yield _warning(f"{place}.idle", "is longer than max_idle_age, which ends the instance first", "raise it")


def _never_cold(warm: int | dict[str, int]) -> bool:
    """True for cron entries that all keep something warm."""
    if isinstance(warm, int) or 0 in warm.values():
        return False
    return all(isinstance(schedule.read_entry(key), schedule.Cron) for key in warm)


def _shared_label_findings(settings: config.Config) -> Iterator[base.Finding]:
    entries = list(settings.pools.values())
    for index, pool in enumerate(entries):
        for other in entries[:index]:
            for forge_name in _common(pool, other, settings.forges):
                kind = settings.forges[forge_name].type
                both = _folded(pool.labels, kind) & _folded(other.labels, kind)
                if not both or _overlap(pool, other, kind):
                    continue
                yield _warning(
                    f"pools.{pool.name}.labels",
                    f"a job that asks only for [{', '.join(sorted(both))}] matches pool {other.name} too",
                    "give each pool labels of its own",
                )
                break


def _secret_findings(settings: config.Config) -> Iterator[base.Finding]:
    for path, secret in settings.secrets():
        exposed = secret.exposed()
        if exposed:
            yield _warning(yamlfile.dotted(path), exposed, f"chmod 0600 {secret.path}")
