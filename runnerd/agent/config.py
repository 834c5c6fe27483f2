"""The agent's configuration: ``agent.json`` in its own directory, written by the boot script.

Read once at the start.  The boot token in it is valid for one exchange and is removed from the file afterwards.
Unknown keys are ignored, because the boot script may be newer than the agent.
"""

from __future__ import annotations

import json
import os
import pathlib
import typing
import urllib.parse
from dataclasses import dataclass, field

from runnerd.agent import metadata, strict_json


class Invalid(Exception):
    """The agent's configuration is invalid."""


@dataclass(frozen=True)
class Settings:
    """The agent's configuration."""

    path: pathlib.Path
    #: URL of the daemon's public listener, without a trailing slash.
    url: str
    #: The instance's name, for logs; the daemon identifies it by the token.
    instance: str
    #: The boot token; empty once it has been exchanged.
    token: str = field(repr=False, default="")
    #: PEM file of certificate authorities in addition to the system's; empty for none.
    ca_file: str = ""
    #: The command that powers the machine off; empty where the instance ends with the agent.
    power_off: tuple[str, ...] = ()
    #: A file whose appearance announces that the machine will be shut down; empty for none.
    notice_file: str = ""
    #: Seconds that must be left of a notice when the runner is stopped: its shutdown takes up to 30.
    notice_reserve: float = 35.0
    #: The cloud whose metadata service is polled for notices; None to detect it from the firmware.
    cloud: metadata.Cloud | None = None
    #: URL of that service; empty for the clouds' well-known address.
    metadata_url: str = ""
    #: Seconds of notice requested when the machine was launched (Google's preemptionNoticeDuration).
    preemption_notice: float = 0.0
    #: A directory for the files that the runner's user needs, when that is not the agent's user.
    shared: str = "/var/lib/runnerd-agent"
    #: Seconds to keep asking for a session before giving up.
    patience: float = 3600.0
    #: Seconds to wait for the GPU driver.
    gate_patience: float = 120.0

    @property
    def home(self) -> pathlib.Path:
        """The agent's own directory."""
        return self.path.parent


def load(path: pathlib.Path) -> Settings:
    """Read the file.  Raises :class:`Invalid`, which names the file and the key."""
    path = path.absolute()
    try:
        given = strict_json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise Invalid(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        # The content stays out of the message: it may contain the token.
        raise Invalid(f"{path} is not JSON") from error
    if not isinstance(given, dict):
        raise Invalid(f"{path} must hold a JSON object")
    reader = _Reader(path, given)
    url = reader.text("url").rstrip("/")
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise Invalid(f'{path}: "url" must be an http or https address')
    metadata_url = reader.text("metadata_url", "").rstrip("/")
    if metadata_url and not _is_plain(metadata_url):
        raise Invalid(f'{path}: "metadata_url" must be an http address without a path')
    return Settings(
        path=path,
        url=url,
        instance=reader.text("instance", ""),
        token=reader.text("token", ""),
        ca_file=reader.text("ca_file", ""),
        power_off=reader.strings("power_off"),
        notice_file=reader.text("notice_file", ""),
        notice_reserve=reader.seconds("notice_reserve", 35.0),
        cloud=reader.cloud("cloud"),
        metadata_url=metadata_url,
        preemption_notice=reader.seconds("preemption_notice", 0.0),
        shared=reader.text("shared", "/var/lib/runnerd-agent"),
        patience=reader.seconds("patience", 3600.0),
        gate_patience=reader.seconds("gate_patience", 120.0),
    )


def _is_plain(url: str) -> bool:
    try:
        parts = urllib.parse.urlsplit(url)
        # Reading the port validates it.
        return parts.scheme == "http" and bool(parts.hostname) and parts.port != 0 and not (parts.path or parts.query)
    except ValueError:
        return False


def forget_token(path: pathlib.Path) -> None:
    """Remove the boot token from the file: once exchanged it is worthless."""
    given = strict_json.loads(path.read_text(encoding="utf-8"))
    if given.pop("token", None) is not None:
        write(path, given)


def write(path: pathlib.Path, value: object) -> None:
    """Write JSON atomically, readable by the agent's user only."""
    draft = path.with_name(f".{path.name}.new")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(handle, "w", encoding="utf-8") as file:
        json.dump(value, file)
        file.flush()
        os.fsync(file.fileno())
    draft.chmod(0o600)
    draft.replace(path)


class _Reader:
    """Reads typed values from the object."""

    def __init__(self, path: pathlib.Path, given: dict[str, typing.Any]) -> None:
        self._path = path
        self._given = given

    def text(self, key: str, default: str | None = None) -> str:
        value = self._given.get(key, default)
        if not isinstance(value, str) or (default is None and not value):
            raise Invalid(f'{self._path}: "{key}" must be a string')
        return value

    def cloud(self, key: str) -> metadata.Cloud | None:
        if key not in self._given:
            return None
        try:
            return metadata.Cloud(self._given[key])
        except ValueError:
            known = ", ".join(f'"{one.value}"' for one in metadata.Cloud)
            raise Invalid(f'{self._path}: "{key}" must be one of {known}') from None

    def strings(self, key: str) -> tuple[str, ...]:
        value = self._given.get(key, [])
        if not isinstance(value, list) or not all(isinstance(word, str) and word for word in value):
            raise Invalid(f'{self._path}: "{key}" must be a list of strings')
        return tuple(value)

    def seconds(self, key: str, default: float) -> float:
        value = self._given.get(key, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1e9:
            raise Invalid(f'{self._path}: "{key}" must be a number of seconds')
        return float(value)
