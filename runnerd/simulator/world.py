"""The state that both simulated forges share: repositories, pull requests, jobs, runners, comments, tokens, time.

Everything is in memory and single-threaded; a change is made in one step without awaiting, then announced by key, so
that ten thousand jobs and a thousand waiting runners stay cheap. The world reads no clock of its own and draws no
randomness but from its seed, so a test on a virtual-time loop replays exactly.
"""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import datetime
import heapq
import random
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Hashable, Mapping
from typing import Any

#: how many bytes of a job's log are kept
LOG_LIMIT = 1_000_000


def iso(moment: float | None) -> str | None:
    """Return a unix time as GitHub prints it ("2026-11-23T21:50:45Z"); None stays None."""
    if moment is None:
        return None
    return datetime.datetime.fromtimestamp(int(moment), datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def iso_milliseconds(moment: float | None) -> str | None:
    """Return a unix time as GitLab prints it ("2026-11-23T21:50:45.123Z"); None stays None."""
    if moment is None:
        return None
    stamp = datetime.datetime.fromtimestamp(moment, datetime.UTC)
    return stamp.strftime("%Y-%m-%dT%H:%M:%S.") + f"{stamp.microsecond // 1000:03d}Z"


@dataclasses.dataclass(slots=True)
class Repository:
    """A repository (GitHub) or project (GitLab)."""

    id: int
    forge: str
    #: "acme/ml"
    name: str
    private: bool = True
    default_branch: str = "main"
    #: a directory whose files a job finds in its workspace; None for an empty workspace
    directory: str | None = None
    #: forge-specific facts
    extra: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def owner(self) -> str:
        return self.name.rsplit("/", 1)[0]

    @property
    def short(self) -> str:
        return self.name.rsplit("/", 1)[-1]


@dataclasses.dataclass(slots=True)
class PullRequest:
    """A pull or merge request, open unless said otherwise."""

    id: int
    forge: str
    repo: str
    number: int
    title: str
    head_ref: str
    base_ref: str
    sha: str
    created_at: float
    state: str = "open"
    extra: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(slots=True)
class Job:
    """A job of either forge. `status` speaks the common words queued, in_progress, completed."""

    id: int
    forge: str
    repo: str
    name: str
    labels: list[str]
    queued_at: float
    run_id: int
    sha: str
    ref: str
    pull_number: int | None = None
    run_attempt: int = 1
    status: str = "queued"
    #: success, failure, cancelled, ...; None before completion
    conclusion: str | None = None
    #: the name of the runner that has, or had, the job
    runner: str | None = None
    runner_id: int | None = None
    started_at: float | None = None
    finished_at: float | None = None
    script: list[str] = dataclasses.field(default_factory=list)
    #: virtual seconds of work of a job without script
    duration: float | None = None
    #: how often a runner began this very job; more than one means it ran twice
    starts: int = 0
    #: every assignment as facts ("at", "runner", ...), oldest first
    history: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    log: bytearray = dataclasses.field(default_factory=bytearray)
    #: Markdown of the job's summary (GitHub)
    summary: str = ""
    #: forge-specific facts
    extra: dict[str, Any] = dataclasses.field(default_factory=dict)

    def append_log(self, chunk: bytes) -> None:
        room = LOG_LIMIT - len(self.log)
        if room > 0:
            self.log += chunk[:room]


@dataclasses.dataclass(slots=True)
class Runner:
    """A registered runner of either forge; each half may subclass it."""

    id: int
    forge: str
    name: str
    #: "acme" or "acme/ml" (GitHub), a group or project path (GitLab)
    scope: str
    labels: list[str]
    created_at: float
    status: str = "offline"
    busy: bool = False
    #: the job it holds
    job_id: int | None = None
    extra: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(slots=True)
class Comment:
    """A comment; `target` is "pull/5", "issue/9" or "commit/<sha>"."""

    id: int
    forge: str
    repo: str
    target: str
    body: str
    user: str
    created_at: float
    updated_at: float


@dataclasses.dataclass(slots=True)
class Upload:
    """A file that a forge stored (GitLab uploads); `path` is its address below the base URL."""

    id: int
    forge: str
    repo: str
    path: str
    filename: str
    content_type: str
    data: bytes
    created_at: float


@dataclasses.dataclass(slots=True)
class Token:
    """A credential that a forge knows."""

    value: str
    forge: str
    #: "pat", "installation", "job", "oauth", ...
    kind: str
    user: str
    scopes: tuple[str, ...] = ()
    expires_at: float | None = None
    revoked: bool = False
    extra: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(slots=True)
class Hook:
    """A webhook target; `events` empty means all that the half sends."""

    id: int
    forge: str
    url: str
    secret: str = ""
    signing_token: str = ""
    #: repository, organisation or group it belongs to; empty = everything
    scope: str = ""
    events: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class HookAnswer:
    """The answer of a webhook target; `status` is 0 when it could not be reached."""

    status: int
    body: bytes = b""
    duration: float = 0.0


@dataclasses.dataclass(frozen=True, slots=True)
class JobSpec:
    """The body of `POST /_sim/jobs`, checked."""

    forge: str
    repo: str
    labels: tuple[str, ...]
    count: int = 1
    script: tuple[str, ...] = ()
    name: str | None = None
    duration: float | None = None
    #: number of the pull request; None = the half makes or reuses one
    pull_number: int | None = None
    #: "pull_request" or "push"
    event: str = "pull_request"
    #: anything else of the body, for a half to use (ref, variables, ...)
    extra: Mapping[str, Any] = dataclasses.field(default_factory=dict)


class Timer:
    """A call planned in world time; `cancel()` forgets it."""

    __slots__ = ("callback", "cancelled", "when")

    def __init__(self, when: float, callback: Callable[[], None]) -> None:
        self.when = when
        self.callback = callback
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


Deliver = Callable[[str, Mapping[str, str], bytes], Awaitable[HookAnswer]]


async def _no_delivery(url: str, headers: Mapping[str, str], body: bytes) -> HookAnswer:
    raise OSError("this world has no way out: give World(deliver=...) to send webhooks")


class World:
    """All state of both forges, with its clock, timers and waiters.

    `now` gives unix seconds, `sleep` waits in the same time; timers and waits use the running loop's time, so `now`
    must advance with it. `deliver(url, headers, body)` sends a webhook and raises OSError when it cannot.
    """

    def __init__(
        self,
        now: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        seed: int = 0,
        *,
        deliver: Deliver = _no_delivery,
    ) -> None:
        self.now = now
        self.sleep = sleep
        self.random = random.Random(seed)
        self.deliver = deliver
        #: the address at which clients reach us, for links outside of answers to a request (webhooks)
        self.base_url = "http://simulator.invalid"
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.pulls: dict[tuple[str, str, int], PullRequest] = {}
        self.jobs: dict[int, Job] = {}
        self.runners: dict[tuple[str, int], Runner] = {}
        self.comments: dict[int, Comment] = {}
        self.uploads: dict[int, Upload] = {}
        self.tokens: dict[str, Token] = {}
        self.hooks: dict[int, Hook] = {}
        #: directory of a repository by (forge or "*", name), set before the repository is made
        self.directories: dict[str, str] = {}
        self._ids: dict[str, int] = {}
        self._waiters: dict[Hashable, set[asyncio.Future[None]]] = {}
        self._heap: list[tuple[float, int, Timer]] = []
        self._sequence = 0
        self._armed: tuple[asyncio.AbstractEventLoop, float, asyncio.TimerHandle] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._parked: list[tuple[Coroutine[Any, Any, None], str]] = []

    # Identity

    def next_id(self, kind: str, start: int = 1) -> int:
        """Return the next number of a kind, counting up from `start`; kinds start apart so that mixed-up ids show."""
        value = self._ids.get(kind, start - 1) + 1
        self._ids[kind] = value
        return value

    def uuid(self) -> str:
        return str(uuid.UUID(int=self.random.getrandbits(128), version=4))

    def hex(self, length: int) -> str:
        return f"{self.random.getrandbits(4 * length):0{length}x}"

    def secret(self, length: int = 36) -> str:
        """Return letters and digits, as forges make their tokens."""
        alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
        return "".join(self.random.choices(alphabet, k=length))

    def secret_bytes(self, length: int) -> str:
        return base64.b64encode(self.random.randbytes(length)).decode()

    # Entities that are made on demand

    def repository(self, forge: str, name: str, *, private: bool = True) -> Repository:
        """Return the repository of that name; create it when it is new."""
        found = self.repositories.get((forge, name))
        if found is None:
            start = 700_001 if forge == "github" else 301
            found = Repository(self.next_id(f"{forge}-repository", start), forge, name, private)
            found.directory = self.directories.get(name)
            self.repositories[(forge, name)] = found
        return found

    def pull_request(self, forge: str, repo: str, number: int | None = None) -> PullRequest:
        """Return the pull request of that number, or the repository's newest open one; create it when there is none."""
        self.repository(forge, repo)
        if number is None:
            open_numbers = [
                key[2]
                for key, pull in self.pulls.items()
                if key[0] == forge and key[1] == repo and pull.state == "open"
            ]
            number = max(open_numbers, default=1)
        found = self.pulls.get((forge, repo, number))
        if found is None:
            found = PullRequest(
                id=self.next_id(f"{forge}-pull", 5_000_001 if forge == "github" else 60_001),
                forge=forge,
                repo=repo,
                number=number,
                title=f"Experiment {number}",
                head_ref=f"experiment-{number}",
                base_ref="main",
                sha=self.hex(40),
                created_at=self.now(),
            )
            self.pulls[(forge, repo, number)] = found
        return found

    def add_comment(self, forge: str, repo: str, target: str, body: str, *, user: str, id: int) -> Comment:
        now = self.now()
        comment = Comment(id, forge, repo, target, body, user, now, now)
        self.comments[id] = comment
        self.changed("comments")
        return comment

    # Waiting and announcing

    def changed(self, *keys: Hashable) -> None:
        """Wake the waiters for one of these keys, and those for any change (key None)."""
        for key in (*keys, None):
            for future in self._waiters.pop(key, ()):
                if not future.done():
                    future.set_result(None)

    async def wait(self, key: Hashable, timeout: float) -> bool:
        """Wait until `changed(key)`, at most `timeout` seconds; False when nothing came.

        Check the condition right before, with no await between: then no wake-up is lost.
        """
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.setdefault(key, set()).add(future)
        try:
            async with asyncio.timeout(timeout):
                await future
        except TimeoutError:
            return False
        finally:
            waiting = self._waiters.get(key)
            if waiting is not None:
                waiting.discard(future)
                if not waiting:
                    del self._waiters[key]
        return True

    async def wait_for_change(self, timeout: float) -> bool:
        """Wait for any change at all."""
        return await self.wait(None, timeout)

    # Time

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        """Plan a call at a world time. It runs from the loop, or at the latest before the next request."""
        timer = Timer(when, callback)
        self._sequence += 1
        heapq.heappush(self._heap, (when, self._sequence, timer))
        self._arm()
        return timer

    def call_later(self, delay: float, callback: Callable[[], None]) -> Timer:
        return self.call_at(self.now() + delay, callback)

    def run_due(self) -> None:
        """Run every timer whose time has come, and start what was parked while no loop ran."""
        while self._heap and (self._heap[0][2].cancelled or self._heap[0][0] <= self.now()):
            timer = heapq.heappop(self._heap)[2]
            if not timer.cancelled:
                timer.cancelled = True
                timer.callback()
        parked, self._parked = self._parked, []
        for work, name in parked:
            self.spawn(work, name=name)
        self._arm()

    def _arm(self) -> None:
        while self._heap and self._heap[0][2].cancelled:
            heapq.heappop(self._heap)
        if not self._heap:
            return
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return
        when = self._heap[0][0]
        if self._armed is not None:
            armed_loop, armed_when, handle = self._armed
            if armed_loop is loop and armed_when <= when and not handle.cancelled():
                return
            handle.cancel()
        self._armed = (loop, when, loop.call_later(max(0.0, when - self.now()), self._tick))

    def _tick(self) -> None:
        self._armed = None
        self.run_due()

    def spawn(self, work: Coroutine[Any, Any, None], *, name: str) -> None:
        """Run work beside the requests (webhook deliveries); parked until a loop runs."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self._parked.append((work, name))
            return
        task = loop.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Cancel what runs beside the requests."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._armed is not None:
            self._armed[2].cancel()
            self._armed = None
        for work, _ in self._parked:
            work.close()
        self._parked.clear()
