"""Numbers that come from outside: what is none is refused, and no limit gives way to it."""

from __future__ import annotations

import datetime
import functools
import json
import math
from collections.abc import Callable
from typing import Any

import pytest

from provisioners import base, catalogue, options
from provisioners.aws import families as aws_families
from provisioners.aws import quotas as aws_quotas
from provisioners.aws import spot_prices as aws_spot
from provisioners.azure import errors as azure_errors
from provisioners.azure import images as azure_images
from provisioners.azure import quotas as azure_quotas
from provisioners.azure import rates as azure_rates
from provisioners.catalogue import renewed, shipped
from provisioners.support import numbers, units
from runnerd import errors
from runnerd.agent import client as agent_client
from runnerd.agent import nvidia, strict_json
from runnerd.forges.github import failures
from runnerd.forges.github.scalesets import messages, tally
from runnerd.forges.gitlab import jobs, rate_limits
from runnerd.kit import http, sdnotify, yamlfile
from runnerd.lifecycle import adoption, inventory, sweep_policy
from runnerd.offers import admission
from runnerd.web import admin
from tests.support import clocks, fakes
from tests.support.clocks import START
from tests.support.fakes import (
    Place,
)

#: What Python's float() or int() takes, or what looks like a number and is none.
NO_NUMBERS = ["nan", "inf", "-inf", "1e400", "NaN", "Infinity", "", "0x10", "1_000", "\u0661\u0662", "\u00b2"]
#: Those, and what is a number and has no meaning as a price, a time or a count.
MEANINGLESS = [*NO_NUMBERS, "-1"]
#: More than a float can hold.
HUGE = 10**400
#: What a document's value may be without being a number.
ODD_VALUES: list[Any] = [math.nan, math.inf, -math.inf, True, False, None, [], {}, HUGE, "nan"]
#: JSON that Python reads and no other reader does.
NO_JSON = ['{"a": NaN}', '{"a": Infinity}', '{"a": -Infinity}', '{"a": 1e400}', '{"a": [-1e999]}']
odd = functools.partial(pytest.mark.parametrize, ids=lambda value: f"{value!r:.20}")


# -- the parser ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [("0", 0.0), ("1.5", 1.5), (" 2 ", 2.0), ("+3", 3.0), (".5", 0.5), ("1e-05", 1e-05), ("1790000000", 1.79e9)],
)
def test_a_plain_number_is_read(text: str, value: float) -> None:
    assert numbers.real(text) == value == numbers.must(text)


@odd("value", [*MEANINGLESS, *ODD_VALUES, "1 2", "1e", "1,5", "0b1", "9" * 400])
def test_what_is_no_number_is_refused(value: object) -> None:
    assert numbers.real(value) is None
    assert numbers.whole(value) is None
    with pytest.raises(ValueError, match="is not a number from 0 to 1e"):
        numbers.must(value)


@pytest.mark.parametrize("value", ["1.5", 1.5, "1e3"])
def test_a_number_with_a_part_is_no_whole_one(value: object) -> None:
    assert numbers.real(value) is not None and numbers.whole(value) is None


@pytest.mark.parametrize("loads", [numbers.loads, strict_json.loads])
@pytest.mark.parametrize("text", NO_JSON)
def test_json_without_meaning_is_no_json(loads: Callable[[str], Any], text: str) -> None:
    assert json.loads(text)
    with pytest.raises(ValueError):
        loads(text)
    assert loads('{"a": [1, 2.5, -3e2, "NaN"]}') == {"a": [1, 2.5, -300.0, "NaN"]}


# -- tags ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def lister(place: Place) -> inventory.Inventory:
    return inventory.Inventory(place.runtime, adoption.Adoption(place.runtime))


def stray(place: Place, price: str, deadline: str, offer: base.OfferKey) -> None:
    """A machine with our tags and without a row."""
    tags = {
        base.TAG_INSTANCE: "vm-1",
        base.TAG_ATTEMPT: "key-vm-1",
        base.TAG_POOL: "gpu",
        base.TAG_PRICE: price,
        base.TAG_DEADLINE: deadline,
    }
    place.sky.machines["i-key-vm-1"] = base.InstanceView(
        "i-key-vm-1",
        "vm-1",
        base.Scope("sky/acct/east/a"),
        base.InstanceStatus.RUNNING,
        tags,
        START - 3600,
        offer=base.OfferKey.read(offer),
    )


@pytest.mark.parametrize("text", MEANINGLESS)
async def test_a_price_tag_that_cannot_be_read_is_taken_from_the_offers_and_the_limits_hold(
    lister: inventory.Inventory, place: Place, text: str
) -> None:
    provider = place.runtime.providers["sky"]
    [(_, _, offers), *_] = provider._offers.values()
    stray(place, text, text, offers[0].key)
    await lister.look(provider)
    await clocks.settle()
    row = place.row()
    assert row.adopted and row.price == offers[0].price > 0 and row.deadline == 0.0

    limits = type(place.runtime.config.limits)(dollars_per_hour=row.price * 1.5, dollars_per_day=row.price * 1.5)
    object.__setattr__(place.runtime.config, "limits", limits)
    asked = admission.Admission(place.runtime)
    asked.count()
    assert "would exceed" in asked.refusal(offers[0], pool="gpu", repo="", lifetime=3600.0)


async def test_a_price_that_no_offer_tells_yet_is_filled_in_once_one_does(
    lister: inventory.Inventory, place: Place
) -> None:
    provider = place.runtime.providers["sky"]
    known, provider._offers = provider._offers, {}
    [(_, _, offers), *_] = known.values()
    stray(place, "nan", "nan", base.OfferKey(f"sky/acct/west/z/{offers[0].machine_type}/spot"))
    await lister.look(provider)
    assert place.row().price == 0.0
    provider._offers = known
    await lister.look(provider)
    assert place.row().price == max(one.price for one in offers if one.machine_type == offers[0].machine_type)
    assert not place.errors


@pytest.mark.parametrize("text", MEANINGLESS)
async def test_a_sweep_takes_no_odd_tag_for_a_deadline(text: str) -> None:
    view = base.InstanceView(
        "i-1",
        "vm-1",
        base.Scope("sky/acct/east/a"),
        base.InstanceStatus.RUNNING,
        {base.TAG_DEADLINE: text, base.TAG_PRICE: text},
        START,
    )
    found = sweep_policy._instance(view, None)
    assert (found["deadline"], found["price"]) == (0.0, 0.0)
    assert sweep_policy.spare_instance(found, START + 1e9)


@pytest.mark.parametrize("price", [math.nan, math.inf, -1.0])
def test_a_stored_price_that_is_no_number_is_unknown(place: Place, price: float) -> None:
    row = fakes.bought("vm-1", "busy", price=price)
    place.rows.load(instances=[row], attempts=[], registrations=[], jobs=[], blocks=[])
    assert place.row().price == 0.0


@pytest.mark.parametrize("price", [math.nan, math.inf, -1.0])
async def test_an_offer_whose_price_is_no_number_is_not_bought(place: Place, price: float) -> None:
    provider, pool = place.runtime.providers["sky"], place.runtime.config.pools["gpu"]
    good = place.sky.offer("a", base.Market.SPOT)
    bad = base.Offer(**{name: getattr(good, name) for name in good.__slots__} | {"price": price, "zone": "b"})

    async def offered(*_: Any) -> list[base.Offer]:
        return [bad, good]

    place.sky.offers = offered  # type: ignore[method-assign, assignment]
    await provider.refresh(pool, START)
    assert provider.known_offers(pool) == [good]


# -- configuration -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [".nan", ".inf", "-.inf", "1e400", "-1e999", "0x10", "1_000", "NaN", "Infinity"])
def test_no_scalar_of_the_file_becomes_a_number_that_is_none(text: str) -> None:
    value = yamlfile.parse(f"a: {text}\n").data["a"]
    assert isinstance(value, str)
    for read in (units.duration, units.size, units.dollars):
        with pytest.raises(ValueError):
            read(value)


@odd("value", [*MEANINGLESS, *(one for one in ODD_VALUES if one is not False)])
def test_no_unit_reads_what_is_no_number(value: object) -> None:
    for read in (units.duration, units.size, units.dollars):
        with pytest.raises(ValueError):
            read(value)


@odd("value", [one for one in [*MEANINGLESS, *ODD_VALUES] if one is not None])
def test_no_option_of_a_provider_reads_what_is_no_number(value: object) -> None:
    reader = options.Reader({"a": value, "b": value, "c": value, "d": value, "e": [value, value]})
    assert reader.number("a", 7.0) == 7.0
    assert reader.whole("b", 7) == 7
    assert reader.seconds("c", 7.0) == 7.0
    assert reader.size("d", 7) == 7
    assert reader.span("e", options.Span(1.0, 2.0)) == options.Span(1.0, 2.0)
    assert {problem[0] for problem in reader.problems} == set("abcde")


@pytest.mark.parametrize("text", ["\u0661s", "999999999999d", "9" * 12 + "TiB"])
def test_no_option_is_longer_or_larger_than_can_be_meant(text: str) -> None:
    reader = options.Reader({"a": text, "b": text})
    assert (reader.seconds("a", 7.0), reader.size("b", 7)) == (7.0, 7)
    assert len(reader.problems) == 2


# -- prices --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [one for one in MEANINGLESS if one])
def test_a_shipped_price_that_is_no_number_is_an_error_of_the_file(text: str) -> None:
    for cell in (text, f"1.5/{text}"):
        with pytest.raises(ValueError):
            shipped._pair(cell)


@odd("value", [*MEANINGLESS, *(one for one in ODD_VALUES if one is not None)])
def test_a_renewed_price_that_is_no_number_is_not_used(value: object) -> None:
    with pytest.raises(ValueError, match="is not a price"):
        renewed._dollars(value)


# -- forges --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", NO_JSON)
def test_an_answer_of_a_forge_with_such_a_number_is_no_answer(text: str) -> None:
    with pytest.raises(errors.ForgeUnavailable, match="expected JSON"):
        http.Response(200, {}, text.encode()).json()


@pytest.mark.parametrize("text", MEANINGLESS)
def test_no_header_of_a_forge_asks_for_a_pause_without_end(text: str) -> None:
    assert failures.seconds(text, 60.0) == 60.0
    assert rate_limits.requested_backoff({"retry-after": text, "ratelimit-reset": text}, None, START) == 60.0


@odd("value", [*MEANINGLESS, *ODD_VALUES, 1.5, -1])
def test_no_statistics_of_a_scale_set_count_what_is_no_number(value: object) -> None:
    assert messages.Statistics.read({"totalAssignedJobs": value}) is None
    found = messages.Statistics.read({"totalAssignedJobs": 3, "totalRunningJobs": value})
    assert found is not None and (found.assigned, found.running) == (3, 0)


@odd("value", [*MEANINGLESS, *ODD_VALUES])
def test_no_kept_count_of_a_scale_set_is_taken_up_that_is_no_number(place: Place, value: object) -> None:
    count = tally.Tally(place.clock)
    count.restore({"waiting": value, "running": value, "as_of": value}, [])
    assert count.remember() == {"waiting": 0, "running": 0, "as_of": 0.0}


@odd("value", [*MEANINGLESS, *ODD_VALUES, -1])
def test_no_wait_of_a_gitlab_job_is_taken_that_is_no_number(value: object) -> None:
    assert jobs.read({"id": 1, "status": "pending", "queued_duration": value}, 1).queued_for is None


# -- clouds --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", NO_NUMBERS)
def test_no_header_of_azure_is_a_pause_or_a_count_that_is_no_number(text: str) -> None:
    assert azure_errors.pause_of({"Retry-After": text}) is None
    headers = {
        "x-ms-ratelimit-remaining-resource": f"Microsoft.Compute/PutVM3Min;{text}",
        "x-ms-ratelimit-remaining-subscription-writes": text,
    }
    assert azure_rates.remaining(headers) == {}
    assert azure_images.newest([f"1.{text}", "1.2"]) == "1.2"


class Pages:
    """AWS, with one answer to everything."""

    def __init__(self, *rows: dict[str, Any]) -> None:
        self.rows = rows

    async def pages(self, *_: Any, **__: Any) -> tuple[dict[str, Any], ...]:
        return self.rows


@odd("value", [*MEANINGLESS, *ODD_VALUES])
async def test_no_ceiling_and_no_spot_price_of_aws_is_taken_that_is_no_number(value: object) -> None:
    [code, *_] = [group.code for group in aws_families.GROUPS]
    assert await aws_quotas.ceilings(Pages({"QuotaCode": code, "Value": value}), "r") == {}  # type: ignore[arg-type]
    moment = datetime.datetime.fromtimestamp(START, datetime.UTC)
    row = {"AvailabilityZone": "a", "InstanceType": "t", "Timestamp": moment, "SpotPrice": value}
    prices = aws_spot.SpotPrices(Pages(row), now=lambda: START)  # type: ignore[arg-type]
    await prices.refresh("r", ["t"])
    assert not prices._prices


@odd("value", [*NO_NUMBERS, *ODD_VALUES])
def test_no_ceiling_of_azure_is_taken_that_is_no_number(value: object) -> None:
    usage = {"name": {"value": azure_quotas.MACHINES}, "limit": value, "currentValue": 1}
    assert not list(
        azure_quotas.read(
            [usage], provider="p", subscription="s", region="r", catalog=catalogue.load("azure"), now=START
        )
    )


# -- commands ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", MEANINGLESS)
def test_no_command_takes_what_is_no_number(text: str) -> None:
    with pytest.raises(errors.Refused, match='"since" must be a number'):
        admin._number({"since": text}, "since", 0.0)
    with pytest.raises(errors.Refused, match='"limit" must be a whole number'):
        admin._whole({"limit": text}, "limit", 200)


# -- the host and the agent ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", MEANINGLESS)
def test_no_watchdog_is_fed_at_a_pace_that_is_no_number(text: str) -> None:
    assert sdnotify.Notify({"WATCHDOG_USEC": text}).watchdog == 0.0


@pytest.mark.parametrize("text", MEANINGLESS)
def test_no_reading_of_a_gpu_is_told_that_is_no_number(text: str) -> None:
    assert nvidia.used(f"{text}, 1, 2\n50, 1, 2") == nvidia.used("50, 1, 2")


@odd("value", ODD_VALUES)
def test_no_agent_waits_for_a_time_that_is_no_number(value: object) -> None:
    with pytest.raises(ValueError):
        agent_client.clamp(value)
    with pytest.raises(agent_client.Unreachable):
        agent_client.Assignment.read({"action": "wait", "after": value})
