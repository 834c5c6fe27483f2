"""The Actions service: requests about runner scale sets, their sessions and queues, their runners.

GitHub does not document this protocol; the reference is its Go client (actions/scaleset, public preview), and paths,
headers and credentials here follow it.  Requests carry the admin token of :mod:`.connection`, those to a queue the
queue token of its session.  Methods that return a response leave its status to the caller.
"""

from __future__ import annotations

import random
import urllib.parse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypedDict, cast

from runnerd import errors
from runnerd.forges.github import backoff, failures
from runnerd.forges.github.rest.rest import Rest
from runnerd.forges.github.scalesets.connection import Connector, token_end, user_agent
from runnerd.forges.github.wire import Wire
from runnerd.kit import http, redaction

API_VERSION = "6.0-preview"
SETS = "_apis/runtime/runnerscalesets"
AGENTS = "_apis/distributedtask/pools/0/agents"
#: Part of the exception type in the answer for a set that GitHub no longer has.
SET_GONE = "RunnerScaleSetNotFound"
#: GitHub holds the long poll for up to 50 s; a hung connection must not stall the queue for minutes (ARC PR #4473).
POLL_TIMEOUT_S = 80.0


class ScaleSet(TypedDict, total=False):
    """A scale set as the service answers it; no field is validated."""

    id: object
    name: object
    #: List of ``{"type", "name"}``.
    labels: object
    #: Counts, see :class:`.messages.Statistics`.
    statistics: object


class RunnerGroup(TypedDict):
    """A runner group as the service answers it; only the id is validated."""

    id: int
    name: object
    isDefaultGroup: object


class Agent(TypedDict, total=False):
    """A runner as the service answers it; no field is validated."""

    id: object
    name: object
    #: ``online`` or ``offline``.
    status: object
    busy: object


@dataclass(frozen=True, slots=True)
class Session:
    """A message session as the service answers it."""

    id: str
    queue_url: str
    token: str = field(repr=False)
    #: Unix seconds by the server's clock; 0 when the token holds no time.
    expires: float
    statistics: Mapping[str, Any] | None


class Service:
    """The Actions service of one scope."""

    def __init__(self, wire: Wire, rest: Rest, *, rng: random.Random) -> None:
        self.wire = wire
        self.connector = Connector(wire, rest, rng=rng)
        self._rest = rest
        self._rng = rng

    # -- requests --------------------------------------------------------------------------------------------------

    async def request(
        self,
        method: str,
        path: str,
        what: str,
        *,
        endpoint: str,
        query: Mapping[str, str | int] | None = None,
        body: Any = None,
        set_id: int = 0,
        timeout: float = 30.0,
    ) -> http.Response:
        """Send a request with the admin token; repeat it with a new one after 401, which applies nothing.

        Any other status is left to the caller.  Raises :class:`errors.ForgeUnavailable` when no answer came.
        """
        for last in (False, True):
            connection = await self.connector.get()
            parts = urllib.parse.urlsplit(connection.url)
            parameters = urllib.parse.parse_qsl(parts.query, keep_blank_values=True)
            parameters += [(name, str(value)) for name, value in (query or {}).items()]
            if all(name != "api-version" for name, _ in parameters):
                parameters.append(("api-version", API_VERSION))
            url = urllib.parse.urlunsplit(
                parts._replace(path=f"{parts.path.rstrip('/')}/{path}", query=urllib.parse.urlencode(parameters))
            )
            response = await self.wire.send(
                endpoint,
                what,
                method=method,
                url=url,
                headers=self._headers(connection.token, set_id),
                body=body,
                timeout=timeout,
            )
            if response.status != 401:
                return response
            self.connector.forget(connection)
            if last:
                return response
        raise AssertionError("the last try returns")

    async def read(
        self,
        path: str,
        what: str,
        *,
        endpoint: str,
        query: Mapping[str, str | int] | None = None,
        set_id: int = 0,
    ) -> dict[str, Any]:
        """GET a JSON object, with a few retries.  Raises :class:`errors.ForgeError` by status."""
        for delay in (*backoff.AGAIN, None):
            try:
                response = await self.request("GET", path, what, endpoint=endpoint, query=query, set_id=set_id)
                if response.status == 200:
                    return failures.decode(self.wire.forge, what, response)
                if response.status == 204:
                    return {"count": 0, "value": []}
                raise self.refusal(what, response)
            except errors.ForgeUnavailable:
                if delay is None:
                    raise
                await self.wire.clock.sleep(backoff.spread(delay, self._rng))
        raise AssertionError("the last try returns or raises")

    def refusal(self, what: str, response: http.Response, *, remedy: str = "") -> errors.ForgeError:
        """Return the error for an answer that is not a success."""
        if not remedy and response.status in (401, 403):
            scope = self._rest.scope
            remedy = f"it needs {scope.permission(app=self._rest.credential.app)}"
        after = None
        if response.status in (403, 429) and "retry-after" in response.headers:
            after = failures.seconds(response.headers["retry-after"], 60.0)
        return failures.refusal(self.wire.forge, what, response, remedy=remedy, retry_after=after)

    def _headers(self, token: str, set_id: int) -> dict[str, str]:
        return {
            "Authorization": f"Bearer {token}",
            "Content-Type": "application/json",
            "Accept": "application/json",
            "User-Agent": user_agent(set_id),
        }

    # -- runner groups and scale sets ------------------------------------------------------------------------------

    async def group(self, name: str) -> RunnerGroup:
        """Return the runner group of that name.  Raises :class:`errors.ForgeNotFound` with a remedy."""
        what = f'find the runner group "{name}"'
        body = await self.read("_apis/runtime/runnergroups/", what, endpoint="/runnergroups", query={"groupName": name})
        groups = [cast("RunnerGroup", group) for group in values(body) if isinstance(group.get("id"), int)]
        for group in groups:
            if str(group.get("name", "")).lower() == name.lower():
                return group
        if name.lower() == "default":
            for group in groups:
                if group.get("isDefaultGroup"):
                    return group
            # The official clients use this id for the default group without asking.
            return {"id": 1, "name": "Default", "isDefaultGroup": True}
        raise errors.ForgeNotFound(
            f'{self.wire.forge}: there is no runner group "{name}" for {self._rest.scope.name}; create it in the '
            "settings under Actions, Runner groups, or name another",
            status=404,
        )

    async def find_set(self, group: int, name: str) -> ScaleSet | None:
        """Return the scale set of that name in the group, by the group's id; None when there is none."""
        body = await self.read(
            SETS,
            f'find the scale set "{name}"',
            endpoint="/runnerscalesets",
            query={"runnerGroupId": group, "name": name},
        )
        for scale_set in values(body):
            if str(scale_set.get("name", "")).lower() == name.lower():
                return cast("ScaleSet", scale_set)
        return None

    async def get_set(self, set_id: int) -> ScaleSet:
        """Return the scale set.  Raises :class:`errors.ForgeNotFound` when it is gone."""
        body = await self.read(
            f"{SETS}/{set_id}", f"read scale set {set_id}", endpoint="/runnerscalesets/{id}", set_id=set_id
        )
        return cast("ScaleSet", body)

    async def create_set(self, name: str, group: int, labels: Sequence[str]) -> http.Response:
        """Request a new scale set; a name that exists in the group answers 400."""
        return await self.request(
            "POST",
            SETS,
            f'create the scale set "{name}"',
            endpoint="/runnerscalesets",
            body={
                "name": name,
                "runnerGroupId": group,
                "labels": [{"name": label, "type": "System"} for label in labels],
                # An update at boot would cost minutes of GPU time on an instance that lives for one job.
                "RunnerSetting": {"ephemeral": True, "isElastic": True, "disableUpdate": True},
            },
        )

    async def relabel_set(self, set_id: int, name: str, labels: Sequence[str]) -> http.Response:
        """Request other labels; the caller reads back which ones GitHub kept."""
        return await self.request(
            "PATCH",
            f"{SETS}/{set_id}",
            f'change the labels of the scale set "{name}"',
            endpoint="/runnerscalesets/{id}",
            body={"labels": [{"name": label, "type": "System"} for label in labels]},
            set_id=set_id,
        )

    # -- sessions and their queues ---------------------------------------------------------------------------------

    async def open_session(self, set_id: int, owner: str) -> http.Response:
        """Request a session; 409 while another one is open.  ``owner`` is a name for people."""
        return await self.request(
            "POST",
            f"{SETS}/{set_id}/sessions",
            f"open a session for scale set {set_id}",
            endpoint="/runnerscalesets/{id}/sessions",
            body={"ownerName": owner},
            set_id=set_id,
        )

    async def refresh_session(self, set_id: int, session: str) -> http.Response:
        """Request a new queue token for a session, by id."""
        return await self.request(
            "PATCH",
            f"{SETS}/{set_id}/sessions/{session}",
            f"refresh the session of scale set {set_id}",
            endpoint="/runnerscalesets/{id}/sessions/{session}",
            set_id=set_id,
        )

    async def end_session(self, set_id: int, session: str) -> http.Response:
        """Request the end of a session, by id."""
        return await self.request(
            "DELETE",
            f"{SETS}/{set_id}/sessions/{session}",
            f"end the session of scale set {set_id}",
            endpoint="/runnerscalesets/{id}/sessions/{session}",
            set_id=set_id,
            timeout=15.0,
        )

    def session(self, what: str, response: http.Response) -> Session:
        """Return the session of an answer.

        Raises :class:`errors.ForgeUnavailable` for an empty queue address, which is an outage (2026-07-25, ARC #4370).
        """
        body = failures.decode(self.wire.forge, what, response)
        id, url, token = (body.get(name) for name in ("sessionId", "messageQueueUrl", "messageQueueAccessToken"))
        if not (isinstance(id, str) and isinstance(url, str) and isinstance(token, str) and id and url and token):
            raise errors.ForgeUnavailable(
                f"{self.wire.forge}: could not {what}: the answer names no message queue; GitHub has an outage; "
                "runnerd retries"
            )
        redaction.learn(token)
        statistics = body.get("statistics")
        return Session(id, url, token, token_end(token), statistics if isinstance(statistics, dict) else None)

    async def next_message(self, session: Session, set_id: int, *, last: int, capacity: int) -> http.Response:
        """Request the message after ``last``; GitHub holds the request for up to 50 s.

        ``capacity`` is the number of runners that the set may hold, busy ones included; never 0.
        """
        url = with_query(session.queue_url, lastMessageId=last) if last > 0 else session.queue_url
        return await self.wire.send(
            "/messages",
            f"read the queue of scale set {set_id}",
            method="GET",
            url=url,
            headers={
                **self._headers(session.token, set_id),
                "Accept": f"application/json; api-version={API_VERSION}",
                "X-ScaleSetMaxCapacity": str(max(1, capacity)),
            },
            timeout=POLL_TIMEOUT_S,
        )

    async def acknowledge(self, session: Session, set_id: int, message: int) -> http.Response:
        """Delete a message from the queue."""
        return await self.wire.send(
            "/messages/{id}",
            f"acknowledge message {message} of scale set {set_id}",
            method="DELETE",
            url=with_query(session.queue_url, suffix=f"/{message}"),
            headers=self._headers(session.token, set_id),
        )

    async def acquire(self, session: Session, set_id: int, requests: Sequence[int]) -> http.Response:
        """Acquire offered jobs by request id.  The only call besides the queue itself that takes the queue token."""
        connection = await self.connector.get()
        url = with_query(connection.url, suffix=f"/{SETS}/{set_id}/acquirejobs", api_version=API_VERSION)
        return await self.wire.send(
            "/runnerscalesets/{id}/acquirejobs",
            f"acquire {len(requests)} jobs for scale set {set_id}",
            method="POST",
            url=url,
            headers=self._headers(session.token, set_id),
            body=list(requests),
        )

    async def acquirable(self, set_id: int) -> list[dict[str, Any]]:
        """Return the offers that no client has acquired, each with a ``runnerRequestId``."""
        body = await self.read(
            f"{SETS}/{set_id}/acquirablejobs",
            f"list what scale set {set_id} may acquire",
            endpoint="/runnerscalesets/{id}/acquirablejobs",
            set_id=set_id,
        )
        return values(body)

    # -- runners ---------------------------------------------------------------------------------------------------

    async def jit(self, set_id: int, name: str) -> http.Response:
        """Register a runner and request its JIT configuration; 409 for a name that exists."""
        return await self.request(
            "POST",
            f"{SETS}/{set_id}/generatejitconfig",
            f'register the runner "{name}"',
            endpoint="/runnerscalesets/{id}/generatejitconfig",
            body={"name": name, "workFolder": "_work"},
            set_id=set_id,
        )

    async def agents(self, name: str | None = None) -> dict[str, Any]:
        """Return ``{count, value}`` of the runners (:class:`Agent`), all or those of one name."""
        what = "list the runners" if name is None else f'find the runner "{name}"'
        query = None if name is None else {"agentName": name}
        return await self.read(AGENTS, what, endpoint="/agents", query=query)

    async def remove_agent(self, id: str) -> http.Response:
        """Remove a runner by id; 204 also for one that never was, 400 ``JobStillRunning`` for a busy one."""
        return await self.request(
            "DELETE",
            f"{AGENTS}/{urllib.parse.quote(id, safe='')}",
            f"remove runner {id}",
            endpoint="/agents/{id}",
        )


def values(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the objects of a ``{count, value}`` answer."""
    items = body.get("value")
    return [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []


def with_query(url: str, *, suffix: str = "", **extra: str | int) -> str:
    """Return the URL with a path suffix and more parameters; those that it has are kept."""
    parts = urllib.parse.urlsplit(url)
    query = urllib.parse.parse_qsl(parts.query, keep_blank_values=True)
    held = {name for name, _ in query}
    for name, value in extra.items():
        # `api_version` stands for `api-version`, which is no Python name.
        if (name := name.replace("_", "-")) not in held:
            query.append((name, str(value)))
    path = parts.path.rstrip("/") + suffix if suffix else parts.path
    return urllib.parse.urlunsplit(parts._replace(path=path, query=urllib.parse.urlencode(query)))
