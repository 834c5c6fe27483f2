"""Errors that a person can act on, from the answers of GitHub that are no success.

Every message names the forge, the operation, the status, GitHub's own message, the ids that its support asks for, and
a remedy.  Bodies are shortened and masked: a server may echo what it was sent.
"""

from __future__ import annotations

import codecs
import http as status_names
from typing import Any

from provisioners.support import numbers
from runnerd import errors
from runnerd.kit import http, redaction

#: Characters of a server's own message that are quoted.
QUOTED = 300


def error_of(response: http.Response) -> tuple[str, str]:
    """Return the exception type (Actions service) and the message of an error body; either may be empty."""
    text = response.body.removeprefix(codecs.BOM_UTF8).strip()
    if not text:
        return "", ""
    if text[:1] == b"<":
        return "", "an HTML page"
    try:
        body = numbers.loads(text)
    except ValueError:
        return "", _short(text.decode("utf-8", "replace"))
    if not isinstance(body, dict):
        return "", _short(str(body))
    kind = str(body.get("typeName") or "")
    message = str(body.get("message") or "")
    details = body.get("errors")
    if isinstance(details, list) and details:
        message += " " + "; ".join(
            str(item.get("message", item)) if isinstance(item, dict) else str(item) for item in details[:3]
        )
    return kind, _short(message)


def says(response: http.Response, *names: str) -> bool:
    """Return True when the error's type or message contains one of the names; case does not count."""
    text = " ".join(error_of(response)).lower()
    return any(name.lower() in text for name in names)


def refusal(
    forge: str, what: str, response: http.Response, *, remedy: str = "", retry_after: float | None = None
) -> errors.ForgeError:
    """Return the error for an answer that is not a success.

    ``what`` is the operation as an infinitive ("list the runners"), ``remedy`` advice for people, ``retry_after`` the
    seconds to wait where the caller knows them.  A 5xx and a redirect have ``maybe_created``.
    """
    status = response.status
    kind, message = error_of(response)
    try:
        phrase = f"{status} {status_names.HTTPStatus(status).phrase}"
    except ValueError:
        phrase = str(status)
    detail = ": ".join(part for part in (kind.split(",", 1)[0].rsplit(".", 1)[-1], message) if part)
    text = f"{forge}: could not {what}: {phrase}"
    if detail:
        text += f": {detail}"
    ids = [
        f"{name} {response.headers[name.lower()]}"
        for name in ("ActivityId", "X-GitHub-Request-Id")
        if response.headers.get(name.lower())
    ]
    if ids:
        text += f" ({', '.join(ids)})"
    if remedy:
        text += f"; {remedy}"
    text = redaction.redact(text)
    if retry_after is not None or status == 429:
        wait = retry_after if retry_after is not None else seconds(response.headers.get("retry-after"), 60.0)
        return errors.ForgeThrottled(text, status=status, retry_after=wait)
    if status == 401:
        return errors.ForgeAuthFailed(text, status=status)
    if status == 403:
        return errors.ForgeForbidden(text, status=status)
    if status == 404:
        return errors.ForgeNotFound(text, status=status)
    if status == 409:
        return errors.ForgeConflict(text, status=status)
    if status >= 500:
        # A gateway may answer for a server that did the work all the same.
        return errors.ForgeUnavailable(text, status=status, maybe_created=True)
    if status < 400:
        return errors.ForgeUnavailable(text, status=status, maybe_created=True)
    return errors.ForgeError(text, status=status)


def decode(forge: str, what: str, response: http.Response) -> dict[str, Any]:
    """Return the JSON object of a success.

    Raises :class:`errors.ForgeUnavailable` for HTML, an empty body, or JSON that is no object.
    """
    try:
        body = response.json()
    except errors.ForgeUnavailable as error:
        raise errors.ForgeUnavailable(
            f"{forge}: could not {what}: {error}; is there a proxy or an outage?",
            status=response.status,
            maybe_created=True,
        ) from error
    if not isinstance(body, dict):
        raise errors.ForgeUnavailable(
            f"{forge}: could not {what}: expected a JSON object, got {type(body).__name__}",
            status=response.status,
            maybe_created=True,
        )
    return body


def seconds(header: str | None, default: float) -> float:
    """Return a ``Retry-After`` in seconds; the default when it is absent or no number."""
    value = numbers.real(header)
    return default if value is None else value


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= QUOTED else line[: QUOTED - 1] + "…"
