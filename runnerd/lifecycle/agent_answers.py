"""The answers of the agent protocol, as they go to the wire.  Old agents read them: keys and words stay."""

from __future__ import annotations

from typing import Literal, NotRequired, TypedDict


class Preflight(TypedDict):
    """The hardware that an agent must find; -1 GPUs for no check."""

    gpus: int
    gpu: str


class Limits(TypedDict):
    """Seconds after which an agent acts by itself."""

    unclaimed: float
    unreachable: float
    max_job: float


class Hello(TypedDict):
    """A session and the orders for it."""

    session: str
    instance: str
    heartbeat: float
    gate: Preflight
    limits: Limits
    user: str


class Wait(TypedDict):
    """No runner yet: ask again after so many seconds."""

    action: Literal["wait"]
    after: float


class Run(TypedDict):
    """A runner to start."""

    action: Literal["run"]
    name: str
    kind: str
    command: list[str]
    environment: dict[str, str]


class End(TypedDict):
    """The instance is to end itself."""

    action: Literal["end"]
    reason: str


class Heartbeat(TypedDict):
    """The orders of a living agent until its next heartbeat."""

    action: Literal["continue", "stop", "end"]
    heartbeat: float
    reason: NotRequired[str]


class Noted(TypedDict):
    """A report was taken note of; nothing is to be done."""
