"""A simulated cloud behind the real SDK, in process: its requests are answered before they reach a socket."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import Any

import boto3.session
import botocore.config
import botocore.session
from botocore import exceptions
from botocore.awsrequest import AWSResponse, HeadersDict

from provisioners import aws
from tests.clouds import wire
from tests.clouds.aws import shared
from tests.clouds.aws.cloud import KEYS

shared.install()


class _Body(io.BytesIO):
    """The raw body that the SDK reads an answer from."""

    def stream(self, **_: Any) -> Iterator[bytes]:
        yield self.read()


def transport(handler: wire.Handler) -> Callable[[Any], AWSResponse]:
    """Answers the SDK's prepared requests with a handler, or breaks as a connection does."""

    def send(request: Any) -> AWSResponse:
        body = request.body
        raw = body.encode() if isinstance(body, str) else bytes(body or b"")
        headers = {key: value.decode() if isinstance(value, bytes) else value for key, value in request.headers.items()}
        try:
            told = handler(wire.Request(request.method, request.url, headers, raw))
        except wire.Lost as lost:
            if lost.sent:
                raise exceptions.ReadTimeoutError(endpoint_url=request.url) from lost
            raise exceptions.EndpointConnectionError(endpoint_url=request.url) from lost
        return AWSResponse(request.url, told.status, HeadersDict(told.headers), _Body(told.body))

    return send


def mount(handler: wire.Handler, *, keys: tuple[str, str] = KEYS) -> aws.Clients:
    """Clients of the provisioner that talk to a handler."""
    return aws.Clients(transport=transport(handler), keys=keys, loader=shared.LOADER)


def sdk(handler: wire.Handler, service: str = "ec2", region: str = "us-east-1", *, keys: tuple[str, str] = KEYS) -> Any:
    """The plain SDK, as anybody uses it, without retries."""
    session = botocore.session.Session()
    session.register_component("data_loader", shared.LOADER)
    send = transport(handler)
    session.register("before-send", lambda request, **_: send(request))
    session.set_credentials(*keys)
    config = botocore.config.Config(retries={"mode": "standard", "total_max_attempts": 1})
    return boto3.session.Session(botocore_session=session).client(service, region_name=region, config=config)
