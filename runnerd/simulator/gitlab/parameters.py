"""Parameters of a request the way Grape sees them: query, JSON, form and multipart in one mapping.

The refusals have Grape's wording (`{"error": "x is missing"}`), because clients show it to people. Values keep their
sent type until a reader asks for one.
"""

from __future__ import annotations

import dataclasses
import email.parser
import email.policy
import re
import urllib.parse
from typing import Any

from runnerd.simulator import http


@dataclasses.dataclass(frozen=True, slots=True)
class File:
    """A file of a multipart body."""

    filename: str
    content_type: str
    data: bytes


def message(text: str, status: int) -> http.Response:
    """An error as most of GitLab says it: `{"message": "404 Project Not Found"}`."""
    return http.json_response({"message": text}, status)


def refuse(text: str, status: int) -> http.Refusal:
    return http.Refusal(message(text, status))


def invalid(text: str) -> http.Refusal:
    """A parameter that fails validation: 400 `{"error": …}`."""
    return http.Refusal(http.json_response({"error": text}, 400))


class Parameters:
    """The parameters of a request, read by name with a type; every reader refuses with 400 what it cannot take."""

    def __init__(self, values: dict[str, Any]) -> None:
        self.values = values

    def __contains__(self, name: str) -> bool:
        return name in self.values

    def raw(self, name: str) -> Any:
        return self.values.get(name)

    def text(self, name: str, default: str | None = None, *, limit: int | None = None) -> str | None:
        value = self.values.get(name)
        if value is None:
            return default
        if isinstance(value, dict | list | File):
            raise invalid(f"{name} is invalid")
        if limit is not None and len(str(value)) > limit:
            raise http.Refusal(
                http.json_response({"message": {name: [f"is too long (maximum is {limit} characters)"]}}, 400)
            )
        return str(value)

    def required(self, name: str) -> str:
        value = self.text(name)
        if value is None:
            raise invalid(f"{name} is missing")
        if value == "":
            raise invalid(f"{name} is empty")
        return value

    def number(self, name: str, default: int | None = None) -> int | None:
        value = self.values.get(name)
        if value is None or value == "":
            return default
        if isinstance(value, bool) or not re.fullmatch(r"-?\d+", str(value)):
            raise invalid(f"{name} is invalid")
        return int(value)

    def flag(self, name: str, default: bool = False) -> bool:
        value = self.values.get(name)
        if value is None or value == "":
            return default
        if isinstance(value, bool):
            return value
        if str(value).lower() in ("true", "1", "t", "yes", "on"):
            return True
        if str(value).lower() in ("false", "0", "f", "no", "off"):
            return False
        raise invalid(f"{name} is invalid")

    def choice(self, name: str, allowed: tuple[str, ...], default: str | None = None) -> str | None:
        value = self.text(name)
        if value is None:
            return default
        if value not in allowed:
            raise invalid(f"{name} does not have a valid value")
        return value

    def words(self, name: str) -> list[str] | None:
        """An array or a comma-separated string, blanks dropped, order kept; None when it was not sent."""
        value = self.values.get(name)
        if value is None:
            return None
        parts = value if isinstance(value, list) else str(value).split(",")
        if any(isinstance(part, dict | list) for part in parts):
            raise invalid(f"{name} is invalid")
        return list(dict.fromkeys(word for part in parts if (word := str(part).strip())))


def _add(values: dict[str, Any], name: str, value: Any) -> None:
    """Rails' nesting as far as it is used: `a[]=1` is an array, `a[b]=1` an object."""
    if name.endswith("[]"):
        values.setdefault(name[:-2], [])
        if isinstance(values[name[:-2]], list):
            values[name[:-2]].append(value)
        return
    match = re.fullmatch(r"([^\[\]]+)\[([^\[\]]+)\]", name)
    if match is None:
        values[name] = value
        return
    inner = values.setdefault(match.group(1), {})
    if isinstance(inner, dict):
        inner[match.group(2)] = value


def _multipart(request: http.Request) -> list[tuple[str, str | File]]:
    head = b"Content-Type: " + request.header("content-type").encode("latin-1", "replace") + b"\r\n\r\n"
    parsed = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(head + request.body)
    if not parsed.is_multipart():
        raise invalid("the multipart body has no parts")
    fields: list[tuple[str, str | File]] = []
    for part in parsed.iter_parts():
        name = part.get_param("name", header="content-disposition")
        if not isinstance(name, str):
            continue
        data = part.get_payload(decode=True)
        content = data if isinstance(data, bytes) else b""
        filename = part.get_filename()
        if filename is None:
            fields.append((name, content.decode("utf-8", "replace")))
        else:
            fields.append((name, File(filename, part.get_content_type(), content)))
    return fields


def read(request: http.Request) -> Parameters:
    """Read all parameters; the body wins over the query.

    Refuses JSON that does not parse or is no object with 400, and a body of an unknown content type with 415.
    """
    values: dict[str, Any] = {}
    for name, value in request.query:
        _add(values, name, value)
    if not request.body:
        return Parameters(values)
    kind = request.header("content-type").partition(";")[0].strip().lower()
    if kind == "application/json":
        try:
            data = request.json()
        except ValueError as error:
            raise refuse("400 Bad request - message body does not match declared format", 400) from error
        if not isinstance(data, dict):
            raise refuse("400 Bad request - the body is not an object", 400)
        values.update(data)
    elif kind == "multipart/form-data":
        for name, content in _multipart(request):
            _add(values, name, content)
    elif kind in ("application/x-www-form-urlencoded", ""):
        pairs = urllib.parse.parse_qsl(request.body.decode("utf-8", "replace"), keep_blank_values=True)
        body: dict[str, Any] = {}
        for name, value in pairs:
            _add(body, name, value)
        values.update(body)
    else:
        text = f"The provided content-type '{kind}' is not supported."
        raise http.Refusal(http.json_response({"error": text}, 415))
    return Parameters(values)
