"""The documents that the socket, the page and ``--json`` show: their members and types.

Every member is a JSON value; times are unix seconds, and 0 stands for "not yet".  Programs of users read these, so
members are added and never renamed.  Nothing is imported here but types: commands use them without loading the daemon.
"""

from __future__ import annotations

from typing import NotRequired, TypedDict


class Job(TypedDict):
    #: The shortest name that ``explain`` takes without doubt.
    id: str
    key: str
    state: str
    conclusion: str
    forge: str
    queue: str
    pool: str
    repo: str
    run: str
    name: str
    labels: list[str]
    aliases: list[str]
    #: The instance that ran it; empty while none does.
    instance: str
    runner: str
    queued_at: float
    started_at: float
    finished_at: float
    wait_seconds: float
    run_seconds: float
    #: How often its forge took an assignment back.
    lapses: int
    url: str


class Jobs(TypedDict):
    jobs: list[Job]
    now: float
    #: True when ``limit`` has cut the list.
    more: bool


class Instance(TypedDict):
    id: str
    pool: str
    state: str
    reason: str
    detail: str
    provider: str
    region: str
    zone: str
    machine_type: str
    market: str
    gpus: int
    cpus: int
    image: str
    offer: str
    #: The provider's own handle.
    ref: str
    #: US dollars an hour, fixed at launch.
    price: float
    price_source: str
    #: US dollars accrued so far.
    dollars: float
    created_at: float
    since: float
    running_at: float
    ready_at: float
    registered_at: float
    busy_at: float
    job_ended_at: float
    gone_at: float
    deadline: float
    #: 0 when it is not held now.
    hold_until: float
    repo: str
    queue: str
    job: str
    adopted: bool
    #: How it ended, as its provider reports.
    end: str
    end_detail: str
    #: When its agent last reported, and that it then had a job.
    agent_at: float
    worker: bool
    #: Its status in the provider's last listing.
    provider_says: str


class Instances(TypedDict):
    instances: list[Instance]
    now: float
    more: bool


class Alarm(TypedDict):
    subject: str
    id: str
    reason: str
    detail: str
    since: float
    last: float
    count: int


class Event(TypedDict):
    #: The row of the audit trail to continue after; only in ``events``.
    row: NotRequired[int]
    at: float
    subject: str
    id: str
    what: str
    reason: str
    detail: str
    #: The same as a sentence.
    text: str


class Events(TypedDict):
    events: list[Event]
    #: The row to continue after.
    next: int


#: In this form because ``from`` is a keyword: the providers of a pool, in the order that they are tried.
_From = TypedDict("_From", {"from": list[str]})


class Pool(_From):
    name: str
    labels: list[str]
    gpu: str
    gpu_count: int
    market: str
    #: The demand of its queues, and whether it is known of all of them.
    waiting: int
    running: int
    known: bool
    #: State -> number of live instances.
    instances: dict[str, int]
    live: int
    max_instances: int | None
    warm: int
    drained: bool
    open_offers: int
    offers: int
    #: What the last plan says holds it back.
    held_back: list[str]


class Pools(TypedDict):
    pools: list[Pool]
    #: Pools that left the configuration and still have instances.
    retired: list[str]


class Queue(TypedDict):
    queue: str
    pool: str
    scope: str
    waiting: int
    running: int
    #: Whether the forge's count is fresh enough to act on, and when it was taken.
    known: bool
    as_of: float
    headroom: int | None
    ok: bool
    problem: str
    register_after: float


class Forge(TypedDict):
    name: str
    #: Empty for a forge that left the configuration.
    type: str
    queues: list[Queue]


class Provider(TypedDict):
    name: str
    type: str
    retired: bool
    problem: str
    listed_at: float
    paused_until: float
    instances: int
    max_instances: int | None
    #: Blocked patterns that match it.
    blocked: int


class Budget(TypedDict):
    #: ``all``, ``pool``, ``provider`` or ``team``, and the name of the one.
    level: str
    name: str
    window: str
    #: US dollars.
    limit: float
    committed: float
    left: float


class Reconcile(TypedDict):
    passes: int
    failures: int
    last_at: float
    #: The duration of the last pass.
    seconds: float


class Status(TypedDict):
    controller: str
    version: str
    now: float
    started_at: float
    stopping: bool
    store: str
    reload_ok: bool
    deadlines_held: bool
    reconcile: Reconcile
    #: State -> number.
    jobs: dict[str, int]
    instances: dict[str, int]
    pools: list[Pool]
    forges: list[Forge]
    providers: list[Provider]
    budgets: list[Budget]
    alarms: list[Alarm]


class SocketStatus(Status):
    """The status as the socket gives it: with the process that answers."""

    pid: int
    socket: str


class RankedOffer(TypedDict):
    #: From 1 on, in the order that they are tried.
    place: int
    offer: str
    provider: str
    region: str
    zone: str
    machine_type: str
    market: str
    gpus: int
    cpus: int
    image: str
    price: float
    price_source: str
    #: The cost of an instance that lives until its deadline.
    dollars_at_most: float
    open: bool
    #: Empty when it is open.
    refusal: str
    #: When the refusal ends by itself; 0 when it does not.
    until: float


class Offers(TypedDict):
    pool: str
    order: str
    market: str
    drained: bool
    now: float
    offers: list[RankedOffer]
    problems: list[str]
    held_back: list[str]


class PricedOffer(TypedDict):
    offer: str
    provider: str
    region: str
    zone: str
    machine_type: str
    market: str
    gpus: int
    cpus: int
    price: float
    price_source: str
    pools: list[str]


class Prices(TypedDict):
    offers: list[PricedOffer]
    problems: list[str]
    now: float


class JobCost(TypedDict):
    """The cost of the instance that took a job."""

    dollars: float
    price: float
    price_source: str
    seconds: float
    #: True when it is gone and the cost is final.
    final: bool


class Explanation(TypedDict):
    job: Job
    summary: str
    why: list[str]
    next: list[str]
    #: Jobs of the pool that waited before it.
    ahead: int
    instances: list[Instance]
    timeline: list[Event]
    cost: JobCost | None


class Ambiguous(TypedDict):
    """The jobs that a name may mean."""

    ambiguous: list[Job]


class Logs(TypedDict):
    instance: str
    state: str
    reason: str
    end: str
    end_detail: str
    end_text: str
    job: str
    job_url: str
    console: str | None
    console_at: float
    #: Why there is no console output.
    console_problem: str
    #: The last output of its agent.
    diagnostics: str | None
    events: list[Event]


class Sum(TypedDict):
    dollars: float
    committed: float
    instances: int
    hours: float
    gpu_hours: float
    jobs: int


class CostGroup(Sum):
    key: str
    name: str


class Cost(TypedDict):
    by: str
    since: float
    #: None for now.
    until: float | None
    now: float
    groups: list[CostGroup]
    total: Sum
    notes: list[str]
