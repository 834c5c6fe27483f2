"""A create request as the body of ``instances.insert``: pure, so that the same request is the same body.

What moves with time is not in it: the run time limit is the lifetime that the request was composed with, so that a
repeated request is the same.  Compute Engine takes a limit of 30 seconds to 120 days ("Limit the run time of a VM").
"""

from __future__ import annotations

import json
import re

from google.cloud import compute_v1

from provisioners import base
from provisioners.catalogue import listed_types
from provisioners.gcp import images, names, settings, tags

#: Bytes of one metadata value, and of all of them (schema ``Metadata``).
USER_DATA_LIMIT = 262144
METADATA_LIMIT = 512 * 1024
#: Seconds that a run time limit has at least and at most.
SHORTEST_RUN, LONGEST_RUN = 30.0, 120 * 86400.0
#: Types that take hyperdisk and refuse persistent disks, by the start of their name ("Machine series comparison").
_HYPERDISK_ONLY = ("a3-ultragpu-", "a4-", "a4x-", "g4-", "c4-", "c4a-", "c4d-", "n4-", "n4a-", "n4d-", "m4-", "x4-")
_ATTACHED = re.compile(r"(?P<type>[^+]+)\+(?P<accelerator>[a-z0-9-]+?)x(?P<count>\d+)\Z")
_GIB = 2**30


def split(machine_type: str) -> tuple[str, str, int]:
    """The type as the API has it, and what is attached to it how often; nothing where its GPUs are built in."""
    match = _ATTACHED.match(machine_type)
    return (match["type"], match["accelerator"], int(match["count"])) if match else (machine_type, "", 0)


def disk_type(machine_type: str, wanted: str) -> str:
    """The type of the boot disk."""
    if wanted:
        return wanted
    return "hyperdisk-balanced" if machine_type.startswith(_HYPERDISK_ONLY) else "pd-balanced"


def network(reference: str, region: str, *, sub: bool) -> str:
    """A network or subnetwork as a partial link."""
    if reference.startswith(("projects/", "https://")):
        return reference
    name = reference.rpartition("/")[2]
    return f"regions/{region}/subnetworks/{name}" if sub else f"global/networks/{name}"


def user_data_problem(request: base.CreateRequest) -> str:
    """Return why its boot script is not taken; empty when it is."""
    size = len(request.user_data.encode())
    if size > USER_DATA_LIMIT:
        return f"the boot script has {size} bytes, Compute Engine takes {USER_DATA_LIMIT}"
    return ""


def build(
    request: base.CreateRequest, chosen: settings.Settings, launch: settings.Launch, *, now: float
) -> compute_v1.InsertInstanceRequest:
    """The call.  Raises a definite CONFIG failure for a request that Compute Engine could not serve."""
    listed_types.refuse_malformed(request, dict.fromkeys(request.options))
    offer = request.offer
    problem = user_data_problem(request)
    written = json.dumps(dict(request.tags), sort_keys=True, separators=(",", ":"))
    items = {images.item(_image(request, launch), launch.boot): request.user_data, tags.ITEM: written}
    items = {**launch.metadata, **items}
    if not problem and sum(len(key.encode()) + len(text.encode()) for key, text in items.items()) >= METADATA_LIMIT:
        problem = f"boot script, tags and metadata together have more than {METADATA_LIMIT} bytes"
    if problem:
        raise base.ProvisionError(base.Kind.CONFIG, problem, code="InvalidRequest")
    machine_type, accelerator, count = split(offer.machine_type)
    marks = tags.labels(request.tags)
    size = request.disk or launch.disk
    instance = compute_v1.Instance(
        name=names.instance_name(request.name),
        machine_type=f"zones/{offer.zone}/machineTypes/{machine_type}",
        labels=marks,
        disks=[
            compute_v1.AttachedDisk(
                boot=True,
                auto_delete=True,
                initialize_params=compute_v1.AttachedDiskInitializeParams(
                    source_image=_image(request, launch),
                    disk_size_gb=-(-size // _GIB),
                    disk_type=f"zones/{offer.zone}/diskTypes/{disk_type(machine_type, launch.disk_type)}",
                    labels=marks,
                    resource_manager_tags=dict(launch.resource_tags),
                ),
            )
        ],
        network_interfaces=[_interface(launch, offer.region)],
        scheduling=_scheduling(request, chosen, now),
        metadata=compute_v1.Metadata(
            items=[compute_v1.Items(key=key, value=text) for key, text in sorted(items.items())]
        ),
    )
    if accelerator:
        instance.guest_accelerators = [
            compute_v1.AcceleratorConfig(
                accelerator_type=f"zones/{offer.zone}/acceleratorTypes/{accelerator}", accelerator_count=count
            )
        ]
    if launch.resource_tags:
        instance.params = compute_v1.InstanceParams(resource_manager_tags=dict(launch.resource_tags))
    if launch.network_tags:
        instance.tags = compute_v1.Tags(items=list(launch.network_tags))
    if launch.service_account:
        instance.service_accounts = [
            compute_v1.ServiceAccount(email=launch.service_account, scopes=list(launch.scopes))
        ]
    return compute_v1.InsertInstanceRequest(
        project=offer.account,
        zone=offer.zone,
        request_id=names.request_id("insert", request.key),
        instance_resource=instance,
    )


def _image(request: base.CreateRequest, launch: settings.Launch) -> str:
    if request.offer.image:
        return request.offer.image
    found = images.parse(launch.image) or images.default(gpu=request.offer.gpus > 0, arch="x86_64")
    return found.link


def _interface(launch: settings.Launch, region: str) -> compute_v1.NetworkInterface:
    found = compute_v1.NetworkInterface()
    subnetwork = launch.subnetwork(region)
    if subnetwork:
        found.subnetwork = network(subnetwork, region, sub=True)
    if launch.network or not subnetwork:
        found.network = network(launch.network or "default", region, sub=False)
    if launch.public_address:
        found.access_configs = [compute_v1.AccessConfig(name="External NAT", type_="ONE_TO_ONE_NAT")]
    return found


def _scheduling(request: base.CreateRequest, chosen: settings.Settings, now: float) -> compute_v1.Scheduling:
    """All of it in one object: a second one would replace the first."""
    spot = request.offer.market is base.Market.SPOT
    lifetime = request.lifetime or request.deadline - now
    found = compute_v1.Scheduling(
        provisioning_model="SPOT" if spot else "STANDARD",
        instance_termination_action="DELETE",
        on_host_maintenance="TERMINATE",
        automatic_restart=False,
        max_run_duration=compute_v1.Duration(seconds=round(min(max(lifetime, SHORTEST_RUN), LONGEST_RUN))),
    )
    if spot and chosen.preemption_notice:
        found.preemption_notice_duration = compute_v1.Duration(seconds=chosen.preemption_notice)
    return found
