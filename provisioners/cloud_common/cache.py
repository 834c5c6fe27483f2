"""Answers of a cloud that are kept for a time, so that an offer costs no call.

All of them can be asked for again.  What a deletion depends on is durable state and does not belong here.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

from provisioners import base
from provisioners.support import jsonfile, numbers

log = logging.getLogger(__name__)

_T = TypeVar("_T")

#: Seconds that an answer serves as a rule, and until a failed question is asked again while an old answer serves.
DAY_S, RETRY_S = 86400.0, 300.0
_FORMAT = 2

#: ``kind:name`` -> (answer, when it was given).
Answers = dict[str, tuple[Any, float]]


class Cache:
    """Answers by kind and name, each with its time; kept in a file where there is a directory.

    ``older`` reads the document of version 0.1, which is in ``older_file`` or in the file itself.
    """

    def __init__(
        self,
        directory: str,
        file: str,
        *,
        now: Callable[[], float],
        older: Callable[[Any], Answers] | None = None,
        older_file: str = "",
    ) -> None:
        self._file = jsonfile.Notes(directory, file)
        self._now = now
        self._older = older
        self._answers: Answers = {}
        #: ``kind:name`` -> (why the last question failed, when).
        self._failed: dict[str, tuple[base.ProvisionError, float]] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self._file.load(self._take)
        if older_file and not self._answers:
            jsonfile.Notes(directory, older_file).load(self._take_older)

    def _take(self, kept: Any) -> None:
        if kept.get("format") == _FORMAT:
            self._answers = {key: (value, numbers.must(at)) for key, (value, at) in kept["answers"].items()}
        else:
            self._take_older(kept)

    def _take_older(self, kept: Any) -> None:
        if self._older is not None:
            self._answers = {key: (value, numbers.must(at)) for key, (value, at) in self._older(kept).items()}
            self._save()

    def _save(self) -> None:
        if self._answers:
            self._file.save({"format": _FORMAT, "answers": self._answers})

    def fresh(self, kind: str, name: str, *, fresh_s: float = DAY_S) -> Any:
        """Return the answer; None where there is none younger than ``fresh_s``."""
        value, at = self._answers.get(f"{kind}:{name}", (None, 0.0))
        return value if value is not None and self._now() - at < fresh_s else None

    def put(self, kind: str, answers: Mapping[str, Any]) -> None:
        """Keep answers by name."""
        now = self._now()
        for name, value in answers.items():
            self._answers[f"{kind}:{name}"] = (value, now)
            self._failed.pop(f"{kind}:{name}", None)
        if answers:
            self._save()

    async def get(
        self,
        kind: str,
        name: str,
        ask: Callable[[], Awaitable[_T]],
        *,
        fresh_s: float = DAY_S,
        first_retry_s: float = 0.0,
    ) -> _T:
        """Return a fresh answer, asked for where there is none.

        Callers at the same time share one question.  While it fails, the old answer serves and the question is asked
        again after a pause; without an old answer :class:`base.ProvisionError` is raised, and for ``first_retry_s``
        seconds the same one again without asking.
        """
        key = f"{kind}:{name}"
        async with self._locks.setdefault(key, asyncio.Lock()):
            known: _T | None = self.fresh(kind, name, fresh_s=fresh_s)
            if known is not None:
                return known
            old: _T | None = self._answers[key][0] if key in self._answers else None
            error, failed_at = self._failed.get(key, (None, 0.0))
            if error is not None and self._now() - failed_at < (first_retry_s if old is None else RETRY_S):
                if old is None:
                    raise error
                return old
            try:
                value = await ask()
            except base.ProvisionError as error:
                self._failed[key] = (error, self._now())
                if old is None:
                    raise
                log.warning("%s %s could not be looked up again, the old answer serves: %s", kind, name, error)
                return old
            self.put(kind, {name: value})
            return value
