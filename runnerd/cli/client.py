"""Asks the running daemon over its Unix socket.  Standard library only, so that a command starts fast."""

from __future__ import annotations

import http.client
import json
import os
import socket
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from provisioners.support import numbers
from runnerd import errors
from runnerd.cli import options
from runnerd.cli.exits import CommandFailed, Exit
from runnerd.kit import yamlfile

#: Where the daemon listens when its configuration does not say; the same as the model's default.
DEFAULT_SOCKET = "/run/runnerd/runnerd.sock"
#: Seconds that an answer may take: some ask a provider first.
TIMEOUT = 150.0


def socket_path(*, socket: str | None, config: str | None) -> Path:
    """Where the daemon listens: as named, as in the configuration, or the default.

    Only the one key is read, so that a broken file does not keep a person from the daemon that runs with the old one.
    Raises :class:`errors.ConfigInvalid` for a file that was named and is not there or is not YAML.
    """
    if socket:
        return Path(socket)
    named = config or os.environ.get("RUNNERD_CONFIG")
    file = Path(named or options.DEFAULT_CONFIG)
    if not named and not file.exists():
        return Path(DEFAULT_SOCKET)
    data = yamlfile.read(file).data
    listen = data.get("listen")
    found = listen.get("socket") if isinstance(listen, dict) else None
    return file.resolve().parent / (found if isinstance(found, str) and found else DEFAULT_SOCKET)


class _Connection(http.client.HTTPConnection):
    """HTTP to a Unix socket."""

    def __init__(self, path: Path, *, timeout: float) -> None:
        super().__init__("runnerd", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class Client:
    """One daemon."""

    def __init__(self, path: Path, *, timeout: float = TIMEOUT) -> None:
        self._path = path
        self._timeout = timeout

    def get(self, path: str, **query: Any) -> Any:
        """Look at something; arguments that are None or empty are left out."""
        given = {key: value for key, value in query.items() if value not in (None, "", False)}
        return self._ask("GET", f"{path}?{urllib.parse.urlencode(given)}" if given else path, None)

    def post(self, path: str, **body: Any) -> Any:
        """Order something."""
        return self._ask("POST", path, json.dumps(body).encode())

    def follow(self, path: str, **query: Any) -> Iterator[Any]:
        """Answers of a listing that goes on, each asked after the one before; never ends by itself."""
        after = int(query.pop("after", 0))
        while True:
            answer = self.get(path, after=after, hold=25, **query)
            after = int(answer["next"])
            yield answer

    def _ask(self, method: str, path: str, body: bytes | None) -> Any:
        connection = _Connection(self._path, timeout=self._timeout)
        try:
            headers = {"Content-Type": "application/json"} if body is not None else {}
            connection.request(method, path, body=body, headers=headers)
            answer = connection.getresponse()
            raw = answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise CommandFailed(self._unreachable(error), exit=Exit.UNREACHABLE) from error
        finally:
            connection.close()
        try:
            found = numbers.loads(raw)
        except ValueError as error:
            raise CommandFailed(f"{self._path} does not speak as a runnerd does", exit=Exit.UNREACHABLE) from error
        if answer.status >= 400:
            raise _failure(answer.status, found)
        if not isinstance(found, dict):
            raise CommandFailed(f"{self._path} does not speak as a runnerd does", exit=Exit.UNREACHABLE)
        return found

    def _unreachable(self, error: Exception) -> str:
        if isinstance(error, PermissionError):
            return f"{self._path}: permission denied; run this as the user of the daemon or as root"
        if isinstance(error, FileNotFoundError):
            why = "there is no socket"
        elif isinstance(error, ConnectionRefusedError):
            why = "nobody listens"
        elif isinstance(error, TimeoutError):
            why = f"no answer within {self._timeout:.0f} s"
        else:
            why = str(error) or type(error).__name__
        return (
            f"no daemon at {self._path}: {why}. Start it with `runnerd run`, or name its --config or --socket "
            "(RUNNERD_CONFIG names the file for all commands)"
        )


def connect(socket_file: str | None, config_file: str | None, *, timeout: float = TIMEOUT) -> Client:
    """Return the client of the daemon that the options of a command name.  Nothing is sent yet."""
    return Client(socket_path(socket=socket_file, config=config_file), timeout=timeout)


def segment(name: str) -> str:
    """Return a name as one segment of a path."""
    return urllib.parse.quote(name, safe="")


def _failure(status: int, found: Any) -> errors.RunnerdError:
    body = found if isinstance(found, dict) else {}
    words = str(body.get("error") or f"the daemon answered {status}")
    if status == 422:
        return CommandFailed("\n".join([words + ":", *map(str, body.get("problems", ()))]), exit=Exit.USAGE)
    if status == 400:
        return CommandFailed(words, exit=Exit.USAGE)
    if status == 503:
        return CommandFailed(words, exit=Exit.STATE)
    if status >= 500:
        return CommandFailed(words, exit=Exit.INTERNAL)
    return errors.Refused(words, status=status)
