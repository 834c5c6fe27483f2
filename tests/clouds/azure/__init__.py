"""A simulated Azure Resource Manager, validated against azure-mgmt-compute's own types and enums.

    arm = Arm(clock.now, random.Random(7))
    options = mount_options(arm, "eastus")
    provisioner = Azure(context, options, mount(arm, context, options))

Over sockets: ``tls.certificate(directory)``, ``wire.serve(arm.handle, tls=...)``, ``socket_options(arm, url, ca)``; the
same server signs clients in (``authority``) and serves Resource Manager (``endpoint``).  ``arm.guest(ref)`` is the
handler that one machine sees, with its instance metadata.  Nothing happens by itself: ``arm.tick()`` lets happen what
is due by the clock, as every request does; ``arm.on_change`` is told of machines that start, stop and end.
"""

from __future__ import annotations

from tests.clouds.azure.cloud import CLIENT, GROUP, SECRET, SUBSCRIPTION, TENANT, Arm
from tests.clouds.azure.faults import Fault
from tests.clouds.azure.mount import mount, socket_options
from tests.clouds.azure.mount import options as mount_options
from tests.clouds.azure.sizes import Restriction
from tests.clouds.azure.state import Instance, Principal

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
    "socket_options",
]
