"""Sizes of machines, images and regions that a simulated Azure has, as Azure's documentation lists them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Size:
    """A size of machine."""

    name: str
    family: str
    cores: int
    gpus: int = 0
    arch: str = "x64"
    zones: tuple[str, ...] = ("1", "2", "3")
    spot: bool = True


SIZES = {
    one.name: one
    for one in (
        Size("Standard_NC4as_T4_v3", "standardNCASv3_T4Family", 4, 1),
        Size("Standard_NC8as_T4_v3", "standardNCASv3_T4Family", 8, 1),
        Size("Standard_NC16as_T4_v3", "standardNCASv3_T4Family", 16, 1),
        Size("Standard_NC64as_T4_v3", "standardNCASv3_T4Family", 64, 4),
        Size("Standard_NV36ads_A10_v5", "standardNVADSA10v5Family", 36, 1),
        Size("Standard_NV72ads_A10_v5", "standardNVADSA10v5Family", 72, 2),
        Size("Standard_NC6s_v3", "standardNCSv3Family", 6, 1),
        Size("Standard_NC12s_v3", "standardNCSv3Family", 12, 2),
        Size("Standard_NC24s_v3", "standardNCSv3Family", 24, 4),
        Size("Standard_NC24ads_A100_v4", "standardNCADSA100v4Family", 24, 1),
        Size("Standard_NC48ads_A100_v4", "standardNCADSA100v4Family", 48, 2),
        Size("Standard_NC96ads_A100_v4", "standardNCADSA100v4Family", 96, 4),
        Size("Standard_ND96asr_v4", "standardNDASv4_A100Family", 96, 8),
        Size("Standard_NC40ads_H100_v5", "standardNCadsH100v5Family", 40, 1),
        Size("Standard_NC80adis_H100_v5", "standardNCadsH100v5Family", 80, 2),
        Size("Standard_ND96isr_H100_v5", "standardNDSH100v5Family", 96, 8),
        Size("Standard_D2s_v5", "standardDSv5Family", 2),
        Size("Standard_D4s_v5", "standardDSv5Family", 4),
        Size("Standard_D8s_v5", "standardDSv5Family", 8),
        Size("Standard_F2s_v2", "standardFSv2Family", 2),
        Size("Standard_F8s_v2", "standardFSv2Family", 8),
        Size("Standard_D4ps_v5", "standardDPSv5Family", 4, arch="Arm64"),
        Size("Standard_D8ps_v5", "standardDPSv5Family", 8, arch="Arm64"),
    )
}


@dataclass(slots=True)
class Image:
    """A marketplace image."""

    versions: list[str]
    arch: str = "x64"
    #: (publisher, product, name) of the plan that it is sold with; None for none.
    plan: tuple[str, str, str] | None = None
    gigabytes: int = 30


def images() -> dict[tuple[str, str, str], Image]:
    """(publisher, offer, sku) in lower case -> the image."""
    return {
        ("microsoft-dsvm", "ubuntu-hpc", "2204"): Image(["22.04.2026050601", "22.04.2026111001"], gigabytes=64),
        ("canonical", "ubuntu-24_04-lts", "server"): Image(["24.04.202609010", "24.04.202611100"]),
        ("canonical", "ubuntu-24_04-lts", "server-arm64"): Image(["24.04.202611100"], arch="Arm64"),
        ("nvidia", "ngc_azure", "gpu-optimized"): Image(["26.10.1"], plan=("nvidia", "ngc_azure", "gpu-optimized")),
    }


#: Region -> its zones.
REGIONS: dict[str, tuple[str, ...]] = {
    "eastus": ("1", "2", "3"),
    "westeurope": ("1", "2", "3"),
    "southcentralus": ("1", "2", "3"),
    "westus": (),
}


@dataclass(slots=True)
class Restriction:
    """A size that the subscription may not have in a region, or in some of its zones."""

    size: str
    region: str
    #: Empty: the whole region.
    zones: tuple[str, ...] = ()
    reason: str = "NotAvailableForSubscription"
