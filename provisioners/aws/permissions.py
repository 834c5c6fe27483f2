"""The actions that runnerd needs in a region and that ``DryRun`` can try; :mod:`provisioners.aws.checks` tries them."""

from __future__ import annotations

from typing import Any

#: Action and parameters; none needs an instance.
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
