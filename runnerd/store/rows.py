"""Between dataclasses and rows, without an object mapper.

A :class:`Codec` turns a fact into the tuple that its upsert takes, and a row back into the fact.  Free text is made
storable on the way in, because an odd byte in a cloud's error message must not keep a state from being written;
everything that names something is stored as it is or refused.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from types import MappingProxyType
from typing import Any, Generic, TypeVar

import sqlalchemy as sa

from runnerd import errors, model
from runnerd.store import tables

T = TypeVar("T")

#: An immutable empty mapping.
EMPTY: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Cursor:
    """The position up to which a queue has been read; opaque to all but the forge's client."""

    queue: str
    value: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Setting:
    """A small durable fact: a drained pool, a hold."""

    name: str
    value: str


@dataclass(frozen=True, slots=True)
class Unblock:
    """The deletion of the block of a pattern."""

    pattern: str


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost of a closed instance: its price times its running time."""

    instance: model.InstanceId
    pool: str
    provider: str
    market: str
    repo: str
    running_at: float
    gone_at: float
    #: Dollars per hour.
    price: float

    @property
    def dollars(self) -> float:
        return max(0.0, self.gone_at - self.running_at) / 3600.0 * self.price


@functools.lru_cache(maxsize=4096)
def _queue(forge: str, scope: str, pool: str) -> model.Queue:
    """Return the queue; rows of one queue share one object."""
    return model.Queue(forge, scope, pool)


def free_text(text: str) -> str:
    """Return the text as every database accepts it: without NUL (PostgreSQL) and lone surrogates (all)."""
    if text.isascii():
        return text.replace("\x00", "\ufffd") if "\x00" in text else text
    return text.replace("\x00", "\ufffd").encode("utf-8", "replace").decode("utf-8")


def _json(value: Any) -> str:
    if isinstance(value, Mapping):
        value = dict(value)
    return json.dumps(value, separators=(",", ":"))


class Codec(Generic[T]):
    """The conversion of one kind of fact to a row and back.

    ``enums``, ``lists`` (JSON arrays of text), ``queue`` (a field of three columns) and ``free`` (free text)
    name the fields that are not stored just as they are.
    """

    def __init__(
        self,
        kind: type[T],
        table: sa.Table,
        *,
        enums: Mapping[str, type[enum.StrEnum]] | None = None,
        lists: Sequence[str] = (),
        queue: str | None = None,
        free: Sequence[str] = (),
    ) -> None:
        self.kind = kind
        self.table = table
        names = [each.name for each in dataclasses.fields(kind)]  # type: ignore[arg-type]  # all are dataclasses
        self.key = next(column.name for column in table.primary_key)
        self._get = attrgetter(*names)
        self._queue = names.index(queue) if queue else None
        self._values = [
            (names.index(name), {member: member.value for member in kinds}, kinds)
            for name, kinds in (enums or {}).items()
        ]
        self._lists = [names.index(name) for name in lists]
        self._free = [names.index(name) for name in free]
        #: The columns in the order of :meth:`encode`'s tuples.
        self.columns: list[str] = []
        for name in names:
            self.columns += ["queue_forge", "queue_scope", "queue_pool"] if name == queue else [name]
        self.select = sa.select(*(table.c[name] for name in self.columns))
        self._members = {kinds: {member.value: member for member in kinds} for _, _, kinds in self._values}

    def encode(self, fact: T) -> tuple[Any, ...]:
        """Return the values of :attr:`columns`.  Raises :class:`errors.StoreError` for what no row can hold."""
        values = list(self._get(fact))
        try:
            for place, texts, _ in self._values:
                values[place] = texts[values[place]]
            for place in self._lists:
                values[place] = json.dumps(values[place], separators=(",", ":"))
            for place in self._free:
                values[place] = free_text(values[place])
            if self._queue is not None:
                queue = values[self._queue]
                values[self._queue : self._queue + 1] = (
                    (None, None, None) if queue is None else (queue.forge, queue.scope, queue.pool)
                )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise errors.StoreError(f"this {self.kind.__name__} cannot be stored: {error!r}") from error
        return tuple(values)

    def decode(self, row: Sequence[Any]) -> T:
        """Return the fact that the row was made from."""
        values = list(row)
        if self._queue is not None:
            forge, scope, pool = values[self._queue : self._queue + 3]
            values[self._queue : self._queue + 3] = [None if forge is None else _queue(forge, scope, pool)]
        for place, _, kinds in self._values:
            values[place] = self._members[kinds][values[place]]
        for place in self._lists:
            values[place] = tuple(json.loads(values[place]))
        return self.kind(*values)


INSTANCE = Codec(
    model.Instance,
    tables.instances,
    enums={"state": model.InstanceState, "reason": model.Reason},
    queue="queue",
    free=("detail", "price_source", "end_detail"),
)
ATTEMPT = Codec(model.Attempt, tables.attempts, enums={"state": model.AttemptState}, free=("code", "detail"))
REGISTRATION = Codec(
    model.Registration,
    tables.registrations,
    enums={"state": model.RegistrationState},
    queue="queue",
    free=("detail",),
)
JOB = Codec(
    model.Job,
    tables.jobs,
    enums={"state": model.JobState},
    lists=("labels", "aliases"),
    queue="queue",
    free=("url",),
)
EVENT = Codec(model.Event, tables.events, free=("reason", "detail"))
BLOCK = Codec(model.Block, tables.blocks, free=("detail",))
SETTING = Codec(Setting, tables.settings)


class _CursorCodec(Codec[Cursor]):
    """A cursor's value is any JSON object."""

    def encode(self, fact: Cursor) -> tuple[Any, ...]:
        try:
            return fact.queue, _json(fact.value)
        except (TypeError, ValueError) as error:
            raise errors.StoreError(f"the cursor of {fact.queue} cannot be stored: {error}") from error

    def decode(self, row: Sequence[Any]) -> Cursor:
        return Cursor(row[0], json.loads(row[1]))


CURSOR = _CursorCodec(Cursor, tables.cursors)


class _ConsoleCodec(Codec[model.Console]):
    """A console's key is made of two of its fields."""

    def __init__(self) -> None:
        super().__init__(model.Console, tables.consoles, enums={"kind": model.ConsoleKind}, free=("text", "problem"))
        self.columns = [self.key, *self.columns]

    def encode(self, fact: model.Console) -> tuple[Any, ...]:
        return fact.key, *super().encode(fact)


CONSOLE = _ConsoleCodec()
