"""The guests of the simulated machines: the behaviour of the agent and of a runner, without processes.

Each machine that boots gets an agent that speaks the agent protocol with whatever daemon lives at the moment, over a
line that loses requests and answers, and a runner of the simulated forge.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from runnerd import errors
from runnerd.lifecycle import agent_sessions
from runnerd.simulator import app as simulator
from runnerd.simulator import github, world
from runnerd.simulator.gitlab import connect
from tests.clouds import adapter
from tests.simulation import cloud
from tests.support import virtual


class Unreachable(Exception):
    """No daemon, or a line that lost something."""


class Machines:
    """Boots an agent on every machine of every cloud."""

    def __init__(
        self,
        clouds: Mapping[str, cloud.Cloud],
        app: simulator.App,
        clock: virtual.Clock,
        rng: random.Random,
        *,
        daemon: Callable[[], agent_sessions.AgentSessions | None],
        loss: float,
    ) -> None:
        self._clouds = clouds
        self._app = app
        self._clock = clock
        self._rng = rng
        self._daemon = daemon
        self.loss = loss
        #: How many of the next agents fall silent once they were given a runner.
        self.mute = 0
        #: How many of the next machines boot without an agent that ever speaks.
        self.deaf = 0
        #: By tag of the attempt, which is unique over all clouds.
        self.running: dict[str, Agent] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Watch for machines until cancelled."""
        while True:
            now = self._clock.now()
            for each in self._clouds.values():
                for vm in list(each.vms()):
                    known = self.running.get(vm.key)
                    if (known is None or known.vm is not vm) and vm.running(now):
                        agent = Agent(self, vm, random.Random(self._rng.random()))
                        self.running[vm.key] = agent
                        task = asyncio.get_running_loop().create_task(agent.run())
                        self._tasks.add(task)
                        task.add_done_callback(self._tasks.discard)
            await asyncio.sleep(0.5)

    async def call(
        self, rng: random.Random, ask: Callable[[agent_sessions.AgentSessions], Awaitable[Mapping[str, Any]]]
    ) -> Any:
        """Ask the daemon that lives now."""
        await asyncio.sleep(rng.uniform(0.001, 0.05))
        daemon = self._daemon()
        if daemon is None or rng.random() < self.loss:
            raise Unreachable
        try:
            # A daemon that dies in between never answers; the agent's own time-out ends the wait.
            async with asyncio.timeout(40):
                answer = await ask(daemon)
        except TimeoutError as error:
            raise Unreachable from error
        except errors.StoreError as error:
            raise Unreachable from error
        if rng.random() < self.loss:
            raise Unreachable
        return answer


class Agent:
    """One machine's agent and runner."""

    def __init__(self, machines: Machines, vm: adapter.VM, rng: random.Random) -> None:
        self._machines = machines
        self.vm = vm
        self._rng = rng
        self.worker = False
        self.worked = False
        self.phase = "gate"
        self._session = ""
        self._runner: Any = None

    @property
    def up(self) -> bool:
        """True while the machine runs."""
        return self.vm.running(self._machines._clock.now())

    async def run(self) -> None:
        try:
            await self._live()
        finally:
            self.worker = False
            if self._runner is not None:
                self._runner.die()
                self._runner = None

    async def _live(self) -> None:
        if self._machines.deaf:
            self._machines.deaf -= 1
            return
        found = re.search(r'"token": "([^"]+)"', self.vm.user_data)
        if found is None:
            return
        nonce = "".join(self._rng.choices("abcdef0123456789", k=24))
        while self.up and not self._session:
            try:
                welcome = await self._machines.call(
                    self._rng, lambda daemon: daemon.hello(found[1], nonce=nonce, protocol=1)
                )
                self._session = welcome["session"]
            except Unreachable:
                await asyncio.sleep(2)
            except errors.Refused as refused:
                if refused.status not in (409,):
                    return self._power_off()
                await asyncio.sleep(1)
        orders = await self._register()
        if orders is None:
            return self._power_off()
        if self._machines.mute:
            self._machines.mute -= 1
            await asyncio.get_running_loop().create_future()
        beat = asyncio.get_running_loop().create_task(self._beat())
        try:
            await self._work(orders)
            self.phase = "finished"
            for _ in range(240):
                if not self.up or beat.done():
                    break
                await asyncio.sleep(5)
        finally:
            beat.cancel()
        self._power_off()

    def _power_off(self) -> None:
        if self._runner is not None:
            self._runner.disconnect()
            self._runner = None
        if self.up:
            self.vm.power_off(self._machines._clock.now())

    async def _register(self) -> dict[str, Any] | None:
        self.phase = "waiting"
        while self.up:
            try:
                answer: dict[str, Any] = await self._machines.call(
                    self._rng, lambda daemon: daemon.register(self._session, runner_started=False)
                )
            except Unreachable:
                await asyncio.sleep(2)
                continue
            except errors.Refused:
                return None
            if answer["action"] == "run":
                return answer
            if answer["action"] == "end":
                return None
            await asyncio.sleep(max(0.1, answer.get("after", 0.1)))
        return None

    async def _work(self, orders: dict[str, Any]) -> None:
        self.phase = "idle"
        environment = orders["environment"]
        try:
            if orders["kind"] == "github":
                await self._github(environment["ACTIONS_RUNNER_INPUT_JITCONFIG"])
            else:
                await self._gitlab(environment["CI_SERVER_TOKEN"])
        except (github.RegistrationGone, github.SessionConflict, connect.Refused):
            pass
        finally:
            self.worker = False
            if self._runner is not None and not self.up:
                self._runner.die()
            self._runner = None
        await self._tell("ended", "done")

    async def _github(self, jit: str) -> None:
        runner = self._runner = self._machines._app.github.connect_runner(jit)
        job = None
        while self.up and job is None and self.phase != "ending":
            job = await runner.next_job(5.0)
        if job is None or not self.up:
            return runner.disconnect()
        if not runner.start(job):
            return runner.disconnect()
        await self._do(job)
        if self.up:
            runner.finish(job, "succeeded")

    async def _gitlab(self, token: str) -> None:
        runner = self._runner = self._machines._app.gitlab.connect_runner(token)
        build = None
        while self.up and build is None and self.phase != "ending":
            build = await runner.next_job(5.0)
        if build is None or not self.up:
            return runner.disconnect()
        runner.start(build)
        await self._do(build)
        if self.up:
            runner.finish(build, "success")

    async def _do(self, job: world.Job) -> None:
        self.worker = self.worked = True
        self.phase = "job"
        await self._tell("started", "")
        left = job.duration or 30.0
        while left > 0 and self.up:
            step = min(left, 1.0)
            await asyncio.sleep(step)
            left -= step

    async def _tell(self, event: str, result: str) -> None:
        for _ in range(3):
            if not self.up:
                return
            try:
                await self._machines.call(
                    self._rng, lambda daemon: daemon.job(self._session, event=event, result=result)
                )
                return
            except Unreachable:
                await asyncio.sleep(1)
            except errors.Refused:
                return

    async def _beat(self) -> None:
        """Heartbeats until told to end."""
        while self.up:
            try:
                answer = await self._machines.call(
                    self._rng,
                    lambda daemon: daemon.heartbeat(
                        self._session,
                        phase=self.phase,
                        worker=self.worker,
                        job_started=self.worked,
                    ),
                )
            except Unreachable:
                await asyncio.sleep(5)
                continue
            except errors.Refused:
                return
            if answer["action"] in ("stop", "end") and not self.worker:
                self.phase = "ending"
                if answer["action"] == "end":
                    return
            await asyncio.sleep(answer["heartbeat"])
