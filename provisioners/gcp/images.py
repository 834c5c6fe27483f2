"""Images: references as operators write them, the defaults, and how an image takes a boot script."""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass

_FAMILY = re.compile(r"family:(?P<project>[^/\s]+)/(?P<name>[a-z]([-a-z0-9]{0,61}[a-z0-9])?)\Z")
_LINK = re.compile(
    r"(?:https://[^/]+/compute/[a-z0-9]+/)?projects/(?P<project>[^/\s]+)/global/images/"
    r"(?P<family>family/)?(?P<name>[a-z]([-a-z0-9]{0,61}[a-z0-9])?)\Z"
)

#: With the NVIDIA driver of branch 580 inside, the last that serves Pascal and Volta and the first but one that serves
#: Blackwell.
GPU = "family:deeplearning-platform-release/common-cu129-ubuntu-2204-nvidia-580"
CPU = "family:ubuntu-os-cloud/ubuntu-2404-lts-amd64"
ARM = "family:ubuntu-os-cloud/ubuntu-2404-lts-arm64"


@dataclass(frozen=True, slots=True)
class Reference:
    """An image, or a family that stands for its newest image."""

    project: str
    name: str
    family: bool = False

    @property
    def link(self) -> str:
        """As ``sourceImage`` takes it; the API takes a family as well, for its newest image."""
        return f"projects/{self.project}/global/images/{'family/' if self.family else ''}{self.name}"


def parse(text: str) -> Reference | None:
    """``family:PROJECT/FAMILY``, ``projects/P/global/images/X`` or a full link; None for anything else."""
    match = _FAMILY.match(text)
    if match is not None:
        return Reference(match["project"], match["name"], family=True)
    match = _LINK.match(text)
    if match is not None:
        return Reference(match["project"], match["name"], family=match["family"] is not None)
    return None


def default(*, gpu: bool, arch: str) -> Reference:
    """Return the image of a machine where the operator names none."""
    found = parse(ARM if arch == "arm64" else GPU if gpu else CPU)
    assert found is not None
    return found


class Boot(enum.StrEnum):
    """The program that runs the boot script inside an image."""

    #: As the image's name tells: cloud-init in Ubuntu, the guest agent elsewhere.
    AUTO = "auto"
    #: cloud-init reads the metadata item ``user-data``, once per instance.
    CLOUD_INIT = "cloud-init"
    #: Google's guest agent reads the metadata item ``startup-script``, at every boot.
    STARTUP_SCRIPT = "startup-script"


#: The metadata item that carries the script.
ITEMS = {Boot.CLOUD_INIT: "user-data", Boot.STARTUP_SCRIPT: "startup-script"}


def item(image: str, boot: Boot) -> str:
    """The metadata item through which that image takes its boot script; exactly one, so that it runs once."""
    if boot is Boot.AUTO:
        boot = Boot.CLOUD_INIT if "ubuntu" in image.rpartition("/images/")[2] else Boot.STARTUP_SCRIPT
    return ITEMS[boot]
