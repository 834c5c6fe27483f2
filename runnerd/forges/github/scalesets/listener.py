"""The listener of one queue in scale set mode: the loop that polls the set's queue and records what it says.

The loop never ends by itself.  A failed step is reported (:mod:`.health`) and tried again after a growing delay, while
the demand known last stays in force.  A message is recorded first and acknowledged afterwards.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from runnerd import config, errors, model
from runnerd.forges import base
from runnerd.forges.github import backoff, failures
from runnerd.forges.github.rest.stranded import StrandedJobs
from runnerd.forges.github.scalesets import messages, sets
from runnerd.forges.github.scalesets.acquiring import Offers
from runnerd.forges.github.scalesets.ensuring import EnsuredSet
from runnerd.forges.github.scalesets.health import QueueHealth
from runnerd.forges.github.scalesets.service import Service
from runnerd.forges.github.scalesets.session import MessageSession, SessionHeld, SessionLost, SetVanished
from runnerd.forges.github.scalesets.tally import Tally
from runnerd.kit import clock as clocks
from runnerd.kit import http

log = logging.getLogger(__name__)

#: Repositories kept in the cursor, for the audit after a restart.
REPOSITORIES_KEPT = 20
#: Seconds between checks, during a poll, for more capacity to announce; the last value repeats.  The early checks serve
#: the start, where the first plan comes right after the first poll.
CAPACITY_CHECKS_S = (0.25, 0.75, 2.0, 5.0, 10.0)
#: A poll that ends without a message sooner than this did not wait at GitHub; seconds.
QUICK_S = 0.5


class Listener:
    """Follows one queue."""

    def __init__(
        self,
        spec: base.QueueSpec,
        name: str,
        service: Service,
        *,
        clock: clocks.Clock,
        rng: random.Random,
        acquire: config.Acquire,
        hosted: bool,
        web: str,
        owner: str,
        on_timeout: Callable[[Listener, base.JobUpdate], None],
    ) -> None:
        """``name`` is the set's; ``on_timeout`` gets each assignment that GitHub took back."""
        self.spec = spec
        self.queue = spec.queue
        self.name = name
        self.tally = Tally(clock)
        self.stranded = StrandedJobs()
        #: Repositories whose jobs were seen, newest last.
        self.repositories: dict[str, None] = {}
        self._service = service
        self._clock = clock
        self._web = web
        self._on_timeout = on_timeout
        self._health = QueueHealth(self.queue, name, clock=clock, rng=rng)
        self._set = EnsuredSet(
            self.queue, name, service, health=self._health, on_other_queue=self._start_from_first_message
        )
        self._set.want(spec.runner_group, sets.labels(spec, name))
        self._session = MessageSession(service, owner=owner, rng=rng)
        self._offers = Offers(service, self._session, clock=clock, acquire=acquire, hosted=hosted)
        self._sink: base.Sink | None = None
        #: Id of the last message that was recorded.
        self._recorded = 0
        #: Id of the last message that is counted in the tally; it may still wait for the store.
        self._counted = 0
        #: Polls in a row that did not wait.
        self._quick_polls = 0

    # -- what others ask -------------------------------------------------------------------------------------------

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels that the set should have."""
        return self._set.labels

    @property
    def registered_runners(self) -> int:
        """The number of runners that the set's statistics counted last."""
        return self.tally.statistics.registered

    def attach(self, spec: base.QueueSpec, sink: base.Sink) -> None:
        """Serve this specification and report into this sink from now on."""
        self._health.attach(sink)
        if self._sink is None:
            self._restore(sink.cursor(self.queue), sink)
        self._sink = sink
        self.spec = spec
        self._set.want(spec.runner_group, sets.labels(spec, self.name))

    def demand(self) -> model.Demand:
        """Return the demand, stranded jobs included."""
        if not self.stranded.counted:
            return self.tally.demand()
        return self.tally.demand(extra=self.stranded.by_repository())

    def covered(self) -> int:
        """Return how many waiting jobs the demand holds without the stranded ones."""
        return self.tally.demand().waiting

    def announced(self, key: model.JobKey) -> bool:
        """Return True while an announced assignment of the job is open."""
        return self.tally.holds(key)

    def timed_out(self) -> Iterable[model.JobKey]:
        """Return the jobs with a timed-out assignment that still count as demand."""
        return self.tally.timed_out()

    def health(self) -> base.Health:
        """Return the queue's health."""
        return self._health.report(demand_known=self.tally.known)

    async def count_stranded(self, job_id: str, repo: str) -> bool:
        """Count a stranded job as demand; return False when it had its instance before.

        That it has had its instance is made durable first.  Raises :class:`errors.StoreError`.
        """
        if not self.stranded.mark_helped(job_id):
            return False
        sink = self._attached
        await sink.save_cursor(self.queue, self.cursor())
        self.stranded.counted[job_id] = repo
        sink.wake()
        return True

    async def find_set(self) -> int:
        """Return the id of the queue's scale set; create it if need be.  Raises :class:`errors.ForgeError`."""
        return await self._set.find()

    def set_vanished(self) -> None:
        """Note that GitHub has deleted the set: it is created again at the next step."""
        self._set.vanished()

    async def conclude(self, update: base.JobUpdate) -> None:
        """Record what the run says has become of a job.  Raises :class:`errors.StoreError`."""
        self.tally.settle(update.key)
        await self._attached.record(self.queue, [update])

    def note_repository(self, repo: str) -> None:
        """Remember a repository whose job was seen: the audit searches it, too."""
        if repo in self.repositories:
            return
        self.repositories[repo] = None
        while len(self.repositories) > REPOSITORIES_KEPT:
            del self.repositories[next(iter(self.repositories))]

    async def end(self, *, remember: bool = True) -> None:
        """End the session.  The set stays, and so do its runners.  Raises :class:`errors.RunnerdError`."""
        await self._session.end()
        if remember and self._sink is not None:
            await self._sink.save_cursor(self.queue, self.cursor())

    # -- what survives a restart -----------------------------------------------------------------------------------

    def cursor(self) -> dict[str, Any]:
        """Return what :meth:`attach` takes up after a restart."""
        return {
            "set": self._set.id,
            "name": self.name,
            "group": self.spec.runner_group,
            "session": self._session.id,
            "message": self._recorded,
            "repositories": list(self.repositories),
            "helped": list(self.stranded.helped),
            **self.tally.remember(),
        }

    def _restore(self, cursor: Mapping[str, Any], sink: base.Sink) -> None:
        self.tally.restore(cursor, sink.waiting_jobs(self.queue))
        self.repositories.update(dict.fromkeys(_strings(cursor.get("repositories"))))
        self.stranded.restore(_strings(cursor.get("helped")))
        for job in sink.waiting_jobs(self.queue):
            self.note_repository(job.repo)
        if cursor.get("name") != self.name or cursor.get("group") != self.spec.runner_group:
            if cursor.get("set"):
                sink.alarm(
                    "queue",
                    str(self.queue),
                    "scale-set-left",
                    f'the queue now uses the scale set "{self.name}" of the group {self.spec.runner_group}; the old '
                    f'one, "{cursor.get("name")}" of {cursor.get("group")}, is left at GitHub and may still be given '
                    "jobs that no runner will take: delete it there when no job uses it",
                )
            return
        set_id, session, message = cursor.get("set"), cursor.get("session"), cursor.get("message")
        if isinstance(set_id, int):
            self._set.restore(set_id)
        if isinstance(session, str):
            self._session.left_behind = session
        if isinstance(message, int):
            self._recorded = self._counted = message

    def _start_from_first_message(self) -> None:
        """Start anew after the set was replaced: message ids count from the start and assignments are gone."""
        self._recorded = self._counted = 0
        self._offers.clear()
        self._session.reset()
        self.tally.forget_assignments()

    @property
    def _attached(self) -> base.Sink:
        assert self._sink is not None, "attach() comes first"
        return self._sink

    @property
    def _capacity(self) -> int:
        # Zero is a trapdoor: jobs that queue meanwhile are never announced afterwards (runpool's live tests).
        return max(1, self._attached.capacity(self.queue))

    # -- the loop --------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Listen until cancelled."""
        while True:
            try:
                await self._step()
            except SessionHeld as error:
                wait = self._health.session_held(error)
            except SetVanished as error:
                wait = self._health.set_vanished(error)
                self._set.vanished()
            except errors.ForgeThrottled as error:
                wait = max(error.retry_after, self._health.failed(error))
            except SessionLost as error:
                wait = self._health.session_lost(error)
            except errors.RunnerdError as error:
                wait = self._health.failed(error)
            except Exception as error:
                log.exception("%s: unexpected failure", self.queue)
                wait = self._health.failed(error)
            else:
                if self._health.succeeded():
                    self._attached.wake()
                continue
            await self._clock.sleep(wait)

    async def _step(self) -> None:
        await self._set.ensure()
        if self._session.current is None:
            await self._open_session()
        await self._set.correct_labels()
        await self._session.renew_in_time()
        await self._poll()

    async def _open_session(self) -> None:
        await self._session.open(self._set.id)
        session = self._session.current
        statistics = messages.Statistics.read(session.statistics if session is not None else None)
        if statistics is not None:
            self.tally.read(statistics)
        await self._attached.save_cursor(self.queue, self.cursor())
        self._attached.wake()
        await self._offers.refresh()

    async def _poll(self) -> None:
        await self._acquire_offers()
        began = self._clock.now()
        response = await self._next_message()
        if response is None:
            return
        if response.status == 200:
            self._quick_polls = 0
            await self._take(response)
            return
        self.tally.confirm()
        if self.tally.doubted:
            await self._read_statistics_again()
        await self._offers.refresh()
        await self._acquire_offers()
        if self._clock.now() - began < QUICK_S:
            # Something answers for GitHub without waiting; do not spin.
            self._quick_polls += 1
            await self._clock.sleep(min(backoff.LOOP[-1], 0.2 * 2.0 ** min(self._quick_polls, 10)))
        else:
            self._quick_polls = 0

    async def _next_message(self) -> http.Response | None:
        """Return the answer to one long poll; None when it was cut short because more capacity is to be announced.

        A message that arrives at that moment is not acknowledged, so it comes again.
        """
        announced = self._capacity
        poll = asyncio.ensure_future(self._session.poll(last=self._recorded, capacity=announced))
        checks = 0
        try:
            while not poll.done():
                pause = asyncio.ensure_future(
                    self._clock.sleep(CAPACITY_CHECKS_S[min(checks, len(CAPACITY_CHECKS_S) - 1)])
                )
                checks += 1
                try:
                    await asyncio.wait({poll, pause}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    pause.cancel()
                if not poll.done() and self._capacity > announced:
                    return None
            return poll.result()
        finally:
            if not poll.done():
                poll.cancel()
                await asyncio.gather(poll, return_exceptions=True)

    async def _read_statistics_again(self) -> None:
        """Read the counts a second time, from the set instead of its queue."""
        statistics = messages.Statistics.read((await self._service.get_set(self._set.id)).get("statistics"))
        if statistics is not None:
            self.tally.read(statistics)
            self._attached.wake()

    # -- messages --------------------------------------------------------------------------------------------------

    async def _take(self, response: http.Response) -> None:
        """Record a message, then acknowledge it."""
        what = f'read the queue of the scale set "{self.name}"'
        body = failures.decode(self._service.wire.forge, what, response)
        message = messages.decode(self.queue, body, web=self._web)
        if message is None:
            self._health.alarm("poison-message", "a message came without an id; it cannot be acknowledged")
            raise errors.ForgeUnavailable(f"{self._service.wire.forge}: could not {what}: a message without an id")
        if message.id > self._counted:
            self._count(message)
        if message.problems:
            # What was understood is recorded and the message acknowledged all the same: it must not block its queue.
            self._health.alarm("poison-message", "; ".join(message.problems[:5]))
        recorded = self._recorded
        self._recorded = max(recorded, message.id)
        try:
            await self._attached.record(self.queue, [job.update for job in message.jobs], self.cursor())
        except BaseException:
            self._recorded = recorded
            raise
        await self._acquire_offers()
        await self._session.acknowledge(message.id)

    def _count(self, message: messages.Message) -> None:
        """Take a message into the tally and the offers, once."""
        self._counted = message.id
        for job in message.jobs:
            update = job.update
            self.note_repository(update.repo)
            if job.kind is messages.Kind.AVAILABLE:
                self._offers.add(job.request)
                continue
            self._offers.settled(job.request)
            self.tally.note(update)
            if update.event is base.JobEvent.ASSIGNMENT_TIMEOUT:
                self._on_timeout(self, update)
        if message.statistics is not None:
            self.tally.read(message.statistics)

    async def _acquire_offers(self) -> None:
        await self._offers.take(lambda: self._capacity, self.tally.statistics.assigned)


def _strings(value: Any) -> list[str]:
    """Return the items of a list in a cursor; an empty list for anything else."""
    return [str(item) for item in value] if isinstance(value, list) else []
