"""The API over a simulated subscription: who may call what, how often, and what the answers look like."""

from __future__ import annotations

import builtins
import fnmatch
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, quote, urlsplit

from tests.clouds import faults, wire
from tests.clouds.azure import answers, judge, routes, schema, state
from tests.clouds.azure.faults import Fault

if TYPE_CHECKING:
    from tests.clouds.azure.cloud import Arm

_PAGE = 50


@dataclass(frozen=True, slots=True)
class Caller:
    """One request on its way through."""

    request: wire.Request
    who: state.Principal
    base: str
    query: Mapping[str, str]
    body: Any
    #: Named parts of the path, as the caller wrote them.
    part: Mapping[str, str]


class Service:
    """Azure Resource Manager, Entra's sign-in, and a store for serial logs."""

    def __init__(self, cloud: Arm) -> None:
        self._cloud = cloud

    # -- the way in --------------------------------------------------------------------------------------------------

    def handle(self, request: wire.Request) -> wire.Answer:
        path = request.path
        if path.startswith("/serial/"):
            return self._serial(request)
        if path == "/api/retail/prices":
            return answers.prices(self._cloud, request.query.get("$filter", ""))
        if path.endswith("/oauth2/v2.0/token"):
            return self._sign_in(request)
        base = "{0.scheme}://{0.netloc}".format(urlsplit(request.url))
        operation = "other"
        try:
            route, part = routes.find(request)
            operation = route.operation
            caller = Caller(request, self._who(request), base, request.query, _json(request), part)
            told = self._pass(route, caller)
        except state.Refused as refusal:
            told = answers.refusal(refusal)
        except wire.Lost:
            self._cloud.calls.append((operation, "lost"))
            raise
        self._cloud.calls.append((operation, str(told.status)))
        return told

    def _pass(self, route: routes.Route, caller: Caller) -> wire.Answer:
        self._authorize(route, caller)
        version = caller.query.get("api-version", "")
        if version not in routes.VERSIONS[route.versions]:
            raise state.Refused(400, "InvalidApiVersionParameter", f"The api-version '{version}' is invalid.")
        struck = faults.struck(self._cloud.faults, self._call(route, caller), self._cloud.rng)
        if any(one.lost == "before" for one in struck):
            raise wire.Lost(sent=all(one.sent for one in struck if one.lost == "before"))
        left = self._throttle(route, caller)
        for one in struck:
            if one.code and not one.half:
                raise state.Refused(one.status or 409, one.code, one.message or one.code, retry_after=one.retry_after)
        told = getattr(self, route.run)(caller, struck)
        if any(one.lost == "after" for one in struck):
            raise wire.Lost(sent=True)
        return wire.Answer(told.status, {**told.headers, **left}, told.body)

    def _who(self, request: wire.Request) -> state.Principal:
        kind, _, token = request.header("Authorization").partition(" ")
        found = self._cloud.principal(token) if kind == "Bearer" else None
        if found is None:
            raise state.Refused(401, "InvalidAuthenticationToken", "The access token is invalid.")
        return found

    def _authorize(self, route: routes.Route, caller: Caller) -> None:
        subscription = caller.part.get("subscription", "")
        if subscription.lower() != self._cloud.subscription.lower():
            message = f"The subscription '{subscription}' could not be found."
            raise state.Refused(404, "SubscriptionNotFound", message)
        who, path = caller.who, caller.request.path.lower()
        allowed = any(fnmatch.fnmatch(route.action.lower(), one.lower()) for one in who.actions) and not any(
            fnmatch.fnmatch(route.action.lower(), one.lower()) for one in who.not_actions
        )
        if not allowed or not path.startswith(who.scope.lower()):
            message = (
                f"The client '{who.oid}' with object id '{who.oid}' does not have authorization to perform action "
                f"'{route.action}' over scope '{caller.request.path}' or the scope is invalid."
            )
            raise state.Refused(403, "AuthorizationFailed", message)
        if self._cloud.subscription_state == "Disabled" and route.method in ("PUT", "POST"):
            message = f"The subscription '{subscription}' is disabled and therefore marked as read only."
            raise state.Refused(409, "ReadOnlyDisabledSubscription", message)

    def _call(self, route: routes.Route, caller: Caller) -> faults.Call:
        one = self._cloud.machine(caller.part.get("group", ""), caller.part.get("vm", ""))
        if one is not None:
            return faults.Call(route.operation, one.region, one.zone, one.type, one.market)
        if route.operation == "create" and isinstance(caller.body, dict):
            return judge.call_of(caller.body)
        return faults.Call(route.operation, caller.part.get("region", ""))

    def _throttle(self, route: routes.Route, caller: Caller) -> dict[str, str]:
        """Headers that tell what is left; a refusal where nothing is."""
        told = []
        headers = {}
        for policy in route.policies:
            key = caller.who.oid
            if policy.name.startswith(("GetOperation", "PutVM", "DeleteVM", "LowCostGetVM", "HighCostGetVM")):
                key = self._region_of(caller)
            if policy.name.endswith("Resource"):
                key = f"{caller.part.get('group')}/{caller.part.get('vm')}".lower()
            wait, left = self._cloud.buckets.take(policy, key)
            if wait > 0:
                message = "The server rejected the request because too many requests have been received."
                code = "SubscriptionRequestsThrottled" if "subscription" in policy.name else "OperationNotAllowed"
                raise state.Refused(429, code, message, retry_after=max(1, round(wait + 0.5)))
            if policy.name.startswith("subscription-"):
                headers[f"x-ms-ratelimit-remaining-{policy.name}"] = str(left)
            else:
                told.append(f"Microsoft.Compute/{policy.name};{left}")
        if told:
            headers["x-ms-ratelimit-remaining-resource"] = ",".join(told)
        return headers

    def _region_of(self, caller: Caller) -> str:
        one = self._cloud.machine(caller.part.get("group", ""), caller.part.get("vm", ""))
        if one is not None:
            return one.region
        body = caller.body if isinstance(caller.body, dict) else {}
        return str(body.get("location") or caller.part.get("region") or "")

    # -- machines ----------------------------------------------------------------------------------------------------

    def create(self, caller: Caller, struck: builtins.list[Fault]) -> wire.Answer:
        cloud, group, name = self._cloud, caller.part["group"], caller.part["vm"]
        self._group(group)
        there = cloud.machine(group, name)
        if there is not None:
            return self._update(caller, there)
        judge.check(cloud, name, caller.body, caller.query["api-version"])
        half = next((one for one in struck if one.half), None)
        if half is not None:
            answers.make_parts(cloud, group, name, caller.body, disk=True)
            raise state.Refused(half.status or 500, half.code or "InternalServerError", half.message or "stumbled")
        one = cloud.add(group, name, caller.body, struck)
        answers.make_parts(cloud, group, name, caller.body, disk=one.fails_at > one.runs_at, owner=one)
        headers = {"Azure-AsyncOperation": self._operation_url(caller, one.region, one.operation), "Retry-After": "10"}
        return self._told(201, answers.machine(cloud, one), "VirtualMachine", headers)

    def _update(self, caller: Caller, there: state.Instance) -> wire.Answer:
        """A PUT on a machine that exists."""
        if caller.request.header("If-None-Match") == "*":
            message = f"The condition '*' in the If-None-Match header was not satisfied: '{there.name}' exists."
            raise state.Refused(412, "PreconditionFailed", message)
        if there.state == "deleting":
            raise state.Refused(409, "Conflict", f"'{there.name}' is being deleted.")
        if caller.body != there.body:
            message = "Changing property 'osProfile.customData' is not allowed."
            raise state.Refused(409, "PropertyChangeNotAllowed", message)
        return self._told(200, answers.machine(self._cloud, there), "VirtualMachine")

    def get(self, caller: Caller, struck: builtins.list[Fault]) -> wire.Answer:
        expand = caller.query.get("$expand", "")
        body = answers.machine(self._cloud, self._machine(caller), seen=expand.lower() == "instanceview")
        return self._told(200, body, "VirtualMachine")

    def view(self, caller: Caller, struck: builtins.list[Fault]) -> wire.Answer:
        return self._told(200, answers.view(self._machine(caller)), "VirtualMachineInstanceView")

    def list(self, caller: Caller, struck: builtins.list[Fault]) -> wire.Answer:
        self._group(caller.part["group"])
        if "$expand" in caller.query:
            raise state.Refused(400, "InvalidParameter", "$expand needs a $filter for scale sets here.")
        shown = [
            answers.machine(self._cloud, one)
            for one in self._cloud.instances
            if one.group.lower() == caller.part["group"].lower() and one.visible_at <= self._cloud.now()
        ]
        return self._page(caller, shown, "VirtualMachine")

    def delete(self, caller: Caller, struck: builtins.list[Fault]) -> wire.Answer:
        self._group(caller.part["group"])
        one = self._cloud.machine(caller.part["group"], caller.part["vm"])
        if one is None:
            return wire.Answer(204)
        claims = {"http://schemas.microsoft.com/identity/claims/objectidentifier": caller.who.oid}
        if caller.who.resource:
            claims["xms_mirid"] = caller.who.resource
        if one.state != "deleting":
            self._cloud.log(one, "Microsoft.Compute/virtualMachines/delete", caller.who.oid, claims)
        self._cloud.end(one, struck)
        url = self._operation_url(caller, one.region, one.deletion)
        return wire.Answer(202, {"Azure-AsyncOperation": url, "Location": url + "&monitor=true", "Retry-After": "10"})

    def operation(self, caller: Caller, struck: builtins.list[Fault]) -> wire.Answer:
        found = self._cloud.operations.get(caller.part["operation"])
        if found is None:
            raise state.Refused(404, "OperationNotFound", "There is no such operation.")
        return answers.json_answer(200, answers.operation(caller.part["operation"], *found))

    def console(self, caller: Caller, struck: builtins.list[Fault]) -> wire.Answer:
        one = self._machine(caller)
        if not one.body["properties"].get("diagnosticsProfile", {}).get("bootDiagnostics", {}).get("enabled"):
            raise state.Refused(409, "BootDiagnosticsNotEnabled", "Boot diagnostics are not enabled.")
        if not one.console:
            raise state.Refused(409, "Conflict", "There is no boot diagnostics data yet.")
        body = {"serialConsoleLogBlobUri": f"{caller.base}/serial/{quote(one.name)}?sig=simulated"}
        return self._told(200, body, "RetrieveBootDiagnosticsDataResult")

    def _serial(self, request: wire.Request) -> wire.Answer:
        if request.header("Authorization") or request.query.get("sig") != "simulated":
            return wire.Answer(403)
        console = self._cloud.find(request.path).console
        return wire.Answer(200, {"Content-Type": "application/octet-stream"}, console.encode())

    def _machine(self, caller: Caller) -> state.Instance:
        self._group(caller.part["group"])
        one = self._cloud.machine(caller.part["group"], caller.part["vm"])
        if one is None:
            raise answers.missing(caller.request.path, caller.part["group"])
        return one

    def _group(self, group: str) -> None:
        if group.lower() not in self._cloud.groups:
            raise state.Refused(404, "ResourceGroupNotFound", f"Resource group '{group}' could not be found.")

    def _operation_url(self, caller: Caller, region: str, operation: str) -> str:
        return (
            f"{caller.base}/subscriptions/{self._cloud.subscription}/providers/Microsoft.Compute/locations/{region}"
            f"/operations/{operation}?api-version={caller.query['api-version']}"
        )

    # -- parts -------------------------------------------------------------------------------------------------------

    def disks(self, caller: Caller, struck: builtins.list[Fault]) -> wire.Answer:
        return self._page(caller, self._parts(caller, "disks"), "Disk")

    def network(self, caller: Caller, struck: builtins.list[Fault]) -> wire.Answer:
        return self._page(caller, self._parts(caller, _network_kind(caller.part["kind"])), "")

    def _parts(self, caller: Caller, kind: str) -> builtins.list[dict[str, Any]]:
        self._group(caller.part["group"])
        return [
            answers.part(self._cloud, part)
            for part in self._cloud.parts.values()
            if part.kind == kind and part.group.lower() == caller.part["group"].lower()
        ]

    def delete_part(self, caller: Caller, struck: builtins.list[Fault]) -> wire.Answer:
        kind = "disks" if "/disks/" in caller.request.path.lower() else _network_kind(caller.part["kind"])
        key = (caller.part["group"].lower(), kind, caller.part["name"].lower())
        for its_key, part in self._cloud.parts.items():
            if tuple(word.lower() for word in its_key) == (key[0], kind.lower(), key[2]):
                if part.owner:
                    raise state.Refused(400, "InUse", f"'{part.name}' is in use by '{part.owner}'.")
                if part.reserved_until > self._cloud.now():
                    message = f"Nic(s) in request is reserved for another Virtual Machine for 180 seconds: {part.name}"
                    raise state.Refused(400, "NicReservedForAnotherVm", message)
                self._cloud.remove_part(its_key)
                return wire.Answer(202)
        return wire.Answer(204)

    # -- what there is to buy ------------------------------------------------------------------------------------------

    def skus(self, caller: Caller, struck: builtins.list[Fault]) -> wire.Answer:
        found = re.fullmatch(r"location eq '([^']+)'", caller.query.get("$filter", ""))
        regions = [found[1].lower()] if found else [*self._cloud.regions]
        listed = [
            answers.sku(self._cloud, size, region)
            for region in regions
            if region in self._cloud.regions
            for size in self._cloud.sizes.values()
        ]
        return self._page(caller, listed, "ResourceSku")

    def usages(self, caller: Caller, struck: builtins.list[Fault]) -> wire.Answer:
        region = caller.part["region"].lower()
        if region not in self._cloud.regions:
            raise state.Refused(400, "NoRegisteredProviderFound", f"No registered provider for '{region}'.")
        return self._page(caller, answers.usages(self._cloud, region), "Usage")

    def versions(self, caller: Caller, struck: builtins.list[Fault]) -> wire.Answer:
        image = judge.image(self._cloud, caller.part)
        region = caller.part["region"]
        listed = [{"name": version, "location": region, "id": caller.request.path} for version in image.versions]
        for one in listed:
            self._validated(one, "VirtualMachineImageResource")
        return answers.json_answer(200, listed)

    def version(self, caller: Caller, struck: builtins.list[Fault]) -> wire.Answer:
        image = judge.image(self._cloud, caller.part)
        if caller.part["version"] not in image.versions:
            raise state.Refused(404, "ImageVersionNotFound", f"There is no version {caller.part['version']}.")
        body = answers.image(image, caller.part["version"], caller.part["region"])
        return self._told(200, body, "VirtualMachineImage")

    # -- everything else ---------------------------------------------------------------------------------------------

    def permissions(self, caller: Caller, struck: builtins.list[Fault]) -> wire.Answer:
        self._group(caller.part["group"])
        granted = {"actions": list(caller.who.actions), "notActions": list(caller.who.not_actions)}
        return self._page(caller, [granted], "")

    def events(self, caller: Caller, struck: builtins.list[Fault]) -> wire.Answer:
        wanted = re.search(r"resourceUri eq '([^']+)'", caller.query.get("$filter", ""))
        if wanted is None or "eventTimestamp ge" not in caller.query["$filter"]:
            raise state.Refused(400, "BadRequest", "The $filter needs eventTimestamp.")
        seen = [
            {key: value for key, value in event.items() if key != "at"}
            for event in self._cloud.activity
            if event["resourceId"].lower() == wanted[1].lower()
            and event["at"] + self._cloud.activity_lag <= self._cloud.now()
        ]
        return self._page(caller, seen, "")

    def subscription(self, caller: Caller, struck: builtins.list[Fault]) -> wire.Answer:
        body = {"subscriptionId": self._cloud.subscription, "state": self._cloud.subscription_state}
        return answers.json_answer(200, body)

    def group(self, caller: Caller, struck: builtins.list[Fault]) -> wire.Answer:
        self._group(caller.part["group"])
        where = self._cloud.groups[caller.part["group"].lower()]
        return answers.json_answer(200, {"id": caller.request.path, "location": where})

    def terms(self, caller: Caller, struck: builtins.list[Fault]) -> wire.Answer:
        plan = (caller.part["publisher"], caller.part["offer"], caller.part["plan"])
        return answers.json_answer(200, {"properties": {"accepted": plan in self._cloud.accepted}})

    def assign(self, caller: Caller, struck: builtins.list[Fault]) -> wire.Answer:
        properties = (caller.body or {}).get("properties") or {}
        if not properties.get("roleDefinitionId") or not properties.get("principalId"):
            raise state.Refused(400, "BadRequest", "roleDefinitionId and principalId are required.")
        key = caller.request.path.lower()
        if key in self._cloud.roles:
            raise state.Refused(409, "RoleAssignmentExists", "The role assignment already exists.")
        self._cloud.roles[key] = {"id": caller.request.path, "properties": dict(properties)}
        return answers.json_answer(201, self._cloud.roles[key])

    def unassign(self, caller: Caller, struck: builtins.list[Fault]) -> wire.Answer:
        found = self._cloud.roles.pop(caller.request.path.lower(), None)
        return answers.json_answer(200, found) if found else wire.Answer(204)

    def assignments(self, caller: Caller, struck: builtins.list[Fault]) -> wire.Answer:
        self._group(caller.part["group"])
        prefix = caller.request.path.lower().partition("/providers/")[0]
        listed = [role for key, role in self._cloud.roles.items() if key.startswith(prefix)]
        return self._page(caller, listed, "")

    def resource(self, caller: Caller, struck: builtins.list[Fault]) -> wire.Answer:
        where = self._cloud.resources.get(caller.request.path.lower())
        if where is None:
            raise answers.missing(caller.request.path, caller.part["group"])
        # A subnet has no location of its own.
        place = {} if "/subnets/" in caller.request.path.lower() else {"location": where}
        return answers.json_answer(200, {"id": caller.request.path, **place})

    # -- answers -----------------------------------------------------------------------------------------------------

    def _told(self, status: int, body: Any, model: str, headers: Mapping[str, str] | None = None) -> wire.Answer:
        self._validated(body, model)
        return answers.json_answer(status, body, headers)

    def _validated(self, body: Any, model: str) -> None:
        problems = schema.response_problems(body, model) if model else []
        if problems:
            raise AssertionError(f"the simulation answers what Azure cannot: {problems}")

    def _page(self, caller: Caller, items: builtins.list[dict[str, Any]], model: str) -> wire.Answer:
        for one in items:
            self._validated(one, model)
        start = int(caller.query.get("$skiptoken", "0"))
        body: dict[str, Any] = {"value": items[start : start + _PAGE]}
        if start + _PAGE < len(items):
            query = {**caller.query, "$skiptoken": str(start + _PAGE)}
            words = "&".join(f"{quote(key, safe='$')}={quote(value)}" for key, value in query.items())
            body["nextLink"] = f"{caller.base}{caller.request.path}?{words}"
        return answers.json_answer(200, body)

    # -- signing in, and the metadata service ------------------------------------------------------------------------

    def _sign_in(self, request: wire.Request) -> wire.Answer:
        """Entra's token endpoint for a client with a secret."""
        form = dict(parse_qsl(request.body.decode()))
        tenant = request.path.split("/")[1]
        secret = self._cloud.applications.get((tenant, form.get("client_id", "")))
        if secret is None or form.get("client_secret") != secret:
            code = (
                "AADSTS7000215: Invalid client secret provided." if secret else "AADSTS700016: Application not found."
            )
            body = {"error": "invalid_client" if secret else "unauthorized_client", "error_description": code}
            self._cloud.calls.append(("token", "401"))
            return answers.json_answer(401 if secret else 400, body)
        self._cloud.calls.append(("token", "200"))
        token = self._cloud.token(self._cloud.daemon)
        return answers.json_answer(200, {"token_type": "Bearer", "expires_in": 3599, "access_token": token})

    def as_guest(self, one: state.Instance, request: wire.Request) -> wire.Answer:
        """The instance metadata service, where the path is one of its; else what everybody sees."""
        if not request.path.startswith("/metadata/"):
            return self.handle(request)
        if request.header("Metadata").lower() != "true":
            return answers.json_answer(400, {"error": "Bad request. Required metadata header not specified"})
        if request.path == "/metadata/instance/compute/resourceId":
            return wire.Answer(200, {"Content-Type": "text/plain"}, self._cloud.id_of(one).encode())
        if request.path == "/metadata/identity/oauth2/token":
            return self._identity_token(one, request.query)
        return wire.Answer(404)

    def _identity_token(self, one: state.Instance, query: Mapping[str, str]) -> wire.Answer:
        identity = one.body.get("identity") or {}
        wanted = query.get("msi_res_id", "")
        if identity.get("type") == "SystemAssigned" and not wanted:
            assigned = any(
                key.startswith(self._cloud.id_of(one).lower() + "/")
                and role["properties"]["principalId"] == one.principal
                for key, role in self._cloud.roles.items()
            )
            actions = ("Microsoft.Compute/virtualMachines/delete",) if assigned else ()
            mine = self._cloud.id_of(one)
            who = state.Principal("machine", one.principal, actions, resource=mine, scope=mine)
        elif wanted and wanted in (identity.get("userAssignedIdentities") or {}):
            actions = ("Microsoft.Compute/virtualMachines/delete",)
            who = state.Principal("identity", f"oid-of-{wanted.rpartition('/')[2]}", actions, resource=wanted)
        else:
            return answers.json_answer(400, {"error": "invalid_request", "error_description": "Identity not found"})
        return answers.json_answer(200, {"access_token": self._cloud.token(who), "expires_in": "86399"})


def _json(request: wire.Request) -> Any:
    if not request.body:
        return None
    try:
        return json.loads(request.body)
    except ValueError:
        raise state.Refused(400, "InvalidRequestContent", "The request content was invalid JSON.") from None


def _network_kind(word: str) -> str:
    return "networkInterfaces" if word.lower() == "networkinterfaces" else "publicIPAddresses"
