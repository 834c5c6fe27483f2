"""The permissions that runnerd needs in the project; the role of docs/gcp.md grants these and no more."""

from __future__ import annotations

#: What the daemon does in the project; the role of docs/gcp.md grants these and no more.
PERMISSIONS = (
    "compute.acceleratorTypes.list",
    "compute.addresses.delete",
    "compute.addresses.get",
    "compute.addresses.list",
    "compute.disks.create",
    "compute.disks.delete",
    "compute.disks.get",
    "compute.disks.list",
    "compute.disks.setLabels",
    "compute.instances.create",
    "compute.instances.delete",
    "compute.instances.get",
    "compute.instances.getSerialPortOutput",
    "compute.instances.list",
    "compute.instances.setLabels",
    "compute.instances.setMetadata",
    "compute.machineTypes.list",
    "compute.networks.get",
    "compute.projects.get",
    "compute.regions.get",
    "compute.subnetworks.get",
    "compute.zoneOperations.get",
    "compute.zoneOperations.list",
)
#: On the network's project.
NETWORK = ("compute.subnetworks.use",)
EXTERNAL = "compute.subnetworks.useExternalIp"
TAGS = "compute.instances.setTags"
IDENTITY = "compute.instances.setServiceAccount"
#: Granted under a condition on the tags of what is deleted, which the project itself does not have.
BY_TAG = frozenset({"compute.instances.delete", "compute.disks.delete", "compute.instances.getSerialPortOutput"})
