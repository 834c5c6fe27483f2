"""Puts a simulated cloud under the SDK's own sessions: everything of the SDK runs but the socket."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import requests
import urllib3
from google.auth.credentials import AnonymousCredentials, Credentials
from requests.adapters import BaseAdapter
from urllib3.exceptions import MaxRetryError, NewConnectionError, ProtocolError

from provisioners import catalogue
from provisioners.gcp import client, settings
from tests.clouds import wire


class Adapter(BaseAdapter):
    """A transport adapter of requests that answers in process."""

    def __init__(self, handler: wire.Handler) -> None:
        super().__init__()
        self._handler = handler
        #: Requests as they were sent.
        self.sent: list[wire.Request] = []

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        body = request.body or b""
        if isinstance(body, str):
            body = body.encode()
        assert isinstance(body, bytes)
        asked = wire.Request(
            str(request.method),
            str(request.url),
            {str(name): str(value) for name, value in request.headers.items()},
            body,
        )
        self.sent.append(asked)
        try:
            told = self._handler(asked)
        except wire.Lost as lost:
            if lost.sent:
                cause = ConnectionResetError(104, "Connection reset by peer")
                raise requests.exceptions.ConnectionError(
                    ProtocolError("Connection aborted.", cause), request=request
                ) from None
            refused = NewConnectionError(None, "Failed to establish a new connection: [Errno 111] Connection refused")  # type: ignore[arg-type]
            pool: Any = None
            raise requests.exceptions.ConnectionError(
                MaxRetryError(pool, asked.path, refused), request=request
            ) from None
        response = requests.Response()
        response.status_code = told.status
        response.headers.update(told.headers)
        response.raw = urllib3.HTTPResponse(body=told.body, status=told.status, preload_content=False)
        response._content = told.body
        response.url = str(request.url)
        response.request = request
        response.encoding = "utf-8"
        return response

    def close(self) -> None:
        """Nothing is open."""


def options(project: str = "acme-ml", **more: Any) -> dict[str, Any]:
    """Options of a provider in the simulated project."""
    return {
        "project": project,
        "regions": {"us-central1": {"zones": ["a", "b"]}, "europe-west4": {"zones": "all"}},
        **more,
    }


def mount(
    handler: wire.Handler | Any, given: Mapping[str, Any], *, credentials: Credentials | None = None, **more: Any
) -> client.Clients:
    """Clients for those options that are answered by the simulated cloud."""
    handle = getattr(handler, "handle", handler)
    chosen, problems = settings.read(given, catalogue.load("gcp"))
    assert not problems, problems
    if credentials is None and not chosen.credentials:
        credentials = AnonymousCredentials()
    return client.Clients(chosen, credentials=credentials, adapter=Adapter(handle), **more)
