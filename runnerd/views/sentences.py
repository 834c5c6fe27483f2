"""Sentences for events, ends and states: the audit trail holds one word for each step, people read a sentence."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from runnerd import model
from runnerd.kit import display
from runnerd.model import InstanceState

#: State of an instance that is on its way -> predicate of a sentence.
RISING: Mapping[InstanceState, str] = MappingProxyType(
    {
        InstanceState.PLANNED: "is planned and waiting for its turn",
        InstanceState.REQUESTING: "is being requested",
        InstanceState.UNKNOWN: "may or may not exist: its create call had no clear answer, which is being resolved",
        InstanceState.BOOTING: "is booting",
        InstanceState.READY: "is up and waiting for a runner registration",
        InstanceState.REGISTERING: "is registering its runner",
        InstanceState.REGISTERED: "is registered and may take a job at any moment",
    }
)

_INSTANCE: Mapping[str, str] = MappingProxyType(
    {
        "planned": "instance planned",
        "requesting": "requested from the provider",
        "unknown": "the create call had no clear answer; nothing else is tried until that is resolved",
        "booting": "created by the provider; booting",
        "ready": "agent is up and waiting for a runner",
        "registering": "runner registration requested from the forge",
        "registered": "runner registered; waiting for a job",
        "busy": "runner has a job",
        "draining": "draining; takes no further job",
        "ending": "no job left; deletion requested from the provider",
        "gone": "confirmed gone",
        "failed": "abandoned before a provider created it",
        "adopted": "found by its tags and adopted",
    }
)
_END: Mapping[str, str] = MappingProxyType(
    {
        "preempted": "preempted by its provider",
        "ended-by-us": "deleted by runnerd",
        "self-ended": "shut itself down",
        "failed": "failed",
        "unknown": "its provider does not report the cause",
    }
)
_ATTEMPT: Mapping[str, str] = MappingProxyType(
    {
        "requesting": "tried",
        "created": "created an instance",
        "failed": "refused",
        "unknown": "gave no clear answer",
    }
)
_REGISTRATION: Mapping[str, str] = MappingProxyType(
    {
        "registering": "asked the forge for runner",
        "unclear": "no clear answer from the forge about runner",
        "registered": "forge registered runner",
        "removing": "asked the forge to remove runner",
        "gone": "forge no longer has runner",
    }
)
_JOB: Mapping[str, str] = MappingProxyType(
    {
        "queued": "job queued",
        "started": "job started",
        "completed": "job ended",
        "lapsed": "assignment timed out at the forge; the job still counts as demand",
    }
)
#: Steps of a job's re-run: their detail is no runner's name.
_RERUN: Mapping[str, str] = MappingProxyType(
    {
        "retry-wanted": "re-run wanted",
        "retry-taken": "re-run by the forge",
        "retry-dropped": "re-run abandoned",
    }
)


def end(row: model.Instance) -> str:
    """Return the cause of an instance's end, as its provider reports; empty while it lives."""
    return _with(_END.get(row.end, row.end), "", row.end_detail) if row.end else ""


def price(row: model.Instance) -> str:
    """Return the price of an hour of an instance, with its source."""
    return _with(f"{display.dollars(row.price)} an hour", "", row.price_source)


def event(one: model.Event, *, offer: str = "") -> str:
    """Return a sentence for a line of the audit trail; ``offer`` names the offer of an attempt."""
    if one.what == "alarm":
        return f"alarm about {one.subject} {one.id}: {one.reason}: {one.detail}"
    if one.subject == "instance":
        if one.what == "planned" and one.reason == model.Reason.REFUSED:
            text = "planned again: trying the next offer"
        else:
            text = _INSTANCE.get(one.what, one.what)
        return _with(text, one.reason, one.detail)
    if one.subject == "attempt":
        words = _ATTEMPT.get(one.what, one.what)
        if not offer:
            return _with(f"offer {words}", one.reason, one.detail)
        return _with(f"offer {offer} {words}", one.reason, "" if one.detail == offer else one.detail)
    if one.subject == "registration":
        return _with(f"{_REGISTRATION.get(one.what, one.what)} {one.id}", "", one.detail)
    if one.subject == "job" and one.what in _RERUN:
        return _with(_RERUN[one.what], one.reason, one.detail)
    if one.subject == "job":
        detail = f"runner {one.detail}" if one.detail else ""
        return _with(_JOB.get(one.what, one.what), one.reason, detail)
    if one.subject == "offer":
        return _with(f"offers {one.id} are {one.what}", one.reason, one.detail)
    return _with(f"{one.subject} {one.id} {one.what}", one.reason, one.detail)


def _with(text: str, reason: str, detail: str) -> str:
    more = ": ".join(part for part in (reason, detail) if part)
    return f"{text} ({more})" if more else text
