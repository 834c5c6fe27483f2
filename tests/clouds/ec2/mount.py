"""A simulated cloud behind the real SDK, in process: its requests are answered before they reach a socket."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import Any

import boto3.session
import botocore.client
import botocore.config
import botocore.session
from botocore import exceptions
from botocore.awsrequest import AWSResponse, HeadersDict

from provisioners import aws
from tests.clouds import wire
from tests.clouds.ec2 import schema
from tests.clouds.ec2.cloud import KEYS

_make_class = botocore.client.ClientCreator._create_client_class
_classes: dict[str, type] = {}


def _made_once(creator: Any, service_name: str, model: Any) -> type:
    """The SDK makes a class of 750 methods for each client of EC2; here one does for all."""
    found = _classes.get(service_name)
    if found is None:
        found = _classes[service_name] = _make_class(creator, service_name, model)
    return found


botocore.client.ClientCreator._create_client_class = _made_once


class _Body(io.BytesIO):
    """What the SDK reads an answer from."""

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
    return aws.Clients(transport=transport(handler), keys=keys, loader=schema.LOADER)


def sdk(handler: wire.Handler, service: str = "ec2", region: str = "us-east-1", *, keys: tuple[str, str] = KEYS) -> Any:
    """The plain SDK, as anybody uses it, without retries."""
    session = botocore.session.Session()
    session.register_component("data_loader", schema.LOADER)
    send = transport(handler)
    session.register("before-send", lambda request, **_: send(request))
    session.set_credentials(*keys)
    config = botocore.config.Config(retries={"mode": "standard", "total_max_attempts": 1})
    return boto3.session.Session(botocore_session=session).client(service, region_name=region, config=config)
