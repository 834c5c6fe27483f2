"""The parts of a step: facts of an instance that may change with it, and the fault that may have caused it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypedDict, TypeVar

from provisioners import base
from runnerd.model import Attempt, AttemptKey, Instance, JobKey, Queue, Registration


class InstanceFacts(TypedDict, total=False):
    """Facts of an instance that may change beside its state; times of the state itself are the ledger's."""

    queue: Queue | None
    attempt: AttemptKey | None
    provider: str
    offer: str
    region: str
    zone: str
    machine_type: str
    market: str
    gpus: int
    cpus: int
    image: str
    ref: str
    price: float
    price_source: str
    running_at: float
    ready_at: float
    registered_at: float
    busy_at: float
    job_ended_at: float
    deadline: float
    hold_until: float
    repo: str
    job: JobKey | None
    agent_nonce: str
    job_started: bool
    adopted: bool
    end: str
    end_detail: str


@dataclass(frozen=True, slots=True)
class Fault:
    """A failure that counts against the offer from which an instance was to come, or came."""

    #: A :class:`provisioners.base.Kind` value, or ``gate``, ``register`` for failures on our side.
    reason: str
    failure: base.Failure


_INSTANCE_TIMES = (
    "created_at",
    "since",
    "running_at",
    "ready_at",
    "registered_at",
    "busy_at",
    "job_ended_at",
    "deadline",
    "hold_until",
)
_Row = TypeVar("_Row", Instance, Attempt, Registration)


def shifted(row: _Row, drift: float) -> _Row:
    """Return the row with all its times moved; 0 means never and stays."""
    if isinstance(row, Instance):
        times: Iterable[str] = _INSTANCE_TIMES
    elif isinstance(row, Attempt):
        times = ("created_at", "since", "sent_at")
    else:
        times = ("created_at", "since")
    changes: dict[str, Any] = {name: getattr(row, name) + drift for name in times if getattr(row, name)}
    return dataclasses.replace(row, **changes)
