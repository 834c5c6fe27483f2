"""``runnerd check`` for Google Cloud: everything that can be tested without buying anything."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from google.cloud import compute_v1

from provisioners import base, options
from provisioners.base import Finding
from provisioners.cloud_common import checks
from provisioners.gcp import images, names, permissions, quotas, rates, request, settings, tags
from provisioners.gcp.availability import Availability
from provisioners.gcp.calls import Calls
from provisioners.gcp.client import TIMEOUT_S

_ACT_AS = "iam.serviceAccounts.actAs"
_ROLE = "grant the role of docs/gcp.md to the account that runnerd uses"


@dataclass(slots=True)
class _Round:
    """One run."""

    calls: Calls
    available: Availability
    chosen: settings.Settings
    findings: checks.Findings


async def run(
    calls: Calls,
    available: Availability,
    chosen: settings.Settings,
    samples: Sequence[base.CreateRequest],
    *,
    quotas: Callable[[], Awaitable[list[base.Quota]]],
    findings: checks.Findings,
) -> list[Finding]:
    """Return all findings; without credentials or project nothing else is tested."""
    round_ = _Round(calls, available, chosen, findings)
    if not await _project(round_):
        return round_.findings.found
    launches = _launches(round_, samples)
    await _permissions(round_, [launch for _, launch in launches])
    zones = await _zones(round_)
    for where, launch in launches:
        await _network(round_, launch, where)
        await _service_account(round_, launch, where)
        if launch.image:
            await _image(round_, launch.image, where)
    for sample in samples:
        await _sample(round_, sample, zones)
    await _quotas(round_, samples, quotas)
    return round_.findings.found


async def _project(round_: _Round) -> bool:
    project = round_.chosen.project
    clients = round_.calls.clients
    try:
        found = await round_.calls.found(
            rates.Group.READ, lambda: clients.projects.get(project=project, retry=None, timeout=TIMEOUT_S)
        )
    except base.ProvisionError as error:
        round_.findings.error(str(error), _credential_remedy(error, project))
        return False
    if found is None:
        round_.findings.error(
            f"there is no project {project}, or these credentials may not see it",
            "write the project's id (not its name) under `project`, or use credentials that may see it",
        )
        return False
    round_.findings.ok(f"project {found.name or project} answers")
    return True


def _credential_remedy(error: base.ProvisionError, project: str) -> str:
    if error.code in ("accessNotConfigured", "SERVICE_DISABLED"):
        link = f"https://console.cloud.google.com/apis/library/compute.googleapis.com?project={project}"
        return f"enable the Compute Engine API at {link}"
    if error.code == "DefaultCredentialsError":
        return "name a key file under `credentials`, or give this host application default credentials"
    if error.kind is base.Kind.AUTH:
        return f"{_ROLE}, or renew its key"
    return "check that this host can reach compute.googleapis.com, and try again"


async def _permissions(round_: _Round, launches: Sequence[settings.Launch]) -> None:
    chosen = round_.chosen
    wanted = set(permissions.PERMISSIONS)
    for launch in launches:
        if all(_is_own(launch.subnetwork(region) or launch.network, chosen.project) for region in chosen.regions):
            wanted |= set(permissions.NETWORK)
            if launch.public_address:
                wanted.add(permissions.EXTERNAL)
        if launch.network_tags:
            wanted.add(permissions.TAGS)
        if launch.service_account:
            wanted.add(permissions.IDENTITY)
    if launches and all(launch.resource_tags for launch in launches):
        wanted -= permissions.BY_TAG
        round_.findings.ok(
            f"{', '.join(sorted(permissions.BY_TAG))}: not tested: resource_tags may grant them by instance only",
        )
    url = f"{chosen.resource_manager}/v1/projects/{chosen.project}:testIamPermissions"
    asked = sorted(wanted)
    try:
        answer = await round_.calls(rates.Group.OTHER, lambda: round_.calls.clients.post(url, {"permissions": asked}))
    except base.ProvisionError as error:
        round_.findings.warning(
            f"the permissions could not be tested: {error}",
            "enable the Cloud Resource Manager API (cloudresourcemanager.googleapis.com) in the project",
        )
        return
    missing = sorted(wanted - set(answer.get("permissions", [])))
    if missing:
        round_.findings.error(f"missing permissions in {chosen.project}: {', '.join(missing)}", _ROLE)
    else:
        round_.findings.ok(f"{len(asked)} permissions are granted")


def _is_own(reference: str, project: str) -> bool:
    return "projects/" not in reference or f"projects/{project}/" in reference


async def _zones(round_: _Round) -> dict[str, tuple[str, ...]]:
    """Return the zones of each region that exists; note regions and zones that do not."""
    clients, project = round_.calls.clients, round_.chosen.project
    found: dict[str, tuple[str, ...]] = {}
    for name, region in round_.chosen.regions.items():
        try:
            answer = await round_.calls.found(
                rates.Group.READ,
                lambda name=name: clients.regions.get(  # type: ignore[misc]  # a default binds the loop's name
                    project=project, region=name, retry=None, timeout=TIMEOUT_S
                ),
            )
        except base.ProvisionError as error:
            round_.findings.error(f"region {name}: {error}", _ROLE)
            continue
        if answer is None:
            hint = options.nearest(name, round_.calls.catalog.regions)
            round_.findings.error(f"the project has no region {name}{hint}", f"correct `regions.{name}`")
            continue
        found[name] = tuple(sorted(names.last(one) for one in answer.zones))
        for zone in region.zones:
            if zone not in found[name]:
                hint = options.nearest(zone, found[name])
                round_.findings.error(f"{name} has no zone {zone}{hint}", f"correct `regions.{name}.zones`")
    return found


async def _network(round_: _Round, launch: settings.Launch, where: str) -> None:
    clients, project = round_.calls.clients, round_.chosen.project
    for region in round_.chosen.regions:
        subnetwork = launch.subnetwork(region)
        reference = request.network(subnetwork or launch.network or "default", region, sub=bool(subnetwork))
        owner = reference.partition("projects/")[2].partition("/")[0] or project
        name = names.last(reference)

        def ask(owner: str = owner, region: str = region, name: str = name, sub: bool = bool(subnetwork)) -> object:
            if sub:
                return clients.subnetworks.get(
                    project=owner, region=region, subnetwork=name, retry=None, timeout=TIMEOUT_S
                )
            return clients.networks.get(project=owner, network=name, retry=None, timeout=TIMEOUT_S)

        try:
            found = await round_.calls.found(rates.Group.READ, ask)
        except base.ProvisionError as error:
            round_.findings.warning(f"{reference} could not be read: {error}", _ROLE, place=where)
            continue
        if found is None:
            key = "subnetwork" if subnetwork else "network"
            round_.findings.error(
                f"there is no {key} {name} in {owner}{f' in {region}' if subnetwork else ''}",
                f"correct `{key}`, or create it",
                place=where,
            )
        elif (
            isinstance(found, compute_v1.Network)
            and not found.auto_create_subnetworks
            and not any(f"/regions/{region}/" in one for one in found.subnetworks)
        ):
            round_.findings.error(
                f"network {name} has no subnetwork in {region}",
                f"name one under `regions.{region}.subnetwork`, or create it",
                place=where,
            )


async def _image(round_: _Round, text: str, where: str) -> None:
    reference = images.parse(text)
    if reference is None:
        return
    clients = round_.calls.clients
    try:
        if reference.family:
            link = await round_.available.image(reference)
            round_.findings.ok(f"image {link}", place=where)
            return
        found = await round_.calls.found(
            rates.Group.READ,
            lambda: clients.images.get(project=reference.project, image=reference.name, retry=None, timeout=TIMEOUT_S),
        )
    except base.ProvisionError as error:
        round_.findings.error(str(error), "correct `image`, or let the account use it", place=where)
        return
    if found is None:
        round_.findings.error(
            f"there is no image {reference.name} in project {reference.project}",
            "correct `image`, or name a family: family:PROJECT/FAMILY",
            place=where,
        )


async def _service_account(round_: _Round, launch: settings.Launch, where: str) -> None:
    account = launch.service_account
    if not account or account == "default":
        return
    url = f"{round_.chosen.iam}/v1/projects/-/serviceAccounts/{account}:testIamPermissions"
    try:
        answer = await round_.calls.found(
            rates.Group.OTHER, lambda: round_.calls.clients.post(url, {"permissions": [_ACT_AS]})
        )
    except base.ProvisionError as error:
        round_.findings.warning(
            f"the permission to use {account} could not be tested: {error}",
            "enable the IAM API (iam.googleapis.com) in the project",
            place=where,
        )
        return
    if answer is None:
        round_.findings.error(f"there is no service account {account}", "correct `service_account`", place=where)
    elif _ACT_AS not in answer.get("permissions", []):
        round_.findings.error(
            f"runnerd may not give {account} to an instance: {_ACT_AS} is missing",
            f"grant roles/iam.serviceAccountUser on {account} to the account that runnerd uses",
            place=where,
        )


def _launches(round_: _Round, samples: Sequence[base.CreateRequest]) -> list[tuple[str, settings.Launch]]:
    """Return the launch settings of the provider and of each pool, each with its place in the configuration."""
    found = [(round_.findings.place, round_.chosen.launch)]
    for sample in samples:
        pool, problems = settings.read_pool(sample.options, round_.chosen.launch, round_.calls.catalog)
        for problem in problems:
            round_.findings.error(problem, "correct the pool's options for this provider", place=checks.pool_of(sample))
        if pool.launch != round_.chosen.launch:
            found.append((checks.pool_of(sample), pool.launch))
    return found


async def _sample(round_: _Round, sample: base.CreateRequest, zones: dict[str, tuple[str, ...]]) -> None:
    where, offer = checks.pool_of(sample), sample.offer
    problem = request.user_data_problem(sample)
    if problem:
        round_.findings.error(problem, "shorten the boot script", place=where)
    _labels(round_, sample, where)
    if offer.image:
        await _image(round_, offer.image, where)
    if offer.zone not in zones.get(offer.region, ()):
        return
    zone = await round_.available.types(offer.zone)
    types, accelerators = zone.machine_types, zone.accelerators
    machine_type, accelerator, _ = request.split(offer.machine_type)
    if types is not None and machine_type not in types:
        round_.findings.error(
            f"{offer.zone} has no machine type {machine_type}{options.nearest(machine_type, types)}",
            "name a type that it has, other zones, or `zones: all`",
            place=where,
        )
    if accelerator and accelerators is not None and accelerator not in accelerators:
        round_.findings.error(
            f"{offer.zone} has no accelerator {accelerator}{options.nearest(accelerator, accelerators)}",
            "name another GPU, other zones, or `zones: all`",
            place=where,
        )


def _labels(round_: _Round, sample: base.CreateRequest, where: str) -> None:
    made = tags.labels(sample.tags)
    lost = sorted(name for name in sample.tags if tags.key(name) not in made)
    same = sorted(name for name in sample.tags if name != tags.key(name) and tags.key(name) in sample.tags)
    if lost:
        round_.findings.warning(
            f"a resource has at most {tags.MOST} labels; these tags are dropped: {', '.join(lost)}",
            "use fewer tags",
            place=where,
        )
    if same:
        round_.findings.warning(
            f"these tags become the same label as others: {', '.join(same)}",
            "use tag names of a-z, 0-9, dash and underscore that begin with a letter",
            place=where,
        )
    changed = [name for name in tags.altered(sample.tags) if name not in lost and not name.startswith("runnerd-")]
    if changed:
        shown = ", ".join(f"{name}={made[tags.key(name)]}" for name in sorted(changed) if tags.key(name) in made)
        round_.findings.ok(f"these tags appear in bills and lists as {shown}", place=where)


async def _quotas(
    round_: _Round,
    samples: Sequence[base.CreateRequest],
    ask: Callable[[], Awaitable[list[base.Quota]]],
) -> None:
    try:
        found = await ask()
    except base.ProvisionError as error:
        round_.findings.warning(f"the quotas could not be read: {error}", _ROLE)
        return
    for quota, where in quotas.zero(found, {one.offer.key: checks.pool_of(one) for one in samples}):
        round_.findings.error(f"the quota {quota.name} is 0: nothing can be bought", quota.remedy, place=where)
