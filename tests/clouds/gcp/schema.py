"""The official description of Google's APIs, as it ships with google-api-python-client, held against every message.

A discovery document is nearly JSON Schema.  It is applied as strictly as the API is known to be, and in two things
more strictly than JSON Schema would: what a schema does not name is refused, and 64-bit integers are texts.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import googleapiclient

_DOCUMENTS = Path(googleapiclient.__file__).parent / "discovery_cache" / "documents"
#: Query parameters that every Google API takes.
_COMMON = frozenset({"alt", "fields", "key", "prettyPrint", "quotaUser", "$alt"})
_INTEGER = re.compile(r"-?\d{1,20}\Z")


@dataclass(frozen=True, slots=True)
class Method:
    """A method of an API."""

    #: ``compute.instances.insert``.
    id: str
    verb: str
    path: re.Pattern[str]
    parameters: Mapping[str, Any]
    request: str
    response: str
    schemas: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Call:
    """A request that belongs to a method."""

    method: Method
    #: Of the path.
    names: Mapping[str, str]

    @property
    def id(self) -> str:
        return self.method.id


@functools.cache
def _document(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((_DOCUMENTS / name).read_text())
    return found


@functools.cache
def _methods() -> tuple[Method, ...]:
    found: list[Method] = []
    for name in ("compute.v1.json", "cloudresourcemanager.v1.json", "iam.v1.json"):
        document = _document(name)
        for one in _walk(document):
            found.append(_method(one, document))
    return tuple(found)


def _walk(node: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield from node.get("methods", {}).values()
    for inner in node.get("resources", {}).values():
        yield from _walk(inner)


def _method(raw: Mapping[str, Any], document: Mapping[str, Any]) -> Method:
    parameters = raw.get("parameters", {})

    def part(match: re.Match[str]) -> str:
        name = match[1].lstrip("+")
        inner = r"[^/]+?"
        if match[1].startswith("+"):
            inner = str(parameters[name].get("pattern", ".+?")).removeprefix("^").removesuffix("$")
        return f"(?P<{name}>{inner})"

    path = re.sub(
        r"\\\{(\\\+)?(\w+)\\\}", lambda one: "{" + ("+" if one[1] else "") + one[2] + "}", re.escape(raw["path"])
    )
    pattern = re.sub(r"\{(\+?\w+)\}", part, path)
    return Method(
        id=raw["id"],
        verb=raw["httpMethod"],
        path=re.compile(f"/{re.escape(document['servicePath'])}{pattern}\\Z"),
        parameters=parameters,
        request=raw.get("request", {}).get("$ref", ""),
        response=raw.get("response", {}).get("$ref", ""),
        schemas=document["schemas"],
    )


@functools.lru_cache(maxsize=4096)
def _find(verb: str, path: str) -> Call | None:
    for method in _methods():
        match = method.path.match(path)
        if match is not None and method.verb == verb:
            return Call(method, {name: unquote(value) for name, value in match.groupdict().items()})
    return None


def find(verb: str, path: str) -> Call | None:
    """The method that a request calls; None where there is none."""
    return _find(verb, path)


def request_problems(call: Call, query: Mapping[str, str], body: Any) -> Iterator[str]:
    """Return what is wrong with a request."""
    known = call.method.parameters
    for name, value in query.items():
        declared = known.get(name)
        if declared is None or declared.get("location") != "query":
            if name not in _COMMON:
                yield f'Invalid JSON payload received. Unknown name "{name}": Cannot bind query parameter.'
        else:
            yield from _parameter(name, value, declared)
    for name, declared in known.items():
        if declared.get("location") == "path" and name in call.names:
            yield from _parameter(name, call.names[name], declared)
        elif declared.get("required") and declared.get("location") == "query" and name not in query:
            yield f"Required parameter is missing: {name}"
    if call.method.request:
        yield from problems(call.method.schemas, {"$ref": call.method.request}, body, "")
    elif body is not None:
        yield f"{call.id} takes no body"


def response_problems(call: Call, body: Any) -> Iterator[str]:
    """Return what is wrong with an answer."""
    if call.method.response:
        yield from problems(call.method.schemas, {"$ref": call.method.response}, body, "")


def _parameter(name: str, value: str, declared: Mapping[str, Any]) -> Iterator[str]:
    pattern, kind = declared.get("pattern"), declared.get("type")
    if pattern and not re.fullmatch(pattern, value):
        yield f"Invalid value for field '{name}': '{value}'. Must be a match of regex '{pattern}'"
    if kind == "integer" and not _INTEGER.match(value):
        yield f"Invalid value for '{name}': '{value}' is not an integer"
    if kind == "boolean" and value not in ("true", "false"):
        yield f"Invalid value for '{name}': '{value}' is not a boolean"
    if declared.get("enum") and value not in declared["enum"]:
        yield f"Invalid value for '{name}': '{value}'"


def problems(schemas: Mapping[str, Any], schema: Mapping[str, Any], value: Any, path: str) -> Iterator[str]:
    """Yield the places at which a value departs from its schema."""
    reference = schema.get("$ref")
    if reference is not None:
        schema = schemas[reference]
    kind = schema.get("type")
    if kind == "object":
        if not isinstance(value, dict):
            yield _wrong(path, "an object", value)
            return
        properties, other = schema.get("properties", {}), schema.get("additionalProperties")
        for name, inner in value.items():
            below = f"{path}.{name}" if path else name
            if name in properties:
                yield from problems(schemas, properties[name], inner, below)
            elif other is not None:
                yield from problems(schemas, other, inner, below)
            else:
                where = f" at '{path}'" if path else ""
                yield f'Invalid JSON payload received. Unknown name "{name}"{where}: Cannot find field.'
    elif kind == "array":
        if not isinstance(value, list):
            yield _wrong(path, "a list", value)
            return
        for index, inner in enumerate(value):
            yield from problems(schemas, schema["items"], inner, f"{path}[{index}]")
    elif kind == "string":
        yield from _text(schema, value, path)
    elif kind == "boolean":
        if not isinstance(value, bool):
            yield _wrong(path, "true or false", value)
    elif kind == "integer":
        if isinstance(value, bool) or not isinstance(value, int):
            yield _wrong(path, "an integer", value)
    elif kind == "number" and (isinstance(value, bool) or not isinstance(value, int | float)):
        yield _wrong(path, "a number", value)


def _text(schema: Mapping[str, Any], value: Any, path: str) -> Iterator[str]:
    if not isinstance(value, str):
        yield _wrong(path, "a string", value)
        return
    if schema.get("format") in ("int64", "uint64") and not _INTEGER.match(value):
        yield f"Invalid value at '{path}' (TYPE_{schema['format'].upper()}), \"{value}\""
    if schema.get("enum") and value not in schema["enum"]:
        yield f"Invalid value for field 'resource.{path}': '{value}'. Not one of {', '.join(schema['enum'])}"
    pattern = schema.get("pattern")
    if pattern and "id" not in schema and not re.fullmatch(pattern, value):
        yield f"Invalid value for field 'resource.{path}': '{value}'. Must be a match of regex '{pattern}'"


def _wrong(path: str, what: str, value: Any) -> str:
    return f"Invalid value at '{path}': {value!r:.80} is not {what}"
