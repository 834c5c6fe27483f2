"""Decoding of the queue's messages: what is understood is kept, the rest never blocks."""

from __future__ import annotations

import json
from typing import Any

import pytest

from runnerd.forges import base
from runnerd.forges.github.scalesets import messages
from tests.unit.forges.github import gh_lab

QUEUE = gh_lab.spec().queue
WEB = "https://github.com"


def inner(kind: str = "JobAssigned", **fields: Any) -> dict[str, Any]:
    return {
        "messageType": kind,
        "runnerRequestId": 0,
        "repositoryName": "ml",
        "ownerName": "acme",
        "jobId": "a-1",
        "jobDisplayName": "train",
        "workflowRunId": 77,
        "requestLabels": ["gpu-t4"],
        "queueTime": "2026-11-23T21:50:45.1234567Z",
        "runnerAssignTime": "0001-01-01T00:00:00Z",
        "finishTime": "2026-11-23T22:50:45Z",
        **fields,
    }


def outer(*entries: Any, id: Any = 5, **fields: Any) -> dict[str, Any]:
    body = {"messageId": id, "messageType": "RunnerScaleSetJobMessages", "body": json.dumps(entries)}
    return {**body, "statistics": {"totalAssignedJobs": 3, "totalRunningJobs": 1}, **fields}


def read(value: dict[str, Any]) -> messages.Message:
    message = messages.decode(QUEUE, value, web=WEB)
    assert message is not None
    return message


def test_a_doubly_encoded_message_tells_jobs_and_counts() -> None:
    message = read(outer(inner(), inner("JobStarted", runnerName="m1", jobId="a-2")))
    assert message.statistics == messages.Statistics(assigned=3, running=1)
    first, second = (job.update for job in message.jobs)
    assert (first.event, first.repo, first.run, first.name, first.alias) == (
        base.JobEvent.QUEUED,
        "acme/ml",
        "77",
        "train",
        "a-1",
    )
    assert first.at == pytest.approx(1795470645.123456, abs=0.001)
    assert first.url == "https://github.com/acme/ml/actions/runs/77"
    assert (second.event, second.runner_name, second.at) == (base.JobEvent.STARTED, "m1", 0.0)


@pytest.mark.parametrize(
    ("result", "runner", "event", "conclusion"),
    [
        ("succeeded", "m1", base.JobEvent.COMPLETED, "success"),
        ("Failed", "m1", base.JobEvent.COMPLETED, "failure"),
        ("canceled", "m1", base.JobEvent.COMPLETED, "cancelled"),
        ("canceled", "", base.JobEvent.ASSIGNMENT_TIMEOUT, "cancelled"),
        ("Canceled", None, base.JobEvent.ASSIGNMENT_TIMEOUT, "cancelled"),
        ("brandNew", "m1", base.JobEvent.COMPLETED, "brandnew"),
        (None, "m1", base.JobEvent.COMPLETED, ""),
    ],
)
def test_a_completion_without_a_runner_that_was_cancelled_is_a_lapse(
    result: str | None, runner: str | None, event: base.JobEvent, conclusion: str
) -> None:
    [job] = read(outer(inner("JobCompleted", result=result, runnerName=runner))).jobs
    assert (job.update.event, job.update.conclusion) == (event, conclusion)


def test_unknown_kinds_are_passed_over_in_silence() -> None:
    message = read(outer(inner("JobDancing"), inner()))
    assert len(message.jobs) == 1
    assert not message.problems


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(outer(body="{not json"), id="body-not-json"),
        pytest.param(outer(body="[" * 100_000), id="body-nested-too-deep"),
        pytest.param(outer(body='{"a": 1}'), id="body-an-object"),
        pytest.param(outer(body=17), id="body-a-number"),
        pytest.param(outer(5, None, "x"), id="entries-no-objects"),
        pytest.param(outer(inner(workflowRunId=None)), id="no-run"),
        pytest.param(outer(inner(ownerName=5)), id="owner-a-number"),
        pytest.param(outer(inner(), messageType="SomethingElse"), id="another-message-type"),
    ],
)
def test_a_poisonous_message_is_told_and_can_still_be_acknowledged(value: dict[str, Any]) -> None:
    message = read(value)
    assert message.id == 5
    assert message.problems
    assert not message.jobs


def test_what_is_sound_beside_a_damaged_entry_is_kept() -> None:
    message = read(outer(inner(workflowRunId="x"), inner(requestLabels=None, runnerRequestId="y")))
    assert len(message.jobs) == 1 and len(message.problems) == 1


@pytest.mark.parametrize("body", [None, ""])
def test_an_empty_body_carries_counts_alone(body: str | None) -> None:
    message = read(outer(body=body))
    assert not message.jobs and not message.problems
    assert message.statistics is not None


@pytest.mark.parametrize("statistics", [None, [], {}, {"totalAssignedJobs": "3"}])
def test_counts_that_cannot_be_read_are_no_counts(statistics: Any) -> None:
    assert read(outer(statistics=statistics)).statistics is None


@pytest.mark.parametrize("id", [None, "5", True, 1.5])
def test_a_message_without_an_id_is_no_message(id: Any) -> None:
    assert messages.decode(QUEUE, outer(id=id), web=WEB) is None
