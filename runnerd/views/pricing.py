"""What offers cost and where their prices come from; asking the price lists anew."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Sequence
from typing import Any

from provisioners import base
from runnerd import config, daemon, errors
from runnerd.runtime import providers
from runnerd.views import lists

#: How long one provider's price list may take, in seconds.
TIMEOUT = 1500.0


def prices(daemon: daemon.Daemon, *, pool: str = "", provider: str = "") -> dict[str, Any]:
    """The offers of all pools, or of one pool or provider, in the order of the providers, the cheapest first.

    Raises :class:`errors.Refused` (404) for an unknown pool or provider.
    """
    runtime = daemon.runtime
    pools = [lists.known_pool(daemon, pool)] if pool else list(runtime.config.pools.values())
    if provider and provider not in runtime.providers:
        raise errors.Refused(_unknown(provider, list(runtime.providers)), status=404)
    found: dict[str, dict[str, Any]] = {}
    problems = []
    for one in pools:
        for name in one.from_:
            met = runtime.providers.get(name)
            if met is None or provider not in ("", name):
                continue
            known = met.known_offers(one)
            if not known:
                why = met.provisioner.why_none(one.shape(name), one.options.get(name, base.NO_OPTIONS))
                problems.append(
                    f"pool {one.name}, provider {name}: {met.problem or why or 'it has told no offers yet'}"
                )
            for offer in known:
                entry = found.setdefault(offer.key, {**_offer(offer), "pools": []})
                entry["pools"].append(one.name)
    place = {name: index for index, name in enumerate(runtime.providers)}
    ranked = sorted(found.values(), key=lambda one: (place[one["provider"]], one["price"], one["offer"]))
    return {"offers": ranked, "problems": problems, "now": runtime.clock.now()}


def _offer(offer: base.Offer) -> dict[str, Any]:
    return {
        "offer": offer.key,
        "provider": offer.provider,
        "region": offer.region,
        "zone": offer.zone,
        "machine_type": offer.machine_type,
        "market": offer.market.value,
        "gpus": offer.gpus,
        "cpus": offer.cpus,
        "price": offer.price,
        "price_source": offer.price_source,
    }


async def refresh_prices(daemon: daemon.Daemon, *, provider: str = "") -> dict[str, Any]:
    """Have the running provisioners ask their price lists anew, and the pools' offers after them.

    Raises :class:`errors.Refused` (404) for an unknown provider.
    """
    runtime = daemon.runtime
    asked = {name: one for name, one in runtime.providers.items() if not one.retired and provider in ("", name)}
    if not asked:
        raise errors.Refused(_unknown(provider, list(runtime.providers)), status=404)
    answers = await asyncio.gather(*(_renew(daemon, one) for one in asked.values()))
    runtime.wake()
    return renewal(dict(zip(asked, answers, strict=True)), "offers have the new prices from now on")


async def _renew(daemon: daemon.Daemon, one: providers.Provider) -> list[base.Finding]:
    if not has_list(one.provisioner):
        return [no_list(one.name)]
    found = await renew(one.name, one.provisioner, start=one.ensure_started)
    for pool in daemon.runtime.config.pools.values():
        if one.name in pool.from_:
            try:
                async with asyncio.timeout(TIMEOUT):
                    await one.refresh(pool, daemon.runtime.clock.now())
            except (base.ProvisionError, TimeoutError) as error:
                words = f"pool {pool.name} keeps its old offers: {error or 'no answer in time'}"
                found.append(base.Finding(base.Level.WARNING, f"providers.{one.name}", words))
    return found


async def renew(name: str, provisioner: base.Provisioner, *, start: Any) -> list[base.Finding]:
    """One provider's findings, whatever happens."""
    place = f"providers.{name}"
    try:
        async with asyncio.timeout(TIMEOUT):
            await start()
            return list(await provisioner.refresh_prices())
    except TimeoutError:
        return [base.Finding(base.Level.ERROR, place, f"its price list took longer than {TIMEOUT:.0f} s")]
    except Exception as error:
        return [base.Finding(base.Level.ERROR, place, str(error) or type(error).__name__)]


def has_list(provisioner: base.Provisioner) -> bool:
    """Whether a provisioner has a price list to ask."""
    return getattr(type(provisioner), "refresh_prices", None) is not base.Basics.refresh_prices


def no_list(name: str) -> base.Finding:
    words = "it has no price list: its prices stand in the configuration"
    return base.Finding(base.Level.OK, f"providers.{name}", words)


def renewal(found: dict[str, Sequence[base.Finding]] | dict[str, list[base.Finding]], effect: str) -> dict[str, Any]:
    """The findings as a document, and when they take effect."""
    findings = [
        {**dataclasses.asdict(each), "level": each.level.value} for answers in found.values() for each in answers
    ]
    return {
        "findings": findings,
        "errors": sum(each["level"] == base.Level.ERROR.value for each in findings),
        "effect": effect,
    }


def chosen(settings: config.Config, provider: str) -> list[config.Provider]:
    """The configured providers that are meant.  Raises :class:`errors.Refused` (404) for an unknown one."""
    if provider and provider not in settings.providers:
        raise errors.Refused(_unknown(provider, list(settings.providers)), status=404)
    return [one for one in settings.providers.values() if provider in ("", one.name)]


def _unknown(provider: str, known: list[str]) -> str:
    return f'there is no provider "{provider}"; providers are {", ".join(known)}'
