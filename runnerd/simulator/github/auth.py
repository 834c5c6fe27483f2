"""The caller of a request: tokens of people, of Apps and of jobs, and the three credentials of the Actions service.

Every refusal has the status and words of the real service. The App's key pair is made at start; nothing here can be
used anywhere else.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from runnerd.simulator import http, world
from runnerd.simulator.github import state

#: id and client id of the App that is installed on every owner
APP_ID = 123456
CLIENT_ID = "Iv1.00000000000simul"
PAT = "ghp_simulated0000000000000000000000000000"
#: a token that may comment and read, but not administer runners
READER = "ghp_simulatedreader00000000000000000000000"
_TEST_KEY: list[rsa.RSAPrivateKey] = []


@dataclasses.dataclass(frozen=True, slots=True)
class Principal:
    """An authenticated caller of the REST API."""

    #: "pat", "installation", "job" or "app"
    kind: str
    user: str
    token: str
    scopes: tuple[str, ...] = ()
    #: quota is counted under this name: all tokens of a person share it
    account: str = ""
    extra: dict[str, Any] = dataclasses.field(default_factory=dict)


def _app_key() -> rsa.RSAPrivateKey:
    """One key per process: making one takes longer than most tests."""
    if not _TEST_KEY:
        _TEST_KEY.append(rsa.generate_private_key(public_exponent=65537, key_size=2048))
    return _TEST_KEY[0]


class Auth:
    """Checks and mints credentials."""

    def __init__(self, tables: state.State) -> None:
        self._state = tables
        self._world = tables.world
        self._signing = tables.world.hex(64)
        #: installation id by owner, and back
        self.installations: dict[str, int] = {}
        #: registration token -> (scope, expiry)
        self.registration: dict[str, tuple[str, float]] = {}
        #: admin token -> (scope, expiry)
        self.admin: dict[str, tuple[str, float]] = {}
        #: queue token -> (session id, scale set id, expiry)
        self.queue: dict[str, tuple[str, int, float]] = {}
        for value, user, scopes in (
            (PAT, "octocat", ("repo", "admin:org", "admin:org_hook", "manage_runners:enterprise")),
            (READER, "reader", ("repo:status", "public_repo")),
        ):
            self._world.tokens[value] = world.Token(value, "github", "pat", user, scopes)

    @property
    def app_key_pem(self) -> str:
        """The App's private key, to be given to clients."""
        return (
            _app_key()
            .private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.TraditionalOpenSSL,
                serialization.NoEncryption(),
            )
            .decode()
        )

    def installation_of(self, owner: str) -> int:
        """The App's installation on an owner (it is installed everywhere)."""
        if owner not in self.installations:
            self.installations[owner] = self._world.next_id("github-installation", 51_000_001)
        return self.installations[owner]

    # REST

    def principal(self, request: http.Request) -> Principal:
        """Return the caller of a request, or a 401 refusal."""
        scheme, _, value = request.header("authorization").partition(" ")
        value = value.strip()
        if not value:
            raise state.refuse(401, "Requires authentication")
        if scheme.lower() not in ("token", "bearer"):
            raise state.refuse(401, "Bad credentials")
        token = self._world.tokens.get(value)
        if token is None and value.count(".") == 2 and not value.startswith("gh"):
            return self.app(value)
        if token is None or token.forge != "github" or token.revoked:
            raise state.refuse(401, "Bad credentials")
        if token.expires_at is not None and token.expires_at <= self._world.now():
            raise state.refuse(401, "Bad credentials")
        account = f"user {token.user}" if token.kind == "pat" else f"{token.kind} {token.extra.get('account', value)}"
        return Principal(token.kind, token.user, value, token.scopes, account, token.extra)

    def app(self, value: str) -> Principal:
        """An App by its JWT: RS256, issued not in the future, living at most ten minutes."""
        refusal = "A JSON web token could not be decoded"
        try:
            claims = jwt.decode(
                value,
                _app_key().public_key(),
                algorithms=["RS256"],
                options={"verify_exp": False, "verify_iat": False, "verify_nbf": False, "verify_aud": False},
            )
        except jwt.PyJWTError:
            raise state.refuse(401, refusal) from None
        now = self._world.now()
        issued, expires = claims.get("iat"), claims.get("exp")
        if not isinstance(issued, int | float) or not isinstance(expires, int | float):
            raise state.refuse(401, "Missing 'exp' or 'iat' claim in assertion")
        if expires <= now:
            raise state.refuse(
                401,
                "'Expiration time' claim ('exp') must be a numeric value representing the future time at which the "
                "assertion expires",
            )
        if expires > now + 600 or expires - issued > 660:
            raise state.refuse(401, "'Expiration time' claim ('exp') is too far in the future")
        if issued > now:
            raise state.refuse(
                401,
                "'Issued at' claim ('iat') must be an Integer representing the time that the assertion was issued",
            )
        if str(claims.get("iss")) not in (str(APP_ID), CLIENT_ID):
            raise state.refuse(404, "Integration not found")
        return Principal("app", "runnerd[bot]", value, (), f"app {APP_ID}")

    def mint_installation(self, installation_id: int) -> world.Token:
        """A token for an installation, or a 404 refusal."""
        owner = next((name for name, id in self.installations.items() if id == installation_id), None)
        if owner is None:
            raise state.refuse(404, "Not Found")
        # The form of 2026: prefix, App id and a JSON web token; clients must treat it as opaque.
        payload = jwt.encode({"jti": self._world.uuid(), "iid": installation_id}, self._signing, "HS256")
        token = world.Token(
            f"ghs_{APP_ID}_{payload}{self._world.secret(300)}",
            "github",
            "installation",
            "runnerd[bot]",
            (),
            self._world.now() + self._state.options.installation_token_ttl,
            extra={"account": installation_id, "owner": owner},
        )
        self._world.tokens[token.value] = token
        return token

    def mint_job_token(self, repo: str, job_id: int) -> str:
        """The GITHUB_TOKEN of a job; it dies with the job."""
        value = "ghs_" + self._world.secret(36)
        self._world.tokens[value] = world.Token(
            value,
            "github",
            "job",
            "github-actions[bot]",
            (),
            self._world.now() + 86_400,
            extra={"account": repo, "repo": repo, "job": job_id},
        )
        return value

    def require_runner_admin(self, principal: Principal, scope: str) -> None:
        """Refuse who may not administer runners of a scope; an owner outside the installation is not found."""
        if principal.kind == "app":
            raise state.refuse(401, "A JSON web token could not be decoded")
        if principal.kind == "job" or (principal.kind == "installation" and scope.startswith("enterprises/")):
            raise state.refuse(403, "Resource not accessible by integration")
        if principal.kind == "installation":
            if str(principal.extra.get("owner", "")).lower() != scope.split("/")[0].lower():
                raise state.refuse(404, "Not Found")
            return
        wanted = (
            "manage_runners:enterprise"
            if scope.startswith("enterprises/")
            else ("repo" if "/" in scope else "admin:org")
        )
        if wanted not in principal.scopes:
            raise state.refuse(403, "Must have admin rights to Repository.")

    # Actions service

    def mint_registration(self, scope: str) -> tuple[str, float]:
        value = "A" + self._world.secret(28).upper()
        expires = self._world.now() + self._state.options.registration_token_ttl
        self.registration[value] = (scope, expires)
        return value, expires

    def registration_scope(self, request: http.Request) -> str:
        """The scope of a registration token sent as `RemoteAuth`, or a 401/403 refusal."""
        scheme, _, value = request.header("authorization").partition(" ")
        if scheme != "RemoteAuth":
            raise state.refuse(401, "Bad credentials")
        found = self.registration.get(value.strip())
        if found is None:
            raise state.refuse(404, "Not Found")
        if found[1] <= self._world.now():
            raise state.refuse(401, "Token expired.")
        return found[0]

    def mint_admin(self, scope: str) -> str:
        expires = self._world.now() + self._state.options.admin_token_ttl
        value = self._encode({"scope": scope}, expires)
        self._prune(self.admin, 1)
        self.admin[value] = (scope, expires)
        return value

    def mint_queue(self, session_id: str, set_id: int) -> str:
        expires = self._world.now() + self._state.options.queue_token_ttl
        value = self._encode({"sid": session_id}, expires)
        self._prune(self.queue, 2)
        self.queue[value] = (session_id, set_id, expires)
        return value

    def bearer(self, request: http.Request) -> str:
        scheme, _, value = request.header("authorization").partition(" ")
        return value.strip() if scheme == "Bearer" else ""

    def revoke(self, request: http.Request) -> None:
        """Revoke the credential that a request carries, of every kind."""
        value = request.header("authorization").partition(" ")[2].strip()
        token = self._world.tokens.get(value)
        if token is not None:
            token.revoked = True
        for table in (self.registration, self.admin, self.queue):
            table.pop(value, None)

    def _encode(self, claims: dict[str, Any], expires: float) -> str:
        now = self._world.now()
        # `exp` is read by clients without verification, so it must be true in world time.
        return jwt.encode(
            {**claims, "jti": self._world.uuid(), "nbf": int(now), "iat": int(now), "exp": int(expires)},
            self._signing,
            "HS256",
        )

    def _prune(self, table: dict[str, Any], index: int) -> None:
        if len(table) > 1000:
            now = self._world.now()
            for value in [key for key, entry in table.items() if entry[index] <= now]:
                del table[value]
