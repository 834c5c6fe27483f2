"""``runnerd sweep --once``: a sweep without the daemon, from the configuration alone.

For the day on which the daemon does not come back, run by a timer, best on another host.  It ends nothing but what is
past the deadline that the instance itself carries in its tags, and only while a forge's clock agrees with this host's:
a job may run on anything younger, and a wrong clock would make everything look old.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from provisioners import base
from runnerd import clock, config, daemon, errors, http, model
from runnerd.store import engine, queries
from runnerd.views import sweep

#: Seconds past its deadline before an instance is ended from here: the daemon and the provider come first.
GRACE = 900.0


async def once(settings: config.Config, *, dry_run: bool, system: clock.Clock | None = None) -> dict[str, Any]:
    """List what carries our tags; unless ``dry_run``, delete what is past its deadline."""
    now = system or clock.SystemClock()
    notes: list[str] = []
    provisioners: dict[str, base.Provisioner] = {}
    problems: dict[str, str] = {}
    try:
        for one in settings.providers.values():
            try:
                made = _provisioner(settings, one, now)
                await made.start()
            except (base.ProvisionError, errors.RunnerdError, ImportError, OSError, ValueError) as error:
                problems[one.name] = f"cannot start: {error}"
            else:
                provisioners[one.name] = made
        rows, problem = _rows(settings)
        if problem:
            notes.append(problem)
        found = await sweep.look(provisioners, None if rows is None else _known(rows))
        for name, words in problems.items():
            found["providers"].append({"name": name, "problem": words, "failures": {}, "instances": [], "residues": []})
            found["incomplete"].append(name)
        found["dry_run"] = dry_run
        found["ended"] = 0
        if not dry_run:
            found["ended"] = await _end_overdue(settings, found, provisioners, now, notes)
        found["notes"] = notes
        return found
    finally:
        for each in provisioners.values():
            await each.close()


def _provisioner(settings: config.Config, one: config.Provider, now: clock.Clock) -> base.Provisioner:
    directory = settings.state / "providers" / one.name
    if not directory.is_dir() and one.type in ("local", "fake"):
        # Such a provider has nothing but what its directory says, and a look must not make one.
        raise errors.StoreError(f"{directory} is not here: instances of type {one.type} live beside their daemon")
    return daemon.provisioner(
        one,
        base.Context(
            name=one.name, controller=settings.controller, directory=str(directory), now=now.now, sleep=now.sleep
        ),
    )


def _known(rows: Mapping[str, model.Instance]) -> sweep.Known:
    attempts = {row.attempt: row for row in rows.values() if row.attempt}

    def known(name: str, attempt: str) -> model.Instance | None:
        return attempts.get(model.AttemptKey(attempt)) if attempt else rows.get(name)

    return known


def _rows(settings: config.Config) -> tuple[dict[str, model.Instance] | None, str]:
    """The live rows, read beside a running daemon; None and why when they cannot be read."""
    try:
        url = engine.parse(settings.database_url)
        path = engine.file_of(url)
        if path is not None:
            if not path.exists():
                return None, f"there is no state at {path}"
            # Read-only: a look must neither take the daemon's lock nor make files that its user cannot write.
            made = sa.create_engine("sqlite://", creator=lambda: _read_only(path), poolclass=sa.pool.NullPool)
        else:
            made = engine.make(url, name="runnerd sweep")
        try:
            with made.connect() as connection:
                live = queries.instances(connection, live=True, pool=None, limit=1_000_000)
        finally:
            made.dispose()
    except (errors.RunnerdError, sa.exc.SQLAlchemyError, sqlite3.Error, OSError) as error:
        return None, f"the state cannot be read: {error}"
    return {str(row.id): row for row in live}, ""


def _read_only(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=5.0)


async def _end_overdue(
    settings: config.Config,
    found: dict[str, Any],
    provisioners: Mapping[str, base.Provisioner],
    now: clock.Clock,
    notes: list[str],
) -> int:
    overdue = [
        (provider["name"], each)
        for provider in found["providers"]
        for each in provider["instances"]
        if 0 < each["deadline"] < now.wall() - GRACE
    ]
    if not overdue:
        return 0
    doubt = await _clock_doubt(settings, now)
    if doubt:
        notes.append(f"nothing is ended: {doubt}")
        return 0
    ended = 0
    for name, each in overdue:
        try:
            async with asyncio.timeout(sweep.TIMEOUT):
                await provisioners[name].delete(each["ref"])
        except (base.ProvisionError, TimeoutError) as error:
            each["done"] = f"could not be ended: {error}"
        else:
            each["done"] = "ended: its deadline has passed"
            ended += 1
    return ended


async def _clock_doubt(settings: config.Config, now: clock.Clock) -> str:
    """Why this host's clock cannot be relied on; empty when a forge's clock agrees with it."""
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
        if abs(date - now.wall()) > clock.TOLERANCE:
            return f"this host's clock is {now.wall() - date:+.0f} s off by that of {forge.url}"
        return ""
    return "no forge answers, so this host's clock cannot be checked"
