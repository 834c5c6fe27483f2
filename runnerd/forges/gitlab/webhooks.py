"""Deliveries of GitLab's webhooks: authenticated, freed of repeats, and reduced to the job that they name.

A Job Hook does not hold the job's own tags (``runner.tags`` are the runner's), so it can only say which job to poll.
Nothing here asks GitLab or decides about demand.
"""

from __future__ import annotations

import base64
import binascii
import collections
import hashlib
import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from provisioners.support import numbers
from runnerd import errors
from runnerd.forges import fields
from runnerd.kit import clock as clocks

#: Longest delivery that is read, in bytes.  GitLab sends up to 25 MB; a Job Hook has a few kB.
MAX_BODY = 1024 * 1024
#: Seconds by which the time of a signed delivery may differ from ours (Standard Webhooks).
TOLERANCE_S = 300.0
#: Deliveries kept in memory, to drop repeats.
DELIVERIES_KEPT = 4096


@dataclass(frozen=True, slots=True)
class JobHint:
    """A job that has changed, as a delivery reports it."""

    project: int
    #: Full path of its project; empty when not reported.
    repo: str
    job: int
    status: str
    runner: int
    #: The job's own tags, if GitLab comes to send them (MR !140760); None while it does not.
    tags: tuple[str, ...] | None


class Deliveries:
    """Authenticates the deliveries of one forge."""

    def __init__(
        self,
        *,
        token: Callable[[], str] | None,
        signing: Callable[[], str] | None,
        clock: clocks.Clock,
    ) -> None:
        self._token = token
        self._signing = signing
        self._clock = clock
        self._seen: collections.OrderedDict[str, None] = collections.OrderedDict()

    def take(self, headers: Mapping[str, str], body: bytes) -> JobHint | None:
        """Return the job that a delivery names; None for one that is genuine but irrelevant, or a repeat.

        Raises :class:`errors.Refused` with the HTTP status to answer.
        """
        if len(body) > MAX_BODY:
            raise errors.Refused("the delivery is larger than any Job Hook", status=413)
        self._authenticate(headers, body)
        try:
            data = numbers.loads(body)
        except (ValueError, RecursionError) as error:
            raise errors.Refused("the delivery is not JSON", status=400) from error
        if not isinstance(data, dict):
            raise errors.Refused("the delivery is not a JSON object", status=400)
        hint = _read(data)
        if hint is None:
            return None
        key = headers.get("idempotency-key") or headers.get("webhook-id") or ""
        if key and self._repeated(key):
            return None
        return hint

    def _authenticate(self, headers: Mapping[str, str], body: bytes) -> None:
        if self._token is None and self._signing is None:
            raise errors.Refused("no webhook_token or signing_token is configured for this forge", status=403)
        signature = headers.get("webhook-signature")
        if signature is not None:
            # A signature must match: falling back to the plain token would let a sender strip it to a weaker proof.
            if self._signing is None or not self._signed(signature, headers, body):
                raise errors.Refused("the signature does not match", status=401)
            return
        given = headers.get("x-gitlab-token", "")
        if self._token is None or not hmac.compare_digest(given.encode(), self._token().encode()):
            raise errors.Refused("the X-Gitlab-Token does not match", status=401)

    def _signed(self, signature: str, headers: Mapping[str, str], body: bytes) -> bool:
        """Check a signature of Standard Webhooks: HMAC-SHA256 over id, timestamp and raw body, in ``v1,`` values."""
        id_, stamp = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
        sent = numbers.whole(stamp)
        if not id_ or not stamp.isdigit() or sent is None:
            return False
        if abs(self._clock.wall() - sent) > TOLERANCE_S:
            return False
        assert self._signing is not None
        try:
            key = base64.b64decode(self._signing().removeprefix("whsec_"), validate=False)
        except (binascii.Error, ValueError):
            return False
        wanted = base64.b64encode(hmac.new(key, f"{id_}.{stamp}.".encode() + body, hashlib.sha256).digest())
        fits = False
        for value in signature.split():
            version, _, given = value.partition(",")
            # Every value is compared, so that the time taken does not reveal which one was near.
            fits |= version == "v1" and hmac.compare_digest(given.encode(), wanted)
        return fits

    def _repeated(self, key: str) -> bool:
        if key in self._seen:
            return True
        self._seen[key] = None
        if len(self._seen) > DELIVERIES_KEPT:
            self._seen.popitem(last=False)
        return False


def _read(data: Mapping[str, Any]) -> JobHint | None:
    """Return the job of a Job Hook; None for any other event and for one without its ids."""
    if data.get("object_kind") != "build":
        return None
    project, job = fields.positive_id(data.get("project_id")), fields.positive_id(data.get("build_id"))
    if not project or not job:
        return None
    tags = data.get("tag_list", data.get("tags"))
    return JobHint(
        project=project,
        repo=fields.text(fields.mapping(data.get("project")).get("path_with_namespace")),
        job=job,
        status=fields.text(data.get("build_status")),
        runner=fields.positive_id(fields.mapping(data.get("runner")).get("id")),
        tags=fields.texts(tags) if isinstance(tags, list) else None,
    )
