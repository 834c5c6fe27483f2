"""The machines behind simulated instances: each is a process tree on this host, booted as cloud-init would.

A machine runs its user-data as root's first boot does, in a directory of its own and with stand-ins first on its PATH
for what would reach beyond it: ``nvidia-smi`` shows the GPUs of the machine's type, ``systemctl poweroff`` and its
like switch off this machine alone, by a file that its cloud looks for.  Whoever ends a machine ends all its processes
at once, as pulling the plug would; they are found by the mark in their environment and by descent, never by name.
"""

from __future__ import annotations

import re
import shlex
import signal
import subprocess
import time
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from provisioners.processes import identity

#: The name of an instance, in the environment of everything that it starts.
NAME = "RUNNERD_INSTANCE"
#: Rounds of killing before a machine counts as immortal; a round waits this many seconds for the kernel.
_ROUNDS, _PAUSE = 100, 0.02

#: What ``nvidia-smi`` calls the GPUs of machine types, and how many there are; by the clouds' own pages on the types.
#: A type that is not here has no driver, so whoever expects GPUs of it finds none.
GPUS: Mapping[str, tuple[str, int]] = {
    # Amazon EC2
    "g4dn.xlarge": ("Tesla T4", 1),
    "g4dn.2xlarge": ("Tesla T4", 1),
    "g4dn.4xlarge": ("Tesla T4", 1),
    "g4dn.8xlarge": ("Tesla T4", 1),
    "g4dn.16xlarge": ("Tesla T4", 1),
    "g4dn.12xlarge": ("Tesla T4", 4),
    "g4dn.metal": ("Tesla T4", 8),
    "g6.xlarge": ("NVIDIA L4", 1),
    "g6.2xlarge": ("NVIDIA L4", 1),
    "g6.12xlarge": ("NVIDIA L4", 4),
    "g5.xlarge": ("NVIDIA A10G", 1),
    "p3.2xlarge": ("Tesla V100-SXM2-16GB", 1),
    "p4d.24xlarge": ("NVIDIA A100-SXM4-40GB", 8),
    # Google Compute Engine, GPUs built in
    "g2-standard-4": ("NVIDIA L4", 1),
    "g2-standard-8": ("NVIDIA L4", 1),
    "g2-standard-24": ("NVIDIA L4", 2),
    "a2-highgpu-1g": ("NVIDIA A100-SXM4-40GB", 1),
    # Azure
    "Standard_NC4as_T4_v3": ("Tesla T4", 1),
    "Standard_NC8as_T4_v3": ("Tesla T4", 1),
    "Standard_NC16as_T4_v3": ("Tesla T4", 1),
    "Standard_NC64as_T4_v3": ("Tesla T4", 4),
    "Standard_NC24ads_A100_v4": ("NVIDIA A100 80GB PCIe", 1),
}
#: The same for accelerators that are attached to a machine of Compute Engine.
ACCELERATORS: Mapping[str, str] = {
    "nvidia-tesla-t4": "Tesla T4",
    "nvidia-tesla-v100": "Tesla V100-SXM2-16GB",
    "nvidia-tesla-p100": "Tesla P100-PCIE-16GB",
}

_NOTE = """#!/bin/sh
echo "${0##*/} $*" >> "$RUNNERD_INSTANCE_DIRECTORY/commands"
"""
#: Name -> what stands in for it on a machine.
_STAND_INS = {
    "nvidia-smi": """
case "$1" in
  -L) [ -s "$RUNNERD_INSTANCE_DIRECTORY/gpus" ] && exec cat "$RUNNERD_INSTANCE_DIRECTORY/gpus" ;;
  --query-gpu=utilization.gpu,memory.used,memory.total)
    [ -s "$RUNNERD_INSTANCE_DIRECTORY/gpus" ] && exec sed 's/.*/97, 1024, 15360/' "$RUNNERD_INSTANCE_DIRECTORY/gpus" ;;
  *) echo "this nvidia-smi does not know $1" >&2; exit 2 ;;
esac
echo "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver." >&2
exit 9
""",
    "systemctl": """
case "$1" in
  poweroff | halt) : > "$RUNNERD_INSTANCE_DIRECTORY/off" ;;
  *) echo "Unit ${2:-none}.service could not be found." >&2; exit 5 ;;
esac
""",
    "poweroff": ': > "$RUNNERD_INSTANCE_DIRECTORY/off"\n',
    "shutdown": ': > "$RUNNERD_INSTANCE_DIRECTORY/off"\n',
    "systemd-run": """
after=0
while [ $# -gt 0 ]; do
  case "$1" in
    --on-active=*) after="${1#--on-active=}" ;;
    --*) ;;
    *) break ;;
  esac
  shift
done
setsid sh -c 'sleep "$0"; exec "$@"' "$after" "$@" </dev/null >/dev/null 2>&1 &
""",
    **{
        name: f'echo "{name}: no such device on this machine" >&2\nexit 1\n'
        for name in ("lsblk", "mkfs.ext4", "mount", "umount", "reboot", "halt")
    },
}


class Immortal(AssertionError):
    """Processes of a machine do not end."""


@dataclass(slots=True)
class _Running:
    directory: Path
    process: subprocess.Popen[bytes]


class Machines:
    """The machines in one directory.  Not for several threads at a time."""

    def __init__(self, directory: Path, environment: Mapping[str, str] | None = None) -> None:
        """``environment`` is laid over what each machine boots with."""
        self.directory = directory.resolve()
        self._environment = dict(environment or {})
        self._running: dict[str, _Running] = {}
        self.bin = self.directory / "bin"
        self.bin.mkdir(parents=True, exist_ok=True)
        for name, text in _STAND_INS.items():
            path = self.bin / name
            path.write_text(_NOTE + text, encoding="utf-8")
            path.chmod(0o755)

    @property
    def path(self) -> str:
        """The PATH of machines, and of everything that must stay inside them."""
        return f"{self.bin}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

    @property
    def running(self) -> frozenset[str]:
        """The machines that are on."""
        return frozenset(self._running)

    def start(self, ref: str, user_data: bytes, *, name: str, gpus: tuple[str, int] = ("", 0)) -> None:
        """Boot a machine: ``ref`` is what its cloud calls it, ``name`` its instance; each ``ref`` boots once."""
        place = self._place(ref)
        place.mkdir()
        home = place / "root"
        home.mkdir(mode=0o700)
        model, count = gpus
        (place / "gpus").write_text("".join(f"GPU {n}: {model} (UUID: GPU-{_uuid(ref, n)})\n" for n in range(count)))
        script = place / "user-data"
        script.write_bytes(user_data)
        script.chmod(0o700)
        console = place / "console"
        if not user_data.startswith(b"#!"):
            console.write_text("cloud-init: the user-data is no script\n")
            return
        variables = {
            "PATH": self.path,
            "HOME": str(home),
            "LANG": "C.UTF-8",
            NAME: name,
            identity.MARK: str(place),
            **self._environment,
        }
        with open(console, "ab") as out:
            process = subprocess.Popen(
                # Not executed itself: the kernel refuses that while any child of ours still holds it open (execve(2)).
                [*shlex.split(user_data[2:].split(b"\n", 1)[0].decode()), str(script)],
                cwd=home,
                env=variables,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        self._running[ref] = _Running(place, process)

    def end(self, refs: Iterable[str]) -> None:
        """Pull the plug of machines.  Raises :class:`Immortal`."""
        for ref in list(refs):
            machine = self._running.pop(ref, None)
            if machine is not None:
                self._kill(machine)

    def _kill(self, machine: _Running) -> None:
        root = identity.identify(machine.process.pid)
        for _ in range(_ROUNDS):
            left = identity.members(str(machine.directory), [root] if root is not None else [])
            if not left:
                break
            for one in left:
                identity.send(one, signal.SIGKILL)
            time.sleep(_PAUSE)
        else:
            raise Immortal(f"{machine.directory.name}: {left}")
        machine.process.wait(5)

    def off(self) -> list[str]:
        """Machines that have switched themselves off and wait for their cloud to notice."""
        return [ref for ref, machine in self._running.items() if (machine.directory / "off").exists()]

    def console(self, ref: str) -> str:
        """Return what the machine has printed so far."""
        return self._read(ref, "console")

    def commands(self, ref: str) -> list[str]:
        """Return the commands that its stand-ins were given, in order."""
        return self._read(ref, "commands").splitlines()

    def processes(self) -> list[str]:
        """Machines that have living processes, whether they are on or not."""
        found = []
        for place in self.directory.iterdir():
            if place != self.bin and identity.members(str(place)):
                found.append(place.name)
        return sorted(found)

    def close(self) -> None:
        """End all of them."""
        self.end(self.running)

    def _read(self, ref: str, name: str) -> str:
        try:
            return (self._place(ref) / name).read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return ""

    def _place(self, ref: str) -> Path:
        return self.directory / re.sub(r"[^A-Za-z0-9.-]+", "_", ref)


def gpus_of(machine_type: str, accelerator: str = "", count: int = 0) -> tuple[str, int]:
    """Model and number of a machine's GPUs; nothing for a type that has none or is not known."""
    if accelerator:
        return ACCELERATORS.get(accelerator, ""), count
    return GPUS.get(machine_type, ("", 0))


def _uuid(ref: str, number: int) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"{ref}#{number}"))
