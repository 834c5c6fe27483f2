"""Whose account it is: keys, roles of other accounts, several providers side by side; quotas and prices of it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from provisioners import aws, base
from provisioners.base import Kind
from tests.clouds import aws as clouds_aws
from tests.clouds import wire
from tests.unit.provisioners.aws.aws_world import World, request

ROLE = "arn:aws:iam::222233334444:role/runnerd"
ON_DEMAND = base.Shape(gpu="t4", gpu_count=1)


def assumed(world: World) -> set[bool]:
    """Whether EC2 was called with the role's keys."""
    return {one.access_key.startswith("ASIA") for one in world.cloud.calls if one.operation.startswith(("Desc", "Run"))}


async def test_a_role_of_another_account_is_assumed_and_used_for_everything(world: World) -> None:
    world.cloud.roles[ROLE] = clouds_aws.Role(external_id="acme")
    world.cloud.keys[clouds_aws.KEYS[0]].allowed = ("sts:*",)
    provider = await world.provider(role_arn=ROLE, external_id="acme")
    made = await provider.create(await request(provider))
    assert made.scope == "aws/222233334444/us-east-1/us-east-1a"
    assert assumed(world) == {True}
    assert world.sent("AssumeRole") == 1
    (found,) = [one for one in await provider.check() if "credentials" in one.message]
    assert "assumed-role/runnerd/runnerd-acme-ci" in found.message


async def test_a_roles_credentials_are_renewed_before_they_expire(world: World) -> None:
    world.cloud.roles[ROLE] = clouds_aws.Role(lasts=3600)
    provider = await world.provider(role_arn=ROLE)
    await provider.list_owned()
    world.clock.time += 4000
    listing = await provider.list_owned()
    assert listing.failures == {}
    assert world.sent("AssumeRole") == 2


@pytest.mark.parametrize("external_id", ["", "wrong"])
async def test_a_role_that_cannot_be_assumed_is_a_matter_of_credentials_and_buys_nothing(
    world: World, external_id: str
) -> None:
    wanted = await request(await world.provider())
    world.cloud.roles[ROLE] = clouds_aws.Role(external_id="acme")
    options = {"external_id": external_id} if external_id else {}
    provider = await world.provider(role_arn=ROLE, **options)
    with pytest.raises(base.ProvisionError) as caught:
        await provider.create(wanted)
    assert (caught.value.kind, caught.value.maybe_created) == (Kind.AUTH, False)
    assert world.sent("RunInstances") == 0


async def test_a_role_that_cannot_be_asked_for_in_time_leaves_nothing_unclear(world: World) -> None:
    wanted = await request(await world.provider())
    world.cloud.roles[ROLE] = clouds_aws.Role()
    world.fail(operation="AssumeRole", lost="after")
    provider = await world.provider(role_arn=ROLE)
    with pytest.raises(base.ProvisionError) as caught:
        await provider.create(wanted)
    assert (caught.value.kind, caught.value.maybe_created) == (Kind.TRANSIENT, False)


async def test_keys_are_read_by_reference_when_they_are_used(world: World) -> None:
    world.cloud.keys["AKIAOTHEREXAMPLE0000"] = clouds_aws.Identity(
        "arn:aws:iam::111122223333:user/other", session="token"
    )
    options = {"access_key": "env:ID", "secret_key": "env:SECRET", "session_token": "env:TOKEN"}
    world.secrets.update({"env:ID": "AKIAOTHEREXAMPLE0000", "env:SECRET": "s", "env:TOKEN": "token"})
    provider = await world.provider(**options)
    await provider.list_owned()
    assert {one.access_key for one in world.cloud.calls} == {"AKIAOTHEREXAMPLE0000"}


@pytest.mark.parametrize("call", ["create", "list"])
async def test_keys_that_were_replaced_are_read_anew_once_the_old_ones_are_refused(world: World, call: str) -> None:
    old, new = "AKIAOLDEXAMPLE000000", "AKIANEWEXAMPLE000000"
    world.cloud.keys[old] = clouds_aws.Identity("arn:aws:iam::111122223333:user/runnerd")
    world.secrets.update({"env:ID": old, "env:SECRET": "s"})
    provider = await world.provider(access_key="env:ID", secret_key="env:SECRET")
    assert await provider.offers(ON_DEMAND)
    wanted = await request(provider)
    world.cloud.keys[new] = world.cloud.keys.pop(old)
    world.secrets["env:ID"] = new
    if call == "create":
        with pytest.raises(base.ProvisionError) as caught:
            await provider.create(wanted)
        assert (caught.value.kind, caught.value.maybe_created) == (Kind.AUTH, False)
        await provider.create(wanted)
        assert len(world.cloud.created) == 1
    else:
        assert len((await provider.list_owned()).failures) == 1
        assert (await provider.list_owned()).failures == {}


async def test_a_secret_that_cannot_be_read_is_said_and_buys_nothing(world: World) -> None:
    wanted = await request(await world.provider())

    def locked(reference: str) -> str:
        raise ValueError(f"{reference}: no such variable")

    context = world.context()
    context = base.Context(
        context.name, context.controller, "", context.now, context.sleep, context.offload, secret=locked
    )
    options = {**world.options, "access_key": "env:ID", "secret_key": "env:SECRET"}
    provider = aws.Aws(context, options, clouds_aws.mount(world.cloud.handle))
    with pytest.raises(base.ProvisionError, match="env:ID") as caught:
        await provider.create(wanted)
    assert caught.value.maybe_created is False


async def test_no_credentials_at_all_are_a_matter_of_credentials(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = await request(await world.provider())
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", world.directory)
    mounted = clouds_aws.mount(world.cloud.handle)
    mounted._keys = None
    provider = aws.Aws(world.context(), world.options, mounted)
    with pytest.raises(base.ProvisionError) as caught:
        await provider.create(wanted)
    assert (caught.value.kind, caught.value.maybe_created) == (Kind.AUTH, False)


async def test_two_providers_of_the_same_type_know_nothing_of_each_other(world: World) -> None:
    other = World(str(world.directory) + "/other", account_id="555566667777")
    try:
        first, second = await world.provider("one"), await other.provider("two")
        made = [await one.create(await request(one)) for one in (first, second)]
        assert [one.scope.provider for one in made] == ["one", "two"]
        assert (len(world.cloud.created), len(other.cloud.created)) == (1, 1)
        world.settle()
        other.settle()
        for provider, view in ((first, made[0]), (second, made[1])):
            assert [one.ref for one in (await provider.list_owned()).views] == [view.ref]
    finally:
        other.cloud.close()


async def test_a_provider_works_over_a_socket_with_threads_and_an_endpoint(world: World) -> None:
    async def sleep(seconds: float) -> None:
        await asyncio.sleep(0)
        world.clock.time += seconds

    context = base.Context(
        "aws", "acme-ci", "", world.clock.now, sleep, secret={"env:A": clouds_aws.KEYS[0], "env:B": "x"}.__getitem__
    )
    async with wire.serve(world.cloud.handle) as url:
        options = {**world.options, "endpoint": url, "access_key": "env:A", "secret_key": "env:B"}
        provider = aws.Aws(context, options)
        await provider.start()
        wanted = await request(provider)
        world.fail(lost="after")
        with pytest.raises(base.ProvisionError) as caught:
            await provider.create(wanted)
        assert caught.value.maybe_created
        assert world.sent("RunInstances") == 1
        views = await asyncio.gather(*(provider.create(wanted) for _ in range(3)))
        assert len({one.ref for one in views}) == len(world.cloud.created) == 1
        world.settle()
        await provider.delete(views[0].ref)
        assert (await provider.end_reason(views[0].ref)).kind is base.EndKind.ENDED_BY_US
        await provider.close()


async def test_an_endpoint_where_nobody_listens_leaves_nothing_unclear(world: World) -> None:
    wanted = await request(await world.provider())
    context = world.context()
    world.secrets.update({"env:A": "AKIA", "env:B": "x"})
    options = {**world.options, "endpoint": "http://127.0.0.1:9", "access_key": "env:A", "secret_key": "env:B"}
    provider = aws.Aws(context, options)
    with pytest.raises(base.ProvisionError) as caught:
        await provider.create(wanted)
    assert (caught.value.kind, caught.value.maybe_created) == (Kind.TRANSIENT, False)
    await provider.close()


# -- quotas and prices -----------------------------------------------------------------------------------------------


async def test_quotas_tell_what_is_used_by_everybody(world: World) -> None:
    world.cloud.quotas["us-east-1", "L-DB2E81BA"] = 48
    provider = await world.provider()
    made = await request(provider, shape=ON_DEMAND)
    foreign = base.CreateRequest(
        "foreign", "foreign", made.offer, made.user_data, {base.TAG_CONTROLLER: "somebody-else"}, 2e9
    )
    await provider.create(made)
    await provider.create(foreign)
    world.settle()
    told = {one.pattern: one for one in await provider.quotas()}
    mine = told[base.OfferPattern("aws/own/us-east-1/*/g[0-9]*|gr[0-9]*|vt[0-9]*/on-demand")]
    assert (mine.limit, mine.used, mine.unit) == (48.0, 8.0, base.Unit.VCPUS)
    assert "L-DB2E81BA" in mine.remedy
    assert told[base.OfferPattern("aws/own/us-east-1/*/g[0-9]*|gr[0-9]*|vt[0-9]*/spot")].used == 0
    assert len(told) == 2 * 7


async def test_a_region_whose_quotas_are_not_told_leaves_those_of_the_others(world: World) -> None:
    world.fail(operation="ListServiceQuotas", region="us-east-1", code="AccessDeniedException", times=None)
    told = await (await world.provider()).quotas()
    assert {one.pattern.region for one in told} == {"us-west-2"}


async def test_no_quotas_at_all_is_an_error(world: World) -> None:
    world.cloud.denied.add("servicequotas:*")
    with pytest.raises(base.ProvisionError) as caught:
        await (await world.provider()).quotas()
    assert caught.value.kind is Kind.AUTH


async def test_renewed_prices_are_used_from_then_on_and_after_a_restart(world: World) -> None:
    def product(machine_type: str, dollars: float) -> str:
        rate = {"unit": "Hrs", "pricePerUnit": {"USD": str(dollars)}}
        attributes = {"instanceType": machine_type, "operatingSystem": "Linux", "regionCode": "us-west-2"}
        return json.dumps(
            {"product": {"attributes": attributes}, "terms": {"OnDemand": {"t": {"priceDimensions": {"d": rate}}}}}
        )

    book = aws.Aws(world.context(), world.options)._catalog
    known = {name: price for name in book.machines if (price := _known(book, name)) is not None}
    page = {"PriceList": [product(name, round(price * 1.1, 6)) for name, price in known.items()]}

    def handle(asked: wire.Request) -> wire.Answer:
        if asked.header("X-Amz-Target").endswith("GetProducts"):
            body = json.loads(asked.body)
            assert {one["Field"] for one in body["Filters"]} >= {"regionCode", "operatingSystem"}
            return wire.Answer(200, {"Content-Type": "application/x-amz-json-1.1"}, json.dumps(page).encode())
        return world.cloud.handle(asked)

    west = {**world.options, "regions": {"us-west-2": world.options["regions"]["us-west-2"]}}
    provider = aws.Aws(world.context(), west, clouds_aws.mount(handle))
    await provider.start()
    before = (await provider.offers(ON_DEMAND))[0]
    assert [one.level for one in await provider.refresh_prices()] == [base.Level.OK]
    after = (await provider.offers(ON_DEMAND))[0]
    assert after.price == pytest.approx(before.price * 1.1, rel=1e-3)
    assert after.price_source.startswith("price list")
    again = await world.provider(regions=west["regions"])
    assert (await again.offers(ON_DEMAND))[0].price == after.price


def _known(book: Any, name: str) -> float | None:
    price = book.price(name, region="us-west-2", market=base.Market.ON_DEMAND)
    return price.dollars if price is not None and book.offered(name, "us-west-2") else None
