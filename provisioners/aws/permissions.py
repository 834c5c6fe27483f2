"""The actions that runnerd needs in a region and that can be tried without an instance, by ``DryRun``."""

from __future__ import annotations

from typing import Any

#: Actions that runnerd needs in a region and that can be tried without an instance.
READS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("DescribeInstances", {}),
    ("DescribeInstanceStatus", {}),
    ("DescribeVolumes", {}),
    ("DescribeNetworkInterfaces", {}),
    ("DescribeSpotInstanceRequests", {}),
    ("DescribeAddresses", {}),
    ("DescribeImages", {}),
    ("DescribeInstanceTypeOfferings", {}),
    ("DescribeSpotPriceHistory", {}),
)
