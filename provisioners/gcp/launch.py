"""One launch: ``instances.insert``, its operation, and what became of it while it is watched."""

from __future__ import annotations

from google.cloud import compute_v1

from provisioners import base, catalogue
from provisioners.gcp import errors, instances, names, operations, pending_launches, rates, request, settings, tags
from provisioners.gcp.calls import Calls
from provisioners.gcp.client import INSERT_TIMEOUT_S
from provisioners.gcp.error_scopes import Target


class Launcher:
    """Sends launches and follows their operations."""

    def __init__(
        self,
        context: base.Context,
        chosen: settings.Settings,
        catalog: catalogue.Catalog,
        *,
        calls: Calls,
        operations: operations.Operations,
        unsettled: pending_launches.Launches,
    ) -> None:
        self._context = context
        self._settings = chosen
        self._catalog = catalog
        self._calls = calls
        self._operations = operations
        self._unsettled = unsettled

    async def create(self, request_: base.CreateRequest) -> base.InstanceView:
        """Send the insert once and follow it.  Raises what :meth:`base.Provisioner.create` raises."""
        target = self._calls.target(request_.offer)
        pool, problems = settings.read_pool(request_.options, self._settings.launch, self._catalog)
        if problems:
            raise base.ProvisionError(base.Kind.CONFIG, "; ".join(problems), code="InvalidOptions")
        call = request.build(request_, self._settings, pool.launch, now=self._context.now())

        def insert() -> compute_v1.Operation | str:
            try:
                return self._calls.clients.instances.insert_unary(request=call, retry=None, timeout=INSERT_TIMEOUT_S)
            except Exception as error:
                if errors.is_conflict(error):
                    return str(error)
                raise

        operation = await self._calls(rates.Group.CREATE, insert, target)
        name = call.instance_resource.name
        if isinstance(operation, str):
            return await self._existing(request_, name, target, conflict=operation)
        ref = names.Ref(request_.offer.account, request_.offer.zone, name, str(operation.target_id))
        operation = await self._operations.settled(operation, ref, target)
        if operation.error.errors:
            return await self._refused(operation, ref, target)
        if not operation.target_id:
            # There is no id to hold on to yet: the instance that has the name now is read instead.
            return await self._existing(request_, name, target, conflict="")
        try:
            found = await self._calls.instance(ref, target)
        except base.ProvisionError:
            # It was accepted; that it cannot be read now does not undo that.
            found = None
        if operation.status != compute_v1.Operation.Status.DONE:
            self._unsettled.add(ref, operation.name, instances.requested(request_, ref, now=self._context.now()))
        if found is None:
            return instances.requested(request_, ref, now=self._context.now())
        return self._view(found, ref.project)

    async def _refused(self, operation: compute_v1.Operation, ref: names.Ref, target: Target) -> base.InstanceView:
        """Raise the error of an operation; return an instance that exists nevertheless, so that it is deleted."""
        error = errors.from_operation(operation, target, now=self._context.now())
        if error.maybe_created:
            try:
                found = await self._calls.instance(ref, target)
            except base.ProvisionError:
                raise error from None
            if found is not None:
                return self._view(found, ref.project, failure=error.failure)
            error.maybe_created = False
        raise error

    async def _existing(
        self, request_: base.CreateRequest, name: str, target: Target, *, conflict: str
    ) -> base.InstanceView:
        """Return the instance that has the name already, if it is of this very request; else raise what that means.

        ``conflict`` is the message of the API that says what exists.
        """
        offer = request_.offer
        try:
            found = await self._calls.named(offer.account, offer.zone, name, target)
        except base.ProvisionError as error:
            # It may well be ours, and cannot be read now.
            error.maybe_created = True
            raise
        if found is None and "/disks/" in conflict:
            raise base.ProvisionError(
                base.Kind.TRANSIENT,
                f"{target}: a disk called {name} is left there without its instance; the sweep removes it",
                scope=base.OfferPattern(offer.key),
                code="alreadyExists",
            )
        if found is None:
            raise base.ProvisionError(
                base.Kind.TRANSIENT,
                f"{target}: the name {name} is taken by something that is not there: it is on its way in or out",
                code="alreadyExists",
                maybe_created=True,
            )
        known = instances.tags(found)
        if known == dict(request_.tags) or dict(found.labels) == tags.labels(request_.tags):
            return self._view(found, offer.account)
        ours = known.get(base.TAG_CONTROLLER) == request_.tags.get(base.TAG_CONTROLLER)
        if ours and known.get(base.TAG_INSTANCE) == request_.tags.get(base.TAG_INSTANCE):
            raise base.ProvisionError(
                base.Kind.TRANSIENT,
                f"{target}: {name} of an earlier attempt is still there",
                scope=base.OfferPattern(offer.key),
                code="alreadyExists",
            )
        raise base.ProvisionError(
            base.Kind.CONFIG,
            f"{target}: another owner's instance has the name {name}",
            scope=base.OfferPattern(offer.key),
            code="alreadyExists",
        )

    def _view(
        self, found: compute_v1.Instance, project: str, *, failure: base.Failure | None = None
    ) -> base.InstanceView:
        return instances.instance(
            found, provider=self._context.name, project=project, catalog=self._catalog, failure=failure
        )
