"""Azure: virtual machines through Azure Resource Manager, each bought by one PUT that carries all its parts."""

from __future__ import annotations

try:  # the imports only report early, and in plain words, that the SDK is missing
    import aiohttp  # noqa: F401
    import azure.identity.aio
    import azure.mgmt.compute.aio  # noqa: F401
except ImportError as missing:
    raise ImportError("the azure provider needs Azure's packages: install runnerd[azure]") from missing

from provisioners.azure.provider import Azure

__all__ = ["Azure"]
