"""The simulated cloud's memory on disk: one JSON array per line, appended under a file lock and replayed at start.

A killed process loses nothing that it wrote, and a line that it wrote half is cut off by the next reader.  Several
processes may share a journal; each reads what the others appended before it acts.  Not synced to the disk: this
cloud need not survive a power cut.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

#: One change: its name, then its arguments.
Entry = list[Any]


class Journal:
    """An append-only file of changes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = -1
        self._file = -1
        self._inode = 0
        self._offset = 0
        #: Entries read or written so far in the current file.
        self.length = 0

    def open(self) -> None:
        """Make the files.  Idempotent."""
        if self._lock < 0:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = os.open(self._path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def close(self) -> None:
        """Let go of the files.  Idempotent."""
        for handle in (self._file, self._lock):
            if handle >= 0:
                os.close(handle)
        self._file = self._lock = -1
        self._inode = 0

    def acquire(self) -> bool:
        """Take the lock without waiting; False when another process has it."""
        self.open()
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def release(self) -> None:
        """Let the next one in."""
        fcntl.flock(self._lock, fcntl.LOCK_UN)

    def news(self) -> tuple[bool, list[Entry]]:
        """Return the entries appended since the last read; True first when all are to be read anew.  Needs the lock."""
        try:
            inode = os.stat(self._path).st_ino
        except FileNotFoundError:
            inode = 0
        anew = False
        if inode == 0 or inode != self._inode:
            if self._file >= 0:
                os.close(self._file)
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            self._inode = os.fstat(self._file).st_ino
            self._offset = self.length = 0
            anew = True
        size = os.fstat(self._file).st_size
        if size <= self._offset:
            return anew, []
        content = b""
        while len(content) < size - self._offset:
            part = os.pread(self._file, size - self._offset - len(content), self._offset + len(content))
            if not part:
                break
            content += part
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            # The process that wrote that line is dead: this one holds the lock.
            os.ftruncate(self._file, self._offset + whole)
        entries: list[Entry] = [json.loads(line) for line in content[:whole].splitlines()]
        self._offset += whole
        self.length += len(entries)
        return anew, entries

    def append(self, entries: Iterable[Entry]) -> None:
        """Write changes.  Needs the lock, and :meth:`news` to have been read."""
        lines = [json.dumps(entry, separators=(",", ":")) for entry in entries]
        data = "".join(line + "\n" for line in lines).encode()
        written = os.write(self._file, data)
        if written != len(data):
            os.ftruncate(self._file, self._offset)
            raise OSError(f"{self._path}: only {written} of {len(data)} bytes could be written")
        self._offset += written
        self.length += len(lines)

    def rewrite(self, entries: Iterable[Entry]) -> None:
        """Replace all that was written by fewer changes with the same result.  Needs the lock."""
        draft = self._path.with_suffix(".draft")
        with open(draft, "w", encoding="utf-8") as file:
            for entry in entries:
                file.write(json.dumps(entry, separators=(",", ":")) + "\n")
        os.replace(draft, self._path)
