"""The document of a sweep: its members and types.  Programs of users read it."""

from __future__ import annotations

from typing import NotRequired, TypedDict

from provisioners import base


class _Tagged(TypedDict):
    """A resource at a provider that carries our tags."""

    #: Name of the instance that it is or belongs to.
    instance: str
    ref: str
    scope: base.Scope
    pool: str
    created_at: float
    #: From its tags; 0 when there is none.
    deadline: float
    price: float
    tags: dict[str, str]
    #: State of the instance's row; empty when it has none.
    row: str
    #: Without the daemon: the result of ending it, or the reason why it is kept.
    done: NotRequired[str]
    why: NotRequired[str]


class Instance(_Tagged):
    offer: str
    status: str
    attempt: str


class Residue(_Tagged):
    kind: str
    instance_listed: bool
    #: True when its scope was listed completely.
    covered: bool


class Provider(TypedDict):
    name: str
    #: Why it could not be listed; empty when it was.
    problem: str
    #: Scope -> why it was not listed.
    failures: dict[str, str]
    #: Kind of resource -> number.
    counts: dict[str, int]
    instances: list[Instance]
    residues: list[Residue]


class Sweep(TypedDict):
    providers: list[Provider]
    state_read: bool
    #: Number of instances without a row, and of side resources.
    unaccounted: int
    residues: int
    #: Providers that were not listed completely.
    incomplete: list[str]
    dry_run: NotRequired[bool]
    #: Without the daemon: how many were ended, deleted, failed or held back.
    ended: NotRequired[int]
    deleted: NotRequired[int]
    failed: NotRequired[int]
    held_back: NotRequired[int]
    notes: NotRequired[list[str]]
