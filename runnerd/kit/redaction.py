"""The mask that keeps secrets out of logs, answers and records.

Values that this process has read or derived are masked by value, tokens of known shape and credentials in headers and
URLs by pattern. Values are remembered in this process only.
"""

from __future__ import annotations

import collections
import logging
import re
import urllib.parse
from collections.abc import Mapping
from typing import Any

#: Stands in the place of a secret.
MASK = "***"

#: Values with fewer characters are not masked by value: the mask would destroy ordinary words.
SHORTEST = 6

#: The number of short-lived values (derived tokens) that are remembered; the oldest is forgotten first.
REMEMBERED = 512

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

#: Headers and parameters whose value is a credential in any form. The name stays readable.
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
        """Return the text with every known secret and every token shape replaced by `***`."""
        present = [form for known in (self._lasting, self._recent) for form in known if form in text]
        # Longest first: a secret may be a part of another.
        for form in sorted(present, key=len, reverse=True):
            text = text.replace(form, MASK)
        text = _SHAPES.sub(MASK, text)
        text = _HEADERS.sub(rf"\g<1>{MASK}", text)
        text = _BEARER.sub(rf"\g<1>{MASK}", text)
        text = _PARAMETERS.sub(rf"\g<1>{MASK}", text)
        return _USERINFO.sub(rf"\g<1>{MASK}", text)


def _forms(value: str) -> set[str]:
    """Return the value as it is and as it is quoted: percent-encoded, with escaped line breaks, line by line."""
    forms = {value, urllib.parse.quote(value, safe=""), value.replace("\n", "\\n")}
    if "\n" in value:
        forms.update(line for line in value.splitlines() if len(line) >= 16)
    return {form for form in forms if len(form) >= SHORTEST}


_mask = Mask()


def learn(value: str, *, lasting: bool = False) -> None:
    """Mask a value, for example a derived token, in this process from now on; see `Mask.learn`."""
    _mask.learn(value, lasting=lasting)


def redact(text: str) -> str:
    """Return the text with every secret known to this process, and every token shape, replaced by `***`."""
    return _mask.redact(text)


#: Attributes of every log record; all others came in by `extra=` and are masked too.
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
    if value is None or isinstance(value, bool | int | float):
        return value
    return redact(str(value))
