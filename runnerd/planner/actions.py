"""The actions that the planner may ask for, and the plan as a whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from runnerd import model
from runnerd.model import Queue, Reason


@dataclass(frozen=True, slots=True)
class Launch:
    """Plan one more instance of a pool, bought for a repository's turn."""

    pool: str
    repo: str


@dataclass(frozen=True, slots=True)
class Drop:
    """Forget a planned instance that is no longer wanted."""

    instance: model.InstanceId
    reason: Reason


@dataclass(frozen=True, slots=True)
class Request:
    """Try offers for a planned instance."""

    instance: model.InstanceId


@dataclass(frozen=True, slots=True)
class Resolve:
    """Find out what became of an unclear create call."""

    instance: model.InstanceId
    #: False when it is no longer wanted: it is not sent again.
    wanted: bool


@dataclass(frozen=True, slots=True)
class Register:
    """Give a ready instance a runner for a queue."""

    instance: model.InstanceId
    queue: Queue


@dataclass(frozen=True, slots=True)
class Drain:
    """Let the instance take no further job, then end it through the termination check."""

    instance: model.InstanceId
    reason: Reason
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Release:
    """Ask the forge to remove a draining instance's runner, and end it when both observers deny a job."""

    instance: model.InstanceId
    #: End it regardless of the observations: deadline, dead machine, an operator's command.
    forced: bool = False


@dataclass(frozen=True, slots=True)
class Delete:
    """Ask the provider to delete an ending instance, until it is gone."""

    instance: model.InstanceId


@dataclass(frozen=True, slots=True)
class Close:
    """The instance is confirmed absent."""

    instance: model.InstanceId
    reason: Reason


@dataclass(frozen=True, slots=True)
class Deregister:
    """Remove a registration that no instance needs any more."""

    registration: model.RegistrationId


Action: TypeAlias = Launch | Drop | Request | Resolve | Register | Drain | Release | Delete | Close | Deregister


@dataclass(frozen=True, slots=True)
class Plan:
    """Actions in the order to start them, and why what is wanted is not being done."""

    actions: tuple[Action, ...]
    #: Pool -> what holds it back, for people; ``explain`` shows it.
    notes: Mapping[str, tuple[str, ...]]
