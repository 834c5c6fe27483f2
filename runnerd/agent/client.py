"""The agent's side of the protocol with the daemon (docs/agent-protocol.md): one method per request.

Two kinds of errors are raised: :class:`Unreachable`, after which a retry makes sense, and :class:`Refused`, a final
refusal by the daemon.  Nothing is retried here; that is up to the caller.  Redirects are not followed, because they
would send the session to another address.
"""

from __future__ import annotations

import http.client
import json
import random
import ssl
import time
import typing
import urllib.error
import urllib.request
from dataclasses import dataclass, field

from runnerd.agent import strict_json, watchdog

#: The version of the protocol that this agent speaks.
PROTOCOL = 1
#: Time-outs of a request in seconds; the daemon holds a registration open for up to 25.
TIMEOUT_S, REGISTER_TIMEOUT_S = 15.0, 40.0
_ANSWER_LIMIT = 1024 * 1024
#: Statuses by which the daemon itself refuses a request for good.
_FINAL = frozenset({400, 401, 403, 409, 413, 426})


class Unreachable(Exception):
    """The daemon did not answer, or something in between answered instead."""


class Refused(Exception):
    """The daemon refused the request."""

    def __init__(self, message: str, *, status: int) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Welcome:
    """The answer to hello."""

    session: str = field(repr=False)
    instance: str
    #: Seconds between heartbeats.
    heartbeat: float
    #: Required number of GPUs, -1 for no preflight; and their model, empty for any.
    gpus: int
    gpu: str
    limits: watchdog.Limits
    #: The user that runs the runner; empty for the agent's own.
    user: str

    @classmethod
    def read(cls, answer: dict[str, typing.Any]) -> Welcome:
        """Parse the answer to hello.  Raises :class:`Unreachable` when it is malformed."""
        try:
            limits = answer["limits"]
            return cls(
                session=_text(answer["session"]),
                instance=str(answer["instance"]),
                heartbeat=clamp(answer["heartbeat"]),
                gpus=int(answer["gate"]["gpus"]),
                gpu=str(answer["gate"].get("gpu") or ""),
                limits=watchdog.Limits(
                    unclaimed=_seconds(limits["unclaimed"]),
                    unreachable=_seconds(limits["unreachable"]),
                    max_job=_seconds(limits["max_job"]),
                ),
                user=str(answer.get("user") or ""),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise Unreachable(f"the answer to hello is malformed: {error!r}") from error


@dataclass(frozen=True)
class Assignment:
    """The answer to a registration request: wait, end, or run this runner."""

    #: ``wait``, ``end`` or ``run``.
    action: str
    #: Seconds to wait before the next request.
    after: float = 0.0
    reason: str = ""
    #: The runner's name and kind, ``github`` or ``gitlab``.
    name: str = ""
    kind: str = ""
    command: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict, repr=False)

    @classmethod
    def read(cls, answer: dict[str, typing.Any]) -> Assignment:
        """Parse the answer to register.  Raises :class:`Unreachable` when it is malformed."""
        action = answer.get("action")
        try:
            if action == "wait":
                return cls("wait", after=min(60.0, max(0.0, _seconds(answer.get("after", 0.0)))))
            if action == "end":
                return cls("end", reason=str(answer.get("reason", "")))
            if action == "run":
                command = tuple(_text(word) for word in answer["command"])
                if answer["kind"] not in ("github", "gitlab") or not command:
                    raise ValueError("unknown kind of runner, or no command")
                return cls(
                    "run",
                    name=_text(answer["name"]),
                    kind=answer["kind"],
                    command=command,
                    environment={str(key): str(value) for key, value in answer["environment"].items()},
                )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            # The error's message may quote a secret of the environment: only its type is reported.
            raise Unreachable(f"the answer to register is malformed: {type(error).__name__}") from None
        raise Unreachable("the answer to register has no known action")


def clamp(seconds: typing.Any) -> float:
    """Return an interval between heartbeats within sensible bounds."""
    return min(300.0, max(0.02, _seconds(seconds)))


def _seconds(value: typing.Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < 1e15:
        raise ValueError("not a number of seconds")
    return float(value)


def _text(value: typing.Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError("not a string")
    return value


class Backoff:
    """Pauses between retries: doubling, with jitter, up to a limit; reset after a success."""

    def __init__(self, first: float, most: float, rng: random.Random) -> None:
        self._first, self._most, self._rng = first, most, rng
        self._next = first

    def pause(self) -> float:
        """Return the seconds to wait before the next try: between half of the step and all of it."""
        step, self._next = self._next, min(self._most, 2 * self._next)
        return step * self._rng.uniform(0.5, 1.0)

    def reset(self) -> None:
        self._next = self._first


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *given: typing.Any, **more: typing.Any) -> None:
        return None


class Client:
    """Requests to one daemon.  Thread-safe."""

    def __init__(self, url: str, *, ca_file: str = "", timeout: float = TIMEOUT_S) -> None:
        self._url = url + "/agent/v1/"
        self._timeout = timeout
        tls = ssl.create_default_context()
        if ca_file:
            tls.load_verify_locations(cafile=ca_file)
        self._opener = urllib.request.build_opener(_NoRedirect, urllib.request.HTTPSHandler(context=tls))
        #: The session, once there is one.
        self.session = ""

    def hello(self, token: str, nonce: str) -> dict[str, typing.Any]:
        """Exchange the boot token for a session; return the raw answer, for :meth:`Welcome.read`."""
        return self._call("hello", {"protocol": PROTOCOL, "nonce": nonce}, token=token)

    def register(self) -> Assignment:
        """Ask for a runner; held open by the daemon for up to 25 seconds."""
        answer = self._call("register", {"runner_started": False}, timeout=max(self._timeout, REGISTER_TIMEOUT_S))
        return Assignment.read(answer)

    def heartbeat(self, body: dict[str, typing.Any]) -> dict[str, typing.Any]:
        return self._call("heartbeat", body)

    def job(self, event: str, result: str = "") -> None:
        self._call("job", {"event": event, "result": result})

    def failed(self, stage: str, detail: str) -> None:
        self._call("failed", {"stage": stage, "detail": detail})

    def diagnostics(self, text: bytes) -> None:
        self._call("diagnostics", text)

    def _call(
        self, name: str, body: dict[str, typing.Any] | bytes, *, token: str = "", timeout: float = 0.0
    ) -> dict[str, typing.Any]:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(self._url + name, data=data, method="POST")
        request.add_header("Content-Type", "text/plain" if isinstance(body, bytes) else "application/json")
        # Never sent to another host: see the redirect rule above.
        request.add_unredirected_header("Authorization", f"Bearer {token or self.session}")
        timeout = timeout or self._timeout
        deadline = time.monotonic() + timeout
        try:
            with self._opener.open(request, timeout=timeout) as answer:
                text = _read(answer, deadline)
        except urllib.error.HTTPError as error:
            with error:
                self._refuse(name, error)
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = getattr(error, "reason", None) or error
            raise Unreachable(f"{name}: {type(error).__name__}: {reason}") from error
        try:
            read = strict_json.loads(text)
        except ValueError:
            raise Unreachable(f"{name}: the answer is not JSON; another service answers at {self._url}") from None
        if not isinstance(read, dict):
            raise Unreachable(f"{name}: the answer is not an object")
        return read

    def _refuse(self, name: str, error: urllib.error.HTTPError) -> typing.NoReturn:
        try:
            text = error.read(2000).decode("utf-8", "replace")
        except (OSError, http.client.HTTPException):
            text = ""
        try:
            read = strict_json.loads(text)
            text = str(read.get("error") or read.get("message") or text) if isinstance(read, dict) else text
        except ValueError:
            pass
        text = " ".join(text.split())[:300]
        if error.code in _FINAL:
            raise Refused(f"{name}: {error.code} {text}", status=error.code) from None
        raise Unreachable(f"{name}: {error.code} {text}") from None


def _read(answer: typing.Any, deadline: float) -> bytes:
    """Return the body within limits of size and time: a socket time-out alone lets an answer trickle in forever."""
    data = b""
    while chunk := answer.read1(65536):
        data += chunk
        if len(data) > _ANSWER_LIMIT:
            raise ValueError("the answer is too large")
        if time.monotonic() > deadline:
            raise TimeoutError("the answer takes too long")
    return data
