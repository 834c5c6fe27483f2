"""Notices of the clouds: what each metadata service says when the machine will be taken away.

Each cloud's way is a *watcher* whose one step asks once; a :class:`Poller` makes a source of it, in a thread of its
own, from which no trouble comes out.  What the agent tells the daemon are words of its own about what it was told.
It answers nothing to the service: on Azure, acknowledging a ``Preempt`` would only let it happen sooner.
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

from runnerd.agent import client, documents, metadata, notices

log = logging.getLogger("agent.preemption")


@dataclass(frozen=True)
class Step:
    """What one asking brought."""

    notice: notices.Notice | None
    #: Seconds until it is worth asking again.
    pause: float


class Watcher(typing.Protocol):
    """One cloud's way to tell."""

    def step(self) -> Step:
        """Ask once.  Raises :class:`metadata.Silent` where there is no answer that can be used."""
        ...


def _taken(text: str, left: float, most: float) -> notices.Notice:
    """A notice with ``left`` seconds, but not more than the cloud ever gives: a clock may be wrong.

    No time left is no time known: the machine may go at any moment.
    """
    if left <= 0:
        return notices.Notice(text)
    return notices.Notice(text, at=time.monotonic() + min(left, most))


class Aws:
    """EC2 spot: 404 until two minutes before ("Spot Instance interruption notices", which advises to ask every 5 s).

    A rebalance recommendation says that the risk has grown, and no time: a job would be lost for nothing, so it is
    only logged.
    """

    _ROOT = "/latest/meta-data/"
    _TTL = 21600
    _MOST = 120.0
    #: The recommendation is asked for at each so many looks at the notice.
    _REBALANCE = 6

    def __init__(self, service: metadata.Service, *, every: float = 5.0) -> None:
        self._service, self._every = service, every
        self._token = ""
        self._renew_at = 0.0
        self._looks = 0
        self._recommended = False

    def step(self) -> Step:
        answer = self._get("spot/instance-action")
        if answer.status == 404:
            self._note_rebalance()
            return Step(None, self._every)
        if answer.status != 200:
            raise metadata.Silent(f"status {answer.status}")
        return Step(self._read(answer), self._every)

    def _read(self, answer: metadata.Answer) -> notices.Notice:
        told = _object(answer.text)
        action = told.get("action")
        if action not in ("terminate", "stop", "hibernate"):
            raise metadata.Silent("an interruption without an action that is known")
        text = f"spot interruption: {action}"
        try:
            left = answer.until(time.strptime(str(told.get("time")), "%Y-%m-%dT%H:%M:%SZ"))
        except ValueError:
            left = 0.0
        # Hibernation begins at once, whatever the time.
        return _taken(text, 0.0 if action == "hibernate" else left, self._MOST)

    def _note_rebalance(self) -> None:
        self._looks += 1
        if self._recommended or self._looks % self._REBALANCE != 1:
            return
        try:
            self._recommended = self._get("events/recommendations/rebalance").status == 200
        except metadata.Silent:
            # What matters was answered a moment ago.
            return
        if self._recommended:
            log.info("the cloud recommends to leave this machine; no time is told, so nothing is done")

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
        """A session of IMDSv2; version 1 is not tried, because the instances are launched without it."""
        self._token = ""
        wanted = {"X-aws-ec2-metadata-token-ttl-seconds": str(self._TTL)}
        answer = self._service.ask("/latest/api/token", wanted, method="PUT")
        if answer.status != 200:
            raise metadata.Silent(f"status {answer.status} for a token")
        token = answer.text.strip()
        if not re.fullmatch(r"[\x21-\x7e]{1,1024}", token):
            raise metadata.Silent("a token that is none")
        self._token, self._renew_at = token, time.monotonic() + self._TTL / 2


class Gcp:
    """One value of a Compute Engine machine, held open until it changes ("Query VM metadata", ``wait_for_change``)."""

    _ROOT = "/computeMetadata/v1/instance/"
    #: Never faster than this, should the service not hold the request open.
    _FLOOR = 1.0

    def __init__(
        self,
        service: metadata.Service,
        key: str,
        read: typing.Callable[[str], notices.Notice | None],
        *,
        hold: float = 25.0,
        floor: float = _FLOOR,
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
            raise metadata.Silent(f"status {answer.status}")
        if answer.header("Metadata-Flavor") != "Google":
            raise metadata.Silent("an answer that is not Google's")
        notice = self._read(answer.text.strip())
        etag = answer.header("ETag")
        self._etag = etag if re.fullmatch(r"[A-Za-z0-9]{1,64}", etag) else "0"
        return Step(notice, max(0.0, self._floor - (time.monotonic() - began)))


def preempted(lead: float) -> typing.Callable[[str], notices.Notice | None]:
    """How ``preempted`` is read; ``lead`` is ``preemptionNoticeDuration``, 0 where none was asked for.

    After it comes the soft-off, and 30 seconds later the end ("Spot VMs"; the API's description of the field).
    """

    def read(value: str) -> notices.Notice | None:
        if value not in ("TRUE", "FALSE"):
            raise metadata.Silent("a value that is not known")
        return _taken("spot preemption", lead + 30.0, lead + 30.0) if value == "TRUE" else None

    return read


class Maintenance:
    """How ``maintenance-event`` is read; the time is an hour with a GPU, else a minute ("GPU host maintenance")."""

    def __init__(self, lead: float) -> None:
        self._lead = lead
        self._moves = False

    def __call__(self, value: str) -> notices.Notice | None:
        if value == "TERMINATE_ON_HOST_MAINTENANCE":
            return _taken("host maintenance: terminate", self._lead, self._lead)
        if value not in ("NONE", "MIGRATE_ON_HOST_MAINTENANCE"):
            raise metadata.Silent("a value that is not known")
        moves = value != "NONE"
        if moves and not self._moves:
            log.info("the machine will be moved while it runs; nothing is done")
        self._moves = moves
        return None


class Azure:
    """Scheduled events ("Azure Metadata Service: Scheduled Events for Linux VMs", which advises to ask every second).

    ``Preempt`` and ``Terminate`` take the machine for good.  ``Reboot`` and ``Redeploy`` shut it down in good order,
    which the agent hears of as a signal; ``Freeze`` is a pause.  Those are only logged.
    """

    _EVENTS = "/metadata/scheduledevents?api-version=2020-07-01"
    _NAME = "/metadata/instance/compute/name?api-version=2021-02-01&format=text"
    _HEADERS: typing.ClassVar = {"Metadata": "true"}
    _MOST = 900.0

    def __init__(self, service: metadata.Service, *, every: float = 1.0, first: float = 130.0) -> None:
        self._service, self._every = service, every
        # The first asking switches the events on, which takes up to two minutes.
        self._timeout = first
        self._name = ""
        self._noted: set[str] = set()

    def step(self) -> Step:
        if not self._name:
            # Events of neighbours in the same set come here as well.
            self._name = self._ask(self._NAME).text.strip().lower()
            if not self._name:
                raise metadata.Silent("no name for this machine")
        answer = self._ask(self._EVENTS, timeout=self._timeout)
        self._timeout = 0.0
        events = _object(answer.text).get("Events")
        if not isinstance(events, list):
            raise metadata.Silent("an answer without events")
        found = None
        for event in events:
            notice = self._read(event, answer) if isinstance(event, dict) and self._ours(event) else None
            if notice is not None and (found is None or notice.at < found.at):
                found = notice
        return Step(found, self._every)

    def _ours(self, event: dict[str, typing.Any]) -> bool:
        resources = event.get("Resources")
        return isinstance(resources, list) and self._name in (str(one).lower() for one in resources)

    def _read(self, event: dict[str, typing.Any], answer: metadata.Answer) -> notices.Notice | None:
        kind = event.get("EventType")
        if kind in ("Preempt", "Terminate"):
            text = "spot eviction" if kind == "Preempt" else "termination"
            return _taken(text, self._left(event, answer), self._MOST)
        if kind in ("Freeze", "Reboot", "Redeploy") and kind not in self._noted:
            self._noted.add(kind)
            log.info("the cloud announces a %s; nothing is done", kind)
        return None

    def _left(self, event: dict[str, typing.Any], answer: metadata.Answer) -> float:
        """Seconds; 0 for an event that has started, or that says no time that can be read."""
        try:
            return answer.until(time.strptime(str(event.get("NotBefore")), "%a, %d %b %Y %H:%M:%S GMT"))
        except ValueError:
            return 0.0

    def _ask(self, path: str, *, timeout: float = 0.0) -> metadata.Answer:
        answer = self._service.ask(path, self._HEADERS, timeout=timeout)
        if answer.status != 200:
            raise metadata.Silent(f"status {answer.status}")
        return answer


def _object(text: str) -> dict[str, typing.Any]:
    try:
        read = documents.loads(text)
    except (ValueError, RecursionError):
        read = None
    if not isinstance(read, dict):
        raise metadata.Silent("an answer that is not a JSON object")
    return read


class Poller(notices.Source):
    """A source that asks in a thread of its own until there is a notice; begins with the first look.

    A service that is silent is asked again after growing pauses; each change of that is one line in the log.
    """

    def __init__(
        self, what: str, watcher: Watcher, *, first: float = 1.0, most: float = 10.0, rng: random.Random | None = None
    ) -> None:
        self._what, self._watcher = what, watcher
        self._backoff = client.Backoff(first, most, rng or random.Random())
        self._found: queue.SimpleQueue[notices.Notice] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._trouble: str | None = ""

    def look(self) -> notices.Notice | None:
        if self._thread is None:
            thread = threading.Thread(target=self._run, name=f"notices of {self._what}", daemon=True)
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
            except metadata.Silent as error:
                pause = self._fail(str(error))
            except Exception as error:
                # Its text may be somebody else's.
                pause = self._fail(f"the agent does not understand it ({type(error).__name__})")
            else:
                self._answered()
                if step.notice is not None:
                    self._found.put(step.notice)
                    return
                pause = step.pause
            self._stop.wait(pause)

    def _fail(self, trouble: str) -> float:
        if not self._trouble:
            log.warning("%s: the metadata service is silent: %s; a notice may be missed", self._what, trouble)
        self._trouble = trouble
        return self._backoff.pause()

    def _answered(self) -> None:
        if self._trouble is not None:
            log.info("%s: the metadata service answers%s", self._what, " again" if self._trouble else "")
        self._trouble = None
        self._backoff.reset()


def sources(cloud: metadata.Cloud, *, url: str = "", lead: float = 0.0, gpu: bool = False) -> list[notices.Source]:
    """What watches for a cloud's notices; nothing outside of a cloud.

    ``url`` is where the service is, ``lead`` the seconds of notice that were asked for at launch (Google), ``gpu``
    whether the machine has one.
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
