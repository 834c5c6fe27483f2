"""Sentences for people: what each kind of event means.

The audit trail holds one word per step; here it becomes a sentence.  Nothing is looked up and nothing is decided.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from runnerd import model
from runnerd.kit import display
from runnerd.model import InstanceState

#: What an instance that is on its way is doing.
RISING: Mapping[InstanceState, str] = MappingProxyType(
    {
        InstanceState.PLANNED: "is planned and waits for its turn",
        InstanceState.REQUESTING: "is being asked for",
        InstanceState.UNKNOWN: "may or may not exist: its create call had no clear answer and is being resolved",
        InstanceState.BOOTING: "boots",
        InstanceState.READY: "is up and waits for a runner registration",
        InstanceState.REGISTERING: "registers its runner",
        InstanceState.REGISTERED: "is registered and may take a job at any moment",
    }
)

_INSTANCE: Mapping[str, str] = MappingProxyType(
    {
        "planned": "an instance is planned",
        "requesting": "the provider is asked for it",
        "unknown": "the create call had no clear answer; nothing else is tried until it is resolved",
        "booting": "the provider has it; it boots",
        "ready": "its agent is up and asks for a runner",
        "registering": "the forge is asked for a runner",
        "registered": "its runner is registered and waits for a job",
        "busy": "its runner has a job",
        "draining": "it takes no further job",
        "ending": "no job is left on it; the provider is asked to delete it",
        "gone": "it is confirmed gone",
        "failed": "it was given up before any provider had it",
        "adopted": "it was found by its tags and taken over",
    }
)
_END: Mapping[str, str] = MappingProxyType(
    {
        "preempted": "its provider took it back",
        "ended-by-us": "a call of ours ended it",
        "self-ended": "it shut itself down",
        "failed": "it broke",
        "unknown": "its provider does not say who ended it",
    }
)
_ATTEMPT: Mapping[str, str] = MappingProxyType(
    {
        "requesting": "tried",
        "created": "got an instance",
        "failed": "refused",
        "unknown": "gave no clear answer",
    }
)
_REGISTRATION: Mapping[str, str] = MappingProxyType(
    {
        "registering": "the forge is asked for runner",
        "unclear": "the forge gave no clear answer about runner",
        "registered": "the forge registered runner",
        "removing": "the forge is asked to remove runner",
        "gone": "the forge has no more runner",
    }
)
_JOB: Mapping[str, str] = MappingProxyType(
    {
        "queued": "the forge queued the job",
        "started": "the job started",
        "completed": "the job ended",
        "lapsed": "the forge took an assignment of the job back; it stays our demand",
    }
)


def end(row: model.Instance) -> str:
    """Who ended an instance, as its provider tells; empty while it lives."""
    return _with(_END.get(row.end, row.end), "", row.end_detail) if row.end else ""


def price(row: model.Instance) -> str:
    """What an hour of an instance costs, and how that is known."""
    return _with(f"{display.dollars(row.price)} an hour", "", row.price_source)


def event(one: model.Event, *, offer: str = "") -> str:
    """A sentence for a line of the audit trail; ``offer`` names the offer of an attempt."""
    if one.what == "alarm":
        return f"alarm about {one.subject} {one.id}: {one.reason}: {one.detail}"
    if one.subject == "instance":
        if one.what == "planned" and one.reason == model.Reason.REFUSED:
            text = "it is planned again: the next offer is tried"
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
    if one.subject == "job":
        detail = f"runner {one.detail}" if one.detail else ""
        return _with(_JOB.get(one.what, one.what), one.reason, detail)
    if one.subject == "offer":
        return _with(f"offers {one.id} are {one.what}", one.reason, one.detail)
    return _with(f"{one.subject} {one.id} {one.what}", one.reason, one.detail)


def _with(text: str, reason: str, detail: str) -> str:
    more = ": ".join(part for part in (reason, detail) if part)
    return f"{text} ({more})" if more else text
