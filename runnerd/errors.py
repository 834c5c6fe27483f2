"""Every error that runnerd raises on purpose.

::

    RunnerdError
    ├── ConfigInvalid            the configuration cannot be used; lists every problem with its place
    ├── SecretMissing            a secret is not where its reference says
    ├── ListenFailed             an address of `listen` cannot be used
    ├── StoreError
    │   ├── StoreBusy            another daemon holds this state
    │   ├── StoreUnwritable      the state directory or database refuses writes
    │   └── IllegalTransition    a transition that the life-cycle table does not have
    ├── TransportError           an HTTP exchange without a usable answer
    ├── ForgeError               a forge answered no
    │   ├── ForgeUnavailable     it cannot serve now (5xx, outage, HTML instead of JSON)
    │   ├── ForgeThrottled       a rate limit is reached
    │   ├── ForgeAuthFailed      it rejects the credential
    │   ├── ForgeForbidden       the credential lacks a permission
    │   ├── ForgeNotFound        the object does not exist
    │   └── ForgeConflict        it has something that contradicts the request
    └── Refused                  a caller (agent, webhook, admin) may not do that

The class docstring is the message when none is given; causes are chained with ``raise ... from``.
``ProvisionError`` lives in :mod:`provisioners.base`, because provisioners import nothing from runnerd.
"""

from __future__ import annotations

from dataclasses import dataclass


class RunnerdError(Exception):
    """runnerd could not do what was asked."""

    def __init__(self, message: str = "") -> None:
        super().__init__(message or (type(self).__doc__ or "").strip())


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong in a configuration file."""

    #: The file as the operator named it.
    file: str
    #: Line and column, from 1; 0 when the place is unknown.
    line: int
    column: int
    #: Dotted key path, for example ``pools.gpu-t4.idle``.
    path: str
    #: What is wrong and what to do.
    message: str
    #: The nearest valid word, if one is near.
    nearest: str | None = None

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        hint = f'; did you mean "{self.nearest}"?' if self.nearest else ""
        where = f" {self.path}:" if self.path else ""
        return f"{place}:{where} {self.message}{hint}"


class ConfigInvalid(RunnerdError):
    """The configuration cannot be used."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = problems
        super().__init__("\n".join(str(problem) for problem in problems))


class SecretMissing(RunnerdError):
    """A secret is not where its reference says."""


class ListenFailed(RunnerdError):
    """An address of `listen` cannot be used."""


class StoreError(RunnerdError):
    """The durable state could not be read or written."""


class StoreBusy(StoreError):
    """Another runnerd uses this state; stop it first, or give this one a state directory of its own."""


class StoreUnwritable(StoreError):
    """The state cannot be written; free space or correct the permissions; runnerd changes nothing meanwhile."""


class IllegalTransition(StoreError):
    """The life-cycle table has no such transition."""


class TransportError(RunnerdError):
    """No usable answer came.

    ``maybe_applied`` is False only when it is certain that the request never reached the server.
    """

    def __init__(self, message: str = "", *, maybe_applied: bool = True) -> None:
        super().__init__(message)
        self.maybe_applied = maybe_applied


class ForgeError(RunnerdError):
    """The forge answered no."""

    def __init__(self, message: str = "", *, status: int = 0, maybe_created: bool = False) -> None:
        super().__init__(message)
        #: HTTP status, 0 when there was none.
        self.status = status
        #: True when the requested object may exist all the same; resolve by name before another request.
        self.maybe_created = maybe_created


class ForgeUnavailable(ForgeError):
    """The forge cannot serve now; the same request may pass later."""


class ForgeThrottled(ForgeError):
    """A rate limit of the forge is reached."""

    def __init__(self, message: str = "", *, status: int = 429, retry_after: float = 60.0) -> None:
        super().__init__(message, status=status)
        #: Seconds until the next request.
        self.retry_after = retry_after


class ForgeAuthFailed(ForgeError):
    """The forge does not accept the credential; check that it exists, is not expired and not revoked."""


class ForgeForbidden(ForgeError):
    """The credential lacks a permission."""


class ForgeNotFound(ForgeError):
    """The forge does not have that."""


class ForgeConflict(ForgeError):
    """The forge holds something that contradicts the request."""


class Refused(RunnerdError):
    """The caller may not have that."""

    def __init__(self, message: str = "", *, status: int = 403) -> None:
        super().__init__(message)
        #: The HTTP status of the answer.
        self.status = status
