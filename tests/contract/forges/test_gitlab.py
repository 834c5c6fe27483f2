"""The GitLab forge against the simulated GitLab, on a virtual clock."""

from __future__ import annotations

import asyncio
import base64
import collections
import dataclasses
import email.utils
import itertools
import random
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytest

from provisioners.base import Level
from runnerd import config, errors, model
from runnerd.forges import base
from runnerd.forges.gitlab import client
from runnerd.forges.gitlab import runners as runner_records
from runnerd.kit import http
from runnerd.simulator import app, world
from runnerd.simulator import gitlab as simulated
from runnerd.simulator import http as wire
from tests.support import virtual

T = TypeVar("T")
START = 1_790_000_000.0
URL = "https://gitlab.test"
SIGNING = "whsec_" + base64.b64encode(b"0123456789abcdef0123456789abcdef").decode()
GPU = model.Queue("gl", "acme", "gpu-t4")
BIG = model.Queue("gl", "acme", "gpu-a100")


class Transport:
    """Sends to the simulator in process; remembers what was sent."""

    def __init__(self, target: app.App, clock: virtual.Clock) -> None:
        self._app = target
        self._clock = clock
        self.sent: list[tuple[float, http.Request]] = []

    async def send(self, request: http.Request) -> http.Response:
        self.sent.append((self._clock.now(), request))
        assert request.url.startswith(URL + "/api/v4/"), request.url
        wired = wire.request(request.method, request.url, headers=request.headers, body=request.body, base_url=URL)
        try:
            async with asyncio.timeout(request.timeout):
                answer = await self._app.handle(wired)
        except (wire.ConnectionDropped, TimeoutError) as error:
            raise errors.TransportError(f"no answer: {error}") from error
        headers = {name.lower(): value for name, value in answer.headers.items()}
        headers.setdefault("date", email.utils.formatdate(self._clock.now(), usegmt=True))
        return http.Response(answer.status, headers, answer.body)

    async def close(self) -> None:
        return None

    def paths(self, method: str) -> list[str]:
        return [r.url.removeprefix(URL + "/api/v4").partition("?")[0] for _, r in self.sent if r.method == method]


class Sink:
    """What a controller would remember."""

    def __init__(self) -> None:
        self.updates: list[base.JobUpdate] = []
        self.cursors: dict[model.Queue, Mapping[str, Any]] = {}
        self.waiting: dict[model.Queue, list[model.Job]] = collections.defaultdict(list)
        self.alarms: dict[tuple[str, str, str], str] = {}
        self.broken = False
        self.woken = asyncio.Event()

    async def record(
        self, queue: model.Queue, updates: Sequence[base.JobUpdate], cursor: Mapping[str, Any] | None = None
    ) -> None:
        await asyncio.sleep(0)
        if self.broken:
            raise errors.StoreUnwritable
        self.updates += updates
        if cursor is not None:
            self.cursors[queue] = cursor
        self.woken.set()

    def cursor(self, queue: model.Queue) -> Mapping[str, Any]:
        return self.cursors.get(queue, {})

    async def save_cursor(self, queue: model.Queue, cursor: Mapping[str, Any]) -> None:
        self.cursors[queue] = cursor

    def wake(self) -> None:
        self.woken.set()

    def capacity(self, queue: model.Queue) -> int:
        return 1

    def waiting_jobs(self, queue: model.Queue) -> Sequence[model.Job]:
        return self.waiting[queue]

    def alarm(self, subject: str, id: str, reason: str, detail: str) -> None:
        self.alarms[subject, id, reason] = detail

    def clear(self, subject: str, id: str, reason: str) -> None:
        self.alarms.pop((subject, id, reason), None)

    def events(self) -> list[tuple[str, str]]:
        return [(update.event.value, update.alias) for update in self.updates]


class Lab:
    """One simulated GitLab and one client of it."""

    def __init__(self, tmp_path: Path, settings: Mapping[str, Any] | None = None, **simulated_settings: Any) -> None:
        self.loop = virtual.Loop()
        self.clock = virtual.Clock(self.loop)
        self.world = world.World(self.clock.now, asyncio.sleep, 7, deliver=self._deliver)
        self.sim = simulated.Gitlab(self.world, options=simulated.Settings(**simulated_settings))
        self.app = app.App(self.world, gitlab_half=self.sim)
        (tmp_path / "token").write_text(self.sim.token)
        (tmp_path / "hook").write_text("hook-token")
        (tmp_path / "signing").write_text(SIGNING)
        self.settings = config.GitLabForge.model_validate(
            {
                "type": "gitlab",
                "url": URL,
                "token": f"file:{tmp_path / 'token'}",
                "groups": ["acme"],
                "webhook_token": f"file:{tmp_path / 'hook'}",
                "signing_token": f"file:{tmp_path / 'signing'}",
                **(settings or {}),
            }
        )
        self.answers: list[base.WebhookAnswer] = []
        self.sink = Sink()
        self.counted: collections.Counter[tuple[str, int]] = collections.Counter()
        self._watching: asyncio.Task[None] | None = None
        self.start()

    def start(self) -> None:
        """A fresh client, as after a restart of the daemon."""
        self.transport = Transport(self.app, self.clock)
        self.forge = client.GitLab(
            "gl",
            self.settings,
            clock=self.clock,
            transport=self.transport,
            rng=random.Random(1),
            on_request=lambda endpoint, status: self.counted.update([(endpoint, status)]),
            controller="acme-ci",
        )

    async def _deliver(self, url: str, headers: Mapping[str, str], body: bytes) -> world.HookAnswer:
        answer = await self.forge.webhook({name.lower(): value for name, value in headers.items()}, body)
        self.answers.append(answer)
        return world.HookAnswer(answer.status)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(asyncio.wait_for(work, 1e6))

    def wait(self, seconds: float) -> None:
        self.run(asyncio.sleep(seconds))

    def watch(self, *specs: base.QueueSpec) -> None:
        async def begin() -> None:
            self._watching = asyncio.create_task(self.forge.watch(specs or (spec(GPU),), self.sink))

        self.run(begin())
        self.wait(5)

    def watch_again(self, *specs: base.QueueSpec) -> None:
        """Reload: the same client, other queues."""
        assert self._watching is not None
        self._watching.cancel()
        self.run(asyncio.wait_for(asyncio.gather(self._watching, return_exceptions=True), 60))
        self.watch(*specs)

    def crash(self) -> None:
        """Stop the client without a good-bye, and start another."""

        async def end() -> None:
            assert self._watching is not None
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)

        if self._watching is not None:
            self.run(end())
            self._watching = None
        self.start()

    def close(self) -> None:
        self.crash()
        self.run(self.world.close())
        self.loop.close()

    def send(self, method: str, path: str, data: Any = None, *, token: str = "") -> wire.Response:
        target = path if path.startswith("/_sim") else "/api/v4" + path
        headers = {"PRIVATE-TOKEN": token or self.sim.token}
        return self.run(self.app.handle(wire.request(method, target, headers=headers, json_body=data, base_url=URL)))

    def queue(self, *labels: str, repo: str = "acme/ml", count: int = 1, **extra: Any) -> list[int]:
        body = {"forge": "gitlab", "repo": repo, "labels": list(labels), "count": count, **extra}
        answer = self.send("POST", "/_sim/jobs", body)
        assert answer.status == 201, answer.text
        return list(answer.json()["ids"])

    def fault(self, **fault: Any) -> None:
        answer = self.send("POST", "/_sim/faults", {"faults": [{"forge": "gitlab", **fault}]})
        assert answer.status < 300, answer.text

    def mend(self) -> None:
        self.send("DELETE", "/_sim/faults")

    def register(self, name: str, queue: model.Queue = GPU) -> base.RunnerConfig:
        return self.run(self.forge.register(name, queue, note="instance " + name))

    def registration(self, name: str, forge_id: str, queue: model.Queue = GPU) -> model.Registration:
        return model.Registration(
            id=model.RegistrationId(name),
            instance=model.InstanceId(name),
            queue=queue,
            runner_name=name,
            state=model.RegistrationState.REMOVING,
            created_at=self.clock.now(),
            since=self.clock.now(),
            forge_id=forge_id,
        )

    def remove(self, registration: model.Registration) -> base.Removal:
        return self.run(self.forge.deregister(registration))

    def listed(self) -> list[dict[str, Any]]:
        found = self.send("GET", "/groups/acme/runners?type=group_type&per_page=100").json()
        assert isinstance(found, list)
        return found

    def do(self, act: Callable[[], Any]) -> None:
        """Let the simulator do something while time runs, so that its hooks go out."""

        async def doing() -> None:
            act()

        self.run(doing())

    def connect(self, runner: base.RunnerConfig, **options: Any) -> Any:
        token = runner.environment["CI_SERVER_TOKEN"]
        options.setdefault("system_id", runner.environment.get("RUNNERD_SYSTEM_ID", "s_000000000001"))
        return self.sim.connect_runner(token, **options)


def spec(queue: model.Queue, **changes: Any) -> base.QueueSpec:
    return dataclasses.replace(base.QueueSpec(queue, (queue.pool,)), **changes)


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Lab]]:
    labs: list[Lab] = []

    def made(settings: Mapping[str, Any] | None = None, **simulated_settings: Any) -> Lab:
        labs.append(Lab(tmp_path, settings, **simulated_settings))
        return labs[-1]

    yield made
    for lab in labs:
        lab.close()


@pytest.fixture
def lab(make: Callable[..., Lab]) -> Lab:
    return make()


# -- demand --------------------------------------------------------------------------------------------------------


def test_it_is_a_forge(lab: Lab) -> None:
    assert isinstance(lab.forge, base.Forge)
    assert lab.forge.scopes() == ("acme",)


def test_demand_is_unknown_before_the_first_round_and_known_after(lab: Lab) -> None:
    assert not lab.forge.demand(GPU).known
    lab.queue("gpu-t4", count=3)
    lab.queue("gpu-t4", repo="acme/vision/net", count=2)
    lab.queue("cpu")
    lab.queue()
    lab.watch()
    demand = lab.forge.demand(GPU)
    assert (demand.known, demand.waiting, dict(demand.repos)) == (True, 5, {"acme/ml": 3, "acme/vision/net": 2})
    assert [event for event, _ in lab.sink.events()] == ["queued"] * 5
    update = lab.sink.updates[0]
    assert update.labels == ("gpu-t4",) and update.repo == "acme/ml" and update.run.isdigit()
    assert abs(update.at - START) < 3


def test_demand_is_unknown_while_one_project_has_not_answered(lab: Lab) -> None:
    lab.queue("gpu-t4")
    lab.queue("gpu-t4", repo="acme/slow")
    slow = lab.send("GET", "/projects/acme%2Fslow").json()["id"]
    lab.fault(path=f"/api/v4/projects/{slow}/jobs", latency=20.0, count=1)
    lab.watch()
    assert not lab.forge.demand(GPU).known
    lab.wait(20)
    assert lab.forge.demand(GPU).known and lab.forge.demand(GPU).waiting == 2


def test_a_group_without_jobs_has_known_empty_demand(lab: Lab) -> None:
    lab.watch()
    assert lab.forge.demand(GPU) == dataclasses.replace(lab.forge.demand(GPU), waiting=0, running=0, known=True)


def test_a_job_is_followed_from_the_queue_to_its_end(lab: Lab) -> None:
    lab.watch()
    [job] = lab.queue("gpu-t4")
    lab.wait(61)
    runner = lab.register("rd-1")
    machine = lab.connect(runner)
    build = lab.run(machine.next_job(5))
    machine.start(build)
    lab.wait(20)
    demand = lab.forge.demand(GPU)
    assert (demand.waiting, demand.running) == (0, 1)
    assert list(lab.sink.cursors[GPU]["running"]) == [str(job)]
    machine.finish(build, "success")
    lab.wait(20)
    assert lab.sink.events() == [("queued", str(job)), ("started", str(job)), ("completed", str(job))]
    assert lab.sink.updates[1].runner_name == "rd-1"
    assert lab.sink.updates[2].conclusion == "success"
    assert lab.forge.demand(GPU).running == 0 and lab.sink.cursors[GPU] == {"running": {}}


def test_an_assigned_but_unacknowledged_job_still_waits(lab: Lab) -> None:
    lab.watch()
    lab.queue("gpu-t4")
    machine = lab.connect(lab.register("rd-1"))
    build = lab.run(machine.next_job(5))
    lab.wait(61)
    assert lab.forge.demand(GPU).waiting == 1
    machine.start(build)
    lab.wait(20)
    assert lab.forge.demand(GPU).waiting == 0


def test_what_ran_before_a_restart_is_still_told(lab: Lab) -> None:
    lab.watch()
    [job] = lab.queue("gpu-t4")
    machine = lab.connect(lab.register("rd-1"))
    build = lab.run(machine.next_job(5))
    machine.start(build)
    lab.wait(61)
    assert lab.sink.events()[-1] == ("started", str(job))
    lab.crash()
    machine.finish(build, "failed")
    lab.watch()
    assert lab.sink.events()[-1] == ("completed", str(job))
    assert (lab.sink.updates[-1].conclusion, lab.sink.updates[-1].repo) == ("failure", "acme/ml")


def test_a_job_that_waited_before_a_restart_and_ended_meanwhile_is_told(lab: Lab) -> None:
    lab.watch()
    [job] = lab.queue("gpu-t4")
    lab.wait(61)
    told = lab.sink.updates[0]
    lab.crash()
    lab.sink.waiting[GPU] = [
        model.Job(told.key, GPU, told.repo, told.run, told.name, told.labels, aliases=(told.alias,))
    ]
    lab.send("POST", f"/_sim/jobs/{job}/cancel")
    lab.send("POST", f"/projects/acme%2Fml/jobs/{job}/cancel")
    lab.watch()
    assert lab.sink.events() == [("queued", str(job)), ("completed", str(job))]
    assert lab.sink.updates[-1].conclusion == "cancelled" and lab.forge.demand(GPU).waiting == 0


def test_facts_are_told_again_when_the_store_could_not_write(lab: Lab) -> None:
    lab.sink.broken = True
    lab.queue("gpu-t4")
    lab.watch()
    assert lab.sink.updates == [] and not lab.forge.demand(GPU).known
    lab.sink.broken = False
    lab.wait(61)
    assert [event for event, _ in lab.sink.events()] == ["queued"]
    assert lab.forge.demand(GPU).waiting == 1


def test_two_pages_of_jobs_are_all_counted(lab: Lab) -> None:
    lab.queue("gpu-t4", count=230)
    lab.watch()
    assert lab.forge.demand(GPU).waiting == 230
    pages = [r.url for _, r in lab.transport.sent if "/jobs?" in r.url and r.method == "GET"]
    assert len(pages) >= 3 and "pagination=keyset" in pages[0] and "sort=asc" in pages[0]


def test_the_end_of_a_matrix_costs_one_request_and_not_one_per_job(lab: Lab) -> None:
    lab.watch()
    jobs = lab.queue("gpu-t4", count=30)
    lab.wait(61)
    for job in jobs:
        lab.send("POST", f"/projects/acme%2Fml/jobs/{job}/cancel")
    before = len(lab.transport.sent)
    lab.wait(16)
    assert [event for event, _ in lab.sink.events()].count("completed") == 30
    assert len(lab.transport.sent) - before <= 4


def test_a_project_that_fails_does_not_stop_the_others(lab: Lab) -> None:
    lab.queue("gpu-t4")
    lab.queue("gpu-t4", repo="acme/broken")
    broken = lab.send("GET", "/projects/acme%2Fbroken").json()["id"]
    lab.fault(path=f"/api/v4/projects/{broken}/jobs", status=500)
    lab.watch()
    lab.wait(120)
    demand = lab.forge.demand(GPU)
    assert demand.known and demand.waiting == 1
    assert ("forge", "gl/acme/broken", "project") in lab.sink.alarms
    lab.mend()
    lab.wait(61)
    assert lab.forge.demand(GPU).waiting == 2
    assert ("forge", "gl/acme/broken", "project") not in lab.sink.alarms


def test_an_outage_makes_demand_unknown_and_is_asked_gently(lab: Lab) -> None:
    lab.queue("gpu-t4", count=2)
    for index in range(10):
        lab.queue("cpu", repo=f"acme/p{index}")
    lab.watch()
    assert lab.forge.demand(GPU).known and lab.forge.health(GPU).ok
    lab.fault(outage=True)
    lab.wait(600)
    demand = lab.forge.demand(GPU)
    assert not demand.known and demand.waiting == 2
    assert not lab.forge.health(GPU).ok and "503" in lab.forge.health(GPU).problem
    # One answer in a minute at least, and no hammering: 11 projects would be 11 per backoff without the pause.
    recent = [when for when, _ in lab.transport.sent if when > lab.clock.now() - 300]
    assert 4 <= len(recent) <= 120
    lab.mend()
    lab.wait(130)
    assert lab.forge.demand(GPU).known and lab.forge.health(GPU).ok


def test_html_instead_of_json_is_no_answer(lab: Lab) -> None:
    lab.queue("gpu-t4")
    lab.watch()
    lab.fault(path="/api/v4/projects/*/jobs", html=True, status=200)
    lab.wait(300)
    assert not lab.forge.demand(GPU).known
    assert lab.forge.demand(GPU).waiting == 1


def test_a_byte_order_mark_does_no_harm(lab: Lab) -> None:
    lab.fault(bom=True)
    lab.queue("gpu-t4")
    lab.watch()
    assert lab.forge.demand(GPU).waiting == 1


def test_a_revoked_token_is_said_and_a_new_one_in_the_file_is_taken(lab: Lab, tmp_path: Path) -> None:
    lab.watch()
    lab.fault(revoke_token=True, count=1)
    lab.wait(200)
    assert any(reason == "credential" for _, _, reason in lab.sink.alarms)
    words = lab.forge.health(GPU).problem
    assert "401" in words and "revoked" in words and lab.sim.token not in words
    answer = lab.send("POST", "/_sim/gitlab/tokens", {"scopes": ["api"], "admin": True})
    assert answer.status < 300, answer.text
    (tmp_path / "token").write_text(answer.json()["token"])
    lab.wait(130)
    assert lab.forge.health(GPU).ok and lab.forge.demand(GPU).known


def test_a_429_is_obeyed(make: Callable[..., Lab]) -> None:
    lab = make()
    lab.queue("gpu-t4")
    lab.watch()
    reset = int(lab.clock.now()) + 90
    lab.fault(
        path="/api/v4/projects/*/jobs",
        status=429,
        count=1,
        body="Retry later\n",
        headers={"RateLimit-Reset": str(reset), "Retry-After": "90"},
    )
    lab.wait(61)
    refused = lab.counted["GET /projects/{id}/jobs", 429]
    assert refused == 1
    lab.wait(100)
    inside = [when for when, _ in lab.transport.sent if reset - 25 < when < reset - 2]
    assert inside == []
    lab.wait(30)
    assert lab.forge.demand(GPU).known


def test_no_minute_has_more_requests_than_allowed(make: Callable[..., Lab]) -> None:
    lab = make({"requests_per_minute": 60, "poll": "15s", "idle_poll": "60s"})
    for index in range(60):
        lab.queue("gpu-t4" if index < 5 else "cpu", repo=f"acme/p{index}")
    lab.watch()
    lab.wait(700)
    lab.transport.sent.clear()
    lab.wait(1800)
    times = [when for when, _ in lab.transport.sent]
    assert max(sum(1 for other in times if start <= other < start + 60) for start in times) <= 60
    polls = collections.Counter(
        r.url.split("/projects/")[1].split("/")[0] for _, r in lab.transport.sent if "/jobs?" in r.url
    )
    active = [count for project, count in polls.items() if count == max(polls.values())]
    assert min(polls.values()) >= 4, "every project is asked again and again"
    assert active and max(polls.values()) >= 2.5 * min(polls.values()), "a busy project is asked more often"


def test_quiet_projects_are_asked_seldom(lab: Lab) -> None:
    lab.queue("gpu-t4", repo="acme/busy")
    lab.queue("cpu", repo="acme/quiet")
    lab.watch()
    lab.wait(1200)
    lab.transport.sent.clear()
    lab.wait(600)
    busy, quiet = (lab.send("GET", f"/projects/acme%2F{name}").json()["id"] for name in ("busy", "quiet"))
    polls = collections.Counter(
        r.url.split("/projects/")[1].split("/")[0] for _, r in lab.transport.sent if "/jobs?" in r.url
    )
    assert 38 <= polls[str(busy)] <= 48 and 9 <= polls[str(quiet)] <= 12


def test_the_same_seed_sends_the_same_requests(make: Callable[..., Lab]) -> None:
    sent = []
    for _ in range(2):
        lab = make()
        lab.queue("gpu-t4", count=3)
        lab.queue("cpu", repo="acme/other")
        lab.watch()
        lab.wait(900)
        sent.append([(when, request.method, request.url) for when, request in lab.transport.sent])
    assert sent[0] == sent[1] and len(sent[0]) > 60


def test_a_new_project_is_found(lab: Lab) -> None:
    lab.watch()
    lab.queue("gpu-t4", repo="acme/fresh")
    lab.wait(700)
    assert lab.forge.demand(GPU).waiting == 1


def test_a_project_named_by_itself_is_a_scope_of_its_own(make: Callable[..., Lab]) -> None:
    lab = make({"projects": ["acme/ml"]})
    single = model.Queue("gl", "acme/ml", "gpu-t4")
    lab.queue("gpu-t4")
    lab.queue("gpu-t4", repo="acme/other", count=2)
    lab.watch(spec(GPU), spec(single))
    assert (lab.forge.demand(GPU).waiting, lab.forge.demand(single).waiting) == (2, 1)
    runner = lab.register("rd-1", single)
    assert lab.send("GET", f"/runners/{runner.forge_id}").json()["runner_type"] == "project_type"


# -- who may use a pool --------------------------------------------------------------------------------------------


def test_untagged_jobs_go_only_to_a_pool_that_takes_them(lab: Lab) -> None:
    lab.queue()
    lab.queue("gpu-t4")
    lab.watch(spec(GPU), spec(BIG, untagged=True))
    assert (lab.forge.demand(GPU).waiting, lab.forge.demand(BIG).waiting) == (1, 1)


def test_only_projects_that_the_operator_lets_in_count(lab: Lab) -> None:
    lab.queue("gpu-t4", repo="acme/nlp-one")
    lab.queue("gpu-t4", repo="acme/other")
    lab.watch(spec(GPU, repos=("acme/nlp-*",)))
    assert dict(lab.forge.demand(GPU).repos) == {"acme/nlp-one": 1}


def test_a_pool_for_protected_refs_takes_only_their_jobs(lab: Lab) -> None:
    # The simulator does not list protected refs, so its answers are scripted.
    lab.fault(path="/api/v4/projects/*/protected_branches", status=200, body=[{"name": "main"}, {"name": "rel/*"}])
    lab.fault(path="/api/v4/projects/*/protected_tags", status=200, body=[])
    for ref in ("main", "rel/1", "feature"):
        lab.queue("gpu-t4", ref=ref)
    lab.queue("gpu-a100", ref="feature")
    lab.watch(spec(GPU, protected_only=True), spec(BIG))
    assert (lab.forge.demand(GPU).waiting, lab.forge.demand(BIG).waiting) == (2, 1)
    runner = lab.register("rd-1")
    assert lab.send("GET", f"/runners/{runner.forge_id}").json()["access_level"] == "ref_protected"


def test_other_pools_go_on_when_protected_refs_cannot_be_read(lab: Lab) -> None:
    lab.queue("gpu-t4", ref="main")
    lab.queue("gpu-a100", ref="main")
    lab.watch(spec(GPU, protected_only=True), spec(BIG))
    assert (lab.forge.demand(GPU).waiting, lab.forge.demand(BIG).waiting) == (0, 1)
    assert ("forge", "gl/acme/ml", "protection") in lab.sink.alarms


def test_a_reload_keeps_what_waits_and_what_runs(lab: Lab) -> None:
    lab.queue("gpu-t4", count=2)
    lab.watch()
    machine = lab.connect(lab.register("rd-1"))
    build = lab.run(machine.next_job(5))
    machine.start(build)
    lab.wait(20)
    told = [update for update in lab.sink.updates if update.event is base.JobEvent.QUEUED]
    lab.sink.waiting[GPU] = [
        model.Job(update.key, GPU, update.repo, update.run, update.name, aliases=(update.alias,))
        for update in told
        if update.alias != str(build.id)
    ]
    before = len(lab.sink.updates)
    lab.watch_again(spec(GPU), spec(BIG))
    demand = lab.forge.demand(GPU)
    assert (demand.known, demand.waiting, demand.running) == (True, 1, 1)
    assert len(lab.sink.updates) == before, "nothing is told twice"


# -- runners -------------------------------------------------------------------------------------------------------


def test_a_runner_is_made_as_the_queue_needs_it(lab: Lab) -> None:
    lab.watch(spec(GPU, labels=("gpu-t4", "big"), max_job=7200.0))
    runner = lab.register("rd-1")
    record = lab.send("GET", f"/runners/{runner.forge_id}").json()
    assert (record["description"], sorted(record["tag_list"])) == ("rd-1", ["big", "gpu-t4"])
    assert (record["run_untagged"], record["locked"], record["maximum_timeout"]) == (False, True, 7200)
    assert record["maintenance_note"] == "runnerd acme-ci instance rd-1"
    token = runner.environment["CI_SERVER_TOKEN"]
    assert token.startswith("glrt-") and token not in repr(runner)
    assert runner.environment["CI_SERVER_URL"] == URL
    assert runner.arguments[:2] == ("--max-builds", "1") and "--wait-timeout" in runner.arguments
    view = lab.run(lab.forge.find("rd-1", GPU))
    assert view is not None and view.forge_id == runner.forge_id


def test_the_listing_leaves_out_what_is_no_instance(lab: Lab) -> None:
    lab.watch()
    lab.register("rd-1")
    listing = lab.run(lab.forge.list_runners(GPU))
    assert listing.complete and [view.name for view in listing.views] == ["rd-1"]
    assert len(lab.listed()) == 2


@pytest.mark.parametrize("drop", ["before", "after"])
def test_a_lost_create_answer_is_resolved_by_name(lab: Lab, drop: str) -> None:
    lab.watch()
    lab.fault(method="POST", path="/api/v4/user/runners", drop=drop, count=1)
    with pytest.raises(errors.ForgeError) as caught:
        lab.register("rd-1")
    assert caught.value.maybe_created
    assert lab.transport.paths("POST").count("/user/runners") == 2, "the heartbeat's and ours, once"
    lost = lab.registration("rd-1", "")
    outcomes = [lab.remove(lost)]
    while outcomes[-1] is base.Removal.PENDING and len(outcomes) < 30:
        lab.wait(10)
        outcomes.append(lab.remove(lost))
    assert outcomes[-1] is base.Removal.REMOVED
    assert (len(outcomes) > 12) is (drop == "before"), "absence is believed only once the call cannot come true"
    assert [row["description"] for row in lab.listed()] == ["runnerd heartbeat acme-ci gl:acme:gpu-t4"]
    assert lab.run(lab.forge.find("rd-1", GPU)) is None


def test_an_idle_runner_is_removed_only_after_the_windows(lab: Lab) -> None:
    lab.watch()
    runner = lab.register("rd-1")
    machine = lab.connect(runner)
    assert lab.run(machine.next_job(1)) is None
    mine = lab.registration("rd-1", runner.forge_id)
    began = lab.clock.now()
    while (outcome := lab.remove(mine)) is base.Removal.PENDING:
        assert lab.send("GET", f"/runners/{runner.forge_id}").json()["paused"] is True
        lab.wait(10)
    windows = runner_records.Windows()
    assert outcome is base.Removal.REMOVED
    assert windows.contacted <= lab.clock.now() - began <= windows.contacted + 15
    assert lab.remove(mine) is base.Removal.REMOVED


def test_a_runner_that_never_connected_goes_quickly(lab: Lab) -> None:
    lab.watch()
    runner = lab.register("rd-1")
    mine = lab.registration("rd-1", runner.forge_id)
    assert lab.remove(mine) is base.Removal.PENDING
    lab.wait(11)
    assert lab.remove(mine) is base.Removal.REMOVED


def test_a_runner_whose_one_job_ended_goes_at_once(lab: Lab) -> None:
    lab.watch()
    lab.queue("gpu-t4")
    runner = lab.register("rd-1")
    machine = lab.connect(runner)
    build = lab.run(machine.next_job(5))
    machine.start(build)
    mine = lab.registration("rd-1", runner.forge_id)
    assert lab.remove(mine) is base.Removal.BUSY
    lab.wait(400)
    assert lab.remove(mine) is base.Removal.BUSY
    machine.finish(build)
    assert lab.remove(mine) is base.Removal.REMOVED


def test_a_job_between_two_polls_is_told_when_its_runner_goes(lab: Lab) -> None:
    lab.queue("cpu")
    lab.watch()
    lab.wait(700)
    [job] = lab.queue("gpu-t4")
    runner = lab.register("rd-1")
    machine = lab.connect(runner)
    build = lab.run(machine.next_job(5))
    machine.start(build)
    machine.finish(build, "failed")
    assert lab.sink.updates == []
    assert lab.remove(lab.registration("rd-1", runner.forge_id)) is base.Removal.REMOVED
    assert lab.sink.events() == [("started", str(job)), ("completed", str(job))]
    last = lab.sink.updates[-1]
    assert (last.repo, last.runner_name, last.conclusion, last.queue) == ("acme/ml", "rd-1", "failure", GPU)
    lab.wait(120)
    assert len(lab.sink.updates) == 2 and lab.forge.demand(GPU).running == 0


def test_a_job_assigned_and_not_acknowledged_makes_it_busy(lab: Lab) -> None:
    lab.watch()
    lab.queue("gpu-t4")
    runner = lab.register("rd-1")
    machine = lab.connect(runner)
    build = lab.run(machine.next_job(5))
    assert lab.remove(lab.registration("rd-1", runner.forge_id)) is base.Removal.BUSY
    machine.start(build)
    lab.wait(300)
    assert lab.remove(lab.registration("rd-1", runner.forge_id)) is base.Removal.BUSY


def test_a_restart_in_the_middle_of_a_removal_waits_anew_and_stays_safe(lab: Lab) -> None:
    lab.watch()
    runner = lab.register("rd-1")
    machine = lab.connect(runner)
    assert lab.run(machine.next_job(1)) is None
    mine = lab.registration("rd-1", runner.forge_id)
    assert lab.remove(mine) is base.Removal.PENDING
    lab.wait(100)
    lab.crash()
    lab.watch()
    assert lab.remove(mine) is base.Removal.PENDING
    lab.wait(60)
    assert lab.remove(mine) is base.Removal.PENDING
    lab.wait(100)
    assert lab.remove(mine) is base.Removal.REMOVED


def test_no_answer_about_jobs_removes_nothing(lab: Lab) -> None:
    lab.watch()
    runner = lab.register("rd-1")
    mine = lab.registration("rd-1", runner.forge_id)
    lab.fault(path="/api/v4/runners/*/jobs", status=500)
    for _ in range(3):
        with pytest.raises(errors.ForgeUnavailable):
            lab.remove(mine)
        lab.wait(200)
    assert "DELETE" not in {request.method for _, request in lab.transport.sent}


def test_a_forge_that_refuses_registrations_is_asked_less_and_less(make: Callable[..., Lab]) -> None:
    lab = make({"registration": "instance"}, runners_per_group=1)
    lab.watch()
    refusals = 0
    for _ in range(60):
        try:
            lab.register(f"rd-{refusals}")
        except errors.ForgeThrottled as error:
            lab.wait(min(10.0, error.retry_after))
        except errors.ForgeError as error:
            refusals += 1
            assert not error.maybe_created and "rd-" in str(error)
            health = lab.forge.health(GPU)
            assert not health.ok and health.register_after > lab.clock.now()
    assert 3 <= refusals <= 6


def test_the_headroom_is_what_the_cap_leaves(make: Callable[..., Lab]) -> None:
    lab = make({"registration": "instance", "runner_cap": 4})
    lab.watch()
    lab.register("rd-1")
    assert lab.run(lab.forge.list_runners(GPU)).complete
    assert lab.forge.headroom(GPU) == 2, "a heartbeat and an instance of four"


# -- one record for many -------------------------------------------------------------------------------------------


def test_near_the_cap_instances_share_a_record(make: Callable[..., Lab]) -> None:
    lab = make({"runner_cap": 5})
    lab.watch()
    made = [lab.register(f"rd-{index}") for index in range(6)]
    shared = [runner for runner in made if runner.forge_id.startswith("flavour:")]
    assert len(shared) == 3 and len({runner.forge_id for runner in shared}) == 1
    assert len({runner.environment["RUNNERD_SYSTEM_ID"] for runner in shared}) == 3
    assert len(lab.listed()) == 5
    assert not lab.run(lab.forge.list_runners(GPU)).complete, "who shares a record is in no list"


def test_the_removal_from_a_shared_record_spares_the_others(make: Callable[..., Lab]) -> None:
    lab = make({"registration": "flavour"})
    lab.watch()
    lab.queue("gpu-t4")
    one, two = lab.register("rd-1"), lab.register("rd-2")
    busy, idle = lab.connect(one), lab.connect(two)
    build = lab.run(busy.next_job(5))
    busy.start(build)
    assert lab.run(idle.next_job(1)) is None
    lab.wait(30)
    assert lab.sink.updates[-1].runner_name == "rd-1"
    first, second = lab.registration("rd-1", one.forge_id), lab.registration("rd-2", two.forge_id)
    assert lab.remove(first) is base.Removal.BUSY
    assert lab.remove(second) is base.Removal.PENDING
    lab.wait(30)
    assert lab.run(idle.next_job(1)) is None, "its process still lives and asks"
    lab.wait(40)
    assert lab.remove(second) is base.Removal.PENDING, "so it cannot be called gone"
    idle.die()
    lab.wait(61)
    assert lab.remove(second) is base.Removal.REMOVED
    assert lab.remove(first) is base.Removal.BUSY
    busy.finish(build)
    busy.die()
    assert lab.remove(first) is base.Removal.PENDING
    lab.wait(61)
    assert lab.remove(first) is base.Removal.REMOVED
    assert len(lab.listed()) == 2, "the shared record and the heartbeat stay"


def test_a_job_on_a_manager_that_nobody_knows_counts_as_ours(make: Callable[..., Lab]) -> None:
    lab = make({"registration": "flavour"})
    lab.watch()
    lab.queue("gpu-t4")
    runner = lab.register("rd-1")
    machine = lab.connect(runner, system_id="s_cafecafecafe")
    build = lab.run(machine.next_job(5))
    machine.start(build)
    assert lab.remove(lab.registration("rd-1", runner.forge_id)) is base.Removal.BUSY


def test_after_a_restart_the_old_shared_record_ends_safely(make: Callable[..., Lab]) -> None:
    lab = make({"registration": "flavour"})
    lab.watch()
    lab.queue("gpu-t4")
    old = lab.register("rd-1")
    machine = lab.connect(old)
    build = lab.run(machine.next_job(5))
    machine.start(build)
    lab.crash()
    lab.watch()
    new = lab.register("rd-2")
    assert new.forge_id != old.forge_id
    mine = lab.registration("rd-1", old.forge_id)
    assert lab.remove(mine) is base.Removal.BUSY
    machine.finish(build)
    lab.wait(200)
    assert lab.remove(mine) is base.Removal.REMOVED
    assert {str(row["id"]) for row in lab.listed()} >= {new.forge_id.removeprefix("flavour:")}
    assert old.forge_id.removeprefix("flavour:") not in {str(row["id"]) for row in lab.listed()}


# -- the heartbeat -------------------------------------------------------------------------------------------------


def test_a_waiting_job_survives_for_hours_without_a_runner(lab: Lab) -> None:
    lab.watch()
    [job] = lab.queue("gpu-t4")
    lab.wait(6 * 3600)
    assert lab.send("GET", f"/projects/acme%2Fml/jobs/{job}").json()["status"] == "pending"
    assert lab.forge.demand(GPU).waiting == 1
    verified = [when for when, request in lab.transport.sent if request.url.endswith("/runners/verify")]
    assert max(b - a for a, b in itertools.pairwise(verified)) <= 1800
    assert not any(reason == "heartbeat" for _, _, reason in lab.sink.alarms)


def test_without_the_heartbeat_that_job_would_be_dropped(lab: Lab) -> None:
    lab.fault(path="/api/v4/runners/verify", status=500)
    lab.watch()
    [job] = lab.queue("gpu-t4")
    lab.wait(3 * 3600)
    assert lab.send("GET", f"/projects/acme%2Fml/jobs/{job}").json()["status"] == "failed"
    assert any(reason == "heartbeat" for _, _, reason in lab.sink.alarms)


def test_a_restart_keeps_the_record_and_resets_its_token(lab: Lab) -> None:
    lab.watch()
    before = [row["id"] for row in lab.listed()]
    lab.crash()
    lab.watch()
    assert [row["id"] for row in lab.listed()] == before
    assert ("POST /runners/verify", 200) in lab.counted


def test_a_deleted_heartbeat_is_made_anew(lab: Lab) -> None:
    lab.watch()
    [row] = lab.listed()
    assert lab.send("DELETE", f"/runners/{row['id']}").status == 204
    lab.wait(1700)
    [again] = lab.listed()
    assert again["id"] != row["id"]


def test_the_heartbeat_of_a_pool_that_left_is_deleted(lab: Lab) -> None:
    lab.watch(spec(GPU), spec(BIG))
    assert len(lab.listed()) == 2
    lab.crash()
    lab.watch(spec(GPU))
    assert [row["description"] for row in lab.listed()] == ["runnerd heartbeat acme-ci gl:acme:gpu-t4"]


def test_a_heartbeat_that_does_not_count_as_contact_is_alarmed(lab: Lab) -> None:
    lab.fault(path="/api/v4/runners/verify", status=200, body={"id": 1, "token": "x", "token_expires_at": None})
    lab.watch()
    [words] = [words for (_, _, reason), words in lab.sink.alarms.items() if reason == "heartbeat"]
    assert "never_contacted" in words and "dropped" in words


# -- webhooks ------------------------------------------------------------------------------------------------------


def hook(lab: Lab, **secret: str) -> None:
    project = lab.send("GET", "/projects/acme%2Fml").json()["id"]
    answer = lab.send(
        "POST", f"/projects/{project}/hooks", {"url": "https://runnerd.test/hook", "job_events": True, **secret}
    )
    assert answer.status == 201, answer.text


@pytest.mark.parametrize("secret", [{"token": "hook-token"}, {"signing_token": SIGNING}], ids=["token", "signed"])
def test_a_delivery_tells_of_a_job_at_once(lab: Lab, secret: dict[str, str]) -> None:
    lab.queue("cpu")
    lab.watch()
    hook(lab, **secret)
    lab.wait(700)
    lab.transport.sent.clear()
    [job] = lab.queue("gpu-t4")
    lab.wait(1)
    assert {answer.status for answer in lab.answers} == {200}
    assert lab.sink.events() == [("queued", str(job))]
    gets = [path for path in lab.transport.paths("GET") if path.endswith(f"/jobs/{job}")]
    assert len(gets) == 1
    machine = lab.connect(lab.register("rd-1"))
    build = lab.run(machine.next_job(5))
    lab.do(lambda: machine.start(build))
    lab.wait(1)
    lab.do(lambda: machine.finish(build))
    lab.wait(1)
    assert [event for event, _ in lab.sink.events()] == ["queued", "started", "completed"]


def test_a_delivery_with_a_wrong_secret_is_refused(lab: Lab) -> None:
    lab.queue("cpu")
    lab.watch()
    hook(lab, token="wrong")
    lab.queue("gpu-t4")
    lab.wait(1)
    assert {answer.status for answer in lab.answers} == {401} and lab.sink.updates == []


def test_deliveries_late_twice_and_out_of_order_change_nothing(lab: Lab) -> None:
    lab.queue("cpu")
    lab.watch()
    hook(lab, token="hook-token")
    kept: list[tuple[dict[str, str], bytes]] = []
    original = lab.forge.webhook

    async def keep(headers: Mapping[str, str], body: bytes) -> base.WebhookAnswer:
        kept.append((dict(headers), body))
        return await original(headers, body)

    lab.forge.webhook = keep  # type: ignore[method-assign]
    [job] = lab.queue("gpu-t4")
    machine = lab.connect(lab.register("rd-1"))
    build = lab.run(machine.next_job(5))
    lab.do(lambda: machine.start(build))
    lab.wait(1)
    lab.do(lambda: machine.finish(build))
    lab.wait(1)
    told = lab.sink.events()
    assert [event for event, _ in told] == ["queued", "started", "completed"]
    for index, (headers, body) in enumerate(reversed(kept)):
        assert lab.run(original(headers, body)).status == 200
        assert lab.run(original({**headers, "idempotency-key": f"new-{index}"}, body)).status == 200
        lab.wait(30)
    assert lab.sink.events() == told
    assert (lab.forge.demand(GPU).waiting, lab.forge.demand(GPU).running) == (0, 0)
    assert told[0] == ("queued", str(job))


def test_a_flood_of_deliveries_becomes_one_poll(lab: Lab) -> None:
    lab.queue("cpu")
    lab.watch()
    hook(lab, token="hook-token")
    lab.wait(700)
    lab.transport.sent.clear()
    lab.queue("gpu-t4", count=50)
    lab.wait(2)
    assert lab.forge.demand(GPU).waiting == 50
    assert len(lab.transport.paths("GET")) <= 6


# -- jobs ----------------------------------------------------------------------------------------------------------


def job_of(update: base.JobUpdate) -> model.Job:
    return model.Job(
        update.key, GPU, update.repo, update.run, update.name, aliases=(update.alias,), runner_name=update.runner_name
    )


def test_the_job_of_a_dead_instance_is_cancelled_and_retried(lab: Lab) -> None:
    lab.watch()
    lab.queue("gpu-t4")
    machine = lab.connect(lab.register("rd-1"))
    build = lab.run(machine.next_job(5))
    machine.start(build)
    lab.wait(61)
    machine.die()
    job = job_of(lab.sink.updates[-1])
    outcomes = []
    for _ in range(5):
        outcomes.append(lab.run(lab.forge.retry(job)))
        if outcomes[-1] is not base.RetryOutcome.LATER:
            break
        lab.wait(20)
    assert outcomes[0] is base.RetryOutcome.LATER and outcomes[-1] is base.RetryOutcome.RETRIED
    assert lab.run(lab.forge.retry(job)) is base.RetryOutcome.RETRIED, "asked twice, done once"
    lab.wait(20)
    assert lab.forge.demand(GPU).waiting == 1
    posts = [path for path in lab.transport.paths("POST") if path.endswith("/retry")]
    assert len(posts) == 1


def test_a_lost_retry_answer_does_not_retry_twice(lab: Lab) -> None:
    lab.watch()
    [id_] = lab.queue("gpu-t4")
    lab.wait(61)
    job = job_of(lab.sink.updates[-1])
    lab.send("POST", f"/projects/acme%2Fml/jobs/{id_}/cancel")
    lab.fault(method="POST", path="/api/v4/projects/*/jobs/*/retry", drop="after", count=1)
    with pytest.raises(errors.ForgeUnavailable):
        lab.run(lab.forge.retry(job))
    assert lab.run(lab.forge.retry(job)) is base.RetryOutcome.RETRIED
    lab.wait(61)
    assert lab.forge.demand(GPU).waiting == 1


def test_a_job_that_succeeded_is_not_retried(lab: Lab) -> None:
    lab.watch()
    lab.queue("gpu-t4")
    machine = lab.connect(lab.register("rd-1"))
    build = lab.run(machine.next_job(5))
    machine.start(build)
    lab.wait(61)
    machine.finish(build)
    assert lab.run(lab.forge.retry(job_of(lab.sink.updates[-1]))) is base.RetryOutcome.REFUSED


def test_the_truth_about_jobs_is_asked_and_gaps_are_left_out(lab: Lab) -> None:
    lab.watch()
    lab.queue("gpu-t4")
    lab.wait(61)
    job = job_of(lab.sink.updates[-1])
    ghost = dataclasses.replace(job, aliases=("999999",))
    [told] = lab.run(lab.forge.job_states([ghost, job]))
    assert (told.event, told.key) == (base.JobEvent.QUEUED, job.key)


def test_check_says_what_is_in_order_and_what_is_not(lab: Lab) -> None:
    lab.queue("gpu-t4")
    findings = lab.run(lab.forge.check())
    assert not [finding for finding in findings if finding.level is Level.ERROR], findings
    assert any("1 projects" in finding.message for finding in findings)
    lab.send("POST", "/_sim/gitlab/tokens", {"value": "glpat-reader", "scopes": ["read_api"]})


def test_the_servers_clock_is_known_after_a_request(lab: Lab) -> None:
    lab.watch()
    date = lab.forge.server_date()
    assert date is not None and abs(date[0] - date[1]) < 3


@pytest.mark.parametrize(
    ("scopes", "level"),
    [
        (["api"], Level.OK),
        (["create_runner", "manage_runner", "read_api"], Level.OK),
        (["read_api"], Level.ERROR),
    ],
)
def test_check_judges_the_scopes_of_the_token(lab: Lab, tmp_path: Path, scopes: list[str], level: Level) -> None:
    lab.queue("gpu-t4")
    answer = lab.send("POST", "/_sim/gitlab/tokens", {"scopes": scopes, "admin": True})
    (tmp_path / "token").write_text(answer.json()["token"])
    findings = [finding for finding in lab.run(lab.forge.check()) if finding.place == "forges.gl.token"]
    assert [finding.level for finding in findings] == [level], findings
    assert level is Level.OK or findings[0].remedy


def test_check_names_a_group_that_is_not_there_and_a_dead_token(make: Callable[..., Lab], tmp_path: Path) -> None:
    lab = make({"groups": ["acme", "nowhere"]})
    wrong = [finding for finding in lab.run(lab.forge.check()) if finding.level is Level.ERROR]
    assert [finding.place for finding in wrong] == ["forges.gl.groups.nowhere"] and "404" in wrong[0].message
    lab.wait(120)
    (tmp_path / "token").write_text("glpat-of-nobody-at-all")
    [finding] = lab.run(lab.forge.check())
    assert finding.level is Level.ERROR and "401" in finding.message and "glpat" not in finding.message


@pytest.mark.parametrize("seed", range(8))
def test_through_any_weather_the_end_is_known_and_no_working_runner_is_removed(
    make: Callable[..., Lab], seed: int
) -> None:
    chance = random.Random(seed)
    lab = make({"registration": "flavour" if seed % 4 == 3 else "instance"})
    lab.queue("cpu", repo="acme/ml")
    lab.watch()
    effects: list[dict[str, Any]] = [
        {"drop": "before"},
        {"drop": "after"},
        {"status": 500},
        {"status": 429, "headers": {"Retry-After": "7"}},
        {"html": True},
        {"hang_after": True},
        {"bom": True},
    ]
    for effect in effects:
        lab.fault(probability=0.06, **effect)
    machines: dict[str, tuple[base.RunnerConfig, Any, Any]] = {}
    leaving: dict[str, model.Registration] = {}
    queued: list[int] = []
    hold = {"POST", "PUT", "DELETE"}
    for step in range(60):
        if chance.random() < 0.3:
            queued += lab.queue("gpu-t4")
        name = f"rd-{seed}-{step}"
        try:
            config_ = lab.register(name)
            machine = lab.connect(config_)
            build = lab.run(machine.next_job(1))
            if build is not None:
                machine.start(build)
            machines[name] = (config_, machine, build)
        except errors.ForgeError as error:
            if error.maybe_created:
                leaving[name] = lab.registration(name, "")
        for name, (config_, machine, build) in list(machines.items()):
            if build is not None and chance.random() < 0.2:
                machine.finish(build)
                machines[name] = (config_, machine, None)
                machine.die()
                build = None
            if chance.random() < 0.3:
                gone = leaving.setdefault(name, lab.registration(name, config_.forge_id))
                try:
                    outcome = lab.remove(gone)
                except errors.ForgeError:
                    continue
                if outcome is base.Removal.REMOVED:
                    assert build is None or build.state not in ("pending", "running"), "it worked"
                    del machines[name], leaving[name]
        lab.wait(chance.uniform(1, 40))
    assert hold & {request.method for _, request in lab.transport.sent}
    lab.mend()
    for _, machine, build in machines.values():
        if build is not None:
            machine.finish(build)
        machine.die()
    lab.wait(400)
    builds = {id_: lab.sim.jobs.get(id_) for id_ in queued}
    waiting = sum(build is not None and build.state == "pending" for build in builds.values())
    demand = lab.forge.demand(GPU)
    assert (demand.known, demand.waiting, demand.running) == (True, waiting, 0)
    ended = {str(id_) for id_, build in builds.items() if build is not None and build.state in ("success", "failed")}
    told = {update.alias for update in lab.sink.updates if update.event is base.JobEvent.COMPLETED}
    seen = {update.alias for update in lab.sink.updates}
    assert told <= ended and seen & ended <= told
    for name in [*machines, *leaving]:
        known = machines[name][0].forge_id if name in machines else ""
        for _ in range(60):
            if lab.remove(leaving.get(name) or lab.registration(name, known)) is base.Removal.REMOVED:
                break
            lab.wait(20)
        else:
            raise AssertionError(f"{name} was never removed")
    left = [row["description"] for row in lab.listed()]
    assert [name for name in left if not name.startswith("runnerd ")] == []
    if seed % 4 != 3:
        told = {update.alias for update in lab.sink.updates if update.event is base.JobEvent.COMPLETED}
        assert told == ended, "also a job that came and went between two polls"
