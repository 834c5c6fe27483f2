"""The base model and the field types that the configuration is made of.

Here is what a single value may look like; `runnerd.config` says which values there are. Types are strict:
`"4"` is not a number and `yes` is not true, because a value that YAML guessed wrong should be seen, not
carried on.
"""

from __future__ import annotations

import ipaddress
import re
import urllib.parse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import pydantic
from pydantic import BeforeValidator, ConfigDict, PlainSerializer, Strict, WithJsonSchema

from provisioners.support import units
from runnerd.config import schedule
from runnerd.kit import secrets

#: Names of pools, forges, providers and teams become tags, metric labels and parts of machine names
#: everywhere.
NAME = re.compile(r"[a-z0-9]([a-z0-9_-]{0,38}[a-z0-9])?\Z")
#: The controller's name becomes part of host names.
DNS_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?\Z")
_GPU = re.compile(r"([a-z0-9]+(?:[.-][a-z0-9]+)*)(?:(?: +x *| *x +)([0-9]{1,3}))?\Z", re.IGNORECASE | re.ASCII)
#: The most GPUs in one machine that any provider sells.
MOST_GPUS = 16
#: GitHub's limit of a label's length; GitLab's is the same column width.
LONGEST_LABEL = 256


class Model(pydantic.BaseModel):
    """The base of every block: frozen, and closed to keys that nobody reads."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        populate_by_name=True,
        arbitrary_types_allowed=True,
    )


class Named(Model):
    """A block that is an entry of a map; it knows its own key."""

    name: str = pydantic.Field(default="", exclude=True)
    """The key of this entry; not written in the file."""


def _secret(value: object, info: pydantic.ValidationInfo) -> secrets.Secret:
    if isinstance(value, secrets.Secret):
        return value
    context: Mapping[str, Any] = info.context or {}
    secrets.split_reference(value)
    return secrets.Secret(str(value), base=context.get("base"), environ=context.get("environ"))


def _path(value: object, info: pydantic.ValidationInfo) -> Path:
    if isinstance(value, Path):
        return value
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError("expected a path")
    base: Path | None = (info.context or {}).get("base")
    return base / value if base else Path(value)


def _whole(low: int, high: int) -> Callable[[object], int]:
    def check(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValueError(f"expected a whole number from {low} to {high}")
        if not low <= value <= high:
            raise ValueError(f"{value} is not within {low} to {high}")
        return value

    return check


def _share(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ValueError("expected a share from 0 to 1, such as 0.1")
    return float(value)


def _texts(value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        raise ValueError(f"expected a list; write [{value}]")
    if not isinstance(value, list | tuple):
        raise ValueError("expected a list of texts")
    for item in value:
        if not isinstance(item, str):
            raise ValueError(f"expected a list of texts; {_yaml(item)} is not a text, quote it")
        if not item.strip():
            raise ValueError("an entry of the list is empty")
    return tuple(value)


def _yaml(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value}" if isinstance(value, int | float) else f"a {'list' if isinstance(value, list) else 'map'}"


def _command(value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        raise ValueError("expected a list: the program and its arguments, one entry each")
    command = _texts(value)
    if not command:
        raise ValueError("the command is empty")
    return command


def _types(value: object) -> tuple[str, ...] | dict[str, tuple[str, ...]] | None:
    if value is None:
        return None
    if isinstance(value, Mapping):
        return {str(key): _texts(item) for key, item in value.items()}
    return _texts(value)


def _app_id(value: object) -> int | str:
    if isinstance(value, bool) or not isinstance(value, int | str) or value == "" or value == 0:
        raise ValueError("expected the number of the App, or its client id")
    return value


def _number(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError("expected a number greater than 0")
    return value


def _gpu(value: object) -> str | None:
    if value is None:
        return None
    found = _GPU.match(value.strip()) if isinstance(value, str) else None
    if found is None:
        raise ValueError('expected a GPU model with an optional count, such as t4 or "a100-40 x 4"')
    model, count = found.group(1).lower(), int(found.group(2) or 1)
    if not 1 <= count <= MOST_GPUS:
        raise ValueError(f"{count} GPUs in one machine; from 1 to {MOST_GPUS} are possible")
    return model if count == 1 else f"{model} x {count}"


def _warm(value: object) -> int | dict[str, int]:
    schedule.check(value)
    return value  # type: ignore[return-value]  # checked above


def _listen(value: object) -> str:
    """An address to listen on, as host:port."""
    text = value if isinstance(value, str) else ""
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError("expected an address and a port, such as 127.0.0.1:9477 or [::1]:9477")
    if ":" in host and not (host.startswith("[") and host.endswith("]")):
        raise ValueError(f"an IPv6 address stands in brackets: [{host}]:{port}")
    return text


def _web_url(value: object) -> str:
    """An http(s) URL without anything that could be a secret."""
    if not isinstance(value, str):
        raise ValueError("expected a URL such as https://runnerd.example.com")
    try:
        parts = urllib.parse.urlsplit(value.strip())
        port = parts.port
    except ValueError:
        raise ValueError("this is not a URL; check host and port") from None
    if parts.username is not None or parts.password is not None:
        raise ValueError("a secret in the file; a URL here has no user name and no password")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f'"{value}" is not a web address; write https://…')
    if parts.query or parts.fragment:
        raise ValueError("a URL here has no ? and no # part")
    if any(character.isspace() for character in value.strip()):
        raise ValueError("a URL has no blanks")
    host = parts.hostname.lower()
    shown = f"[{host}]" if ":" in host else host
    default = {"http": 80, "https": 443}[parts.scheme]
    where = shown if port in (None, default) else f"{shown}:{port}"
    return f"{parts.scheme}://{where}{parts.path.rstrip('/')}"


def loopback(host: str) -> bool:
    """True when that host is this machine."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _forge_url(value: object) -> str:
    url = _web_url(value)
    parts = urllib.parse.urlsplit(url)
    if parts.scheme == "http" and not loopback(parts.hostname or ""):
        raise ValueError("a token would travel in the clear; write https://… (http is for loopback only)")
    return url


def _database(value: object, info: pydantic.ValidationInfo) -> str | secrets.Secret | None:
    if value is None or isinstance(value, secrets.Secret):
        return value
    if not isinstance(value, str) or not value:
        raise ValueError("expected a database URL such as postgresql+psycopg://host/runnerd, or file:/path to one")
    if value.startswith(("file:", "env:", "credential:")):
        return _secret(value, info)
    if "://" not in value:
        raise ValueError("expected a database URL such as postgresql+psycopg://host/runnerd, or file:/path to one")
    parts = urllib.parse.urlsplit(value)
    if parts.password is not None or "password=" in parts.query.lower():
        raise ValueError(
            "a secret in the file; put the URL elsewhere and write file:/path, env:NAME or credential:NAME"
        )
    return value


def _tags(value: object) -> dict[str, str]:
    if not isinstance(value, Mapping):
        raise ValueError("expected a map of texts, such as {cost-centre: ml}")
    for key, text in value.items():
        if not isinstance(text, str):
            raise ValueError(f"the value of {key} is not a text; quote it")
        if str(key).lower().startswith("runnerd-"):
            raise ValueError(f"{key}: tags that begin with runnerd- are runnerd's own")
        if not re.fullmatch(r"[a-z][a-z0-9_-]{0,62}", str(key)):
            raise ValueError(f"{key}: a tag's name has 1 to 63 of a-z, 0-9, _ and -, and begins with a letter")
        if len(text) > 63:
            raise ValueError(f"{key}: a tag's value has at most 63 characters")
    return {str(key): text for key, text in value.items()}


def _env(value: object) -> dict[str, str]:
    if not isinstance(value, Mapping):
        raise ValueError("expected a map of texts, such as {NVIDIA_VISIBLE_DEVICES: all}")
    for key, text in value.items():
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", str(key)):
            raise ValueError(f'"{key}" is not the name of a variable')
        if not isinstance(text, str):
            raise ValueError(f"the value of {key} is not a text; quote it")
        if secrets.redact(text) != text:
            raise ValueError(f"a secret in the file: every job would see {key}; give it to the job through its forge")
    return {str(key): text for key, text in value.items()}


def _shown_secret(secret: secrets.Secret) -> str:
    return secret.reference


def _shown_database(value: str | secrets.Secret | None) -> str | None:
    return value.reference if isinstance(value, secrets.Secret) else value


_SECRET_SCHEMA = {"type": "string", "pattern": "^(file|env|credential):.+"}
_DURATION_SCHEMA = {
    "anyOf": [{"type": "string", "pattern": r"^(\d+(\.\d+)?(ms|s|m|h|d|w))+$"}, {"const": 0}, {"const": "0"}]
}

#: A duration in seconds, written with its unit.
Duration = Annotated[
    float,
    BeforeValidator(units.duration),
    PlainSerializer(units.show_duration, return_type=str),
    WithJsonSchema(_DURATION_SCHEMA),
]


def _longer_than_nothing(value: object) -> float:
    seconds = units.duration(value)
    if seconds <= 0:
        raise ValueError("0 is too short; write a duration such as 10m")
    return seconds


#: A duration that is not 0.
Span = Annotated[
    float,
    BeforeValidator(_longer_than_nothing),
    PlainSerializer(units.show_duration, return_type=str),
    WithJsonSchema({"type": "string", "pattern": r"^(\d+(\.\d+)?(ms|s|m|h|d|w))+$"}),
]
#: A size in bytes, written with its unit.
Size = Annotated[
    int,
    BeforeValidator(units.size),
    PlainSerializer(units.show_size, return_type=str),
    WithJsonSchema({"anyOf": [{"type": "string", "pattern": r"^\d+(\.\d+)? ?[A-Za-z]+$"}, {"const": 0}]}),
]
#: US dollars.
Dollars = Annotated[
    float,
    BeforeValidator(units.dollars),
    WithJsonSchema({"anyOf": [{"type": "number", "minimum": 0}, {"type": "string", "pattern": r"^\$ ?\d"}]}),
]
#: A secret by reference.
SecretRef = Annotated[
    secrets.Secret,
    pydantic.PlainValidator(_secret),
    PlainSerializer(_shown_secret, return_type=str),
    WithJsonSchema(_SECRET_SCHEMA),
]
#: A database URL without password, or a reference to a whole URL.
Database = Annotated[
    str | secrets.Secret | None,
    pydantic.PlainValidator(_database),
    PlainSerializer(_shown_database, return_type=str | None),
    WithJsonSchema({"type": ["string", "null"]}),
]
#: A path; a relative one starts at the configuration file.
FilePath = Annotated[
    Path,
    pydantic.PlainValidator(_path),
    PlainSerializer(str, return_type=str),
    WithJsonSchema({"type": "string", "minLength": 1}),
]
Flag = Annotated[bool, Strict()]
Share = Annotated[float, BeforeValidator(_share), WithJsonSchema({"type": "number", "minimum": 0, "maximum": 1})]
_TEXTS_SCHEMA = {"type": "array", "items": {"type": "string", "minLength": 1}}
Texts = Annotated[tuple[str, ...], BeforeValidator(_texts), WithJsonSchema(_TEXTS_SCHEMA)]
Command = Annotated[tuple[str, ...], BeforeValidator(_command), WithJsonSchema({**_TEXTS_SCHEMA, "minItems": 1})]
MachineTypes = Annotated[
    tuple[str, ...] | dict[str, tuple[str, ...]] | None,
    pydantic.PlainValidator(_types),
    WithJsonSchema(
        {
            "anyOf": [
                _TEXTS_SCHEMA,
                {"type": "object", "additionalProperties": _TEXTS_SCHEMA},
                {"type": "null"},
            ]
        }
    ),
]
Gpu = Annotated[
    str | None,
    pydantic.PlainValidator(_gpu),
    WithJsonSchema({"type": ["string", "null"], "examples": ["t4"]}),
]
Warm = Annotated[
    int | dict[str, int],
    pydantic.PlainValidator(_warm),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": 0},
                {"type": "object", "additionalProperties": {"type": "integer", "minimum": 0}},
            ]
        }
    ),
]
AppId = Annotated[
    int | str,
    pydantic.PlainValidator(_app_id),
    WithJsonSchema({"type": ["integer", "string"], "minLength": 1}),
]
Number = Annotated[int, BeforeValidator(_number), WithJsonSchema({"type": "integer", "minimum": 1})]
Listening = Annotated[str, BeforeValidator(_listen)]
WebUrl = Annotated[str, BeforeValidator(_web_url), WithJsonSchema({"type": "string", "format": "uri"})]
ForgeUrl = Annotated[str, BeforeValidator(_forge_url), WithJsonSchema({"type": "string", "format": "uri"})]
_TEXT_MAP_SCHEMA = {"type": "object", "additionalProperties": {"type": "string"}}
Tags = Annotated[dict[str, str], BeforeValidator(_tags), WithJsonSchema(_TEXT_MAP_SCHEMA)]
Environment = Annotated[dict[str, str], BeforeValidator(_env), WithJsonSchema(_TEXT_MAP_SCHEMA)]


def whole(low: int, high: int) -> tuple[BeforeValidator, WithJsonSchema]:
    """What to annotate an int with that lies within two bounds, both included."""
    return BeforeValidator(_whole(low, high)), WithJsonSchema({"type": "integer", "minimum": low, "maximum": high})


#: What the reference calls a value, by the function that reads it.
WORDS: Mapping[Any, str] = {
    units.duration: "duration",
    _longer_than_nothing: "duration",
    units.size: "size",
    units.dollars: "dollars",
    _secret: "secret",
    _path: "path",
    _share: "share",
    _texts: "list",
    _command: "list",
    _types: "list or map",
    _gpu: "GPU",
    _warm: "number or map",
    _listen: "host:port",
    _web_url: "URL",
    _forge_url: "URL",
    _database: "URL or secret",
    _tags: "map of texts",
    _env: "map of texts",
    _app_id: "number or text",
    _number: "number",
}
