from __future__ import annotations

import asyncio
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from provisioners import base
from runnerd import errors, model
from runnerd.lifecycle import provisioning, unknown_creates
from runnerd.model import AttemptState, InstanceId, InstanceState, Reason
from runnerd.offers import admission, blocklist, selection
from runnerd.offers import request as launch_request
from tests.support.clocks import START, ManualClock, settle
from tests.support.fakes import (
    FULL,
    TOKENS,
    Place,
    ScriptedProvisioner,
    bought,
    instance,
    refusal,
    tried,
    unclear,
)
from tests.support.fakes import place as make_place

VM = InstanceId("vm-1")


def make_launcher(place: Place) -> provisioning.Launcher:
    books = admission.Admission(place.runtime)
    books.count()
    blocklist.Blocklist(place.runtime)
    chosen = selection.Selection(place.runtime, books)
    return provisioning.Launcher(place.runtime, books, chosen, bundle=lambda: "ab" * 32)


def make_selection(place: Place) -> selection.Selection:
    books = admission.Admission(place.runtime)
    books.count()
    return selection.Selection(place.runtime, books)


@pytest.fixture
def launcher(place: Place) -> provisioning.Launcher:
    place.put(instance("vm-1", "planned", repo="acme/ml"))
    return make_launcher(place)


def tries(place: Place, cloud: str = "sky") -> list[str]:
    return [request.offer.zone for name, request in place.clouds[cloud].calls if name == "create"]


# -- buying --------------------------------------------------------------------------------------------------------


async def test_the_attempt_is_durable_before_it_is_sent(launcher: provisioning.Launcher, place: Place) -> None:
    await place.clock.finish(launcher.request(VM))
    first, _ = place.book.commits
    assert {type(change).__name__ for change in first} == {"Instance", "Attempt", "Event"}
    (attempt,) = [change for change in first if isinstance(change, model.Attempt)]
    assert (attempt.state, attempt.sent_at, attempt.sends) == (AttemptState.REQUESTING, START, 1)
    row = place.row()
    assert (row.state, row.ref, row.price, row.running_at) == (InstanceState.BOOTING, f"i-{attempt.key}", 1.0, START)
    assert row.deadline == START + 300 + 600 + 7200 + 600


async def test_no_secret_is_stored_and_the_sent_request_carries_the_token(
    launcher: provisioning.Launcher, place: Place
) -> None:
    await place.clock.finish(launcher.request(VM))
    (request,) = [request for name, request in place.sky.calls if name == "create"]
    token = TOKENS.boot(request.key)
    assert token in request.user_data
    assert token not in repr(place.book.commits)
    assert TOKENS._mac("boot", request.key) not in repr(place.book.commits)
    assert request.tags[base.TAG_CONTROLLER] == "acme-ci" and request.tags[base.TAG_INSTANCE] == "vm-1"
    assert float(request.tags[base.TAG_DEADLINE]) == int(place.row().deadline)


async def test_a_refusal_blocks_the_offer_and_the_next_is_tried_at_once(
    launcher: provisioning.Launcher, place: Place
) -> None:
    place.sky.creates = [refusal(), refusal(base.Kind.QUOTA, scope=base.OfferPattern("sky/acct/east/*"))]
    await place.clock.finish(launcher.request(VM))
    assert tries(place) == ["a", "b"] and tries(place, "sea") == ["a"]
    assert place.clock.now() == START
    assert set(place.rows.blocks) == {"sky/acct/east/a/small/on-demand", "sky/acct/east/*"}
    assert (place.state(), place.row().provider, place.row().reason) == ("booting", "sea", Reason.NONE)
    assert [one.key for one in place.rows.attempts.values()] == [place.row().attempt]


async def test_nothing_is_bought_from_a_later_provider_before_the_first_has_told_its_offers(
    tmp_path: Path, clock: ManualClock
) -> None:
    place = make_place(tmp_path, clock)
    place.runtime.providers["sky"]._offers.clear()
    selected, pool = make_selection(place), place.runtime.config.pools["gpu"]
    assert {one.refusal for one in selected.rank(pool)} == {"waiting for the first offers from sky"}
    await clock.advance(60)
    assert any(one.open for one in selected.rank(pool))


async def test_a_pool_buys_nothing_dearer_than_it_pays(tmp_path: Path, clock: ManualClock) -> None:
    place = make_place(tmp_path, clock, pools={"gpu": {"max_price": 0.99}})
    place.put(instance("vm-1", "planned"))
    seen: list[model.Instance] = []
    place.rows.on_step.append(lambda _, new: seen.append(new))
    await clock.finish(make_launcher(place).request(VM))
    assert tries(place) == [] and "above the pool's max_price of $0.99" in seen[-1].detail


async def test_a_provider_that_takes_no_boot_script_of_that_size_is_passed_over(
    launcher: provisioning.Launcher, place: Place
) -> None:
    place.sky.traits = dataclasses.replace(place.sky.traits, user_data_limit=1000)
    await place.clock.finish(launcher.request(VM))
    assert tries(place) == [] and tries(place, "sea") == ["a"]


async def test_a_boot_script_that_no_provider_takes_is_refused_before_anything_is_bought(
    launcher: provisioning.Launcher, place: Place
) -> None:
    for cloud in place.clouds.values():
        cloud.traits = dataclasses.replace(cloud.traits, user_data_limit=1000)
    seen: list[model.Instance] = []
    place.rows.on_step.append(lambda _, new: seen.append(new))
    await place.clock.finish(launcher.request(VM))
    assert tries(place) == tries(place, "sea") == [] and not place.rows.attempts and not place.rows.blocks
    assert (seen[-1].state, seen[-1].reason) == (InstanceState.FAILED, Reason.NO_OFFER)
    assert "and sky takes 1000 as user data" in seen[-1].detail and "and sea takes 1000" in seen[-1].detail


async def test_one_instance_tries_only_so_many_offers_in_a_row(launcher: provisioning.Launcher, place: Place) -> None:
    # A transient refusal each time, blocked for no time at all by a clock that stands still would be tried for ever.
    place.sky.creates = [refusal(base.Kind.THROTTLED, retry_after=0.01) for _ in range(100)]
    place.clouds["sea"].creates = list(place.sky.creates)
    await place.clock.finish(launcher.request(VM))
    assert len(tries(place)) + len(tries(place, "sea")) == provisioning.MOST_TRIES


async def test_a_quota_of_the_account_turns_a_burst_to_the_next_provider(tmp_path: Path, clock: ManualClock) -> None:
    place = make_place(tmp_path, clock)
    place.put(instance("vm-1", "planned"), instance("vm-2", "planned"))
    quota = base.Quota("GPUs", base.OfferPattern("sky/acct/*/*/*/*"), base.Unit.GPUS, limit=1, used=0, as_of=START)
    place.runtime.providers["sky"].quotas = [quota]
    launcher = make_launcher(place)
    await clock.finish(asyncio.gather(launcher.request(VM), launcher.request(InstanceId("vm-2"))))
    assert sorted((len(tries(place)), len(tries(place, "sea")))) == [1, 1]


async def test_throttling_pauses_the_bucket_and_blocks_no_offer(launcher: provisioning.Launcher, place: Place) -> None:
    place.sky.creates = [refusal(base.Kind.THROTTLED, retry_after=7.0)]
    await place.clock.finish(launcher.request(VM))
    assert tries(place) == ["a", "a"] and place.clock.now() == START + 7
    assert not place.rows.blocks


async def test_when_no_offer_is_left_the_instance_is_given_up_with_the_reasons(
    launcher: provisioning.Launcher, place: Place
) -> None:
    for cloud in place.clouds.values():
        cloud.creates = [refusal(), refusal()]
    seen: list[model.Instance] = []
    place.rows.on_step.append(lambda _, new: seen.append(new))
    await place.clock.finish(launcher.request(VM))
    assert (seen[-1].state, seen[-1].reason) == (InstanceState.FAILED, Reason.NO_OFFER)
    assert "capacity" in seen[-1].detail and place.state() == "forgotten"


async def test_a_closed_provider_is_passed_over(launcher: provisioning.Launcher, place: Place) -> None:
    place.runtime.providers["sky"].problem = "listing failed: 500"
    await place.clock.finish(launcher.request(VM))
    assert tries(place) == [] and tries(place, "sea") == ["a"]


async def test_spot_in_all_places_comes_before_the_list_price(tmp_path: Path, clock: ManualClock) -> None:
    place = make_place(tmp_path, clock, pools={"gpu": {"market": "spot-then-on-demand"}})
    ranked = make_selection(place).rank(place.runtime.config.pools["gpu"])
    markets = [(one.offer.market.value, one.offer.provider) for one in ranked]
    assert markets == [(m, p) for m in ("spot", "on-demand") for p in ("sky", "sky", "sea", "sea")]


async def test_who_waits_for_the_bucket_asks_again_whether_it_is_still_wanted(
    launcher: provisioning.Launcher, place: Place
) -> None:
    place.runtime.providers["sky"].bucket("east").pause(8)
    work = asyncio.ensure_future(launcher.request(VM))
    await settle()
    await place.rows.step(VM, InstanceState.FAILED, reason=Reason.NOT_WANTED)
    await place.clock.finish(work)
    assert tries(place) == []


async def test_who_waits_for_the_bucket_looks_again_at_the_offer(launcher: provisioning.Launcher, place: Place) -> None:
    place.runtime.providers["sky"].bucket("east").pause(8)
    work = asyncio.ensure_future(launcher.request(VM))
    await settle()
    place.rows._blocks["sky"] = model.Block("sky", "auth", START + 600, START)
    await place.clock.finish(work)
    assert tries(place) == [] and tries(place, "sea") == ["a"]


async def test_who_waits_for_the_bucket_passes_over_a_provider_that_a_reload_is_replacing(
    launcher: provisioning.Launcher, place: Place
) -> None:
    place.runtime.providers["sky"].bucket("east").pause(8)
    work = asyncio.ensure_future(launcher.request(VM))
    await settle()
    del place.runtime.providers["sky"]
    await place.clock.finish(work)
    assert tries(place, "sea") == ["a"]


async def test_a_refusal_blocks_its_offer_while_a_reload_replaces_the_provider(
    launcher: provisioning.Launcher, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(request: base.CreateRequest) -> base.InstanceView:
        del place.runtime.providers["sky"]
        raise refusal(base.Kind.QUOTA)

    monkeypatch.setattr(place.sky, "create", refuse)
    await place.clock.finish(launcher.request(VM))
    assert set(place.rows.blocks) == {"sky/acct/east/a/small/on-demand"} and tries(place, "sea") == ["a"]


async def test_a_burst_does_not_spend_the_pace_of_an_api_on_an_offer_that_has_nothing(
    tmp_path: Path, clock: ManualClock
) -> None:
    place = make_place(tmp_path, clock, limits={"instances": 100})
    rows = [instance(f"vm-{number}", "planned") for number in range(40)]
    place.put(*rows)
    place.sky.traits = dataclasses.replace(place.sky.traits, create_rate=2.0, create_burst=1)
    place.sky.creates = [refusal(scope=base.OfferPattern("sky/*")) for _ in range(40)]
    launcher = make_launcher(place)
    await clock.finish(asyncio.gather(*(launcher.request(row.id) for row in rows)))
    assert len(tries(place)) == 1, "one refusal is enough for all who wait"
    assert len(tries(place, "sea")) == 40 and clock.now() - START < 2


async def test_a_long_pause_of_an_api_turns_to_other_offers_and_a_short_one_is_waited_for(
    launcher: provisioning.Launcher, place: Place
) -> None:
    pool = place.runtime.config.pools["gpu"]
    bucket = place.runtime.providers["sky"].bucket("east")
    bucket.pause(selection.PATIENCE_S)
    assert make_selection(place).rank(pool)[0].open
    bucket.pause(120)
    first = make_selection(place).rank(pool)[0]
    assert first.refusal == "rate-limited; retry in 2 min" and first.until == START + 120
    await place.clock.finish(launcher.request(VM))
    assert tries(place) == [] and tries(place, "sea") == ["a"]


async def test_a_provider_at_its_limit_does_not_keep_the_next_one_from_being_tried(
    tmp_path: Path, clock: ManualClock
) -> None:
    place = make_place(
        tmp_path, clock, providers={"sky": {"type": "fake", "limits": {"instances": 1}}, "sea": {"type": "fake"}}
    )
    place.put(instance("vm-1", "planned"), instance("vm-2", "planned"))
    launcher = make_launcher(place)
    place.runtime.providers["sky"].bucket("east").pause(5)
    await clock.finish(asyncio.gather(launcher.request(VM), launcher.request(InstanceId("vm-2"))))
    assert sorted((len(tries(place)), len(tries(place, "sea")))) == [1, 1]


async def test_a_pool_that_left_the_configuration_buys_nothing(tmp_path: Path, clock: ManualClock) -> None:
    place = make_place(tmp_path, clock)
    place.put(instance("vm-1", "planned", pool="old"))
    await clock.finish(make_launcher(place).request(VM))
    assert (place.state(), tries(place)) == ("forgotten", [])


# -- unclear answers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(unclear(), id="the provisioner does not know"),
        pytest.param(RuntimeError("a bug in a plugin"), id="an unexpected error"),
    ],
)
async def test_an_unclear_answer_stops_everything_for_that_instance(
    launcher: provisioning.Launcher, place: Place, error: Exception
) -> None:
    place.sky.creates = [error]
    await place.clock.finish(launcher.request(VM))
    assert (place.state(), tries(place), tries(place, "sea")) == ("unknown", ["a"], [])
    (attempt,) = place.rows.attempts.values()
    assert attempt.state is AttemptState.UNKNOWN
    assert not place.rows.blocks
    assert place.runtime.providers["sky"].listing_wanted.is_set()


async def test_a_call_that_hangs_becomes_unclear(
    launcher: provisioning.Launcher, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hang(request: base.CreateRequest) -> base.InstanceView:
        await asyncio.get_running_loop().create_future()
        raise AssertionError

    monkeypatch.setattr(place.sky, "create", hang)
    monkeypatch.setattr(provisioning, "CREATE_TIMEOUT_S", 0.01)
    await launcher.request(VM)
    assert place.state() == "unknown"


async def make_unknown(place: Place, *, applied: bool) -> unknown_creates.UnknownCreates:
    place.put(instance("vm-1", "planned"))
    launcher = make_launcher(place)
    place.sky.creates, place.sky.applied = [unclear()], applied
    await place.clock.finish(launcher.request(VM))
    place.sky.applied = False
    return unknown_creates.UnknownCreates(place.runtime, launcher)


async def test_what_the_listing_shows_is_taken(place: Place) -> None:
    creates = await make_unknown(place, applied=True)
    await creates.resolve(VM, wanted=True)
    assert (place.state(), len(tries(place))) == ("booting", 1)
    assert place.row().ref in place.sky.machines


async def look(place: Place, creates: unknown_creates.UnknownCreates, *, wanted: bool = True, times: int = 2) -> None:
    for _ in range(times):
        await place.clock.finish(creates.resolve(VM, wanted=wanted))
        await place.clock.advance(1)


async def test_absence_means_nothing_before_the_grace_nor_from_a_partial_listing(place: Place) -> None:
    creates = await make_unknown(place, applied=False)
    place.sky.traits = dataclasses.replace(place.sky.traits, idempotent_create=False)
    await look(place, creates, times=5)
    place.sky.partial = True
    await place.clock.advance(60)
    await look(place, creates, times=5)
    assert (place.state(), len(tries(place))) == ("unknown", 1)


async def test_one_complete_listing_without_it_is_not_enough(place: Place) -> None:
    creates = await make_unknown(place, applied=False)
    place.sky.traits = dataclasses.replace(place.sky.traits, idempotent_create=False)
    await place.clock.advance(60)
    await look(place, creates, times=1)
    assert place.state() == "unknown"


async def test_inside_the_window_the_same_request_is_sent_again_byte_for_byte(place: Place) -> None:
    creates = await make_unknown(place, applied=False)
    await look(place, creates, times=1)
    first, again = (request for name, request in place.sky.calls if name == "create")
    assert first == again
    assert place.state() == "booting"
    (attempt,) = place.rows.attempts.values()
    assert (attempt.sends, attempt.state) == (2, AttemptState.CREATED)


@pytest.mark.parametrize(
    ("traits", "wait"),
    [
        pytest.param({}, 400.0, id="outside the window"),
        pytest.param({"idempotent_create": False}, 60.0, id="a provider that does not recognise it"),
    ],
)
async def test_otherwise_the_attempt_has_failed_and_the_next_one_is_a_new_one(
    place: Place, traits: dict[str, Any], wait: float
) -> None:
    place.sky.traits = dataclasses.replace(place.sky.traits, **traits)
    creates = await make_unknown(place, applied=False)
    await place.clock.advance(wait)
    await look(place, creates)
    assert (place.state(), place.row().attempt, place.row().price) == ("planned", None, 0.0)
    assert len(tries(place)) == 1


async def test_what_is_not_wanted_any_more_is_not_sent_again(place: Place) -> None:
    creates = await make_unknown(place, applied=False)
    await place.clock.advance(60)
    await look(place, creates, wanted=False)
    assert (place.state(), len(tries(place))) == ("forgotten", 1)


async def test_a_refusal_of_the_second_send_says_nothing_of_the_first_while_that_may_still_arrive(place: Place) -> None:
    creates = await make_unknown(place, applied=False)
    place.sky.creates = [refusal(), refusal(), None]
    await look(place, creates, times=1)
    assert (place.state(), len(tries(place))) == ("unknown", 2), "another offer would risk two instances"
    assert place.rows.blocks, "the refusal is remembered all the same"
    await place.clock.advance(provisioning.LINGER_S)
    await look(place, creates, times=1)
    assert (place.state(), len(tries(place))) == ("planned", 3)


async def test_a_second_send_waits_for_the_bucket_too(place: Place) -> None:
    creates = await make_unknown(place, applied=False)
    place.runtime.providers["sky"].bucket("east").pause(20)
    await look(place, creates, times=1)
    assert place.clock.now() >= START + 20 and place.state() == "booting"


async def test_a_listing_that_fails_resolves_nothing(place: Place) -> None:
    creates = await make_unknown(place, applied=False)
    await place.clock.advance(60)
    place.sky.listing_error = refusal(base.Kind.AUTH)
    await look(place, creates, times=4)
    assert place.state() == "unknown" and "listing failed" in place.runtime.providers["sky"].problem


async def test_an_unclear_instance_of_an_unconfigured_provider_is_alarmed(place: Place) -> None:
    creates = await make_unknown(place, applied=False)
    del place.runtime.providers["sky"]
    await creates.resolve(VM, wanted=True)
    assert place.state() == "unknown" and "unresolved" in place.alarms()


# -- the state cannot be written -----------------------------------------------------------------------------------


async def test_nothing_is_sent_while_the_attempt_cannot_be_written(
    launcher: provisioning.Launcher, place: Place
) -> None:
    place.book.broken = FULL
    with pytest.raises(errors.StoreUnwritable):
        await place.clock.finish(launcher.request(VM))
    assert tries(place) == [] and place.state() == "planned"


async def test_a_request_that_cannot_be_composed_keeps_no_room_from_others(tmp_path: Path, clock: ManualClock) -> None:
    place = make_place(tmp_path, clock, limits={"instances": 2})
    place.put(instance("vm-1", "planned"), instance("vm-2", "planned"))
    books = admission.Admission(place.runtime)
    books.count()
    archives: list[str] = []
    launcher = provisioning.Launcher(
        place.runtime, books, selection.Selection(place.runtime, books), bundle=lambda: archives.pop()
    )
    for _ in range(3):
        with pytest.raises(IndexError):
            await clock.finish(launcher.request(VM))
    archives += ["ab" * 32, "ab" * 32]
    books.count()
    await clock.finish(asyncio.gather(launcher.request(VM), launcher.request(InstanceId("vm-2"))))
    assert (place.state(), place.state("vm-2")) == ("booting", "booting")


async def test_an_answer_that_could_not_be_written_is_resolved_like_a_lost_one(
    launcher: provisioning.Launcher, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = place.sky.create

    async def then_full(request: base.CreateRequest) -> base.InstanceView:
        view = await create(request)
        place.book.broken = FULL
        return view

    monkeypatch.setattr(place.sky, "create", then_full)
    with pytest.raises(errors.StoreUnwritable):
        await place.clock.finish(launcher.request(VM))
    assert place.state() == "requesting"
    place.book.broken = None
    creates = unknown_creates.UnknownCreates(place.runtime, launcher)
    await creates.lost(VM)
    assert place.state() == "unknown"
    await creates.resolve(VM, wanted=True)
    assert (place.state(), len(tries(place))) == ("booting", 1)


# -- sealing -------------------------------------------------------------------------------------------------------


def test_a_sealed_request_comes_back_as_it_was(place: Place) -> None:
    sky: ScriptedProvisioner = place.sky
    request = base.CreateRequest(
        model.AttemptKey("k"),
        "vm-1",
        sky.offer(market=base.Market.SPOT),
        f"#!/bin/sh\n{base.TOKEN_PLACEHOLDER}",
        {"b": "2", "a": "1"},
        START,
        lifetime=7200.0,
        disk=10,
        options={"image": {"id": 7}},
    )
    sealed = launch_request.seal(request)
    assert launch_request.seal(launch_request.unseal(sealed, base.TOKEN_PLACEHOLDER)) == sealed
    assert launch_request.unseal(sealed, "T").user_data == "#!/bin/sh\nT"
    assert json.loads(sealed)["offer"]["market"] == "spot"


def test_a_lifetime_covers_boot_wait_job_and_slack(place: Place) -> None:
    pool = place.runtime.config.pools["gpu"]
    assert pool.lifetime == pool.boot + pool.idle + pool.max_job + 600


async def test_a_second_order_for_the_same_instance_buys_nothing(launcher: provisioning.Launcher, place: Place) -> None:
    await place.clock.finish(asyncio.gather(launcher.request(VM), launcher.request(VM)))
    assert len(tries(place)) == 1


async def test_resolving_what_is_clear_does_nothing(place: Place) -> None:
    row = bought("vm-1", "booting")
    place.put(row, tried(row))
    await unknown_creates.UnknownCreates(place.runtime, make_launcher(place)).resolve(VM, wanted=True)
    assert place.sky.calls == []
