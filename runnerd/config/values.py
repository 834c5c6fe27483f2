"""Readers of single values: each takes what stands in the file and returns what the models hold, or raises ValueError.

Types are strict: `"4"` is not a number and `yes` is not true, because a value that YAML guessed wrong should be seen,
not carried on.
"""

from __future__ import annotations

import ipaddress
import re
import urllib.parse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pydantic

from provisioners.support import units
from runnerd.config import schedule
from runnerd.kit import redaction, secrets

_GPU = re.compile(r"([a-z0-9]+(?:[.-][a-z0-9]+)*)(?:(?: +x *| *x +)([0-9]{1,3}))?\Z", re.IGNORECASE | re.ASCII)
#: The most GPUs in one machine that any provider sells.
MOST_GPUS = 16


def secret(value: object, info: pydantic.ValidationInfo) -> secrets.Secret:
    """Read a reference to a secret; a relative path starts at the directory of the file."""
    if isinstance(value, secrets.Secret):
        return value
    context: Mapping[str, Any] = info.context or {}
    secrets.split_reference(value)
    return secrets.Secret(str(value), base=context.get("base"), environ=context.get("environ"))


def path(value: object, info: pydantic.ValidationInfo) -> Path:
    """Read a path; a relative one starts at the directory of the file."""
    if isinstance(value, Path):
        return value
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError("expected a path")
    base: Path | None = (info.context or {}).get("base")
    return base / value if base else Path(value)


def whole_number(low: int, high: int) -> Callable[[object], int]:
    """Return a reader of whole numbers within two bounds, both included."""

    def check(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValueError(f"expected a whole number from {low} to {high}")
        if not low <= value <= high:
            raise ValueError(f"{value} is not within {low} to {high}")
        return value

    return check


def share(value: object) -> float:
    """Read a fraction from 0 to 1."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ValueError("expected a fraction from 0 to 1, such as 0.1")
    return float(value)


def texts(value: object) -> tuple[str, ...]:
    """Read a list of strings."""
    if isinstance(value, str):
        raise ValueError(f"expected a list; write [{value}]")
    if not isinstance(value, list | tuple):
        raise ValueError("expected a list of strings")
    for item in value:
        if not isinstance(item, str):
            raise ValueError(f"expected a list of strings; {_shown(item)} is not a string: quote it")
        if not item.strip():
            raise ValueError("an entry of the list is empty")
    return tuple(value)


def _shown(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value}" if isinstance(value, int | float) else f"a {'list' if isinstance(value, list) else 'map'}"


def command(value: object) -> tuple[str, ...]:
    """Read a program and its arguments."""
    if isinstance(value, str):
        raise ValueError("expected a list: the program and its arguments, one entry each")
    command = texts(value)
    if not command:
        raise ValueError("the command is empty")
    return command


def machine_types(value: object) -> tuple[str, ...] | dict[str, tuple[str, ...]] | None:
    """Read a list of machine types, or a map from provider to list."""
    if value is None:
        return None
    if isinstance(value, Mapping):
        return {str(key): texts(item) for key, item in value.items()}
    return texts(value)


def app_id(value: object) -> int | str:
    """Read the number or the client id of a GitHub App."""
    if isinstance(value, bool) or not isinstance(value, int | str) or value == "" or value == 0:
        raise ValueError("expected the number of the App, or its client id")
    return value


def positive_number(value: object) -> int:
    """Read a whole number above 0."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError("expected a number greater than 0")
    return value


def gpu(value: object) -> str | None:
    """Read a GPU model with an optional count; one GPU has no count."""
    if value is None:
        return None
    match = _GPU.match(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise ValueError('expected a GPU model with an optional count, such as t4 or "a100-40 x 4"')
    model, count = match.group(1).lower(), int(match.group(2) or 1)
    if not 1 <= count <= MOST_GPUS:
        raise ValueError(f"{count} GPUs in one machine; from 1 to {MOST_GPUS} are possible")
    return model if count == 1 else f"{model} x {count}"


def warm(value: object) -> int | dict[str, int]:
    """Read a number of warm instances, or a map from periods to numbers."""
    schedule.check(value)
    return value  # type: ignore[return-value]  # checked above


def listen_address(value: object) -> str:
    """Read an address to listen on, as host:port."""
    text = value if isinstance(value, str) else ""
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError("expected an address and a port, such as 127.0.0.1:9477 or [::1]:9477")
    if ":" in host and not (host.startswith("[") and host.endswith("]")):
        raise ValueError(f"put an IPv6 address in brackets: [{host}]:{port}")
    return text


def web_url(value: object) -> str:
    """Read an http(s) URL without anything that could be a secret."""
    if not isinstance(value, str):
        raise ValueError("expected a URL such as https://runnerd.example.com")
    try:
        parts = urllib.parse.urlsplit(value.strip())
        port = parts.port
    except ValueError:
        raise ValueError("this is not a URL; check host and port") from None
    if parts.username is not None or parts.password is not None:
        raise ValueError("a URL here must not contain a user name or password")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f'"{value}" is not a web address; write https://…')
    if parts.query or parts.fragment:
        raise ValueError("a URL here must not contain a query or a fragment")
    if any(character.isspace() for character in value.strip()):
        raise ValueError("a URL must not contain spaces")
    host = parts.hostname.lower()
    shown = f"[{host}]" if ":" in host else host
    default = {"http": 80, "https": 443}[parts.scheme]
    where = shown if port in (None, default) else f"{shown}:{port}"
    return f"{parts.scheme}://{where}{parts.path.rstrip('/')}"


def is_loopback(host: str) -> bool:
    """Return True when a host name or address is this machine."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def forge_url(value: object) -> str:
    """Read the URL of a forge: a web address, https unless it is on this machine."""
    url = web_url(value)
    parts = urllib.parse.urlsplit(url)
    if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
        raise ValueError("a token would travel in the clear; write https://… (http is for loopback only)")
    return url


def database_url(value: object, info: pydantic.ValidationInfo) -> str | secrets.Secret | None:
    """Read a database URL without a password, or a reference to a whole URL."""
    if value is None or isinstance(value, secrets.Secret):
        return value
    if not isinstance(value, str) or not value:
        raise ValueError("expected a database URL such as postgresql+psycopg://host/runnerd, or file:/path to one")
    if value.startswith(("file:", "env:", "credential:")):
        return secret(value, info)
    if "://" not in value:
        raise ValueError("expected a database URL such as postgresql+psycopg://host/runnerd, or file:/path to one")
    parts = urllib.parse.urlsplit(value)
    if parts.password is not None or "password=" in parts.query.lower():
        raise ValueError(
            "a secret in the file; put the URL elsewhere and write file:/path, env:NAME or credential:NAME"
        )
    return value


def tags(value: object) -> dict[str, str]:
    """Read a map of tags as every provider accepts them."""
    if not isinstance(value, Mapping):
        raise ValueError("expected a map of strings, such as {cost-centre: ml}")
    for key, text in value.items():
        if not isinstance(text, str):
            raise ValueError(f"the value of {key} is not a string: quote it")
        if str(key).lower().startswith("runnerd-"):
            raise ValueError(f"{key}: tags that begin with runnerd- are runnerd's own")
        if not re.fullmatch(r"[a-z][a-z0-9_-]{0,62}", str(key)):
            raise ValueError(f"{key}: a tag's name has 1 to 63 of a-z, 0-9, _ and -, and begins with a letter")
        if len(text) > 63:
            raise ValueError(f"{key}: a tag's value has at most 63 characters")
    return {str(key): text for key, text in value.items()}


def environment(value: object) -> dict[str, str]:
    """Read a map of environment variables that holds no secret."""
    if not isinstance(value, Mapping):
        raise ValueError("expected a map of strings, such as {NVIDIA_VISIBLE_DEVICES: all}")
    for key, text in value.items():
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", str(key)):
            raise ValueError(f'"{key}" is not the name of a variable')
        if not isinstance(text, str):
            raise ValueError(f"the value of {key} is not a string: quote it")
        if redaction.redact(text) != text:
            raise ValueError(f"a secret in the file: every job would see {key}; give it to the job through its forge")
    return {str(key): text for key, text in value.items()}


def positive_duration(value: object) -> float:
    """Read a duration above 0, in seconds."""
    seconds = units.duration(value)
    if seconds <= 0:
        raise ValueError("0 is too short; write a duration such as 10m")
    return seconds
