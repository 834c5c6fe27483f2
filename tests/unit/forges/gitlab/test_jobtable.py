from __future__ import annotations

from typing import Any

import pytest

from runnerd import model
from runnerd.forges import base
from runnerd.forges.gitlab import jobs, jobtable

QUEUE = model.Queue("gl", "acme", "gpu-t4")
E = base.JobEvent


def view(status: str, **fields: Any) -> jobs.JobView:
    row = {"id": 5, "status": status, "name": "train", "ref": "main", "tag_list": ["gpu-t4"], "pipeline": {"id": 3}}
    return jobs.read({**row, **fields}, 1)


WAITS = jobtable.Followed(5, 1, "acme/ml", QUEUE, run="3", name="train")
RUNS = jobtable.Followed(5, 1, "acme/ml", QUEUE, running=True, run="3", name="train")


@pytest.mark.parametrize(
    ("old", "status", "event", "followed"),
    [
        (None, "pending", E.QUEUED, WAITS),
        (None, "running", E.STARTED, RUNS),
        (WAITS, "running", E.STARTED, RUNS),
        (WAITS, "canceling", E.STARTED, RUNS),
        (WAITS, "success", E.COMPLETED, None),
        (RUNS, "failed", E.COMPLETED, None),
        (RUNS, "canceled", E.COMPLETED, None),
        (WAITS, "skipped", E.COMPLETED, None),
        (WAITS, "manual", None, None),
        (WAITS, "waiting_for_resource", None, None),
    ],
)
def test_a_job_goes_forward(
    old: jobtable.Followed | None, status: str, event: base.JobEvent | None, followed: jobtable.Followed | None
) -> None:
    change = jobtable.step(old, view(status), QUEUE, "acme/ml")
    assert change is not None and (change.event, change.new) == (event, followed)


@pytest.mark.parametrize(
    ("old", "status"),
    [(WAITS, "pending"), (RUNS, "running"), (RUNS, "pending"), (None, "success"), (None, "created")],
)
def test_what_is_known_or_late_changes_nothing(old: jobtable.Followed | None, status: str) -> None:
    assert jobtable.step(old, view(status), QUEUE, "acme/ml") is None


def test_a_job_of_nobody_is_not_followed() -> None:
    assert jobtable.step(None, view("pending"), None, "acme/ml") is None


def test_a_job_that_is_not_found_is_gone_on_the_second_strike() -> None:
    first = jobtable.missed(WAITS)
    assert first.event is None and first.new is not None
    second = jobtable.missed(first.new)
    assert (second.event, second.new) == (E.COMPLETED, None)


def test_a_found_job_has_its_strike_taken_back() -> None:
    struck = jobtable.missed(WAITS).new
    change = jobtable.step(struck, view("pending"), None, "acme/ml")
    assert change is not None and change.new == WAITS and change.event is None


def test_counts_follow_the_changes() -> None:
    table = jobtable.JobTable()
    table.put(WAITS)
    assert (dict(table.waiting(QUEUE)), table.running(QUEUE)) == ({"acme/ml": 1}, 0)
    table.put(RUNS)
    assert (dict(table.waiting(QUEUE)), table.running(QUEUE)) == ({}, 1)
    table.drop(5)
    table.drop(5)
    assert (dict(table.waiting(QUEUE)), table.running(QUEUE), table.of(1)) == ({}, 0, [])


def test_the_cursor_holds_the_running_jobs_as_they_will_be() -> None:
    table = jobtable.JobTable()
    table.put(RUNS)
    assert table.cursor(QUEUE) == {"running": {"5": 1}}
    ended = jobtable.Change(5, QUEUE, RUNS, None, E.COMPLETED)
    assert table.cursor(QUEUE, [ended]) == {"running": {}}
    assert jobtable.restore(table.cursor(QUEUE), QUEUE) == [jobtable.Followed(5, 1, "", QUEUE, running=True)]


@pytest.mark.parametrize("cursor", [{}, {"running": []}, {"running": {"x": 1}}, {"running": {"5": "1"}}])
def test_a_cursor_that_is_not_understood_is_empty(cursor: dict[str, Any]) -> None:
    assert jobtable.restore(cursor, QUEUE) == []


@pytest.mark.parametrize(
    ("fields", "conclusion"),
    [
        ({"status": "failed", "failure_reason": "script_failure"}, "failure"),
        ({"status": "failed", "failure_reason": "job_execution_timeout"}, "timed_out"),
        ({"status": "canceled"}, "cancelled"),
        ({"status": "success", "failure_reason": "unknown_failure"}, "success"),
        ({"status": "running"}, ""),
    ],
)
def test_conclusions_are_in_our_words(fields: dict[str, Any], conclusion: str) -> None:
    assert view(**fields).conclusion == conclusion


@pytest.mark.parametrize("row", [{}, {"id": 0, "status": "x"}, {"id": True, "status": "x"}, {"id": 5, "status": None}])
def test_a_row_without_id_or_status_is_refused(row: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="without id"):
        jobs.read(row, 1)


def test_odd_fields_count_as_absent() -> None:
    odd = jobs.read({"id": 5, "status": "pending", "tag_list": None, "pipeline": 3, "runner": [], "created_at": 7}, 1)
    assert (odd.tags, odd.pipeline, odd.runner, odd.created_at) == ((), 0, 0, 0.0)


def test_the_time_of_queueing_is_by_the_servers_clock() -> None:
    waiting = view("pending", created_at="2026-09-21T14:00:00.500Z", queued_duration=30.0)
    update = jobs.update(E.QUEUED, waiting, QUEUE, "acme/ml", server_now=1_790_000_000.0)
    assert update.at == 1_790_000_000.0 - 30.0
    assert (update.run, update.alias, update.runner_name) == ("3", "5", "")
