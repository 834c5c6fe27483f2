"""What is offered and what the quotas govern."""

from __future__ import annotations

from pathlib import Path

from provisioners import base, catalogue
from tests.clouds import azure
from tests.clouds.azure import lab


async def test_offers_come_by_market_then_in_the_order_of_regions_in_every_zone() -> None:
    one = lab.Lab("westeurope", "eastus")
    offers = await one.provisioner.offers(lab.SHAPE)
    places = list(dict.fromkeys((offer.market, offer.region) for offer in offers))
    assert places == [(market, region) for market in lab.SHAPE.markets for region in ("westeurope", "eastus")]
    first = [offer for offer in offers if offer.machine_type == lab.T4 and offer.region == "eastus"]
    assert {(offer.zone, offer.market) for offer in first} == {(z, m) for z in "123" for m in base.Market}
    assert {offer.account for offer in offers} == {one.arm.subscription}
    assert all(offer.price > 0 and offer.price_source for offer in offers)


async def test_what_the_subscription_may_not_have_is_not_offered() -> None:
    one = lab.Lab("eastus", "westus")
    one.arm.restrictions += [
        azure.Restriction(lab.T4, "westus"),
        azure.Restriction(lab.T4, "eastus", zones=("2",)),
    ]
    offers = [one_ for one_ in await one.provisioner.offers(lab.SHAPE) if one_.machine_type == lab.T4]
    assert {(offer.region, offer.zone) for offer in offers} == {("eastus", "1"), ("eastus", "3")}


async def test_sizes_are_asked_for_once_an_hour_and_ruled_out_only_where_azure_tells() -> None:
    one = lab.Lab("eastus")
    one.arm.faults.append(azure.Fault(operation="skus", code="AuthorizationFailed", status=403))
    one.arm.restrictions.append(azure.Restriction(lab.T4, "eastus"))
    assert any(offer.machine_type == lab.T4 for offer in await one.provisioner.offers(lab.SHAPE))
    await one.provisioner.offers(lab.SHAPE)
    await one.clock.sleep(301)
    assert not any(offer.machine_type == lab.T4 for offer in await one.provisioner.offers(lab.SHAPE))
    one.arm.restrictions.clear()
    await one.clock.sleep(3000)
    assert not any(offer.machine_type == lab.T4 for offer in await one.provisioner.offers(lab.SHAPE))
    await one.clock.sleep(601)
    assert any(offer.machine_type == lab.T4 for offer in await one.provisioner.offers(lab.SHAPE))
    assert [name for name, _ in one.arm.calls].count("skus") == 3


async def test_the_operator_s_prices_stand_above_the_catalogue_s() -> None:
    one = lab.Lab("eastus", prices={"eastus": {lab.T4: {"spot": 0.05}}})
    (offer,) = {
        offer
        for offer in await one.provisioner.offers(lab.SHAPE)
        if offer.machine_type == lab.T4 and offer.market is base.Market.SPOT and offer.zone == "1"
    }
    assert (offer.price, offer.price_source) == (0.05, "operator")


def test_nothing_to_offer_is_explained_with_the_nearest_thing() -> None:
    one = lab.Lab("eastus")
    assert "t4" in one.provisioner.why_none(base.Shape(gpu="t44", gpu_count=1))
    assert one.provisioner.why_none(lab.SHAPE) == ""


async def test_quotas_govern_families_markets_and_regions_and_tell_where_they_are_raised() -> None:
    one = lab.Lab("eastus")
    one.arm.quota |= {("eastus", "standardNCASv3_T4Family"): 8, ("eastus", "lowPriorityCores"): 3}
    await one.provisioner.create(one.request())
    quotas = {quota.pattern: quota for quota in await one.provisioner.quotas()}
    here = f"az/{one.arm.subscription}/eastus"
    family = next(quota for pattern, quota in quotas.items() if "Standard_NC4as_T4_v3" in pattern)
    assert (family.limit, family.used, family.unit) == (8, 4, base.Unit.VCPUS)
    assert family.pattern.endswith("/on-demand")
    assert "Standard_NC64as_T4_v3" in family.pattern
    spot = quotas[base.OfferPattern(f"{here}/*/*/spot")]
    assert (spot.limit, spot.used) == (3, 0)
    assert quotas[base.OfferPattern(f"{here}/*/*/*")].unit is base.Unit.INSTANCES
    assert all(quota.remedy.startswith("https://") for quota in quotas.values())


async def test_a_quota_that_is_reached_is_told_by_the_create_as_well() -> None:
    import pytest

    one = lab.Lab("eastus")
    one.arm.quota["eastus", "lowPriorityCores"] = 3
    with pytest.raises(base.ProvisionError) as caught:
        await one.provisioner.create(one.request(market=base.Market.SPOT))
    assert (caught.value.kind, caught.value.scope) == (
        base.Kind.QUOTA,
        f"az/{one.arm.subscription}/eastus/*/*/spot",
    )
    await one.provisioner.create(one.request())


async def test_capacity_that_is_used_up_comes_as_a_late_failure_and_frees_itself_with_a_deletion() -> None:
    import pytest

    one = lab.Lab("eastus")
    one.arm.capacity[f"eastus/1/{lab.T4}/*"] = 1
    first = await one.provisioner.create(one.request())
    with pytest.raises(base.ProvisionError) as caught:
        await one.provisioner.create(one.request())
    assert (caught.value.kind, caught.value.code) == (base.Kind.CAPACITY, "ZonalAllocationFailed")
    await one.provisioner.create(one.request(zone="2"))
    await one.provisioner.delete(first.ref)
    await one.clock.sleep(60)
    await one.provisioner.create(one.request())


def test_what_is_left_of_the_limits_is_read_from_every_answer() -> None:
    from provisioners.azure import rates

    headers = {
        "x-ms-ratelimit-remaining-resource": "Microsoft.Compute/PutVM3Min;239, Microsoft.Compute/PutVM30Min;1199",
        "x-ms-ratelimit-remaining-subscription-writes": "1199",
    }
    assert rates.remaining(headers) == {
        "Microsoft.Compute/PutVM3Min": 239,
        "Microsoft.Compute/PutVM30Min": 1199,
        "subscription-writes": 1199,
    }
    assert rates.remaining({"x-ms-ratelimit-remaining-resource": "nonsense"}) == {}


async def test_a_bucket_that_azure_says_is_empty_rests() -> None:
    from provisioners.azure import rates

    one = lab.Lab()
    buckets = rates.Limits(one.context)
    buckets.observe("GET", 200, {"x-ms-ratelimit-remaining-subscription-reads": "0"})
    assert min(buckets.remaining.values()) == 0
    before = one.clock.now()
    await buckets.reads.take()
    await buckets.deletes.take()
    assert one.clock.now() - before == 2.0


async def test_prices_are_renewed_from_the_public_list_without_our_credential(tmp_path: Path) -> None:
    one = lab.Lab("eastus", directory=str(tmp_path))
    before = {offer.key: offer.price for offer in await one.provisioner.offers(lab.SHAPE)}
    book = catalogue.load("azure")
    for machine in book.machines:
        for market in base.Market:
            price = book.price(machine, region="eastus", market=market)
            assert price is not None
            one.arm.prices["eastus", machine, market.value] = round(price.dollars * 0.9, 6)
    findings = await one.provisioner.refresh_prices()
    assert findings and not any(finding.level is base.Level.ERROR for finding in findings)
    again = one.make()
    await again.start()
    after = await again.offers(lab.SHAPE)
    assert after and all(offer.price == round(before[offer.key] * 0.9, 6) for offer in after)
    assert all("price list" in offer.price_source for offer in after)
