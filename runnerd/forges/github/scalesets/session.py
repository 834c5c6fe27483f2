"""The session of one scale set: the right to read its queue, kept alive.

A session is opened, renewed before its token ends, made anew in place when GitHub has lost it, and ended on the way
out.  While somebody else holds the set nothing can be done but wait (GitHub lets nobody evict a session), so waiting
has no deadline here.  The one thing that is done is to end a session that we ourselves left behind.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable

from runnerd import errors
from runnerd.forges.github import failures
from runnerd.forges.github.scalesets import scaleset
from runnerd.kit import http

log = logging.getLogger(__name__)

#: Seconds before its end at which the queue token is renewed, and by how much that is spread.
RENEW = 300.0
SPREAD = 30.0

SET_GONE = "RunnerScaleSetNotFound"
EXPIRED = "SessionExpired"


class SetVanished(errors.ForgeNotFound):
    """GitHub no longer has the scale set."""


class SessionHeld(errors.ForgeConflict):
    """Another session reads the queue of the scale set."""


class SessionLost(errors.ForgeUnavailable):
    """GitHub no longer knows the session; a new one goes on where it was."""


class Mailbox:
    """Reads the queue of one scale set."""

    def __init__(self, service: scaleset.Service, *, owner: str, rng: random.Random) -> None:
        self._service = service
        self._owner = owner
        self._rng = rng
        self._spread = rng.uniform(0.0, SPREAD)
        self._opening: asyncio.Task[None] | None = None
        self.set_id = 0
        self.session: scaleset.Session | None = None
        #: The session of an earlier life that may still hold the queue.
        self.left_behind = ""

    @property
    def held(self) -> bool:
        return self.session is not None

    async def open(self, set_id: int) -> None:
        """Open a session.  Raises :class:`SessionHeld`, :class:`SetVanished` or another :class:`errors.ForgeError`.

        A cancelled caller does not lose the session: it would stay behind at GitHub and lock us out.
        """
        if self._opening is None or self._opening.done():
            self._opening = asyncio.get_running_loop().create_task(self._open(set_id), name="open session")
            # Its failure is told to whoever waits; when nobody does any more, it is not news.
            self._opening.add_done_callback(lambda task: task.cancelled() or task.exception())
        await asyncio.shield(self._opening)

    async def _open(self, set_id: int) -> None:
        what = f"open a session for scale set {set_id}"
        response = await self._service.open_session(set_id, self._owner)
        if response.status == 409 and self.left_behind:
            left, self.left_behind = self.left_behind, ""
            ended = await self._service.end_session(set_id, left)
            log.info("%s: ended our own earlier session (%s)", what, ended.status)
            response = await self._service.open_session(set_id, self._owner)
        if response.status == 409:
            raise SessionHeld(
                f"{self._refusal(what, response)}; another program listens on this scale set, or a session that was "
                "cut off has not run out yet; runnerd waits",
                status=409,
            )
        if response.status not in (200, 201):
            raise self._judge(what, response)
        self.session = self._service.session(what, response)
        self.set_id = set_id
        self.left_behind = ""

    async def keep(self) -> None:
        """Renew the queue token in time."""
        session = self.session
        if session is None or not session.expires:
            return
        if session.expires - self._service.wire.server_now() < RENEW + self._spread:
            await self.renew()

    async def renew(self) -> None:
        """Get a new queue token.  Raises :class:`SessionLost` when GitHub has forgotten the session."""
        session = self.session
        if session is None:
            raise SessionLost("the session was lost")
        what = f"refresh the session of scale set {self.set_id}"
        response = await self._service.refresh_session(self.set_id, session.id)
        if response.status == 200:
            self.session = self._service.session(what, response)
            return
        raise self._judge(what, response)

    async def poll(self, *, last: int, capacity: int) -> http.Response:
        """Wait for a message: an answer of 200 or 202.  Raises :class:`errors.ForgeError` for the rest."""
        response = await self._send(
            lambda session: self._service.next_message(session, self.set_id, last=last, capacity=capacity)
        )
        if response.status == 200 or response.status in (202, 204):
            return response
        raise self._judge(f"read the queue of scale set {self.set_id}", response)

    async def acknowledge(self, message: int) -> None:
        """Tell GitHub that a message is durable here.  A message that is gone already is as good."""
        what = f"acknowledge message {message} of scale set {self.set_id}"
        response = await self._send(lambda session: self._service.acknowledge(session, self.set_id, message))
        if response.status in (200, 202, 204):
            return
        error = self._judge(what, response)
        if response.status == 404 and not isinstance(error, SetVanished) and not failures.says(response, "session"):
            return
        raise error

    async def acquire(self, jobs: list[int]) -> list[int]:
        """Take offered jobs; the ones that were granted."""
        response = await self._send(lambda session: self._service.acquire(session, self.set_id, jobs))
        what = f"acquire jobs for scale set {self.set_id}"
        if response.status != 200:
            raise self._judge(what, response)
        body = failures.decode(self._service.wire.forge, what, response)
        granted = body.get("value")
        return [id for id in granted if isinstance(id, int)] if isinstance(granted, list) else []

    async def end(self) -> None:
        """Give the queue back, so that the next session need not wait.  Raises :class:`errors.ForgeError`."""
        if self._opening is not None and not self._opening.done():
            try:
                await self._opening
            except errors.RunnerdError as error:
                log.debug("the session that was being opened did not open: %s", error)
        session, self.session = self.session, None
        if session is None:
            return
        self.left_behind = session.id
        response = await self._service.end_session(self.set_id, session.id)
        # 404, and 400 "session expired", say that it is gone, which is what was wanted.
        if response.status in (200, 204, 404) or failures.says(response, EXPIRED):
            self.left_behind = ""
            return
        raise self._refusal(f"end the session of scale set {self.set_id}", response)

    async def _send(self, ask: Callable[[scaleset.Session], Awaitable[http.Response]]) -> http.Response:
        """One request with the queue token; once more with a new one after 401."""
        if self.session is None:
            raise SessionLost("the session was lost")
        response = await ask(self.session)
        if response.status == 401:
            await self.renew()
            response = await ask(self.session)
            if response.status == 401:
                self._drop()
                raise SessionLost(
                    f"{self._refusal('use the message queue', response)}; opening a new session", status=401
                )
        return response

    def _judge(self, what: str, response: http.Response) -> errors.ForgeError:
        """The error for an answer, after doing what it means for the session."""
        error = self._refusal(what, response)
        if failures.says(response, SET_GONE):
            self.session = None
            return SetVanished(str(error), status=response.status)
        lost = response.status in (404, 410) or failures.says(response, EXPIRED)
        if lost and self.session is not None:
            self._drop()
            return SessionLost(f"{error}; opening a new session", status=response.status)
        if response.status == 404:
            # Nothing of ours is there: the set itself.
            return SetVanished(str(error), status=404)
        return error

    def _drop(self) -> None:
        if self.session is not None:
            self.left_behind = self.session.id
        self.session = None

    def _refusal(self, what: str, response: http.Response) -> errors.ForgeError:
        return self._service.refusal(what, response)
