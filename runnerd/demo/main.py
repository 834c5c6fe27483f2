"""The demo's story: six jobs on two simulated forges, two simulated clouds, and a daemon that is killed in the middle.

It only does what a person could do: start programs, queue jobs, kill the daemon, look.  Every wait is bounded, and on
every way out all that was started is ended.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

from rich import console

import runnerd
from provisioners import base, fake
from runnerd.demo import board, calls, children, forge, progress, proof, stage

#: Seconds that each part may take before the demo gives up.  Long, because a kill in the very moment of a registration
#: costs GitLab's two minutes for a call that may still be under way: late and right is no failure.
START, WORK, LEAVE, BACK = 40.0, 200.0, 180.0, 40.0
#: Seconds between two looks.
TICK = 0.3
#: Seconds that two jobs must have run when the daemon is killed, and that it stays dead.
RUNNING, DEAD = 0.6, 1.5
_WORDS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


class Failed(Exception):
    """The story did not go as it should; the text says what happened in plain words."""


class Story:
    """One telling."""

    def __init__(self, play: stage.Stage, told: board.Board, *, now: Callable[[], float] = time.monotonic) -> None:
        self._stage = play
        self._board = told
        self._now = now
        self._children: list[children.Child] = []
        self._daemon: children.Child | None = None
        self._forges = forge.Simulator("")
        self._progress = progress.Progress()
        self._announced: set[str] = set()
        #: Instances that had processes at some look, and when one that had some had none any more.
        self._present: set[str] = set()
        self._ended: dict[str, float] = {}
        self._killed_at = 0.0
        self._restarted_at = 0.0
        self._back = False
        self.proof: proof.Proof | None = None

    # -- the parts ---------------------------------------------------------------------------------------------

    def tell(self) -> proof.Proof:
        """All of it.  Raises :class:`Failed`."""
        self._write_config(self._start_simulator())
        self._start_daemon()
        self._await_daemon(START)
        self._board.say(f"daemon is up, process {self._pid}, log {_short(self._log)}")
        self._queue()
        self._watch()
        self.proof = self._draw()
        return self.proof

    def _start_simulator(self) -> stage.Credentials:
        facts = self._stage.directory / "simulator.json"
        command = [sys.executable, "-m", "runnerd.simulator", "--listen", "127.0.0.1:0", "--json"]
        command += ["--cert-dir", str(self._stage.directory / "simulator")]
        for one in stage.REPOSITORIES:
            command += ["--repo", f"{one.name}={self._stage.repository(one)}"]
        child = self._start("simulator", command, out=facts)

        def up() -> bool:
            return facts.exists() and facts.read_text(encoding="utf-8").endswith("\n")

        self._until(up, START, child, "the simulator did not start")
        known = json.loads(facts.read_text(encoding="utf-8"))
        self._forges = forge.Simulator(known["url"])
        self._board.say(f"a simulated GitHub and GitLab: {known['url']}")
        return stage.Credentials(
            app_id=known["tokens"]["github"]["app_id"],
            app_key=Path(known["tokens"]["github"]["app_key_file"]),
            gitlab_token=known["tokens"]["gitlab"]["token"],
        )

    def _write_config(self, credentials: stage.Credentials) -> None:
        # The jobs' `python3` is the one that the demo runs with.
        path = f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin"
        stage.write_config(
            self._stage,
            simulator=self._forges.url,
            credentials=credentials,
            python=sys.executable,
            runner=_root() / "runnerd" / "simulator" / "runner.py",
            path=path,
        )
        clouds = ", then ".join(f"{cloud.name} (${cloud.price:.2f}/h)" for cloud in stage.CLOUDS)
        self._board.say(f"the configuration: {_short(self._stage.config)}")
        self._board.say(f"two simulated clouds, tried in this order: {clouds}")

    def _start_daemon(self) -> None:
        command = [sys.executable, "-m", "runnerd.cli", "run", "--config", str(self._stage.config)]
        self._daemon = self._start("daemon", command)

    def _await_daemon(self, patience: float) -> None:
        self._until(self._ready, patience, self._daemon, "the daemon did not get ready")

    def _ready(self) -> bool:
        return forge.fetch(f"http://{self._stage.ops}/readyz", timeout=2.0)[0] == 200

    def _queue(self) -> None:
        try:
            for job in stage.JOBS:
                self._forges.queue(job.order())
        except OSError as error:
            raise Failed(f"the jobs could not be queued: {error}") from error
        counts = collections.Counter(job.repository.forge for job in stage.JOBS)
        where = f"{_words(counts['github'])} on GitHub, {_words(counts['gitlab'])} on GitLab"
        words = f"{_words(len(stage.JOBS))} jobs ask for {stage.POOL}: {where}"
        self._board.say(f"{words}; the limit is {_words(stage.INSTANCES)} instances")

    def _watch(self) -> None:
        """Look on until every job is done and every instance is gone; kill the daemon on the way."""
        began = self._now()
        done_at = 0.0
        while True:
            view, book, gone = self._look()
            lines = self._progress.follow(view, book, gone)
            self._narrate(book)
            self._board.jobs(lines)
            self._interfere(view)
            now = self._now()
            if all(job.status == "completed" for job in view.jobs) and len(view.jobs) >= len(stage.JOBS):
                done_at = done_at or now
                if self._back and all(machine.name in gone for machine in book.machines.values()):
                    break
                if now - done_at > LEAVE:
                    left = sorted(machine.name for machine in book.machines.values() if machine.name not in gone)
                    raise Failed(f"all jobs are done and these instances do not go: {', '.join(left)}")
            elif now - began > WORK:
                open_jobs = [f"{one.job.title} ({one.text})" for one in lines if one.job.status != "completed"]
                raise Failed(f"after {WORK:.0f} s these jobs are not done: {'; '.join(open_jobs)}")
            time.sleep(TICK)
        self._board.settle()

    def _look(self) -> tuple[forge.View, calls.Book, set[str]]:
        for child in self._children:
            if not child.running and (child is not self._daemon or not self._killed_at or self._restarted_at):
                raise Failed(f"the {child.name} ended by itself with status {child.status}")
        book = self._book()
        try:
            view = self._forges.view()
        except OSError as error:
            raise Failed(f"the simulator does not answer: {error}") from error
        present = children.instances(self._stage.directory)
        self._present |= present
        wall = time.time()
        for name in self._present - present:
            # Its agent may have left before the daemon asked for its deletion.
            self._ended.setdefault(name, wall)
        book = book.ended(self._ended)
        gone = {one.name for one in book.machines.values() if one.ended_at and one.name not in present}
        return view, book, gone

    def _book(self) -> calls.Book:
        return calls.read(
            {cloud.name: self._stage.calls(cloud.name) for cloud in stage.CLOUDS},
            {cloud.name: cloud.price for cloud in stage.CLOUDS},
        )

    def _narrate(self, book: calls.Book) -> None:
        if book.refusals and self._first("refusal"):
            one = book.refusals[0]
            self._board.say(f"{one.cloud} is out of capacity ({one.code}): the next offer is taken", "yellow")
        if book.unanswered and self._first("unanswered"):
            name = book.unanswered[0]
            self._board.say(f"the answer to a create call was lost: is {name} there? The daemon looks first", "yellow")

    def _first(self, what: str) -> bool:
        new = what not in self._announced
        self._announced.add(what)
        return new

    def _interfere(self, view: forge.View) -> None:
        """Kill the daemon in the middle, start it again a moment later, say when it works again."""
        now = self._now()
        if not self._killed_at:
            wall = time.time()
            running = [job for job in view.jobs if job.status == "in_progress"]
            well = sum(wall - job.started_at >= RUNNING for job in running)
            if well >= 2 or any(job.status == "completed" for job in view.jobs):
                assert self._daemon is not None
                words = f"kill -9 {self._pid}: the daemon is gone, its {_words(len(running))} running jobs go on"
                self._daemon.kill()
                self._killed_at = now
                self._board.say(words, "bold red")
        elif not self._restarted_at:
            if now - self._killed_at >= DEAD:
                if self._daemon is not None:
                    self._children.remove(self._daemon)
                self._start_daemon()
                self._restarted_at = now
                self._board.say(f"daemon started again, process {self._pid}", "bold")
        elif not self._back:
            if self._ready():
                self._back = True
                self._board.say(f"daemon is back after {now - self._killed_at:.1f} s and knows its instances", "bold")
            elif now - self._restarted_at > BACK:
                raise Failed("the daemon did not come back after the kill")

    def _draw(self) -> proof.Proof:
        view, book, _ = self._look()
        listed = asyncio.run(self._listed())
        processes = len(children.instances(self._stage.directory))
        broken = []
        for job in view.jobs:
            report = view.report(job)
            if report is not None and not (report.images and all(map(_is_png, report.images))):
                broken.append(report.url)
        return proof.draw(
            view,
            book,
            wanted=len(stage.JOBS),
            left=max(listed, processes),
            broken=broken,
            budget=stage.DOLLARS_PER_DAY,
            now=time.time(),
        )

    async def _listed(self) -> int:
        """Instances that the clouds themselves still list."""
        count = 0
        for cloud in stage.CLOUDS:
            context = base.Context(
                name=cloud.name,
                controller="demo",
                directory=str(self._stage.state / "providers" / cloud.name),
                now=time.time,
                sleep=asyncio.sleep,
            )
            provisioner = fake.Fake(context, {"backing": "local"})
            try:
                await provisioner.start()
                listing = await provisioner.list_owned()
            except base.ProvisionError as error:
                raise Failed(f"{cloud.name} does not tell what it has: {error}") from error
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
        return self._stage.directory / "daemon.log"

    def _start(self, name: str, command: Sequence[str], *, out: Path | None = None) -> children.Child:
        environment = {
            **os.environ,
            # So that children find the same runnerd, installed or not.
            "PYTHONPATH": os.pathsep.join(filter(None, [str(_root()), os.environ.get("PYTHONPATH", "")])),
            "PYTHONUNBUFFERED": "1",
        }
        child = children.Child(name, command, directory=self._stage.directory, environment=environment, out=out)
        self._children.append(child)
        return child

    def _until(self, holds: Callable[[], bool], patience: float, child: children.Child | None, words: str) -> None:
        deadline = self._now() + patience
        while not holds():
            if child is not None and not child.running:
                raise Failed(f"{words}: it ended with status {child.status}")
            if self._now() > deadline:
                raise Failed(f"{words} within {patience:.0f} s")
            time.sleep(0.1)

    def linger(self) -> NoReturn:
        """Keep everything up until somebody interrupts.  Raises :class:`Failed` when something ends by itself."""
        while True:
            self._look()
            time.sleep(0.5)

    def end(self) -> None:
        """End every process of the demo; idempotent."""
        self._board.settle()
        for child in reversed(self._children):
            child.end()
        children.end_leftovers(self._stage.directory)
        stage.clear_socket(self._stage)

    def explain(self, out: board.Board) -> None:
        """The ends of the logs, after a failure."""
        for child in self._children:
            tail = child.tail()
            if tail:
                out.plain(f"\nThe end of {child.log}:", "bold")
                out.plain(tail)


def _is_png(url: str) -> bool:
    status, data = forge.fetch(url)
    return status == 200 and data.startswith(b"\x89PNG\r\n\x1a\n")


def _root() -> Path:
    """The directory that the package is imported from."""
    return Path(runnerd.__file__).resolve().parent.parent


def _short(path: Path) -> str:
    """A path as a person in this directory would type it."""
    try:
        return str(path.relative_to(Path.cwd().resolve()))
    except ValueError:
        return str(path)


def _words(count: int) -> str:
    return _WORDS[count] if 0 <= count < len(_WORDS) else str(count)


def _next_steps(out: board.Board) -> None:
    program = Path(sys.executable).parent / "runnerd"
    name = _short(program) if program.exists() else "runnerd"
    out.plain("\nNext, with your own GitHub:", "bold")
    out.plain("  write runnerd.yaml: ten lines, in docs/quickstart.md, section 2")
    out.plain("  export GITHUB_TOKEN=...                # one that may manage self-hosted runners")
    out.plain(f"  {name} check --config runnerd.yaml")
    out.plain(f"  {name} run --config runnerd.yaml")


def play(*, once: bool, as_json: bool, directory: Path) -> int:
    """Tell the story and return the exit status: 0 when all is well, 1 when not, 130 when interrupted."""
    out = console.Console(stderr=as_json, highlight=False)
    began = time.monotonic()
    told = board.Board(out, lambda: time.monotonic() - began)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    told.plain("runnerd demo: six CI jobs, two forges, two clouds, and a daemon that is killed half-way", "bold")
    told.plain(
        "Real: the daemon, its agents, the jobs, their reports. Simulated: GitHub, GitLab, clouds, GPUs, dollars."
    )
    told.plain()
    try:
        story = Story(stage.prepare(directory), told)
    except stage.Unplayable as error:
        told.plain(f"The demo cannot start: {error}", "bold red")
        return 1
    status = 1
    try:
        status = _tell(story, told, once=once, as_json=as_json)
    except KeyboardInterrupt:
        told.settle()
        # In the quiet after a good end an interrupt is the way to leave.
        status = 0 if story.proof is not None and not story.proof.problems else 130
        told.plain("\nending everything that was started ...")
    finally:
        # A second Ctrl-C must not leave half of it running.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        story.end()
    return status


def _tell(story: Story, told: board.Board, *, once: bool, as_json: bool) -> int:
    try:
        found = story.tell()
    except Failed as error:
        told.settle()
        told.plain(f"\nThe demo failed: {error}.", "bold red")
        story.explain(told)
        return 1
    told.plain("\nThe proof, counted from the simulated forges and clouds:", "bold")
    told.facts(found.rows())
    for words in found.problems:
        told.plain(f"  NOT AS PROMISED: {words}", "bold red")
    if found.reports:
        told.plain("\nA report, as its reader sees it:", "bold")
        told.plain(f"  {found.reports[0]}")
    _next_steps(told)
    if as_json:
        print(json.dumps(found.as_json()), flush=True)
    if not once:
        told.plain("\nSimulator and daemon stay up, so that the report can be read. Ctrl-C ends everything.", "bold")
        try:
            story.linger()
        except Failed as error:
            told.plain(f"\n{error}", "bold red")
            story.explain(told)
            return 1
    return 1 if found.problems else 0


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def main(argv: Sequence[str] | None = None) -> int:
    """The command line of `runnerd demo`; the exit status."""
    parser = argparse.ArgumentParser(prog="runnerd demo", description="The whole story in about a minute.")
    parser.add_argument("--once", action="store_true", help="end by itself; status 0 only if all is well")
    parser.add_argument("--json", action="store_true", help="the last line of standard output is a JSON object")
    parser.add_argument("--directory", type=Path, default=Path(".demo"), help="where everything is kept (.demo)")
    options = parser.parse_args(argv)
    return play(once=options.once, as_json=options.json, directory=options.directory)
