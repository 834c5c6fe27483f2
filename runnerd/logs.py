"""The daemon's log on standard error: text for people or one JSON object per line, secrets masked.

The mask is a filter of the handler, so the records of every library pass it.  What a call gives by ``extra=`` becomes
fields of the line, by which one instance or job can be followed through the log.
"""

from __future__ import annotations

import datetime
import json
import logging
import sys
from typing import TYPE_CHECKING, Any, TextIO

from runnerd.kit import redaction

if TYPE_CHECKING:
    from runnerd import model, read_model

log = logging.getLogger("runnerd")

#: Attributes of every record; all others came in by ``extra=``.
_PLAIN = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
#: Libraries that log every step.
_CHATTY = ("aiohttp", "alembic", "apscheduler", "asyncio", "sqlalchemy", "urllib3", "botocore", "azure", "google")


def fields(record: logging.LogRecord) -> dict[str, Any]:
    """Return the fields that a call gave by ``extra=``."""
    return {key: value for key, value in record.__dict__.items() if key not in _PLAIN and value not in ("", None)}


def _time(record: logging.LogRecord) -> str:
    moment = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Text(logging.Formatter):
    """One line for people, with the fields at its end."""

    def __init__(self, *, stamped: bool = True) -> None:
        super().__init__()
        self._stamped = stamped

    def format(self, record: logging.LogRecord) -> str:
        stamp = f"{_time(record)} " if self._stamped else ""
        extra = "".join(f" {key}={value}" for key, value in fields(record).items())
        name = record.name.removeprefix("runnerd.")
        # A line break in a message must not look like a new record.
        message = record.getMessage().replace("\n", "\n    ")
        line = f"{stamp}{record.levelname.lower():7} {name}: {message}{extra}"
        trace = record.exc_text or (self.formatException(record.exc_info) if record.exc_info else "")
        return "\n".join(part for part in (line, trace, record.stack_info) if part)


class Json(logging.Formatter):
    """One JSON object per line."""

    def format(self, record: logging.LogRecord) -> str:
        found: dict[str, Any] = {
            "at": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        for key, value in fields(record).items():
            found.setdefault(key, value)
        trace = record.exc_text or (self.formatException(record.exc_info) if record.exc_info else "")
        if trace:
            found["exception"] = trace
        return json.dumps(found, default=str)


def set_up(*, level: str, format: str, stream: TextIO | None = None, stamped: bool = True) -> logging.Handler:
    """Send every record to ``stream`` (standard error); called again after a reload, it replaces its handler.

    ``stamped`` is False where the reader adds the time itself (systemd's journal).
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(Json() if format == "json" else Text(stamped=stamped))
    handler.addFilter(redaction.RedactingFilter())
    handler.set_name("runnerd")
    root = logging.getLogger()
    for old in [one for one in root.handlers if one.get_name() == "runnerd"]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    logging.getLogger("runnerd").setLevel(level.upper())
    logging.getLogger("provisioners").setLevel(level.upper())
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.captureWarnings(True)
    return handler


def follow(hooks: read_model.Hooks) -> None:
    """Write one line for each step of an instance and of a job."""
    hooks.on_step.append(_instance)
    hooks.on_job.append(_job)


def _instance(old: model.Instance, new: model.Instance) -> None:
    if old.state is new.state:
        return
    why = f" ({new.reason.value})" if new.reason else ""
    log.info(
        "instance %s: %s -> %s%s",
        new.id,
        old.state.value,
        new.state.value,
        why,
        extra={
            "action": "step",
            "instance": new.id,
            "pool": new.pool,
            "offer": new.offer,
            "job": str(new.job or ""),
            "detail": new.detail,
        },
    )


def _job(old: model.Job | None, new: model.Job) -> None:
    if old is not None and old.state is new.state:
        return
    log.info(
        "job %s of %s: %s%s",
        new.name,
        new.repo,
        new.state.value,
        f" ({new.conclusion})" if new.conclusion else "",
        extra={
            "action": "job",
            "job": str(new.key),
            "pool": new.queue.pool,
            "queue": str(new.queue),
            "instance": str(new.instance or ""),
        },
    )
