"""Events in a runner's output: pure functions from one line to an event.

The wording is that of actions/runner 2.336 (its listener's standard output) and of ``gitlab-runner run-single`` (JSON
or plain lines).  Neither program's exit code shows a job's result, so these lines are read.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass

from runnerd.agent import strict_json


class Kind(enum.Enum):
    """The kinds of events."""

    #: The runner is waiting for a job.
    READY = "ready"
    #: A job began; the detail is its name or id.
    STARTED = "started"
    #: A job ended; the detail is its result.
    ENDED = "ended"
    #: The forge no longer knows this runner.
    GONE = "gone"


@dataclass(frozen=True)
class Event:
    """One event seen in the output."""

    kind: Kind
    detail: str = ""


_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_STAMP = r"^(?:\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ: )?"
_GITHUB = (
    (re.compile(_STAMP + r"Running job: (.*)$"), Kind.STARTED),
    (re.compile(_STAMP + r"Job .* completed with result: (\w+)$"), Kind.ENDED),
    (re.compile(_STAMP + r"Listening for Jobs()$"), Kind.READY),
    (re.compile(_STAMP + r"The runner no longer exists on the server\b()"), Kind.GONE),
    (re.compile(_STAMP + r"Registration \S+ was not found\b()"), Kind.GONE),
)
_RESULTS = {"succeeded": "succeeded", "succeededwithissues": "succeeded", "failed": "failed", "canceled": "canceled"}


def github(line: str) -> Event | None:
    """Return the event in a line of the listener; None for an irrelevant line."""
    line = _ANSI.sub("", line).strip()
    for pattern, kind in _GITHUB:
        match = pattern.match(line)
        if match is not None:
            detail = match[1]
            return Event(kind, _RESULTS.get(detail.lower(), detail.lower()) if kind is Kind.ENDED else detail)
    return None


def gitlab(line: str) -> Event | None:
    """Return the event in a line of run-single; None for an irrelevant line."""
    line = _ANSI.sub("", line).strip()
    job = ""
    ended = False
    try:
        read = strict_json.loads(line) if line.startswith("{") else None
    except ValueError:
        read = None
    if isinstance(read, dict):
        message = str(read.get("msg", ""))
        job = str(read.get("job", ""))
        ended = "duration_s" in read
    else:
        message = line
        match = re.search(r"\bjob=(\d+)", line)
        job = match[1] if match else ""
        ended = "duration_s=" in line
    if re.match(r"Checking for jobs\.\.\. ?received", message) and job:
        return Event(Kind.STARTED, job)
    # A failure message may quote anything, even a success: only the beginning counts.
    if re.match(r"Job succeeded\b", message):
        return Event(Kind.ENDED, "succeeded")
    if re.match(r"Job failed\b", message):
        return Event(Kind.ENDED, "canceled" if re.match(r"Job failed:? ?\(?cancel+ed", message) else "failed")
    if ended and message.startswith("Job "):
        return Event(Kind.ENDED, "unknown")
    if message.startswith("Starting runner for"):
        return Event(Kind.READY)
    if re.match(r"Checking for jobs\.\.\. ?forbidden", message):
        return Event(Kind.GONE)
    return None


def read(kind: str, line: str) -> Event | None:
    """Return the event in a line of that kind of runner."""
    return github(line) if kind == "github" else gitlab(line)
