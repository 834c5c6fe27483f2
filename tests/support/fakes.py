"""Small stand-ins for what surrounds the core: a writer, a provider, a forge."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from provisioners import base
from runnerd import config, errors, model
from runnerd.forges import base as forges
from runnerd.kit import tasks
from runnerd.lifecycle import agent_assignment
from runnerd.runtime import alarms, durable_settings, ledger, observations, providers, shared, tokens
from tests.support.clocks import START, ManualClock

T = TypeVar("T")

KEY = b"a key that is long enough for tokens"
TOKENS = tokens.Tokens(KEY)
NONCE = "nonce-of-the-first-agent"


class Book:
    """A writer that keeps what it was told to write; ``broken`` makes it refuse."""

    def __init__(self) -> None:
        self.commits: list[tuple[Any, ...]] = []
        self.broken: Exception | None = None
        #: Set to hold each write until it is released.
        self.gate: asyncio.Event | None = None
        self.known: dict[str, model.Registration] = {}
        self.written: dict[str, model.Instance] = {}

    async def write(self, *changes: Any) -> None:
        if self.gate is not None:
            await self.gate.wait()
        else:
            await asyncio.sleep(0)
        if self.broken is not None:
            raise self.broken
        self.commits.append(changes)
        for change in changes:
            if isinstance(change, model.Registration):
                self.known[change.id] = change
            elif isinstance(change, model.Instance):
                self.written[change.id] = change

    async def probe(self) -> None:
        if self.broken is not None:
            raise self.broken

    async def prune(self, *, before: float) -> int:
        return 0

    async def instance(self, id: str) -> model.Instance | None:
        await asyncio.sleep(0)
        return self.written.get(id)

    async def unexplained(self, since: float) -> list[model.Instance]:
        return [one for one in self.written.values() if one.gone_at >= since and one.end == "unknown"]

    async def registrations(self, instance_id: str) -> list[model.Registration]:
        return [one for one in self.known.values() if one.instance == instance_id]

    async def consoles(self, instance_id: str) -> list[model.Console]:
        written = [change for commit in self.commits for change in commit if isinstance(change, model.Console)]
        return [one for one in written if one.instance == instance_id]

    def events(self, subject: str = "instance") -> list[str]:
        """Return the events, in order."""
        return [
            change.what
            for commit in self.commits
            for change in commit
            if isinstance(change, model.Event) and change.subject == subject
        ]


TRAITS = base.Traits(
    replay_window=300.0,
    visibility_grace=30.0,
    self_end=True,
    idempotent_create=True,
    create_rate=10.0,
    create_burst=50,
    power_off=(),
    beside_daemon=True,
)


class ScriptedProvisioner(base.Basics):
    """Answers as told; what is not told succeeds."""

    def __init__(self, name: str, clock: ManualClock, traits: base.Traits = TRAITS) -> None:
        self.name = name
        self.traits = traits
        self.clock = clock
        self.calls: list[tuple[str, Any]] = []
        #: What the next creates do: an exception, or ``None`` to succeed.
        self.creates: list[Exception | None] = []
        #: Whether a create that raises made the instance all the same.
        self.applied = False
        self.machines: dict[str, base.InstanceView] = {}
        self.partial = False
        self.listing_error: Exception | None = None
        self.delete_error: Exception | None = None
        self.ends: base.EndKind = base.EndKind.UNKNOWN
        self.residues: tuple[base.Residue, ...] = ()
        self.zones = ("a", "b")
        self.price = 1.0

    def offer(self, zone: str = "a", market: base.Market = base.Market.ON_DEMAND) -> base.Offer:
        return base.Offer(self.name, "acct", "east", zone, "small", market, self.price, 1)

    @classmethod
    def validate(cls, options: Mapping[str, Any]) -> list[str]:
        return []

    def scopes(self) -> frozenset[base.Scope]:
        return frozenset(self.offer(zone).scope for zone in self.zones)

    async def start(self) -> None:
        return None

    async def close(self) -> None:
        self.calls.append(("close", None))

    async def offers(self, shape: base.Shape, options: Mapping[str, Any] = base.NO_OPTIONS) -> list[base.Offer]:
        self.calls.append(("offers", shape))
        return [self.offer(zone, market) for zone in self.zones for market in shape.markets]

    async def create(self, request: base.CreateRequest) -> base.InstanceView:
        self.calls.append(("create", request))
        outcome = self.creates.pop(0) if self.creates else None
        if outcome is not None and not self.applied:
            raise outcome
        view = self.machines.get(f"i-{request.key}") or self.view(request)
        self.machines[view.ref] = view
        if outcome is not None:
            raise outcome
        return view

    def view(self, request: base.CreateRequest) -> base.InstanceView:
        return base.InstanceView(
            ref=f"i-{request.key}",
            name=request.name,
            scope=request.offer.scope,
            status=base.InstanceStatus.RUNNING,
            tags=dict(request.tags),
            created_at=self.clock.now(),
            offer=request.offer.key,
        )

    async def describe(self, ref: str) -> base.InstanceView | None:
        self.calls.append(("describe", ref))
        return self.machines.get(ref)

    async def delete(self, ref: str) -> None:
        self.calls.append(("delete", ref))
        if self.delete_error is not None:
            raise self.delete_error
        view = self.machines.get(ref)
        if view is not None:
            self.machines[ref] = dataclasses.replace(view, status=base.InstanceStatus.GONE)

    async def delete_residue(self, residue: base.Residue) -> None:
        self.calls.append(("delete_residue", residue.ref))

    async def list_owned(self, also: frozenset[base.Scope] = frozenset()) -> base.Listing:
        self.calls.append(("list", None))
        if self.listing_error is not None:
            raise self.listing_error
        complete = frozenset() if self.partial else self.scopes()
        return base.Listing(tuple(self.machines.values()), complete, self.residues)

    async def end_reason(self, ref: str) -> base.EndReason:
        return base.EndReason(self.ends)

    async def console_log(self, ref: str) -> str | None:
        return None

    async def check(self, samples: Sequence[base.CreateRequest] = ()) -> list[base.Finding]:
        return []

    def count(self, call: str) -> int:
        return sum(1 for name, _ in self.calls if name == call)


class ScriptedForge:
    """A forge that answers as told."""

    def __init__(self, name: str = "hub") -> None:
        self._name = name
        self.calls: list[tuple[str, str]] = []
        self.demands: dict[str, model.Demand] = {}
        self.room: int | None = None
        self.state = forges.Health()
        self.date: tuple[float, float] | None = None
        self.refusals: list[Exception] = []
        #: Whether a register call that raises made the runner all the same.
        self.applied = False
        #: Held register calls wait for it.
        self.gate: asyncio.Event | None = None
        self.runners: dict[str, forges.RunnerView] = {}
        self.removals: list[forges.Removal | Exception] = []
        self.listing_error: Exception | None = None
        self.complete = True
        self.watching = asyncio.Event()
        self.sink: forges.Sink | None = None

    @property
    def name(self) -> str:
        return self._name

    def scopes(self) -> Sequence[str]:
        return ("acme",)

    async def watch(self, specs: Sequence[forges.QueueSpec], sink: forges.Sink) -> None:
        self.sink = sink
        self.watching.set()
        await asyncio.get_running_loop().create_future()

    async def close(self) -> None:
        self.calls.append(("close", ""))

    def demand(self, queue: model.Queue) -> model.Demand:
        return self.demands.get(queue.pool, model.Demand())

    def headroom(self, queue: model.Queue) -> int | None:
        return self.room

    def health(self, queue: model.Queue) -> forges.Health:
        return self.state

    def server_date(self) -> tuple[float, float] | None:
        return self.date

    async def register(self, name: str, queue: model.Queue, *, note: str = "") -> forges.RunnerConfig:
        self.calls.append(("register", name))
        if self.gate is not None:
            await self.gate.wait()
        refusal = self.refusals.pop(0) if self.refusals else None
        if refusal is None or self.applied:
            self.runners[name] = forges.RunnerView(f"id-{name}", name, False, False)
        if refusal is not None:
            raise refusal
        return forges.RunnerConfig("github", f"id-{name}", {"JIT": f"secret of {name}"}, ("--once",))

    async def find(self, name: str, queue: model.Queue) -> forges.RunnerView | None:
        return self.runners.get(name)

    async def deregister(self, registration: model.Registration) -> forges.Removal:
        self.calls.append(("deregister", registration.runner_name))
        outcome = self.removals.pop(0) if self.removals else forges.Removal.REMOVED
        if isinstance(outcome, Exception):
            raise outcome
        if outcome is forges.Removal.REMOVED:
            self.runners.pop(registration.runner_name, None)
        return outcome

    async def list_runners(self, queue: model.Queue) -> forges.RunnerListing:
        if self.listing_error is not None:
            raise self.listing_error
        return forges.RunnerListing(tuple(self.runners.values()), self.complete)

    async def job_states(self, jobs: Sequence[model.Job]) -> Sequence[forges.JobUpdate]:
        return []

    async def retry(self, job: model.Job, *, whole_run: bool = False) -> forges.RetryOutcome:
        return forges.RetryOutcome.REFUSED

    async def webhook(self, headers: Mapping[str, str], body: bytes) -> forges.WebhookAnswer:
        return forges.WebhookAnswer(404, "")

    async def check(self, samples: Sequence[base.CreateRequest] = ()) -> list[base.Finding]:
        return []

    def count(self, call: str) -> int:
        return sum(1 for name, _ in self.calls if name == call)


SETTINGS: dict[str, Any] = {
    "controller": "acme-ci",
    "public_url": "https://runnerd.example",
    "secret": "env:RUNNERD_SECRET",
    "forges": {"hub": {"type": "github", "url": "https://github.com/acme", "token": "env:RUNNERD_PAT"}},
    "providers": {"sky": {"type": "fake"}, "sea": {"type": "fake"}},
    "limits": {"instances": 8},
    "defaults": {"max_job": "2h", "idle": "10m", "boot": "5m"},
    "pools": {"gpu": {}},
}
ENVIRON = {"RUNNERD_SECRET": "a secret of the tests", "RUNNERD_PAT": "ghp_x"}
QUEUE = model.Queue("hub", "acme", "gpu")


def settings(folder: Path, **changes: Any) -> config.Config:
    """The configuration of the tests with other top-level blocks."""
    data = copy.deepcopy(SETTINGS) | {"state": str(folder)} | changes
    return config.from_mapping(data, environ=ENVIRON)


def instance(id: str = "vm-1", state: str | model.InstanceState = "ready", **fields: Any) -> model.Instance:
    """A row with what matters to a test; ``age`` is since when it is in its state."""
    age = fields.pop("age", 0.0)
    values: dict[str, Any] = {"pool": "gpu", "created_at": START - age, "since": START - age} | fields
    return model.Instance(id=model.InstanceId(id), state=model.InstanceState(state), **values)


def bought(id: str = "vm-1", state: str | model.InstanceState = "booting", **fields: Any) -> model.Instance:
    """A row that an attempt at provider ``sky`` yielded."""
    values: dict[str, Any] = {
        "attempt": model.AttemptKey(f"key-{id}"),
        "provider": "sky",
        "offer": "sky/acct/east/a/small/on-demand",
        "ref": f"i-key-{id}",
        "running_at": START - 600.0,
        "price": 1.0,
        "deadline": START + 100_000.0,
        "gpus": 1,
        "age": 600.0,
    } | fields
    return instance(id, state, **values)


_ATTEMPT = {"requesting": "requesting", "unknown": "unknown"}


def tried(row: model.Instance, **fields: Any) -> model.Attempt:
    """The attempt that a row came from."""
    assert row.attempt is not None
    state = model.AttemptState(_ATTEMPT.get(row.state.value, "created"))
    values: dict[str, Any] = {"sealed": "", "created_at": row.created_at, "since": row.since} | fields
    return model.Attempt(row.attempt, row.id, state, row.provider, row.offer, **values)


def registration(
    id: str = "r1", owner: str = "vm-1", state: str = "registered", queue: model.Queue = QUEUE, **fields: Any
) -> model.Registration:
    values: dict[str, Any] = {"runner_name": owner, "created_at": START, "since": START, "forge_id": "7"} | fields
    return model.Registration(
        id=model.RegistrationId(id),
        instance=model.InstanceId(owner),
        queue=queue,
        state=model.RegistrationState(state),
        **values,
    )


@dataclasses.dataclass
class Place:
    """A runtime with everything around it scripted."""

    runtime: shared.Runtime
    clock: ManualClock
    book: Book
    rows: ledger.Ledger
    forge: ScriptedForge
    clouds: dict[str, ScriptedProvisioner]
    errors: list[tuple[str, BaseException]]

    @property
    def sky(self) -> ScriptedProvisioner:
        return self.clouds["sky"]

    def put(self, *rows: Any) -> None:
        """Rows that are there already."""
        for row in rows:
            if isinstance(row, model.Instance):
                self.rows._instances[row.id] = row
                if row.attempt is not None and row.attempt not in self.rows.attempts:
                    self.rows._attempts[row.attempt] = tried(row)
            elif isinstance(row, model.Attempt):
                self.rows._attempts[row.key] = row
            elif isinstance(row, model.Job):
                self.rows._jobs[row.key] = row
            else:
                self.rows._keep(row)
                self.book.known[row.id] = row

    def row(self, id: str = "vm-1") -> model.Instance:
        return self.rows.instances[model.InstanceId(id)]

    def state(self, id: str = "vm-1") -> str:
        found = self.rows.instances.get(model.InstanceId(id))
        return found.state.value if found else "forgotten"

    def alarms(self) -> set[str]:
        return {reason for _, _, reason in self.runtime.alarms.open}


def place(folder: Path, clock: ManualClock, **changes: Any) -> Place:
    """A runtime on the tests' configuration."""
    read = settings(folder, **changes)
    book = Book()
    rows = ledger.Ledger(book, clock.now)
    failures: list[tuple[str, BaseException]] = []
    forge = ScriptedForge()
    made = shared.Runtime(
        config=read,
        clock=clock,
        rng=random.Random(1),
        history=book,
        rows=rows,
        durable=durable_settings.DurableSettings(rows),
        observations=observations.Observations(clock.now),
        tokens=TOKENS,
        alarms=alarms.Alarms(clock.now),
        background=tasks.Group("test", on_failure=lambda name, error: failures.append((name, error))),
        forges={"hub": forge},
        specs=tuple(forges.QueueSpec(model.Queue("hub", "acme", pool), ("gpu",)) for pool in read.pools),
    )
    clouds = {}
    for name, entry in read.providers.items():
        cloud = clouds[name] = ScriptedProvisioner(name, clock)
        found = providers.Provider(name, entry, cloud, clock)
        for pool in read.pools.values():
            markets = pool.shape(name).markets
            told = [cloud.offer(zone, market) for zone in cloud.zones for market in markets]
            found._offers[pool.name] = (clock.now(), found._question(pool), told)
        made.providers[name] = found
    return Place(made, clock, book, rows, forge, clouds, failures)


def assign(row: model.Instance) -> agent_assignment.Assignment:
    """Return what every agent of the tests is to do."""
    return agent_assignment.Assignment(
        gpus=1,
        gpu="t4",
        max_job=7200.0,
        unclaimed=660.0,
        commands={"github": ("/runner", "run")},
        environment={"A": "b"},
    )


def refusal(kind: base.Kind = base.Kind.CAPACITY, **more: Any) -> base.ProvisionError:
    return base.ProvisionError(kind, f"{kind.value}, says the cloud", **more)


def unclear() -> base.ProvisionError:
    return base.ProvisionError(base.Kind.TRANSIENT, "no answer", maybe_created=True)


FULL = errors.StoreUnwritable("the disk is full")
Step = Callable[[Place], Awaitable[None]]
