"""Scripted faults: what goes wrong, for which requests, when and how often.

A fault is data, given in a test or over `POST /_sim/faults`; an unknown field is refused, so that a misspelt fault
cannot pass as a fair day. Faults never change the rules of a forge, only what becomes of a request and its answer.
"""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Mapping
from typing import Any

from runnerd.simulator import http, world


@dataclasses.dataclass(slots=True)
class Fault:
    """One fault: a selection, an extent and at least one effect."""

    #: "github" or "gitlab"; None = both
    forge: str | None = None
    #: HTTP method; None = any
    method: str | None = None
    #: the route's template, or a pattern with * for template or path; None = any
    path: str | None = None
    #: how many requests it may still hit; None = no end
    count: int | None = None
    #: let this many matching requests pass first
    skip: int = 0
    #: chance per matching request
    probability: float = 1.0
    #: world times between which it acts; in JSON also `start_in` and `seconds`, relative to now
    since: float | None = None
    until: float | None = None
    #: answer this status without applying the request
    status: int | None = None
    #: text or JSON value to answer with `status`
    body: Any = None
    #: answer an HTML error page (with `status`, else 502)
    html: bool = False
    headers: dict[str, str] = dataclasses.field(default_factory=dict)
    #: seconds to wait before anything else
    latency: float = 0.0
    #: never answer, request not applied
    hang: bool = False
    #: apply the request, then never answer
    hang_after: bool = False
    #: "before": drop the connection, request not applied; "after": applied, answer lost
    drop: str | None = None
    #: put a byte order mark before the body of the answer
    bom: bool = False
    #: apply the request, answer its status with an empty body
    empty: bool = False
    #: a service that is down: 503 with an HTML page
    outage: bool = False
    #: revoke the token that the request carries, then go on
    revoke_token: bool = False
    #: use up the rate quota of the request's token, then go on
    exhaust_rate: bool = False
    #: how many requests it has hit
    hits: int = 0


_EFFECTS = (
    "status",
    "html",
    "latency",
    "hang",
    "hang_after",
    "drop",
    "bom",
    "empty",
    "outage",
    "revoke_token",
    "exhaust_rate",
)


def parse(data: Mapping[str, Any], *, now: float) -> Fault:
    """Make a fault from its JSON form. Raises ValueError naming what is wrong."""
    fields = {field.name for field in dataclasses.fields(Fault)} - {"hits"}
    values = dict(data)
    start_in, seconds = values.pop("start_in", None), values.pop("seconds", None)
    unknown = sorted(set(values) - fields)
    if unknown:
        raise ValueError(f"unknown field {unknown[0]!r} in a fault; known: {', '.join(sorted(fields))}")
    for name, value in {"start_in": start_in, "seconds": seconds}.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or value < 0):
            raise ValueError(f"{name} must be seconds, 0 or more, not {value!r}")
    fault = Fault(**values)
    if start_in is not None or seconds is not None:
        fault.since = now + (start_in or 0.0)
        fault.until = fault.since + seconds if seconds is not None else None
    if not any(getattr(fault, name) for name in _EFFECTS):
        raise ValueError(f"a fault needs an effect, one of: {', '.join(_EFFECTS)}")
    if fault.forge not in (None, "github", "gitlab"):
        raise ValueError(f"forge must be github or gitlab, not {fault.forge!r}")
    if fault.drop not in (None, "before", "after"):
        raise ValueError(f"drop must be before or after, not {fault.drop!r}")
    if fault.status is not None and not (isinstance(fault.status, int) and 200 <= fault.status <= 599):
        raise ValueError(f"status must be an HTTP status from 200 to 599, not {fault.status!r}")
    if not isinstance(fault.probability, int | float) or not 0 <= fault.probability <= 1:
        raise ValueError(f"probability must be from 0 to 1, not {fault.probability!r}")
    if not isinstance(fault.latency, int | float) or fault.latency < 0:
        raise ValueError(f"latency must be seconds, 0 or more, not {fault.latency!r}")
    if fault.count is not None and (not isinstance(fault.count, int) or fault.count < 1):
        raise ValueError(f"count must be a positive number, not {fault.count!r}")
    return fault


def matches(fault: Fault, request: http.Request, *, forge: str, now: float) -> bool:
    """Return True when the fault selects this request (without drawing its chance)."""
    if fault.forge is not None and fault.forge != forge:
        return False
    if fault.method is not None and fault.method.upper() != request.method:
        return False
    if (fault.since is not None and now < fault.since) or (fault.until is not None and now >= fault.until):
        return False
    if fault.count is not None and fault.hits >= fault.count:
        return False
    if fault.path is None or fault.path in (request.template, request.path):
        return True
    return fnmatch.fnmatchcase(request.path, fault.path) or (
        bool(request.template) and fnmatch.fnmatchcase(request.template, fault.path)
    )


class Faults:
    """The faults in force, in the order given."""

    def __init__(self, state: world.World) -> None:
        self._world = state
        self.active: list[Fault] = []

    def add(self, *faults: Fault) -> None:
        self.active.extend(faults)

    def clear(self) -> None:
        self.active.clear()

    def select(self, request: http.Request, *, forge: str) -> list[Fault]:
        """Return the faults that hit this request now; each counts the hit."""
        if not self.active or forge not in ("github", "gitlab"):
            return []
        chosen = []
        for fault in self.active:
            if not matches(fault, request, forge=forge, now=self._world.now()):
                continue
            if fault.skip > 0:
                fault.skip -= 1
                continue
            if fault.probability < 1 and self._world.random.random() >= fault.probability:
                continue
            fault.hits += 1
            chosen.append(fault)
        return chosen

    def to_json(self) -> list[dict[str, Any]]:
        return [dataclasses.asdict(fault) for fault in self.active]


def answer(fault: Fault) -> http.Response | None:
    """Return the answer that a fault gives instead of the forge, if it gives one."""
    if fault.outage or fault.html:
        status = fault.status or (503 if fault.outage else 502)
        page = f"<!DOCTYPE html><html><head><title>{status}</title></head><body><h1>Unavailable</h1></body></html>"
        response = http.text_response(fault.body if isinstance(fault.body, str) else page, status, kind="text/html")
    elif fault.status is not None:
        if isinstance(fault.body, str):
            response = http.text_response(fault.body, fault.status)
        else:
            response = http.json_response(
                {"message": "scripted fault"} if fault.body is None else fault.body, fault.status
            )
    else:
        return None
    return response.with_headers(fault.headers)
