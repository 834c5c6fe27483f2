"""Counters and histograms, fed by hooks of the ledger, of job updates and of the loop: no other code has to count."""

from __future__ import annotations

import platform
from collections.abc import Iterable
from dataclasses import dataclass
from types import MappingProxyType

import prometheus_client
from prometheus_client import Counter, Gauge, Histogram

import runnerd
from provisioners import base
from runnerd import model, read_model
from runnerd.forges import base as forges
from runnerd.metrics import gauges
from runnerd.model import Attempt, AttemptState, Instance, InstanceId, InstanceState, Job, JobState, Reason
from runnerd.runtime import budget

#: Conclusions of jobs; any other that a forge reports counts as ``other``.
OUTCOMES = frozenset({"success", "failure", "cancelled", "timed_out", "skipped"})
#: Kinds of failed attempts that ``provision_attempts_total`` names, beside ``created``, ``lost`` and ``other``.
FAILURES = frozenset(kind.value for kind in base.Kind)
#: The phases of a job's wait, in order.
WAITS = ("dispatch", "provision", "boot", "gate", "register", "pickup")
#: State -> the phase of an instance's life that it belongs to.
PHASES = MappingProxyType(
    {
        InstanceState.PLANNED: "dispatch",
        InstanceState.REQUESTING: "provision",
        InstanceState.UNKNOWN: "provision",
        InstanceState.BOOTING: "boot",
        InstanceState.READY: "register",
        InstanceState.REGISTERING: "register",
        InstanceState.REGISTERED: "idle",
        InstanceState.BUSY: "job",
        InstanceState.DRAINING: "drain",
        InstanceState.ENDING: "end",
    }
)
#: States in which a paid instance waits for work.
IDLE = frozenset({InstanceState.READY, InstanceState.REGISTERING, InstanceState.REGISTERED})
_WAIT_BUCKETS = (0.1, 0.5, 1, 2, 5, 10, 20, 30, 60, 90, 120, 180, 300, 600, 1200, 1800, 3600, 7200, 21600)
_PHASE_BUCKETS = (0.1, 1, 5, 10, 30, 60, 120, 180, 300, 600, 1800, 3600, 7200, 21600, 43200, 86400)
_PASS_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
#: Series of ``forge_requests_total`` at most; clients name endpoints by template, and a slip must not flood.
MOST_ENDPOINTS = 500


@dataclass(slots=True)
class _Marks:
    """Moments of an instance's life that its row does not keep."""

    requested: float = 0.0
    hello: float = 0.0
    #: Dollars and idle seconds that the counters have already.
    charged: float = 0.0
    idle_since: float = 0.0


class Metrics:
    """All metrics of one daemon, in a registry of their own."""

    def __init__(self, registry: prometheus_client.CollectorRegistry | None = None) -> None:
        # Creation times double the series of every counter and no query of ours reads them.
        prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]  # the library has no hint here
        self.registry = registry or prometheus_client.CollectorRegistry()
        #: None until a daemon is attached.
        self.reading: read_model.ReadModel | None = None
        self._marks: dict[InstanceId, _Marks] = {}
        self._endpoints: set[tuple[str, str, str]] = set()
        # First of all: a scrape brings the counters that run with time up to now before it reads them.
        self.registry.register(gauges.Gauges(self._catch_up))

        def counter(name: str, help: str, labels: Iterable[str] = ()) -> Counter:
            return Counter(gauges.PREFIX + name, help, tuple(labels), registry=self.registry)

        def histogram(name: str, help: str, labels: Iterable[str], buckets: tuple[float, ...]) -> Histogram:
            return Histogram(gauges.PREFIX + name, help, tuple(labels), registry=self.registry, buckets=buckets)

        self.job_wait = histogram(
            "job_wait_seconds",
            "Seconds that jobs waited, by phase; total is from queued to started.",
            ("pool", "phase"),
            _WAIT_BUCKETS,
        )
        self.jobs = counter("jobs_total", "Jobs that ended.", ("pool", "forge", "outcome"))
        self.phase = histogram(
            "instance_phase_seconds",
            "Seconds that instances spent in each phase of their life.",
            ("pool", "provider", "phase"),
            _PHASE_BUCKETS,
        )
        self.attempts = counter(
            "provision_attempts_total",
            "Create calls by final outcome: created, lost (unclear, then proven absent), or the class of the failure.",
            ("provider", "region", "market", "outcome"),
        )
        self.preemptions = counter(
            "preemptions_total", "Preempted instances, as proven by their provider.", ("provider", "region")
        )
        self.retries = counter(
            "retries_total", "Requests to re-run a preempted job, by the forge's answer.", ("forge", "outcome")
        )
        self.reaped = counter("reaped_total", "Instances that are confirmed gone, by reason.", ("reason",))
        self.cost = counter(
            "cost_dollars_total",
            "US dollars accrued while this process ran, at the price fixed at launch.",
            ("pool", "provider", "market"),
        )
        self.idle = counter("idle_seconds_total", "Seconds that ready instances waited for a job.", ("pool",))
        self.requests = counter(
            "forge_requests_total",
            "Requests to forges; status 0 stands for no answer.",
            ("forge", "endpoint", "status"),
        )
        self.passes = histogram("reconcile_seconds", "Duration of one pass of the control loop.", (), _PASS_BUCKETS)
        build = Gauge(
            gauges.PREFIX + "build_info",
            "Versions of runnerd and Python; the value is always 1.",
            ("version", "python"),
            registry=self.registry,
        )
        build.labels(runnerd.__version__, platform.python_version()).set(1)
        prometheus_client.ProcessCollector(registry=self.registry)

    # -- hooks -------------------------------------------------------------------------------------------------

    def attach(self, reading: read_model.ReadModel, hooks: read_model.Hooks) -> None:
        """Follow a daemon.  Costs that were accrued before count as exported already."""
        self.reading = reading
        now = reading.state.clock.now()
        for row in reading.state.rows.instances.values():
            self._marks[row.id] = _Marks(charged=budget.accrued(row, now), idle_since=now if row.state in IDLE else 0.0)
        hooks.on_step.append(self._stepped)
        hooks.on_attempt.append(self._attempted)
        hooks.on_proof.append(self._proven)
        hooks.on_job.append(self._job)
        hooks.on_rerun.append(self._retried)
        hooks.on_pass.append(self.passes.observe)

    def on_request(self, forge: str, endpoint: str, status: int) -> None:
        """Count a request to a forge; ``endpoint`` is a template, ``status`` 0 when no answer came."""
        key = (forge, endpoint, str(status))
        if key not in self._endpoints and len(self._endpoints) >= MOST_ENDPOINTS:
            key = (forge, "other", str(status))
        self._endpoints.add(key)
        self.requests.labels(*key).inc()

    def hello(self, instance: str) -> None:
        """Note the first report of an agent: its boot is over and the GPU preflight begins."""
        if self.reading is None or (id := InstanceId(instance)) not in self.reading.state.rows.instances:
            return
        now = self.reading.state.clock.now()
        marks = self._marks_of(self.reading.state.rows.instances[id], now)
        marks.hello = marks.hello or now

    def _stepped(self, old: Instance, new: Instance) -> None:
        assert self.reading is not None
        now = self.reading.state.clock.now()
        marks = self._marks_of(old, now)
        self._charge(new if new.provider else old, marks, now)
        self._count_idle(old, marks, now)
        if new.state is old.state:
            return
        marks.idle_since = now if new.state in IDLE else 0.0
        self._time(old, new, marks)
        if new.state is InstanceState.REQUESTING:
            marks.requested = now
        if new.state is InstanceState.GONE:
            self.reaped.labels(new.reason.value or "none").inc()
            self._preempted(new)
        if new.state in model.CLOSED:
            del self._marks[new.id]

    def _proven(self, old: Instance, new: Instance) -> None:
        # Its end was counted under the reason known then; only the preemption is new.
        if old.reason is not Reason.PREEMPTED:
            self._preempted(new)

    def _preempted(self, row: Instance) -> None:
        if row.reason is Reason.PREEMPTED:
            self.preemptions.labels(row.provider, row.region).inc()

    def _marks_of(self, row: Instance, now: float) -> _Marks:
        marks = self._marks.get(row.id)
        if marks is None:
            # An earlier process has counted what an adopted instance cost before it was found.
            before = budget.accrued(row, now) if row.adopted else 0.0
            marks = self._marks[row.id] = _Marks(charged=before, idle_since=now if row.state in IDLE else 0.0)
        return marks

    def _time(self, old: Instance, new: Instance, marks: _Marks) -> None:
        spent = max(0.0, new.since - old.since)
        provider = old.provider or new.provider
        phase = PHASES[old.state]
        if old.state is InstanceState.BOOTING and new.state is InstanceState.READY and marks.hello:
            gate = min(spent, max(0.0, new.since - marks.hello))
            self.phase.labels(new.pool, provider, "gate").observe(gate)
            spent -= gate
        self.phase.labels(new.pool, provider, phase).observe(spent)

    def _attempted(self, before: Attempt | None, after: Attempt) -> None:
        if before is not None and before.state is after.state:
            return
        if after.state is AttemptState.CREATED:
            outcome = "created"
        elif after.state is AttemptState.FAILED:
            # An attempt that was unclear keeps the failure of its call; that it came to nothing, a listing showed.
            lost = before is not None and before.state is AttemptState.UNKNOWN
            outcome = "lost" if lost else after.failure if after.failure in FAILURES else "other"
        else:
            return
        key = base.OfferKey.read(after.offer)
        region, market = (key.region, key.market) if key is not None else ("", "")
        self.attempts.labels(after.provider, region, market, outcome).inc()

    def _charge(self, row: Instance, marks: _Marks, now: float) -> None:
        accrued = budget.accrued(row, now)
        if accrued > marks.charged:
            self.cost.labels(row.pool, row.provider, row.market).inc(accrued - marks.charged)
            marks.charged = accrued

    def _count_idle(self, row: Instance, marks: _Marks, now: float) -> None:
        if marks.idle_since and now > marks.idle_since:
            self.idle.labels(row.pool).inc(now - marks.idle_since)
            marks.idle_since = now

    def _job(self, before: Job | None, after: Job) -> None:
        was = before.state if before is not None else None
        if after.state is JobState.COMPLETED and was is not JobState.COMPLETED:
            outcome = after.conclusion if after.conclusion in OUTCOMES else "other"
            self.jobs.labels(after.queue.pool, after.queue.forge, outcome).inc()
        elif after.state is JobState.RUNNING and was is not JobState.RUNNING:
            self._waited(after)

    def _waited(self, job: Job) -> None:
        """Divide a job's wait at the moments of its instance's life; what lay before the job does not count."""
        if not job.queued_at or not job.started_at:
            return
        pool = job.queue.pool
        self.job_wait.labels(pool, "total").observe(max(0.0, job.started_at - job.queued_at))
        assert self.reading is not None
        row = self.reading.state.rows.instances.get(job.instance) if job.instance else None
        if row is None or row.adopted or not row.registered_at:
            return
        marks = self._marks.get(row.id, _Marks())
        requested = marks.requested or row.created_at
        # Without a hello in this process the preflight cannot be separated from the boot.
        hello = marks.hello or row.ready_at
        cuts = (job.queued_at, requested, row.running_at, hello, row.ready_at, row.registered_at, job.started_at)
        at = job.queued_at
        for phase, end in zip(WAITS, cuts[1:], strict=True):
            until = min(max(at, end), max(at, job.started_at))
            self.job_wait.labels(pool, phase).observe(until - at)
            at = until

    def _retried(self, forge: str, outcome: forges.RetryOutcome) -> None:
        if outcome is not forges.RetryOutcome.LATER:
            self.retries.labels(forge, outcome.value).inc()

    # -- at the scrape -----------------------------------------------------------------------------------------

    def _catch_up(self) -> read_model.ReadModel | None:
        """Bring the counters that run with time up to now; return what the gauges are derived from."""
        if self.reading is None:
            return None
        now = self.reading.state.clock.now()
        for row in self.reading.state.rows.instances.values():
            if row.state in model.CLOSED:
                continue
            marks = self._marks_of(row, now)
            self._charge(row, marks, now)
            self._count_idle(row, marks, now)
        return self.reading
