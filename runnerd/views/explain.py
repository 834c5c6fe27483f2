"""Explanation of one job: why it waits and what is tried next, or how it ended.

Everything comes from the state that the daemon itself acts on: the planner's notes, the blocklist, attempts, the
health of forges, limits, drained pools and open alarms.  Instances are counted and not paired with jobs, so a waiting
job shows every instance of its pool that is on its way.
"""

from __future__ import annotations

import collections
from collections.abc import Sequence

from runnerd import errors, model, read_model
from runnerd.kit import display
from runnerd.model import Instance, Job, JobState
from runnerd.runtime import budget, lookup
from runnerd.views import documents, entries, sentences

#: Most instances whose attempts are shown for a waiting job, and most lines of its time line.
MOST_INSTANCES, MOST_LINES = 20, 400
#: Seconds before a job was queued from which instances may be for it: forges report counts before names.
BEFORE_S = 5.0


async def explain(reading: read_model.ReadModel, name: str) -> documents.Explanation | documents.Ambiguous:
    """Return the explanation of a job, or the jobs that an ambiguous name may mean.

    Raises :class:`errors.Refused` (404) when it means none.
    """
    found = await lookup.find_jobs(reading.state.rows.jobs, reading.history, name)
    if not found:
        raise errors.Refused(
            f'no job matches "{name}"; `runnerd jobs` lists jobs by id. A job that no pool can serve is not visible to '
            "runnerd: compare its labels with `runnerd pools`",
            status=404,
        )
    now = reading.state.clock.now()
    if len(found) > 1:
        return {"ambiguous": [entries.job(one, now) for one in found]}
    job = found[0]
    if job.state is JobState.QUEUED:
        return await _queued(reading, job)
    return await _taken(reading, job)


# -- a job that waits ----------------------------------------------------------------------------------------------


async def _queued(reading: read_model.ReadModel, job: Job) -> documents.Explanation:
    now = reading.state.clock.now()
    members = [row for row in reading.state.rows.instances.values() if row.pool == job.queue.pool and row.live]
    rising = [row for row in members if row.state in model.RISING and row.queue in (None, job.queue)]
    rising.sort(key=lambda row: row.created_at)
    ahead = sum(
        1
        for one in reading.state.rows.jobs.values()
        if one.queue.pool == job.queue.pool
        and one.state is JobState.QUEUED
        and (one.queued_at, one.key) < (job.queued_at, job.key)
    )
    lines, refusals = await _story_of_pool(reading, job)
    why = [
        *_forge(reading, job),
        *_pool(reading, job, rising, ahead),
        *_held_back(reading, job),
        *refusals,
        *_alarms(reading, job),
    ]
    coming = _coming(rising, ahead, now)
    offers, later = _offers(reading, job)
    if job.queue.pool in reading.state.config.pools and not reading.state.durable.drained(job.queue.pool):
        why += offers if not coming else []
    else:
        later = []
    summary = f"waiting for an instance of pool {job.queue.pool} for {display.span(now - job.queued_at)}"
    if job.lapses:
        why.append(
            f"its assignment timed out {display.count(job.lapses, 'time')} at the forge; it still counts as demand"
        )
    return {
        "job": entries.job(job, now),
        "summary": summary,
        "why": _unique(why) or ["just reported; the next pass will count it"],
        "next": _unique([*coming, *([] if coming and len(rising) > ahead else later)])
        or ["nothing until a reason above clears; rechecked on every pass"],
        "ahead": ahead,
        "instances": [entries.instance(row, reading) for row in rising[:MOST_INSTANCES]],
        "timeline": lines,
        "cost": None,
    }


def _forge(reading: read_model.ReadModel, job: Job) -> list[str]:
    state = reading.state
    forge = state.forges.get(job.queue.forge)
    if forge is None:
        return [f"forge {job.queue.forge} is no longer configured: its queues are not watched"]
    if job.queue not in {spec.queue for spec in state.specs}:
        return [f"queue {job.queue} is not watched: no configured pool serves it any more"]
    now = state.clock.now()
    demand, health, headroom = forge.demand(job.queue), forge.health(job.queue), forge.headroom(job.queue)
    found = []
    if not health.ok:
        since = f" (for {display.span(now - health.since)})" if health.since else ""
        found.append(f"forge {job.queue.forge} is unhealthy{since}: {health.problem}")
    if health.register_after > now:
        found.append(
            f"forge {job.queue.forge} accepts no runner for another {display.span(health.register_after - now)}"
        )
    if not demand.known:
        since = f"; last reported {display.span(now - demand.as_of)} ago" if demand.as_of else ""
        found.append(f"the demand at forge {job.queue.forge} is unknown{since}")
    elif demand.waiting == 0 and demand.as_of > job.queued_at:
        found.append("the forge reports no waiting job in this queue: another runner may have taken it")
    if headroom is not None and headroom <= 0:
        found.append(f"forge {job.queue.forge} accepts no more runners: its runner limit is reached")
    return found


def _pool(reading: read_model.ReadModel, job: Job, rising: Sequence[Instance], ahead: int) -> list[str]:
    state = reading.state
    pool = state.config.pools.get(job.queue.pool)
    if pool is None:
        return [f"pool {job.queue.pool} is no longer configured: nothing is bought for it"]
    found = []
    if reading.state.durable.drained(pool.name):
        found.append(f"pool {pool.name} is drained by an operator; `runnerd undrain {pool.name}` ends that")
    if ahead:
        found.append(f"ahead of it: {display.count(ahead, 'job')} of the pool")
    if rising:
        found.append(
            f"on the way: {display.count(len(rising), 'instance')} of the pool; the first that is ready takes a job"
        )
    return found


def _held_back(reading: read_model.ReadModel, job: Job) -> list[str]:
    """Return the planner's notes, without those that the part about the forge has given already."""
    notes = reading.loop.notes.get(job.queue.pool, ())
    queues = {str(queue) for queue in reading.state.queues(job.queue.pool)}
    found = []
    for note in notes:
        queue, colon, _ = note.partition(": ")
        if note == "drained by an operator" or (colon and queue in queues):
            continue
        found.append(f"held back: {note}")
    return found


def _alarms(reading: read_model.ReadModel, job: Job) -> list[str]:
    pool = reading.state.config.pools.get(job.queue.pool)
    about = {("queue", str(job.queue)), ("pool", job.queue.pool), ("forge", job.queue.forge), ("job", str(job.key))}
    about |= {("provider", name) for name in (pool.from_ if pool else ())}
    return [
        f"alarm about {one.subject} {one.id}: {one.detail}"
        for one in reading.state.alarms.open.values()
        if (one.subject, one.id) in about or (one.subject == "daemon" and one.reason != "reload-failed")
    ]


def _coming(rising: Sequence[Instance], ahead: int, now: float) -> list[str]:
    found = []
    for row in rising[: ahead + 3]:
        where = f" at {row.offer}" if row.offer else ""
        for_ = f" for {display.span(now - row.since)}"
        detail = f" (previously: {row.detail})" if row.state is model.InstanceState.PLANNED and row.detail else ""
        found.append(f"{row.id}{where} {sentences.RISING[row.state]}{for_}{detail}")
    if len(rising) > len(found):
        found.append(f"and {len(rising) - len(found)} more")
    return found


def _offers(reading: read_model.ReadModel, job: Job) -> tuple[list[str], list[str]]:
    """Return the reasons why offers are closed, and what is tried next."""
    pool = reading.state.config.pools.get(job.queue.pool)
    if pool is None:
        return [], []
    now = reading.state.clock.now()
    ranked = reading.rank(pool, repo=job.repo)
    closed = [one for one in ranked if not one.open]
    best = next((one for one in ranked if one.open), None)
    why = []
    if not ranked:
        why.append("no provider of the pool offers a machine that fits")
    by_refusal = collections.Counter(one.refusal for one in closed)
    for refusal, count in by_refusal.most_common(5):
        first = next(one.offer.key for one in closed if one.refusal == refusal)
        more = f" and {count - 1} more are" if count > 1 else " is"
        why.append(f"offer {first}{more} closed: {refusal}")
    if best is not None:
        source = f" ({best.offer.price_source})" if best.offer.price_source else ""
        price = f"{display.dollars(best.offer.price)} an hour{source}"
        return why, [f"next offer to try: {best.offer.key} at {price}"]
    waits = sorted((one.until, one.offer.key) for one in closed if one.until > now)
    if waits:
        until, key = waits[0]
        return why, [f"offer {key} is retried in {display.span(until - now)}"]
    return why, []


async def _story_of_pool(reading: read_model.ReadModel, job: Job) -> tuple[list[documents.Event], list[str]]:
    """Return the time line of the pool since the job was queued, and the refusals in it."""
    history = reading.history
    since = job.queued_at - BEFORE_S
    members = [
        row
        for row in await history.instances(pool=job.queue.pool, limit=200)
        if row.created_at >= since or row.state in model.RISING
    ]
    members = members[:MOST_INSTANCES]
    offers: dict[str, str] = {}
    refused: collections.Counter[str] = collections.Counter()
    for row in members:
        for attempt in await history.attempts(row.id):
            offers[attempt.key] = attempt.offer
            if attempt.state is model.AttemptState.FAILED and attempt.since >= since:
                reason = ": ".join(part for part in (attempt.failure, attempt.detail) if part)
                refused[f"{attempt.offer} ({reason})"] += 1
    names = {str(row.id) for row in members} | set(offers)
    names |= {str(job.key), job.queue.pool, str(job.queue), job.queue.forge}
    events = [
        one
        for one in await history.events(since=since, limit=3000)
        if one.id in names or (one.subject == "offer" and one.what == "blocked")
    ]
    own = await history.events(subject="job", id=job.key, limit=100)
    lines = [*(one for one in own if one.at < since), *events]
    told = [
        f"refused since the job was queued: {what}" + (f", {count} times" if count > 1 else "")
        for what, count in refused.most_common(5)
    ]
    return _lines(lines, offers), told


# -- a job that was taken ------------------------------------------------------------------------------------------


async def _taken(reading: read_model.ReadModel, job: Job) -> documents.Explanation:
    now = reading.state.clock.now()
    row = await lookup.find_instance(reading.state.rows.instances, reading.history, str(job.instance or ""))
    lines: list[model.Event] = list(await reading.history.events(subject="job", id=job.key, limit=100))
    offers: dict[str, str] = {}
    refused = 0
    if row is not None:
        lines += await reading.history.events(subject="instance", id=row.id, limit=200)
        for attempt in await reading.history.attempts(row.id):
            offers[attempt.key] = attempt.offer
            refused += attempt.state is model.AttemptState.FAILED
            lines += await reading.history.events(subject="attempt", id=attempt.key, limit=20)
        for registration in await reading.history.registrations(row.id):
            lines += await reading.history.events(subject="registration", id=registration.runner_name, limit=20)
    why: list[str] = []
    conclusion = job.conclusion or "no conclusion reported"
    waited = display.span((job.started_at or job.finished_at or now) - job.queued_at)
    if job.state is JobState.RUNNING:
        summary = f"running for {display.span(now - job.started_at)}, after waiting {waited}"
    elif not job.started_at and (job.runner_name or job.conclusion == "success"):
        summary = f"ended ({conclusion}) {waited} after it was queued"
    elif not job.started_at:
        summary = f"ended without having run ({conclusion}) after {waited}"
    else:
        ran = display.span(job.finished_at - job.started_at)
        summary = f"ended ({conclusion}) after waiting {waited} and running {ran}"
    if row is None:
        if job.runner_name:
            why.append(f"taken by runner {job.runner_name}, which does not belong to this daemon")
    else:
        image = f", image {row.image}" if row.image else ""
        why.append(f"taken by {row.id} at {row.offer or row.provider} for {sentences.price(row)}{image}")
        if refused:
            why.append(f"{display.count(refused, 'attempt')} failed before that one")
    return {
        "job": entries.job(job, now),
        "summary": summary,
        "why": why,
        "next": _after(reading, job, row),
        "ahead": 0,
        "instances": [] if row is None else [entries.instance(row, reading)],
        "timeline": _lines(lines, offers),
        "cost": None if row is None else _cost(row, now),
    }


def _after(reading: read_model.ReadModel, job: Job, row: Instance | None) -> list[str]:
    now = reading.state.clock.now()
    if row is None:
        return []
    if row.state is model.InstanceState.BUSY:
        pool = reading.state.config.pools.get(row.pool)
        found = []
        if pool is not None and row.busy_at:
            found.append(f"it may run for another {display.span(max(0.0, row.busy_at + pool.max_job - now))} (max_job)")
        witness = reading.state.observations.get(row.id)
        if witness is None or not witness.fresh(now):
            found.append("its agent has not reported recently; the instance is kept until its provider reports more")
        return found
    if row.state in (model.InstanceState.DRAINING, model.InstanceState.ENDING):
        detail = f": {row.detail}" if row.detail else ""
        return [f"the instance is {row.state.value} ({row.reason.value or 'no reason'}{detail})"]
    if row.state in model.CLOSED:
        end = sentences.end(row)
        return [f"the instance is {row.state.value} ({row.reason.value or 'no reason'})" + (f": {end}" if end else "")]
    return [f"the instance {sentences.RISING[row.state]}"] if row.state in sentences.RISING else []


def _cost(row: Instance, now: float) -> documents.JobCost:
    return {
        "dollars": round(budget.accrued(row, now), 6),
        "price": row.price,
        "price_source": row.price_source,
        "seconds": max(0.0, (row.gone_at or now) - row.running_at) if row.running_at else 0.0,
        "final": bool(row.gone_at),
    }


# -- lines ---------------------------------------------------------------------------------------------------------


def _lines(events: Sequence[model.Event], offers: dict[str, str]) -> list[documents.Event]:
    # Stable: the trail's own order decides between events of one moment.
    ordered = sorted(events, key=lambda one: one.at)[-MOST_LINES:]
    return [entries.event(one, text=sentences.event(one, offer=offers.get(one.id, ""))) for one in ordered]


def _unique(lines: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(lines))
