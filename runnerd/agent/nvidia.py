"""The GPUs according to NVIDIA's driver: their models and their utilization.

Nothing is guessed: a tool that is missing, hangs or fails raises an error of its own.
"""

from __future__ import annotations

import pathlib
import re
import subprocess
import typing
from dataclasses import dataclass

_PROC = pathlib.Path("/proc/driver/nvidia/gpus")


class NoAnswer(Exception):
    """The driver gave no usable answer."""


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
        raise NoAnswer("there is no nvidia-smi on the PATH") from None
    except subprocess.TimeoutExpired:
        raise NoAnswer(f"nvidia-smi does not answer within {timeout:g} seconds") from None
    except OSError as error:
        raise NoAnswer(f"nvidia-smi cannot be run: {error}") from None
    text = done.stdout.decode("utf-8", "replace")
    if done.returncode != 0:
        output = " ".join(text.split())[:300]
        raise NoAnswer(f"nvidia-smi failed with status {done.returncode}: {output}")
    return text


def models(*, timeout: float = 20.0, proc: pathlib.Path = _PROC) -> list[str]:
    """Return the model of each GPU.  Raises :class:`NoAnswer` when neither nvidia-smi nor the driver's files answer."""
    try:
        return listed(_ask("-L", timeout=timeout))
    except NoAnswer as error:
        names = []
        for path in sorted(proc.glob("*/information")):
            try:
                text = path.read_text(encoding="utf-8", errors="replace")
            except OSError:
                continue
            model = re.search(r"^Model:\s*(.+?)\s*$", text, re.MULTILINE)
            names.append(model[1] if model else "")
        # A GPU that fell off its bus makes nvidia-smi fail while the file still names it.
        if names and "no nvidia-smi" in str(error):
            return names
        raise


def listed(text: str) -> list[str]:
    """Return the models in the output of ``nvidia-smi -L``; parts of a GPU (MIG) are not GPUs."""
    return re.findall(r"^GPU \d+: (.+?) \(UUID: [^)]*\)\s*$", text, re.MULTILINE)


@dataclass(frozen=True)
class Use:
    """Utilization of the GPUs at one moment."""

    #: Mean over the GPUs, in percent.
    busy: float
    #: Mebibytes over all GPUs.
    memory: float
    total: float


def use(*, timeout: float = 5.0) -> Use:
    """Return the current utilization.  Raises :class:`NoAnswer`."""
    return used(
        _ask("--query-gpu=utilization.gpu,memory.used,memory.total", "--format=csv,noheader,nounits", timeout=timeout)
    )


def used(text: str) -> Use:
    """Parse the answer to the query.  Raises :class:`NoAnswer`."""
    rows = []
    for line in text.splitlines():
        try:
            busy, memory, total = (_number(part) for part in line.split(","))
        except ValueError:
            # "[N/A]": a GPU in MIG mode reports no utilization.
            continue
        rows.append((busy, memory, total))
    if not rows:
        raise NoAnswer("nvidia-smi reports no utilization")
    return Use(sum(row[0] for row in rows) / len(rows), sum(row[1] for row in rows), sum(row[2] for row in rows))


class Meter:
    """Samples the utilization while a job runs and writes one line of summary."""

    def __init__(self, target: pathlib.Path, *, measure: typing.Callable[[], Use] = use) -> None:
        self._target, self._measure = target, measure
        self._count = 0
        self._busy = self._peak = self._memory = 0.0
        self._broken = False

    def sample(self) -> None:
        """Take a sample; none is taken after a failure, which may have cost seconds."""
        if self._broken:
            return
        try:
            reading = self._measure()
        except NoAnswer:
            self._broken = True
            return
        self._count += 1
        self._busy += reading.busy
        self._peak = max(self._peak, reading.busy)
        self._memory = max(self._memory, reading.memory)
        text = (
            f"{self._busy / self._count:.0f} % busy on average, {self._peak:.0f} % peak; "
            f"memory {self._memory / 1024:.1f} of {reading.total / 1024:.1f} GiB\n"
        )
        draft = self._target.with_suffix(".new")
        try:
            draft.write_text(text, encoding="utf-8")
            draft.chmod(0o644)
            draft.replace(self._target)
        except OSError:
            self._broken = True


def _number(text: str) -> float:
    value = float(text)
    if not 0 <= value < 1e15 or not text.isascii() or "_" in text:
        raise ValueError(f"{text!r} is not a reading")
    return value
