"""A JSON file that a provider keeps for its next start, always replaced as a whole.

Without a directory nothing is kept.  What is in such a file can be asked for again, so one that cannot be read or
written costs questions and a line in the log.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from provisioners.support import numbers

log = logging.getLogger(__name__)

#: The errors that a damaged file makes its reader raise.
DAMAGED = (OSError, ValueError, KeyError, TypeError, AttributeError)


class Notes:
    """One such file in the provider's directory."""

    def __init__(self, directory: str, name: str) -> None:
        self._path = Path(directory, name) if directory else None

    def load(self, take: Callable[[Any], None]) -> None:
        """Pass the document to ``take``; do nothing where there is no file, or one that ``take`` cannot use."""
        if self._path is None:
            return
        try:
            take(numbers.loads(self._path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return
        except DAMAGED as error:
            log.warning("%s cannot be used, and is made anew as its facts are asked for again: %r", self._path, error)

    def save(self, document: Any) -> None:
        """Write the document to the file; log an error."""
        if self._path is None:
            return
        try:
            replace(self._path, document)
        except OSError as error:
            log.warning("%s cannot be written; after a restart its facts are asked for again: %s", self._path, error)


def replace(path: Path, document: Any) -> None:
    """Put a document in the place of a file, in one step.  Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # The name beside it is fixed, so that a kill in the middle leaves one such file and not many.
    beside = path.with_name(f"{path.name}.new")
    with beside.open("w", encoding="utf-8") as file:
        json.dump(document, file, separators=(",", ":"), sort_keys=True)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
