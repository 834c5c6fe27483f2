"""Five dollars a day and two hundred jobs: what is promised is never more, and everybody is told why they wait."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import pytest

from tests.clouds import registry
from tests.clouds.adapter import VM
from tests.e2e import site as sites
from tests.e2e import work

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

DOLLARS = 5.0
JOBS = 200
DAY = 86400.0
#: Seconds for which the queue is watched.
WATCH = 25.0


def committed(instances: Sequence[VM], now: float) -> dict[int, float]:
    """Day (UTC) -> dollars spent or promised at a moment, by the clouds' instances and their tags."""
    found: dict[int, float] = {}
    for one in instances:
        if one.created_at > now:
            continue
        price, deadline = float(one.tags["runnerd-price"]), float(one.tags["runnerd-deadline"])
        gone = one.gone_at is not None and one.gone_at <= now
        for day, seconds in _days(one.created_at, one.gone_at if gone and one.gone_at else max(deadline, now)):
            found[day] = found.get(day, 0.0) + price * seconds / 3600.0
    return found


def _days(start: float, end: float) -> Iterator[tuple[int, float]]:
    while start < end:
        day = int(start // DAY)
        stop = min(end, (day + 1) * DAY)
        yield day, stop - start
        start = stop


def test_two_hundred_jobs_never_promise_more_than_five_dollars(site: sites.Site) -> None:
    # At list price an hour and a half is between half a dollar and a dollar: some run, and each that ends makes room.
    site.configure(
        limits={"instances": 50, "dollars_per_day": DOLLARS},
        defaults={"market": "on-demand", "max_job": "90m"},
        pools={"gpu-t4": {"gpu": "t4", "from": list(registry.NAMES)}},
    )
    site.plant.start_daemon()
    jobs = work.Work(site.plant)
    jobs.add(JOBS, seconds=0.3)
    told = _watch(site)

    instances = site.clouds.do(lambda: [one for made in site.clouds.adapters.values() for one in made.vms()])
    # What is promised grows only when an instance is made: these moments are all that there are.
    promised = {one.created_at: committed(instances, one.created_at) for one in instances}
    most = max(dollars for by_day in promised.values() for dollars in by_day.values())
    done = sum(job["conclusion"] == "success" for job in jobs.jobs())
    print(f"{len(instances)} instances, ${most:.2f} promised at most, {done} of {JOBS} jobs done")
    assert most <= DOLLARS + 0.01, promised
    assert most > DOLLARS * 0.7, "the budget was hardly used"
    assert 0 < done < JOBS
    assert "another instance could cost $" in told, told
    remaining = site.plant.metric("runnerd_budget_remaining_dollars")
    assert remaining and all(value >= -0.01 for value in remaining.values()), remaining


def _watch(site: sites.Site) -> str:
    """Look on for a while; what `explain` said to the last job of the queue about money."""
    told = ""
    until = time.monotonic() + WATCH
    while time.monotonic() < until:
        waiting = [] if told else [one for one in site.jobs() if one["state"] == "queued"]
        if waiting:
            why = " ".join(site.explain(waiting[-1]["key"])["why"])
            told = why if "$" in why else ""
        time.sleep(0.3)
    return told
