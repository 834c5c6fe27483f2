"""The agent as one file: a reproducible zip archive of its package that any Python runs."""

from __future__ import annotations

import hashlib
import io
import zipfile
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable

_MAIN = "from runnerd.agent.__main__ import main\nraise SystemExit(main())\n"
_PACKAGE = '"""The part of runnerd that runs on an instance."""\n'


@dataclass(frozen=True, slots=True)
class Bundle:
    """The archive and its hash, by which instances fetch it."""

    data: bytes
    sha256: str


def build() -> Bundle:
    """Pack the agent package, and nothing else of runnerd."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        _add(archive, "__main__.py", _MAIN.encode())
        _add(archive, "runnerd/__init__.py", _PACKAGE.encode())
        for name, data in sorted(_files(resources.files("runnerd.agent"), "runnerd/agent")):
            _add(archive, name, data)
    data = target.getvalue()
    return Bundle(data, hashlib.sha256(data).hexdigest())


def _files(folder: Traversable, prefix: str) -> list[tuple[str, bytes]]:
    files = []
    for entry in folder.iterdir():
        name = f"{prefix}/{entry.name}"
        if entry.is_dir():
            if entry.name != "__pycache__":
                files += _files(entry, name)
        elif entry.name.endswith(".py"):
            files.append((name, entry.read_bytes()))
    return files


def _add(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    # A fixed date: the hash depends on the source alone.
    info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
    info.compress_type = zipfile.ZIP_DEFLATED
    archive.writestr(info, data)
