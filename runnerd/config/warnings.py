"""Warnings about a valid configuration: what works but deserves a second look. `runnerd check` prints them."""

from __future__ import annotations

import urllib.parse
from collections.abc import Iterator, Mapping

from provisioners import base
from runnerd.config import overlaps, schedule, values
from runnerd.config.pools import Pool
from runnerd.config.schema import Config
from runnerd.kit import redaction, yamlfile

#: Labels that many workflows carry, so that a pool with one of them catches jobs that were not meant for it.
#: GitHub puts `self-hosted`, the system and the processor on every runner that is registered by hand.
STRAY = frozenset({"self-hosted", "linux", "x64", "arm64", "gpu", "docker"})


def warnings_of(settings: Config) -> list[base.Finding]:
    """Return what works but deserves a second look. Reads the modes of secret files."""
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


def _listener_findings(settings: Config) -> Iterator[base.Finding]:
    listen = settings.listen
    if listen.ops and not values.is_loopback(listen.ops.rpartition(":")[0]):
        yield _warning(
            "listen.ops",
            "metrics and the status page have no authentication, and others can reach this address",
            "listen on 127.0.0.1, or put an authenticating proxy in front",
        )
    if listen.public and not values.is_loopback(listen.public.rpartition(":")[0]):
        if not (settings.public_url or "").startswith("https://"):
            yield _warning(
                "listen.public",
                "instance tokens and webhooks would travel in the clear",
                "set public_url to an https address of a TLS proxy in front of this listener",
            )
    elif settings.public_url and settings.public_url.startswith("http://"):
        host = urllib.parse.urlsplit(settings.public_url).hostname or ""
        if not values.is_loopback(host):
            yield _warning("public_url", "is not encrypted", "put a TLS proxy in front and write https://…")
    if settings.assets.to == "store" and settings.public_url is None:
        yield _warning(
            "assets.to",
            "images of reports cannot be shown: without public_url the forges cannot fetch them",
            "set public_url, or assets: {to: summary}",
        )
    if settings.assets.to == "native" and any(forge.type == "github" for forge in settings.forges.values()):
        yield _warning(
            "assets.to",
            "GitHub does not host images of reports",
            "write assets: {to: store} and set public_url",
        )


def _forge_findings(settings: Config) -> Iterator[base.Finding]:
    for name, forge in settings.forges.items():
        place = f"forges.{name}"
        if forge.retry.preempted:
            yield _warning(
                f"{place}.retry.preempted",
                "a re-run repeats everything that the job did before it was interrupted, including publishing",
                "make such jobs safe to repeat, or set 0",
            )
        if forge.type == "github":
            if forge.mode == "rest" and not forge.repos and forge.kind != "repository":
                yield _warning(
                    f"{place}.repos",
                    "the REST API lists no jobs of an organisation: only those listed or with webhooks are seen",
                    "list the repositories",
                )
            if forge.public_repositories:
                yield _warning(
                    f"{place}.public_repositories",
                    "anyone who can open a pull request in a public repository may run code on an instance",
                    "restrict runners to private repositories",
                )
            if forge.token is not None and forge.kind != "enterprise":
                yield _warning(
                    f"{place}.token",
                    "a personal access token is long-lived and may do everything that its owner may",
                    "use a GitHub App: app: {id: …, key: file:…}",
                )
            if settings.public_url and forge.webhook_secret is None:
                yield _warning(
                    f"{place}.webhook_secret",
                    "webhooks are refused, so some jobs are noticed only by polling",
                    "set a webhook with a secret and name it here",
                )


def _provider_findings(settings: Config) -> Iterator[base.Finding]:
    for name, provider in settings.providers.items():
        place = f"providers.{name}"
        if provider.type == "local":
            yield _warning(
                place,
                "jobs run as processes on this host, not isolated from each other or from the daemon",
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
    elif isinstance(options, str) and redaction.redact(options) != options:
        yield path.rstrip(".")


def _pool_findings(pool: Pool, settings: Config) -> Iterator[base.Finding]:
    place = f"pools.{pool.name}"
    served = [settings.forges[name] for name in pool.forges]
    stray = [label for label in pool.labels if label.lower() in STRAY]
    if stray:
        yield _warning(
            f"{place}.labels",
            f"any job that asks only for [{', '.join(stray)}] gets an instance of this pool",
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
            "only GitLab has protected runners; on GitHub this has no effect",
            "restrict the runner group in GitHub",
        )
    most = max(pool.warm.values()) if isinstance(pool.warm, dict) else pool.warm
    ceilings = [limit for limit in (pool.limits.instances, settings.limits.instances) if limit is not None]
    if ceilings and most > min(ceilings):
        yield _warning(
            f"{place}.warm",
            f"asks for {most} warm instances, but limits allow {min(ceilings)}",
            "raise limits.instances or lower warm",
        )
    if _never_cold(pool.warm):
        yield _warning(f"{place}.warm", "no cron entry sets the count to 0", "add one, or write a plain number")
    if pool.idle > pool.max_idle_age:
        yield _warning(f"{place}.idle", "is longer than max_idle_age, which ends the instance first", "raise it")


def _never_cold(warm: int | dict[str, int]) -> bool:
    """Return True for cron entries that all keep something warm."""
    if isinstance(warm, int) or 0 in warm.values():
        return False
    return all(isinstance(schedule.read_entry(key), schedule.Cron) for key in warm)


def _shared_label_findings(settings: Config) -> Iterator[base.Finding]:
    entries = list(settings.pools.values())
    for index, pool in enumerate(entries):
        for other in entries[:index]:
            for forge_name in overlaps.common_forges(pool, other, settings.forges):
                kind = settings.forges[forge_name].type
                both = overlaps.folded(pool.labels, kind) & overlaps.folded(other.labels, kind)
                if not both or overlaps.common_jobs(pool, other, kind):
                    continue
                yield _warning(
                    f"pools.{pool.name}.labels",
                    f"a job that asks only for [{', '.join(sorted(both))}] matches pool {other.name} too",
                    "give each pool labels of its own",
                )
                break


def _secret_findings(settings: Config) -> Iterator[base.Finding]:
    for path, secret in settings.secrets():
        exposed = secret.exposed()
        if exposed:
            yield _warning(yamlfile.dotted(path), exposed, f"chmod 0600 {secret.path}")
