"""The simulated clouds: a new one is added here and nowhere else."""

from __future__ import annotations

from collections.abc import Mapping

from tests.clouds.adapter import CloudAdapter
from tests.clouds.aws.adapter import Adapter as Aws
from tests.clouds.azure.adapter import Adapter as Azure
from tests.clouds.gcp.adapter import Adapter as Gcp

#: By name of the provider, which is its type.
ADAPTERS: Mapping[str, type[CloudAdapter]] = {one.name: one for one in (Aws, Gcp, Azure)}
NAMES = tuple(ADAPTERS)
