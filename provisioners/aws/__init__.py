"""Amazon EC2 as a source of instances.  Needs the extra ``runnerd[aws]``."""

from __future__ import annotations

try:  # the imports only report early, and in plain words, that the SDK is missing
    import boto3  # noqa: F401
except ImportError as error:
    raise ImportError(f"the aws provider needs boto3: install runnerd[aws] ({error})") from error

from provisioners.aws.client import Clients
from provisioners.aws.provider import Aws

__all__ = ["Aws", "Clients"]
