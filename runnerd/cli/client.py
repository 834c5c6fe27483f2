"""Client of the running daemon over its Unix socket.  Standard library only, so that commands start fast."""

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

#: The daemon's socket when its configuration names none; the same as the model's default.
DEFAULT_SOCKET = "/run/runnerd/runnerd.sock"
#: Seconds that an answer may take: some requests ask a provider first.
TIMEOUT_S = 150.0


def socket_path(*, socket: str | None, config: str | None) -> Path:
    """Return the daemon's socket: the option, the configuration's value, or the default.

    Only that key is read, so that a daemon that still runs with an old configuration can be reached after the file was
    broken.  Raises :class:`errors.ConfigInvalid` when a named file does not exist or is not YAML.
    """
    if socket:
        return Path(socket)
    named = config or os.environ.get("RUNNERD_CONFIG")
    file = Path(named or options.DEFAULT_CONFIG)
    if not named and not file.exists():
        return Path(DEFAULT_SOCKET)
    data = yamlfile.read(file).data
    listen = data.get("listen")
    value = listen.get("socket") if isinstance(listen, dict) else None
    return file.resolve().parent / (value if isinstance(value, str) and value else DEFAULT_SOCKET)


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
    """The client of one daemon."""

    def __init__(self, path: Path, *, timeout: float = TIMEOUT_S) -> None:
        self._path = path
        self._timeout = timeout

    def get(self, path: str, **query: Any) -> Any:
        """Send a query; arguments that are None or empty are omitted."""
        given = {key: value for key, value in query.items() if value not in (None, "", False)}
        return self._ask("GET", f"{path}?{urllib.parse.urlencode(given)}" if given else path, None)

    def post(self, path: str, **body: Any) -> Any:
        """Send a command."""
        return self._ask("POST", path, json.dumps(body).encode())

    def follow(self, path: str, **query: Any) -> Iterator[Any]:
        """Yield the answers of a growing listing, each continuing after the one before; never ends by itself."""
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
            document = numbers.loads(raw)
        except ValueError as error:
            raise CommandFailed(f"the server at {self._path} is not a runnerd daemon", exit=Exit.UNREACHABLE) from error
        if answer.status >= 400:
            raise _failure(answer.status, document)
        if not isinstance(document, dict):
            raise CommandFailed(f"the server at {self._path} is not a runnerd daemon", exit=Exit.UNREACHABLE)
        return document

    def _unreachable(self, error: Exception) -> str:
        if isinstance(error, PermissionError):
            return f"{self._path}: permission denied; run this as the user of the daemon or as root"
        if isinstance(error, FileNotFoundError):
            why = "the socket does not exist"
        elif isinstance(error, ConnectionRefusedError):
            why = "no process listens"
        elif isinstance(error, TimeoutError):
            why = f"no answer within {self._timeout:.0f} s"
        else:
            why = str(error) or type(error).__name__
        return (
            f"no daemon at {self._path}: {why}. Start it with `runnerd run`, or name its --config or --socket "
            "(RUNNERD_CONFIG names the file for all commands)"
        )


def connect(socket_file: str | None, config_file: str | None, *, timeout: float = TIMEOUT_S) -> Client:
    """Return the client of the daemon that the options of a command name.  Nothing is sent yet."""
    return Client(socket_path(socket=socket_file, config=config_file), timeout=timeout)


def segment(name: str) -> str:
    """Return a name as one segment of a path."""
    return urllib.parse.quote(name, safe="")


def _failure(status: int, document: Any) -> errors.RunnerdError:
    body = document if isinstance(document, dict) else {}
    message = str(body.get("error") or f"the daemon answered {status}")
    if status == 422:
        return CommandFailed("\n".join([message + ":", *map(str, body.get("problems", ()))]), exit=Exit.USAGE)
    if status == 400:
        return CommandFailed(message, exit=Exit.USAGE)
    if status == 503:
        return CommandFailed(message, exit=Exit.STATE)
    if status >= 500:
        return CommandFailed(message, exit=Exit.INTERNAL)
    return errors.Refused(message, status=status)
