"""Notices of the clouds: polling each metadata service for a coming preemption or shutdown of the machine.

Each cloud has a *watcher* whose ``step`` sends one request; a :class:`Poller` makes a source of it, in a thread of its
own, and handles all its errors.  The agent reports fixed texts to the daemon, never the service's answer.  Nothing is
acknowledged: on Azure, acknowledging a ``Preempt`` would only make it happen sooner.
"""

from __future__ import annotations

import logging
import queue
import random
import re
import threading
import time
import typing
from dataclasses import dataclass

from runnerd.agent import client, metadata, shutdown_notices, strict_json

log = logging.getLogger("agent.cloud_notices")


@dataclass(frozen=True)
class Step:
    """The result of one request."""

    notice: shutdown_notices.Notice | None
    #: Seconds until the next request.
    pause: float


class Watcher(typing.Protocol):
    """One cloud's source of notices."""

    def step(self) -> Step:
        """Send one request.  Raises :class:`metadata.NoAnswer` without a usable answer."""
        ...


def _notice(text: str, left: float, most: float) -> shutdown_notices.Notice:
    """Return a notice with ``left`` seconds, capped at what the cloud gives at most: a clock may be wrong.

    No time left means that the time is unknown: the machine may go at any moment.
    """
    if left <= 0:
        return shutdown_notices.Notice(text)
    return shutdown_notices.Notice(text, at=time.monotonic() + min(left, most))


class Aws:
    """EC2 spot: 404 until two minutes before ("Spot Instance interruption notices", which advises to poll every 5 s).

    A rebalance recommendation announces a higher risk and no time: acting on it would lose the job for nothing, so it
    is only logged.
    """

    _ROOT = "/latest/meta-data/"
    _TOKEN_TTL_S = 21600
    _MOST_S = 120.0
    #: Polls of the notice per poll of the recommendation.
    _REBALANCE_EVERY = 6

    def __init__(self, service: metadata.Service, *, interval: float = 5.0) -> None:
        self._service, self._interval = service, interval
        self._token = ""
        self._renew_at = 0.0
        self._polls = 0
        self._recommended = False

    def step(self) -> Step:
        answer = self._get("spot/instance-action")
        if answer.status == 404:
            self._note_rebalance()
            return Step(None, self._interval)
        if answer.status != 200:
            raise metadata.NoAnswer(f"status {answer.status}")
        return Step(self._read(answer), self._interval)

    def _read(self, answer: metadata.Answer) -> shutdown_notices.Notice:
        document = _object(answer.text)
        action = document.get("action")
        if action not in ("terminate", "stop", "hibernate"):
            raise metadata.NoAnswer("an interruption without a known action")
        text = f"spot interruption: {action}"
        try:
            left = answer.until(time.strptime(str(document.get("time")), "%Y-%m-%dT%H:%M:%SZ"))
        except ValueError:
            left = 0.0
        # Hibernation begins at once, even if a time is given.
        return _notice(text, 0.0 if action == "hibernate" else left, self._MOST_S)

    def _note_rebalance(self) -> None:
        self._polls += 1
        if self._recommended or self._polls % self._REBALANCE_EVERY != 1:
            return
        try:
            self._recommended = self._get("events/recommendations/rebalance").status == 200
        except metadata.NoAnswer:
            # The notice itself was answered a moment ago.
            return
        if self._recommended:
            log.info("the cloud recommends rebalancing this machine; it gives no time, so nothing is done")

    def _get(self, path: str) -> metadata.Answer:
        if not self._token or time.monotonic() >= self._renew_at:
            self._renew()
        answer = self._ask(path)
        if answer.status == 401:
            self._renew()
            answer = self._ask(path)
        return answer

    def _ask(self, path: str) -> metadata.Answer:
        return self._service.ask(self._ROOT + path, {"X-aws-ec2-metadata-token": self._token})

    def _renew(self) -> None:
        """Open a session of IMDSv2; version 1 is not tried, because the instances are launched without it."""
        self._token = ""
        wanted = {"X-aws-ec2-metadata-token-ttl-seconds": str(self._TOKEN_TTL_S)}
        answer = self._service.ask("/latest/api/token", wanted, method="PUT")
        if answer.status != 200:
            raise metadata.NoAnswer(f"status {answer.status} for a token")
        token = answer.text.strip()
        if not re.fullmatch(r"[\x21-\x7e]{1,1024}", token):
            raise metadata.NoAnswer("an invalid token")
        self._token, self._renew_at = token, time.monotonic() + self._TOKEN_TTL_S / 2


class Gcp:
    """One value of a Compute Engine machine, held open until it changes ("Query VM metadata", ``wait_for_change``)."""

    _ROOT = "/computeMetadata/v1/instance/"
    #: Shortest interval of requests in seconds, should the service not hold them open.
    _FLOOR_S = 1.0

    def __init__(
        self,
        service: metadata.Service,
        key: str,
        read: typing.Callable[[str], shutdown_notices.Notice | None],
        *,
        hold: float = 25.0,
        floor: float = _FLOOR_S,
    ) -> None:
        self._service, self._key, self._read = service, key, read
        self._hold, self._floor = hold, floor
        self._etag = "0"

    def step(self) -> Step:
        began = time.monotonic()
        answer = self._service.ask(
            f"{self._ROOT}{self._key}?wait_for_change=true&timeout_sec={self._hold:g}&last_etag={self._etag}",
            {"Metadata-Flavor": "Google"},
            timeout=self._hold + self._service.timeout,
        )
        if answer.status != 200:
            raise metadata.NoAnswer(f"status {answer.status}")
        if answer.header("Metadata-Flavor") != "Google":
            raise metadata.NoAnswer("an answer that is not Google's")
        notice = self._read(answer.text.strip())
        etag = answer.header("ETag")
        self._etag = etag if re.fullmatch(r"[A-Za-z0-9]{1,64}", etag) else "0"
        return Step(notice, max(0.0, self._floor - (time.monotonic() - began)))


def preempted(lead: float) -> typing.Callable[[str], shutdown_notices.Notice | None]:
    """Return the parser of ``preempted``; ``lead`` is ``preemptionNoticeDuration``, 0 where none was requested.

    After that time comes the soft-off, and 30 seconds later the end ("Spot VMs"; the API's description of the field).
    """

    def read(value: str) -> shutdown_notices.Notice | None:
        if value not in ("TRUE", "FALSE"):
            raise metadata.NoAnswer("an unknown value")
        return _notice("spot preemption", lead + 30.0, lead + 30.0) if value == "TRUE" else None

    return read


class Maintenance:
    """The parser of ``maintenance-event``; the time is an hour with a GPU, else a minute ("GPU host maintenance")."""

    def __init__(self, lead: float) -> None:
        self._lead = lead
        self._moves = False

    def __call__(self, value: str) -> shutdown_notices.Notice | None:
        if value == "TERMINATE_ON_HOST_MAINTENANCE":
            return _notice("host maintenance: terminate", self._lead, self._lead)
        if value not in ("NONE", "MIGRATE_ON_HOST_MAINTENANCE"):
            raise metadata.NoAnswer("an unknown value")
        moves = value != "NONE"
        if moves and not self._moves:
            log.info("the machine will be live-migrated; nothing is done")
        self._moves = moves
        return None


class Azure:
    """Scheduled events ("Azure Metadata Service: Scheduled Events for Linux VMs", which advises to poll every second).

    ``Preempt`` and ``Terminate`` remove the machine.  ``Reboot`` and ``Redeploy`` shut it down in an orderly way, which
    the agent notices as a signal; ``Freeze`` is a pause.  Those are only logged.
    """

    _EVENTS = "/metadata/scheduledevents?api-version=2020-07-01"
    _NAME = "/metadata/instance/compute/name?api-version=2021-02-01&format=text"
    _HEADERS: typing.ClassVar = {"Metadata": "true"}
    _MOST_S = 900.0

    def __init__(self, service: metadata.Service, *, interval: float = 1.0, first: float = 130.0) -> None:
        self._service, self._interval = service, interval
        # The first request enables the events, which takes up to two minutes.
        self._timeout = first
        self._name = ""
        self._noted: set[str] = set()

    def step(self) -> Step:
        if not self._name:
            # Events of other machines of the same set are delivered too.
            self._name = self._ask(self._NAME).text.strip().lower()
            if not self._name:
                raise metadata.NoAnswer("no name for this machine")
        answer = self._ask(self._EVENTS, timeout=self._timeout)
        self._timeout = 0.0
        events = _object(answer.text).get("Events")
        if not isinstance(events, list):
            raise metadata.NoAnswer("an answer without events")
        soonest = None
        for event in events:
            notice = self._read(event, answer) if isinstance(event, dict) and self._ours(event) else None
            if notice is not None and (soonest is None or notice.at < soonest.at):
                soonest = notice
        return Step(soonest, self._interval)

    def _ours(self, event: dict[str, typing.Any]) -> bool:
        resources = event.get("Resources")
        return isinstance(resources, list) and self._name in (str(one).lower() for one in resources)

    def _read(self, event: dict[str, typing.Any], answer: metadata.Answer) -> shutdown_notices.Notice | None:
        kind = event.get("EventType")
        if kind in ("Preempt", "Terminate"):
            text = "spot eviction" if kind == "Preempt" else "termination"
            return _notice(text, self._left(event, answer), self._MOST_S)
        if kind in ("Freeze", "Reboot", "Redeploy") and kind not in self._noted:
            self._noted.add(kind)
            log.info("the cloud announces a %s; nothing is done", kind)
        return None

    def _left(self, event: dict[str, typing.Any], answer: metadata.Answer) -> float:
        """Return the seconds left; 0 for an event that has started, or without a readable time."""
        try:
            return answer.until(time.strptime(str(event.get("NotBefore")), "%a, %d %b %Y %H:%M:%S GMT"))
        except ValueError:
            return 0.0

    def _ask(self, path: str, *, timeout: float = 0.0) -> metadata.Answer:
        answer = self._service.ask(path, self._HEADERS, timeout=timeout)
        if answer.status != 200:
            raise metadata.NoAnswer(f"status {answer.status}")
        return answer


def _object(text: str) -> dict[str, typing.Any]:
    try:
        read = strict_json.loads(text)
    except (ValueError, RecursionError):
        read = None
    if not isinstance(read, dict):
        raise metadata.NoAnswer("an answer that is not a JSON object")
    return read


class Poller(shutdown_notices.Source):
    """A source that runs a watcher in a thread of its own until there is a notice; started by the first poll.

    A service that does not answer is asked again with backoff; each change between the two is one line in the log.
    """

    def __init__(
        self, name: str, watcher: Watcher, *, first: float = 1.0, most: float = 10.0, rng: random.Random | None = None
    ) -> None:
        self._name, self._watcher = name, watcher
        self._backoff = client.Backoff(first, most, rng or random.Random())
        self._found: queue.SimpleQueue[shutdown_notices.Notice] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._problem: str | None = ""

    def poll(self) -> shutdown_notices.Notice | None:
        if self._thread is None:
            thread = threading.Thread(target=self._run, name=f"notices of {self._name}", daemon=True)
            thread.start()
            self._thread = thread
        try:
            return self._found.get_nowait()
        except queue.Empty:
            return None

    def stop(self) -> None:
        self._stop.set()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                step = self._watcher.step()
            except metadata.NoAnswer as error:
                pause = self._fail(str(error))
            except Exception as error:
                # Its message may quote the answer.
                pause = self._fail(f"the agent cannot parse the answer ({type(error).__name__})")
            else:
                self._answered()
                if step.notice is not None:
                    self._found.put(step.notice)
                    return
                pause = step.pause
            self._stop.wait(pause)

    def _fail(self, problem: str) -> float:
        if not self._problem:
            log.warning("%s: the metadata service does not answer: %s; a notice may be missed", self._name, problem)
        self._problem = problem
        return self._backoff.pause()

    def _answered(self) -> None:
        if self._problem is not None:
            log.info("%s: the metadata service answers%s", self._name, " again" if self._problem else "")
        self._problem = None
        self._backoff.reset()


def sources(
    cloud: metadata.Cloud, *, url: str = "", lead: float = 0.0, gpu: bool = False
) -> list[shutdown_notices.Source]:
    """Return the sources of a cloud's notices; none outside of a cloud.

    ``url`` is the service's address, ``lead`` the seconds of notice requested at launch (Google); ``gpu`` is true on a
    machine with one.
    """
    service = metadata.Service(url or metadata.ADDRESS)
    if cloud is metadata.Cloud.AWS:
        return [Poller("aws spot/instance-action", Aws(service))]
    if cloud is metadata.Cloud.GCP:
        return [
            Poller("gcp preempted", Gcp(service, "preempted", preempted(lead))),
            Poller("gcp maintenance-event", Gcp(service, "maintenance-event", Maintenance(3600.0 if gpu else 60.0))),
        ]
    if cloud is metadata.Cloud.AZURE:
        return [Poller("azure scheduledevents", Azure(service))]
    return []
