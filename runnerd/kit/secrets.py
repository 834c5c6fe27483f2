"""Secrets by reference, and the mask that keeps them out of what people read.

The configuration holds where a secret is (`file:`, `env:`, `credential:`), never what it is. A value is
read when it is used, so that a rotated file takes effect without a restart, and is told to the mask at
that moment. A `Secret` refuses to be printed, copied into a pickle or written as JSON with its value.
"""

from __future__ import annotations

import collections
import contextlib
import enum
import logging
import os
import re
import stat
import urllib.parse
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from runnerd import errors

#: What stands where a secret was.
MASK = "***"

#: Values shorter than this are not masked by value: the mask would destroy ordinary words.
SHORTEST = 6

#: A secret file larger than this is not a secret but a mistake; bytes.
LARGEST_FILE = 64 * 1024

#: How many short-lived values (derived tokens) the mask remembers by value; the oldest is forgotten first.
REMEMBERED = 512

#: Names an environment variable or a systemd credential may have.
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.@-]*\Z")

_WRITE = "write file:/path, env:NAME or credential:NAME"


class Source(enum.Enum):
    """Where the value of a secret lives."""

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
        """Where the value lives."""
        return self._source

    @property
    def reference(self) -> str:
        """The reference as written, for example `file:/etc/runnerd/app.pem`; safe to show."""
        return f"{self._source.value}:{self._name}"

    @property
    def place(self) -> str:
        """The spot in the configuration that names this secret, or an empty text."""
        return self._place

    def at(self, place: str) -> Secret:
        """The same secret, knowing the spot that names it."""
        return Secret(self.reference, base=self._base, environ=self._environ, place=place)

    @property
    def path(self) -> Path | None:
        """The file behind the secret; None for an environment variable or a missing credentials directory."""
        if self._source is Source.FILE:
            return self._base / self._name
        if self._source is Source.CREDENTIAL:
            directory = self._environ.get("CREDENTIALS_DIRECTORY", "")
            return Path(directory) / self._name if directory else None
        return None

    def reveal(self) -> str:
        """Read the value now, without its final newline, and tell it to the mask.

        Raises errors.SecretMissing, naming reference, place and remedy, when it is absent, unreadable or
        empty.
        """
        value = self._read()
        value = value.removesuffix("\n").removesuffix("\r")
        if not value.strip():
            self._missing("it is empty", "put the secret there")
        learn(value, lasting=True)
        return value

    def exposed(self) -> str | None:
        """Say how others on this host may read the file behind the secret; None when they may not."""
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
            found = self._environ.get(self._name)
            if found is None:
                self._missing("the variable is not set", f"set {self._name} in the environment of the daemon")
            return found
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
                data = file.read(LARGEST_FILE + 1)
        except OSError as error:
            remedy = f"let the user of the daemon read {path}"
            self._missing(error.strerror or type(error).__name__, remedy, cause=error)
        if len(data) > LARGEST_FILE:
            self._missing(f"the file is larger than {LARGEST_FILE} bytes", "point to the file of the secret alone")
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
        return MASK

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return format(MASK, spec)

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError("a secret is not pickled; pass its reference")


def make_key(path: Path) -> Secret:
    """The key in that file, made with mode 0600 when there is none yet; two daemons that start at once get the same.

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


#: Shapes of tokens that are masked wherever they stand, known to us or not. GitHub: "Behind GitHub's new
#: authentication token formats" (2021); GitLab: token prefixes in its token overview page.
_SHAPES = re.compile(
    r"""
      \b(?:ghp|gho|ghu|ghs|ghr)_[A-Za-z0-9]{16,255}\b
    | \bgithub_pat_[A-Za-z0-9_]{20,255}\b
    | \bgl(?:pat|rt|dt|cbt|ptt|ft|soat|rtr|agent|oas|ffct|imt)-[A-Za-z0-9_.=-]{8,400}
    | \bwhsec_[A-Za-z0-9+/=_-]{8,200}
    | \beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{4,}(?:\.[A-Za-z0-9_-]*)?
    | -----BEGIN[ ][A-Z ]*PRIVATE[ ]KEY-----.*?(?:-----END[ ][A-Z ]*PRIVATE[ ]KEY-----|\Z)
    """,
    re.VERBOSE | re.DOTALL,
)

#: Headers and parameters whose value is a credential whatever it looks like. The name stays readable.
_HEADERS = re.compile(
    r"""(?ix)
    ( (?:["']?)\b(?:(?:proxy-)?authorization|x-gitlab-token|(?:private|job|runner)-token)\b(?:["']?)
      \s*[:=]\s* (?:b?["'])? (?:(?:bearer|basic|token|remoteauth)\s+)? )
    [^\s"',;}\]]{1,4096}
    """
)
_BEARER = re.compile(r"(?i)\b((?:bearer|remoteauth)\s+)(?=[^\s\"',;]*\d)[A-Za-z0-9._~+/=-]{12,}")
_PARAMETERS = re.compile(r"(?i)([?&](?:private_token|job_token|access_token|token|secret)=)[^&\s\"'#]+")
_USERINFO = re.compile(r"(?i)\b([a-z][a-z0-9+.-]*://[^/\s:@\"']*:)[^@/\s\"']+(?=@)")


class Mask:
    """Replaces known secret values and token shapes in text. Remembers values in this process only."""

    def __init__(self) -> None:
        self._lasting: dict[str, None] = {}
        self._recent: collections.OrderedDict[str, None] = collections.OrderedDict()

    def learn(self, value: str, *, lasting: bool = False) -> None:
        """Mask this value from now on; `lasting` ones (configured secrets) are never forgotten."""
        for form in _forms(value):
            if lasting:
                self._lasting[form] = None
            else:
                self._recent[form] = None
                self._recent.move_to_end(form)
        while len(self._recent) > REMEMBERED:
            self._recent.popitem(last=False)

    def redact(self, text: str) -> str:
        """The text with every known secret and every token shape replaced by `***`."""
        found = [form for known in (self._lasting, self._recent) for form in known if form in text]
        # Longest first: a secret may be a part of another.
        for form in sorted(found, key=len, reverse=True):
            text = text.replace(form, MASK)
        text = _SHAPES.sub(MASK, text)
        text = _HEADERS.sub(rf"\g<1>{MASK}", text)
        text = _BEARER.sub(rf"\g<1>{MASK}", text)
        text = _PARAMETERS.sub(rf"\g<1>{MASK}", text)
        return _USERINFO.sub(rf"\g<1>{MASK}", text)


def _forms(value: str) -> set[str]:
    """The value and the ways it looks when quoted: percent-encoded, with escaped line breaks, line by
    line."""
    forms = {value, urllib.parse.quote(value, safe=""), value.replace("\n", "\\n")}
    if "\n" in value:
        forms.update(line for line in value.splitlines() if len(line) >= 16)
    return {form for form in forms if len(form) >= SHORTEST}


_mask = Mask()


def learn(value: str, *, lasting: bool = False) -> None:
    """Tell this process's mask a value (for example a token it derived); see `Mask.learn`."""
    _mask.learn(value, lasting=lasting)


def redact(text: str) -> str:
    """The text with every secret known to this process, and every token shape, replaced by `***`."""
    return _mask.redact(text)


#: Attributes of every log record; what else a record carries came in by `extra=` and is masked too.
_PLAIN = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


class RedactingFilter(logging.Filter):
    """Masks message, extra fields and traceback of a record. Belongs on handlers: a logger's own filter
    does not see the records of the loggers below it."""

    _formatter = logging.Formatter()

    def filter(self, record: logging.LogRecord) -> bool:
        """Rewrite the record in place; always lets it pass."""
        try:
            message = record.getMessage()
        except (TypeError, ValueError, KeyError):
            message = f"{record.msg!s} {record.args!r}"
        record.msg = redact(message)
        record.args = None
        if record.exc_info and not record.exc_text:
            record.exc_text = self._formatter.formatException(record.exc_info)
        if record.exc_text:
            record.exc_text = redact(record.exc_text)
        if record.stack_info:
            record.stack_info = redact(record.stack_info)
        for key, value in record.__dict__.items():
            if key not in _PLAIN:
                record.__dict__[key] = _redact_value(value)
        return True


def _redact_value(value: Any) -> Any:
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        return {key: _redact_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_redact_value(item) for item in value]
    if value is None or isinstance(value, bool | int | float | Secret):
        return value
    return redact(str(value))
