"""What a runner's output tells: pure functions from one line to what was seen.

The words are those of actions/runner 2.336 (its listener's standard output) and of ``gitlab-runner run-single`` (JSON
or plain lines).  Neither program's exit code tells a job's result, so these lines do.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass

from runnerd.agent import documents


class Sight(enum.Enum):
    """What a line says."""

    #: The runner waits for a job.
    READY = "ready"
    #: A job began; the detail is its name or id.
    STARTED = "started"
    #: A job ended; the detail is its result.
    ENDED = "ended"
    #: The forge does not know this runner any more.
    GONE = "gone"


@dataclass(frozen=True)
class Sighting:
    """One thing seen."""

    sight: Sight
    detail: str = ""


_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_STAMP = r"^(?:\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ: )?"
_GITHUB = (
    (re.compile(_STAMP + r"Running job: (.*)$"), Sight.STARTED),
    (re.compile(_STAMP + r"Job .* completed with result: (\w+)$"), Sight.ENDED),
    (re.compile(_STAMP + r"Listening for Jobs()$"), Sight.READY),
    (re.compile(_STAMP + r"The runner no longer exists on the server\b()"), Sight.GONE),
    (re.compile(_STAMP + r"Registration \S+ was not found\b()"), Sight.GONE),
)
_RESULTS = {"succeeded": "succeeded", "succeededwithissues": "succeeded", "failed": "failed", "canceled": "canceled"}


def github(line: str) -> Sighting | None:
    """What a line of the listener says; None for nothing that matters."""
    line = _ANSI.sub("", line).strip()
    for pattern, sight in _GITHUB:
        found = pattern.match(line)
        if found is not None:
            detail = found[1]
            return Sighting(sight, _RESULTS.get(detail.lower(), detail.lower()) if sight is Sight.ENDED else detail)
    return None


def gitlab(line: str) -> Sighting | None:
    """What a line of run-single says; None for nothing that matters."""
    line = _ANSI.sub("", line).strip()
    job = ""
    ended = False
    try:
        read = documents.loads(line) if line.startswith("{") else None
    except ValueError:
        read = None
    if isinstance(read, dict):
        message = str(read.get("msg", ""))
        job = str(read.get("job", ""))
        ended = "duration_s" in read
    else:
        message = line
        found = re.search(r"\bjob=(\d+)", line)
        job = found[1] if found else ""
        ended = "duration_s=" in line
    if re.match(r"Checking for jobs\.\.\. ?received", message) and job:
        return Sighting(Sight.STARTED, job)
    # A long-lived failure text may quote anything, a success among it: only the beginning counts.
    if re.match(r"Job succeeded\b", message):
        return Sighting(Sight.ENDED, "succeeded")
    if re.match(r"Job failed\b", message):
        return Sighting(Sight.ENDED, "canceled" if re.match(r"Job failed:? ?\(?cancel+ed", message) else "failed")
    if ended and message.startswith("Job "):
        return Sighting(Sight.ENDED, "unknown")
    if message.startswith("Starting runner for"):
        return Sighting(Sight.READY)
    if re.match(r"Checking for jobs\.\.\. ?forbidden", message):
        return Sighting(Sight.GONE)
    return None


def read(kind: str, line: str) -> Sighting | None:
    """What a line of that kind of runner says."""
    return github(line) if kind == "github" else gitlab(line)
