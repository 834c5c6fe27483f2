"""A simulated cloud behind the real SDK, in process: its requests are answered before they reach a socket."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

from botocore import exceptions
from botocore.awsrequest import AWSResponse, HeadersDict

from provisioners import aws
from tests.clouds import wire
from tests.clouds.ec2 import schema
from tests.clouds.ec2.cloud import KEYS


class _Body(io.BytesIO):
    """What the SDK reads an answer from."""

    def stream(self, **_: Any) -> Iterator[bytes]:
        yield self.read()


def mount(handler: wire.Handler, *, keys: tuple[str, str] = KEYS) -> aws.Clients:
    """Clients that talk to a handler."""

    def transport(request: Any) -> AWSResponse:
        body = request.body
        raw = body.encode() if isinstance(body, str) else bytes(body or b"")
        headers = {
            name: value.decode() if isinstance(value, bytes) else value for name, value in request.headers.items()
        }
        try:
            told = handler(wire.Request(request.method, request.url, headers, raw))
        except wire.Lost as lost:
            if lost.sent:
                raise exceptions.ReadTimeoutError(endpoint_url=request.url) from lost
            raise exceptions.EndpointConnectionError(endpoint_url=request.url) from lost
        return AWSResponse(request.url, told.status, HeadersDict(told.headers), _Body(told.body))

    return aws.Clients(transport=transport, keys=keys, loader=schema.LOADER)
