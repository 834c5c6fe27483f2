"""The output of an instance: its console, its agent's last output and its steps."""

from __future__ import annotations

from runnerd import errors, model, read_model
from runnerd.kit import redaction
from runnerd.lifecycle import consoles
from runnerd.runtime import lookup
from runnerd.views import documents, entries, sentences

#: Most steps of an instance in one answer.
MOST_EVENTS = 2000


async def logs(reading: read_model.ReadModel, name: str) -> documents.Logs:
    """Return an instance's output: its console, its agent's last output, its steps.

    ``name`` is an instance or a job.  Raises :class:`errors.Refused` (404, or 409 when several jobs are meant).
    """
    row = await lookup.find_instance(reading.state.rows.instances, reading.history, name)
    job: model.Job | None = None
    if row is None:
        jobs = await lookup.find_jobs(reading.state.rows.jobs, reading.history, name)
        if not jobs:
            raise errors.Refused(f'there is no instance and no job "{name}"', status=404)
        if len(jobs) > 1:
            some = ", ".join(entries.job(one, 0.0)["id"] for one in jobs[:8])
            raise errors.Refused(f'"{name}" matches {len(jobs)} jobs; name one of them: {some}', status=409)
        job = jobs[0]
        row = await lookup.find_instance(reading.state.rows.instances, reading.history, str(job.instance or ""))
        if row is None:
            raise errors.Refused(
                f"job {job.name} has not run on an instance of this daemon; `runnerd explain` shows why", status=404
            )
    kept = {one.kind: one for one in await reading.history.consoles(row.id)}
    console = kept.get(model.ConsoleKind.CONSOLE) or await _console(reading, row)
    agent = kept.get(model.ConsoleKind.AGENT)
    trail = await reading.history.events(subject="instance", id=row.id, limit=MOST_EVENTS)
    # Memory is never behind the store.
    said = reading.diagnostics.get(row.id) or (agent.text if agent else "")
    return {
        "instance": str(row.id),
        "state": row.state.value,
        "reason": row.reason.value,
        "end": row.end,
        "end_detail": row.end_detail,
        "end_text": sentences.end(row),
        "job": str(job.key) if job else str(row.job or ""),
        "job_url": job.url if job else "",
        "console": console.text or None,
        "console_at": console.at,
        "console_problem": console.problem,
        "diagnostics": redaction.redact(consoles.clean(said)) if said else None,
        "events": [entries.event(one, text=sentences.event(one)) for one in trail],
    }


async def _console(reading: read_model.ReadModel, row: model.Instance) -> model.Console:
    """Return what the provider has of a live instance; of one that is gone only the stored output is left."""
    now = reading.state.clock.now()
    if not row.live:
        problem = "no output from it was stored" if row.ref else "no provider had created it"
        return model.Console(row.id, model.ConsoleKind.CONSOLE, 0.0, "", problem)
    text, problem = await reading.console(row)
    return model.Console(row.id, model.ConsoleKind.CONSOLE, now, text, problem)
