"""Google Cloud as a source of instances."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from google.cloud import compute_v1

from provisioners import base, catalogue
from provisioners.gcp import checks, ends, errors, labels, listing, offers, pricing, quotas, request, settings
from provisioners.gcp import instances as gcp_instances
from provisioners.gcp.calls import Calls, Group
from provisioners.gcp.client import INSERT_TIMEOUT, TIMEOUT, Clients
from provisioners.gcp.facts import Facts
from provisioners.gcp.memory import Memory
from provisioners.gcp.operations import Operations
from provisioners.gcp.place import Place

log = logging.getLogger(__name__)

#: Pages of 500 of a list at most.
_PAGES = 200
#: Stopped instances whose launch is looked up in one listing; launches under way that are remembered, and of those
#: how many are looked at in one listing.
_STOPPED, _WATCHED, _LOOKED = 20, 2000, 50
#: Seconds for which a launch under way is remembered.
_WATCH = 3600.0

#: Creates per second and at once: 25 + 60 x 24.5 stays below the 1,500 writes a minute of a project ("Rate quotas").
CREATE_RATE, CREATE_BURST = 24.5, 25


class Gcp(base.Basics):
    """Compute Engine instances of one project."""

    def __init__(self, context: base.Context, options: Mapping[str, Any], clients: Clients | None = None) -> None:
        self._context = context
        self._book = catalogue.load("gcp")
        self._settings, problems = settings.read(options, self._book)
        if problems:
            raise ValueError("; ".join(problems))
        self._calls = Calls(
            context,
            clients or Clients(self._settings, secret=context.secret),
            project=self._settings.project,
            book=self._book,
        )
        self._memory = Memory(context.directory, now=context.now)
        self._facts = Facts(self._calls, self._memory)
        self._operations = Operations(self._calls)
        #: Launches whose operation had not ended when the caller was answered: ref -> (operation, view).  Only a short
        #: cut: what became of them is read from the zone's operations as well.
        self._watched: dict[str, tuple[str, base.InstanceView]] = {}
        self._failed: dict[str, base.InstanceView] = {}

    @classmethod
    def validate(cls, options: Mapping[str, Any]) -> list[str]:
        return settings.read(options, catalogue.load("gcp"))[1]

    @classmethod
    def validate_pool(cls, options: Mapping[str, Any]) -> list[str]:
        return settings.read_pool(options, settings.Launch(service_account="default"), catalogue.load("gcp"))[1]

    @property
    def traits(self) -> base.Traits:
        return base.Traits(
            replay_window=3000.0,
            visibility_grace=60.0,
            self_end=True,
            idempotent_create=True,
            create_rate=CREATE_RATE,
            create_burst=CREATE_BURST,
            user_data_limit=request.USER_DATA_LIMIT,
            preemption_notice=self._settings.preemption_notice,
            residue=(
                "nothing for longer than the deadline: Compute Engine deletes an instance and its disk at its run time "
                "limit; one that switched itself off before is TERMINATED and its disk is billed until then, or until "
                "runnerd deletes it"
            ),
        )

    def scopes(self) -> frozenset[str]:
        root = f"{self._context.name}/{self._settings.project}"
        return frozenset(
            f"{root}/{region.name}/{zone}"
            for region in self._settings.regions.values()
            for zone in (region.zones or ("*",))
        )

    async def start(self) -> None:
        """Nothing is opened: credentials and connections are found when first needed, and fail by themselves."""
        problem = self._book.load_renewed(self._context.directory)
        if problem:
            log.warning("%s: %s", self._context.name, problem)

    async def close(self) -> None:
        self._calls.close()

    async def offers(self, shape: base.Shape, options: Mapping[str, Any] = base.NO_OPTIONS) -> list[base.Offer]:
        return await offers.find(
            shape,
            settings.read_pool(options, self._settings.launch, self._book)[0],
            provider=self._context.name,
            chosen=self._settings,
            book=self._book,
            facts=self._facts,
        )

    def why_none(self, shape: base.Shape, options: Mapping[str, Any] = base.NO_OPTIONS) -> str:
        return offers.why_none(shape, chosen=self._settings, book=self._book, facts=self._facts)

    async def quotas(self) -> list[base.Quota]:
        clients, project, place = self._calls.clients, self._settings.project, self._calls.place()
        found = quotas.of_project(
            (
                await self._calls(
                    Group.READ, lambda: clients.projects.get(project=project, retry=None, timeout=TIMEOUT)
                )
            ).quotas,
            place,
            as_of=self._context.now(),
        )
        for name in self._settings.regions:
            region = await self._calls(
                Group.READ,
                lambda name=name: clients.regions.get(  # type: ignore[misc]  # a default binds the loop's name
                    project=project, region=name, retry=None, timeout=TIMEOUT
                ),
            )
            found += quotas.of_region(region.quotas, place, name, as_of=self._context.now())
        return found

    async def refresh_prices(self) -> list[base.Finding]:
        async def get(url: str) -> dict[str, Any]:
            return await self._calls(Group.OTHER, lambda: self._calls.clients.fetch(url))

        return await pricing.refresh(
            self._book,
            regions=list(self._settings.regions),
            directory=self._context.directory,
            now=self._context.now(),
            place=f"providers.{self._context.name}",
            get=get,
        )

    # -- one instance ----------------------------------------------------------------------------------------------

    async def create(self, request_: base.CreateRequest) -> base.InstanceView:
        place = self._calls.place(request_.offer)
        launch, problems = settings.read_pool(request_.options, self._settings.launch, self._book)
        if problems:
            raise base.ProvisionError(base.Kind.CONFIG, "; ".join(problems), code="InvalidOptions")
        call = request.build(request_, self._settings, launch, now=self._context.now())

        def insert() -> compute_v1.Operation | str:
            try:
                return self._calls.clients.instances.insert_unary(request=call, retry=None, timeout=INSERT_TIMEOUT)
            except Exception as error:
                if errors.is_conflict(error):
                    return str(error)
                raise

        operation = await self._calls(Group.CREATE, insert, place)
        name = call.instance_resource.name
        if isinstance(operation, str):
            return await self._existing(request_, name, place, operation)
        ref = gcp_instances.Ref(request_.offer.account, request_.offer.zone, name, str(operation.target_id))
        operation = await self._operations.settled(operation, ref, place)
        if operation.error.errors:
            return await self._refused(operation, ref, place)
        if not operation.target_id:
            # Nothing to hold on to yet; whoever has the name now is looked at instead.
            return await self._existing(request_, name, place, "")
        try:
            found = await self._get(ref, place)
        except base.ProvisionError:
            # It was accepted; that it cannot be looked at now does not undo that.
            found = None
        if operation.status != compute_v1.Operation.Status.DONE:
            self._watch(ref, operation.name, gcp_instances.requested(request_, ref, now=self._context.now()))
        if found is None:
            return gcp_instances.requested(request_, ref, now=self._context.now())
        return self._view(found, ref.project)

    async def _refused(
        self, operation: compute_v1.Operation, ref: gcp_instances.Ref, place: Place
    ) -> base.InstanceView:
        """Raise what the operation says; an instance that is there nevertheless is told, so that it is deleted."""
        error, settled = errors.from_operation(operation, place, now=self._context.now())
        if not settled:
            try:
                found = await self._get(ref, place)
            except base.ProvisionError:
                error.maybe_created = True
                found = None
            if found is not None:
                return self._view(found, ref.project, failure=error.failure)
        raise error

    async def _existing(self, request_: base.CreateRequest, name: str, place: Place, told: str) -> base.InstanceView:
        """What has the name already, if it is this very request's instance; ``told`` is what the API says exists."""
        offer = request_.offer
        try:
            found = await self._named(offer.account, offer.zone, name, place)
        except base.ProvisionError as error:
            # It may well be ours; nobody can look now.
            error.maybe_created = True
            raise
        if found is None and "/disks/" in told:
            raise base.ProvisionError(
                base.Kind.TRANSIENT,
                f"{place}: a disk called {name} is left there without its instance; the sweep removes it",
                scope=offer.key,
                code="alreadyExists",
            )
        if found is None:
            raise base.ProvisionError(
                base.Kind.TRANSIENT,
                f"{place}: the name {name} is taken by something that is not there: it is on its way in or out",
                code="alreadyExists",
                maybe_created=True,
            )
        known = gcp_instances.tags(found)
        if known == dict(request_.tags) or dict(found.labels) == labels.of(request_.tags):
            return self._view(found, offer.account)
        ours = known.get(base.TAG_CONTROLLER) == request_.tags.get(base.TAG_CONTROLLER)
        if ours and known.get(base.TAG_INSTANCE) == request_.tags.get(base.TAG_INSTANCE):
            raise base.ProvisionError(
                base.Kind.TRANSIENT,
                f"{place}: {name} of an earlier attempt is still there",
                scope=offer.key,
                code="alreadyExists",
            )
        raise base.ProvisionError(
            base.Kind.CONFIG,
            f"{place}: somebody else's instance has the name {name}",
            scope=offer.key,
            code="alreadyExists",
        )

    async def describe(self, ref: str) -> base.InstanceView | None:
        parsed = gcp_instances.parse(ref)
        if parsed is None:
            return None
        found = await self._get(parsed)
        if found is None:
            return None
        return self._view(found, parsed.project, failure=await self._failure(parsed, found))

    async def delete(self, ref: str) -> None:
        parsed = gcp_instances.parse(ref)
        if parsed is None:
            return
        if await self._get(parsed) is not None:
            call = compute_v1.DeleteInstanceRequest(
                project=parsed.project,
                zone=parsed.zone,
                instance=parsed.name,
                no_graceful_shutdown=True,
                request_id=ends.delete_id(parsed, self._context.now()),
            )
            operation = await self._calls.found(
                Group.MUTATE,
                lambda: self._calls.clients.instances.delete_unary(request=call, retry=None, timeout=TIMEOUT),
            )
            if operation is not None and operation.error.errors:
                raise errors.from_operation(operation, self._calls.place(project=parsed.project))[0]
        self._watched.pop(ref, None)
        self._failed.pop(ref, None)

    async def end_reason(self, ref: str) -> base.EndReason:
        parsed = gcp_instances.parse(ref)
        if parsed is None:
            return base.EndReason(base.EndKind.UNKNOWN)
        found = await self._operations.of(parsed)
        return ends.reason(found, parsed, self._calls.place(project=parsed.project))

    async def console_log(self, ref: str) -> str | None:
        parsed = gcp_instances.parse(ref)
        if parsed is None or await self._get(parsed) is None:
            return None
        clients = self._calls.clients
        try:
            found = await self._calls.found(
                Group.READ,
                lambda: clients.instances.get_serial_port_output(
                    project=parsed.project, zone=parsed.zone, instance=parsed.name, retry=None, timeout=TIMEOUT
                ),
            )
        except base.ProvisionError as error:
            if error.code in ("resourceNotReady", "RESOURCE_NOT_READY"):
                return None
            raise
        return found.contents or None if found is not None else None

    # -- all of them -----------------------------------------------------------------------------------------------

    async def list_owned(self, also: frozenset[str] = frozenset()) -> base.Listing:
        ours = frozenset(one for one in also if one.startswith(f"{self._context.name}/") and one.count("/") == 3)
        wanted = self.scopes() | ours
        found: list[base.InstanceView] = []
        residues: list[base.Residue] = []
        complete: set[str] = set()
        failures: dict[str, str] = {}
        for project in sorted({one.split("/")[1] for one in wanted}):
            scopes = {one for one in wanted if one.split("/")[1] == project}
            try:
                seen = await self._seen(project)
            except base.ProvisionError as error:
                if project == self._settings.project:
                    raise
                failures |= dict.fromkeys(scopes, f"{error}")
                continue
            mine = await self._mine(seen.instances, project)
            found += mine
            whole, why = listing.judge(seen, scopes | {one.scope for one in mine})
            complete |= whole
            failures |= why
            try:
                residues += await self._residues(project)
            except base.ProvisionError as error:
                failures[f"{self._context.name}/{project}/disks and addresses/*"] = str(error)
        found += await self._broken({one.ref for one in found})
        return base.Listing(tuple(found), frozenset(complete), tuple(residues), failures)

    async def _seen(self, project: str) -> listing.Seen:
        def ask() -> listing.Seen:
            call = compute_v1.AggregatedListInstancesRequest(
                project=project, filter=labels.owned(self._context.controller), max_results=500
            )
            pager = self._calls.clients.instances.aggregated_list(request=call, retry=None, timeout=TIMEOUT)
            return listing.read(itertools.islice(pager.pages, _PAGES))

        return await self._calls(Group.LIST, ask, self._calls.place(project=project))

    async def _mine(self, instances: Sequence[compute_v1.Instance], project: str) -> list[base.InstanceView]:
        """Ours among those whose label is ours: labels are coarser than tags."""
        found: list[base.InstanceView] = []
        looked = 0
        for one in instances:
            if gcp_instances.tags(one).get(base.TAG_CONTROLLER) != self._context.controller:
                continue
            view = self._view(one, project)
            if view.status is base.InstanceStatus.STOPPED and looked < _STOPPED:
                looked += 1
                ref = gcp_instances.parse(view.ref)
                assert ref is not None
                view = self._view(one, project, failure=await self._failure(ref, one))
            found.append(view)
        return found

    async def _broken(self, listed: set[str]) -> list[base.InstanceView]:
        """Launches that were accepted, failed after the caller was answered, and left nothing that is listed."""
        now = self._context.now()
        for ref, (name, view) in list(self._watched.items())[:_LOOKED]:
            parsed = gcp_instances.parse(ref)
            if parsed is None or now - view.created_at > _WATCH:
                del self._watched[ref]
                continue
            place = self._calls.place(project=parsed.project)
            try:
                operation = await self._operations.get(parsed.project, parsed.zone, name, place)
            except base.ProvisionError:
                continue
            del self._watched[ref]
            if operation is not None and operation.status != compute_v1.Operation.Status.DONE:
                # Back to the end of the line.
                self._watched[ref] = (name, view)
                continue
            failure = ends.failure([operation], parsed, self._placed(view)) if operation is not None else None
            if failure is not None:
                self._failed[ref] = replace(view, status=base.InstanceStatus.FAILED, failure=failure)
        for ref, view in list(self._failed.items()):
            if now - view.created_at > 2 * _WATCH:
                del self._failed[ref]
        return [view for ref, view in self._failed.items() if ref not in listed]

    async def _residues(self, project: str) -> list[base.Residue]:
        clients, name, owned = self._calls.clients, self._context.name, labels.owned(self._context.controller)

        def disks() -> list[base.Residue]:
            call = compute_v1.AggregatedListDisksRequest(project=project, filter=owned, max_results=500)
            pages = clients.disks.aggregated_list(request=call, retry=None, timeout=TIMEOUT).pages
            parts = [part for page in itertools.islice(pages, _PAGES) for part in page.items.values()]
            found = [one for part in parts for one in part.disks if not one.users]
            return [gcp_instances.disk(one, provider=name, project=project) for one in found]

        def addresses() -> list[base.Residue]:
            call = compute_v1.AggregatedListAddressesRequest(project=project, filter=owned, max_results=500)
            pages = clients.addresses.aggregated_list(request=call, retry=None, timeout=TIMEOUT).pages
            parts = [part for page in itertools.islice(pages, _PAGES) for part in page.items.values()]
            found = [one for part in parts for one in part.addresses if not one.users]
            return [gcp_instances.address(one, provider=name, project=project) for one in found]

        place = self._calls.place(project=project)
        return [*await self._calls(Group.LIST, disks, place), *await self._calls(Group.LIST, addresses, place)]

    async def delete_residue(self, residue: base.Residue) -> None:
        parsed = gcp_instances.parse(residue.ref)
        if parsed is None:
            return
        clients, ident = self._calls.clients, ends.delete_id(parsed, self._context.now())
        project, where, name = parsed.project, parsed.zone, parsed.name

        def disk() -> compute_v1.Operation | None:
            found = clients.disks.get(project=project, zone=where, disk=name, retry=None, timeout=TIMEOUT)
            if str(found.id) != parsed.id or found.users:
                return None
            call = compute_v1.DeleteDiskRequest(project=project, zone=where, disk=name, request_id=ident)
            return clients.disks.delete_unary(request=call, retry=None, timeout=TIMEOUT)

        def address() -> compute_v1.Operation | None:
            found = clients.addresses.get(project=project, region=where, address=name, retry=None, timeout=TIMEOUT)
            if str(found.id) != parsed.id or found.users:
                return None
            call = compute_v1.DeleteAddressRequest(project=project, region=where, address=name, request_id=ident)
            return clients.addresses.delete_unary(request=call, retry=None, timeout=TIMEOUT)

        await self._calls.found(Group.MUTATE, disk if residue.kind == "disk" else address)

    async def check(self, samples: Sequence[base.CreateRequest] = ()) -> list[base.Finding]:
        return await checks.run(
            self._calls,
            self._facts,
            self._settings,
            samples,
            quotas=self.quotas,
            place=f"providers.{self._context.name}",
        )

    # -- pieces ----------------------------------------------------------------------------------------------------

    def _view(
        self, found: compute_v1.Instance, project: str, *, failure: base.Failure | None = None
    ) -> base.InstanceView:
        return gcp_instances.instance(
            found, provider=self._context.name, project=project, book=self._book, failure=failure
        )

    def _placed(self, view: base.InstanceView) -> Place:
        """The place of the offer that a view is of."""
        provider, account, region, zone, machine_type, market = view.offer.split("/")
        offer = base.Offer(provider, account, region, zone, machine_type, base.Market(market), 0.0)
        return self._calls.place(offer)

    def _watch(self, ref: gcp_instances.Ref, operation: str, view: base.InstanceView) -> None:
        if len(self._watched) < _WATCHED:
            self._watched[str(ref)] = (operation, view)

    async def _failure(self, ref: gcp_instances.Ref, found: compute_v1.Instance) -> base.Failure | None:
        """Why a stopped instance never ran; None for others."""
        if gcp_instances.STATUSES.get(found.status) is not base.InstanceStatus.STOPPED:
            return None
        return ends.failure(await self._operations.of(ref), ref, self._placed(self._view(found, ref.project)))

    async def _get(self, ref: gcp_instances.Ref, place: Place | None = None) -> compute_v1.Instance | None:
        """The instance behind a handle, None for another one of its name."""
        found = await self._named(ref.project, ref.zone, ref.name, place or self._calls.place(project=ref.project))
        return found if found is not None and str(found.id) == ref.id else None

    async def _named(self, project: str, zone: str, name: str, place: Place) -> compute_v1.Instance | None:
        clients = self._calls.clients
        return await self._calls.found(
            Group.READ,
            lambda: clients.instances.get(project=project, zone=zone, instance=name, retry=None, timeout=TIMEOUT),
            place,
        )
