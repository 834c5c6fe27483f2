"""The message session of one scale set: the right to read its queue, kept alive.

A session is opened, renewed before its token expires, opened anew when GitHub has lost it, and ended on shutdown.
While another program holds the set nothing can be done but wait, without a deadline: GitHub lets no client evict a
session.  The one exception is a session that an earlier process of ours left behind, which is ended.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable

from runnerd import errors
from runnerd.forges.github import failures
from runnerd.forges.github.scalesets.service import SET_GONE, Service, Session
from runnerd.kit import http

log = logging.getLogger(__name__)

#: Seconds before it expires at which the queue token is renewed, and by how much that is spread.
RENEW_BEFORE_S = 300.0
RENEW_SPREAD_S = 30.0
#: Part of the exception type in the answer for a session that has ended.
SESSION_EXPIRED = "SessionExpired"


class SetVanished(errors.ForgeNotFound):
    """GitHub no longer has the scale set."""


class SessionHeld(errors.ForgeConflict):
    """Another session reads the queue of the scale set."""


class SessionLost(errors.ForgeUnavailable):
    """GitHub no longer knows the session; a new one continues where it was."""


class MessageSession:
    """Opens, renews and ends the session of one scale set, and reads its queue."""

    def __init__(self, service: Service, *, owner: str, rng: random.Random) -> None:
        self._service = service
        self._owner = owner
        self._renew_before = RENEW_BEFORE_S + rng.uniform(0.0, RENEW_SPREAD_S)
        self._opening: asyncio.Task[None] | None = None
        self.set_id = 0
        self.current: Session | None = None
        #: Id of the session of an earlier process that may still hold the queue.
        self.left_behind = ""

    @property
    def id(self) -> str:
        """The id of the session that holds the queue, or may hold it; empty for none."""
        return self.current.id if self.current is not None else self.left_behind

    async def open(self, set_id: int) -> None:
        """Open a session.  Raises :class:`SessionHeld`, :class:`SetVanished` or another :class:`errors.ForgeError`.

        A cancelled caller does not lose the session: it would stay behind at GitHub and lock us out.
        """
        if self._opening is None or self._opening.done():
            self._opening = asyncio.get_running_loop().create_task(self._open(set_id), name="open session")
            # A waiting caller gets its failure; without one the failure is of no interest.
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
                "cut off has not expired yet; runnerd waits",
                status=409,
            )
        if response.status not in (200, 201):
            raise self._take_refusal(what, response)
        self.current = self._service.session(what, response)
        self.set_id = set_id
        self.left_behind = ""

    async def renew_in_time(self) -> None:
        """Renew the queue token if it expires soon.  Raises what :meth:`renew` raises."""
        session = self.current
        if session is None or not session.expires:
            return
        if session.expires - self._service.wire.server_now() < self._renew_before:
            await self.renew()

    async def renew(self) -> None:
        """Get a new queue token.  Raises :class:`SessionLost` when GitHub has forgotten the session."""
        session = self.current
        if session is None:
            raise SessionLost("the session was lost")
        what = f"refresh the session of scale set {self.set_id}"
        response = await self._service.refresh_session(self.set_id, session.id)
        if response.status == 200:
            self.current = self._service.session(what, response)
            return
        raise self._take_refusal(what, response)

    async def poll(self, *, last: int, capacity: int) -> http.Response:
        """Wait up to 50 s for the message after ``last``; return an answer of 200, or 202 and 204 for no message.

        Raises :class:`errors.ForgeError` for every other status.
        """
        response = await self._send(
            lambda session: self._service.next_message(session, self.set_id, last=last, capacity=capacity)
        )
        if response.status == 200 or response.status in (202, 204):
            return response
        raise self._take_refusal(f"read the queue of scale set {self.set_id}", response)

    async def acknowledge(self, message: int) -> None:
        """Tell GitHub that a message is durable here; one that GitHub no longer has counts as acknowledged."""
        what = f"acknowledge message {message} of scale set {self.set_id}"
        response = await self._send(lambda session: self._service.acknowledge(session, self.set_id, message))
        if response.status in (200, 202, 204):
            return
        error = self._take_refusal(what, response)
        if response.status == 404 and not isinstance(error, SetVanished) and not failures.says(response, "session"):
            return
        raise error

    async def acquire(self, requests: list[int]) -> list[int]:
        """Acquire offered jobs by request id; return the ids that were granted."""
        response = await self._send(lambda session: self._service.acquire(session, self.set_id, requests))
        what = f"acquire jobs for scale set {self.set_id}"
        if response.status != 200:
            raise self._take_refusal(what, response)
        body = failures.decode(self._service.wire.forge, what, response)
        granted = body.get("value")
        return [id for id in granted if isinstance(id, int)] if isinstance(granted, list) else []

    async def end(self) -> None:
        """End the session, so that the next one need not wait.  Raises :class:`errors.ForgeError`."""
        if self._opening is not None and not self._opening.done():
            try:
                await self._opening
            except errors.RunnerdError as error:
                log.debug("the session that was being opened did not open: %s", error)
        session, self.current = self.current, None
        if session is None:
            return
        self.left_behind = session.id
        response = await self._service.end_session(self.set_id, session.id)
        # 404, and 400 "session expired", mean that it is gone already.
        if response.status in (200, 204, 404) or failures.says(response, SESSION_EXPIRED):
            self.left_behind = ""
            return
        raise self._refusal(f"end the session of scale set {self.set_id}", response)

    def reset(self) -> None:
        """Forget the session, which belongs to a set that is gone."""
        self.current = None
        self.left_behind = ""

    async def _send(self, request: Callable[[Session], Awaitable[http.Response]]) -> http.Response:
        """Send a request with the queue token; repeat it once with a new token after 401."""
        if self.current is None:
            raise SessionLost("the session was lost")
        response = await request(self.current)
        if response.status == 401:
            await self.renew()
            response = await request(self.current)
            if response.status == 401:
                self._drop()
                raise SessionLost(
                    f"{self._refusal('use the message queue', response)}; opening a new session", status=401
                )
        return response

    def _take_refusal(self, what: str, response: http.Response) -> errors.ForgeError:
        """Return the error for an answer, after dropping the session if the answer says that it is gone."""
        error = self._refusal(what, response)
        if failures.says(response, SET_GONE):
            self.current = None
            return SetVanished(str(error), status=response.status)
        lost = response.status in (404, 410) or failures.says(response, SESSION_EXPIRED)
        if lost and self.current is not None:
            self._drop()
            return SessionLost(f"{error}; opening a new session", status=response.status)
        if response.status == 404:
            # There is no session of ours, so the set itself is gone.
            return SetVanished(str(error), status=404)
        return error

    def _drop(self) -> None:
        if self.current is not None:
            self.left_behind = self.current.id
        self.current = None

    def _refusal(self, what: str, response: http.Response) -> errors.ForgeError:
        return self._service.refusal(what, response)
