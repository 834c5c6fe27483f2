"""Tokens and permissions: an OAuth token endpoint for service accounts, and what each call needs."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.clouds import wire
from tests.clouds.gcp import refusals

#: What a method needs, where its name does not tell.
NEEDS = {
    "compute.instances.insert": ("compute.instances.create", "compute.disks.create", "compute.subnetworks.use"),
    "compute.instances.aggregatedList": ("compute.instances.list",),
    "compute.disks.aggregatedList": ("compute.disks.list",),
    "compute.addresses.aggregatedList": ("compute.addresses.list",),
    "compute.images.getFromFamily": (),
    "compute.images.get": (),
}
_HOUR = 3600.0


@dataclass(slots=True)
class Directory:
    """Keys, tokens and permissions."""

    now: Callable[[], float]
    random: random.Random
    #: Refuse calls without a token from here.
    strict: bool = False
    #: Permissions that nobody has.
    denied: set[str] = field(default_factory=set)
    #: Service accounts that instances may be given, and those of which the caller may not.
    service_accounts: set[str] = field(default_factory=set)
    not_usable: set[str] = field(default_factory=set)
    _keys: dict[str, Any] = field(default_factory=dict)
    #: Token -> (account, when it expires).
    _tokens: dict[str, tuple[str, float]] = field(default_factory=dict)

    def key(self, email: str, *, token_uri: str, project: str) -> dict[str, str]:
        """A new key file of a service account."""
        private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self._keys[email] = private.public_key()
        pem = private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return {
            "type": "service_account",
            "project_id": project,
            "private_key_id": f"{self.random.getrandbits(64):x}",
            "private_key": pem.decode(),
            "client_email": email,
            "client_id": "1",
            "token_uri": token_uri,
        }

    def revoke(self, email: str) -> None:
        """The account's keys are worthless from now on, and its tokens."""
        self._keys.pop(email, None)
        self._tokens = {token: one for token, one in self._tokens.items() if one[0] != email}

    def token(self, request: wire.Request) -> wire.Answer:
        """``POST /token`` with a signed assertion (RFC 7523)."""
        form = {name: values[0] for name, values in parse_qs(request.body.decode()).items()}
        assertion = form.get("assertion", "")
        try:
            claims = jwt.decode(assertion, options={"verify_signature": False})
            email = str(claims["iss"])
            # The simulated clock is not the one that signed; whether it is expired is not looked at.
            jwt.decode(
                assertion,
                self._keys[email],
                algorithms=["RS256"],
                options={"verify_aud": False, "verify_exp": False, "verify_iat": False},
            )
        except (jwt.PyJWTError, KeyError):
            return refusals.told({"error": "invalid_grant", "error_description": "Invalid JWT Signature."}, 400)
        if not claims.get("scope"):
            return refusals.told({"error": "invalid_scope", "error_description": "Empty scope."}, 400)
        token = f"ya29.{self.random.getrandbits(128):x}"
        self._tokens[token] = (email, self.now() + _HOUR)
        return refusals.told({"access_token": token, "expires_in": int(_HOUR), "token_type": "Bearer"})

    def user(self, request: wire.Request) -> str:
        """Return the caller.  Raises :class:`refusals.Refused` where there is none."""
        token = request.header("Authorization").removeprefix("Bearer ")
        email, until = self._tokens.get(token, ("", 0.0))
        if email and self.now() < until:
            return email
        if self.strict:
            message = "Request had invalid authentication credentials. Expected OAuth 2 access token."
            raise refusals.Refused("authError", message)
        return "runnerd@acme-ml.iam.gserviceaccount.com"

    def allow(self, method: str, resource: str) -> None:
        """Raise :class:`refusals.Refused` for a call that is not permitted."""
        for permission in NEEDS.get(method, (method,)):
            if permission in self.denied:
                raise refusals.Refused("forbidden", f"Required '{permission}' permission for '{resource}'")
