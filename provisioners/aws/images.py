"""Images: as operators write them, the defaults, and the details of one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from provisioners import catalogue, options

_AMI = re.compile(r"ami-[0-9a-z]{1,32}\Z")


@dataclass(frozen=True, slots=True)
class Image:
    """An image as the operator wrote it: an id, the name of an SSM parameter, or a pattern over image names."""

    #: One of these is set.
    id: str = ""
    parameter: str = ""
    pattern: str = ""
    #: Whose images the pattern is looked for in: an account, ``amazon``, ``self``.
    owner: str = ""

    def __str__(self) -> str:
        return self.id or (f"ssm:{self.parameter}" if self.parameter else f"name:{self.pattern} of {self.owner}")


def read(reader: options.Reader, key: str, owner: str) -> Image | None:
    text = reader.text(key)
    if not text:
        return None
    if _AMI.match(text):
        return Image(id=text)
    kind, _, rest = text.partition(":")
    if kind == "ssm" and rest.startswith("/") and not re.search(r"\s", rest):
        return Image(parameter=rest)
    if kind == "name" and rest:
        if not owner:
            # A pattern over everybody's images would boot what a stranger named so.
            reader.complain(key, "a name pattern needs image_owner beside it: an account, amazon or self")
        return Image(pattern=rest, owner=owner)
    reader.complain(key, f'"{text}" is no image; expected ami-..., ssm:/path/of/parameter or name:PATTERN')
    return None


#: Ubuntu with NVIDIA's driver, docker and the container toolkit: AWS Deep Learning Base AMI.
_GPU = "/aws/service/deeplearning/ami/{arch}/base-oss-nvidia-driver-gpu-ubuntu-22.04/latest/ami-id"
#: Canonical's Ubuntu.
_CPU = "/aws/service/canonical/ubuntu/server/24.04/stable/current/{arch}/hvm/ebs-gp3/ami-id"
_CANONICAL = {"x86_64": "amd64", "arm64": "arm64"}


def default(machine: catalogue.Machine) -> Image:
    """Return the image of a machine where the operator names none."""
    if machine.gpu_count:
        return Image(parameter=_GPU.format(arch=machine.arch))
    return Image(parameter=_CPU.format(arch=_CANONICAL.get(machine.arch, machine.arch)))


@dataclass(frozen=True, slots=True)
class Ami:
    """The details of an image."""

    id: str
    root_device: str
    #: GiB that its root disk needs at least.
    size: int
    arch: str
    name: str = ""


def ami(image: Mapping[str, Any]) -> Ami:
    """Return the details that DescribeImages gives of an image."""
    root = str(image.get("RootDeviceName") or "/dev/sda1")
    disks = {one.get("DeviceName"): one.get("Ebs", {}) for one in image.get("BlockDeviceMappings", [])}
    return Ami(
        id=image["ImageId"],
        root_device=root,
        size=int(disks.get(root, {}).get("VolumeSize") or 0),
        arch=str(image.get("Architecture", "")),
        name=str(image.get("Name", "")),
    )
