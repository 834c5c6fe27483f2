"""The read protocols that a controller over scripted surroundings hands to views, metrics and listeners."""

from __future__ import annotations

from typing import Any

from runnerd import read_model
from runnerd.reconcile import loop
from tests.support import clocks, fakes


def shown(
    place: fakes.Place, controller: loop.Controller, *, history: Any = None
) -> tuple[read_model.ReadModel, read_model.Hooks]:
    """Compose as the daemon does."""
    reading = read_model.ReadModel(
        progress=read_model.Progress(started_at=clocks.START),
        state=place.runtime,
        history=history,
        loop=controller,
        clock_guard=controller.deadlines,
        rank=controller.selection.for_next,
        totals=controller.admission.totals,
        console=controller.consoles.ask,
        diagnostics={},
    )
    hooks = read_model.Hooks(
        on_step=place.rows.on_step,
        on_attempt=place.rows.on_attempt,
        on_proof=place.rows.on_proof,
        on_job=controller.job_updates.on_job,
        on_rerun=controller.reruns.on_outcome,
        on_pass=controller.on_pass,
    )
    return reading, hooks
