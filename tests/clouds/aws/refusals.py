"""Refusals as Amazon words and numbers them, in the three formats of its protocols."""

from __future__ import annotations

import json
from xml.sax.saxutils import escape

from tests.clouds import wire

#: Status of a code where it is not 400 ("Error codes for the Amazon EC2 API": server errors are 5xx).
STATUS = {
    "InsufficientInstanceCapacity": 500,
    "InsufficientCapacity": 500,
    "InsufficientHostCapacity": 500,
    "InsufficientAddressCapacity": 500,
    "InsufficientVolumeCapacity": 500,
    "InternalError": 500,
    "InternalFailure": 500,
    "ServerInternal": 500,
    "ServiceUnavailable": 503,
    "Unavailable": 503,
    "RequestLimitExceeded": 503,
    "EC2ThrottledException": 503,
    "AuthFailure": 401,
    "UnauthorizedOperation": 403,
    "AccessDenied": 403,
    "ExpiredToken": 403,
    "InvalidClientTokenId": 403,
    "SignatureDoesNotMatch": 403,
    "DryRunOperation": 412,
}


class Refused(Exception):
    """The call is answered with an error."""

    def __init__(self, code: str, message: str = "", *, status: int = 0) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message or code
        self.status = status or STATUS.get(code, 400)


def answer(refused: Refused, protocol: str, request_id: str) -> wire.Answer:
    """The error as ``ec2``, ``query`` or ``json``."""
    code, message = escape(refused.code), escape(refused.message)
    if protocol == "json":
        body = json.dumps({"__type": refused.code, "message": refused.message})
        return wire.Answer(refused.status, {"Content-Type": "application/x-amz-json-1.1"}, body.encode())
    if protocol == "query":
        side = "Sender" if refused.status < 500 else "Receiver"
        xml = (
            f"<ErrorResponse><Error><Type>{side}</Type><Code>{code}</Code><Message>{message}</Message></Error>"
            f"<RequestId>{request_id}</RequestId></ErrorResponse>"
        )
    else:
        xml = (
            f'<?xml version="1.0" encoding="UTF-8"?>\n<Response><Errors><Error><Code>{code}</Code>'
            f"<Message>{message}</Message></Error></Errors><RequestID>{request_id}</RequestID></Response>"
        )
    return wire.Answer(refused.status, {"Content-Type": "text/xml;charset=UTF-8"}, xml.encode())
