"""Everything a command uses besides the network: environment, streams, directory, time, randomness and git.

Kept in one object so that tests run a whole command without changing the process.
Secrets are registered here once, and :class:`Context` masks them in every line that it prints.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import subprocess
import sys
import time
import typing
import uuid

#: Verbosity by the names of ``--log``.
LEVELS = {"error": 0, "warn": 1, "info": 2, "debug": 3}

#: Shorter secrets are not masked: that would mangle every line with the same letters.
_SHORTEST_SECRET = 4

#: Seconds that one git command may take.
_GIT_TIMEOUT = 30.0


def _new_uuid() -> str:
    return str(uuid.uuid4())


@dataclasses.dataclass
class Context:
    """The surroundings of one invocation."""

    #: Environment variables; commands never write to them.
    env: typing.Mapping[str, str] = dataclasses.field(default_factory=lambda: dict(os.environ))
    #: Where relative paths start.
    directory: pathlib.Path = dataclasses.field(default_factory=pathlib.Path.cwd)
    stdout: typing.TextIO = dataclasses.field(default_factory=lambda: sys.stdout)
    stderr: typing.TextIO = dataclasses.field(default_factory=lambda: sys.stderr)
    #: Waits that many seconds.
    sleep: typing.Callable[[float], None] = time.sleep
    #: The wall clock in unix seconds; needed because forges state the end of a rate limit as a time of day.
    now: typing.Callable[[], float] = time.time
    #: A fresh uuid4 as text.
    new_uuid: typing.Callable[[], str] = _new_uuid
    #: One of :data:`LEVELS`.
    level: str = "info"
    _secrets: list[str] = dataclasses.field(default_factory=list)

    def keep_secret(self, value: str) -> None:
        """Mask this value in everything printed from now on, standard output excepted."""
        if len(value) >= _SHORTEST_SECRET and value not in self._secrets:
            self._secrets.append(value)

    def masked(self, text: str) -> str:
        """Return the text with every known secret replaced."""
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text

    def out(self, text: str) -> None:
        """Print a result, for people and for the next command of a script."""
        print(text, file=self.stdout, flush=True)

    def error(self, text: str) -> None:
        self._say("error", text)

    def warn(self, text: str) -> None:
        self._say("warn", text)

    def info(self, text: str) -> None:
        self._say("info", text)

    def debug(self, text: str) -> None:
        self._say("debug", text)

    def annotate(self, text: str) -> None:
        """Print a warning as a GitHub workflow command; it shows on the run's page."""
        print(f"::warning::{self.masked(text)}", file=self.stderr, flush=True)

    def _say(self, level: str, text: str) -> None:
        if LEVELS[level] <= LEVELS.get(self.level, LEVELS["info"]):
            print(f"cml: {level}: {self.masked(text)}", file=self.stderr, flush=True)

    def git(self, *arguments: str) -> str | None:
        """Return the output of git in this directory; None if git is missing, fails, or prints nothing.

        ``safe.directory`` is passed for the one call. Upstream writes it to the user's global configuration
        instead, which outlives the job on a machine that is used again.
        """
        env = dict(self.env)
        env.update(GIT_CONFIG_COUNT="1", GIT_CONFIG_KEY_0="safe.directory", GIT_CONFIG_VALUE_0="*")
        try:
            done = subprocess.run(
                ["git", *arguments],
                cwd=self.directory,
                env=env,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_GIT_TIMEOUT,
                check=False,
            )
        except (OSError, subprocess.SubprocessError):
            return None
        answer = done.stdout.decode("utf-8", "replace").strip()
        return answer if done.returncode == 0 and answer else None
