"""A simulated Azure Resource Manager, validated against azure-mgmt-compute's own types and enums.

    arm = Arm(clock.now, random.Random(7))
    options = mount_options(arm, "eastus")
    provisioner = Azure(context, options, mount(arm, context, options))

Over sockets: ``wire.serve(arm.handle, tls=...)``; the same server signs clients in (``authority``), serves Resource
Manager (``endpoint``) and, through ``arm.guest(ref)``, a machine's instance metadata.
"""

from __future__ import annotations

from tests.clouds.arm.cloud import CLIENT, GROUP, SECRET, SUBSCRIPTION, TENANT, Arm
from tests.clouds.arm.faults import Fault
from tests.clouds.arm.mount import mount
from tests.clouds.arm.mount import options as mount_options
from tests.clouds.arm.sizes import Restriction
from tests.clouds.arm.state import Instance, Principal

__all__ = [
    "CLIENT",
    "GROUP",
    "SECRET",
    "SUBSCRIPTION",
    "TENANT",
    "Arm",
    "Fault",
    "Instance",
    "Principal",
    "Restriction",
    "mount",
    "mount_options",
]
