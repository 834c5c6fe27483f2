"""The audit trail: its lines, each with a sentence."""

from __future__ import annotations

from runnerd import read_model
from runnerd.views import documents, entries, sentences

#: Seconds for which a follower's request is held open, and between two reads of the trail meanwhile.
HOLD_S, POLL_S = 25.0, 0.5
#: Most lines of the audit trail in one answer.
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
    """Return lines of the audit trail, oldest first, and ``next``, the row to continue after.

    With ``hold`` an empty answer is delayed for up to so many seconds until there is a line.
    """
    limit = max(1, min(limit, MOST))
    deadline = reading.state.clock.now() + (min(hold, HOLD_S) if hold > 0 else 0.0)
    while True:
        found = await reading.history.trail(
            subject=subject or None, id=id or None, since=since, after_rowid=after, limit=limit
        )
        if found or reading.progress.stopping or reading.state.clock.now() >= deadline:
            break
        await reading.state.clock.sleep(POLL_S)
    return {
        "events": [entries.event(one, row=row, text=sentences.event(one)) for row, one in found],
        "next": found[-1][0] if found else after,
    }
