"""Runs over REST: what became of jobs, re-runs, lapses, polling and the audit."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from runnerd import config, errors
from runnerd.forges import base
from runnerd.forges.github.rest import runs
from runnerd.kit import http
from tests.unit.forges.github import gh_lab
from tests.unit.forges.github.gh_lab import Reply, on_virtual_time
from tests.unit.forges.github.gh_service import Service

QUEUE = gh_lab.spec().queue
BROKEN = gh_lab.job(QUEUE, "acme/ml", "7", "train", runner_name="m1", aliases=("guid",))


def entry(id: int = 1, **fields: Any) -> dict[str, Any]:
    return {
        "id": id,
        "name": "train",
        "status": "completed",
        "conclusion": "failure",
        "labels": ["gpu-t4"],
        "runner_name": "m1",
        "created_at": "2020-01-01T00:00:00Z",
        **fields,
    }


def jobs(*entries: dict[str, Any]) -> Reply:
    return Reply(200, {"total_count": len(entries), "jobs": list(entries)})


def ended(attempt: int = 1, status: str = "completed") -> Reply:
    return Reply(200, {"id": 7, "status": status, "run_attempt": attempt})


@pytest.mark.parametrize(
    ("asked", "held", "expected"),
    [
        (["gpu-t4"], ["gpu-t4"], True),
        (["GPU-t4"], ["gpu-T4", "self-hosted"], True),
        (["gpu-t4", "big"], ["gpu-t4"], False),
        ([], ["gpu-t4"], False),
    ],
)
def test_a_job_fits_when_all_it_asks_for_is_there(asked: list[str], held: list[str], expected: bool) -> None:
    assert runs.fits(asked, held) is expected


@on_virtual_time
async def test_one_request_tells_all_jobs_of_a_run_and_ambiguity_tells_nothing(tmp_path: Path) -> None:
    lab = Service(tmp_path)
    listed = jobs(
        entry(1, completed_at="2026-11-23T21:50:45Z"),
        entry(2, name="twin", runner_name=None, status="queued", conclusion=None),
        entry(3, name="twin", runner_name="m9", status="in_progress", conclusion=None),
        entry(4, name="asks", status="waiting", conclusion=None, runner_name=None),
    )
    lab.script.on("GET", "/runs/7/jobs", listed)
    lab.script.on("GET", "/runs/8/jobs", Reply(404))
    asked = [
        BROKEN,
        gh_lab.job(QUEUE, "acme/ml", "7", "twin"),
        gh_lab.job(QUEUE, "acme/ml", "7", "asks"),
        gh_lab.job(QUEUE, "acme/ml", "7", "unknown"),
        gh_lab.job(QUEUE, "acme/ml", "8", "train"),
    ]
    [told] = await lab.client.job_states(asked)
    assert (told.event, told.conclusion, told.alias, told.name) == (base.JobEvent.COMPLETED, "failure", "guid", "train")
    assert told.key == BROKEN.key and told.at > 0
    assert lab.script.count("GET", "/runs/7/jobs") == 1


@pytest.mark.parametrize(
    ("run", "listed", "answer", "outcome"),
    [
        pytest.param(ended(status="in_progress"), jobs(entry()), None, base.RetryOutcome.LATER, id="run-goes-on"),
        pytest.param(ended(), jobs(entry()), Reply(201, {}), base.RetryOutcome.RETRIED, id="retried"),
        pytest.param(
            ended(),
            jobs(entry()),
            Reply(403, {"message": "The workflow run containing this job is already running"}),
            base.RetryOutcome.LATER,
            id="already-running",
        ),
        pytest.param(
            ended(),
            jobs(entry()),
            Reply(403, {"message": "This workflow run cannot be retried"}),
            base.RetryOutcome.REFUSED,
            id="cannot",
        ),
        pytest.param(Reply(404), jobs(), None, base.RetryOutcome.REFUSED, id="run-deleted"),
        pytest.param(ended(), jobs(entry(conclusion="success")), None, base.RetryOutcome.REFUSED, id="it-succeeded"),
        pytest.param(ended(), jobs(), None, base.RetryOutcome.REFUSED, id="job-unknown"),
        pytest.param(
            ended(2), jobs(entry(5, runner_name="m2")), None, base.RetryOutcome.RETRIED, id="was-run-again-before"
        ),
    ],
)
@on_virtual_time
async def test_a_retry_is_told_apart_by_run_job_and_words(
    tmp_path: Path, run: Reply, listed: Reply, answer: Reply | None, outcome: base.RetryOutcome
) -> None:
    lab = Service(tmp_path)
    lab.script.on("GET", "/actions/runs/7", run)
    lab.script.on("GET", "/actions/runs/7/jobs", listed)
    if answer is not None:
        lab.script.on("POST", "/actions/jobs/1/rerun", answer)
    assert await lab.client.retry(BROKEN) is outcome


@on_virtual_time
async def test_a_missing_permission_to_retry_is_an_error_with_the_remedy(tmp_path: Path) -> None:
    lab = Service(tmp_path)
    lab.script.on("GET", "/actions/runs/7", ended())
    lab.script.on("GET", "/actions/runs/7/jobs", jobs(entry()))
    lab.script.on("POST", "/rerun", Reply(403, {"message": "Resource not accessible by integration"}))
    with pytest.raises(errors.ForgeForbidden, match="Actions: read and write"):
        await lab.client.retry(BROKEN)


@pytest.mark.parametrize("applied", [True, False])
@on_virtual_time
async def test_a_lost_answer_to_a_retry_is_settled_by_the_attempt_and_never_sent_twice(
    tmp_path: Path, applied: bool
) -> None:
    lab = Service(tmp_path)
    attempts = {"now": 1}

    def rerun(_: http.Request) -> Reply:
        attempts["now"] += applied
        return Reply(lost=True)

    lab.script.on("GET", "/actions/runs/7", lambda _: ended(attempts["now"]))
    lab.script.on("GET", "/actions/runs/7/jobs", jobs(entry()))
    lab.script.on("POST", "/rerun-failed-jobs", rerun)
    if applied:
        assert await lab.client.retry(BROKEN, whole_run=True) is base.RetryOutcome.RETRIED
    else:
        with pytest.raises(errors.ForgeUnavailable):
            await lab.client.retry(BROKEN, whole_run=True)
    assert lab.script.count("POST", "/rerun-failed-jobs") == 1


# -- lapses ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("listed", [jobs(entry(conclusion="cancelled", name="train j1", runner_name=None)), Reply(404)])
@on_virtual_time
async def test_a_cancelled_run_ends_its_lapsed_jobs_with_one_request(tmp_path: Path, listed: Reply) -> None:
    lab = Service(tmp_path)
    lab.script.on("GET", "/runs/7/jobs", listed)
    async with lab.watching():
        await lab.ready()
        lab.say(1, *(lab.told("JobAssigned", f"j{n}", jobDisplayName="train j1") for n in range(5)), assigned=5)
        lapses = (lab.told("JobCompleted", f"j{n}", jobDisplayName="train j1", result="canceled") for n in range(5))
        lab.say(2, *lapses, assigned=0)
        await gh_lab.until(lambda: 2 in lab.acked)
        assert lab.waiting == 1
        await gh_lab.until(lambda: lab.waiting == 0, limit=10)
        await asyncio.sleep(300)
    assert lab.script.count("GET", "/runs/7/jobs") == 1
    assert lab.sink.events()[-1] is base.JobEvent.COMPLETED


@on_virtual_time
async def test_a_lapsed_job_whose_run_cannot_be_read_counts_for_its_grace(tmp_path: Path) -> None:
    lab = Service(tmp_path)
    lab.script.on("GET", "/runs/7/jobs", Reply(403, {"message": "Resource not accessible"}))
    async with lab.watching():
        await lab.ready()
        lab.say(1, lab.told("JobAssigned"), assigned=1)
        lab.say(2, lab.told("JobCompleted", result="canceled"), assigned=0)
        await gh_lab.until(lambda: 2 in lab.acked)
        await asyncio.sleep(500)
        assert lab.waiting == 1
        await asyncio.sleep(200)
        assert lab.waiting == 0
    assert lab.script.count("GET", "/runs/7/jobs") <= 8


# -- polling -----------------------------------------------------------------------------------------------------------


class Repository:
    """A repository whose runs and jobs a test sets."""

    def __init__(self, lab: Service, name: str = "acme/ml") -> None:
        self.runs: dict[str, list[int]] = {}
        self.jobs: dict[int, list[dict[str, Any]]] = {}
        self.broken = False
        lab.script.on("GET", f"/repos/{name}/actions/runs", self.answer)

    def answer(self, request: http.Request) -> Reply:
        if self.broken:
            return Reply(500)
        path, _, query = request.url.partition("?")
        if path.endswith("/jobs"):
            return jobs(*self.jobs.get(int(path.split("/")[-2]), []))
        status = dict(part.split("=") for part in query.split("&"))["status"]
        found = [{"id": id} for id in self.runs.get(status, [])]
        return Reply(200, {"total_count": len(found), "workflow_runs": found})


def queued(id: int = 1, **fields: Any) -> dict[str, Any]:
    return entry(id, status="queued", conclusion=None, runner_name=None, **fields)


def polling(directory: Path, **fields: Any) -> tuple[Service, Repository]:
    lab = Service(directory, mode=config.Mode.REST, repos=("acme/ml",), **fields)
    return lab, Repository(lab)


@on_virtual_time
async def test_a_job_that_waits_in_a_running_run_is_found(tmp_path: Path) -> None:
    lab, repository = polling(tmp_path)
    repository.runs = {"in_progress": [7]}
    repository.jobs = {7: [queued(1), entry(2, status="in_progress", conclusion=None), queued(3, labels=["big"])]}
    async with lab.watching():
        await gh_lab.until(lambda: lab.client.demand(QUEUE).known)
        demand = lab.client.demand(QUEUE)
    assert (demand.waiting, demand.running, demand.repos) == (1, 1, {"acme/ml": 1})
    assert sorted(lab.sink.events()) == [base.JobEvent.QUEUED, base.JobEvent.STARTED]


@on_virtual_time
async def test_a_job_is_not_dropped_because_one_listing_lacks_it(tmp_path: Path) -> None:
    lab, repository = polling(tmp_path)
    repository.runs = {"queued": [7]}
    repository.jobs = {7: [queued(1)]}
    async with lab.watching():
        await gh_lab.until(lambda: lab.waiting == 1)
        repository.runs = {}
        await asyncio.sleep(120)
        assert lab.waiting == 1, "its run still says that it waits"
        repository.jobs = {7: []}
        await asyncio.sleep(35)
        assert lab.waiting == 1
        await asyncio.sleep(60)
        assert lab.waiting == 0


@on_virtual_time
async def test_facts_are_told_once_each(tmp_path: Path) -> None:
    lab, repository = polling(tmp_path)
    repository.runs = {"queued": [7]}
    repository.jobs = {7: [queued(1)]}
    async with lab.watching():
        await asyncio.sleep(120)
        repository.jobs = {7: [entry(1, status="in_progress", conclusion=None)]}
        await asyncio.sleep(120)
        repository.runs, repository.jobs = {}, {7: [entry(1, conclusion="success")]}
        await asyncio.sleep(120)
    assert lab.sink.events() == [base.JobEvent.QUEUED, base.JobEvent.STARTED, base.JobEvent.COMPLETED]


@on_virtual_time
async def test_facts_that_could_not_be_recorded_are_told_again(tmp_path: Path) -> None:
    lab, repository = polling(tmp_path)
    repository.runs = {"queued": [7]}
    repository.jobs = {7: [queued(1)]}
    lab.sink.broken = True
    async with lab.watching():
        await asyncio.sleep(60)
        assert not lab.sink.records
        lab.sink.broken = False
        await gh_lab.until(lambda: lab.sink.events() == [base.JobEvent.QUEUED], limit=120)


@on_virtual_time
async def test_a_repository_that_cannot_be_read_keeps_its_demand_until_that_is_too_old(tmp_path: Path) -> None:
    lab, repository = polling(tmp_path)
    repository.runs = {"queued": [7]}
    repository.jobs = {7: [queued(1)]}
    async with lab.watching():
        await gh_lab.until(lambda: lab.client.demand(QUEUE).known)
        repository.broken = True
        await asyncio.sleep(120)
        assert lab.client.demand(QUEUE).known
        assert not lab.client.health(QUEUE).ok
        await asyncio.sleep(400)
        demand = lab.client.demand(QUEUE)
        assert (demand.waiting, demand.known) == (1, False)
        assert "forge-failing" in lab.sink.reasons
        repository.broken = False
        await gh_lab.until(lambda: lab.client.demand(QUEUE).known, limit=120)
        assert not lab.sink.alarms


@on_virtual_time
async def test_repositories_outside_the_pools_list_are_not_its_demand(tmp_path: Path) -> None:
    lab, repository = polling(tmp_path)
    repository.runs, repository.jobs = {"queued": [7]}, {7: [queued(1)]}
    spec = gh_lab.spec(repos=("acme/nlp-*",))
    async with lab.watching(spec):
        await gh_lab.until(lambda: lab.client.demand(QUEUE).known)
        assert lab.client.demand(QUEUE).waiting == 0


# -- the audit ---------------------------------------------------------------------------------------------------------


def audited(directory: Path, **audit: Any) -> tuple[Service, Repository]:
    lab = Service(directory, repos=("acme/ml",), audit={"interval": "10m", **audit})
    return lab, Repository(lab)


@on_virtual_time
async def test_a_stranded_job_counts_for_one_instance_in_its_life_even_after_a_restart(tmp_path: Path) -> None:
    lab, repository = audited(tmp_path)
    repository.runs, repository.jobs = {"queued": [7]}, {7: [queued(1)]}
    jit = {"runner": {"id": 4}, "encodedJITConfig": "x"}
    lab.script.on("POST", "/generatejitconfig", Reply(200, jit))
    async with lab.watching():
        await gh_lab.until(lambda: lab.waiting == 1, limit=900)
        assert lab.sink.cursors[QUEUE]["helped"] == ["1"]
        await asyncio.sleep(1500)
        assert lab.waiting == 1, "it counts until a runner came up for it"
        assert "stranded-job" not in lab.sink.reasons
        await lab.client.register("m1", QUEUE)
        assert lab.waiting == 0
        await gh_lab.until(lambda: "stranded-job" in lab.sink.reasons, limit=900)
        assert lab.waiting == 0
    lab.client = lab.another()
    async with lab.watching():
        await asyncio.sleep(1500)
        assert lab.waiting == 0


@on_virtual_time
async def test_jobs_that_the_queue_has_announced_are_not_stranded(tmp_path: Path) -> None:
    lab, repository = audited(tmp_path)
    repository.runs, repository.jobs = {"queued": [7]}, {7: [queued(1, name="train j1"), queued(2, name="other")]}
    async with lab.watching():
        await lab.ready()
        lab.say(1, lab.told("JobAssigned"), assigned=1)
        await gh_lab.until(lambda: lab.waiting == 2, limit=900)
        assert lab.sink.cursors[QUEUE]["helped"] == ["2"]


@pytest.mark.parametrize(
    "fields",
    [{"labels": ["big"]}, {"labels": []}, {"status": "waiting"}, {"created_at": "2090-01-01T00:00:00Z"}],
)
@on_virtual_time
async def test_what_is_young_or_not_ours_is_not_stranded(tmp_path: Path, fields: dict[str, Any]) -> None:
    lab, repository = audited(tmp_path)
    repository.runs, repository.jobs = {"queued": [7]}, {7: [{**queued(1), **fields}]}
    async with lab.watching():
        await asyncio.sleep(2000)
        assert lab.waiting == 0
    assert not lab.sink.raised


@on_virtual_time
async def test_the_audit_heals_what_a_lost_message_left_behind(tmp_path: Path) -> None:
    lab, repository = audited(tmp_path)
    repository.jobs = {7: [entry(1, name="train j1", conclusion="success")]}
    async with lab.watching():
        await lab.ready()
        lab.say(1, lab.told("JobAssigned", queueTime="2020-01-01T00:00:00Z"), assigned=1)
        await gh_lab.until(lambda: base.JobEvent.COMPLETED in lab.sink.events(), limit=900)


@on_virtual_time
async def test_the_audit_stays_within_its_share_and_goes_on_where_it_stopped(tmp_path: Path) -> None:
    lab, _ = audited(tmp_path, share=0.01)
    for number in range(40):
        Repository(lab, f"acme/r{number}")
    lab.settings = lab.settings.model_copy(update={"repos": tuple(f"acme/r{number}" for number in range(40))})
    lab.client = lab.another()
    async with lab.watching():
        await asyncio.sleep(3700)
        first = lab.script.count("GET", "/actions/runs")
        assert first <= 52
        await asyncio.sleep(3 * 3600)
    asked = {
        request.url.split("/repos/")[1].split("/actions")[0] for request in lab.script.asked if "/repos/" in request.url
    }
    assert len(asked) == 40
    assert lab.script.count("GET", "/actions/runs") <= 4 * 52


@on_virtual_time
async def test_an_audit_without_permission_is_told_once_and_hurts_nothing(tmp_path: Path) -> None:
    lab = Service(tmp_path, repos=("acme/ml",))
    lab.script.on("GET", "/actions/runs", Reply(403, {"message": "Resource not accessible by integration"}))
    async with lab.watching():
        await gh_lab.until(lambda: "audit-failing" in lab.sink.reasons, limit=900)
        assert "Actions: read" in next(iter(lab.sink.alarms.values()))
        assert lab.client.demand(QUEUE).known


@on_virtual_time
async def test_a_job_that_lapsed_before_a_restart_is_found_soon_after_it(tmp_path: Path) -> None:
    lab, repository = audited(tmp_path)
    repository.runs, repository.jobs = {"queued": [7]}, {7: [queued(1, name="train j1")]}
    async with lab.watching():
        await lab.ready()
        lab.say(1, lab.told("JobAssigned", queueTime="2020-01-01T00:00:00Z"), assigned=1)
        lab.say(2, lab.told("JobCompleted", result="canceled"), assigned=0)
        await gh_lab.until(lambda: 2 in lab.acked)
        assert lab.waiting == 1
    await lab.client.close()
    lab.client = lab.another()
    async with lab.watching():
        await asyncio.sleep(80)
        assert lab.waiting == 1


@on_virtual_time
async def test_a_repository_that_was_deleted_is_forgotten_without_an_alarm(tmp_path: Path) -> None:
    lab, _ = audited(tmp_path)
    lab.script.on("GET", "/repos/acme/gone/", Reply(404, {"message": "Not Found"}))
    async with lab.watching():
        await lab.ready()
        lab.say(1, lab.told("JobStarted", repositoryName="gone", runnerName="m1"), assigned=1, running=1)
        await gh_lab.until(lambda: lab.acked == [1])
        await asyncio.sleep(3600)
        assert not lab.sink.alarms
    assert lab.script.count("GET", "/repos/acme/gone/") == 1
