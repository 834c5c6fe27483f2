"""Credentials of instances, derived instead of stored.

Each is a MAC over what it stands for, keyed by one configured secret, so a create call can be repeated byte for byte
and a dump of the database holds nothing that opens anything.  The *boot token* travels in user-data and is worth one
exchange; the *session* is what the agent gets for it, bound to the agent's nonce.
"""

from __future__ import annotations

import hashlib
import hmac
import re

from runnerd.model import AttemptKey

_FORM = re.compile(r"(rb1|rs1)\.([a-z0-9-]{1,64})(?:\.([A-Za-z0-9_-]{8,128}))?\.([0-9a-f]{64})")


class Tokens:
    """Makes and reads the credentials of one controller."""

    def __init__(self, key: bytes) -> None:
        if len(key) < 16:
            raise ValueError("the secret that instance tokens derive from needs at least 16 bytes")
        self._key = key

    def _mac(self, purpose: str, *parts: str) -> str:
        text = "\0".join((purpose, *parts)).encode()
        return hmac.new(self._key, text, hashlib.sha256).hexdigest()

    def boot(self, attempt: AttemptKey) -> str:
        """Return the one token in an instance's user-data; worthless once exchanged."""
        return f"rb1.{attempt}.{self._mac('boot', attempt)}"

    def session(self, attempt: AttemptKey, nonce: str) -> str:
        """Return the credential that an agent holds after the exchange."""
        return f"rs1.{attempt}.{nonce}.{self._mac('session', attempt, nonce)}"

    def read_boot(self, token: str) -> AttemptKey | None:
        """Return the attempt that a boot token belongs to; None when it is not one of ours."""
        found = _FORM.fullmatch(token)
        if found is None or found[1] != "rb1" or found[3] is not None:
            return None
        if not hmac.compare_digest(found[4], self._mac("boot", found[2])):
            return None
        return AttemptKey(found[2])

    def read_session(self, token: str) -> tuple[AttemptKey, str] | None:
        """Return the attempt and nonce of a session; None when it is not one of ours."""
        found = _FORM.fullmatch(token)
        if found is None or found[1] != "rs1" or found[3] is None:
            return None
        if not hmac.compare_digest(found[4], self._mac("session", found[2], found[3])):
            return None
        return AttemptKey(found[2]), found[3]
