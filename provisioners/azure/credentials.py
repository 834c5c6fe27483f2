"""The credential: a service principal by reference, else what the host offers."""

from __future__ import annotations

import logging
from typing import Any

from azure.core.exceptions import ClientAuthenticationError
from azure.identity.aio import CertificateCredential, ClientSecretCredential, DefaultAzureCredential

from provisioners import base
from provisioners.azure.settings import Settings

# What it says of a refused sign-in stands in the error, too; the log would have it at every listing.
logging.getLogger("azure.identity").setLevel(logging.CRITICAL)


def make(settings: Settings, context: base.Context) -> Any:
    """The credential that the options describe.

    Without a service principal: the environment's, a workload identity, a managed identity, or the Azure CLI's sign-in,
    in that order; nothing else that a developer's machine may hold.
    """
    common: dict[str, Any] = {}
    if settings.authority:
        # A host that Microsoft's own list of sign-in services does not know must not be looked up there.
        common |= {"authority": settings.authority, "disable_instance_discovery": True}
    if settings.ca:
        common["connection_verify"] = settings.ca
    if settings.client_secret or settings.certificate:
        # The caller asks again; the SDK's own retries would sleep in between, unseen.
        common["retry_total"] = 0
    if settings.client_secret:
        return _Rotating(settings, context, common)
    if settings.certificate:
        try:
            return CertificateCredential(
                settings.tenant, settings.client_id, certificate_path=settings.certificate, **common
            )
        except (ValueError, OSError) as error:
            raise ClientAuthenticationError(message=f"certificate: {error}") from error
    only = {"managed_identity_client_id": settings.client_id} if settings.client_id else {}
    common.pop("disable_instance_discovery", None)
    return DefaultAzureCredential(
        exclude_shared_token_cache_credential=True,
        exclude_visual_studio_code_credential=True,
        exclude_developer_cli_credential=True,
        exclude_powershell_credential=True,
        **common,
        **only,
    )


class _Rotating:
    """Signs in with a secret that is read anew for every token, so that a rotated one needs no restart."""

    def __init__(self, settings: Settings, context: base.Context, common: dict[str, Any]) -> None:
        self._settings = settings
        self._context = context
        self._common = common
        self._secret = ""
        self._inner: ClientSecretCredential | None = None

    async def get_token(self, *scopes: str, **options: Any) -> Any:
        """A token for these scopes.  Raises ClientAuthenticationError also when the secret cannot be read."""
        try:
            secret = self._context.secret(self._settings.client_secret)
        except ValueError as error:
            raise ClientAuthenticationError(message=f"client_secret: {error}") from None
        if self._inner is None or secret != self._secret:
            await self.close()
            self._secret = secret
            self._inner = ClientSecretCredential(
                self._settings.tenant, self._settings.client_id, secret, **self._common
            )
        return await self._inner.get_token(*scopes, **options)

    async def close(self) -> None:
        """Let go of connections."""
        if self._inner is not None:
            inner, self._inner = self._inner, None
            await inner.close()
