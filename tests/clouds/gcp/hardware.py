"""Hardware of the simulated zones: machine types, accelerators, images and networks, as facts of Google's own pages."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Kind:
    """A machine type."""

    name: str
    cpus: int
    #: MiB.
    memory: int
    #: Built in: accelerator type and how many.
    accelerator: str = ""
    count: int = 0
    arm: bool = False

    @property
    def series(self) -> str:
        return self.name.partition("-")[0]


@dataclass(frozen=True, slots=True)
class Image:
    """A public image."""

    project: str
    name: str
    family: str
    size: int
    arm: bool = False


_POWERS = (1, 2, 4, 8, 16, 32, 64, 96)
#: Series and class -> sizes and GiB for each vCPU.
_GENERAL = {
    "n1-standard": (_POWERS, 3.75),
    "n1-highmem": (_POWERS[1:], 6.5),
    "n1-highcpu": (_POWERS[1:], 0.9),
    "e2-standard": ((2, 4, 8, 16, 32), 4),
    "e2-highmem": ((2, 4, 8, 16), 8),
    "e2-highcpu": ((2, 4, 8, 16, 32), 1),
    "n2-standard": ((2, 4, 8, 16, 32, 48, 64, 80, 96, 128), 4),
    "n2-highmem": ((2, 4, 8, 16, 32, 48, 64, 80), 8),
    "n2-highcpu": ((2, 4, 8, 16, 32, 48, 64, 80, 96), 1),
    "n2d-standard": ((2, 4, 8, 16, 32, 48, 64, 80, 96, 128, 224), 4),
    "n4-standard": ((2, 4, 8, 16, 32, 48, 64, 80), 4),
    "c2-standard": ((4, 8, 16, 30, 60), 4),
    "c2d-standard": ((2, 4, 8, 16, 32, 56, 112), 4),
    "c3-standard": ((4, 8, 22, 44, 88, 176), 4),
    "c3-highcpu": ((4, 8, 22, 44, 88, 176), 2),
    "c3d-standard": ((4, 8, 16, 30, 60, 90, 180, 360), 4),
    "c4-standard": ((2, 4, 8, 16, 24, 32, 48, 96, 144, 192, 288), 3.75),
    "c4d-standard": ((2, 4, 8, 16, 32, 48, 64, 96, 192, 384), 3.875),
    "t2d-standard": ((1, 2, 4, 8, 16, 32, 48, 60), 4),
    "t2a-standard": ((1, 2, 4, 8, 16, 32, 48), 4),
    "c4a-standard": ((1, 2, 4, 8, 16, 32, 48, 64, 72), 4),
    "c4a-highcpu": ((1, 2, 4, 8, 16, 32, 48, 64, 72), 2),
}
#: Type -> vCPUs, GiB, accelerator, how many.
_BUILT_IN = {
    **{f"a2-highgpu-{n}g": (12 * n, 85 * n, "nvidia-tesla-a100", n) for n in (1, 2, 4, 8)},
    "a2-megagpu-16g": (96, 1360, "nvidia-tesla-a100", 16),
    **{f"a2-ultragpu-{n}g": (12 * n, 170 * n, "nvidia-a100-80gb", n) for n in (1, 2, 4, 8)},
    **{f"a3-highgpu-{n}g": (26 * n, 234 * n, "nvidia-h100-80gb", n) for n in (1, 2, 4, 8)},
    "a3-megagpu-8g": (208, 1872, "nvidia-h100-mega-80gb", 8),
    "a3-ultragpu-8g": (224, 2952, "nvidia-h200-141gb", 8),
    "a4-highgpu-8g": (224, 3968, "nvidia-b200", 8),
    **{f"g2-standard-{n}": (n, 4 * n, "nvidia-l4", 1) for n in (4, 8, 12, 16, 32)},
    **{f"g2-standard-{n}": (n, 4 * n, "nvidia-l4", n // 12) for n in (24, 48, 96)},
    **{f"g4-standard-{48 * n}": (48 * n, 180 * n, "nvidia-rtx-pro-6000", n) for n in (1, 2, 4, 8)},
}
KINDS = {
    one.name: one
    for one in [
        *(
            Kind(f"{name}-{size}", size, int(size * each * 1024), arm=name.startswith(("t2a", "c4a")))
            for name, (sizes, each) in _GENERAL.items()
            for size in sizes
        ),
        *(Kind(name, cpus, memory * 1024, which, n) for name, (cpus, memory, which, n) in _BUILT_IN.items()),
    ]
}
#: Attached to N1 types, in these numbers.
ATTACHED = {
    "nvidia-tesla-t4": (1, 2, 4),
    "nvidia-tesla-p4": (1, 2, 4),
    "nvidia-tesla-p100": (1, 2, 4),
    "nvidia-tesla-v100": (1, 2, 4, 8),
}
ACCELERATORS = (*ATTACHED, *sorted({one.accelerator for one in KINDS.values() if one.accelerator}))
#: Quota metric of an accelerator.
METRICS = {
    "nvidia-tesla-t4": "NVIDIA_T4_GPUS",
    "nvidia-tesla-p4": "NVIDIA_P4_GPUS",
    "nvidia-tesla-p100": "NVIDIA_P100_GPUS",
    "nvidia-tesla-v100": "NVIDIA_V100_GPUS",
    "nvidia-l4": "NVIDIA_L4_GPUS",
    "nvidia-tesla-a100": "NVIDIA_A100_GPUS",
    "nvidia-a100-80gb": "NVIDIA_A100_80GB_GPUS",
}
#: The newer ones have one quota for each family instead.
FAMILIES = {
    "nvidia-h100-80gb": "NVIDIA_H100",
    "nvidia-h100-mega-80gb": "NVIDIA_H100_MEGA",
    "nvidia-h200-141gb": "NVIDIA_H200",
    "nvidia-b200": "NVIDIA_B200",
    "nvidia-rtx-pro-6000": "NVIDIA_RTX_PRO_6000",
}
#: Series of CPUs with a quota of their own; every other counts as ``CPUS``.
CPU_METRICS = {one: f"{one.upper()}_CPUS" for one in ("n2", "n2d", "c2", "c2d", "c3", "t2a", "t2d", "a2")}
#: Series that take hyperdisks only.
HYPERDISK_ONLY = frozenset({"a4", "g4", "c4", "c4a", "c4d", "n4"})
HYPERDISK_TYPES = frozenset({"a3-ultragpu-8g"})
#: Series that take persistent disks only.
PERSISTENT_ONLY = frozenset({"n1", "e2", "t2a", "t2d", "a2", "g2", "n2d", "c2", "c2d"})
DISK_TYPES = (
    "pd-standard",
    "pd-balanced",
    "pd-ssd",
    "pd-extreme",
    "hyperdisk-balanced",
    "hyperdisk-extreme",
)
IMAGES = (
    Image(
        "deeplearning-platform-release",
        "common-cu129-ubuntu-2204-nvidia-580-v20260901",
        "common-cu129-ubuntu-2204-nvidia-580",
        50,
    ),
    Image(
        "deeplearning-platform-release",
        "common-cu129-ubuntu-2204-nvidia-580-v20261101",
        "common-cu129-ubuntu-2204-nvidia-580",
        50,
    ),
    Image("ubuntu-os-cloud", "ubuntu-2404-noble-amd64-v20261115", "ubuntu-2404-lts-amd64", 10),
    Image("ubuntu-os-cloud", "ubuntu-2404-noble-arm64-v20261115", "ubuntu-2404-lts-arm64", 10, arm=True),
    Image("debian-cloud", "debian-12-bookworm-v20261112", "debian-12", 10),
)


def takes(kind: Kind, disk_type: str) -> bool:
    """True when a machine type takes a boot disk of that type."""
    hyper = disk_type.startswith("hyperdisk-")
    if kind.series in HYPERDISK_ONLY or kind.name in HYPERDISK_TYPES:
        return hyper
    return not hyper if kind.series in PERSISTENT_ONLY else True
