"""A simulated Google Cloud: Compute Engine with what it needs of Resource Manager, IAM and OAuth.

    cloud = gce.Gce(now=clock.now, rng=random.Random(7))
    provisioner = Gcp(context, gce.options(), gce.mount(cloud, gce.options()))

It shares no code with the provisioner; every request and every answer is held against the official discovery
documents.
"""

from __future__ import annotations

from tests.clouds.gcp.cloud import Gce
from tests.clouds.gcp.faults import Fault
from tests.clouds.gcp.mount import Adapter, mount, options
from tests.clouds.gcp.project import REGIONS
from tests.clouds.gcp.quotas import QUOTAS
from tests.clouds.gcp.state import Instance

__all__ = ["QUOTAS", "REGIONS", "Adapter", "Fault", "Gce", "Instance", "mount", "options"]
