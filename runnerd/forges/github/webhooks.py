"""Deliveries of GitHub's webhook: authenticated, then taken as a hint.

Nothing depends on a delivery, since GitHub does not repeat failed ones, loses some, and orders none.  It only makes
runnerd poll sooner.  The signature is checked over the raw bytes before anything of them is parsed.
"""

from __future__ import annotations

import hashlib
import hmac
import urllib.parse
from collections.abc import Callable, Mapping
from typing import Any

from provisioners.support import numbers
from runnerd import errors
from runnerd.forges import base, fields
from runnerd.kit import secrets

#: Deliveries and jobs kept in memory, to drop repeated and late ones.
KEPT = 10_000
_RANKS = {"waiting": 0, "queued": 1, "in_progress": 2, "completed": 3}


def signature(secret: str, body: bytes) -> str:
    """Return the value of ``X-Hub-Signature-256``."""
    return "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


class Webhooks:
    """Takes deliveries of one forge.

    ``on_job(repo, labels, action)`` is called for each new one; it returns False when no pool has such labels.
    """

    def __init__(
        self,
        forge: str,
        secret: secrets.Secret | None,
        *,
        on_job: Callable[[str, tuple[str, ...], str], bool],
    ) -> None:
        self._forge = forge
        self._secret = secret
        self._on_job = on_job
        self._deliveries: dict[str, None] = {}
        self._ranks: dict[int, int] = {}

    def take(self, headers: Mapping[str, str], body: bytes) -> base.WebhookAnswer:
        """Return the answer to one delivery; header names are lower case."""
        if self._secret is None:
            return base.WebhookAnswer(403, f"forge {self._forge} has no webhook_secret, so webhooks are refused")
        try:
            expected = signature(self._secret.reveal(), body)
        except errors.SecretMissing:
            return base.WebhookAnswer(503, "the webhook secret cannot be read")
        given = headers.get("x-hub-signature-256", "")
        if not given:
            return base.WebhookAnswer(401, "the delivery is not signed; set the secret of the webhook")
        if not hmac.compare_digest(expected.encode(), given.encode("utf-8", "replace")):
            return base.WebhookAnswer(401, "the signature does not match")
        event = headers.get("x-github-event", "")
        if event == "ping":
            return base.WebhookAnswer(200, "pong")
        if event != "workflow_job":
            return base.WebhookAnswer(202, "ignored: only workflow_job is used")
        delivery = headers.get("x-github-delivery", "")
        if delivery and delivery in self._deliveries:
            return base.WebhookAnswer(202, "ignored: delivered before")
        try:
            payload = _payload(headers, body)
        except (ValueError, RecursionError):
            return base.WebhookAnswer(400, "the body is not a JSON object")
        answer = self._job(payload)
        if delivery and answer.status < 400:
            self._deliveries[delivery] = None
            if len(self._deliveries) > KEPT:
                del self._deliveries[next(iter(self._deliveries))]
        return answer

    def _job(self, payload: Mapping[str, Any]) -> base.WebhookAnswer:
        job, repository = payload.get("workflow_job"), payload.get("repository")
        action = payload.get("action")
        if not isinstance(job, dict) or not isinstance(repository, dict):
            return base.WebhookAnswer(400, "the delivery holds no job or no repository")
        repo, id = repository.get("full_name"), job.get("id")
        if not isinstance(repo, str) or repo.count("/") != 1 or not isinstance(id, int):
            return base.WebhookAnswer(400, "the delivery names no repository or no job")
        rank = _RANKS.get(str(action))
        if rank is None:
            return base.WebhookAnswer(202, "ignored: unknown action")
        if rank < self._ranks.get(id, -1):
            return base.WebhookAnswer(202, "ignored: late")
        self._ranks.pop(id, None)
        self._ranks[id] = rank
        if len(self._ranks) > KEPT:
            del self._ranks[next(iter(self._ranks))]
        labels = fields.texts(job.get("labels"))
        # Seen empty on completed and skipped jobs (ARC #1370); nothing must read that as "any".
        if not labels:
            return base.WebhookAnswer(202, "ignored: a job without labels")
        if not self._on_job(repo, labels, str(action)):
            return base.WebhookAnswer(202, "ignored: no pool has these labels")
        return base.WebhookAnswer(202, "noted")


def _payload(headers: Mapping[str, str], body: bytes) -> Mapping[str, Any]:
    if headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
        form = urllib.parse.parse_qs(body.decode("utf-8"))
        body = form.get("payload", [""])[0].encode()
    payload = numbers.loads(body)
    if not isinstance(payload, dict):
        raise ValueError("not an object")
    return payload
