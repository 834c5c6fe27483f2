"""Prices of offers and their sources."""

from __future__ import annotations

from provisioners import base
from runnerd import read_model
from runnerd.runtime import lookup
from runnerd.views import documents


def prices(reading: read_model.ReadModel, *, pool: str = "", provider: str = "") -> documents.Prices:
    """Return the offers of all pools, or of one pool or provider, in the order of the providers, the cheapest first.

    Raises :class:`errors.Refused` (404) for an unknown pool or provider.
    """
    state = reading.state
    pools = [lookup.known_pool(reading.state.config, pool)] if pool else list(state.config.pools.values())
    if provider and provider not in state.providers:
        raise lookup.unknown_provider(provider, state.providers)
    found: dict[str, documents.PricedOffer] = {}
    problems = []
    for one in pools:
        for name in one.from_:
            met = state.providers.get(name)
            if met is None or provider not in ("", name):
                continue
            known = met.known_offers(one)
            if not known:
                why = met.provisioner.why_none(one.shape(name), one.options.get(name, base.NO_OPTIONS))
                problems.append(
                    f"pool {one.name}, provider {name}: {met.problem or why or 'it has reported no offers yet'}"
                )
            for offer in known:
                entry = found.setdefault(offer.key, _offer(offer))
                entry["pools"].append(one.name)
    place = {name: index for index, name in enumerate(state.providers)}
    ranked = sorted(found.values(), key=lambda one: (place[one["provider"]], one["price"], one["offer"]))
    return {"offers": ranked, "problems": problems, "now": state.clock.now()}


def _offer(offer: base.Offer) -> documents.PricedOffer:
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
        "pools": [],
    }
