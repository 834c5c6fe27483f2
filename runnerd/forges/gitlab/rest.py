"""GitLab's REST API: paced requests, pages, and errors that a person can act on.

A request is sent once: callers are level-triggered and come again, and a repeated POST would create a second runner.
The token goes to the configured address only, even when a ``Link`` header names another.
"""

from __future__ import annotations

import json
import random
import re
import string
import urllib.parse
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

from runnerd import errors
from runnerd.forges.gitlab import rate_limits
from runnerd.kit import clock as clocks
from runnerd.kit import http

Query = Sequence[tuple[str, str]]
#: Keyset paging (doc/api/rest): "strongly recommended" for jobs, and stable while rows come and go.
KEYSET: Query = (("pagination", "keyset"), ("per_page", "100"), ("order_by", "id"), ("sort", "asc"))
#: A listing with more pages is taken for a circle.
MOST_PAGES = 2000
#: Seconds for which a token is used before its file is read again.
TOKEN_KEPT_S = 60.0

_SECRET = re.compile(r"\b(?:gl[a-z]{2,8}-|whsec_)[A-Za-z0-9_.\-+/=]{6,}")
#: One entry of a Link header; its address may hold commas.
_LINK = re.compile(r"<([^<>]*)>([^<]*)")
#: Advice for people, by status.
_REMEDIES: Mapping[int, str] = {
    400: "",
    401: "Check that the token exists, is not expired and not revoked.",
    403: "Give the token the scopes api and create_runner, and its user the role Owner (groups) or Maintainer"
    " (projects).",
    404: "Check the path, and that the token's user may see it: GitLab answers 404 for what a user may not see.",
    429: "Lower requests_per_minute, or raise the limit in GitLab.",
}


class Rest:
    """Requests to one GitLab."""

    def __init__(
        self,
        name: str,
        url: str,
        token: Callable[[], str],
        *,
        clock: clocks.Clock,
        transport: http.Transport,
        rng: random.Random,
        per_minute: int,
        on_request: Callable[[str, int], None] | None = None,
    ) -> None:
        self._name = name
        self._base = url.rstrip("/") + "/api/v4"
        self._read_token = token
        self._token: tuple[str, float] | None = None
        self._clock = clock
        self._transport = transport
        self._on_request = on_request
        self.pace = rate_limits.Pace(name, per_minute, clock=clock, rng=rng)
        #: GitLab's clock and our steady time when it was read.
        self.server_date: tuple[float, float] | None = None

    @property
    def name(self) -> str:
        """The forge's name in the configuration."""
        return self._name

    def server_now(self) -> float:
        """Return the time by GitLab's clock, as its answers report it; our steady time before the first."""
        if self.server_date is None:
            return self._clock.now()
        date, read_at = self.server_date
        return date + self._clock.now() - read_at

    async def call(
        self,
        method: str,
        template: str,
        *,
        what: str,
        path: Mapping[str, str | int] | None = None,
        query: Query = (),
        body: Mapping[str, Any] | None = None,
        urgency: rate_limits.Urgency = rate_limits.Urgency.FOREGROUND,
        anonymous: bool = False,
        prepaid: bool = False,
    ) -> http.Response:
        """Send one request and return its answer below 300.

        ``template`` is the path with ``{names}``, filled from ``path``; it also names the endpoint in metrics.
        ``what`` is the operation as an infinitive, for errors.  ``anonymous`` leaves the token out, for a body that
        carries a runner's own.  ``prepaid`` means that the caller has waited for its turn.

        Raises :class:`errors.ForgeError` by status; ``maybe_created`` when a POST may have been applied.
        """
        return await self._send(
            method,
            self._base + _fill(template, path or {}) + _query(query),
            template,
            what=what,
            body=body,
            urgency=None if prepaid else urgency,
            anonymous=anonymous,
        )

    async def get(
        self,
        template: str,
        *,
        what: str,
        path: Mapping[str, str | int] | None = None,
        query: Query = (),
        urgency: rate_limits.Urgency = rate_limits.Urgency.FOREGROUND,
        prepaid: bool = False,
    ) -> Mapping[str, Any]:
        """GET one JSON object.  Raises :class:`errors.ForgeError`, also when the answer is not an object."""
        answer = await self.call("GET", template, what=what, path=path, query=query, urgency=urgency, prepaid=prepaid)
        return self.object(answer, what)

    def object(self, answer: http.Response, what: str) -> Mapping[str, Any]:
        """Return the JSON object of an answer.  Raises :class:`errors.ForgeUnavailable`."""
        data = self._json(answer, what)
        if not isinstance(data, dict):
            raise errors.ForgeUnavailable(
                f"{self._name}: {what}: the answer is not a JSON object", status=answer.status, maybe_created=True
            )
        return data

    def array(self, answer: http.Response, what: str) -> list[Mapping[str, Any]]:
        """Return the JSON list of objects of an answer; else refuse it as a whole, since a gap could hide a job.

        Raises :class:`errors.ForgeUnavailable`.
        """
        data = self._json(answer, what)
        if not isinstance(data, list) or not all(isinstance(row, dict) for row in data):
            raise errors.ForgeUnavailable(
                f"{self._name}: {what}: the answer is not a list of JSON objects", status=answer.status
            )
        return data

    async def pages(
        self,
        template: str,
        *,
        what: str,
        path: Mapping[str, str | int] | None = None,
        query: Query = (),
        urgency: rate_limits.Urgency = rate_limits.Urgency.FOREGROUND,
        prepaid: bool = False,
    ) -> AsyncIterator[list[Mapping[str, Any]]]:
        """GET a list page by page, following ``Link: rel="next"`` as it is.

        Ends normally only after the last page: a failure in the middle raises, so that no part is taken for the whole.
        """
        url = self._base + _fill(template, path or {}) + _query(query)
        visited: set[str] = set()
        while url:
            if url in visited or len(visited) >= MOST_PAGES:
                raise errors.ForgeUnavailable(f"{self._name}: {what}: the pages of the answer go in circles")
            paid = prepaid and not visited
            visited.add(url)
            answer = await self._send("GET", url, template, what=what, body=None, urgency=None if paid else urgency)
            yield self.array(answer, what)
            url = self._next(answer)

    async def rows(
        self,
        template: str,
        *,
        what: str,
        path: Mapping[str, str | int] | None = None,
        query: Query = (("per_page", "100"),),
        urgency: rate_limits.Urgency = rate_limits.Urgency.FOREGROUND,
    ) -> list[Mapping[str, Any]]:
        """Return all rows of a list.  Raises :class:`errors.ForgeError` if any page is missing."""
        pages = self.pages(template, what=what, path=path, query=query, urgency=urgency)
        return [row async for page in pages for row in page]

    async def _send(
        self,
        method: str,
        url: str,
        template: str,
        *,
        what: str,
        body: Mapping[str, Any] | None,
        urgency: rate_limits.Urgency | None,
        anonymous: bool = False,
    ) -> http.Response:
        if urgency is not None:
            await self.pace.turn(urgency)
        headers = {"Accept": "application/json"}
        if not anonymous:
            headers["PRIVATE-TOKEN"] = self._secret()
        data = None
        if body is not None:
            headers["Content-Type"] = "application/json"
            data = json.dumps(body, separators=(",", ":")).encode()
        sent_at = self._clock.now()
        try:
            answer = await self._transport.send(http.Request(method, url, headers, data))
        except errors.TransportError as error:
            self.pace.failed()
            self._count(method, template, 0)
            raise errors.ForgeUnavailable(
                f"{self._name}: {what}: {self._masked(str(error))}",
                maybe_created=method == "POST" and error.maybe_applied,
            ) from error
        self._count(method, template, answer.status)
        date = answer.date()
        if date is not None:
            # The server most likely read its clock half way between request and answer.
            self.server_date = (date, (sent_at + self._clock.now()) / 2)
        if answer.status < 300:
            self.pace.answered(answer.headers, date)
            return answer
        raise self._refusal(method, answer, what, date)

    def _refusal(self, method: str, answer: http.Response, what: str, date: float | None) -> errors.ForgeError:
        status = answer.status
        request = answer.headers.get("x-request-id", "")
        detail = self._masked(_detail(answer))
        place = f" (request {request})" if request else ""
        remedy = _REMEDIES.get(status, "runnerd retries." if status >= 500 else "")
        if 300 <= status < 400:
            remedy = "It has moved: use its present path, and the address that GitLab itself uses."
        message = f"{self._name}: {what}: GitLab answered {status}{detail}{place}. {remedy}".rstrip()
        if status == 429:
            seconds = rate_limits.requested_backoff(answer.headers, date, self._clock.wall())
            self.pace.hold(seconds)
            return errors.ForgeThrottled(message, retry_after=seconds)
        if status == 408 or status >= 500:
            self.pace.failed()
            return errors.ForgeUnavailable(message, status=status, maybe_created=method == "POST")
        if status == 401:
            # Read the token again, but back off: servers lock out an address after many refused log-ins.
            self._token = None
            self.pace.failed()
            return errors.ForgeAuthFailed(message, status=status)
        self.pace.answered(answer.headers, date)
        if status == 403:
            return errors.ForgeForbidden(message, status=status)
        if status in (404, 410):
            return errors.ForgeNotFound(message, status=status)
        if status == 409:
            return errors.ForgeConflict(message, status=status)
        return errors.ForgeError(message, status=status)

    def _json(self, answer: http.Response, what: str) -> Any:
        try:
            return answer.json()
        except errors.ForgeError as error:
            self.pace.failed()
            raise errors.ForgeUnavailable(
                f"{self._name}: {what}: {error}. Is there a proxy or a log-in page in front of GitLab?",
                status=answer.status,
                maybe_created=True,
            ) from error

    def _next(self, answer: http.Response) -> str:
        """Return the address of the next page; empty after the last."""
        entries: list[tuple[str, str]] = _LINK.findall(answer.headers.get("link", ""))
        for address, attributes in entries:
            if 'rel="next"' in attributes:
                ours, theirs = urllib.parse.urlsplit(self._base), urllib.parse.urlsplit(address)
                if (ours.scheme, ours.netloc) == (theirs.scheme, theirs.netloc):
                    return address
                # Another host never gets the token; a GitLab that does not know its own address still pages.
                return urllib.parse.urlunsplit((ours.scheme, ours.netloc, theirs.path, theirs.query, ""))
        return ""

    def _secret(self) -> str:
        now = self._clock.now()
        if self._token is None or now - self._token[1] > TOKEN_KEPT_S:
            try:
                self._token = (self._read_token(), now)
            except errors.SecretMissing as error:
                raise errors.ForgeAuthFailed(f"{self._name}: {error}") from error
        return self._token[0]

    def _masked(self, text: str) -> str:
        if self._token and self._token[0]:
            text = text.replace(self._token[0], "***")
        return _SECRET.sub("***", text)

    def _count(self, method: str, template: str, status: int) -> None:
        if self._on_request:
            self._on_request(f"{method} {template}", status)


def _fill(template: str, path: Mapping[str, str | int]) -> str:
    names = [name for _, name, _, _ in string.Formatter().parse(template) if name]
    return template.format(**{name: urllib.parse.quote(str(path[name]), safe="") for name in names})


def _query(query: Query) -> str:
    return "?" + urllib.parse.urlencode(list(query), safe="[]") if query else ""


def _detail(answer: http.Response) -> str:
    """Return the server's own message about a refusal, shortened, on one line."""
    try:
        data = answer.json()
    except errors.ForgeError:
        return "" if answer.body.lstrip().startswith(b"<") else _short(answer.body.decode("utf-8", "replace"))
    if isinstance(data, dict):
        return _short(data.get("message") or data.get("error_description") or data.get("error") or "")
    return _short(data)


def _short(message: Any) -> str:
    text = message if isinstance(message, str) else json.dumps(message)
    text = " ".join(text.split())[:200].rstrip(".")
    return f": {text}" if text and text not in ("null", '""') else ""
