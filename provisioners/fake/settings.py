"""The options of a simulated cloud, read and checked."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from provisioners import base, options
from provisioners.catalogue import listed_types
from provisioners.fake import faults
from provisioners.options import Span

_GIB = 2**30
#: What is sold where the options list no machine types.
TYPES = {
    one.name: one
    for one in (
        listed_types.MachineType("sim-cpu", cpus=4, memory=16 * _GIB, price=0.20, spot_price=0.06),
        listed_types.MachineType("sim-t4", "t4", 1, cpus=4, memory=16 * _GIB, price=0.53, spot_price=0.16),
        listed_types.MachineType("sim-a100", "a100-40", 1, cpus=12, memory=85 * _GIB, price=3.67, spot_price=1.10),
    )
}


class Backing(enum.StrEnum):
    """The things that back an instance of the simulated cloud."""

    #: An entry in a journal.
    NONE = "none"
    #: A group of processes on this host.
    LOCAL = "local"


@dataclass(frozen=True, slots=True)
class Quota:
    """The account's limit in one region; None for no limit."""

    instances: int | None = None
    gpus: int | None = None


@dataclass(frozen=True, slots=True)
class Region:
    """One region of the simulated cloud."""

    name: str
    zones: tuple[str, ...]
    #: Machines of all types together that it has, None for no end of them.
    capacity: int | None
    #: Machines per type that it has; a type not named here is bounded by ``capacity`` alone.
    capacity_by_type: Mapping[str, int]
    #: Seconds from create to running.
    boot: Span
    #: What the list prices are multiplied with here.
    price_factor: float
    #: What is sold here.
    machine_types: tuple[str, ...]
    quota: Quota


@dataclass(frozen=True, slots=True)
class Settings:
    """The options of a ``fake`` provider.  Durations are seconds."""

    account: str
    regions: Mapping[str, Region]
    machine_types: Mapping[str, listed_types.MachineType]
    backing: Backing
    #: Everything left to chance is derived from it, and from the name of what it happens to.
    seed: str
    create_latency: Span
    #: Of describe, list and delete calls.
    call_latency: Span
    #: From a delete until the instance is gone.
    delete_latency: Span
    #: From a create until the instance shows in listings.
    visibility_delay: Span
    replay_window: float
    #: Creates per second and at once before they are throttled.
    create_rate: float
    create_burst: int
    #: Instances end at their deadline by themselves.
    self_end: bool
    #: The same key gives the same instance.
    idempotent: bool
    #: How long an ended instance is described and listed.
    remember: float
    #: With real processes: seconds between SIGTERM and SIGKILL.
    grace: float
    #: File that every call is appended to; empty for none.
    log: str
    faults: tuple[faults.Fault, ...]


def read(given: Mapping[str, Any]) -> tuple[Settings, list[str]]:
    """The settings, and what is wrong with them."""
    reader = options.Reader(given)
    types = listed_types.read(reader, "machine_types", listed_types.MachineType("", cpus=4, memory=16 * _GIB)) or TYPES
    quota = _quota(reader.inner("quota"), Quota())
    boot = reader.span("boot", Span(1.0, 1.0))
    regions = {name: _region(name, entry, types, quota, boot) for name, entry in reader.named("regions")}
    if not regions:
        if reader.has("regions"):
            reader.complain("regions", "no region is named")
        regions["sim-1"] = _region("sim-1", options.Reader(None), types, quota, boot)
    visibility = reader.span("visibility_delay", Span(0.0, 0.0))
    settings = Settings(
        account=_name(reader, "account", reader.text("account", "sim")),
        regions=regions,
        machine_types=types,
        backing=Backing(reader.text("backing", Backing.NONE.value, choices=[one.value for one in Backing])),
        seed=str(reader.whole("seed", 0, high=2**63)),
        create_latency=reader.span("create_latency", Span(0.0, 0.0)),
        call_latency=reader.span("call_latency", Span(0.0, 0.0)),
        delete_latency=reader.span("delete_latency", Span(0.0, 0.0)),
        visibility_delay=visibility,
        replay_window=reader.seconds("replay_window", 86400.0),
        create_rate=reader.number("create_rate", 1000.0, low=0.001),
        create_burst=reader.whole("create_burst", 10_000, low=1),
        self_end=reader.flag("self_end", True),
        idempotent=reader.flag("idempotent", True),
        remember=reader.seconds("remember", 3600.0),
        grace=reader.seconds("grace", 5.0),
        log=reader.text("log"),
        faults=tuple(faults.read(entry, position) for position, entry in enumerate(reader.listed("faults"))),
    )
    if settings.backing is Backing.LOCAL and not settings.idempotent:
        reader.complain("idempotent", "real processes are always started once per key")
    reader.done()
    return settings, reader.problems


def _region(
    name: str,
    reader: options.Reader,
    types: Mapping[str, listed_types.MachineType],
    quota: Quota,
    boot: Span,
) -> Region:
    _name(reader, "", name)
    zones = reader.texts("zones") or (f"{name}a",)
    for zone in zones:
        _name(reader, "zones", zone)
    total: int | None = None
    by_type: dict[str, int] = {}
    if isinstance(reader.raw("capacity"), Mapping):
        inner = reader.inner("capacity")
        for one in types:
            number = inner.whole_or_none(one)
            if number is not None:
                by_type[one] = number
        inner.done()
    else:
        total = reader.whole_or_none("capacity")
    sold = reader.texts("machine_types", tuple(types))
    for one in sold:
        if one not in types:
            reader.complain("machine_types", f'"{one}" is no machine type{options.nearest(one, types)}')
    region = Region(
        name=name,
        zones=zones,
        capacity=total,
        capacity_by_type=by_type,
        boot=reader.span("boot", boot),
        price_factor=reader.number("price_factor", 1.0),
        machine_types=tuple(one for one in sold if one in types),
        quota=_quota(reader.inner("quota"), quota),
    )
    reader.done()
    return region


def _quota(reader: options.Reader, default: Quota) -> Quota:
    instances, gpus = reader.whole_or_none("instances"), reader.whole_or_none("gpus")
    reader.done()
    return Quota(default.instances if instances is None else instances, default.gpus if gpus is None else gpus)


def _name(reader: options.Reader, key: str, name: str) -> str:
    if not listed_types.NAME.match(name):
        reader.complain(key, f'"{name}" is no name of letters, digits, dot, dash and underscore')
    return name


def scope(provider: str, settings: Settings, region: Region, zone: str) -> base.Scope:
    """Return the listing scope of that zone."""
    return base.Scope.of(provider, settings.account, region.name, zone)


def offers(provider: str, settings: Settings, shape: base.Shape) -> list[base.Offer]:
    """Return the offers for a shape: by market as asked, then by region, zone and type as written."""
    fitting = [one for one in settings.machine_types.values() if one.fits(shape)]
    found: list[base.Offer] = []
    for market in shape.markets:
        for region in settings.regions.values():
            for zone in region.zones:
                for machine in fitting:
                    offer = priced(provider, settings, region, zone, machine, market)
                    if offer is not None and machine.name in region.machine_types:
                        found.append(offer)
    return found


def priced(
    provider: str,
    settings: Settings,
    region: Region,
    zone: str,
    machine: listed_types.MachineType,
    market: base.Market,
) -> base.Offer | None:
    """Return one offer, None where the type is not sold in that market."""
    price = machine.price_in(market)
    if price is None:
        return None
    return base.Offer(
        provider=provider,
        account=settings.account,
        region=region.name,
        zone=zone,
        machine_type=machine.name,
        market=market,
        price=round(price * region.price_factor, 6),
        gpus=machine.gpu_count,
    )
