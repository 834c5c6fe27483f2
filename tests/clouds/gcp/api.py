"""The way into a simulated project: who may call what, how often, and which requests are repetitions."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tests.clouds import faults, wire
from tests.clouds.gcp import lists, refusals, schema
from tests.clouds.gcp.faults import Fault
from tests.clouds.gcp.project import Project
from tests.clouds.gcp.refusals import Refused
from tests.clouds.gcp.state import ROOT, Operation

#: Seconds for which a request id is remembered.
_REMEMBER = 3600.0
#: Answers that were held against the schema when they were made, by identity.
CHECKED: dict[int, Any] = {}


@dataclass(slots=True)
class Asked:
    """A call with everything that is known of it."""

    call: schema.Call
    query: dict[str, str]
    body: Any
    user: str
    struck: list[Fault]

    def name(self, part: str) -> str:
        return self.call.names[part]


class Api(Project):
    """Every call's way through; what each method does is in the classes above."""

    def handle(self, request: wire.Request) -> wire.Answer:
        """Answer one request; raises :class:`wire.Lost` where no answer comes."""
        self.tick()
        if request.path == "/token":
            return self.iam.token(request)
        call = schema.find(request.method, request.path)
        if call is None:
            return refusals.answer(Refused("notFound", f"The requested URL {request.path} was not found.", status=404))
        lost: list[Fault] = []
        try:
            asked = self._asked(call, request)
            for fault in asked.struck:
                if fault.lost == "before":
                    self.log.append((call.id, 0, "lost before"))
                    raise wire.Lost("scripted: it never arrived", sent=fault.sent)
                if fault.reason:
                    raise Refused(
                        fault.reason,
                        fault.message or f"scripted: {fault.reason}",
                        status=fault.status,
                        details=fault.details,
                    )
                if fault.lost == "after":
                    lost.append(fault)
            told = self._answer(asked)
        except Refused as refused:
            self.log.append((call.id, refused.status, refused.reason))
            return refusals.answer(refused)
        if lost:
            self.log.append((call.id, 0, "lost after"))
            raise wire.Lost("scripted: the answer was lost", sent=True)
        if id(told) not in CHECKED:
            self.breaches += [f"{call.id}: {one}" for one in schema.response_problems(call, told)]
        if self.breaches:
            raise AssertionError(f"the simulation breaks the official schema: {self.breaches}")
        self.log.append((call.id, 200, "/".join(call.names.values())))
        return refusals.told(told)

    def _asked(self, call: schema.Call, request: wire.Request) -> Asked:
        user = self.iam.user(request)
        try:
            body = json.loads(request.body) if request.body else None
        except ValueError:
            raise Refused("parseError", "Invalid JSON payload received.") from None
        query = request.query
        problems = list(schema.request_problems(call, query, body))
        if problems:
            raise Refused(
                "invalid" if "regex" in problems[0] or "Not one of" in problems[0] else "badRequest", problems[0]
            )
        asked = Asked(call, query, body, user, [])
        if not call.id.startswith("compute."):
            asked.struck = faults.struck(self.faults, faults.Call(call.id), self.random)
            return asked
        self._rate(call)
        asked.struck = faults.struck(self.faults, self._subject(call, body), self.random)
        if call.names.get("project") not in (self.project, *(one.project for one in self.images)):
            raise Refused("notFound", f"The resource 'projects/{call.names.get('project')}' was not found")
        if not self.enabled:
            link = (
                f"https://console.developers.google.com/apis/api/compute.googleapis.com/overview?project={self.project}"
            )
            raise Refused(
                "accessNotConfigured",
                f"Compute Engine API has not been used in project {self.project} before or it is disabled. "
                f"Enable it by visiting {link} then retry.",
                details=[refusals.info("SERVICE_DISABLED", service="compute.googleapis.com")],
                domain="usageLimits",
            )
        zone = call.names.get("zone")
        if zone and zone not in self._zones():
            raise Refused("notFound", f"Location {zone} is not found or access is unauthorized.")
        self.iam.allow(call.id, f"projects/{self.project}")
        return asked

    def _subject(self, call: schema.Call, body: Any) -> faults.Call:
        zone = call.names.get("zone", "")
        type_ = market = ""
        if isinstance(body, dict):
            type_ = str(body.get("machineType", "")).rpartition("/")[2]
            for one in body.get("guestAccelerators", []):
                type_ = f"{type_}+{one.get('acceleratorType', '').rpartition('/')[2]}x{one.get('acceleratorCount')}"
            market = "spot" if body.get("scheduling", {}).get("provisioningModel") == "SPOT" else "on-demand"
        region = call.names.get("region") or zone.rpartition("-")[0]
        return faults.Call(call.id.removeprefix("compute."), region, zone, type_, market)

    def _rate(self, call: schema.Call) -> None:
        verb = call.id.rpartition(".")[2]
        if "Operations" in call.id:
            group = "operations"
        elif verb in ("list", "aggregatedList"):
            group = "list"
        else:
            group = "write" if call.method.verb != "GET" else "read"
        minute = (group, int(self.now() // 60))
        self._minutes[minute] += 1
        if self._minutes[minute] > self.rates[group]:
            raise Refused(
                "rateLimitExceeded",
                f"Quota exceeded for quota metric 'Queries' and limit '{group} per minute' of service "
                "'compute.googleapis.com' for consumer 'project_number:1'.",
                details=[refusals.info("RATE_LIMIT_EXCEEDED", service="compute.googleapis.com")],
            )

    def _answer(self, asked: Asked) -> Any:
        verb = asked.call.id.removeprefix("compute.").replace(".", "_")
        known: Callable[[Asked], Any] | None = getattr(self, f"_do_{verb}", None)
        if known is None:
            raise Refused("badRequest", f"{asked.call.id} is not simulated", status=501)
        return known(asked)

    def _aggregated(self, asked: Asked, kind: str, shown: Iterable[Mapping[str, Any]], *, by: str) -> Any:
        """A page with a part for every scope, some of which were not reached."""
        unreached = set(self.unreachable)
        warned: dict[str, str] = {}
        for fault in asked.struck:
            if fault.warning:
                warned |= dict.fromkeys(fault.unreachable, fault.warning)
            else:
                unreached |= set(fault.unreachable)
        names = list(self._zones()) if by == "zone" else list(self.regions)
        scopes = {f"{by}s/{name}": name for name in names}
        reached = [one for one in shown if one[by].rpartition("/")[2] not in unreached | warned.keys()]
        found, rest = lists.page(lists.matching(reached, asked.query.get("filter", "")), asked.query)
        items: dict[str, Any] = {}
        for scope, name in scopes.items():
            if name in unreached:
                continue
            if name in warned:
                items[scope] = {"warning": {"code": warned[name], "message": "The list is not complete."}}
                continue
            inside = [one for one in found if one[by].rpartition("/")[2] == name]
            data = [{"key": "scope", "value": scope}]
            empty = {
                "code": "NO_RESULTS_ON_PAGE",
                "message": f"There are no results for scope '{scope}' on this page.",
                "data": data,
            }
            items[scope] = {kind: inside} if inside else {"warning": empty}
        answer: dict[str, Any] = {
            "kind": f"compute#{kind[:-1]}AggregatedList",
            "id": f"projects/{self.project}/aggregated/{kind}",
            "items": items,
            "selfLink": f"{ROOT}/projects/{self.project}/aggregated/{kind}",
            **rest,
        }
        if unreached:
            answer["unreachables"] = [f"projects/{self.project}/{by}s/{one}" for one in sorted(unreached)]
        return answer

    def _begun(self, type_: str, target: Any, asked: Asked, *, ends_at: float, region: str = "") -> Operation:
        """The operation that a call starts."""
        key = asked.query.get("requestId", "")
        found = self._operation(type_, target, ends_at=ends_at, user=asked.user, client_id=key, region=region)
        if key:
            self._requests[asked.call.id, key] = (found, self._print(asked), self.now())
        return found

    def _repeated(self, asked: Asked) -> Operation | None:
        """The operation that the same request made already.  Raises :class:`Refused` for another one with its id."""
        key = asked.query.get("requestId", "")
        if not key:
            return None
        try:
            given = uuid.UUID(key)
        except ValueError:
            raise Refused("invalid", f"Invalid value for field 'requestId': '{key}'. Must be a valid UUID.") from None
        if not given.int:
            raise Refused("invalid", "Invalid value for field 'requestId': the zero UUID is not supported.")
        found = self._requests.get((asked.call.id, key))
        if found is None or self.now() - found[2] > _REMEMBER:
            return None
        if found[1] != self._print(asked):
            raise Refused("invalid", f"Invalid value for field 'requestId': '{key}'. It was used for another request.")
        return found[0]

    @staticmethod
    def _print(asked: Asked) -> str:
        sent = json.dumps([dict(asked.call.names), asked.body], sort_keys=True)
        return hashlib.sha256(sent.encode()).hexdigest()

    def _do_zoneOperations_get(self, asked: Asked) -> Any:
        for one in self.operations:
            if one.zone == asked.name("zone") and asked.name("operation") in (one.name, one.id):
                return one.shown(self.now())
        raise Refused("notFound", f"The resource 'operations/{asked.name('operation')}' was not found")

    def _do_zoneOperations_list(self, asked: Asked) -> Any:
        shown = [one.shown(self.now()) for one in self.operations if one.zone == asked.name("zone")]
        if asked.query.get("orderBy", "name") not in ("name", "creationTimestamp desc"):
            raise Refused("invalid", f"Invalid value for field 'orderBy': '{asked.query['orderBy']}'.")
        if "orderBy" in asked.query:
            shown.reverse()
        items, rest = lists.page(lists.matching(shown, asked.query.get("filter", "")), asked.query)
        found = {"kind": "compute#operationList", "id": "operations", **rest}
        return {**found, "items": items} if items else found
