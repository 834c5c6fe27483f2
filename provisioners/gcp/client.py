"""The SDK's clients, made when first needed: one set of credentials, one endpoint, retries off.

This is the seam: a test hands in clients whose transport answers in process (``adapter``).  The transports are made by
hand for two reasons.  The SDK's own would sign a token per API with the key, where one access token from the token
endpoint serves all of them and goes through ``credentials`` that impersonate, too; and what an insert returns in the
SDK polls at the default endpoint in place of the configured one.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

import google.auth
import requests
from google.api_core import exceptions
from google.auth import credentials as credentials_
from google.auth import impersonated_credentials
from google.auth.transport.requests import AuthorizedSession
from google.cloud import compute_v1
from google.oauth2 import service_account

from provisioners import base
from provisioners.gcp import settings as settings_

_C = TypeVar("_C")

#: Seconds for any one call; a create that takes longer has an unclear outcome and is looked up.
TIMEOUT_S = 10.0
#: Seconds for the insert alone: the longer it is waited for, the fewer outcomes are unclear.
INSERT_TIMEOUT_S = 60.0

#: Connections that each client keeps open at most; more are made and dropped.
CONNECTIONS = 48


def _no_secrets(reference: str) -> str:
    raise ValueError(f"{reference}: secrets cannot be read here")


class Clients:
    """Clients of Compute Engine and a session for the few other calls.  Safe to use from several threads."""

    def __init__(
        self,
        settings: settings_.Settings,
        *,
        secret: Callable[[str], str] = _no_secrets,
        credentials: credentials_.Credentials | None = None,
        adapter: requests.adapters.BaseAdapter | None = None,
    ) -> None:
        self._settings = settings
        self._secret = secret
        self._adapter = adapter
        self._credentials = credentials
        self._made: dict[str, Any] = {}
        self._sessions: list[AuthorizedSession] = []
        self._lock = threading.RLock()

    @property
    def instances(self) -> compute_v1.InstancesClient:
        return self._client(compute_v1.InstancesClient)

    @property
    def operations(self) -> compute_v1.ZoneOperationsClient:
        return self._client(compute_v1.ZoneOperationsClient)

    @property
    def disks(self) -> compute_v1.DisksClient:
        return self._client(compute_v1.DisksClient)

    @property
    def addresses(self) -> compute_v1.AddressesClient:
        return self._client(compute_v1.AddressesClient)

    @property
    def images(self) -> compute_v1.ImagesClient:
        return self._client(compute_v1.ImagesClient)

    @property
    def machine_types(self) -> compute_v1.MachineTypesClient:
        return self._client(compute_v1.MachineTypesClient)

    @property
    def accelerator_types(self) -> compute_v1.AcceleratorTypesClient:
        return self._client(compute_v1.AcceleratorTypesClient)

    @property
    def regions(self) -> compute_v1.RegionsClient:
        return self._client(compute_v1.RegionsClient)

    @property
    def projects(self) -> compute_v1.ProjectsClient:
        return self._client(compute_v1.ProjectsClient)

    @property
    def networks(self) -> compute_v1.NetworksClient:
        return self._client(compute_v1.NetworksClient)

    @property
    def subnetworks(self) -> compute_v1.SubnetworksClient:
        return self._client(compute_v1.SubnetworksClient)

    def post(self, url: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """POST to a Google API that has no client here; raises what the SDK's clients raise."""
        response = self._session().post(url, json=body, timeout=TIMEOUT_S)
        return self._answer(response)

    def fetch(self, url: str) -> dict[str, Any]:
        """GET from a Google API that has no client here; raises what the SDK's clients raise."""
        return self._answer(self._session().get(url, timeout=TIMEOUT_S))

    @staticmethod
    def _answer(response: requests.Response) -> dict[str, Any]:
        if response.status_code >= 400:
            raise exceptions.from_http_response(response)  # type: ignore[no-untyped-call]  # it has no types
        found = response.json()
        return found if isinstance(found, dict) else {}

    def close(self) -> None:
        """Close every connection; a later call opens new ones."""
        with self._lock:
            sessions, self._sessions = self._sessions, []
            self._made.clear()
        for session in sessions:
            session.close()  # type: ignore[no-untyped-call]  # it has no types

    def _client(self, kind: type[_C]) -> _C:
        with self._lock:
            found = self._made.get(kind.__name__)
            if found is None:
                made: Any = kind
                transport = made.get_transport_class("rest")(
                    host=self._settings.endpoint, credentials=self._ready(), always_use_jwt_access=False
                )
                self._mount(transport._session)
                found = self._made[kind.__name__] = made(transport=transport)
            return cast(_C, found)

    def _session(self) -> AuthorizedSession:
        with self._lock:
            found = self._made.get("session")
            if found is None:
                found = self._made["session"] = AuthorizedSession(self._ready())  # type: ignore[no-untyped-call]  # it has no types
                self._mount(found)
            assert isinstance(found, AuthorizedSession)
            return found

    def _mount(self, session: AuthorizedSession) -> None:
        self._sessions.append(session)
        adapter = self._adapter or requests.adapters.HTTPAdapter(pool_maxsize=CONNECTIONS)
        tokens = session._auth_request_session
        for one in (session, tokens):
            if one is None or (one is tokens and self._adapter is None):
                continue
            one.mount("https://", adapter)
            one.mount("http://", adapter)
        if self._settings.ca:
            for one in (session, tokens):
                if one is not None:
                    one.verify = self._settings.ca

    def _ready(self) -> credentials_.Credentials:
        """The credentials, found or read once.  Raises :class:`base.ProvisionError` in plain words."""
        if self._credentials is None:
            self._credentials = self._found()
        return self._credentials

    def _found(self) -> credentials_.Credentials:
        scopes = [settings_.CLOUD_PLATFORM]
        source: credentials_.Credentials
        if self._settings.credentials:
            try:
                key = json.loads(self._secret(self._settings.credentials))
                source = service_account.Credentials.from_service_account_info(  # type: ignore[no-untyped-call]  # it has no types
                    key, scopes=scopes
                )
            except (ValueError, AttributeError) as error:
                # The library's message may quote the key: it is not repeated.
                problem = str(error) if not isinstance(error, json.JSONDecodeError) else "it is not JSON"
                raise base.ProvisionError(
                    base.Kind.AUTH,
                    f"the key in {self._settings.credentials} cannot be used: {_brief(problem)}",
                    code="InvalidKey",
                ) from None
        else:
            source, _ = google.auth.default(scopes=scopes)
        if self._settings.impersonate:
            source = impersonated_credentials.Credentials(  # type: ignore[no-untyped-call]  # it has no types
                source_credentials=source,
                target_principal=self._settings.impersonate,
                target_scopes=scopes,
            )
        return source


def _brief(text: str) -> str:
    """Without anything that could be key material."""
    return text if len(text) < 200 and "PRIVATE" not in text else "it is not a service account's key file"
