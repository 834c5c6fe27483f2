"""Rows as documents.  Rows hold no secrets, so nothing is masked here."""

from __future__ import annotations

from runnerd import model, read_model
from runnerd.runtime import alarms, budget
from runnerd.views import documents


def job(row: model.Job, now: float) -> documents.Job:
    """Return a job as a document."""
    started = row.started_at or row.finished_at
    return {
        "id": row.aliases[-1] if row.aliases else str(row.key),
        "key": str(row.key),
        "state": row.state.value,
        "conclusion": row.conclusion,
        "forge": row.queue.forge,
        "queue": str(row.queue),
        "pool": row.queue.pool,
        "repo": row.repo,
        "run": row.run,
        "name": row.name,
        "labels": list(row.labels),
        "aliases": list(row.aliases),
        "instance": str(row.instance or ""),
        "runner": row.runner_name,
        "queued_at": row.queued_at,
        "started_at": row.started_at,
        "finished_at": row.finished_at,
        "wait_seconds": max(0.0, (started or now) - row.queued_at) if row.queued_at else 0.0,
        "run_seconds": max(0.0, (row.finished_at or now) - row.started_at) if row.started_at else 0.0,
        "lapses": row.lapses,
        "url": row.url,
    }


def instance(row: model.Instance, reading: read_model.ReadModel) -> documents.Instance:
    """Return an instance as a document, with the last reports of its agent and its provider."""
    now = reading.state.clock.now()
    witness = reading.state.observations.get(row.id)
    return {
        "id": str(row.id),
        "pool": row.pool,
        "state": row.state.value,
        "reason": row.reason.value,
        "detail": row.detail,
        "provider": row.provider,
        "region": row.region,
        "zone": row.zone,
        "machine_type": row.machine_type,
        "market": row.market,
        "gpus": row.gpus,
        "cpus": row.cpus,
        "image": row.image,
        "offer": row.offer,
        "ref": row.ref,
        "price": row.price,
        "price_source": row.price_source,
        "dollars": round(budget.accrued(row, now), 6),
        "created_at": row.created_at,
        "since": row.since,
        "running_at": row.running_at,
        "ready_at": row.ready_at,
        "registered_at": row.registered_at,
        "busy_at": row.busy_at,
        "job_ended_at": row.job_ended_at,
        "gone_at": row.gone_at,
        "deadline": row.deadline,
        "hold_until": row.hold_until if row.hold_until > now else 0.0,
        "repo": row.repo,
        "queue": str(row.queue or ""),
        "job": str(row.job or ""),
        "adopted": row.adopted,
        "end": row.end,
        "end_detail": row.end_detail,
        "agent_at": witness.agent_at if witness else 0.0,
        "worker": bool(witness and witness.worker),
        "provider_says": witness.cloud.value if witness and witness.cloud else "",
    }


def alarm(one: alarms.Alarm) -> documents.Alarm:
    """Return an open alarm as a document."""
    return {
        "subject": one.subject,
        "id": one.id,
        "reason": one.reason,
        "detail": one.detail,
        "since": one.since,
        "last": one.last,
        "count": one.count,
    }


def event(one: model.Event, *, row: int = 0, text: str = "") -> documents.Event:
    """Return a line of the audit trail as a document."""
    found: documents.Event = {
        "at": one.at,
        "subject": one.subject,
        "id": one.id,
        "what": one.what,
        "reason": one.reason,
        "detail": one.detail,
        "text": text,
    }
    return {"row": row, **found} if row else found
