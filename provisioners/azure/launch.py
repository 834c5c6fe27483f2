"""One launch: a create-only PUT, and what becomes of it while it is watched."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from azure.core.exceptions import HttpResponseError

from provisioners import base, catalogue
from provisioners.azure import calls as azure_calls
from provisioners.azure import error_scopes, errors, instances, names, role_assignments, settings

log = logging.getLogger(__name__)

#: Seconds for which a launch is watched.
WATCH_S = 60.0
#: A look at the machine itself costs more than one at the operation; this many times as seldom.
_CLOSER = 2.5


class Launch:
    """One attempt."""

    def __init__(
        self,
        context: base.Context,
        chosen: settings.Settings,
        calls: azure_calls.Calls,
        catalog: catalogue.Catalog,
        wanted: base.CreateRequest,
    ) -> None:
        self._context = context
        self._chosen = chosen
        self._calls = calls
        self._catalog = catalog
        self._wanted = wanted
        self._where = error_scopes.target(wanted.offer, catalog)
        self._subscription, self._group = chosen.subscription, chosen.resource_group
        self._vm = names.machine(wanted)

    async def run(self, body: Mapping[str, Any]) -> base.InstanceView:
        """Send the PUT once and follow the launch.  Raises what :meth:`base.Provisioner.create` raises."""
        try:
            accepted = await self._calls.create(self._subscription, self._group, self._vm, body)
        except Exception as error:
            failed = errors.classify(error, self._where)
            if not isinstance(error, HttpResponseError) or not _may_exist(error):
                raise failed from error
            accepted = azure_calls.Accepted(await self._existing(failed), "")
        machine = names.machine_path(self._subscription, self._group, self._vm)
        await grant(self._calls, self._chosen, self._context, machine, role_assignments.principal(accepted.machine))
        return await self._watched(accepted)

    async def _existing(self, failed: base.ProvisionError) -> Mapping[str, Any]:
        """The machine that was there already, if it is of this attempt; else raise what that means."""
        try:
            found = await self._calls.machine(self._subscription, self._group, self._vm)
        except errors.HEARD as error:
            # It may be there and ours: only a look can tell.
            raise base.ProvisionError(
                base.Kind.TRANSIENT,
                f"{self._vm} may exist already, and cannot be looked at: {error}",
                code=failed.code,
                maybe_created=True,
            ) from error
        if found is None:
            raise failed
        tags, ours = found.get("tags") or {}, self._wanted.tags
        if any(tags.get(tag) != ours.get(tag) for tag in (base.TAG_ATTEMPT, base.TAG_CONTROLLER)):
            message = f"a machine {self._vm} exists already and is not of this attempt"
            raise base.ProvisionError(base.Kind.CONFIG, message, code=failed.code)
        return found

    async def _watched(self, accepted: azure_calls.Accepted) -> base.InstanceView:
        """Follow a launch until it runs, fails, or has been watched long enough.

        The machine exists by now: a stumble while looking changes nothing about that.
        """
        until = self._context.now() + WATCH_S
        view = self._view(accepted.machine)
        operation = accepted.operation
        while True:
            if view.status is base.InstanceStatus.FAILED:
                await self._clear_away(view.failure)
            if view.status is not base.InstanceStatus.PENDING or self._context.now() >= until:
                return view
            await self._context.sleep(self._chosen.poll * (1.0 if operation else _CLOSER))
            try:
                if operation:
                    if await self._calls.operation(self._subscription, operation) == "InProgress":
                        continue
                    operation = ""
                found = await self._calls.machine(self._subscription, self._group, self._vm)
            except azure_calls.OperationFailed as error:
                await self._clear_away(errors.classify(error, self._where).failure)
            except HttpResponseError as error:
                # Operations are forgotten after a time; the machine itself tells as well.
                operation = "" if error.status_code in (400, 404, 410) else operation
            except errors.HEARD as error:
                log.info("%s: %s is looked at again: %s", self._context.name, self._vm, error)
            else:
                if found is None:
                    return view
                view = self._view(found)

    def _view(self, vm: Mapping[str, Any]) -> base.InstanceView:
        return instances.machine(
            vm,
            provider=self._context.name,
            subscription=self._subscription,
            group=self._group,
            catalog=self._catalog,
            now=self._context.now(),
        )

    async def _clear_away(self, failure: base.Failure | None) -> None:
        """Ask for the end of what a failed launch left, and raise why it failed.

        Azure keeps the machine, in the state Failed, with its parts.
        """
        failure = failure or base.Failure(base.Kind.TRANSIENT, f"{self._vm} failed")
        left = False
        try:
            await self._calls.delete(self._subscription, self._group, self._vm)
        except Exception as error:
            # Listings show it as failed, and the caller deletes it.
            log.warning("%s: %s failed and could not be deleted yet: %s", self._context.name, self._vm, error)
            left = True
        raise base.ProvisionError(
            failure.kind,
            failure.message,
            scope=failure.scope,
            code=failure.code,
            block_for=failure.block_for,
            maybe_created=left,
        )


async def grant(
    calls: azure_calls.Calls, chosen: settings.Settings, context: base.Context, machine: str, principal: str
) -> None:
    """Let a machine delete itself, where it has an identity of its own; a listing makes up for what fails."""
    if chosen.identity != settings.SYSTEM or not principal:
        return
    subscription = names.subscription_of(machine)
    wanted = role_assignments.body(chosen.identity_role, principal, subscription)
    path = role_assignments.assignment(machine, context.controller)
    try:
        await calls.put_resource(subscription, path, azure_calls.AUTHORIZATION_API, wanted)
    except errors.HEARD as error:
        log.warning("%s: %s cannot delete itself yet: %s", context.name, names.tail(machine), error)


def _may_exist(error: HttpResponseError) -> bool:
    """True when an answer to a create-only PUT may mean that the machine is there."""
    return error.status_code == 412 or errors.read(error).code in errors.EXISTS
