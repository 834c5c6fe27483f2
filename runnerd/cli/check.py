"""``runnerd check``: is the configuration good, do forges and providers take us, can the daemon live here?

Works without a daemon and beside one.  Nothing is bought, registered, changed or left behind: providers are asked from
an empty directory of their own, because files made by root here would lock the daemon's user out.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import random
import tempfile
from collections.abc import Awaitable
from typing import Any

from provisioners import base
from provisioners.base import Finding, Level
from runnerd import clock, config, daemon, errors, store

#: How long one forge or provider may take, in seconds.
TIMEOUT = 90.0


async def check(settings: config.Config) -> list[dict[str, Any]]:
    """All findings, worst first within the order of the file."""
    now = clock.SystemClock()
    found = [*settings.warnings(), *_state(settings)]
    with tempfile.TemporaryDirectory(prefix="runnerd-check-") as empty:
        parts = [_forge(settings, name, now) for name in settings.forges]
        parts += [_provider(settings, one, now, f"{empty}/{one.name}") for one in settings.providers.values()]
        for part in await asyncio.gather(*parts):
            found += part
    if not any(one.level is Level.ERROR for one in found):
        found.append(Finding(Level.OK, "runnerd", "the daemon can start with this configuration"))
    return [{**dataclasses.asdict(one), "level": one.level.value} for one in found]


async def _forge(settings: config.Config, name: str, now: clock.Clock) -> list[Finding]:
    place = f"forges.{name}"
    try:
        make = daemon.forge_factory(settings.controller, clock=now, rng=random.Random(), on_request=lambda *_: None)
        forge = make(name, settings.forges[name])
    except (errors.RunnerdError, OSError, ValueError) as error:
        return [Finding(Level.ERROR, place, str(error))]
    try:
        return await _bounded(place, forge.check())
    finally:
        await forge.close()


async def _provider(settings: config.Config, one: config.Provider, now: clock.Clock, empty: str) -> list[Finding]:
    place = f"providers.{one.name}"
    os.mkdir(empty)
    context = base.Context(name=one.name, controller=settings.controller, directory=empty, now=now.now, sleep=now.sleep)
    try:
        provisioner = daemon.provisioner(one, context)
        await provisioner.start()
    except (base.ProvisionError, errors.RunnerdError, ImportError, OSError, ValueError) as error:
        return [Finding(Level.ERROR, place, f"cannot start: {error}")]
    try:
        found = await _bounded(place, provisioner.check())
        if provisioner.traits.residue and not any(provisioner.traits.residue in each.message for each in found):
            words = f"if the daemon never comes back: {provisioner.traits.residue}"
            remedy = "" if provisioner.traits.self_end else "run `runnerd sweep --once` by a timer on another host"
            found.append(Finding(Level.OK if provisioner.traits.self_end else Level.WARNING, place, words, remedy))
        for pool in settings.pools.values():
            if one.name in pool.from_:
                found += await _offers(provisioner, pool, one.name)
        return found
    finally:
        await provisioner.close()


async def _offers(provisioner: base.Provisioner, pool: config.Pool, provider: str) -> list[Finding]:
    place = f"pools.{pool.name}"
    try:
        async with asyncio.timeout(TIMEOUT):
            found = await provisioner.offers(pool.shape(provider))
    except TimeoutError:
        return [Finding(Level.ERROR, place, f"provider {provider} named no offers within {TIMEOUT:.0f} s")]
    except base.ProvisionError as error:
        return [Finding(Level.ERROR, place, f"provider {provider} named no offers: {error}")]
    if not found:
        remedy = "mend gpu, types or market of the pool, or leave the provider out of its `from`"
        others = len(pool.from_) > 1
        level = Level.WARNING if others else Level.ERROR
        return [Finding(level, place, f"provider {provider} has no machine that fits", remedy)]
    cheapest = min(found, key=lambda one: one.price)
    words = f"provider {provider} has {len(found)} offers, the cheapest {cheapest.key} at ${cheapest.price:.2f} an hour"
    return [Finding(Level.OK, place, words)]


async def _bounded(place: str, work: Awaitable[list[Finding]]) -> list[Finding]:
    try:
        async with asyncio.timeout(TIMEOUT):
            return await work
    except TimeoutError:
        return [Finding(Level.ERROR, place, f"the check did not end within {TIMEOUT:.0f} s", "look at the network")]
    except (base.ProvisionError, errors.RunnerdError, OSError) as error:
        return [Finding(Level.ERROR, place, str(error) or type(error).__name__)]


def _state(settings: config.Config) -> list[Finding]:
    """The place where the daemon keeps its state, looked at without touching it."""
    found = []
    state = settings.state
    if settings.database is None or settings.secret is None:
        parent = state if state.exists() else state.parent
        if not parent.is_dir():
            found.append(Finding(Level.ERROR, "state", f"{parent} is not a directory", f"create {parent}"))
        elif not os.access(parent, os.W_OK | os.X_OK):
            words = f"{parent} is not writable for user id {os.geteuid()}"
            # Whoever runs the check need not be the user of the daemon.
            found.append(Finding(Level.WARNING, "state", words, "check as the user of the daemon"))
    try:
        pending = store.pending(settings.database_url)
    except errors.StoreError as error:
        found.append(Finding(Level.ERROR, "database", str(error)))
    else:
        if pending:
            new = "will be migrated" if _exists(settings) else "will be made"
            found.append(Finding(Level.OK, "database", f"the schema {new} at the first start"))
    return found


def _exists(settings: config.Config) -> bool:
    try:
        return store.current(settings.database_url) is not None
    except errors.StoreError:
        return False
