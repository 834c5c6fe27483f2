"""The listener against a scripted service: tokens, sessions, messages, on days when one answer is odd."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest

from runnerd import errors
from runnerd.forges import base
from runnerd.kit import http
from tests.unit.forges.github import gh_lab
from tests.unit.forges.github.gh_lab import Reply, on_virtual_time
from tests.unit.forges.github.gh_service import QUEUE, Service


@on_virtual_time
async def test_the_token_chain_uses_each_credential_for_its_own_step(tmp_path: Path) -> None:
    lab = Service(tmp_path)
    async with lab.watching():
        await lab.ready()
    by_url = {request.url.split("?")[0]: request for request in lab.script.asked}
    assert (
        by_url["https://ghe.test/api/v3/orgs/acme/actions/runners/registration-token"]
        .headers["Authorization"]
        .endswith(gh_lab.TOKEN)
    )
    handshake = by_url["https://ghe.test/api/v3/actions/runner-registration"]
    assert handshake.headers["Authorization"] == "RemoteAuth REG"
    assert json.loads(handshake.body or b"") == {"url": "https://ghe.test/acme", "runner_event": "register"}
    created = by_url["https://pipelines.test/tenant/123/_apis/runtime/runnerscalesets"]
    assert "route=x" in created.url and "api-version=6.0-preview" in created.url
    assert lab.created == [
        {
            "name": "gpu-t4",
            "runnerGroupId": 3,
            "labels": [{"name": "gpu-t4", "type": "System"}],
            "RunnerSetting": {"ephemeral": True, "isElastic": True, "disableUpdate": True},
        }
    ]
    poll = lab.polls()[0]
    assert poll.url == QUEUE and poll.headers["X-ScaleSetMaxCapacity"] == "10"
    assert "api-version=6.0-preview" in poll.headers["Accept"] and 60 < poll.timeout <= 90
    assert ("/runnerscalesets/{id}/sessions", 200) in lab.seen


@pytest.mark.parametrize("status", [401, 403, 404, 500])
@on_virtual_time
async def test_a_fresh_registration_token_may_need_seconds_to_be_known(tmp_path: Path, status: int) -> None:
    lab = Service(tmp_path)
    good = Reply(200, {"url": "https://pipelines.test/t/", "token": "opaque"})
    lab.script.on("POST", "/actions/runner-registration", Reply(status), Reply(status), good)
    async with lab.watching():
        await lab.ready()
    assert lab.script.count("POST", "/registration-token") == 1
    assert not lab.sink.raised


@pytest.mark.parametrize("answer", [{"url": "", "token": "t"}, {"url": "https://x"}, {}])
@on_virtual_time
async def test_a_handshake_that_names_no_service_is_an_outage(tmp_path: Path, answer: dict[str, str]) -> None:
    lab = Service(tmp_path)
    good = Reply(200, {"url": "https://pipelines.test/t/", "token": "opaque"})
    lab.script.on("POST", "/actions/runner-registration", Reply(200, answer), good)
    async with lab.watching():
        await lab.ready()
    assert lab.script.count("POST", "/actions/runner-registration") == 2


@on_virtual_time
async def test_zero_capacity_is_never_announced(tmp_path: Path) -> None:
    lab = Service(tmp_path)
    lab.sink.room = 0
    async with lab.watching():
        await lab.ready()
        await asyncio.sleep(120)
    assert {request.headers["X-ScaleSetMaxCapacity"] for request in lab.polls()} == {"1"}


@on_virtual_time
async def test_more_capacity_is_announced_without_waiting_for_the_poll_to_end(tmp_path: Path) -> None:
    lab = Service(tmp_path)
    lab.sink.room = 1
    async with lab.watching():
        await lab.ready()
        lab.sink.room = 8
        await asyncio.sleep(1)
        assert lab.polls()[-1].headers["X-ScaleSetMaxCapacity"] == "8"
        lab.sink.room = 2
        before = len(lab.polls())
        await asyncio.sleep(20)
        assert len(lab.polls()) == before, "less capacity can wait for the next poll"
        lab.say(1, lab.told("JobAssigned"), assigned=1)
        await gh_lab.until(lambda: lab.acked == [1], limit=5)


@on_virtual_time
async def test_a_short_failure_and_anothers_session_hold_nothing_up_while_demand_is_known(tmp_path: Path) -> None:
    lab = Service(tmp_path)
    async with lab.watching():
        await lab.ready()
        lab.script.on("GET", "/scalesets/message?", Service.gone("SessionNotFoundException"))
        lab.script.on("POST", "/sessions?", Reply(409, {"message": "already has an active session"}))
        lab.say(1, lab.told("JobAssigned"), assigned=1)
        await asyncio.sleep(200)
        assert lab.client.health(lab.spec.queue).ok and lab.client.demand(lab.spec.queue).known
        await asyncio.sleep(200)
        assert not lab.client.health(lab.spec.queue).ok and not lab.client.demand(lab.spec.queue).known
        assert "session-held" in lab.sink.reasons


@on_virtual_time
async def test_a_quiet_queue_is_known_but_its_reading_is_no_newer(tmp_path: Path) -> None:
    lab = Service(tmp_path)
    async with lab.watching():
        await lab.ready()
        read = lab.client.demand(lab.spec.queue).as_of
        await asyncio.sleep(3600)
        demand = lab.client.demand(lab.spec.queue)
        assert demand.known and demand.as_of == read
        lab.say(1, assigned=1)
        await gh_lab.until(lambda: lab.waiting == 1)
        assert lab.client.demand(lab.spec.queue).as_of > read + 3600


@on_virtual_time
async def test_a_secret_that_disappeared_is_an_error_of_the_forge(tmp_path: Path) -> None:
    lab = Service(tmp_path)
    (tmp_path / "token").unlink()
    async with lab.watching():
        await asyncio.sleep(1)
        assert not lab.client.health(lab.spec.queue).ok
        assert "forge-failing" in lab.sink.reasons
        with pytest.raises(errors.ForgeAuthFailed, match="token"):
            await lab.client.register("m1", lab.spec.queue)


@on_virtual_time
async def test_an_expired_queue_token_is_renewed_and_the_poll_repeated(tmp_path: Path) -> None:
    lab = Service(tmp_path)
    answers = [Reply(401)]

    async def once(request: http.Request) -> Reply:
        return answers.pop() if answers else await lab._poll(request)

    lab.script.on("GET", "/scalesets/message?", once)
    async with lab.watching():
        lab.say(1, lab.told("JobAssigned"), assigned=1)
        await gh_lab.until(lambda: lab.waiting == 1, limit=120)
    assert lab.script.count("PATCH", "/sessions/s1") == 1
    assert lab.sessions == 1 and not lab.sink.raised


@on_virtual_time
async def test_the_queue_token_is_renewed_before_it_ends(tmp_path: Path) -> None:
    lab = Service(tmp_path)
    lab.script.skew = 5000.0
    async with lab.watching():
        await lab.ready()
        await asyncio.sleep(3 * 3600)
    assert 3 <= lab.script.count("PATCH", "/sessions/s1") <= 5
    assert not [status for _, status in lab.seen if status == 401]


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(Reply(404, {"typeName": "RunnerAdminException", "message": "no such session"}), id="404"),
        pytest.param(Reply(400, {"typeName": "RunnerScaleSetSessionExpiredException"}), id="expired"),
    ],
)
@on_virtual_time
async def test_a_session_that_github_forgot_is_made_anew_in_place(tmp_path: Path, answer: Reply) -> None:
    lab = Service(tmp_path)
    async with lab.watching():
        await lab.ready()
        lab.say(41, lab.told("JobAssigned"), assigned=1)
        await gh_lab.until(lambda: lab.acked == [41])
        lab.statistics = {"totalAssignedJobs": 1, "totalRunningJobs": 0}
        lab.script.on("PATCH", "/sessions/s1", answer)
        await asyncio.sleep(3600)
        assert lab.sessions == 2
        assert lab.polls()[-1].url.endswith("&lastMessageId=41")
        assert len(lab.created) == 1
        assert lab.waiting == 1 and not lab.sink.raised


@on_virtual_time
async def test_an_empty_queue_address_is_an_outage_that_is_waited_out(tmp_path: Path) -> None:
    lab = Service(tmp_path)
    empty = {"sessionId": "s0", "messageQueueUrl": "", "messageQueueAccessToken": ""}
    lab.script.on("POST", "/sessions?", Reply(200, empty), Reply(200, empty), Reply(200, lab.session()))
    async with lab.watching():
        await gh_lab.until(lambda: "message queue" in lab.client.health(lab.spec.queue).problem)
        await lab.ready()
    assert len(lab.created) == 1


@pytest.mark.parametrize("answer", [Reply(200, b""), Reply(200, b"<html>"), Reply(500), Reply(lost=True)])
@on_virtual_time
async def test_an_odd_answer_of_the_queue_is_passed_over(tmp_path: Path, answer: Reply) -> None:
    lab = Service(tmp_path)
    async with lab.watching():
        await lab.ready()
        odd = [answer] * 3

        async def poll(request: http.Request) -> Reply:
            return odd.pop() if odd else await lab._poll(request)

        lab.script.on("GET", "/scalesets/message?", poll)
        lab.say(1, lab.told("JobAssigned"), assigned=1)
        await gh_lab.until(lambda: lab.waiting == 1, limit=120)
        await lab.ready()
    assert lab.sessions == 1 and not lab.sink.raised


@on_virtual_time
async def test_a_poisonous_message_is_alarmed_recorded_as_far_as_it_goes_and_acknowledged(tmp_path: Path) -> None:
    lab = Service(tmp_path)
    async with lab.watching():
        await lab.ready()
        lab.say(1, lab.told("JobAssigned", "good"), {"messageType": "JobAssigned"}, assigned=1)
        lab.say(2, body="{broken", assigned=2)
        lab.say(3, messageType="Surprise")
        lab.say(4, lab.told("JobAssigned", "last"), assigned=3)
        await gh_lab.until(lambda: lab.acked == [1, 2, 3, 4], limit=60)
    assert "poison-message" in lab.sink.reasons
    assert {job.name for job in lab.sink.jobs.values()} == {"train good", "train last"}
    assert lab.sink.cursors[lab.spec.queue]["message"] == 4


@on_virtual_time
async def test_a_failed_acknowledgement_is_repeated_and_the_facts_counted_once(tmp_path: Path) -> None:
    lab = Service(tmp_path)
    async with lab.watching():
        await lab.ready()
        failing = [Reply(500), Reply(lost=True)]
        lab.script.on("DELETE", "/scalesets/message/", lambda r: failing.pop() if failing else lab._ack(r))
        redelivered = {"left": 2}

        async def poll(request: http.Request) -> Reply:
            # This server repeats what was not acknowledged, whatever lastMessageId says.
            if lab.queue and redelivered["left"] >= 0:
                redelivered["left"] -= 1
                return Reply(200, lab.queue[0])
            return await lab._poll(request)

        lab.say(1, lab.told("JobAssigned"), assigned=1)
        lab.script.on("GET", "/scalesets/message?", poll)
        await gh_lab.until(lambda: lab.acked == [1], limit=120)
    assert lab.waiting == 1
    assert len(lab.sink.jobs) == 1


@on_virtual_time
async def test_a_zero_reading_is_checked_by_asking_for_the_set(tmp_path: Path) -> None:
    lab = Service(tmp_path)
    async with lab.watching():
        await lab.ready()
        lab.say(1, lab.told("JobAssigned"), assigned=1)
        await gh_lab.until(lambda: lab.waiting == 1)
        lab.say(2, assigned=0)
        await gh_lab.until(lambda: 2 in lab.acked)
        assert lab.waiting == 1
        assert lab.set is not None
        lab.set["statistics"] = {"totalAssignedJobs": 1, "totalRunningJobs": 0}
        await asyncio.sleep(120)
        assert lab.waiting == 1
        lab.say(3, assigned=0)
        lab.set["statistics"] = {"totalAssignedJobs": 0, "totalRunningJobs": 0}
        await gh_lab.until(lambda: lab.waiting == 0, limit=120)


@on_virtual_time
async def test_a_repeated_zero_is_no_second_reading(tmp_path: Path) -> None:
    lab = Service(tmp_path)
    async with lab.watching():
        await lab.ready()
        lab.say(1, lab.told("JobAssigned"), assigned=1)
        await gh_lab.until(lambda: lab.waiting == 1)
        lab.script.on("DELETE", "/scalesets/message/", Reply(500))
        lab.script.on("GET", "/runnerscalesets/9?", Reply(500))
        lab.say(2, assigned=0)

        async def poll(_: http.Request) -> Reply:
            await asyncio.sleep(1)
            return Reply(200, lab.queue[-1])

        lab.script.on("GET", "/scalesets/message?", poll)
        await asyncio.sleep(60)
        assert lab.waiting == 1


@on_virtual_time
async def test_the_messages_of_a_new_set_count_from_the_start(tmp_path: Path) -> None:
    lab = Service(tmp_path)
    async with lab.watching():
        await lab.ready()
        lab.say(41, lab.told("JobAssigned"), assigned=1)
        await gh_lab.until(lambda: lab.acked == [41])
        lab.script.on("GET", "/scalesets/message?", Service.gone())
        lab.script.on("POST", "/sessions?", Service.gone(), Reply(200, lab.session()))
        lab.set = {"id": 10, "name": "gpu-t4", "labels": [{"name": "gpu-t4"}]}
        await gh_lab.until(lambda: lab.script.count("POST", "/runnerscalesets/10/sessions?"), limit=120)
        lab.script.on("GET", "/scalesets/message?", lab._poll)
        lab.say(1, lab.told("JobAssigned", "j2"), assigned=1)
        await gh_lab.until(lambda: lab.acked == [41, 1], limit=120)
    assert "lastMessageId" not in lab.polls()[-2].url
    assert lab.sink.cursors[lab.spec.queue]["set"] == 10


@on_virtual_time
async def test_a_creation_whose_answer_was_lost_makes_no_second_set(tmp_path: Path) -> None:
    lab = Service(tmp_path)

    def create(request: http.Request) -> Reply:
        lab._create(request)
        return Reply(lost=True)

    lab.script.on("POST", "/runnerscalesets?", create)
    async with lab.watching():
        await lab.ready()
    assert len(lab.created) == 1


@on_virtual_time
async def test_a_set_that_another_made_first_is_used(tmp_path: Path) -> None:
    lab = Service(tmp_path)

    def taken(request: http.Request) -> Reply:
        lab._create(request)
        return Reply(400, {"typeName": "RunnerScaleSetExistsException", "message": "exists"})

    lab.script.on("POST", "/runnerscalesets?", taken)
    async with lab.watching():
        await lab.ready()


@on_virtual_time
async def test_labels_are_changed_only_with_the_session_in_hand(tmp_path: Path) -> None:
    lab = Service(tmp_path)
    lab.set = {"id": 9, "name": "gpu-t4", "labels": [{"name": "gpu-t4", "type": "system"}, {"name": "old"}]}
    held = {"yes": True}
    lab.script.on("POST", "/sessions?", lambda _: Reply(409) if held["yes"] else Reply(200, lab.session()))
    lab.script.on("PATCH", "/runnerscalesets/9?", Reply(200, lab.set))
    async with lab.watching():
        await asyncio.sleep(60)
        assert lab.script.count("PATCH", "/runnerscalesets/9?") == 0
        held["yes"] = False
        await gh_lab.until(lambda: "labels-surplus" in lab.sink.reasons, limit=120)
        await lab.ready()
        await asyncio.sleep(600)
    assert lab.script.count("PATCH", "/runnerscalesets/9?") == 1


@on_virtual_time
async def test_a_set_that_answers_without_waiting_is_not_polled_in_a_spin(tmp_path: Path) -> None:
    lab = Service(tmp_path)
    lab.script.on("GET", "/scalesets/message?", Reply(202))
    async with lab.watching():
        await asyncio.sleep(600)
    assert len(lab.polls()) < 40


@on_virtual_time
async def test_cancelling_the_watch_while_a_session_opens_does_not_lose_it(tmp_path: Path) -> None:
    lab = Service(tmp_path)

    async def slow(_: http.Request) -> Reply:
        await asyncio.sleep(5)
        return Reply(409) if lab.sessions else Reply(200, lab.session())

    lab.script.on("POST", "/sessions?", slow)
    async with lab.watching():
        await gh_lab.until(lambda: lab.script.count("POST", "/sessions?"), step=0.01)
    async with lab.watching():
        await lab.ready()
    await lab.client.close()
    assert lab.script.count("POST", "/sessions?") == 1
    assert lab.script.count("DELETE", "/sessions/s1") == 1


@on_virtual_time
async def test_ending_the_sessions_takes_no_longer_than_half_a_minute(tmp_path: Path) -> None:
    lab = Service(tmp_path)

    async def never(_: http.Request) -> Reply:
        await asyncio.sleep(10_000)
        return Reply(204)

    lab.script.on("DELETE", "/sessions/", never)
    async with lab.watching():
        await lab.ready()
    began = lab.loop.time()
    await lab.client.close()
    assert lab.loop.time() - began <= 40
    assert lab.sink.cursors[lab.spec.queue]["session"] == "s1"


@on_virtual_time
async def test_an_error_of_our_own_does_not_end_the_listener(tmp_path: Path) -> None:
    lab = Service(tmp_path)
    async with lab.watching():
        await lab.ready()

        def explode() -> None:
            lab.sink.on_record = None
            raise ValueError("a bug")

        lab.sink.on_record = explode
        lab.say(1, lab.told("JobAssigned"), assigned=1)
        await gh_lab.until(lambda: lab.acked == [1], limit=60)


@on_virtual_time
async def test_a_revoked_token_is_alarmed_and_comes_back_when_it_is_replaced(tmp_path: Path) -> None:
    lab = Service(tmp_path)
    async with lab.watching():
        await lab.ready()
        revoked = Reply(401, {"message": "Bad credentials"}, {"x-github-request-id": "F00"})
        lab.script.on("POST", "/registration-token", revoked)
        lab.script.on("GET", "/scalesets/message?", Reply(401))
        lab.script.on("PATCH", "/sessions/", Reply(401))
        lab.script.on("POST", "/sessions?", Reply(401))
        await gh_lab.until(lambda: "forge-failing" in lab.sink.reasons, limit=300)
        [detail] = lab.sink.alarms.values()
        assert "F00" in detail and gh_lab.TOKEN not in detail
        lab.script.on("POST", "/registration-token", Reply(201, {"token": "REG2"}))
        lab.script.on("GET", "/scalesets/message?", lab._poll)
        lab.script.on("POST", "/sessions?", lambda _: Reply(200, lab.session()))
        await gh_lab.until(lambda: lab.client.health(lab.spec.queue).ok, limit=120)
        assert not lab.sink.alarms


@on_virtual_time
async def test_no_secret_stands_in_what_is_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    lab = Service(tmp_path)
    async with lab.watching():
        await lab.ready()
        token = lab.polls()[0].headers["Authorization"].removeprefix("Bearer ")
        echo = Reply(500, {"message": f"cannot use {token} and RemoteAuth REG and {gh_lab.TOKEN}"})
        for method in ("GET", "POST", "PATCH", "DELETE"):
            lab.script.on(method, "/", echo)
        await asyncio.sleep(900)
        with pytest.raises(errors.ForgeError) as caught:
            await lab.client.register("m1", lab.spec.queue)
    said = "\n".join([caplog.text, str(caught.value), *lab.sink.alarms.values()])
    assert lab.sink.alarms and token not in said and gh_lab.TOKEN not in said


async def _flood(lab: Service, jobs: int) -> float:
    for start in range(0, jobs, 50):
        names = [f"{start + number}" for number in range(50)]
        lab.say(
            start // 50 + 1,
            *(lab.told("JobAssigned", name, runnerName=None, queueTime="2026-11-23T21:50:45.1Z") for name in names),
            assigned=start + 50,
        )
    began = time.process_time()
    async with lab.watching():
        await gh_lab.until(lambda: len(lab.sink.records) == jobs // 50, limit=600)
        spent = time.process_time() - began
        assert lab.waiting == jobs
    return spent


def test_the_cost_of_a_message_does_not_grow_with_the_backlog(tmp_path: Path) -> None:
    class Quick(gh_lab.Sink):
        async def record(self, queue: Any, updates: Any, cursor: Any = None) -> None:
            self.records.append((queue, tuple(updates)))

    def measure(jobs: int) -> float:
        @on_virtual_time
        async def run() -> None:
            lab = Service(tmp_path)
            lab.sink = Quick()
            spent.append(await _flood(lab, jobs) / jobs)

        spent: list[float] = []
        run()
        return spent[0]

    measure(500)
    few, many = measure(1000), measure(10_000)
    assert many < 0.0005, f"{many * 1e6:.0f} microseconds per job"
    assert many < 3 * few + 0.0001


@on_virtual_time
async def test_facts_reach_the_sink_with_their_queue_and_cursor(tmp_path: Path) -> None:
    lab = Service(tmp_path)
    async with lab.watching():
        await lab.ready()
        lab.say(1, lab.told("JobStarted", runnerName="m1"), assigned=1, running=1)
        await gh_lab.until(lambda: lab.acked == [1])
    [(queue, (update,))] = lab.sink.records
    assert queue == lab.spec.queue == update.queue
    assert (update.event, update.runner_name) == (base.JobEvent.STARTED, "m1")
    cursor = lab.sink.cursors[queue]
    assert (cursor["set"], cursor["session"], cursor["message"], cursor["running"]) == (9, "s1", 1, 1)
