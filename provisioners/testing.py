"""The contract suite: what runnerd relies on, as tests that any provisioner can be put to.

Subclass :class:`ProvisionerContract` in a test module, give it a ``harness`` fixture, and run it with pytest and
pytest-asyncio (``asyncio_mode = auto``).  The suite makes a handful of instances, each with a name of its own, and
deletes them.  It knows nothing of how a provisioner works inside.
"""

from __future__ import annotations

import asyncio
import itertools
import uuid
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from typing import Any, Protocol

import pytest

from provisioners import base

#: A boot script that stays for longer than any test.
STAYS = "#!/bin/sh\nexec sleep 600\n"
#: Looks at a provider before a test gives up on what it waits for.
_LOOKS = 200


class Harness(Protocol):
    """The provisioner under test, and what the suite needs to know of it."""

    #: What :meth:`make` gives its provisioners.
    context: base.Context
    #: Served by at least one offer.
    shape: base.Shape
    #: Options that ``validate`` accepts.
    options: Mapping[str, Any]
    #: A key of the options misspelt, and the right one.
    misspelt: tuple[str, str]

    def make(self) -> base.Provisioner:
        """Another provisioner over the same account, not started: as after a restart of the daemon."""
        ...

    async def settle(self, seconds: float) -> None:
        """Let that much time pass, in the time that ``context`` tells."""
        ...


class ProvisionerContract:
    """The promises, one test each."""

    @pytest.fixture
    def harness(self) -> Harness:
        """Overridden by the subclass."""
        raise NotImplementedError("give the suite a harness fixture")

    @pytest.fixture
    async def provisioner(self, harness: Harness) -> AsyncIterator[base.Provisioner]:
        """The provisioner under test, with nothing left behind afterwards."""
        made = harness.make()
        await made.start()
        yield made
        for view in (await made.list_owned()).views:
            await made.delete(view.ref)
        await made.close()

    @pytest.fixture
    async def request_(self, harness: Harness, provisioner: base.Provisioner) -> base.CreateRequest:
        """A request that can be served."""
        return await _request(harness, provisioner)

    def test_satisfies_the_protocol(self, harness: Harness) -> None:
        assert isinstance(harness.make(), base.Provisioner)

    def test_accepts_its_own_options(self, harness: Harness) -> None:
        assert type(harness.make()).validate(harness.options) == []

    def test_names_an_unknown_option_with_the_nearest_known_one(self, harness: Harness) -> None:
        wrong, right = harness.misspelt
        problems = type(harness.make()).validate({**harness.options, wrong: 1})
        assert len(problems) == 1
        assert problems[0].startswith(f"{wrong}: ")
        assert right in problems[0].removeprefix(f"{wrong}: ")

    async def test_offers_name_the_provider_and_fit_configured_scopes(
        self, harness: Harness, provisioner: base.Provisioner
    ) -> None:
        offers = await provisioner.offers(harness.shape)
        assert offers
        assert {one.provider for one in offers} == {harness.context.name}
        assert all(one.scope.within(provisioner.scopes()) for one in offers)
        assert {one.market for one in offers} <= set(harness.shape.markets)
        assert all(one.gpus >= harness.shape.gpu_count and one.price >= 0 for one in offers)
        assert len({one.key for one in offers}) == len(offers)

    async def test_offers_nothing_for_a_shape_that_no_machine_has(
        self, harness: Harness, provisioner: base.Provisioner
    ) -> None:
        assert await provisioner.offers(replace(harness.shape, gpu="no-such-gpu", gpu_count=1)) == []

    async def test_a_created_instance_is_listed_within_the_visibility_grace(
        self, harness: Harness, provisioner: base.Provisioner, request_: base.CreateRequest
    ) -> None:
        made = await provisioner.create(request_)
        await harness.settle(provisioner.traits.visibility_grace)
        listing = await provisioner.list_owned()
        assert listing.covers(request_.offer.scope)
        assert [one.ref for one in listing.views if one.name == request_.name] == [made.ref]

    async def test_every_view_of_an_instance_tells_the_same_facts(
        self, harness: Harness, provisioner: base.Provisioner, request_: base.CreateRequest
    ) -> None:
        asked = harness.context.now()
        made = await provisioner.create(request_)
        await harness.settle(provisioner.traits.visibility_grace)
        described = await provisioner.describe(made.ref)
        listed = _named(await provisioner.list_owned(), request_.name)
        assert described is not None and listed is not None
        for view in (made, described, listed):
            assert dict(view.tags) == dict(request_.tags)
            assert (view.ref, view.name, view.scope) == (made.ref, request_.name, request_.offer.scope)
            assert view.offer in ("", request_.offer.key)
            assert abs(view.created_at - asked) < 120

    async def test_the_same_request_twice_is_one_instance(
        self, harness: Harness, provisioner: base.Provisioner, request_: base.CreateRequest
    ) -> None:
        if not provisioner.traits.idempotent_create:
            pytest.skip("this provider knows no idempotent create")
        first, second = await provisioner.create(request_), await provisioner.create(request_)
        assert first.ref == second.ref
        assert await _count(harness, provisioner, request_.name) == 1

    async def test_the_same_request_twice_at_once_is_one_instance(
        self, harness: Harness, provisioner: base.Provisioner, request_: base.CreateRequest
    ) -> None:
        if not provisioner.traits.idempotent_create:
            pytest.skip("this provider knows no idempotent create")
        other = harness.make()
        await other.start()
        views = await asyncio.gather(*(one.create(request_) for one in (provisioner, other, provisioner)))
        await other.close()
        assert len({view.ref for view in views}) == 1
        assert await _count(harness, provisioner, request_.name) == 1

    async def test_different_requests_are_different_instances(
        self, harness: Harness, provisioner: base.Provisioner, request_: base.CreateRequest
    ) -> None:
        first = await provisioner.create(request_)
        second = await provisioner.create(await _request(harness, provisioner))
        assert first.ref != second.ref

    async def test_a_refused_request_is_a_definite_failure_and_leaves_nothing(
        self, harness: Harness, provisioner: base.Provisioner, request_: base.CreateRequest
    ) -> None:
        nowhere = replace(request_, offer=replace(request_.offer, machine_type="no-such-type"))
        with pytest.raises(base.ProvisionError) as caught:
            await provisioner.create(nowhere)
        assert caught.value.maybe_created is False
        assert caught.value.kind in (base.Kind.CONFIG, base.Kind.CAPACITY)
        assert await _count(harness, provisioner, request_.name) == 0

    async def test_nothing_is_found_under_an_unknown_handle(self, provisioner: base.Provisioner) -> None:
        assert await provisioner.describe("no-such-instance") is None
        assert (await provisioner.end_reason("no-such-instance")).kind is base.EndKind.UNKNOWN
        assert await provisioner.console_log("no-such-instance") is None

    async def test_deleting_an_unknown_handle_succeeds(self, provisioner: base.Provisioner) -> None:
        await provisioner.delete("no-such-instance")

    async def test_a_deleted_instance_ends_and_we_are_named_as_the_cause(
        self, harness: Harness, provisioner: base.Provisioner, request_: base.CreateRequest
    ) -> None:
        made = await provisioner.create(request_)
        await provisioner.delete(made.ref)
        view = await _gone(harness, provisioner, made.ref)
        reason = await provisioner.end_reason(made.ref)
        expected = {base.EndKind.ENDED_BY_US} if view is not None else {base.EndKind.ENDED_BY_US, base.EndKind.UNKNOWN}
        assert reason.kind in expected

    async def test_deleting_twice_succeeds(
        self, harness: Harness, provisioner: base.Provisioner, request_: base.CreateRequest
    ) -> None:
        made = await provisioner.create(request_)
        await asyncio.gather(provisioner.delete(made.ref), provisioner.delete(made.ref))
        await provisioner.delete(made.ref)
        await _gone(harness, provisioner, made.ref)
        await provisioner.delete(made.ref)

    async def test_no_end_is_claimed_of_a_living_instance(
        self, provisioner: base.Provisioner, request_: base.CreateRequest
    ) -> None:
        made = await provisioner.create(request_)
        assert (await provisioner.end_reason(made.ref)).kind is base.EndKind.UNKNOWN

    async def test_a_listing_is_complete_only_where_it_names_no_failure(
        self, provisioner: base.Provisioner, request_: base.CreateRequest
    ) -> None:
        await provisioner.create(request_)
        listing = await provisioner.list_owned()
        assert not listing.complete_scopes & listing.failures.keys()
        assert all(listing.covers(one) or one in listing.failures for one in provisioner.scopes())

    async def test_instances_of_another_controller_are_not_listed(
        self, harness: Harness, provisioner: base.Provisioner, request_: base.CreateRequest
    ) -> None:
        foreign = replace(request_, tags={**request_.tags, base.TAG_CONTROLLER: "another-controller"})
        made = await provisioner.create(foreign)
        count = await _count(harness, provisioner, request_.name)
        await provisioner.delete(made.ref)
        assert count == 0

    async def test_instances_outlive_the_provisioner(
        self, harness: Harness, provisioner: base.Provisioner, request_: base.CreateRequest
    ) -> None:
        made = await provisioner.create(request_)
        await provisioner.close()
        other = harness.make()
        await other.start()
        await harness.settle(other.traits.visibility_grace)
        described = await other.describe(made.ref)
        assert described is not None and described.status is not base.InstanceStatus.GONE
        assert dict(described.tags) == dict(request_.tags)
        assert await _count(harness, other, request_.name) == 1
        if other.traits.idempotent_create:
            assert (await other.create(request_)).ref == made.ref
        await other.delete(made.ref)
        await _gone(harness, other, made.ref)
        await other.close()
        await provisioner.start()

    @pytest.mark.parametrize("turns", [0, 1, 2, 5])
    async def test_a_create_cancelled_midway_leaves_at_most_one_discoverable_instance(
        self, harness: Harness, provisioner: base.Provisioner, request_: base.CreateRequest, turns: int
    ) -> None:
        task = asyncio.ensure_future(provisioner.create(request_))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await provisioner.close()
        other = harness.make()
        await other.start()
        assert await _count(harness, other, request_.name) <= 1
        if other.traits.idempotent_create:
            await other.create(request_)
            assert await _count(harness, other, request_.name) == 1
        await other.close()
        await provisioner.start()

    async def test_check_names_the_place_of_every_finding_and_buys_nothing(self, provisioner: base.Provisioner) -> None:
        findings = await provisioner.check()
        assert all(one.place and one.message for one in findings)
        assert not any(one.level is base.Level.ERROR for one in findings)
        assert all(one.remedy for one in findings if one.level is not base.Level.OK)
        assert (await provisioner.list_owned()).views == ()

    async def test_an_instance_ends_by_itself_at_its_deadline_where_that_is_promised(
        self, harness: Harness, provisioner: base.Provisioner, request_: base.CreateRequest
    ) -> None:
        if not provisioner.traits.self_end:
            pytest.skip("this provider ends nothing by itself")
        made = await provisioner.create(replace(request_, deadline=harness.context.now() + 1.0, lifetime=1.0))
        await harness.settle(1.0)
        await _gone(harness, provisioner, made.ref)
        assert (await provisioner.end_reason(made.ref)).kind in (base.EndKind.SELF_ENDED, base.EndKind.UNKNOWN)


_numbers = itertools.count(1)


async def _request(harness: Harness, provisioner: base.Provisioner) -> base.CreateRequest:
    name = f"contract-{next(_numbers)}-{uuid.uuid4().hex[:8]}"
    deadline = harness.context.now() + 900
    return base.CreateRequest(
        key=uuid.uuid4().hex,
        name=name,
        offer=(await provisioner.offers(harness.shape))[0],
        user_data=STAYS,
        tags={
            base.TAG_CONTROLLER: harness.context.controller,
            base.TAG_INSTANCE: name,
            base.TAG_POOL: "contract",
            base.TAG_ATTEMPT: "attempt-1",
            base.TAG_DEADLINE: str(int(deadline)),
            base.TAG_PRICE: "0.53",
            "team": "ml/research_1",
        },
        deadline=deadline,
        lifetime=900.0,
    )


def _named(listing: base.Listing, name: str) -> base.InstanceView | None:
    return next((one for one in listing.views if one.name == name), None)


async def _count(harness: Harness, provisioner: base.Provisioner, name: str) -> int:
    await harness.settle(provisioner.traits.visibility_grace)
    return sum(one.name == name for one in (await provisioner.list_owned()).views)


async def _gone(harness: Harness, provisioner: base.Provisioner, ref: str) -> base.InstanceView | None:
    """Wait for the end of an instance; its last view, None when the provider forgot it."""
    for _ in range(_LOOKS):
        view = await provisioner.describe(ref)
        if view is None or view.status is base.InstanceStatus.GONE:
            return view
        await harness.settle(0.05)
    raise AssertionError(f"{ref} does not end")
