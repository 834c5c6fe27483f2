"""The GitHub client against the simulated GitHub: the main job, and the bad days that the reference tells of."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from provisioners.base import Level
from runnerd import config, errors, model
from runnerd.forges import base
from runnerd.kit import http
from runnerd.simulator import app, faults, github, world
from runnerd.simulator import http as simulated
from tests.support import virtual
from tests.unit.forges.github import gh_lab

BASE = "http://127.0.0.1:8090"
POLL = "*message*"


on_virtual_time = gh_lab.on_virtual_time


class Wire:
    """A transport that ends in the simulator of this process."""

    def __init__(self, simulator: app.App) -> None:
        self._app = simulator
        self.asked: list[http.Request] = []

    async def send(self, request: http.Request) -> http.Response:
        self.asked.append(request)
        asked = simulated.request(
            request.method, request.url, headers=request.headers, body=request.body, base_url=BASE
        )
        try:
            async with asyncio.timeout(request.timeout):
                answer = await self._app.handle(asked)
        except simulated.ConnectionDropped as error:
            raise errors.TransportError("the connection was cut") from error
        except TimeoutError as error:
            raise errors.TransportError("no answer in time") from error
        headers = {name.lower(): value for name, value in answer.headers.items()}
        return http.Response(answer.status, headers, answer.body)

    async def close(self) -> None:
        pass


class Lab:
    """A simulated GitHub with a client of it."""

    def __init__(self, directory: Path, options: github.Options | None = None, **fields: Any) -> None:
        loop = asyncio.get_running_loop()
        self.clock = virtual.Clock(loop)
        self.world = world.World(lambda: virtual.EPOCH + loop.time(), deliver=self._deliver)
        self.app = app.App(self.world, github_half=github.Github(self.world, options))
        self.world.base_url = BASE
        self.sink = gh_lab.Sink()
        self.wire = Wire(self.app)
        self.directory = directory
        self.hooks: list[tuple[dict[str, str], bytes]] = []
        if "app" not in fields:
            fields.setdefault("token", gh_lab.secret(directory, "pat", github.auth.PAT))
        self.settings = gh_lab.settings(directory, **{"url": f"{BASE}/acme", **fields})
        self.client = self.another()

    def another(self) -> Any:
        """A second daemon's client, or this one's after a restart."""
        return gh_lab.forge(self.clock, self.wire, self.settings)

    async def _deliver(self, url: str, headers: Any, body: bytes) -> world.HookAnswer:
        self.hooks.append(({name.lower(): value for name, value in headers.items()}, body))
        return world.HookAnswer(200)

    def fault(self, path: str, **fields: Any) -> None:
        self.app.faults.add(faults.Fault(forge="github", path=path, **fields))

    async def control(self, path: str, body: Any = None) -> Any:
        answer = await self.app.handle(simulated.request("POST", f"{BASE}{path}", json_body=body or {}))
        assert answer.status < 300, answer.text
        return answer.json()

    async def queue(self, count: int = 1, labels: tuple[str, ...] = ("gpu-t4",), **more: Any) -> list[Any]:
        body = {"forge": "github", "repo": "acme/ml", "labels": list(labels), "count": count, **more}
        ids = (await self.control("/_sim/jobs", body))["ids"]
        return [self.app.github.job(id) for id in ids]

    async def runner(self, queue: model.Queue, name: str) -> Any:
        made = await self.client.register(name, queue)
        return self.app.github.connect_runner(made.environment["ACTIONS_RUNNER_INPUT_JITCONFIG"])

    def waiting(self, queue: model.Queue) -> int:
        return int(self.client.demand(queue).waiting)

    @property
    def sets(self) -> list[dict[str, Any]]:
        return self.app.github.state()["scale_sets"]

    @property
    def sessions(self) -> list[dict[str, Any]]:
        return self.app.github.state()["sessions"]


T4 = gh_lab.spec()


@on_virtual_time
async def test_a_queued_job_becomes_demand_runs_once_and_is_recorded(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    async with gh_lab.Watching(lab.client, [T4], lab.sink):
        await gh_lab.until(lambda: lab.client.demand(T4.queue).known)
        [job] = await lab.queue()
        await gh_lab.until(lambda: lab.waiting(T4.queue) == 1, limit=5)
        assert lab.client.demand(T4.queue).repos == {"acme/ml": 1}
        runner = await lab.runner(T4.queue, "m1")
        held = await runner.next_job(5)
        runner.start(held)
        await gh_lab.until(lambda: lab.client.demand(T4.queue).running == 1)
        assert lab.waiting(T4.queue) == 0
        runner.finish(held)
        await gh_lab.until(lambda: base.JobEvent.COMPLETED in lab.sink.events())
    [recorded] = lab.sink.jobs.values()
    assert (recorded.state, recorded.conclusion, recorded.runner_name) == (
        model.JobState.COMPLETED,
        "success",
        "m1",
    )
    assert job.starts == 1
    assert not lab.sink.alarms


@on_virtual_time
async def test_the_session_is_ended_on_the_way_out_and_the_set_stays(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    async with gh_lab.Watching(lab.client, [T4], lab.sink):
        await gh_lab.until(lambda: lab.sessions)
    await lab.client.close()
    assert not lab.sessions
    assert [item["name"] for item in lab.sets] == ["gpu-t4"]


@on_virtual_time
async def test_a_killed_daemon_takes_its_own_session_back_at_once(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    async with gh_lab.Watching(lab.client, [T4], lab.sink):
        await gh_lab.until(lambda: lab.sessions)
        await lab.queue()
        await gh_lab.until(lambda: lab.waiting(T4.queue) == 1)
    [left] = lab.sessions
    lab.client = lab.another()
    started = asyncio.get_running_loop().time()
    async with gh_lab.Watching(lab.client, [T4], lab.sink):
        await gh_lab.until(lambda: [item["id"] for item in lab.sessions] not in ([], [left["id"]]))
        assert lab.waiting(T4.queue) == 1
        assert asyncio.get_running_loop().time() - started < 5
        await lab.queue()
        await gh_lab.until(lambda: lab.waiting(T4.queue) == 2, limit=5)


@on_virtual_time
async def test_a_job_that_came_while_nobody_listened_is_found_at_the_start(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    async with gh_lab.Watching(lab.client, [T4], lab.sink):
        await gh_lab.until(lambda: lab.sessions)
    await lab.client.close()
    await lab.queue(3)
    lab.client = lab.another()
    async with gh_lab.Watching(lab.client, [T4], lab.sink):
        await gh_lab.until(lambda: lab.waiting(T4.queue) == 3, limit=60)


@on_virtual_time
async def test_a_session_held_by_another_is_waited_for_with_an_alarm_while_runners_still_register(
    tmp_path: Path,
) -> None:
    lab = Lab(tmp_path)
    async with gh_lab.Watching(lab.client, [T4], lab.sink):
        await gh_lab.until(lambda: lab.sessions)
    await lab.client.close()
    await lab.control(f"/_sim/scale_sets/{lab.sets[0]['id']}/hold", {"seconds": 620})
    lab.client = lab.another()
    lab.sink.cursors.clear()
    async with gh_lab.Watching(lab.client, [T4], lab.sink):
        await asyncio.sleep(200)
        assert not lab.client.health(T4.queue).ok
        assert "session-held" not in lab.sink.reasons
        assert (await lab.client.register("m1", T4.queue)).forge_id
        await asyncio.sleep(200)
        assert "session-held" in lab.sink.reasons
        await lab.queue()
        await gh_lab.until(lambda: lab.client.health(T4.queue).ok, limit=400)
        await gh_lab.until(lambda: lab.waiting(T4.queue) == 1, limit=60)
        assert not lab.sink.alarms


@on_virtual_time
async def test_a_vanished_scale_set_is_made_again_and_its_jobs_come_back(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    async with gh_lab.Watching(lab.client, [T4], lab.sink):
        await gh_lab.until(lambda: lab.sessions)
        await lab.queue()
        await gh_lab.until(lambda: lab.waiting(T4.queue) == 1)
        old = lab.sets[0]["id"]
        await lab.control(f"/_sim/scale_sets/{old}/delete")
        await gh_lab.until(lambda: lab.sets and lab.sets[0]["id"] != old, limit=120)
        await gh_lab.until(lambda: lab.client.health(T4.queue).ok, limit=120)
        assert lab.sink.cursors[T4.queue]["set"] == lab.sets[0]["id"]
        assert "scale-set-vanished" in lab.sink.raised
        await lab.queue()
        await gh_lab.until(lambda: lab.waiting(T4.queue) >= 1, limit=60)
        assert "scale-set-vanished" not in lab.sink.reasons
        assert (await lab.client.register("m1", T4.queue)).forge_id


@on_virtual_time
async def test_registering_on_a_set_that_vanished_says_so_and_the_next_works(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    async with gh_lab.Watching(lab.client, [T4], lab.sink):
        await gh_lab.until(lambda: lab.sessions)
        await lab.control(f"/_sim/scale_sets/{lab.sets[0]['id']}/delete")
        with pytest.raises(errors.ForgeUnavailable) as caught:
            await lab.client.register("m1", T4.queue)
        assert not caught.value.maybe_created
        await asyncio.sleep(30)
        assert (await lab.client.register("m2", T4.queue)).forge_id


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param({"status": 500}, id="500"),
        pytest.param({"outage": True}, id="html-503"),
        pytest.param({"html": True, "status": 200}, id="html-200"),
        pytest.param({"empty": True}, id="empty-200"),
        pytest.param({"drop": "before"}, id="dropped-before"),
        pytest.param({"drop": "after"}, id="dropped-after"),
        pytest.param({"hang": True}, id="hangs"),
        pytest.param({"bom": True}, id="byte-order-mark"),
        pytest.param({"revoke_token": True}, id="token-revoked"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "PATCH", "DELETE"])
@on_virtual_time
async def test_no_fault_of_the_actions_service_loses_a_job(tmp_path: Path, fault: dict[str, Any], method: str) -> None:
    # The queue token ends soon, so that it is renewed (PATCH) while the fault lasts.
    lab = Lab(tmp_path, github.Options(queue_token_ttl=400))
    lab.fault("/_actions/*", method=method, count=3, skip=1, **fault)
    async with gh_lab.Watching(lab.client, [T4], lab.sink):
        await asyncio.sleep(400)
        await lab.queue(2)
        await gh_lab.until(lambda: lab.waiting(T4.queue) == 2, limit=900)
        await lab.queue(1)
        await gh_lab.until(lambda: lab.waiting(T4.queue) == 3, limit=900)
        await gh_lab.until(lambda: len(lab.sink.jobs) == 3, limit=900)
    assert {job.state for job in lab.sink.jobs.values()} == {model.JobState.QUEUED}
    assert lab.app.faults.active[0].hits >= 1


@on_virtual_time
async def test_a_long_outage_is_alarmed_and_demand_becomes_unknown_but_keeps_its_last_value(
    tmp_path: Path,
) -> None:
    lab = Lab(tmp_path)
    async with gh_lab.Watching(lab.client, [T4], lab.sink):
        await gh_lab.until(lambda: lab.sessions)
        await lab.queue()
        await gh_lab.until(lambda: lab.waiting(T4.queue) == 1)
        lab.fault("*", outage=True)
        await asyncio.sleep(500)
        demand = lab.client.demand(T4.queue)
        assert (demand.waiting, demand.known) == (1, False)
        assert "forge-failing" in lab.sink.reasons
        sent = len(lab.wire.asked)
        await asyncio.sleep(600)
        assert len(lab.wire.asked) - sent < 60, "it hammers a forge that is down"
        lab.app.faults.clear()
        await gh_lab.until(lambda: lab.client.demand(T4.queue).known, limit=120)
        assert not lab.sink.alarms


@on_virtual_time
async def test_queue_and_admin_tokens_are_renewed_for_hours_without_a_lost_job(tmp_path: Path) -> None:
    lab = Lab(tmp_path, github.Options(queue_token_ttl=900, admin_token_ttl=700))
    async with gh_lab.Watching(lab.client, [T4], lab.sink):
        await gh_lab.until(lambda: lab.sessions)
        session = lab.sessions[0]["id"]
        for hour in range(1, 5):
            await asyncio.sleep(3600)
            await lab.queue()
            await asyncio.sleep(1)
            assert lab.waiting(T4.queue) == hour
        assert lab.sessions[0]["id"] == session
    assert not lab.sink.raised


@on_virtual_time
async def test_a_message_is_acknowledged_only_after_it_is_durable(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    async with gh_lab.Watching(lab.client, [T4], lab.sink):
        await gh_lab.until(lambda: lab.sessions)
        acks: list[int] = []

        def deleted() -> int:
            return sum(1 for request in lab.wire.asked if request.method == "DELETE")

        lab.sink.on_record = lambda: acks.append(deleted())
        lab.sink.broken = True
        await lab.queue()
        await asyncio.sleep(30)
        assert acks and set(acks) == {0}
        assert not lab.sink.jobs
        assert "forge-failing" in lab.sink.reasons
        lab.sink.broken = False
        await gh_lab.until(lambda: len(lab.sink.jobs) == 1, limit=120)
        await gh_lab.until(lambda: deleted() == 1)
        assert not lab.sink.alarms


@on_virtual_time
async def test_a_lapsed_assignment_stays_demand_until_the_run_is_cancelled(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    async with gh_lab.Watching(lab.client, [T4], lab.sink):
        await gh_lab.until(lambda: lab.sessions)
        [job] = await lab.queue()
        await gh_lab.until(lambda: lab.waiting(T4.queue) == 1)
        for _ in range(700):
            await asyncio.sleep(1)
            assert lab.waiting(T4.queue) == 1
        assert base.JobEvent.ASSIGNMENT_TIMEOUT in lab.sink.events()
        [recorded] = lab.sink.jobs.values()
        assert (recorded.state, len(recorded.aliases) > 1) == (model.JobState.QUEUED, True)
        lab.app.github.cancel_job(job)
        await gh_lab.until(lambda: lab.waiting(T4.queue) == 0, limit=60)
        [recorded] = lab.sink.jobs.values()
        assert (recorded.state, recorded.conclusion) == (model.JobState.COMPLETED, "cancelled")


@on_virtual_time
async def test_only_as_much_is_acquired_as_the_capacity_allows(tmp_path: Path) -> None:
    lab = Lab(tmp_path, github.Options(ghes_acquire=True))
    lab.sink.room = 2
    async with gh_lab.Watching(lab.client, [T4], lab.sink):
        await gh_lab.until(lambda: lab.sessions)
        await lab.queue(5)
        await gh_lab.until(lambda: lab.waiting(T4.queue) == 2, limit=60)
        await asyncio.sleep(200)
        assert lab.waiting(T4.queue) == 2
        lab.sink.room = 4
        await gh_lab.until(lambda: lab.waiting(T4.queue) == 4, limit=120)


@on_virtual_time
async def test_offers_whose_message_was_lost_are_acquired_all_the_same(tmp_path: Path) -> None:
    lab = Lab(tmp_path, github.Options(ghes_acquire=True))
    lab.fault("*acquirejobs", method="POST", count=2, status=500)
    async with gh_lab.Watching(lab.client, [T4], lab.sink):
        await gh_lab.until(lambda: lab.sessions)
        await lab.queue(3)
        await gh_lab.until(lambda: lab.waiting(T4.queue) == 3, limit=300)


@on_virtual_time
async def test_labels_that_the_server_drops_are_alarmed(tmp_path: Path) -> None:
    lab = Lab(tmp_path, github.Options(custom_labels=False))
    spec = gh_lab.spec(labels=("gpu-t4", "self-hosted"))
    async with gh_lab.Watching(lab.client, [spec], lab.sink):
        await gh_lab.until(lambda: "labels-dropped" in lab.sink.reasons)
        assert "self-hosted" in next(iter(lab.sink.alarms.values()))
        await gh_lab.until(lambda: lab.client.health(spec.queue).ok)


@on_virtual_time
async def test_changed_labels_are_patched_and_unchanged_queues_keep_their_session(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    other = gh_lab.spec("gpu-a100")
    async with gh_lab.Watching(lab.client, [T4, other], lab.sink):
        await gh_lab.until(lambda: len(lab.sessions) == 2)
        await lab.queue()
        await gh_lab.until(lambda: lab.waiting(T4.queue) == 1)
    held = {session["id"] for session in lab.sessions}
    wider = gh_lab.spec("gpu-a100", labels=("gpu-a100", "big"))
    async with gh_lab.Watching(lab.client, [T4, wider], lab.sink):
        await gh_lab.until(lambda: any(set(item["labels"]) == {"gpu-a100", "big"} for item in lab.sets), limit=60)
        assert {session["id"] for session in lab.sessions} == held
        await lab.queue(labels=("big",))
        await gh_lab.until(lambda: lab.waiting(wider.queue) == 1, limit=60)
    assert not lab.sink.alarms


@on_virtual_time
async def test_a_queue_that_a_reload_takes_away_gives_its_session_back(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    other = gh_lab.spec("gpu-a100")
    async with gh_lab.Watching(lab.client, [T4, other], lab.sink):
        await gh_lab.until(lambda: len(lab.sessions) == 2)
    async with gh_lab.Watching(lab.client, [T4], lab.sink):
        await gh_lab.until(lambda: len(lab.sessions) == 1)
    assert len(lab.sets) == 2


@on_virtual_time
async def test_removal_is_the_busy_test(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    async with gh_lab.Watching(lab.client, [T4], lab.sink):
        await gh_lab.until(lambda: lab.sessions)
        await lab.queue()
        runner = await lab.runner(T4.queue, "m1")
        held = await runner.next_job(60)
        runner.start(held)
        by_name = gh_lab.registration(T4.queue, "m1")
        assert await lab.client.deregister(by_name) is base.Removal.BUSY
        runner.finish(held)
        assert await lab.client.deregister(by_name) is base.Removal.REMOVED
        assert await lab.client.deregister(gh_lab.registration(T4.queue, "m1", "424242")) is base.Removal.REMOVED
        idle = await lab.client.register("m2", T4.queue)
        assert await lab.client.find("m2", T4.queue) is not None
        listing = await lab.client.list_runners(T4.queue)
        assert listing.complete and [view.name for view in listing.views] == ["m2"]
        gone = gh_lab.registration(T4.queue, "m2", idle.forge_id)
        assert await lab.client.deregister(gone) is base.Removal.REMOVED
        assert await lab.client.find("m2", T4.queue) is None


@pytest.mark.parametrize("drop", ["before", "after"])
@pytest.mark.parametrize("mode", ["scale-set", "rest"])
@on_virtual_time
async def test_a_lost_register_answer_is_sent_once_and_settled_by_name(tmp_path: Path, drop: str, mode: str) -> None:
    lab = Lab(tmp_path, mode=config.Mode(mode), repos=("acme/ml",))
    lab.fault("*generate*jitconfig", drop=drop, count=1)
    lab.fault("*generate-jitconfig", drop=drop, count=1)
    async with gh_lab.Watching(lab.client, [T4], lab.sink):
        await gh_lab.until(lambda: lab.client.demand(T4.queue).known)
        with pytest.raises(errors.ForgeError) as caught:
            await lab.client.register("m1", T4.queue)
        assert caught.value.maybe_created
        asked = [request for request in lab.wire.asked if "jitconfig" in request.url or "jit-config" in request.url]
        assert len(asked) == 1
        assert await lab.client.deregister(gh_lab.registration(T4.queue, "m1")) is base.Removal.REMOVED
        assert await lab.client.find("m1", T4.queue) is None


@pytest.mark.parametrize("mode", ["scale-set", "rest"])
@on_virtual_time
async def test_a_name_that_is_taken_is_a_conflict_that_must_be_settled_first(tmp_path: Path, mode: str) -> None:
    lab = Lab(tmp_path, mode=config.Mode(mode), repos=("acme/ml",))
    async with gh_lab.Watching(lab.client, [T4], lab.sink):
        await gh_lab.until(lambda: lab.client.demand(T4.queue).known)
        await lab.client.register("m1", T4.queue)
        with pytest.raises(errors.ForgeConflict) as caught:
            await lab.client.register("m1", T4.queue)
        assert caught.value.maybe_created
        assert lab.client.headroom(T4.queue)


@on_virtual_time
async def test_a_forge_that_refuses_registrations_is_asked_less_and_less(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    async with gh_lab.Watching(lab.client, [T4], lab.sink):
        await gh_lab.until(lambda: lab.sessions)
        lab.fault("*generatejitconfig", status=403)
        tries = 0
        for _ in range(1800):
            if lab.client.headroom(T4.queue):
                with pytest.raises(errors.ForgeForbidden):
                    await lab.client.register(f"m{tries}", T4.queue)
                tries += 1
                assert lab.client.health(T4.queue).register_after > lab.clock.now()
                with pytest.raises(errors.ForgeThrottled):
                    await lab.client.register("again", T4.queue)
            await asyncio.sleep(1)
        assert 5 <= tries <= 11
        assert sum("generatejitconfig" in request.url for request in lab.wire.asked) == tries
        lab.app.faults.clear()
        await gh_lab.until(lambda: lab.client.headroom(T4.queue) == 1, limit=400)
        await lab.client.register("works", T4.queue)
        assert lab.client.headroom(T4.queue) > 1000
        assert lab.client.health(T4.queue).register_after == 0


@on_virtual_time
async def test_an_app_serves_an_organisation_and_renews_its_token(tmp_path: Path) -> None:
    probe = Lab(tmp_path)
    key = gh_lab.secret(tmp_path, "app.pem", probe.app.github.default_tokens()["app_private_key"])
    settings = config.GitHubApp.model_validate({"id": github.auth.APP_ID, "key": key})
    lab = probe
    lab.settings = gh_lab.settings(tmp_path, url=f"{BASE}/acme", app=settings, token=None)
    lab.client = lab.another()
    async with gh_lab.Watching(lab.client, [T4], lab.sink):
        await gh_lab.until(lambda: lab.client.demand(T4.queue).known)
        await asyncio.sleep(3 * 3600)
        await lab.queue()
        await gh_lab.until(lambda: lab.waiting(T4.queue) == 1)
        [recorded] = lab.sink.jobs.values()
        assert await lab.client.job_states([recorded])
    assert not lab.sink.raised


@on_virtual_time
async def test_without_scale_sets_jobs_are_found_by_polling_and_run_on_a_rest_runner(tmp_path: Path) -> None:
    lab = Lab(tmp_path, mode=config.Mode.REST, repos=("acme/ml",))
    async with gh_lab.Watching(lab.client, [T4], lab.sink):
        await gh_lab.until(lambda: lab.client.demand(T4.queue).known)
        await lab.queue()
        await lab.queue(labels=("another-pool",))
        await gh_lab.until(lambda: lab.waiting(T4.queue) == 1, limit=45)
        runner = await lab.runner(T4.queue, "m1")
        held = await runner.next_job(60)
        runner.start(held)
        await gh_lab.until(lambda: lab.client.demand(T4.queue).running == 1, limit=45)
        registration = gh_lab.registration(T4.queue, "m1")
        assert await lab.client.deregister(registration) is base.Removal.BUSY
        runner.finish(held)
        await gh_lab.until(lambda: lab.client.demand(T4.queue).running == 0, limit=45)
        assert await lab.client.deregister(registration) is base.Removal.REMOVED
    [recorded] = lab.sink.jobs.values()
    assert (recorded.state, recorded.conclusion) == (model.JobState.COMPLETED, "success")
    assert not lab.sink.raised


@on_virtual_time
async def test_idle_polling_costs_no_quota(tmp_path: Path) -> None:
    lab = Lab(tmp_path, mode=config.Mode.REST, repos=("acme/ml",))
    async with gh_lab.Watching(lab.client, [T4], lab.sink):
        await gh_lab.until(lambda: lab.client.demand(T4.queue).known)
        await asyncio.sleep(120)
        before = lab.client.rate_limit()[0]
        await asyncio.sleep(1200)
        after = lab.client.rate_limit()[0]
    assert before is not None and after is not None
    assert before - after <= 1


@on_virtual_time
async def test_a_webhook_makes_a_rest_queue_look_at_once(tmp_path: Path) -> None:
    secret = gh_lab.secret(tmp_path, "hook", "It's a Secret")
    lab = Lab(tmp_path, mode=config.Mode.REST, repos=("acme/ml",), poll="10m", webhook_secret=secret)
    lab.world.hooks[1] = world.Hook(1, "github", f"{BASE}/webhooks/acme", secret="It's a Secret")
    async with gh_lab.Watching(lab.client, [T4], lab.sink):
        await gh_lab.until(lambda: lab.client.demand(T4.queue).known)
        await lab.queue()
        await gh_lab.until(lambda: lab.hooks)
        headers, body = lab.hooks[-1]
        answer = await lab.client.webhook(headers, body)
        assert answer.status == 202, answer
        await gh_lab.until(lambda: lab.waiting(T4.queue) == 1, limit=10)


@on_virtual_time
async def test_a_used_up_quota_is_waited_for_not_hammered(tmp_path: Path) -> None:
    lab = Lab(tmp_path, mode=config.Mode.REST, repos=("acme/ml",))
    async with gh_lab.Watching(lab.client, [T4], lab.sink):
        await gh_lab.until(lambda: lab.client.demand(T4.queue).known)
        lab.fault("*/actions/runs*", exhaust_rate=True, count=1)
        await lab.queue()
        sent = len(lab.wire.asked)
        await asyncio.sleep(1800)
        assert len(lab.wire.asked) - sent < 30
        with pytest.raises(errors.ForgeThrottled):
            await lab.client.register("m1", T4.queue)
        await gh_lab.until(lambda: lab.waiting(T4.queue) == 1, limit=4000, step=10)


@on_virtual_time
async def test_a_stranded_job_gets_one_instance_and_then_a_person(tmp_path: Path) -> None:
    lab = Lab(tmp_path, github.Options(lapses=0), repos=("acme/ml",))
    async with gh_lab.Watching(lab.client, [T4], lab.sink):
        await gh_lab.until(lambda: lab.sessions)
        await lab.queue()
        await gh_lab.until(lambda: lab.waiting(T4.queue) == 1)
        # After its only lapse nobody announces it any more; its grace ends, the audit finds it.
        await gh_lab.until(lambda: lab.waiting(T4.queue) == 0, limit=3000)
        await gh_lab.until(lambda: lab.waiting(T4.queue) == 1, limit=3000)
        await lab.client.register("m1", T4.queue)
        assert lab.waiting(T4.queue) == 0
        await gh_lab.until(lambda: "stranded-job" in lab.sink.reasons, limit=3000)
        assert lab.waiting(T4.queue) == 0
        share = sum("/actions/runs" in request.url for request in lab.wire.asked)
        assert share < 100


@on_virtual_time
async def test_an_interrupted_job_is_run_again_once_its_run_has_ended(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    async with gh_lab.Watching(lab.client, [T4], lab.sink):
        await gh_lab.until(lambda: lab.sessions)
        await lab.queue()
        runner = await lab.runner(T4.queue, "m1")
        held = await runner.next_job(60)
        runner.start(held)
        await gh_lab.until(lambda: lab.client.demand(T4.queue).running == 1)
        [recorded] = lab.sink.jobs.values()
        assert await lab.client.retry(recorded) is base.RetryOutcome.LATER
        runner.finish(held, "failed")
        await asyncio.sleep(5)
        assert await lab.client.retry(recorded) is base.RetryOutcome.RETRIED
        assert await lab.client.retry(recorded) is base.RetryOutcome.LATER
        await gh_lab.until(lambda: lab.waiting(T4.queue) == 1)


@on_virtual_time
async def test_check_names_what_works_and_makes_nothing(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    findings = await lab.client.check([T4])
    assert {finding.level for finding in findings} == {Level.OK}, findings
    assert any("will be created" in finding.message for finding in findings)
    assert not lab.sets
    missing = await lab.client.check([gh_lab.spec(runner_group="nobody")])
    assert any(finding.level is Level.ERROR and "nobody" in finding.message for finding in missing)


@on_virtual_time
async def test_check_says_in_plain_words_what_a_weak_token_lacks(tmp_path: Path) -> None:
    lab = Lab(tmp_path, token=gh_lab.secret(tmp_path, "weak", github.auth.READER))
    findings = await lab.client.check([T4])
    [error] = [finding for finding in findings if finding.level is Level.ERROR]
    assert "admin:org" in error.message + error.remedy
    assert github.auth.READER not in error.message


@on_virtual_time
async def test_a_repository_scope_listens_and_registers(tmp_path: Path) -> None:
    lab = Lab(tmp_path, url=f"{BASE}/acme/ml")
    spec = gh_lab.spec(scope="acme/ml")
    assert lab.client.scopes() == ("acme/ml",)
    async with gh_lab.Watching(lab.client, [spec], lab.sink):
        await gh_lab.until(lambda: lab.client.demand(spec.queue).known)
        await lab.queue()
        await gh_lab.until(lambda: lab.waiting(spec.queue) == 1)
        assert (await lab.client.register("m1", spec.queue)).kind == "github"


@on_virtual_time
async def test_thousands_of_jobs_pass_in_order(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    lab.sink.room = 3000
    async with gh_lab.Watching(lab.client, [T4], lab.sink):
        await gh_lab.until(lambda: lab.sessions)
        await lab.queue(1000)
        await gh_lab.until(lambda: lab.waiting(T4.queue) == 1000, limit=60)
        await gh_lab.until(lambda: len(lab.sink.jobs) == 1000, limit=60)
