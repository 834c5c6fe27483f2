"""What happened: the audit trail, and what an instance last printed."""

from __future__ import annotations

from runnerd import errors, model, read_model
from runnerd.kit import redaction
from runnerd.lifecycle import consoles
from runnerd.runtime import lookup
from runnerd.views import documents, facts, words

#: How long a follower's question is held open, and how often the trail is looked at meanwhile, in seconds.
HOLD, LOOK = 25.0, 0.5
#: Lines of the audit trail in one answer at most.
MOST = 2000


async def events(
    reading: read_model.ReadModel,
    *,
    subject: str = "",
    id: str = "",
    since: float = 0.0,
    after: int = 0,
    limit: int = 200,
    hold: float = 0.0,
) -> documents.Events:
    """Lines of the audit trail, oldest first, and ``next``: the row to continue after.

    With ``hold`` an empty answer is put off up to so many seconds until there is a line.
    """
    limit = max(1, min(limit, MOST))
    deadline = reading.state.clock.now() + (min(hold, HOLD) if hold > 0 else 0.0)
    while True:
        found = await reading.history.trail(
            subject=subject or None, id=id or None, since=since, after_rowid=after, limit=limit
        )
        if found or reading.progress.stopping or reading.state.clock.now() >= deadline:
            break
        await reading.state.clock.sleep(LOOK)
    return {
        "events": [facts.event(one, row=row, text=words.event(one)) for row, one in found],
        "next": found[-1][0] if found else after,
    }


async def logs(reading: read_model.ReadModel, name: str) -> documents.Logs:
    """What is known of an instance's output: its console, its agent's last words, its steps.

    ``name`` is an instance or a job.  Raises :class:`errors.Refused` (404, or 409 when several jobs are meant).
    """
    row = await lookup.find_instance(reading.state.rows.instances, reading.history, name)
    job: model.Job | None = None
    if row is None:
        jobs = await find_jobs(reading, name)
        if not jobs:
            raise errors.Refused(f'there is no instance and no job "{name}"', status=404)
        if len(jobs) > 1:
            some = ", ".join(facts.job(one, 0.0)["id"] for one in jobs[:8])
            raise errors.Refused(f'"{name}" means {len(jobs)} jobs; name one of them: {some}', status=409)
        job = jobs[0]
        row = await lookup.find_instance(reading.state.rows.instances, reading.history, str(job.instance or ""))
        if row is None:
            raise errors.Refused(
                f"job {job.name} has not run on an instance of this daemon; `runnerd explain` tells why", status=404
            )
    kept = {one.kind: one for one in await reading.history.consoles(row.id)}
    console = kept.get(model.ConsoleKind.CONSOLE) or await _console(reading, row)
    agent = kept.get(model.ConsoleKind.AGENT)
    trail = await reading.history.events(subject="instance", id=row.id, limit=MOST)
    # Memory is never behind the store.
    said = reading.diagnostics.get(row.id) or (agent.text if agent else "")
    return {
        "instance": str(row.id),
        "state": row.state.value,
        "reason": row.reason.value,
        "end": row.end,
        "end_detail": row.end_detail,
        "end_text": words.end(row),
        "job": str(job.key) if job else str(row.job or ""),
        "job_url": job.url if job else "",
        "console": console.text or None,
        "console_at": console.at,
        "console_problem": console.problem,
        "diagnostics": redaction.redact(consoles.clean(said)) if said else None,
        "events": [facts.event(one, text=words.event(one)) for one in trail],
    }


async def _console(reading: read_model.ReadModel, row: model.Instance) -> model.Console:
    """What the provider has of a living instance; of one that is gone there is nothing but what was kept."""
    now = reading.state.clock.now()
    if not row.live:
        problem = "nothing was kept of it" if row.ref else "no provider had it"
        return model.Console(row.id, model.ConsoleKind.CONSOLE, 0.0, "", problem)
    text, problem = await reading.console(row)
    return model.Console(row.id, model.ConsoleKind.CONSOLE, now, text, problem)


async def find_jobs(reading: read_model.ReadModel, name: str) -> list[model.Job]:
    """The jobs that a person may mean: by key, forge id, run, name or ``repo/name``; newest first."""
    known = reading.state.rows.jobs.get(model.JobKey(name))
    if known is not None:
        return [known]
    found = await reading.history.job(name)
    if not found:
        found = [
            row for row in reading.state.rows.jobs.values() if name in (f"{row.repo}/{row.name}", row.url) and name
        ]
        found.sort(key=lambda row: -row.queued_at)
    # Memory is never behind the store, and it is what the planner acts on.
    return [reading.state.rows.jobs.get(row.key, row) for row in found]
