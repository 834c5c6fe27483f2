"""The executables on a job's PATH: ``cml`` and its old names.

Upstream's npm install has six aliases and its binary none (reference section 3.1); jobs of either kind find
what they call.
"""

from __future__ import annotations

import os
import pathlib
import shlex

#: Every name that upstream ever installed; those without a built-in command name a replacement and exit with 1.
NAMES = (
    "cml",
    "cml-publish",
    "cml-send-comment",
    "cml-send-github-check",
    "cml-pr",
    "cml-runner",
    "cml-tensorboard-dev",
)

#: Runs the package from a directory; ``-I`` ignores the job's PYTHON* variables and working directory.
_FROM_DIRECTORY = "import sys; sys.path.insert(0, sys.argv.pop(1)); from runnerd.agent import cml; sys.exit(cml.main())"


def install(directory: str | os.PathLike[str], python: str, bundle: str | os.PathLike[str]) -> list[pathlib.Path]:
    """Write one executable per name in :data:`NAMES`, replacing what is there, and return their paths.

    :param directory: where to write; made if missing. Put it on the job's PATH.
    :param python: absolute path of a Python of 3.9 or newer.
    :param bundle: absolute path of the agent's zipapp, run as ``python bundle cml ARGUMENTS``, or of a
    directory that holds
        the package ``runnerd``.
    """
    place = pathlib.Path(directory)
    place.mkdir(parents=True, exist_ok=True)
    bundle = pathlib.Path(bundle)
    written = []
    for name in NAMES:
        path = place / name
        fresh = place / f".{name}.new"
        fresh.write_text(_script(name, python, bundle), encoding="utf-8")
        fresh.chmod(0o755)
        # Replaced atomically: a job may be running the old one.
        fresh.replace(path)
        written.append(path)
    return written


def _script(name: str, python: str, bundle: pathlib.Path) -> str:
    if bundle.is_dir():
        command = [python, "-I", "-c", _FROM_DIRECTORY, str(bundle)]
    else:
        command = [python, "-I", str(bundle), "cml"]
    words = [name[len("cml-") :]] if name.startswith("cml-") else []
    quoted = " ".join(shlex.quote(word) for word in (*command, *words))
    return f'#!/bin/sh\nexec {quoted} "$@"\n'
