"""The answers to operators' commands: their members and types.  Programs of users read these documents."""

from __future__ import annotations

from typing import TypedDict


class Message(TypedDict):
    """An answer with a sentence for people."""

    message: str


class Drained(Message):
    pool: str
    drained: bool
    changed: bool
    #: Instances of the pool, and those of them that have a job.
    live: int
    busy: int


class Reaped(Message):
    instance: str
    state: str


class Held(Message):
    instance: str
    #: Unix seconds; 0 when it was released.
    hold_until: float
    #: Unix seconds at which the provider ends it in any case; 0 for none.
    deadline: float


class Finding(TypedDict):
    level: str
    place: str
    message: str
    remedy: str


class Renewal(TypedDict):
    """The answers of price lists."""

    findings: list[Finding]
    #: How many of the findings are errors.
    errors: int
    #: When the new prices count.
    effect: str


class Reloaded(TypedDict):
    done: list[str]
