"""The table for people and the line for programs."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

from rich import box, console
from rich import table as tables

from tests.bench import clouds, measures, planning

SIZES = (100, 1000, 10_000)
CLOUDS = clouds.NAMES
#: MB that a daemon may weigh with those clouds.
_ALL = "+".join(CLOUDS)
_WEIGHTS = {CLOUDS[0]: 130.0, _ALL: 280.0}


def line(found: measures.Found) -> dict[str, Any]:
    """The last line of the output."""
    return {
        "signal_to_create_seconds": {str(size): _spread(found.signals.get(size)) for size in (1, 200, 1000)},
        "at_300ms_forge_latency": {"200": _spread(found.slow_forge.get(200))},
        "cpu_seconds_per_job": {str(size): _round(found.cpu[size][0] if size in found.cpu else None) for size in SIZES},
        "plan_seconds": _round(found.plan_seconds),
        "rss_mb": _round(found.rss_mb, 1),
        "rss_kb_per_machine": _round(found.rss_kb_per_machine, 1),
        "forge_calls_per_job": _round(found.forge_calls, 3),
        "idle_cpu_ratio": _round(found.idle_cpu),
        "rss_mb_by_clouds": {key: _round(found.sdk_mb.get(key), 1) for key in ("none", *CLOUDS, _ALL)},
        "creates_per_second": {name: _pace(found.paces.get(name)) for name in CLOUDS},
        "failover_seconds": _spread([one for gaps in found.failovers.values() for one in gaps]),
    }


def _pace(pace: clouds.Pace | None) -> dict[str, float | None]:
    if pace is None:
        return {"achieved": None, "documented": None, "refused": None}
    return {
        "achieved": _round(pace.per_second, 3),
        "documented": _round(pace.documented, 3),
        "refused": float(pace.refused),
    }


def _round(value: float | None, digits: int = 5) -> float | None:
    return None if value is None else round(value, digits)


def _spread(values: list[float] | None) -> dict[str, float | None]:
    if not values:
        return {"p50": None, "p95": None, "max": None}
    return {key: _round(value) for key, value in measures.spread(values).items()}


def table(found: measures.Found) -> str:
    """Return a table of the results against the goals of the design."""
    made = tables.Table(
        box=box.SIMPLE, title="runnerd: measured against section 10 of the design", title_justify="left"
    )
    for heading in ("what", "measured", "goal", "", "how"):
        made.add_column(heading, no_wrap=heading in ("", "measured", "goal"))
    for row in _rows(found):
        made.add_row(*row)
    out = console.Console(file=io.StringIO(), width=150, color_system=None)
    out.print(made)
    out.print(f"{found.cores} cores, load average up to {found.load:.1f} while measuring", highlight=False)
    assert isinstance(out.file, io.StringIO)
    return out.file.getvalue()


def _rows(found: measures.Found) -> Iterator[tuple[str, str, str, str, str]]:
    if found.signals.get(1):
        seen = measures.spread(found.signals[1])
        how = f"{len(found.signals[1])} jobs, one after the other; p95 {_ms(seen['p95'])}, max {_ms(seen['max'])}"
        yield _row("one job: signal to create, p50", seen["p50"], 0.050, how, _ms)
    if found.signals.get(200):
        yield _burst("burst of 200: p95", found.signals[200], 200, "p95", 0.5)
    if found.signals.get(1000):
        yield _burst("burst of 1,000: last", found.signals[1000], 1000, "max", 3.0)
    if found.slow_forge.get(200):
        yield _burst("burst of 200, forge 300 ms slow: p95", found.slow_forge[200], 200, "p95", 0.5)
    yield from _cpu(found)
    if found.plan_seconds is not None:
        how = f"{planning.INSTANCES:,} instances, {planning.JOBS:,} queued jobs of {planning.REPOS:,} repositories; "
        yield _row("one plan", found.plan_seconds, 0.050, f"{how}{found.plan_actions} actions; best of 5", _ms)
    if found.rss_mb is not None:
        how = "resident after start, two forges, no cloud SDK (the goal allows 35 MB more for AWS's)"
        yield _row("memory", found.rss_mb, 95.0, how, lambda value: f"{value:.0f} MB")
    if found.rss_kb_per_machine is not None:
        how = f"{found.machines:,} instances with an agent that has said hello"
        yield _row("memory per instance", found.rss_kb_per_machine, 20.0, how, lambda value: f"{value:.1f} KB")
    yield from _clouds(found)
    if found.forge_calls is not None:
        how = f"GitHub REST; besides {found.service_calls or 0:.2f} calls to the Actions service, messages apart"
        yield _row("forge calls per job", found.forge_calls, 2.0, how, lambda value: f"{value:.2f}")
    if found.idle_cpu is not None:
        how = f"of a core, without work; {found.idle_calls} REST calls to GitHub meanwhile"
        yield _row("idle", found.idle_cpu, 0.01, how, lambda value: f"{100 * value:.2f} %")


def _clouds(found: measures.Found) -> Iterator[tuple[str, str, str, str, str]]:
    bare = found.sdk_mb.get("none", 0.0)
    for key, value in found.sdk_mb.items():
        goal = _WEIGHTS.get(key)
        how = "both forges and a simulated cloud"
        what = "memory with no cloud SDK"
        if key != "none":
            how = f"after the first offers and listings: {value - bare:+.0f} MB"
            what = f"memory with {key.replace('+', ', ')}"
        if goal is None:
            yield what, f"{value:.0f} MB", "", "", how
        else:
            yield _row(what, value, goal, how, lambda value: f"{value:.0f} MB")
    for name, pace in found.paces.items():
        met = "met" if pace.share >= 0.95 else "NOT MET"
        goal_text = f">= {0.95 * pace.documented:.2f}"
        how = f"{pace.counted} after the burst; {pace.documented:.2f} are documented; {pace.refused} calls turned away"
        yield f"creates per second, {name}", f"{pace.per_second:.2f}", goal_text, met, how
    if found.failovers:
        gaps = [one for part in found.failovers.values() for one in part]
        seen = measures.spread(gaps)
        slowest = max(found.failovers, key=lambda key: measures.spread(found.failovers[key])["p50"])
        how = f"{len(gaps)} refusals, one job at a time; p50 {_ms(seen['p50'])}, max {_ms(seen['max'])}; "
        yield _row("failover to the next offer: p95", seen["p95"], 0.250, f"{how}slowest: {slowest}", _ms)


def _cpu(found: measures.Found) -> Iterator[tuple[str, str, str, str, str]]:
    first = found.cpu[min(found.cpu)][0] if found.cpu else 0.0
    for size, (seconds, done) in sorted(found.cpu.items()):
        counted = f"{done:,} of {size:,} queued jobs" if done < size else f"{size:,} jobs"
        how = f"{counted}, {measures.WORKERS} instances at most; {found.rates[size]:.1f} jobs/s; "
        how += f"{seconds / first:.2f} x the first"
        if found.spare.get(size):
            how += f"; {found.spare[size]} instances too many were bought"
        # "Constant" with room for noise: nothing that grows with the queue stays below it from 100 to 10,000.
        yield _row(f"CPU per job, queue of {size:,}", seconds, 1.5 * first, how, _ms, goal="constant")


def _burst(what: str, values: list[float], size: int, key: str, goal: float) -> tuple[str, str, str, str, str]:
    seen = measures.spread(values)
    how = f"{len(values) // size} bursts; p50 {_ms(seen['p50'])}, p95 {_ms(seen['p95'])}, max {_ms(seen['max'])}"
    return _row(what, seen[key], goal, how, _ms)


def _row(
    what: str, value: float, most: float, how: str, show: Any, *, goal: str = ""
) -> tuple[str, str, str, str, str]:
    return what, show(value), goal or f"<= {show(most)}", "met" if value <= most else "NOT MET", how


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms"
