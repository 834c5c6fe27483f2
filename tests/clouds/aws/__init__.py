"""Amazon EC2, simulated."""

from __future__ import annotations

from tests.clouds.aws.account import Instance
from tests.clouds.aws.cloud import KEYS, Ec2, Guest, Identity, Role
from tests.clouds.aws.faults import Fault
from tests.clouds.aws.mount import mount, sdk

__all__ = ["KEYS", "Ec2", "Fault", "Guest", "Identity", "Instance", "Role", "mount", "sdk"]
