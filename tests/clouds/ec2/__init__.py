"""Amazon EC2, simulated."""

from __future__ import annotations

from tests.clouds.ec2.account import Instance
from tests.clouds.ec2.cloud import KEYS, Ec2, Guest, Identity, Role
from tests.clouds.ec2.faults import Fault
from tests.clouds.ec2.mount import mount, sdk

__all__ = ["KEYS", "Ec2", "Fault", "Guest", "Identity", "Instance", "Role", "mount", "sdk"]
