"""Reads golden data with the code at hand and returns what that code makes of it, as plain JSON.

``make.py`` keeps the results of the version that wrote the data; ``test_golden.py`` compares them with today's.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import dataclasses
import enum
import gzip
import importlib.metadata
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.contract.upgrade import adapter, agents

#: When the golden data was made, and when it is read.
NOW = 1_795_600_000.0
#: Compressed in the repository: database and rows are large and repetitive.
PACKED = ("state/runnerd.db",)
#: What the version that made the data read of it; compressed too.
EXPECTED = "expected.json"
#: What decides over a create call besides its address and body.
_HEADERS = ("if-match", "if-none-match", "x-goog-user-project")
#: What a listing of a cloud was asked for: regions, projects and resource groups.
_PLACE = re.compile(r"//(ec2\.[a-z0-9-]+)\.|/(projects/[^/?]+)/|/(resourceGroups/[^/?]+)/", re.IGNORECASE)
#: An image of Azure without a version.
_FLOATING = "microsoft-dsvm:ubuntu-hpc:2204:latest"
#: The SDKs that write the bodies of requests.
SDKS = ("botocore", "google-cloud-compute", "azure-mgmt-compute", "azure-core")


class Clock:
    """Time that passes only when a provisioner sleeps."""

    def __init__(self, at: float = NOW) -> None:
        self.at = at

    def now(self) -> float:
        return self.at

    wall = now

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(0)
        self.at += seconds


class StillClock(Clock):
    """Time that stands still: loops in the background make one round."""

    async def sleep(self, seconds: float) -> None:
        await asyncio.Event().wait()


class Recorder:
    """A network that takes every request and loses every answer."""

    def __init__(self) -> None:
        self.requests: list[Any] = []

    def __call__(self, request: Any) -> Any:
        self.requests.append(request)
        raise adapter.Lost(sent=True)

    def plain(self) -> list[dict[str, Any]]:
        """What was sent; a body as text, or in base64 where it is none."""
        found = []
        for one in self.requests:
            try:
                body = one.body.decode()
            except UnicodeDecodeError:
                body = "base64:" + base64.b64encode(one.body).decode()
            headers = {name: one.header(name) for name in _HEADERS if one.header(name)}
            found.append({"method": one.method, "url": one.url, "headers": headers, "body": body})
        return found


def versions() -> dict[str, str]:
    """The versions of the SDKs at hand."""
    return {name: importlib.metadata.version(name) for name in SDKS}


def unpack(golden: Path, target: Path) -> Path:
    """Copy golden data to where it can be opened, with the modes that files of the state have."""
    shutil.copytree(golden, target)
    for name in (*PACKED, EXPECTED):
        packed = target / f"{name}.gz"
        if packed.exists():
            (target / name).write_bytes(gzip.decompress(packed.read_bytes()))
            packed.unlink()
    for path in target.rglob("*"):
        if path.is_dir():
            path.chmod(0o700)
        else:
            path.chmod(0o700 if path.name == "boot" else 0o600)
            os.utime(path, (NOW, NOW))
    return target


def load_config(folder: Path) -> Any:
    """The configuration beside the state; it names the state's folder as of the time that it was written."""
    path = folder / "runnerd.yaml"
    path.write_text(path.read_text().replace("@@state@@", str(folder / "state")))
    return adapter.load_config(path)


def plain(value: Any) -> Any:
    """Facts as JSON has them."""
    if isinstance(value, enum.Enum):
        return value.value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {one.name: plain(getattr(value, one.name)) for one in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, tuple | list):
        return [plain(one) for one in value]
    return value


async def open_store(settings: Any) -> Any:
    return await adapter.Store.open(settings.database_url, offload=adapter.Offload(0), now=lambda: NOW)


# -- the database ------------------------------------------------------------------------------------------------------


async def rows(settings: Any) -> dict[str, Any]:
    """Every row as the store gives it, and what the ledger mirrors of them."""
    store = await open_store(settings)
    try:
        state = await store.load()
        ledger = adapter.Ledger(store, lambda: NOW)
        ledger.load(
            instances=state.instances,
            attempts=state.attempts,
            registrations=state.registrations,
            jobs=state.jobs,
            blocks=state.blocks,
        )
        instances = sorted(await store.instances(limit=1000), key=lambda one: str(one.id))
        spending = await store.spending(by=adapter.SpendingBy.POOL, since=0.0, until=NOW, now=NOW)
        found: dict[str, Any] = {
            "state": state,
            "instances": {one.id: one for one in instances},
            "attempts": {one.id: await store.attempts(one.id) for one in instances},
            "registrations": {one.id: await store.registrations(one.id) for one in instances},
            "consoles": {one.id: await store.consoles(one.id) for one in instances},
            "jobs": {one.key: one for one in await store.jobs(limit=1000)},
            "events": await store.trail(limit=10_000),
            "costs": await store.costs(0.0),
            "dollars by pool": {one.key: [one.dollars, one.instances, one.jobs] for one in spending.groups},
            "mirror": {
                "instances": sorted(ledger.instances),
                "attempts": sorted(ledger.attempts),
                "registrations": sorted(ledger.registrations),
                "jobs": sorted(ledger.jobs),
                "blocks": sorted(ledger.blocks),
                "runners": sorted(
                    [one.runner_name, one.instance]
                    for row in ledger.instances
                    for one in ledger.registrations_of(row)
                    if ledger.runner(one.runner_name) is one
                ),
            },
        }
        return json.loads(json.dumps(plain(found)))
    finally:
        await store.close()


async def _state(settings: Any) -> Any:
    store = await open_store(settings)
    try:
        return await store.load()
    finally:
        await store.close()


# -- launch requests ---------------------------------------------------------------------------------------------------


async def replays(settings: Any) -> dict[str, Any]:
    """For each attempt: the request as it is sent, and for those of open outcome what goes over the wire again."""
    state = await _state(settings)
    maker = adapter.token_maker(settings)
    open_states = (adapter.AttemptState.REQUESTING, adapter.AttemptState.UNKNOWN)
    found: dict[str, Any] = {}
    for attempt in sorted(state.attempts, key=lambda one: str(one.key)):
        token = maker.boot(attempt.key)
        request = adapter.unseal(attempt.sealed, token)
        entry: dict[str, Any] = {
            "token": token,
            "session": maker.session(attempt.key, "nonce-of-the-agent"),
            # The text is what was stored, but for the token.
            "request": adapter.seal(request),
            "offer": request.offer.key,
            "scope": request.offer.scope,
        }
        # What the simulated cloud has already, it only finds again.
        if attempt.state in open_states or attempt.provider == "sky":
            entry["sent"] = await replay(settings, attempt.provider, request)
        found[attempt.key] = entry
    return found


async def replay(settings: Any, provider: str, request: Any) -> Any:
    """What a provider sends, or writes down, for a request."""
    network = Recorder()
    chosen = settings.providers[provider]
    context = adapter.provider_context(settings, provider, Clock())
    made = adapter.provisioner(chosen, context, network)
    directory = Path(context.directory)
    journal = directory / "cloud.jsonl"
    with adapter.no_local_launches():
        await made.start()
        before = journal.read_text().splitlines() if journal.exists() else []
        outcome = ""
        try:
            await made.create(request)
        except adapter.ProvisionError as error:
            outcome = f"{error.kind.value}, maybe created: {error.maybe_created}"
        finally:
            await made.close()
    if chosen.type == "fake":
        return {"outcome": outcome, "journal": journal.read_text().splitlines()[len(before) :]}
    if chosen.type == "local":
        home = directory / "instances" / request.name
        record = json.loads((home / "record.json").read_text())
        # The host's own.
        record.pop("boot")
        record.pop("uptime")
        return {"outcome": outcome, "record": record, "boot": (home / "boot").read_text()}
    return {"outcome": outcome, "wire": network.plain()}


async def remembered_image(settings: Any) -> dict[str, Any]:
    """Azure's request for an image without a version: the version comes from the notes beside the database."""
    state = await _state(settings)
    attempt = min(
        (one for one in state.attempts if one.provider == "az" and one.offer.endswith("on-demand")),
        key=lambda one: str(one.key),
    )
    request = adapter.unseal(attempt.sealed, "")
    bare = dataclasses.replace(
        request, offer=dataclasses.replace(request.offer, image=""), options={"image": _FLOATING}
    )
    sent = await replay(settings, "az", bare)
    bodies = [json.loads(one["body"]) for one in sent["wire"] if one["method"] == "PUT"]
    return {
        "requests": [one["method"] for one in sent["wire"]],
        "images": [one["properties"]["storageProfile"]["imageReference"] for one in bodies],
    }


# -- what providers keep -----------------------------------------------------------------------------------------------


async def listings(settings: Any) -> dict[str, Any]:
    """Where each provider looks for instances of ours; what it finds, for those that keep them in the state."""
    state = await _state(settings)
    found: dict[str, Any] = {"tags": adapter.tags()}
    for name, chosen in sorted(settings.providers.items()):
        rows = [one for one in state.instances if one.provider == name and one.offer]
        also = frozenset(adapter.scope(one.offer.rsplit("/", 2)[0]) for one in rows)
        network = Recorder()
        made = adapter.provisioner(chosen, adapter.provider_context(settings, name, Clock()), network)
        with adapter.no_local_launches(), _alive(settings.state / "providers/host/instances/golden-busy-host"):
            await made.start()
            entry: dict[str, Any] = {"also": sorted(also)}
            try:
                listing = await made.list_owned(also)
            except adapter.ProvisionError as error:
                entry["failed"] = error.kind.value
            else:
                entry["complete"] = sorted(listing.complete_scopes)
                entry["views"] = sorted((plain(one) for one in listing.views), key=lambda one: str(one["ref"]))
                entry["ends"] = {one.ref: plain(await made.end_reason(one.ref)) for one in listing.views}
            finally:
                await made.close()
        entry["places"] = sorted(
            {next(filter(None, one.groups())) for sent in network.requests for one in _PLACE.finditer(sent.url)}
        )
        found[name] = entry
    return found


@contextlib.contextmanager
def _alive(home: Path) -> Iterator[None]:
    """A process of this host in the place of a local instance's supervisor."""
    with agents.sleeper({}) as (_, identity):
        for name, own in (("record.json", {"boot": identity["boot"]}), ("identity.json", identity)):
            path = home / name
            path.write_text(json.dumps({**json.loads(path.read_text()), **own}))
        yield


async def offers(settings: Any) -> dict[str, Any]:
    """What AWS and GCP offer right after a restart: their notes answer, and nothing is asked."""
    found: dict[str, Any] = {}
    for name in ("amazon", "google"):
        network = Recorder()
        made = adapter.provisioner(
            settings.providers[name], adapter.provider_context(settings, name, Clock(NOW + 3600)), network
        )
        await made.start()
        shape = adapter.Shape(gpu="t4", gpu_count=1, markets=(adapter.Market.ON_DEMAND,))
        try:
            told = await made.offers(shape)
        finally:
            await made.close()
        renewed = [one for one in told if "2026-11-25" in one.price_source]
        found[name] = {
            "requests": network.plain(),
            "offers": sorted([one.key, one.image, one.gpus, one.cpus] for one in told),
            "renewed": sorted([one.key, one.price, one.price_source] for one in renewed),
        }
    return found


# -- the blocklist -----------------------------------------------------------------------------------------------------


async def blocked(settings: Any) -> dict[str, Any]:
    """By offer and seconds from now: the block that holds it."""
    state = await _state(settings)
    found: dict[str, Any] = {}
    for attempt in sorted(state.attempts, key=lambda one: str(one.key)):
        offer = adapter.unseal(attempt.sealed, "").offer
        for image in (offer.image, "ami-0suspected"):
            tried = dataclasses.replace(offer, image=image)
            for later in (0.0, 100.0, 500.0, 5000.0):
                active = [one for one in state.blocks if one.until > NOW + later]
                block = adapter.blocking(tried, active)
                key = f"{tried.key} {'suspected' if image != offer.image else 'its'} image +{later:.0f}"
                found[key] = None if block is None else [block.pattern, block.reason, block.until]
    return found


# -- the daemon --------------------------------------------------------------------------------------------------------


class _Silent:
    """A provisioner that cannot be reached."""

    def __init__(self, inner: Any) -> None:
        self.traits = inner.traits
        self.scopes = inner.scopes
        self.why_none = inner.why_none

    def __getattr__(self, name: str) -> Any:
        async def fail(*words: Any) -> Any:
            raise adapter.ProvisionError(adapter.Kind.TRANSIENT, "not reached")

        return fail

    async def start(self) -> None:
        """Nothing."""

    async def close(self) -> None:
        """Nothing."""


class _Forge:
    """A forge that never says anything."""

    def scopes(self) -> tuple[str, ...]:
        return ("acme",)

    async def watch(self, specs: Any, sink: Any) -> None:
        await asyncio.Event().wait()

    def demand(self, queue: Any) -> Any:
        return adapter.Demand()

    def headroom(self, queue: Any) -> int | None:
        return None

    def health(self, queue: Any) -> Any:
        return adapter.Health(ok=False, problem="silent")

    def server_date(self) -> None:
        return None

    async def close(self) -> None:
        """Nothing."""

    def __getattr__(self, name: str) -> Any:
        async def fail(*words: Any, **more: Any) -> Any:
            raise adapter.ForgeUnavailable("not reached")

        return fail


async def start_daemon(settings: Any) -> Any:
    """The daemon over the state, in a world that never answers."""

    def make_provisioner(chosen: Any, context: Any) -> Any:
        return _Silent(adapter.provisioner(chosen, context, Recorder()))

    made = adapter.make_daemon(settings, StillClock(), make_provisioner, lambda name, _: _Forge())
    await made.start()
    return made


async def started(settings: Any) -> dict[str, Any]:
    """The settings in force in a daemon that starts on the state, and where it takes each instance up."""
    made = await start_daemon(settings)
    try:
        settled = {id: [row.state.value, row.attempt] for id, row in sorted(adapter.instances_of(made).items())}
        return {"settings": plain(adapter.settings_in_force(made)), "instances": settled}
    finally:
        await made.stop()


# -- the rest ----------------------------------------------------------------------------------------------------------


async def cursors(settings: Any) -> dict[str, Any]:
    """What the clients of the forges take from their cursors."""
    state = await _state(settings)
    clock = Clock()
    found: dict[str, Any] = {}
    for queue, cursor in sorted(state.cursors.items()):
        forge, _, pool = queue.split(":")
        if forge == "hub":
            found[queue] = adapter.github_cursor(cursor, pool=pool, clock=clock)
        else:
            found[queue] = adapter.gitlab_cursor(cursor, pool=pool)
    found["marks"] = adapter.gitlab_marks(adapter.Queue("lab", "acme", "sky-pool"))
    return found


async def images(settings: Any) -> dict[str, Any]:
    """The addresses of report images and the capabilities of instances."""
    kept = adapter.image_store(settings, lambda: NOW)
    names = sorted(one.name for one in (settings.state / "assets").rglob("*.*") if one.is_file())
    found = {name: await kept.find(name) for name in names}
    capability = kept.capability("golden-busy-sky")
    content = (settings.state / "assets" / names[0][:2] / names[0]).read_bytes()

    async def chunks() -> Any:
        yield content

    return {
        "files": {name: None if one is None else [one.mime, one.size] for name, one in found.items()},
        "capability": [capability, kept.holder(capability)],
        # The same content comes to the same address.
        "address": await kept.receive(capability, chunks()),
    }


def agent(folder: Path) -> dict[str, Any]:
    """What agents do that are started again on a directory of the older version."""
    archive = folder / "agent.pyz"
    archive.write_bytes(adapter.agent_archive().data)
    return {name: agents.again(archive, folder / "agents" / name, python=sys.executable) for name in agents.CASES}


async def everything(folder: Path) -> dict[str, Any]:
    """All sections but the rows and the agents; each on a copy of its own, because daemons and providers write."""
    found: dict[str, Any] = {}
    for name, section in SECTIONS.items():
        copied = folder.parent / f"{folder.name}-{name}"
        shutil.copytree(folder, copied)
        found[name] = json.loads(json.dumps(await section(load_config(copied))))
    return found


SECTIONS = {
    "replays": replays,
    "remembered image": remembered_image,
    "listings": listings,
    "offers": offers,
    "blocked": blocked,
    "started": started,
    "cursors": cursors,
    "images": images,
}
