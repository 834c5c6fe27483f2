"""The calls to Azure, each with its API version and its rate limit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import urlencode, urlsplit

from azure.core import MatchConditions
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError
from azure.core.polling import AsyncPollingMethod
from azure.core.rest import HttpRequest
from azure.mgmt.core.exceptions import ARMErrorFormat

from provisioners import base
from provisioners.azure import client, images, names
from provisioners.azure.settings import Settings
from provisioners.support import numbers

#: The wire contract: versions of the APIs, by what they are used for.  Compute's is at least 2025-11-01, the first that
#: takes ``securityType: Standard`` without a feature flag on the subscription.
COMPUTE_API = "2026-04-01"
DISKS_API = "2026-03-02"
SKUS_API = "2021-07-01"
GALLERY_API = "2026-03-03"
NETWORK_API = "2024-05-01"
RESOURCES_API = "2022-09-01"
AUTHORIZATION_API = "2022-04-01"
ACTIVITY_API = "2015-04-01"
IDENTITY_API = "2023-01-31"
ORDERING_API = "2021-01-01"

#: Bytes of a console log that are kept.
_CONSOLE = 256 * 1024
#: Pages of a list that are read at most.
_PAGES = 1000

Wire = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Accepted:
    """A PUT that Azure took."""

    machine: Wire
    #: Where the operation's state is asked for; empty when Azure named none, or another host.
    operation: str


class _Initial(AsyncPollingMethod[Any]):
    """Keeps the first answer of a long operation and asks no further: how it goes on is watched in our own time."""

    response: Any = None

    def initialize(self, client: Any, initial_response: Any, deserialization_callback: Any) -> None:
        self.response = initial_response.http_response

    async def run(self) -> None:
        return

    def status(self) -> str:
        return "Succeeded"

    def finished(self) -> bool:
        return True

    def resource(self) -> Any:
        return None

    def get_continuation_token(self) -> str:
        return ""


class OperationFailed(HttpResponseError):
    """A long operation ended without what it was for."""


class Calls:
    """Azure's management API for the subscriptions of one provider."""

    def __init__(self, clients: client.Clients, settings: Settings) -> None:
        self._clients = clients
        self._settings = settings

    async def token(self) -> str:
        """Return a token as it is sent.  Raises what the SDK raises when there is none."""
        return await self._clients.token()

    async def close(self) -> None:
        """Close connections; the next call opens them again."""
        await self._clients.close()

    # -- machines --------------------------------------------------------------------------------------------------

    async def create(self, subscription: str, group: str, vm: str, body: Wire) -> Accepted:
        """Ask for a machine that must not be there yet; raises ResourceExistsError when it is."""
        polling = _Initial()
        await self._clients.compute(subscription).virtual_machines.begin_create_or_update(
            group,
            vm,
            cast("Any", body),  # the wire form, as the SDK's types.VirtualMachine spells it
            match_condition=MatchConditions.IfMissing,
            polling=polling,
            api_version=COMPUTE_API,
        )
        answer = polling.response
        return Accepted(answer.json(), self._operation(answer.headers))

    def _operation(self, headers: Any) -> str:
        """Return the URL of an operation; the credential goes to the management API only."""
        url = str(headers.get("Azure-AsyncOperation") or "")
        return url if urlsplit(url).netloc == urlsplit(self._settings.endpoint).netloc else ""

    async def operation(self, subscription: str, url: str) -> str:
        """The state of a long operation; raises HttpResponseError with its error when it failed."""
        await self._clients.limits(subscription).reads.take()
        answer = await self._clients.compute(subscription).send_request(HttpRequest("GET", url))
        if answer.status_code != 200:
            raise HttpResponseError(response=answer, error_format=ARMErrorFormat)
        state = str(answer.json().get("status", ""))
        if state in ("Failed", "Canceled"):
            raise OperationFailed(response=answer, error_format=ARMErrorFormat)
        return state

    async def machine(self, subscription: str, group: str, vm: str) -> Wire | None:
        """A machine with its instance view, None when there is none."""
        await self._clients.limits(subscription).read_machine(f"{group}/{vm}")
        try:
            found = await self._clients.compute(subscription).virtual_machines.get(
                group, vm, expand="instanceView", api_version=COMPUTE_API
            )
        except ResourceNotFoundError as error:
            _only_missing(error)
            return None
        return found.as_dict()

    async def instance_view(self, subscription: str, group: str, vm: str) -> Wire | None:
        """Return the instance view of a machine, None when there is none."""
        await self._clients.limits(subscription).read_machine(f"{group}/{vm}")
        try:
            found = await self._clients.compute(subscription).virtual_machines.instance_view(
                group, vm, api_version=COMPUTE_API
            )
        except ResourceNotFoundError as error:
            _only_missing(error)
            return None
        return found.as_dict()

    async def machines(self, subscription: str, group: str) -> list[Wire]:
        """Every machine of a resource group, without instance views; none when there is no such group.

        Read as it is: the SDK's models take a millisecond a machine, every half minute, to be taken apart again.
        """
        await self._clients.limits(subscription).lists.take()
        path = f"{names.group_path(subscription, group)}/providers/Microsoft.Compute/virtualMachines"
        return await self._all(subscription, path, COMPUTE_API)

    async def delete(self, subscription: str, group: str, vm: str) -> None:
        """Ask for the end of a machine and of what goes with it; not found is success."""
        await self._clients.limits(subscription).deletes.take()
        try:
            await self._clients.compute(subscription).virtual_machines.begin_delete(
                group, vm, force_deletion=True, polling=_Initial(), api_version=COMPUTE_API
            )
        except ResourceNotFoundError as error:
            _only_missing(error)

    async def console(self, subscription: str, group: str, vm: str) -> bytes | None:
        """The serial console as far as Azure kept it, None when it kept none."""
        await self._clients.limits(subscription).read_machine(f"{group}/{vm}")
        client = self._clients.compute(subscription)
        found = await client.virtual_machines.retrieve_boot_diagnostics_data(group, vm, api_version=COMPUTE_API)
        url = found.serial_console_log_blob_uri
        if not url:
            return None
        # The URL is signed, and the credential is not for the store behind it.
        status, content = await self._clients.unsigned(url)
        return content[-_CONSOLE:] if status == 200 else None

    async def public_json(self, url: str) -> Wire:
        """A document that needs no credential.  Raises ValueError for anything but a good answer."""
        status, content = await self._clients.unsigned(url)
        if status != 200:
            raise ValueError(f"HTTP {status}")
        found: Wire = numbers.loads(content)
        return found

    # -- what belongs to machines ----------------------------------------------------------------------------------

    async def disks(self, subscription: str, group: str) -> list[Wire]:
        """Every managed disk of a resource group."""
        await self._clients.limits(subscription).lists.take()
        path = f"{names.group_path(subscription, group)}/providers/Microsoft.Compute/disks"
        return await self._all(subscription, path, DISKS_API)

    async def delete_disk(self, subscription: str, group: str, disk: str) -> None:
        """Ask for the end of a disk; not found is success."""
        await self._clients.limits(subscription).deletes.take()
        try:
            await self._clients.compute(subscription).disks.begin_delete(
                group, disk, polling=_Initial(), api_version=DISKS_API
            )
        except ResourceNotFoundError as error:
            _only_missing(error)

    async def network(self, subscription: str, group: str, kind: str) -> list[Wire]:
        """Every ``networkInterfaces`` or ``publicIPAddresses`` of a resource group."""
        await self._clients.limits(subscription).lists.take()
        path = f"{names.group_path(subscription, group)}/providers/Microsoft.Network/{kind}"
        return await self._all(subscription, path, NETWORK_API)

    async def _all(self, subscription: str, path: str, version: str, **query: str) -> list[Wire]:
        url = f"{path}?{urlencode({'api-version': version, **query})}"
        found: list[Wire] = []
        for _ in range(_PAGES):
            answer = await self._clients.compute(subscription).send_request(HttpRequest("GET", self._endpoint(url)))
            if answer.status_code == 404:
                _only_missing(_failed(answer))
                return found
            if answer.status_code != 200:
                raise _failed(answer)
            page = answer.json()
            found += page.get("value", [])
            url = str(page.get("nextLink") or "")
            if not url:
                return found
        raise base.ProvisionError(base.Kind.TRANSIENT, f"{path}: the list does not end")

    def _endpoint(self, url: str) -> str:
        if not url.startswith("/"):
            if urlsplit(url).netloc != urlsplit(self._settings.endpoint).netloc:
                raise base.ProvisionError(base.Kind.CONFIG, f"Azure points to another host: {urlsplit(url).netloc}")
            return url
        return f"{self._settings.endpoint}{url}"

    async def delete_resource(self, subscription: str, resource_id: str, version: str) -> None:
        """Ask for the end of any resource; not found is success."""
        await self._clients.limits(subscription).deletes.take()
        url = self._endpoint(f"{resource_id}?{urlencode({'api-version': version})}")
        answer = await self._clients.compute(subscription).send_request(HttpRequest("DELETE", url))
        if answer.status_code not in (200, 202, 204, 404):
            raise _failed(answer)

    async def put_resource(self, subscription: str, resource_id: str, version: str, body: Wire) -> None:
        """Make any resource; one that is there already is success."""
        url = self._endpoint(f"{resource_id}?{urlencode({'api-version': version})}")
        answer = await self._clients.compute(subscription).send_request(HttpRequest("PUT", url, json=dict(body)))
        if answer.status_code not in (200, 201, 202, 409):
            raise _failed(answer)

    async def resource(self, subscription: str, resource_id: str, version: str) -> Wire | None:
        """Any resource by its id, None when there is none."""
        await self._clients.limits(subscription).reads.take()
        url = self._endpoint(f"{resource_id}?{urlencode({'api-version': version})}")
        answer = await self._clients.compute(subscription).send_request(HttpRequest("GET", url))
        if answer.status_code == 404:
            _only_missing(_failed(answer))
            return None
        if answer.status_code != 200:
            raise _failed(answer)
        found: Wire = answer.json()
        return found

    # -- what can be bought ------------------------------------------------------------------------------------------

    async def skus(self, subscription: str, region: str) -> list[Wire]:
        """The sizes of machines that a region has for the subscription.

        Megabytes, of which the SDK would make tens of thousands of objects: read as it is.
        """
        await self._clients.limits(subscription).lists.take()
        path = f"/subscriptions/{subscription}/providers/Microsoft.Compute/skus"
        listed = await self._all(subscription, path, SKUS_API, **{"$filter": f"location eq '{region}'"})
        return [one for one in listed if one.get("resourceType") == "virtualMachines"]

    async def usages(self, subscription: str, region: str) -> list[Wire]:
        """Quotas and how much of each is used."""
        await self._clients.limits(subscription).lists.take()
        listing = self._clients.compute(subscription).usage.list(region, api_version=COMPUTE_API)
        return [one.as_dict() async for one in listing]

    async def image_versions(self, subscription: str, region: str, urn: images.Urn) -> list[str]:
        """The versions of a marketplace image that a region has."""
        await self._clients.limits(subscription).reads.take()
        found = await self._clients.compute(subscription).virtual_machine_images.list(
            region, urn.publisher, urn.offer, urn.sku, api_version=COMPUTE_API
        )
        return [one.name for one in found]

    async def image(self, subscription: str, region: str, urn: images.Urn) -> Wire | None:
        """One version of a marketplace image, None when there is none."""
        await self._clients.limits(subscription).reads.take()
        try:
            found = await self._clients.compute(subscription).virtual_machine_images.get(
                region, urn.publisher, urn.offer, urn.sku, urn.version, api_version=COMPUTE_API
            )
        except ResourceNotFoundError:
            return None
        return found.as_dict()

    # -- who may do what, and who did ------------------------------------------------------------------------------

    async def permissions(self, subscription: str, group: str) -> list[Wire]:
        """Return the permissions of the credential in a resource group."""
        await self._clients.limits(subscription).reads.take()
        path = f"{names.group_path(subscription, group)}/providers/Microsoft.Authorization/permissions"
        return await self._all(subscription, path, AUTHORIZATION_API)

    async def assignments(self, subscription: str, group: str) -> list[Wire]:
        """The role assignments in a resource group and on what is in it."""
        await self._clients.limits(subscription).lists.take()
        path = f"{names.group_path(subscription, group)}/providers/Microsoft.Authorization/roleAssignments"
        return await self._all(subscription, path, AUTHORIZATION_API)

    async def activity(self, subscription: str, resource_id: str, since: str, until: str) -> list[Wire]:
        """The activity log of one resource between two times in ISO 8601."""
        await self._clients.limits(subscription).lists.take()
        path = f"/subscriptions/{subscription}/providers/Microsoft.Insights/eventtypes/management/values"
        wanted = f"eventTimestamp ge '{since}' and eventTimestamp le '{until}' and resourceUri eq '{resource_id}'"
        return await self._all(subscription, path, ACTIVITY_API, **{"$filter": wanted})


def _failed(answer: Any) -> HttpResponseError:
    return HttpResponseError(response=answer, error_format=ARMErrorFormat)


def _only_missing(error: HttpResponseError) -> None:
    """Raise a 404 again that says anything but that the resource, or its group, is not there."""
    code = (error.error.code if error.error is not None else "") or ""
    if code not in ("ResourceNotFound", "NotFound", "ResourceGroupNotFound"):
        raise error
