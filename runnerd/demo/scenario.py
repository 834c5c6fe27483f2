"""The steps of the demo: six jobs on two simulated forges, two simulated clouds, and a daemon that is killed.

It only does what a user could do: start programs, queue jobs, kill the daemon, poll.  Every wait is bounded, and all
started processes are ended in any case.
"""

from __future__ import annotations

import asyncio
import collections
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

import runnerd
from provisioners import base, fake
from runnerd.demo import cloud_calls, forge, processes, progress, results, terminal, workspace

#: Time limits in seconds: starting a process, all jobs, the end of all instances, the restart of the daemon.  Long,
#: because a kill during a registration costs GitLab's two minutes for a call that may still be under way.
START_S, WORK_S, LEAVE_S, BACK_S = 40.0, 200.0, 180.0, 40.0
#: Seconds between two polls.
TICK_S = 0.3
#: Seconds that two jobs must have run before the daemon is killed, and seconds until it is restarted.
RUNNING_S, DEAD_S = 0.6, 1.5
_WORDS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


class Failed(Exception):
    """The demo did not go as expected; the message states the reason."""


class Scenario:
    """One run of the demo."""

    def __init__(
        self, place: workspace.Workspace, out: terminal.Terminal, *, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._workspace = place
        self._out = out
        self._now = now
        self._children: list[processes.Child] = []
        self._daemon: processes.Child | None = None
        self._forges = forge.Simulator("")
        self._progress = progress.Progress()
        self._announced: set[str] = set()
        #: Instances that had processes at an earlier poll, and the time at which one of them was seen without any.
        self._present: set[str] = set()
        self._ended: dict[str, float] = {}
        self._killed_at = 0.0
        self._restarted_at = 0.0
        self._back = False
        self.results: results.Results | None = None

    # -- the steps ---------------------------------------------------------------------------------------------

    def run(self) -> results.Results:
        """Run all steps and return the results.  Raises :class:`Failed`."""
        self._write_config(self._start_simulator())
        self._start_daemon()
        self._await_daemon(START_S)
        self._out.say(f"the daemon is running: process {self._pid}, log {short(self._log)}")
        self._queue()
        self._watch()
        self.results = self._count()
        return self.results

    def _start_simulator(self) -> workspace.Credentials:
        facts = self._workspace.directory / "simulator.json"
        command = [sys.executable, "-m", "runnerd.simulator", "--listen", "127.0.0.1:0", "--json"]
        command += ["--cert-dir", str(self._workspace.directory / "simulator")]
        for repository in workspace.REPOSITORIES:
            command += ["--repo", f"{repository.name}={self._workspace.repository(repository)}"]
        child = self._start("simulator", command, out=facts)

        def up() -> bool:
            return facts.exists() and facts.read_text(encoding="utf-8").endswith("\n")

        self._until(up, START_S, child, "the simulator did not start")
        known = json.loads(facts.read_text(encoding="utf-8"))
        self._forges = forge.Simulator(known["url"])
        self._out.say(f"simulated GitHub and GitLab: {known['url']}")
        return workspace.Credentials(
            app_id=known["tokens"]["github"]["app_id"],
            app_key=Path(known["tokens"]["github"]["app_key_file"]),
            gitlab_token=known["tokens"]["gitlab"]["token"],
        )

    def _write_config(self, credentials: workspace.Credentials) -> None:
        # The jobs' `python3` is the interpreter that runs the demo.
        path = f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin"
        workspace.write_config(
            self._workspace,
            simulator=self._forges.url,
            credentials=credentials,
            python=sys.executable,
            runner=_root() / "runnerd" / "simulator" / "runner.py",
            path=path,
        )
        clouds = ", then ".join(f"{cloud.name} (${cloud.price:.2f}/h)" for cloud in workspace.CLOUDS)
        self._out.say(f"configuration: {short(self._workspace.config)}")
        self._out.say(f"two simulated clouds, tried in this order: {clouds}")

    def _start_daemon(self) -> None:
        command = [sys.executable, "-m", "runnerd.cli", "run", "--config", str(self._workspace.config)]
        self._daemon = self._start("daemon", command)

    def _await_daemon(self, patience: float) -> None:
        self._until(self._ready, patience, self._daemon, "the daemon did not become ready")

    def _ready(self) -> bool:
        return forge.fetch(f"http://{self._workspace.ops}/readyz", timeout=2.0)[0] == 200

    def _queue(self) -> None:
        try:
            for job in workspace.JOBS:
                self._forges.queue(job.request())
        except OSError as error:
            raise Failed(f"the jobs could not be queued: {error}") from error
        counts = collections.Counter(job.repository.forge for job in workspace.JOBS)
        where = f"{_words(counts['github'])} on GitHub, {_words(counts['gitlab'])} on GitLab"
        message = f"{_words(len(workspace.JOBS))} jobs request {workspace.POOL}: {where}"
        self._out.say(f"{message}; the limit is {_words(workspace.INSTANCES)} instances")

    def _watch(self) -> None:
        """Poll until every job is done and every instance is gone; kill the daemon meanwhile."""
        began = self._now()
        done_at = 0.0
        while True:
            view, record, gone = self._poll()
            lines = self._progress.follow(view, record, gone)
            self._report_faults(record)
            self._out.jobs(lines)
            self._restart_daemon(view)
            now = self._now()
            if all(job.status == "completed" for job in view.jobs) and len(view.jobs) >= len(workspace.JOBS):
                done_at = done_at or now
                if self._back and all(machine.name in gone for machine in record.machines.values()):
                    break
                if now - done_at > LEAVE_S:
                    left = sorted(machine.name for machine in record.machines.values() if machine.name not in gone)
                    raise Failed(f"all jobs are done, but these instances did not end: {', '.join(left)}")
            elif now - began > WORK_S:
                open_jobs = [f"{line.job.title} ({line.text})" for line in lines if line.job.status != "completed"]
                raise Failed(f"after {WORK_S:.0f} s these jobs are not done: {'; '.join(open_jobs)}")
            time.sleep(TICK_S)
        self._out.settle()

    def _poll(self) -> tuple[forge.View, cloud_calls.Record, set[str]]:
        for child in self._children:
            if not child.running and (child is not self._daemon or not self._killed_at or self._restarted_at):
                raise Failed(f"the {child.name} exited by itself with status {child.status}")
        record = self._record()
        try:
            view = self._forges.view()
        except OSError as error:
            raise Failed(f"the simulator does not answer: {error}") from error
        present = processes.instances(self._workspace.directory)
        self._present |= present
        wall = time.time()
        for name in self._present - present:
            # Its agent may have exited before the daemon asked for its deletion.
            self._ended.setdefault(name, wall)
        record = record.ended(self._ended)
        gone = {each.name for each in record.machines.values() if each.ended_at and each.name not in present}
        return view, record, gone

    def _record(self) -> cloud_calls.Record:
        return cloud_calls.read(
            {cloud.name: self._workspace.calls(cloud.name) for cloud in workspace.CLOUDS},
            {cloud.name: cloud.price for cloud in workspace.CLOUDS},
        )

    def _report_faults(self, record: cloud_calls.Record) -> None:
        if record.refusals and self._first("refusal"):
            refusal = record.refusals[0]
            self._out.say(f"{refusal.cloud} is out of capacity ({refusal.code}): trying the next offer", "yellow")
        if record.unanswered and self._first("unanswered"):
            name = record.unanswered[0]
            self._out.say(f"a create call got no answer: the daemon checks for {name} before it buys again", "yellow")

    def _first(self, fault: str) -> bool:
        new = fault not in self._announced
        self._announced.add(fault)
        return new

    def _restart_daemon(self, view: forge.View) -> None:
        """Kill the daemon while jobs run, restart it a moment later, and report when it is ready again."""
        now = self._now()
        if not self._killed_at:
            wall = time.time()
            running = [job for job in view.jobs if job.status == "in_progress"]
            settled = sum(wall - job.started_at >= RUNNING_S for job in running)
            if settled >= 2 or any(job.status == "completed" for job in view.jobs):
                assert self._daemon is not None
                message = f"kill -9 {self._pid}: the daemon is gone, its {_words(len(running))} running jobs continue"
                self._daemon.kill()
                self._killed_at = now
                self._out.say(message, "bold red")
        elif not self._restarted_at:
            if now - self._killed_at >= DEAD_S:
                if self._daemon is not None:
                    self._children.remove(self._daemon)
                self._start_daemon()
                self._restarted_at = now
                self._out.say(f"daemon started again: process {self._pid}", "bold")
        elif not self._back:
            if self._ready():
                self._back = True
                self._out.say(
                    f"the daemon is ready again after {now - self._killed_at:.1f} s and knows its instances", "bold"
                )
            elif now - self._restarted_at > BACK_S:
                raise Failed("the daemon did not become ready after the kill")

    def _count(self) -> results.Results:
        view, record, _ = self._poll()
        listed = asyncio.run(self._listed())
        running = len(processes.instances(self._workspace.directory))
        broken = []
        for job in view.jobs:
            report = view.report(job)
            if report is not None and not (report.images and all(map(_is_png, report.images))):
                broken.append(report.url)
        return results.count(
            view,
            record,
            wanted=len(workspace.JOBS),
            left=max(listed, running),
            broken=broken,
            budget=workspace.DOLLARS_PER_DAY,
            now=time.time(),
        )

    async def _listed(self) -> int:
        """Return the number of instances that the clouds still list."""
        count = 0
        for cloud in workspace.CLOUDS:
            context = base.Context(
                name=cloud.name,
                controller="demo",
                directory=str(self._workspace.state / "providers" / cloud.name),
                now=time.time,
                sleep=asyncio.sleep,
            )
            provisioner = fake.Fake(context, {"backing": "local"})
            try:
                await provisioner.start()
                listing = await provisioner.list_owned()
            except base.ProvisionError as error:
                raise Failed(f"{cloud.name} cannot list its instances: {error}") from error
            finally:
                await provisioner.close()
            count += sum(view.status is not base.InstanceStatus.GONE for view in listing.views)
        return count

    # -- processes ---------------------------------------------------------------------------------------------

    @property
    def _pid(self) -> int:
        return self._daemon.pid if self._daemon is not None else 0

    @property
    def _log(self) -> Path:
        return self._workspace.directory / "daemon.log"

    def _start(self, name: str, command: Sequence[str], *, out: Path | None = None) -> processes.Child:
        environment = {
            **os.environ,
            # Children import the same runnerd, installed or not.
            "PYTHONPATH": os.pathsep.join(filter(None, [str(_root()), os.environ.get("PYTHONPATH", "")])),
            "PYTHONUNBUFFERED": "1",
        }
        child = processes.Child(name, command, directory=self._workspace.directory, environment=environment, out=out)
        self._children.append(child)
        return child

    def _until(self, done: Callable[[], bool], patience: float, child: processes.Child | None, problem: str) -> None:
        deadline = self._now() + patience
        while not done():
            if child is not None and not child.running:
                raise Failed(f"{problem}: it exited with status {child.status}")
            if self._now() > deadline:
                raise Failed(f"{problem} within {patience:.0f} s")
            time.sleep(0.1)

    def linger(self) -> NoReturn:
        """Keep everything running until an interrupt.  Raises :class:`Failed` when a process exits by itself."""
        while True:
            self._poll()
            time.sleep(0.5)

    def end(self) -> None:
        """End every process of the demo.  Idempotent."""
        self._out.settle()
        for child in reversed(self._children):
            child.end()
        processes.end_leftovers(self._workspace.directory)
        workspace.clear_socket(self._workspace)

    def print_logs(self, out: terminal.Terminal) -> None:
        """Print the ends of the logs, after a failure."""
        for child in self._children:
            tail = child.tail()
            if tail:
                out.plain(f"\nThe end of {child.log}:", "bold")
                out.plain(tail)


def _is_png(url: str) -> bool:
    status, data = forge.fetch(url)
    return status == 200 and data.startswith(b"\x89PNG\r\n\x1a\n")


def _root() -> Path:
    """Return the directory that the package is imported from."""
    return Path(runnerd.__file__).resolve().parent.parent


def short(path: Path) -> str:
    """Return a path relative to the working directory, if it is below."""
    try:
        return str(path.relative_to(Path.cwd().resolve()))
    except ValueError:
        return str(path)


def _words(count: int) -> str:
    return _WORDS[count] if 0 <= count < len(_WORDS) else str(count)
