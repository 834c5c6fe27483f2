"""Metrics that are derived from the state at the scrape, in time that grows with the number of live rows."""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeVar

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from provisioners import base
from runnerd import model, read_model

PREFIX = "runnerd_"

_Key = TypeVar("_Key", bound=tuple[str, ...])


class Gauges(Collector):
    """Metrics that are derived from the state at each scrape."""

    def __init__(self, catch_up: Callable[[], read_model.ReadModel | None]) -> None:
        #: Brings counters that run with time up to now; returns None until a daemon is attached.
        self._catch_up = catch_up

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterator[Metric]:
        reading = self._catch_up()
        if reading is None:
            return
        yield from _demand(reading)
        yield from _supply(reading)
        yield from _money(reading)
        yield from _daemon(reading)


def _demand(reading: read_model.ReadModel) -> Iterator[Metric]:
    state = reading.state
    queued: collections.Counter[tuple[str, str]] = collections.Counter()
    known: dict[tuple[str, str], bool] = {}
    for spec in state.specs:
        forge = state.forges.get(spec.queue.forge)
        demand = forge.demand(spec.queue) if forge is not None else model.Demand()
        key = (spec.queue.pool, spec.queue.forge)
        queued[key] += demand.waiting
        known[key] = known.get(key, True) and demand.known
    yield _gauge("jobs_queued", "Jobs that wait, as last reported by the forge.", ("pool", "forge"), queued)
    yield _gauge(
        "demand_known",
        "1 while the forge's report of a pool's demand is recent enough to act on.",
        ("forge", "pool"),
        {(forge, pool): float(value) for (pool, forge), value in known.items()},
    )


def _supply(reading: read_model.ReadModel) -> Iterator[Metric]:
    state = reading.state
    live = [row for row in state.rows.instances.values() if row.live]
    counts = collections.Counter((row.pool, row.provider, row.region, row.market, row.state.value) for row in live)
    yield _gauge("instances", "Live instances.", ("pool", "provider", "region", "market", "state"), counts)
    orphans = collections.Counter((row.provider, "instance") for row in live if row.adopted)
    for provider in state.providers.values():
        if provider.listing is not None:
            orphans.update((provider.name, residue.kind) for residue in provider.listing.residues)
    yield _gauge(
        "orphans",
        "Resources at providers that carry the controller's tags and had no database row.",
        ("provider", "kind"),
        orphans,
    )
    now = state.clock.now()
    blocked: collections.Counter[tuple[str, str, str]] = collections.Counter()
    for block in state.rows.blocks.values():
        if block.until > now:
            pattern = base.OfferPattern(block.pattern)
            blocked[pattern.provider, pattern.region, block.reason] += 1
    yield _gauge(
        "offers_blocked", "Offer patterns on the blocklist; * is any region.", ("provider", "region", "reason"), blocked
    )
    registered = collections.Counter((row.queue.forge, row.state.value) for row in state.rows.registrations.values())
    yield _gauge("registrations", "Runners that a forge may still have.", ("forge", "state"), registered)


def _money(reading: read_model.ReadModel) -> Iterator[Metric]:
    """Yield the budgets: a window's name says which limit it is, an empty pool label means all pools."""
    committed: dict[tuple[str, str], float] = {}
    left: dict[tuple[str, str], float] = {}
    levels = [("all", ""), *(("pool", name) for name in reading.state.config.pools)]
    for level, name in levels:
        for window, used in reading.totals(level, name):
            committed[name, window.name] = used
            left[name, window.name] = window.dollars - used
    labels = ("pool", "window")
    yield _gauge(
        "committed_dollars",
        "US dollars spent or committed in a budget's window; an empty pool label means all pools.",
        labels,
        committed,
    )
    yield _gauge(
        "budget_remaining_dollars",
        "US dollars left in a budget's window; an empty pool label means all pools.",
        labels,
        left,
    )


def _daemon(reading: read_model.ReadModel) -> Iterator[Metric]:
    failures = CounterMetricFamily(PREFIX + "reconcile_failures", "Passes and actions of the control loop that failed.")
    failures.add_metric((), reading.loop.failures)
    yield failures
    yield _gauge(
        "config_reload_success",
        "1 unless the last reload was refused and the old configuration stays in force.",
        (),
        {(): float(reading.progress.reload_ok)},
    )
    alarms = collections.Counter((one.reason,) for one in reading.state.alarms.open.values())
    yield _gauge("alarms_open", "Open alarms by reason.", ("reason",), alarms)
    yield _gauge(
        "last_reconcile_timestamp_seconds",
        "Unix time at which the control loop last finished a pass.",
        (),
        {(): reading.loop.last_pass_at},
    )


def _gauge(name: str, help: str, labels: tuple[str, ...], values: Mapping[_Key, float]) -> Metric:
    family = GaugeMetricFamily(PREFIX + name, help, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family
