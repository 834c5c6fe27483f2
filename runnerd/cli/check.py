"""``runnerd check``: is the configuration good, do forges and providers take us, can the daemon live here?

Works without a daemon and beside one.  Nothing is bought, registered, changed or left behind: providers are asked from
an empty directory of their own, because files made by root here would lock the daemon's user out.
"""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
import os
import random
import tempfile
from collections.abc import Awaitable
from pathlib import Path

import click

from provisioners import base
from provisioners.base import Finding, Level
from runnerd import config, daemon, errors, model, store
from runnerd.admin import documents
from runnerd.bootstrap import agent_archive
from runnerd.cli import options, render
from runnerd.cli.exits import Exit
from runnerd.forges import registry
from runnerd.kit import clock, display
from runnerd.offers import request as launch_request
from runnerd.runtime import providers

#: How long one forge or provider may take, in seconds.
TIMEOUT = 90.0


@click.command("check")
@options.local
def command(config_file: str | None, as_json: bool) -> None:
    """Try configuration, forges, providers and pools without buying anything.  Works without the daemon."""
    file = options.config_path(config_file)
    try:
        settings = config.load(file)
    except errors.ConfigInvalid as error:
        if not file.exists():
            raise
        found: list[documents.Finding] = [
            {"level": "error", "place": str(problem).partition(": ")[0], "message": str(problem).partition(": ")[2],
             "remedy": ""}
            for problem in error.problems
        ]  # fmt: skip
    else:
        found = asyncio.run(check(settings))
    bad = sum(each["level"] == "error" for each in found)
    warned = sum(each["level"] == "warning" for each in found)
    if as_json:
        render.document({"findings": found, "errors": bad, "warnings": warned})
    else:
        render.findings(found)
        click.echo(f"{display.count(bad, 'error')}, {display.count(warned, 'warning')}")
    click.get_current_context().exit(Exit.PROBLEMS if bad else Exit.OK)


async def check(settings: config.Config) -> list[documents.Finding]:
    """All findings, worst first within the order of the file."""
    now = clock.SystemClock()
    found = [*config.warnings_of(settings), *_state(settings), *_ended_budgets(settings, now)]
    with tempfile.TemporaryDirectory(prefix="runnerd-check-") as empty:
        parts = [_forge(settings, name, now) for name in settings.forges]
        asked = [_Provider(settings, one, now, Path(empty)) for one in settings.providers.values()]
        parts += [each.check() for each in asked]
        for part in await asyncio.gather(*parts):
            found += part
        found += _unserved(settings, asked)
    if not any(one.level is Level.ERROR for one in found):
        found.append(Finding(Level.OK, "runnerd", "the daemon can start with this configuration"))
    return [
        {"level": one.level.value, "place": one.place, "message": one.message, "remedy": one.remedy} for one in found
    ]


async def _forge(settings: config.Config, name: str, now: clock.Clock) -> list[Finding]:
    place = f"forges.{name}"
    try:
        make = registry.factory(settings.controller, clock=now, rng=random.Random(), on_request=lambda *_: None)
        forge = make(name, settings.forges[name])
    except (errors.RunnerdError, OSError, ValueError) as error:
        return [Finding(Level.ERROR, place, str(error))]
    try:
        return await _bounded(place, forge.check())
    finally:
        await forge.close()


def _ended_budgets(settings: config.Config, now: clock.Clock) -> list[Finding]:
    """Totals whose last day has passed limit nothing any more."""
    levels = {"limits": settings.limits}
    for section in ("providers", "pools", "teams"):
        levels |= {f"{section}.{name}.limits": entry.limits for name, entry in getattr(settings, section).items()}
    today = datetime.datetime.fromtimestamp(now.wall(), datetime.UTC).date()
    return [
        Finding(Level.WARNING, f"{place}.until", f"dollars_total ended on {limits.until}: it limits nothing any more",
                "set a new total with a new day, or take both keys out")
        for place, limits in levels.items()
        if limits.until is not None and limits.until < today
    ]  # fmt: skip


def _unserved(settings: config.Config, asked: list[_Provider]) -> list[Finding]:
    """Pools that nobody could sell a machine to, as far as every provider of theirs could be asked."""
    found = []
    for pool in settings.pools.values():
        sellers = [each for each in asked if each.name in pool.from_]
        if all(pool.name in each.told and pool.name not in each.serves for each in sellers):
            message = (
                f"none of {', '.join(pool.from_)} has an offer that the pool may buy: its jobs would wait for ever"
            )
            found.append(Finding(Level.ERROR, f"pools.{pool.name}", message, "see what each provider says of the pool"))
    return found


class _Provider:
    """One provider, asked for itself and for every pool that buys there."""

    def __init__(self, settings: config.Config, one: config.Provider, now: clock.Clock, empty: Path) -> None:
        self._settings = settings
        self._one = one
        self._now = now
        self._directory = empty / one.name
        self._place = f"providers.{one.name}"
        self.name = one.name
        #: The pools that it told its offers for, and those that it can sell to.
        self.told: set[str] = set()
        self.serves: set[str] = set()

    async def check(self) -> list[Finding]:
        self._directory.mkdir()
        context = providers.context(self._settings, self._one.name, clock=self._now, directory=self._directory)
        try:
            made = daemon.provisioner(self._one, context)
            await made.start()
        except (base.ProvisionError, errors.RunnerdError, ImportError, OSError, ValueError) as error:
            return [Finding(Level.ERROR, self._place, f"cannot start: {error}")]
        try:
            found: list[Finding] = []
            samples = []
            for pool in self._settings.pools.values():
                if self._one.name in pool.from_:
                    said, sample = await self._pool(made, pool)
                    found += said
                    samples += [sample] if sample is not None else []
            own = await _bounded(self._place, made.check(samples))
            return [*own, *self._residue(made.traits, own), *found]
        finally:
            await made.close()

    def _residue(self, traits: base.Traits, told: list[Finding]) -> list[Finding]:
        """What may be left behind if the daemon never comes back, unless the provider has told it already."""
        if not traits.residue or any(traits.residue in each.message for each in told):
            return []
        message = f"if the daemon never comes back: {traits.residue}"
        remedy = "" if traits.self_end else "run `runnerd sweep --once` by a timer on another host"
        return [Finding(Level.OK if traits.self_end else Level.WARNING, self._place, message, remedy)]

    async def _pool(self, made: base.Provisioner, pool: config.Pool) -> tuple[list[Finding], base.CreateRequest | None]:
        """What a pool can buy here, and the request that it would send for its first choice."""
        place, name = f"pools.{pool.name}", self._one.name
        options = pool.options.get(name, base.NO_OPTIONS)
        try:
            async with asyncio.timeout(TIMEOUT):
                found = await made.offers(pool.shape(name), options)
        except TimeoutError:
            return [Finding(Level.ERROR, place, f"provider {name} named no offers within {TIMEOUT:.0f} s")], None
        except base.ProvisionError as error:
            return [Finding(Level.ERROR, place, f"provider {name} named no offers: {error}")], None
        self.told.add(pool.name)
        if not found:
            why = made.why_none(pool.shape(name), options) or "it has no machine that fits"
            remedy = "mend gpu, types or market of the pool, or leave the provider out of its `from`"
            return [Finding(Level.WARNING, place, f"provider {name} has no offer: {why}", remedy)], None
        problem = launch_request.boot_script_problem(self._settings, pool, name, made.traits)
        if problem:
            remedy = "shorten agent_url, or leave the provider out of the pool's `from`"
            return [Finding(Level.WARNING, place, f"provider {name} sells nothing to it: {problem}", remedy)], None
        cheapest = min(found, key=lambda one: one.price)
        if pool.max_price is not None and cheapest.price > pool.max_price:
            message = (
                f"max_price is ${pool.max_price:.2f} an hour, and the cheapest offer of provider {name} is "
                f"{cheapest.key} at ${cheapest.price:.2f}"
            )
            remedy = "raise max_price, or leave the provider out of its `from`"
            return [Finding(Level.WARNING, place, message, remedy)], None
        self.serves.add(pool.name)
        message = (
            f"provider {name} has {len(found)} offers, the cheapest {cheapest.key} at ${cheapest.price:.2f} an hour"
        )
        if cheapest.price_source:
            message += f" ({cheapest.price_source})"
        said = [Finding(Level.OK, place, message)]
        estimates = sum(one.price_source.startswith("estimate") for one in found)
        if estimates:
            message = f"{estimates} of {len(found)} prices at provider {name} are estimates; budgets count by them"
            said.append(Finding(Level.WARNING, place, message, f"run `runnerd prices refresh --provider {name}`"))
        return said, self._sample(made, pool, found[0])

    def _sample(self, made: base.Provisioner, pool: config.Pool, offer: base.Offer) -> base.CreateRequest:
        """What a launch would send, with a token of the right length that is worth nothing."""
        request = launch_request.compose(
            self._settings,
            offer,
            pool=pool,
            traits=made.traits,
            instance=model.InstanceId(f"{self._settings.controller[:20]}-{pool.name[:12]}-check"),
            key=model.AttemptKey("check".ljust(26, "0")),
            repo="",
            bundle=agent_archive.build().sha256,
            now=self._now.now(),
        )
        return dataclasses.replace(
            request, user_data=request.user_data.replace(base.TOKEN_PLACEHOLDER, "0" * launch_request.TOKEN_SIZE)
        )


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
            message = f"{parent} is not writable for user id {os.geteuid()}"
            # Whoever runs the check need not be the user of the daemon.
            found.append(Finding(Level.WARNING, "state", message, "check as the user of the daemon"))
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
