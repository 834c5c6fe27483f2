"""Secrets by reference.

The configuration holds where a secret is (`file:`, `env:`, `credential:`), never its value. The value is read when it
is used, so that a rotated file takes effect without a restart, and is masked in logs and answers from that moment on
(`redaction`). A `Secret` refuses to be printed, copied into a pickle or written as JSON with its value.
"""

from __future__ import annotations

import contextlib
import enum
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from runnerd import errors
from runnerd.kit import redaction

#: The largest file of a secret, in bytes; a larger one is a mistake.
LARGEST_FILE_BYTES = 64 * 1024

#: Names an environment variable or a systemd credential may have.
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.@-]*\Z")

_WRITE = "write file:/path, env:NAME or credential:NAME"


class Source(enum.Enum):
    """The place that a secret is read from."""

    #: A file, read each time the secret is used.
    FILE = "file"
    #: An environment variable of the daemon.
    ENV = "env"
    #: A file in `$CREDENTIALS_DIRECTORY`, put there by systemd's `LoadCredential=`.
    CREDENTIAL = "credential"


class Secret:
    """A reference to a secret. Equal references are equal secrets; the value takes no part.

    `base` is the directory that a relative `file:` path starts from, `environ` the environment to read,
    `place` the spot in the configuration that names the reference (for messages).
    """

    __slots__ = ("_base", "_environ", "_name", "_place", "_source")

    _source: Source
    _name: str
    _base: Path
    _environ: Mapping[str, str]
    _place: str

    def __init__(
        self,
        reference: str,
        *,
        base: Path | None = None,
        environ: Mapping[str, str] | None = None,
        place: str = "",
    ) -> None:
        """Take a reference. Raises ValueError, without echoing the text, when it is a value and not a
        reference."""
        source, name = split_reference(reference)
        self._source = source
        self._name = name
        self._base = Path.cwd() if base is None else base
        self._environ = os.environ if environ is None else environ
        self._place = place

    @property
    def source(self) -> Source:
        """Return the kind of place that the value is read from."""
        return self._source

    @property
    def reference(self) -> str:
        """Return the reference as written, for example `file:/etc/runnerd/app.pem`; safe to show."""
        return f"{self._source.value}:{self._name}"

    @property
    def place(self) -> str:
        """Return the spot in the configuration that names this secret, or an empty text."""
        return self._place

    def at(self, place: str) -> Secret:
        """Return the same secret with the spot that names it."""
        return Secret(self.reference, base=self._base, environ=self._environ, place=place)

    @property
    def path(self) -> Path | None:
        """Return the file behind the secret; None for an environment variable or a missing credentials directory."""
        if self._source is Source.FILE:
            return self._base / self._name
        if self._source is Source.CREDENTIAL:
            directory = self._environ.get("CREDENTIALS_DIRECTORY", "")
            return Path(directory) / self._name if directory else None
        return None

    def reveal(self) -> str:
        """Read the value now, without its final newline; it is masked from now on.

        Raises errors.SecretMissing, naming reference, place and remedy, when it is absent, unreadable or
        empty.
        """
        value = self._read()
        value = value.removesuffix("\n").removesuffix("\r")
        if not value.strip():
            self._missing("it is empty", "put the secret there")
        redaction.learn(value, lasting=True)
        return value

    def exposed(self) -> str | None:
        """Describe the access that other users have to the file behind the secret; None when they have none."""
        path = self.path
        if path is None:
            return None
        try:
            mode = path.stat().st_mode
        except OSError:
            return None
        if mode & (stat.S_IROTH | stat.S_IWOTH):
            return f"{path} may be read or written by every user of this host (mode {stat.S_IMODE(mode):04o})"
        return None

    def _read(self) -> str:
        if self._source is Source.ENV:
            value = self._environ.get(self._name)
            if value is None:
                self._missing("the variable is not set", f"set {self._name} in the environment of the daemon")
            return value
        path = self.path
        if path is None:
            self._missing(
                "CREDENTIALS_DIRECTORY is not set",
                f"start the daemon from a systemd unit with LoadCredential={self._name}:/path",
            )
        try:
            if not path.is_file():
                self._missing("there is no such file", self._remedy(path))
            with path.open("rb") as file:
                data = file.read(LARGEST_FILE_BYTES + 1)
        except OSError as error:
            remedy = f"let the user of the daemon read {path}"
            self._missing(error.strerror or type(error).__name__, remedy, cause=error)
        if len(data) > LARGEST_FILE_BYTES:
            self._missing(
                f"the file is larger than {LARGEST_FILE_BYTES} bytes", "point to the file of the secret alone"
            )
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError:
            # The error holds the bytes of the secret, so it is not chained.
            self._missing("the file is not UTF-8 text", "store the secret as text")

    def _remedy(self, path: Path) -> str:
        if self._source is Source.CREDENTIAL:
            return f"add LoadCredential={self._name}:/path to the systemd unit"
        return f"write the secret to {path}, readable by the user of the daemon alone (mode 0600)"

    def _missing(self, why: str, remedy: str, *, cause: BaseException | None = None) -> NoReturn:
        where = f"{self._place}: " if self._place else ""
        raise errors.SecretMissing(f"{where}no secret at {self.reference}: {why}; {remedy}") from cause

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return (self._source, self._name, self.path) == (other._source, other._name, other.path)

    def __hash__(self) -> int:
        return hash((self._source, self._name))

    def __repr__(self) -> str:
        return redaction.MASK

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return format(redaction.MASK, spec)

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError("a secret is not pickled; pass its reference")


def make_key(path: Path) -> Secret:
    """Return the key in that file; creates it with mode 0600 if needed. Two daemons that start at once get the same.

    Raises errors.StoreUnwritable when it cannot be made.
    """
    if not path.exists():
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            draft.unlink(missing_ok=True)
            handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "w") as file:
                file.write(os.urandom(32).hex() + "\n")
                file.flush()
                os.fsync(file.fileno())
            # A link appears whole or not at all, and never replaces a key that is there.
            with contextlib.suppress(FileExistsError):
                os.link(draft, path)
            draft.unlink()
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            raise errors.StoreUnwritable(f"the key {path} cannot be made: {error.strerror or error}") from error
    return Secret(f"file:{path}", place="secret")


def split_reference(text: object) -> tuple[Source, str]:
    """Take a reference apart. Raises ValueError with what to write instead; the text itself is never
    echoed."""
    if not isinstance(text, str):
        raise ValueError(f"expected a reference to a secret; {_WRITE}")
    prefix, colon, name = text.partition(":")
    name = name.strip()
    try:
        source = Source(prefix)
    except ValueError:
        raise ValueError(f"a secret in the file; {_WRITE}") from None
    if not colon or not name:
        raise ValueError(f"the reference names nothing; {_WRITE}")
    if source is Source.FILE:
        if "\n" in name or "\0" in name:
            raise ValueError("a path has no line breaks; write file:/path")
        if name.startswith("//"):
            name = "/" + name.lstrip("/")
    elif not _NAME.match(name):
        # Not echoed: a value pasted behind `env:` is the likeliest reason.
        raise ValueError(f"what follows {source.value}: is not a name; write {source.value}:NAME")
    return source, name
