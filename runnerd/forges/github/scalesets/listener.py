"""One queue in scale set mode: its set, its session, and the loop that listens.

The loop never ends by itself.  Whatever fails is said once in health and alarms, waited for with growing delays, and
tried again, while the last known demand stays served.  A message is recorded first and acknowledged after.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Mapping
from typing import Any

from runnerd import config, errors, model
from runnerd.forges import base
from runnerd.forges.github import failures, pace
from runnerd.forges.github.scalesets import messages, scaleset, sets
from runnerd.forges.github.scalesets.acquiring import Offers
from runnerd.forges.github.scalesets.session import Mailbox, SessionHeld, SessionLost, SetVanished
from runnerd.forges.github.scalesets.tally import Tally
from runnerd.kit import clock as clocks
from runnerd.kit import http

log = logging.getLogger(__name__)

#: How long another's session, or a failing forge, is borne before a person is told; seconds.
PATIENCE = 300.0
#: Repositories kept in the cursor, for the audit after a restart.
REPOSITORIES = 20
#: Stranded jobs remembered as helped.
HELPED = 1000
#: How long a failure that may pass holds nothing up; seconds.
BLIP = 30.0
#: When a poll under way looks whether more capacity is to be announced, in seconds after the last look; the last
#: stays.  Early looks serve the start, where the first plan comes right after the first poll.
LOOKS = (0.25, 0.75, 2.0, 5.0, 10.0)
#: A long poll that ends faster than this with nothing to say did not wait.
QUICK = 0.5


class Listener:
    """Follows one queue."""

    def __init__(
        self,
        spec: base.QueueSpec,
        name: str,
        service: scaleset.Service,
        *,
        clock: clocks.Clock,
        rng: random.Random,
        acquire: config.Acquire,
        hosted: bool,
        web: str,
        owner: str,
        on_lapse: Callable[[Listener, base.JobUpdate], None],
    ) -> None:
        self.spec = spec
        self.queue = spec.queue
        self.name = name
        self.labels = sets.labels(spec, name)
        self.tally = Tally(clock)
        self.set_id = 0
        #: Stranded jobs that count as demand, by job id: repository.
        self.stranded: dict[str, str] = {}
        #: Stranded jobs that had their instance; none gets a second.
        self.helped: dict[str, None] = {}
        #: Repositories whose jobs were seen, newest last.
        self.repositories: dict[str, None] = {}
        self._service = service
        self._clock = clock
        self._rng = rng
        self._web = web
        self._on_lapse = on_lapse
        self._mailbox = Mailbox(service, owner=owner, rng=rng)
        self._backoff = pace.Backoff(pace.LOOP, rng)
        self._held = pace.Backoff(pace.HELD, rng)
        self._offers = Offers(service, self._mailbox, clock=clock, acquire=acquire, hosted=hosted)
        self._sink: base.Sink | None = None
        #: The set that the message ids belong to.
        self._queue_of = 0
        self._last = 0
        self._noted = 0
        self._ensuring = asyncio.Lock()
        self._checked = False
        self._labels_for: tuple[int, tuple[str, ...]] | None = None
        self._scale_set: Mapping[str, Any] = {}
        self._problem = ""
        #: The problem concerns registrations as well.
        self._grave = False
        self._since = 0.0
        self._held_since = 0.0
        self._quick = 0
        self._alarmed: set[str] = set()

    # -- what others ask -------------------------------------------------------------------------------------------

    def attach(self, spec: base.QueueSpec, sink: base.Sink) -> None:
        """Serve this specification and report into this sink from now on."""
        if self._sink is None:
            self._restore(sink.cursor(self.queue), sink)
        self._sink = sink
        self.spec = spec
        labels = sets.labels(spec, self.name)
        if labels != self.labels:
            self.labels = labels
            # Read the set again, and mend its labels with the session that is open.
            self._checked = False

    def demand(self) -> model.Demand:
        if not self.stranded:
            return self.tally.demand()
        extra: dict[str, int] = {}
        for repo in self.stranded.values():
            extra[repo] = extra.get(repo, 0) + 1
        return self.tally.demand(extra=extra)

    def health(self) -> base.Health:
        """Not ok when what is known should not be acted on: a short failure, or another's session, is no reason."""
        if not self._problem:
            return base.Health()
        passing = self._held_since > 0 or self._clock.now() - self._since < BLIP
        if passing and self.tally.known and not self._grave:
            return base.Health(since=self._since)
        return base.Health(ok=False, problem=self._problem, since=self._since)

    def registered(self) -> None:
        """A runner of this queue was registered: any online runner unblocks a stranded job (pytorch/ci-infra #900)."""
        if self.stranded:
            del self.stranded[next(iter(self.stranded))]

    async def help(self, job: str, repo: str) -> bool:
        """Count a stranded job as demand; once in its life, which is made durable first."""
        if job in self.helped:
            return False
        self.helped[job] = None
        while len(self.helped) > HELPED:
            del self.helped[next(iter(self.helped))]
        sink = self._reports
        await sink.save_cursor(self.queue, self.cursor())
        self.stranded[job] = repo
        sink.wake()
        return True

    async def find_set(self) -> int:
        """The id of the queue's scale set, made if need be.  Raises :class:`errors.ForgeError`."""
        if not self.set_id:
            await self._ensure()
        return self.set_id

    async def conclude(self, update: base.JobUpdate) -> None:
        """The run said what became of a job.  Raises :class:`errors.StoreError`."""
        self.tally.settle(update.key)
        await self._reports.record(self.queue, [update])

    def vanished(self) -> None:
        """GitHub said that the set is gone: make it again at the next step."""
        self.set_id = 0
        self._checked = False

    async def end(self, *, remember: bool = True) -> None:
        """End the session.  The set stays, and so do its runners."""
        await self._mailbox.end()
        if remember and self._sink is not None:
            await self._sink.save_cursor(self.queue, self.cursor())

    # -- what survives a restart -----------------------------------------------------------------------------------

    def cursor(self) -> dict[str, Any]:
        session = self._mailbox.session
        return {
            "set": self.set_id,
            "name": self.name,
            "group": self.spec.runner_group,
            "session": session.id if session is not None else self._mailbox.left_behind,
            "message": self._last,
            "repositories": list(self.repositories),
            "helped": list(self.helped),
            **self.tally.remember(),
        }

    def _restore(self, cursor: Mapping[str, Any], sink: base.Sink) -> None:
        self.tally.restore(cursor, sink.waiting_jobs(self.queue))
        for field, memory in (("repositories", self.repositories), ("helped", self.helped)):
            found = cursor.get(field)
            if isinstance(found, list):
                memory.update(dict.fromkeys(str(item) for item in found))
        for job in sink.waiting_jobs(self.queue):
            self.saw(job.repo)
        if cursor.get("name") != self.name or cursor.get("group") != self.spec.runner_group:
            if cursor.get("set"):
                sink.alarm(
                    "queue",
                    str(self.queue),
                    "scale-set-left",
                    f'the queue now uses the scale set "{self.name}" of the group {self.spec.runner_group}; the old '
                    f'one, "{cursor.get("name")}" of {cursor.get("group")}, is left at GitHub and may still be given '
                    "jobs that nobody will run: delete it there when no job uses it",
                )
            return
        set_id, session, last = cursor.get("set"), cursor.get("session"), cursor.get("message")
        if isinstance(set_id, int):
            self.set_id = self._queue_of = set_id
        if isinstance(session, str):
            self._mailbox.left_behind = session
        if isinstance(last, int):
            self._last = self._noted = last

    @property
    def _reports(self) -> base.Sink:
        assert self._sink is not None, "attach() comes first"
        return self._sink

    @property
    def _capacity(self) -> int:
        # Zero is a trapdoor: jobs that queue meanwhile are never announced afterwards (runpool's live tests).
        return max(1, self._reports.capacity(self.queue))

    # -- the loop --------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Listen until cancelled."""
        while True:
            try:
                await self._step()
            except SessionHeld as error:
                wait = self._other_session(error)
            except SetVanished as error:
                wait = self._set_vanished(error)
            except errors.ForgeThrottled as error:
                wait = max(error.retry_after, self._trouble(error))
            except SessionLost as error:
                # Happens about every 50 minutes in some tenants (scaleset PR #123): no trouble unless it repeats.
                log.info("%s: %s", self.queue, error)
                wait = self._trouble(error) if self._backoff.failures else self._backoff.next()
            except errors.RunnerdError as error:
                wait = self._trouble(error)
            except Exception as error:
                log.exception("%s: unexpected failure", self.queue)
                wait = self._trouble(error)
            else:
                self._fine()
                continue
            await self._clock.sleep(wait)

    async def _step(self) -> None:
        if not self.set_id or not self._checked:
            await self._ensure()
        if not self._mailbox.held:
            await self._open()
        if self._labels_for != (self.set_id, self.labels):
            await self._mend_labels()
        await self._mailbox.keep()
        await self._poll()

    def _fine(self) -> None:
        self._backoff.reset()
        self._held.reset()
        self._held_since = 0.0
        if self._problem:
            log.info("%s: works again", self.queue)
            self._problem = ""
            self._reports.wake()
        for reason in ("forge-failing", "session-held", "scale-set-vanished"):
            self._clear(reason)

    def _trouble(self, error: Exception) -> float:
        """Remember what is wrong and say how long to stay away."""
        now = self._clock.now()
        if not self._problem:
            self._since = now
            log.warning("%s: %s", self.queue, error)
        self._problem = str(error) or type(error).__name__
        self._held_since = 0.0
        self._grave = isinstance(error, errors.ForgeForbidden | errors.ForgeAuthFailed | errors.StoreError)
        wait = self._backoff.next()
        if now - self._since >= PATIENCE or self._grave:
            self._alarm("forge-failing", self._problem)
        return wait

    def _other_session(self, error: SessionHeld) -> float:
        now = self._clock.now()
        self._held_since = self._held_since or now
        if not self._problem:
            self._since = now
            log.warning("%s: %s", self.queue, error)
        self._problem = str(error)
        self._grave = False
        if now - self._held_since >= PATIENCE:
            minutes = (now - self._held_since) / 60
            self._alarm(
                "session-held",
                f'another session has held the scale set "{self.name}" for {minutes:.0f} min: {error}. Stop the other '
                "listener (a second runnerd, an ARC controller), or give this pool labels of its own",
            )
        return self._held.next()

    def _set_vanished(self, error: SetVanished) -> float:
        self._alarm(
            "scale-set-vanished",
            f'GitHub no longer has the scale set "{self.name}" ({error}); it is made again, its jobs are assigned anew',
        )
        self.vanished()
        return self._backoff.next()

    # -- the set ---------------------------------------------------------------------------------------------------

    async def _ensure(self) -> None:
        """Find the set or make it.  A lost answer to its creation is settled by finding it the next time."""
        async with self._ensuring:
            if not self.set_id or not self._checked:
                await self._find_or_make()

    async def _find_or_make(self) -> None:
        group = int((await self._service.group(self.spec.runner_group))["id"])
        found = await self._service.find_set(group, self.name)
        made = False
        if found is None:
            what = f'create the scale set "{self.name}"'
            response = await self._service.create_set(self.name, group, self.labels)
            if response.status in (200, 201):
                found = failures.decode(self._service.wire.forge, what, response)
                made = True
            else:
                # Another daemon may have been faster: the name is taken, and that set is as good.
                found = await self._service.find_set(group, self.name)
                if found is None:
                    raise self._service.refusal(what, response)
        set_id = found.get("id")
        if not isinstance(set_id, int) or set_id <= 0:
            raise errors.ForgeUnavailable(
                f'{self._service.wire.forge}: the scale set "{self.name}" came without an id; runnerd tries on'
            )
        if self._queue_of and self._queue_of != set_id:
            self._new_set()
        self.set_id = self._queue_of = set_id
        self._scale_set = found
        self._checked = True
        self._labels_for = None
        if made:
            log.info("%s: made the scale set %s (%d)", self.queue, self.name, set_id)
            self._judge_labels()

    def _new_set(self) -> None:
        """Another id means another queue: messages count from the start and assignments are gone."""
        self._last = self._noted = 0
        self._offers.clear()
        self._mailbox.session = None
        self._mailbox.left_behind = ""
        self.tally.forget_assignments()

    async def _mend_labels(self) -> None:
        """Make the set's labels ours.  Only called with its session in hand: nobody else listens on it."""
        wanted = self.labels
        if sets.missing(wanted, self._scale_set) or sets.surplus(wanted, self._scale_set):
            what = f'change the labels of the scale set "{self.name}"'
            response = await self._service.relabel_set(self.set_id, self.name, wanted)
            if response.status == 404 or response.status >= 500:
                raise self._service.refusal(what, response)
            if response.status >= 400:
                log.warning("%s", self._service.refusal(what, response))
            # The answer may repeat what was asked; what is kept is what counts.
            self._scale_set = await self._service.get_set(self.set_id)
        self._judge_labels()

    def _judge_labels(self) -> None:
        self._labels_for = (self.set_id, self.labels)
        missing = sets.missing(self.labels, self._scale_set)
        surplus = sets.surplus(self.labels, self._scale_set)
        if missing:
            self._alarm(
                "labels-dropped",
                f'the scale set "{self.name}" lacks the labels {", ".join(missing)}: jobs that ask for them wait. '
                "GitHub Enterprise Server before 3.21 drops them unless its feature flag "
                "DistributedTask.AllowRunnerScaleSetCustomLabels is on. Use the set's name alone in runs-on, or "
                "delete the set when no job uses it and let runnerd make it again",
            )
        else:
            self._clear("labels-dropped")
        if surplus:
            self._alarm(
                "labels-surplus",
                f'the scale set "{self.name}" still has the labels {", ".join(surplus)}, which the pool no longer '
                "lists: GitHub did not take the change. Delete the set when no job uses it; runnerd makes it again",
            )
        else:
            self._clear("labels-surplus")

    # -- the session -----------------------------------------------------------------------------------------------

    async def _open(self) -> None:
        await self._mailbox.open(self.set_id)
        session = self._mailbox.session
        statistics = messages.Statistics.read(session.statistics if session is not None else None)
        if statistics is not None:
            self.tally.read(statistics)
        await self._reports.save_cursor(self.queue, self.cursor())
        self._reports.wake()
        await self._offers.refresh()

    async def _poll(self) -> None:
        await self._take_offers()
        asked = self._clock.now()
        response = await self._listen()
        if response is None:
            return
        if response.status == 200:
            self._quick = 0
            await self._take(response)
            return
        self.tally.confirm()
        if self.tally.doubted:
            await self._read_again()
        await self._offers.refresh()
        await self._take_offers()
        if self._clock.now() - asked < QUICK:
            # Something answers for GitHub without waiting; do not spin.
            self._quick += 1
            await self._clock.sleep(min(pace.LOOP[-1], 0.2 * 2.0 ** min(self._quick, 10)))
        else:
            self._quick = 0

    async def _listen(self) -> http.Response | None:
        """The long poll; None when it was given up because more capacity is to be announced.

        A message that arrives at that moment is not acknowledged, so it comes again.
        """
        announced = self._capacity
        poll = asyncio.ensure_future(self._mailbox.poll(last=self._last, capacity=announced))
        looks = 0
        try:
            while not poll.done():
                pause = asyncio.ensure_future(self._clock.sleep(LOOKS[min(looks, len(LOOKS) - 1)]))
                looks += 1
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

    async def _read_again(self) -> None:
        """Ask for the counts a second time, outside the queue."""
        statistics = messages.Statistics.read((await self._service.get_set(self.set_id)).get("statistics"))
        if statistics is not None:
            self.tally.read(statistics)
            self._reports.wake()

    async def _take(self, response: http.Response) -> None:
        """Record a message, then acknowledge it."""
        what = f'read the queue of the scale set "{self.name}"'
        body = failures.decode(self._service.wire.forge, what, response)
        message = messages.decode(self.queue, body, web=self._web)
        if message is None:
            self._alarm("poison-message", "a message came without an id; it cannot be acknowledged")
            raise errors.ForgeUnavailable(f"{self._service.wire.forge}: could not {what}: a message without an id")
        if message.id > self._noted:
            self._note(message)
        if message.problems:
            # What was understood is recorded and the message acknowledged all the same: it must not block its queue.
            self._alarm("poison-message", "; ".join(message.problems[:5]))
        last = self._last
        self._last = max(last, message.id)
        try:
            await self._reports.record(self.queue, [job.update for job in message.jobs], self.cursor())
        except BaseException:
            self._last = last
            raise
        await self._take_offers()
        await self._mailbox.acknowledge(message.id)

    def _note(self, message: messages.Message) -> None:
        self._noted = message.id
        for job in message.jobs:
            update = job.update
            self.saw(update.repo)
            if job.kind is messages.Kind.AVAILABLE:
                self._offers.add(job.request)
                continue
            self._offers.settled(job.request)
            self.tally.note(update)
            if update.event is base.JobEvent.LAPSED:
                self._on_lapse(self, update)
        if message.statistics is not None:
            self.tally.read(message.statistics)

    async def _take_offers(self) -> None:
        await self._offers.take(lambda: self._capacity, self.tally.statistics.assigned)

    def saw(self, repo: str) -> None:
        """A job of this repository was seen: the audit looks there, too."""
        if repo in self.repositories:
            return
        self.repositories[repo] = None
        while len(self.repositories) > REPOSITORIES:
            del self.repositories[next(iter(self.repositories))]

    # -- alarms ----------------------------------------------------------------------------------------------------

    def _alarm(self, reason: str, detail: str) -> None:
        self._alarmed.add(reason)
        self._reports.alarm("queue", str(self.queue), reason, detail)

    def _clear(self, reason: str) -> None:
        if reason in self._alarmed:
            self._alarmed.discard(reason)
            self._reports.clear("queue", str(self.queue), reason)
