"""``runnerd check``: tests of the configuration, of access to forges and providers, and of the daemon's directories.

Works without a daemon and beside one.  Nothing is bought, registered, changed or left behind: providers get an empty
temporary directory, because files that root creates in the state would lock out the daemon's user.
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

#: Seconds that the check of one forge or provider may take.
TIMEOUT_S = 90.0


@click.command("check")
@options.local
def command(config_file: str | None, as_json: bool) -> None:
    """Test configuration, forges, providers and pools; buys nothing.  Works without the daemon."""
    file = options.config_path(config_file)
    try:
        settings = config.load(file)
    except errors.ConfigInvalid as error:
        if not file.exists():
            raise
        findings: list[documents.Finding] = [
            {"level": "error", "place": str(problem).partition(": ")[0], "message": str(problem).partition(": ")[2],
             "remedy": ""}
            for problem in error.problems
        ]  # fmt: skip
    else:
        findings = asyncio.run(check(settings))
    bad = sum(each["level"] == "error" for each in findings)
    warned = sum(each["level"] == "warning" for each in findings)
    if as_json:
        render.document({"findings": findings, "errors": bad, "warnings": warned})
    else:
        render.findings(findings)
        click.echo(f"{display.count(bad, 'error')}, {display.count(warned, 'warning')}")
    click.get_current_context().exit(Exit.PROBLEMS if bad else Exit.OK)


async def check(settings: config.Config) -> list[documents.Finding]:
    """Return all findings, in the order of the file."""
    now = clock.SystemClock()
    findings = [*config.warnings_of(settings), *_state(settings), *_ended_budgets(settings, now)]
    with tempfile.TemporaryDirectory(prefix="runnerd-check-") as empty:
        parts = [_forge(settings, name, now) for name in settings.forges]
        providers_ = [_Provider(settings, one, now, Path(empty)) for one in settings.providers.values()]
        parts += [each.check() for each in providers_]
        for part in await asyncio.gather(*parts):
            findings += part
        findings += _unserved(settings, providers_)
    if not any(one.level is Level.ERROR for one in findings):
        findings.append(Finding(Level.OK, "runnerd", "the daemon can start with this configuration"))
    return [
        {"level": one.level.value, "place": one.place, "message": one.message, "remedy": one.remedy} for one in findings
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
    """Warn of totals whose last day has passed."""
    levels = {"limits": settings.limits}
    for section in ("providers", "pools", "teams"):
        levels |= {f"{section}.{name}.limits": entry.limits for name, entry in getattr(settings, section).items()}
    today = datetime.datetime.fromtimestamp(now.wall(), datetime.UTC).date()
    return [
        Finding(Level.WARNING, f"{place}.until", f"dollars_total ended on {limits.until} and no longer limits anything",
                "set a new total with a new day, or remove both keys")
        for place, limits in levels.items()
        if limits.until is not None and limits.until < today
    ]  # fmt: skip


def _unserved(settings: config.Config, providers_: list[_Provider]) -> list[Finding]:
    """Report pools for which no provider has an offer, provided that all of their providers answered."""
    findings = []
    for pool in settings.pools.values():
        sellers = [each for each in providers_ if each.name in pool.from_]
        if all(pool.name in each.answered and pool.name not in each.serves for each in sellers):
            message = f"none of {', '.join(pool.from_)} has an offer that the pool may buy: its jobs would wait forever"
            findings.append(
                Finding(Level.ERROR, f"pools.{pool.name}", message, "see the providers' findings for the pool")
            )
    return findings


class _Provider:
    """The check of one provider and of every pool that buys there."""

    def __init__(self, settings: config.Config, one: config.Provider, now: clock.Clock, empty: Path) -> None:
        self._settings = settings
        self._one = one
        self._now = now
        self._directory = empty / one.name
        self._place = f"providers.{one.name}"
        self.name = one.name
        #: The pools for which it listed offers, and those that may buy one of them.
        self.answered: set[str] = set()
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
            findings: list[Finding] = []
            samples = []
            for pool in self._settings.pools.values():
                if self._one.name in pool.from_:
                    pool_findings, sample = await self._pool(made, pool)
                    findings += pool_findings
                    samples += [sample] if sample is not None else []
            own = await _bounded(self._place, made.check(samples))
            return [*own, *self._orphans(made.traits, own), *findings]
        finally:
            await made.close()

    def _orphans(self, traits: base.Traits, own: list[Finding]) -> list[Finding]:
        """Report what would be orphaned if the daemon never came back, unless the provider has reported it already."""
        if not traits.residue or any(traits.residue in each.message for each in own):
            return []
        message = f"if the daemon never comes back: {traits.residue}"
        remedy = "" if traits.self_end else "run `runnerd sweep --once` from a timer on another host"
        return [Finding(Level.OK if traits.self_end else Level.WARNING, self._place, message, remedy)]

    async def _pool(self, made: base.Provisioner, pool: config.Pool) -> tuple[list[Finding], base.CreateRequest | None]:
        """Return the findings for a pool, and the launch request that it would send for its first choice."""
        place, name = f"pools.{pool.name}", self._one.name
        options = pool.options.get(name, base.NO_OPTIONS)
        try:
            async with asyncio.timeout(TIMEOUT_S):
                offers = await made.offers(pool.shape(name), options)
        except TimeoutError:
            return [Finding(Level.ERROR, place, f"provider {name} listed no offers within {TIMEOUT_S:.0f} s")], None
        except base.ProvisionError as error:
            return [Finding(Level.ERROR, place, f"provider {name} could not list its offers: {error}")], None
        self.answered.add(pool.name)
        if not offers:
            why = made.why_none(pool.shape(name), options) or "no machine type fits"
            remedy = "correct gpu, types or market of the pool, or remove the provider from its `from`"
            return [Finding(Level.WARNING, place, f"provider {name} has no offer: {why}", remedy)], None
        problem = launch_request.boot_script_problem(self._settings, pool, name, made.traits)
        if problem:
            remedy = "shorten agent_url, or remove the provider from the pool's `from`"
            return [Finding(Level.WARNING, place, f"provider {name} cannot be used: {problem}", remedy)], None
        cheapest = min(offers, key=lambda one: one.price)
        if pool.max_price is not None and cheapest.price > pool.max_price:
            message = (
                f"max_price is ${pool.max_price:.2f}/h, but the cheapest offer of provider {name} is "
                f"{cheapest.key} at ${cheapest.price:.2f}/h"
            )
            remedy = "raise max_price, or remove the provider from its `from`"
            return [Finding(Level.WARNING, place, message, remedy)], None
        self.serves.add(pool.name)
        count = display.count(len(offers), "offer")
        message = f"provider {name} has {count}, the cheapest {cheapest.key} at ${cheapest.price:.2f}/h"
        if cheapest.price_source:
            message += f" ({cheapest.price_source})"
        findings = [Finding(Level.OK, place, message)]
        estimates = sum(one.price_source.startswith("estimate") for one in offers)
        if estimates:
            message = f"{estimates} of {len(offers)} prices at provider {name} are estimates; budgets use them"
            findings.append(Finding(Level.WARNING, place, message, f"run `runnerd prices refresh --provider {name}`"))
        return findings, self._sample(made, pool, offers[0])

    def _sample(self, made: base.Provisioner, pool: config.Pool, offer: base.Offer) -> base.CreateRequest:
        """Return the request of a launch, with a worthless token of the right length."""
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
        async with asyncio.timeout(TIMEOUT_S):
            return await work
    except TimeoutError:
        return [Finding(Level.ERROR, place, f"the check did not finish within {TIMEOUT_S:.0f} s", "check the network")]
    except (base.ProvisionError, errors.RunnerdError, OSError) as error:
        return [Finding(Level.ERROR, place, str(error) or type(error).__name__)]


def _state(settings: config.Config) -> list[Finding]:
    """Check the state directory and the database without changing them."""
    findings = []
    state = settings.state
    if settings.database is None or settings.secret is None:
        parent = state if state.exists() else state.parent
        if not parent.is_dir():
            findings.append(Finding(Level.ERROR, "state", f"{parent} is not a directory", f"create {parent}"))
        elif not os.access(parent, os.W_OK | os.X_OK):
            message = f"{parent} is not writable for user id {os.geteuid()}"
            # The check may run as another user than the daemon.
            findings.append(Finding(Level.WARNING, "state", message, "run the check as the daemon's user"))
    try:
        pending = store.pending(settings.database_url)
    except errors.StoreError as error:
        findings.append(Finding(Level.ERROR, "database", str(error)))
    else:
        if pending:
            new = "will be migrated" if _exists(settings) else "will be created"
            findings.append(Finding(Level.OK, "database", f"the schema {new} at the first start"))
    return findings


def _exists(settings: config.Config) -> bool:
    try:
        return store.current(settings.database_url) is not None
    except errors.StoreError:
        return False
