"""A whole world on a virtual clock: both forges, simulated clouds, machines with agents, and a daemon that can die.

``Lab.check`` is called after every step and states the promises that must hold at any moment; ``Lab.settled`` and
``Lab.assert_done`` state those that must hold once faults have stopped.
"""

from __future__ import annotations

import asyncio
import functools
import os
import random
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from provisioners import base
from provisioners.offload import Offload
from runnerd import config, errors, model, store
from runnerd import daemon as daemons
from runnerd.forges import base as forges
from runnerd.forges.base import Forge
from runnerd.forges.github.client import GitHub
from runnerd.forges.gitlab.client import GitLab
from runnerd.lifecycle import agent_sessions
from runnerd.simulator import app as simulator
from runnerd.simulator import control, world
from tests.clouds.adapter import VM
from tests.simulation import life, machines
from tests.simulation.cloud import Cloud, ShippedCloud
from tests.simulation.invariants import Invariants
from tests.support import virtual

_CONFIG = """\
controller: sim
state: {state}
public_url: https://runnerd.example
secret: env:RUNNERD_SECRET
forges:
{forges}
providers:
{providers}
limits: {limits}
defaults: {{max_job: {max_job}, idle: 60s, boot: {boot}}}
reconcile: {{interval: 5s, list_interval: {list_interval:.0f}s, drain: 1s}}
pools:
{pools}
"""
GITHUB = "  hub: {type: github, url: http://127.0.0.1:1/acme, token: env:RUNNERD_PAT}\n"
GITLAB = "  lab: {type: gitlab, url: http://127.0.0.1:1, token: env:RUNNERD_PAT_LAB, groups: [acme], poll: 5s}\n"
MACHINES = "machine_types: {small: {gpu: t4, gpu_count: 1, cpus: 4, memory: 16, price: 0.5, spot_price: 0.2}}"


@dataclass
class Plan:
    """The parts and settings of a simulated world."""

    seed: int = 0
    forges: str = GITHUB
    providers: str = "  sky: {type: fake, boot: 5s}\n"
    pools: str = "  gpu: {}\n"
    limits: str = "{instances: 8}"
    max_job: str = "30m"
    #: Share of agent calls that are lost on the way, each direction.
    loss: float = 0.0
    latency: tuple[float, float] = (0.01, 0.05)
    boot: str = "2m"
    list_interval: float = 10.0


@dataclass
class Lab:
    """The world and its daemon."""

    plan: Plan
    rng: random.Random
    clock: virtual.Clock
    app: simulator.App
    directory: Path
    #: By name of the provider; one that is not here when its daemon starts is the cloud that ships with runnerd.
    clouds: dict[str, Cloud] = field(default_factory=dict)
    daemon: daemons.Daemon | None = None
    life: life.Life | None = None
    machines: machines.Machines = field(init=False)
    invariants: Invariants = field(init=False)
    #: Wraps what is built for a daemon, so that a test can break a rule on purpose.
    mutate: Callable[[daemons.Daemon], None] = lambda daemon: None
    #: Seams at which a daemon was killed.
    deaths: list[str] = field(default_factory=list)
    #: Instances that a person ordered to end.
    ordered: set[str] = field(default_factory=set)
    #: What the forges' clocks are ahead of this world's.
    forge_jump: float = 0.0
    _main: asyncio.Task[Any] | None = None
    _lies: list[asyncio.Task[None]] = field(default_factory=list)
    _watch: asyncio.Task[None] | None = None

    @classmethod
    def make(cls, plan: Plan) -> Lab:
        """A world at rest."""
        loop = asyncio.get_running_loop()
        clock = virtual.Clock(loop)
        rng = random.Random(plan.seed)
        app = simulator.App(world.World(clock.now, asyncio.sleep, seed=plan.seed))
        shared = Path("/dev/shm")
        directory = Path(tempfile.mkdtemp(prefix="runnerd-sim-", dir=shared if shared.is_dir() else None))
        lab = cls(plan, rng, clock, app, directory)
        lab.invariants = Invariants(lab)
        lab.machines = machines.Machines(
            lab.clouds, app, clock, random.Random(rng.random()), daemon=lab._agents, loss=plan.loss
        )
        os.environ.update(
            RUNNERD_SECRET="a secret of the simulation",
            RUNNERD_PAT=app.github.default_tokens()["pat"],
            RUNNERD_PAT_LAB=next(iter(app.gitlab.default_tokens().values())),
        )
        for forge in ("github", "gitlab"):
            app.world.repository(forge, "acme/ml")
        lab._watch = loop.create_task(lab.machines.run())
        return lab

    def settings(self) -> config.Config:
        """The configuration, read anew as a start does."""
        path = self.directory / "runnerd.yaml"
        path.write_text(
            _CONFIG.format(
                state=self.directory,
                forges=self.plan.forges,
                providers=self.plan.providers,
                limits=self.plan.limits,
                pools=self.plan.pools,
                max_job=self.plan.max_job,
                boot=self.plan.boot,
                list_interval=self.plan.list_interval,
            )
        )
        return config.load(path)

    # -- the daemon --------------------------------------------------------------------------------------------

    async def start(self, *, crash_at: int | None = None) -> None:
        """Start a daemon on the state that the last one left."""
        one = life.Life(crash_at=crash_at)
        clock = life.Clock(asyncio.get_running_loop(), one)
        clock.jump = self.clock.jump
        rng = random.Random(self.rng.random())

        async def open_store(url: str, **keywords: Any) -> store.Store:
            opened = await life.Store.open(url, **keywords)
            assert isinstance(opened, life.Store)
            opened.life = one
            return opened

        def make_provisioner(settings: config.Provider, context: base.Context) -> base.Provisioner:
            if settings.name not in self.clouds:
                self.clouds[settings.name] = ShippedCloud()
            inner = self.clouds[settings.name].provisioner(context, settings.options, one)
            return life.Provisioner(  # type: ignore[return-value]
                inner,
                one,
                on_call=functools.partial(self.invariants.called, settings.name, one),
                on_answer=functools.partial(self.invariants.answered, settings.name, one),
            )

        def make_forge(name: str, settings: config.AnyForge) -> Forge:
            seed = random.Random(rng.random())
            transport = life.Transport(one, self.app, seed, self.plan.latency, self._date)
            common: dict[str, Any] = {"clock": clock, "transport": transport, "rng": rng, "on_request": None}
            if isinstance(settings, config.GitHubForge):
                return GitHub(name, settings, **common)
            return GitLab(name, settings, controller="sim", **common)

        made = daemons.Daemon(
            self.settings(),
            clock=clock,
            rng=rng,
            offload=Offload(0),
            make_provisioner=make_provisioner,
            make_forge=make_forge,
            reanchor=clock.reanchor,
            open_store=open_store,
        )
        self.daemon, self.life = made, one

        async def main() -> None:
            await made.start()
            made.runtime.rows.on_step.append(self.invariants.stepped)
            self.mutate(made)

        self._main = asyncio.get_running_loop().create_task(main(), name="daemon main")
        crashed = asyncio.ensure_future(one.crashed.wait())
        await asyncio.wait({self._main, crashed}, return_when=asyncio.FIRST_COMPLETED)
        crashed.cancel()
        if one.alive:
            self._main.result()

    def _agents(self) -> agent_sessions.AgentSessions | None:
        if self.life is None or not self.life.alive or self.daemon is None or not self.daemon.progress.started_at:
            return None
        return self.daemon.controller.agents

    async def kill(self) -> None:
        """End the daemon as kill -9 does, and clear away what is left of it."""
        if self.life is None or self.daemon is None:
            return
        self.life.die()
        self.invariants.died()
        dead = [
            task
            for task in asyncio.all_tasks()
            if task.get_name().startswith(("daemon", "act/", "store/", "forge", "github", "gitlab", "hub", "lab"))
        ]
        for _ in range(50):
            left = [task for task in dead if not task.done()]
            if not left:
                break
            for task in left:
                task.cancel()
            await asyncio.sleep(0)
        if hasattr(self.daemon, "store"):
            self.daemon.store.abandon()
        self.daemon = self.life = None

    async def stop(self) -> None:
        """End the daemon as SIGTERM does."""
        assert self.daemon is not None
        await self.daemon.stop()
        self.daemon = self.life = None

    # -- what happens in the world -----------------------------------------------------------------------------

    def queue(self, forge: str = "github", repo: str = "acme/ml", *, count: int = 1, **more: Any) -> list[int]:
        """Queue jobs as a push does."""
        body = {"forge": forge, "repo": repo, "labels": ["gpu"], "count": count, **more}
        return [job.id for job in self.app.halves[forge].queue_jobs(control.job_spec(body))]

    async def sleep(self, seconds: float, *, step: float = 5.0) -> None:
        """Let virtual time pass, checking the promises on the way; a crashed daemon is started again."""
        left = seconds
        while left > 0:
            await asyncio.sleep(min(step, left))
            left -= step
            self.check()
            if self.life is not None and not self.life.alive:
                self.deaths.append(self.life.last)
                await self.kill()
                await asyncio.sleep(self.rng.uniform(0, 20))
                await self.start()

    async def drain(self, pool: str) -> None:
        """A person drains a pool: nothing new is bought for it."""
        assert self.daemon is not None
        await self.daemon.runtime.durable.write_drained(pool, True)
        self.daemon.runtime.wake()

    async def until(self, done: Callable[[], bool], *, within: float, step: float = 5.0) -> bool:
        """Let time pass until something holds; False when it does not within that time."""
        passed = 0.0
        while not done():
            if passed >= within:
                return False
            await self.sleep(step, step=step)
            passed += step
        return True

    def lie(self) -> None:
        """The forge says of a running job that it has ended; this has been seen (actions/runner#4492)."""
        if self._agents() is None or self.daemon is None:
            return
        for row in self.rows().values():
            job = self.daemon.runtime.rows.jobs.get(row.job) if row.job else None
            if row.state is model.InstanceState.BUSY and job is not None and row.queue is not None:
                update = forges.JobUpdate(
                    event=forges.JobEvent.COMPLETED,
                    queue=row.queue,
                    repo=job.repo,
                    run=job.run,
                    name=job.name,
                    runner_name=job.runner_name or row.id,
                    conclusion="success",
                )
                self._lies.append(asyncio.get_running_loop().create_task(self._tell(row.queue, update)))

    async def _tell(self, queue: model.Queue, update: forges.JobUpdate) -> None:
        daemon = self.daemon
        if daemon is not None and self._agents() is not None:
            await daemon.controller.job_updates.record(queue, [update])

    def _date(self) -> float:
        return self.clock.now() + self.forge_jump

    def cancel(self) -> None:
        """A person cancels everything that waits."""
        for job in self.jobs():
            if job.status == "queued":
                self.app.halves[job.forge].cancel_job(job)

    def rows(self) -> Mapping[model.InstanceId, model.Instance]:
        if self.daemon is None or not hasattr(self.daemon, "runtime"):
            return {}
        return self.daemon.runtime.rows.instances

    # -- promises ----------------------------------------------------------------------------------------------

    @property
    def creates(self) -> list[tuple[str, str]]:
        """Every create call that reached a cloud: (attempt key, instance name)."""
        return [(request.key, request.name) for _, request in self.invariants.requests]

    def vms(self) -> list[VM]:
        """Return every machine that there is or was."""
        return [vm for cloud in self.clouds.values() for vm in cloud.vms()]

    def live(self) -> list[VM]:
        """Return the machines that exist and cost money."""
        now = self.clock.now()
        return [vm for vm in self.vms() if vm.live(now)]

    def check(self) -> None:
        """Check what must hold at every moment."""
        self.invariants.check()
        assert not self.invariants.violations, self.describe()

    @property
    def settings_interval(self) -> float:
        """Seconds between listings."""
        return self.plan.list_interval

    @property
    def settings_limits(self) -> config.Limits:
        if self.daemon is not None and hasattr(self.daemon, "runtime"):
            return self.daemon.runtime.config.limits
        return config.Limits(instances=1)

    def jobs(self) -> list[world.Job]:
        return list(self.app.world.jobs.values())

    def finished(self) -> bool:
        """Every job has ended."""
        return all(job.status == "completed" for job in self.jobs())

    def settled(self) -> bool:
        """Nothing of ours is left anywhere."""
        ours = [runner for runner in self.app.world.runners.values() if runner.name.startswith("sim-")]
        rows = [row for row in self.rows().values() if row.live]
        registrations = [] if self.daemon is None else list(self.daemon.runtime.rows.registrations.values())
        orphans = [what for cloud in self.clouds.values() for what in cloud.orphans()]
        return not self.live() and not orphans and not rows and not ours and not registrations

    def describe(self) -> str:
        """Everything a person needs to see of a failure."""
        now = self.clock.now()
        lines = [f"seed {self.plan.seed} at {now - virtual.EPOCH:.1f} s", *self.invariants.violations]
        lines += [
            f"  job {job.id} {job.status} {job.conclusion} starts={job.starts} {job.runner}" for job in self.jobs()
        ]
        lines += [
            f"  machine {one.name} {one.key} {one.ref} {'up' if one.running(now) else 'not up'} "
            f"made at {one.created_at - virtual.EPOCH:.1f}"
            for one in self.live()
        ]
        lines += [f"  left at {name}: {what}" for name, cloud in self.clouds.items() for what in cloud.orphans()]
        lines += [f"  row {row}" for row in self.rows().values()]
        lines += [f"  runner {one.name} {one.status} busy={one.busy}" for one in self.app.world.runners.values()]
        if self.daemon is not None and hasattr(self.daemon, "runtime"):
            lines += [f"  registration {one}" for one in self.daemon.runtime.rows.registrations.values()]
            lines += [f"  alarm {one}" for one in self.daemon.runtime.alarms.open.values()]
            lines += [f"  note {pool}: {why}" for pool, why in self.daemon.controller.notes.items()]
            lines += [
                f"  demand {queue}: {forge.demand(queue)} {forge.health(queue)}"
                for forge in self.daemon.runtime.forges.values()
                for queue in [spec.queue for spec in self.daemon.runtime.specs]
                if queue.forge == forge.name
            ]
        return "\n".join(lines)

    async def close(self) -> None:
        """Clear everything away."""
        await self.kill()
        if self._watch is not None:
            self._watch.cancel()
        for task in [*self.machines._tasks, *self._lies]:
            task.cancel()
        await asyncio.sleep(0)
        await self.app.world.close()
        for path in sorted(self.directory.rglob("*"), reverse=True):
            path.unlink() if path.is_file() else path.rmdir()
        self.directory.rmdir()


def run(plan: Plan, story: Callable[[Lab], Any]) -> Lab:
    """Play a story in a fresh world and clear it away."""

    async def main() -> Lab:
        lab = Lab.make(plan)
        try:
            await story(lab)
        except errors.RunnerdError as error:
            raise AssertionError(lab.describe()) from error
        finally:
            await lab.close()
        return lab

    return virtual.run(main())
