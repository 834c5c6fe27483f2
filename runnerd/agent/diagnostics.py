"""The agent's log and its final diagnostics, with every secret redacted before a byte is written or sent."""

from __future__ import annotations

import logging
import pathlib
import re
import sys
import threading

#: Bytes of diagnostics that the daemon accepts.
LIMIT = 256 * 1024
_LOG_LIMIT = 4 * 1024 * 1024
#: Forms of credentials: ours, GitHub's, GitLab's, JSON web tokens, and the values of Authorization headers.
_FORMS = re.compile(
    r"r[bs]1\.[A-Za-z0-9_.-]{16,}"
    r"|gh[pousr]_[A-Za-z0-9]{16,}|github_pat_[A-Za-z0-9_]{16,}"
    r"|gl[a-z]{2,8}-[A-Za-z0-9_.-]{16,}"
    r"|eyJ[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]+)*"
    r"|(?i:\b(?:bearer|basic) [A-Za-z0-9+/_.=-]{8,})"
)
_SECRET_NAME = re.compile(r"(?i)token|jit|secret|passw|credential|auth|private|_key$|apikey")


class Secrets:
    """The values to redact.  Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._values: list[str] = []

    def add(self, *values: str) -> None:
        with self._lock:
            fresh = {value for value in values if len(value) >= 6} | set(self._values)
            # Longest first: one may be a part of another.
            self._values = sorted(fresh, key=len, reverse=True)

    def learn(self, environment: dict[str, str]) -> None:
        """Add the values of variables whose names mark them as secret."""
        self.add(*(value for name, value in environment.items() if _SECRET_NAME.search(name)))

    def redact(self, text: str) -> str:
        with self._lock:
            values = list(self._values)
        for value in values:
            text = text.replace(value, "***")
        return _FORMS.sub("***", text)


class _Formatter(logging.Formatter):
    def __init__(self, secrets: Secrets) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")
        self._secrets = secrets

    def format(self, record: logging.LogRecord) -> str:
        # Tracebacks are part of the formatted text, so they are redacted too.
        return self._secrets.redact(super().format(record))


def start_log(path: pathlib.Path, secrets: Secrets) -> logging.Logger:
    """Log to standard error and to a file that only the agent's user can read; return the agent's root logger."""
    root = logging.getLogger("agent")
    root.setLevel(logging.INFO)
    root.propagate = False
    stop_log()
    try:
        if path.stat().st_size > _LOG_LIMIT:
            path.replace(path.with_suffix(".log.1"))
    except FileNotFoundError:
        pass
    path.touch(mode=0o600)
    path.chmod(0o600)
    for handler in (logging.StreamHandler(sys.stderr), logging.FileHandler(path, encoding="utf-8")):
        handler.setFormatter(_Formatter(secrets))
        root.addHandler(handler)
    return root


def stop_log() -> None:
    """Close the log's handlers."""
    root = logging.getLogger("agent")
    for handler in list(root.handlers):
        root.removeHandler(handler)
        handler.close()


def tail(path: pathlib.Path, limit: int) -> str:
    """Return the end of a file; empty when there is none."""
    try:
        with open(path, "rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - limit))
            return file.read(limit).decode("utf-8", "replace")
    except OSError:
        return ""


def collect(
    title: str, agent_log: pathlib.Path, runner_log: pathlib.Path, secrets: Secrets, *, runner_root: str = ""
) -> bytes:
    """Return the diagnostics: tails of the agent's log, the runner's output and the GitHub listener's own log."""
    parts = [title, "", "--- agent", tail(agent_log, 64 * 1024), "--- runner", tail(runner_log, 96 * 1024)]
    if runner_root:
        # The worker's log contains the job message, and with it the job's secrets: not sent.
        logs = sorted(pathlib.Path(runner_root).glob("_diag/Runner_*.log"))
        if logs:
            parts += [f"--- {logs[-1].name}", tail(logs[-1], 64 * 1024)]
    return secrets.redact("\n".join(parts)).encode("utf-8", "replace")[-LIMIT:]
