from __future__ import annotations

from pathlib import Path
from typing import Any

from runnerd.demo import cloud_calls

PRICES = {"a": 0.36, "b": 3.6}


def create(
    at: float, *, ref: str = "i-1", key: str = "k1", name: str = "m1", cloud: str = "a", **more: Any
) -> dict[str, Any]:
    return {
        "at": at,
        "cloud": cloud,
        "call": "create",
        "outcome": "created",
        "ref": ref,
        "key": key,
        "name": name,
        **more,
    }


def delete(at: float, ref: str = "i-1", cloud: str = "a") -> dict[str, Any]:
    return {"at": at, "cloud": cloud, "call": "delete", "outcome": "ok", "ref": ref}


def test_an_instance_costs_from_its_creation_to_its_first_deletion() -> None:
    record = cloud_calls.record([create(100.0), delete(200.0), delete(900.0)], PRICES)
    assert record.dollars(1000.0) == 100.0 / 3600.0 * 0.36


def test_an_instance_that_nobody_deleted_costs_until_now() -> None:
    assert cloud_calls.record([create(0.0, cloud="b")], PRICES).dollars(3600.0) == 3.6


def test_an_instance_that_left_by_itself_costs_until_it_was_seen_gone() -> None:
    record = cloud_calls.record(
        [create(0.0, cloud="b"), create(0.0, ref="i-2", key="k2", name="m2"), delete(5.0, "i-2")], PRICES
    )
    ended = record.ended({"m1": 1800.0, "m2": 3600.0})
    assert [one.ended_at for one in ended.machines.values()] == [1800.0, 5.0]


def test_one_attempt_with_two_instances_is_twice() -> None:
    assert cloud_calls.record([create(1.0), create(2.0, ref="i-2", name="m2")], PRICES).twice == 1


def test_one_name_with_two_instances_is_twice() -> None:
    assert cloud_calls.record([create(1.0), create(2.0, ref="i-1", key="k2", cloud="b")], PRICES).twice == 1


def test_a_repeated_request_that_found_its_instance_is_not_twice() -> None:
    again = {**create(2.0), "outcome": "existing"}
    record = cloud_calls.record([create(1.0, lost=True), again], PRICES)
    assert (record.twice, len(record.machines), record.unanswered) == (0, 1, ("m1",))


def test_a_refused_call_makes_no_instance() -> None:
    refused = {"at": 1.0, "cloud": "a", "call": "create", "outcome": "InsufficientCapacity", "key": "k", "name": "m"}
    record = cloud_calls.record([refused], PRICES)
    assert (len(record.machines), [one.code for one in record.refusals]) == (0, ["InsufficientCapacity"])


def test_a_log_without_its_last_line_end_and_a_log_that_is_not_there_are_read(tmp_path: Path) -> None:
    log = tmp_path / "a.jsonl"
    log.write_text(
        '{"at": 1, "call": "create", "outcome": "created", "ref": "i", "key": "k", "name": "m"}\n{"at": 2, "ca'
    )
    record = cloud_calls.read({"a": log, "b": tmp_path / "b.jsonl"}, PRICES)
    assert len(record.machines) == 1
