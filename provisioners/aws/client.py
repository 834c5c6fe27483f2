"""Makes SDK clients: credentials, endpoints, time-outs.  The seam where tests put a cloud of their own.

The SDK repeats nothing by itself: an answer that says "not here" would cost it five tries, and a request that was
throttled would be sent on while everybody else waits.
"""

from __future__ import annotations

import datetime
import functools
import gzip
import json
import os
import threading
from collections.abc import Callable
from typing import Any

import boto3.session
import botocore.config
import botocore.credentials
import botocore.exceptions
import botocore.loaders
import botocore.session

from provisioners import base
from provisioners.aws.settings import Settings

#: Called with each prepared request; returns the response in its place, raises, or returns None to let it go out.
Transport = Callable[[Any], Any]

_CONNECT, _READ = 5.0, 60.0
#: Connections kept to one service in one region; as many calls run at once.
WIDTH = 8
#: Seconds for which an assumed role's credentials are asked for.
_ROLE_SECONDS = 3600
#: The region whose STS and Pricing endpoints are used where no region is configured.
_HOME = "us-east-1"


class _Lean(botocore.loaders.JSONFileLoader):  # type: ignore[misc]  # botocore has no types
    """Reads the SDK's descriptions without their prose, which is a third of what they take in memory."""

    def load_file(self, file_path: str) -> Any:
        for ending, opener in ((".json", open), (".json.gz", gzip.open)):
            if os.path.isfile(file_path + ending):
                with opener(file_path + ending, "rb") as file:
                    return json.loads(file.read(), object_pairs_hook=_without_prose)
        return None


def _without_prose(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A map of a description; something may be *called* documentation, and is then no text."""
    return {key: value for key, value in pairs if key != "documentation" or not isinstance(value, str)}


@functools.cache
def _descriptions() -> botocore.loaders.Loader:
    """The SDK's descriptions of services, read once for all providers."""
    return botocore.loaders.Loader(file_loader=_Lean(), include_default_search_paths=True)


class Clients:
    """A source of clients.  It holds no credentials, so that several providers can share one."""

    def __init__(
        self,
        *,
        transport: Transport | None = None,
        keys: tuple[str, str] | None = None,
        loader: botocore.loaders.Loader | None = None,
    ) -> None:
        """``keys`` stand in for the default chain of credentials where the options name none."""
        self._transport = transport
        self._keys = keys
        self._loader = loader

    def connect(self, settings: Settings, context: base.Context) -> Connections:
        """The clients of one provider; opens nothing yet."""
        return Connections(settings, context, self._session)

    def _session(self, settings: Settings) -> botocore.session.Session:
        session = botocore.session.Session(profile=settings.profile or None)
        session.register_component("data_loader", self._loader or _descriptions())
        if self._transport is not None:
            transport = self._transport

            def send(request: Any, **_: Any) -> Any:
                return transport(request)

            session.register("before-send", send)
        if self._keys is not None:
            session.set_credentials(*self._keys)
        return session


class Connections:
    """The clients of one provider, each made when it is first needed and then kept."""

    def __init__(
        self,
        settings: Settings,
        context: base.Context,
        make: Callable[[Settings], botocore.session.Session],
    ) -> None:
        self._settings = settings
        self._context = context
        self._make = make
        self._lock = threading.Lock()
        self._session: boto3.session.Session | None = None
        self._clients: dict[tuple[str, str], Any] = {}

    def client(self, service: str, region: str = "") -> Any:
        """The client of a service in a region.  Blocking: it reads the SDK's service description.

        Raises what the SDK raises where credentials or a profile are missing, ValueError for a secret that cannot be
        read.
        """
        with self._lock:
            place = (service, region or self.home)
            found = self._clients.get(place)
            if found is None:
                found = self._clients[place] = self._opened().client(service, **self._arguments(*place))
            return found

    @property
    def home(self) -> str:
        """The region for what is not of a region."""
        return next(iter(self._settings.regions), _HOME)

    def authenticate(self) -> None:
        """Have credentials that are good now, so that a failure to get them is none of the call that needs them."""
        with self._lock:
            session = self._opened()
        credentials = session.get_credentials()
        if credentials is None:
            raise botocore.exceptions.NoCredentialsError
        credentials.get_frozen_credentials()

    def renew(self) -> None:
        """Keys were refused: read them anew for the next call.  Calls under way keep their clients."""
        with self._lock:
            self._clients = {}
            self._session = None

    def close(self) -> None:
        """Let go of connections; the next call opens new ones."""
        with self._lock:
            for client in self._clients.values():
                client.close()
            self._clients = {}
            self._session = None

    def _opened(self) -> boto3.session.Session:
        if self._session is None:
            self._session = self._open()
        return self._session

    def _open(self) -> boto3.session.Session:
        settings, secret = self._settings, self._context.secret
        session = self._make(settings)
        if settings.access_key:
            token = secret(settings.session_token) if settings.session_token else None
            session.set_credentials(secret(settings.access_key), secret(settings.secret_key), token)
        if settings.role_arn:
            # An attribute of the session, as the SDK's own documentation of refreshable credentials sets it.
            session._credentials = self._role(session)
        return boto3.session.Session(botocore_session=session)

    def _role(self, session: botocore.session.Session) -> botocore.credentials.DeferredRefreshableCredentials:
        """Credentials of another account's role, renewed by the SDK before they expire."""
        settings, now = self._settings, self._context.now
        source = session.get_credentials()
        if source is None:
            raise botocore.exceptions.NoCredentialsError

        def create(service: str, **keys: Any) -> Any:
            return session.create_client(service, **{**self._arguments(service, self.home), **keys})

        extra: dict[str, Any] = {
            "RoleSessionName": f"runnerd-{self._context.controller}"[:64],
            "DurationSeconds": _ROLE_SECONDS,
        }
        if settings.external_id:
            extra["ExternalId"] = settings.external_id
        fetcher = botocore.credentials.AssumeRoleCredentialFetcher(
            client_creator=create, source_credentials=source, role_arn=settings.role_arn, extra_args=extra
        )
        return botocore.credentials.DeferredRefreshableCredentials(
            refresh_using=fetcher.fetch_credentials,
            method="assume-role",
            time_fetcher=lambda: datetime.datetime.fromtimestamp(now(), datetime.UTC),
        )

    def _arguments(self, service: str, region: str) -> dict[str, Any]:
        config = botocore.config.Config(
            connect_timeout=_CONNECT,
            read_timeout=_READ,
            retries={"mode": "standard", "total_max_attempts": 1},
            max_pool_connections=2 * WIDTH,
            user_agent_extra="runnerd",
        )
        arguments: dict[str, Any] = {"region_name": region, "config": config}
        endpoint = self._settings.endpoint(service, region)
        if endpoint is not None:
            arguments["endpoint_url"] = endpoint
        if self._settings.ca:
            arguments["verify"] = self._settings.ca
        return arguments
