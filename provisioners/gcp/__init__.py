"""Google Cloud: Compute Engine instances as a source of instances."""

from __future__ import annotations

try:  # the imports only report early, and in plain words, that the SDK is missing
    import google.auth.credentials  # noqa: F401
    from google.cloud import compute_v1  # noqa: F401
except ImportError as error:
    raise ImportError("Google Cloud needs its SDK: install runnerd[gcp]") from error

from provisioners.gcp.client import Clients
from provisioners.gcp.provider import Gcp

__all__ = ["Clients", "Gcp"]
