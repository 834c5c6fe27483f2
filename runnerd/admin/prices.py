"""Ask the providers' price lists anew, in the running daemon or without one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence

from provisioners import base
from runnerd import config
from runnerd.admin import documents
from runnerd.kit import display
from runnerd.runtime import lookup, providers, shared

#: How long one provider's price list may take, in seconds.
TIMEOUT_S = 1500.0


async def refresh(runtime: shared.Runtime, *, provider: str = "") -> documents.Renewal:
    """Have the running provisioners ask their price lists anew, and the pools' offers after them.

    Raises :class:`errors.Refused` (404) for an unknown provider.
    """
    asked = {name: one for name, one in runtime.providers.items() if not one.retired and provider in ("", name)}
    if not asked:
        raise lookup.unknown_provider(provider, runtime.providers)
    answers = await asyncio.gather(*(_renew(runtime, one) for one in asked.values()))
    runtime.wake()
    return renewal(dict(zip(asked, answers, strict=True)), "the new prices apply from now on")


async def _renew(runtime: shared.Runtime, one: providers.Provider) -> list[base.Finding]:
    if not has_list(one.provisioner):
        return [no_list(one.name)]
    found = await renew(one.name, one.provisioner, start=one.ensure_started)
    for pool in runtime.config.pools.values():
        if one.name in pool.from_:
            try:
                async with asyncio.timeout(TIMEOUT_S):
                    await one.refresh(pool, runtime.clock.now())
            except (base.ProvisionError, TimeoutError) as error:
                message = f"pool {pool.name} keeps its old offers: {error or 'no answer in time'}"
                found.append(base.Finding(base.Level.WARNING, f"providers.{one.name}", message))
    return found


async def renew(
    name: str, provisioner: base.Provisioner, *, start: Callable[[], Awaitable[None]]
) -> list[base.Finding]:
    """Return one provider's findings; an error is one of them."""
    place = f"providers.{name}"
    try:
        async with asyncio.timeout(TIMEOUT_S):
            await start()
            return list(await provisioner.refresh_prices())
    except TimeoutError:
        return [base.Finding(base.Level.ERROR, place, f"its price list took longer than {display.span(TIMEOUT_S)}")]
    except Exception as error:
        return [base.Finding(base.Level.ERROR, place, str(error) or type(error).__name__)]


def has_list(provisioner: base.Provisioner) -> bool:
    """Return True when a provisioner has a price list."""
    return getattr(type(provisioner), "refresh_prices", None) is not base.Basics.refresh_prices


def no_list(name: str) -> base.Finding:
    words = "it has no price list: its prices are in the configuration"
    return base.Finding(base.Level.OK, f"providers.{name}", words)


def renewal(found: Mapping[str, Sequence[base.Finding]], effect: str) -> documents.Renewal:
    """Return the findings as a document, with the time from which the prices count."""
    findings: list[documents.Finding] = [
        {"level": each.level.value, "place": each.place, "message": each.message, "remedy": each.remedy}
        for answers in found.values()
        for each in answers
    ]
    return {
        "findings": findings,
        "errors": sum(each["level"] == base.Level.ERROR.value for each in findings),
        "effect": effect,
    }


def chosen(settings: config.Config, provider: str) -> list[config.Provider]:
    """Return the configured provider of that name, or all.  Raises :class:`errors.Refused` (404)."""
    if provider and provider not in settings.providers:
        raise lookup.unknown_provider(provider, settings.providers)
    return [one for one in settings.providers.values() if provider in ("", one.name)]
