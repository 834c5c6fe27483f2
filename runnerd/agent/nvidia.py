"""What NVIDIA's driver says of the GPUs: which there are, and how busy they are.

Refuses to guess: a tool that is missing, hangs or fails is an answer of its own.
"""

from __future__ import annotations

import pathlib
import re
import subprocess
import typing
from dataclasses import dataclass

_PROC = pathlib.Path("/proc/driver/nvidia/gpus")


class Silent(Exception):
    """The driver does not answer."""


def _ask(*arguments: str, timeout: float) -> str:
    try:
        done = subprocess.run(
            ("nvidia-smi", *arguments),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout,
            check=False,
        )
    except FileNotFoundError:
        raise Silent("there is no nvidia-smi on the PATH") from None
    except subprocess.TimeoutExpired:
        raise Silent(f"nvidia-smi does not answer within {timeout:g} seconds") from None
    except OSError as error:
        raise Silent(f"nvidia-smi cannot be run: {error}") from None
    text = done.stdout.decode("utf-8", "replace")
    if done.returncode != 0:
        said = " ".join(text.split())[:300]
        raise Silent(f"nvidia-smi failed with status {done.returncode}: {said}")
    return text


def models(*, timeout: float = 20.0, proc: pathlib.Path = _PROC) -> list[str]:
    """The model of each GPU.  Raises :class:`Silent` when neither nvidia-smi nor the driver's files answer."""
    try:
        return listed(_ask("-L", timeout=timeout))
    except Silent as error:
        found = []
        for path in sorted(proc.glob("*/information")):
            try:
                text = path.read_text(encoding="utf-8", errors="replace")
            except OSError:
                continue
            model = re.search(r"^Model:\s*(.+?)\s*$", text, re.MULTILINE)
            found.append(model[1] if model else "")
        # A GPU that fell off its bus makes nvidia-smi fail while the file still names it.
        if found and "no nvidia-smi" in str(error):
            return found
        raise


def listed(text: str) -> list[str]:
    """The models in the output of ``nvidia-smi -L``; parts of a GPU (MIG) are not GPUs."""
    return re.findall(r"^GPU \d+: (.+?) \(UUID: [^)]*\)\s*$", text, re.MULTILINE)


@dataclass(frozen=True)
class Use:
    """How busy the GPUs were at one moment."""

    #: Mean over the GPUs, in percent.
    busy: float
    #: Mebibytes over all GPUs.
    memory: float
    total: float


def use(*, timeout: float = 5.0) -> Use:
    """Raises :class:`Silent`."""
    return used(
        _ask("--query-gpu=utilization.gpu,memory.used,memory.total", "--format=csv,noheader,nounits", timeout=timeout)
    )


def used(text: str) -> Use:
    """Read the answer to the query.  Raises :class:`Silent`."""
    rows = []
    for line in text.splitlines():
        try:
            busy, memory, total = (_number(part) for part in line.split(","))
        except ValueError:
            # "[N/A]": a GPU in MIG mode tells no utilisation.
            continue
        rows.append((busy, memory, total))
    if not rows:
        raise Silent("nvidia-smi tells no utilisation")
    return Use(sum(row[0] for row in rows) / len(rows), sum(row[1] for row in rows), sum(row[2] for row in rows))


class Meter:
    """Takes samples while a job runs and writes one line about them."""

    def __init__(self, target: pathlib.Path, *, look: typing.Callable[[], Use] = use) -> None:
        self._target, self._look = target, look
        self._count = 0
        self._busy = self._peak = self._memory = 0.0
        self._broken = False

    def sample(self) -> None:
        """Take one; after a failure none is taken any more, for it may have cost seconds."""
        if self._broken:
            return
        try:
            one = self._look()
        except Silent:
            self._broken = True
            return
        self._count += 1
        self._busy += one.busy
        self._peak = max(self._peak, one.busy)
        self._memory = max(self._memory, one.memory)
        text = (
            f"{self._busy / self._count:.0f} % busy on average, {self._peak:.0f} % at most; "
            f"memory {self._memory / 1024:.1f} of {one.total / 1024:.1f} GiB\n"
        )
        draft = self._target.with_suffix(".new")
        try:
            draft.write_text(text, encoding="utf-8")
            draft.chmod(0o644)
            draft.replace(self._target)
        except OSError:
            self._broken = True


def _number(text: str) -> float:
    found = float(text)
    if not 0 <= found < 1e15 or not text.isascii() or "_" in text:
        raise ValueError(f"{text!r} is not a reading")
    return found
