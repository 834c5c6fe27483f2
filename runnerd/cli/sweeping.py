"""``runnerd sweep --once``: a sweep without the daemon, from the configuration alone.

The safety net for a daemon that does not come back, run from a timer, preferably on another host.  It ends only
instances and resources past the deadline in their own tags, and only while a forge's clock agrees with this host's: a
job may run on anything younger, and a wrong clock would make everything look old.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
from collections.abc import Awaitable, Iterable, Mapping
from typing import Literal

import sqlalchemy as sa

from provisioners import base
from runnerd import config, daemon, errors, model
from runnerd.cli import offline
from runnerd.kit import clock, http
from runnerd.lifecycle import sweep_documents, sweep_policy
from runnerd.runtime import providers
from runnerd.store import queries

log = logging.getLogger(__name__)

#: Instances of one provider that are ended concurrently.
CONCURRENCY = 16


async def once(settings: config.Config, *, dry_run: bool, system: clock.Clock | None = None) -> sweep_documents.Sweep:
    """List everything with our tags; unless ``dry_run``, delete what is past its deadline.

    Each instance and resource gets the action in ``done``, or the reason for no action in ``why``.
    """
    now = system or clock.SystemClock()
    notes: list[str] = []
    provisioners: dict[str, base.Provisioner] = {}
    problems: dict[str, str] = {}
    try:
        for one in settings.providers.values():
            try:
                made = _provisioner(settings, one, now)
                await made.start()
            except Exception as error:
                # A provider that cannot start, for any error of its plugin, does not stop the others.
                log.debug("%s cannot start", one.name, exc_info=True)
                problems[one.name] = f"cannot start: {str(error) or type(error).__name__}"
            else:
                provisioners[one.name] = made
        rows, problem = _rows(settings)
        if problem:
            notes.append(problem)
        known = None if rows is None else _known(rows)
        report = await sweep_policy.look(provisioners, known, also=_scopes((rows or {}).values()))
        for name, problem in problems.items():
            report["providers"].append(sweep_policy.nothing(name, problem))
            report["incomplete"].append(name)
        strangers = {row.provider for row in (rows or {}).values() if row.provider} - set(settings.providers)
        notes += [f"provider {name} has instances with rows and is not configured here" for name in sorted(strangers)]
        report |= {"dry_run": dry_run, "ended": 0, "deleted": 0, "failed": 0, "held_back": 0}
        await _act(settings, report, provisioners, now, notes)
        report["notes"] = notes
        return report
    finally:
        for each in provisioners.values():
            with contextlib.suppress(Exception):
                await each.close()


def _provisioner(settings: config.Config, one: config.Provider, now: clock.Clock) -> base.Provisioner:
    context = providers.context(settings, one.name, clock=now)
    directory = settings.state / "providers" / one.name
    if not directory.is_dir():
        if one.type in ("local", "fake"):
            # Such a provider knows only its directory, and a sweep must not create one.
            raise errors.StoreError(f"{directory} is not here: instances of type {one.type} run on the daemon's host")
        context = dataclasses.replace(context, directory="")
    return daemon.provisioner(one, context)


def _known(rows: Mapping[str, model.Instance]) -> sweep_policy.Known:
    attempts = {row.attempt: row for row in rows.values() if row.attempt}

    def known(name: str, attempt: str) -> model.Instance | None:
        return attempts.get(model.AttemptKey(attempt)) if attempt else rows.get(name)

    return known


def _scopes(rows: Iterable[model.Instance]) -> dict[str, frozenset[base.Scope]]:
    """Return the scopes of instances with rows, by provider."""
    scopes: dict[str, set[base.Scope]] = {}
    for row in rows:
        key = base.OfferKey.read(row.offer)
        if row.provider and key is not None:
            scopes.setdefault(row.provider, set()).add(key.scope)
    return {name: frozenset(each) for name, each in scopes.items()}


def _rows(settings: config.Config) -> tuple[dict[str, model.Instance] | None, str]:
    """Return the live rows, read beside a running daemon; None and the reason when they cannot be read."""

    def live(connection: sa.Connection) -> list[model.Instance]:
        return queries.instances(connection, live=True, pool=None, limit=1_000_000)

    try:
        return {str(row.id): row for row in offline.read(settings, live)}, ""
    except errors.StoreError as error:
        reason = str(error)
        return None, reason if reason.startswith("there is no state") else f"the state cannot be read: {reason}"


# -- ending --------------------------------------------------------------------------------------------------------


async def _act(
    settings: config.Config,
    report: sweep_documents.Sweep,
    provisioners: Mapping[str, base.Provisioner],
    now: clock.Clock,
    notes: list[str],
) -> None:
    """End what is due, instances before their orphaned resources, or only state it for a dry run."""
    wall = now.wall()
    due: dict[str, tuple[list[sweep_documents.Instance], list[sweep_documents.Residue]]] = {}
    for provider in report["providers"]:
        for each in provider["instances"]:
            each["why"] = sweep_policy.spare_instance(each, wall)
        for residue in provider["residues"]:
            residue["why"] = sweep_policy.spare_residue(residue, wall)
        due[provider["name"]] = (
            [each for each in provider["instances"] if not each["why"]],
            [each for each in provider["residues"] if not each["why"]],
        )
    everything = [each for instances, residues in due.values() for each in (*instances, *residues)]
    if not everything:
        return
    doubt = await _clock_doubt(settings, now)
    if doubt:
        notes.append(f"nothing is ended: {doubt}")
        report["held_back"] = len(everything)
        for doubtful in everything:
            doubtful["why"] = "its deadline has passed, but this host's clock is in doubt"
        return
    if report["dry_run"]:
        for instances, residues in due.values():
            for each in instances:
                each["done"] = "would be ended: its deadline has passed"
            for residue in residues:
                residue["done"] = "would be deleted: it is orphaned"
        return
    await asyncio.gather(
        *(_end(provisioners[name], *pair, report) for name, pair in due.items() if name in provisioners)
    )


async def _end(
    provisioner: base.Provisioner,
    instances: list[sweep_documents.Instance],
    residues: list[sweep_documents.Residue],
    report: sweep_documents.Sweep,
) -> None:
    limit = asyncio.Semaphore(CONCURRENCY)

    async def end(each: sweep_documents.Instance) -> None:
        async with limit:
            each["done"] = await _tried(
                provisioner.delete(each["ref"]), "ended: its deadline has passed", report, "ended"
            )

    await asyncio.gather(*(end(each) for each in instances))
    # One after the other: an interface goes before the address that it holds.
    for each in residues:
        residue = base.Residue(each["kind"], each["ref"], each["scope"], each["tags"], each["created_at"])
        each["done"] = await _tried(provisioner.delete_residue(residue), "deleted: it was orphaned", report, "deleted")


async def _tried(
    work: Awaitable[None], done: str, report: sweep_documents.Sweep, count: Literal["ended", "deleted"]
) -> str:
    """Await one deletion and return its outcome as text; failures of others do not matter."""
    try:
        async with asyncio.timeout(sweep_policy.TIMEOUT):
            await work
    except TimeoutError:
        problem = f"no answer within {sweep_policy.TIMEOUT:.0f} s"
    except base.ProvisionError as error:
        problem = str(error)
    except Exception as error:
        log.debug("a provider failed in an unexpected way", exc_info=True)
        problem = f"{type(error).__name__}: {error}"
    else:
        report[count] += 1
        return done
    report["failed"] += 1
    return f"failed: {problem}"


async def _clock_doubt(settings: config.Config, now: clock.Clock) -> str:
    """Return the reason to distrust this host's clock; empty when a forge's clock agrees with it."""
    for forge in settings.forges.values():
        transport = http.AiohttpTransport(ca_file=str(forge.ca) if forge.ca else None)
        try:
            answer = await transport.send(http.Request("HEAD", str(forge.url), timeout=20.0))
            date = answer.date()
        except errors.RunnerdError:
            continue
        finally:
            await transport.close()
        if date is None:
            continue
        if abs(date - now.wall()) > clock.TOLERANCE_S:
            return f"this host's clock differs from that of {forge.url} by {now.wall() - date:+.0f} s"
        return ""
    return "no forge answers, so this host's clock cannot be checked"
