"""GitHub's REST API: one credential, its limits, conditional requests, pages.

A GET is repeated a few times; a request that writes is sent once, except where the server has said that it did not
take it (401 with another token at hand, a rate limit that ends soon).
"""

from __future__ import annotations

import asyncio
import collections
import random
import urllib.parse
from collections.abc import Mapping
from typing import Any

from runnerd import errors
from runnerd.forges.github import auth, backoff, failures
from runnerd.forges.github.rate_limits import Limits
from runnerd.forges.github.scope import Scope
from runnerd.forges.github.wire import Wire
from runnerd.kit import http, redaction

#: Requests at one time; GitHub allows 100 over all of a user's programs.
CONCURRENT = 50
#: Answers kept for conditional requests.
ANSWERS_KEPT = 2000
#: Most pages read of one listing; filtered run listings end at 1,000 entries anyway.
PAGES = 100
#: Entries of one page, the most that GitHub allows.
PER_PAGE = 100


class Rest:
    """Requests to ``scope.api`` as one credential."""

    def __init__(self, wire: Wire, scope: Scope, credential: auth.Credential, *, rng: random.Random) -> None:
        self.wire = wire
        self.scope = scope
        self.credential = credential
        self.limits = Limits(wire)
        self._rng = rng
        self._slots = asyncio.Semaphore(CONCURRENT)
        #: ETag and body of conditional answers, by URL.
        self._answers: collections.OrderedDict[str, tuple[str, Any]] = collections.OrderedDict()

    async def call(
        self,
        method: str,
        template: str,
        what: str,
        *,
        path: Mapping[str, str | int] | None = None,
        query: Mapping[str, str | int] | None = None,
        body: Any = None,
        accept: tuple[int, ...] = (200,),
        etag: str = "",
        patience: float = 5.0,
        spare: bool = False,
        remedy: str = "",
    ) -> http.Response:
        """Send a request and return an answer whose status is in ``accept`` (304 too, where an etag is sent).

        ``template`` is the path with ``{names}``, filled from ``path``; ``{scope}`` in it is the owner of the runners.
        ``what`` is the operation as an infinitive and ``remedy`` advice, for errors.  ``spare`` requests leave the
        reserve of the quota alone.  Waits at most ``patience`` seconds for a rate limit, then raises
        :class:`errors.ForgeThrottled`.  Raises other :class:`errors.ForgeError` by status.
        """
        endpoint = template.replace("{scope}", self.scope.template)
        url = self._url(template, path or {}, query)
        delays = backoff.AGAIN if method == "GET" else ()
        tried = 0
        renewed = False
        while True:
            await self._admit(endpoint, method, what, patience=patience, spare=spare)
            token = await self.credential.token()
            headers = {**auth.HEADERS, "Authorization": f"Bearer {token}"}
            if etag:
                headers["If-None-Match"] = etag
            if body is not None:
                headers["Content-Type"] = "application/json"
            try:
                async with self._slots:
                    self.limits.spend(endpoint, method)
                    response = await self.wire.send(endpoint, what, method=method, url=url, headers=headers, body=body)
            except errors.ForgeUnavailable:
                if tried >= len(delays):
                    raise
                await self.wire.clock.sleep(backoff.spread(delays[tried], self._rng))
                tried += 1
                continue
            self.limits.observe(response)
            status = response.status
            if status in accept or (status == 304 and etag):
                return response
            if status == 401 and not renewed and self.credential.forget(token):
                renewed = True
                continue
            wait = self.limits.refused(response)
            if wait is not None:
                if wait <= patience and tried < 2:
                    tried += 1
                    continue
                raise failures.refusal(self.wire.forge, what, response, retry_after=wait, remedy=remedy)
            if status >= 500 and tried < len(delays):
                await self.wire.clock.sleep(backoff.spread(delays[tried], self._rng))
                tried += 1
                continue
            raise failures.refusal(
                self.wire.forge, what, response, remedy=self.credential.remedy if status == 401 else remedy
            )

    async def get(
        self,
        template: str,
        what: str,
        *,
        path: Mapping[str, str | int] | None = None,
        query: Mapping[str, str | int] | None = None,
        conditional: bool = False,
        spare: bool = False,
        patience: float = 5.0,
        remedy: str = "",
    ) -> dict[str, Any]:
        """GET a JSON object.  A conditional one that did not change costs no primary quota and comes from memory.

        The other arguments and the errors are those of :meth:`call`.
        """
        key = self._url(template, path or {}, query) if conditional else ""
        etag, body = self._answers.get(key, ("", None))
        response = await self.call(
            "GET",
            template,
            what,
            path=path,
            query=query,
            etag=etag,
            spare=spare,
            patience=patience,
            remedy=remedy,
        )
        if response.status == 304:
            self._answers.move_to_end(key)
            return body  # type: ignore[no-any-return]  # stored below, from decode()
        body = failures.decode(self.wire.forge, what, response)
        if conditional and (fresh := response.headers.get("etag")):
            self._answers[key] = (fresh, body)
            while len(self._answers) > ANSWERS_KEPT:
                self._answers.popitem(last=False)
        return body

    async def pages(
        self,
        template: str,
        items: str,
        what: str,
        *,
        path: Mapping[str, str | int] | None = None,
        query: Mapping[str, str | int] | None = None,
        conditional: bool = False,
        spare: bool = False,
        patience: float = 5.0,
        remedy: str = "",
    ) -> tuple[list[dict[str, Any]], bool]:
        """Return the entries of a listing, and True when it was read to its end without changing meanwhile.

        ``items`` is the key of the entries.  The other arguments and the errors are those of :meth:`call`.
        """
        entries: list[dict[str, Any]] = []
        for page in range(1, PAGES + 1):
            parameters: dict[str, str | int] = {**(query or {}), "per_page": PER_PAGE}
            if page > 1:
                parameters["page"] = page
            body = await self.get(
                template,
                what,
                path=path,
                query=parameters,
                conditional=conditional,
                spare=spare,
                patience=patience,
                remedy=remedy,
            )
            part = body.get(items)
            if not isinstance(part, list):
                raise errors.ForgeUnavailable(f"{self.wire.forge}: could not {what}: the answer has no {items}")
            entries += [entry for entry in part if isinstance(entry, dict)]
            total = body.get("total_count")
            if len(part) < PER_PAGE:
                return entries, not isinstance(total, int) or len(entries) >= total
            if isinstance(total, int) and len(entries) >= total:
                return entries, True
        return entries, False

    def _url(self, template: str, path: Mapping[str, str | int], query: Mapping[str, str | int] | None) -> str:
        target = template.replace("{scope}", self.scope.path)
        for name, value in path.items():
            # A repository's full name is two path parts.
            safe = "/" if name == "repo" else ""
            target = target.replace("{" + name + "}", urllib.parse.quote(str(value), safe=safe))
        if query:
            target += "?" + urllib.parse.urlencode(query)
        return self.scope.api + target

    async def _admit(self, endpoint: str, method: str, what: str, *, patience: float, spare: bool) -> None:
        waited = 0.0
        while (delay := self.limits.delay(endpoint, method, spare=spare)) > 0:
            if waited + delay > patience:
                raise errors.ForgeThrottled(
                    redaction.redact(
                        f"{self.wire.forge}: did not {what} yet: rate-limited by GitHub; retry in {delay:.0f} s"
                    ),
                    status=0,
                    retry_after=delay,
                )
            await self.wire.clock.sleep(delay)
            waited += delay
