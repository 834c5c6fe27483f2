"""Machine types as an operator lists them for a provider that has no catalogue of its own, and which shape each fits.

A type that names no GPU is never given to a shape that wants one, and one with GPUs is given to a shape without only
where the pool names the type: idle GPUs cost money.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from provisioners import base, options

#: Names that become parts of an offer's key, where ``/`` separates and ``*`` is a wildcard.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}\Z")
_KEY = re.compile(r"[a-z0-9-]{1,36}\Z")
#: What an instance may be called.
INSTANCE = re.compile(r"[a-z0-9]([a-z0-9-]{0,46}[a-z0-9])?\Z")


@dataclass(frozen=True, slots=True)
class MachineType:
    """One kind of machine."""

    name: str
    #: Catalogue name of the GPU model, empty for none.
    gpu: str = ""
    gpu_count: int = 0
    cpus: int = 0
    #: Bytes.
    memory: int = 0
    arch: str = "x86_64"
    #: Dollars per hour on demand.
    price: float = 0.0
    #: Dollars per hour in the spot market; None where it is not sold there.
    spot_price: float | None = None

    def fits(self, shape: base.Shape) -> bool:
        """True when a machine of this type serves that shape."""
        if shape.types and self.name not in shape.types:
            return False
        if shape.arch != self.arch or self.cpus < shape.cpus or self.memory < shape.memory:
            return False
        if shape.gpu and shape.gpu != self.gpu:
            return False
        wanted = shape.gpu_count or (1 if shape.gpu else 0)
        return self.gpu_count >= wanted if shape.types else self.gpu_count == wanted

    def price_in(self, market: base.Market) -> float | None:
        """Dollars per hour in that market, None where it is not sold."""
        return self.spot_price if market is base.Market.SPOT else self.price


def read(reader: options.Reader, key: str, default: MachineType) -> dict[str, MachineType]:
    """The machine types under ``key``; what an entry leaves out is as in ``default``."""
    found: dict[str, MachineType] = {}
    for name, entry in reader.named(key):
        if not NAME.match(name):
            entry.complain("", "a machine type's name is made of letters, digits, dot, dash and underscore")
        gpu = entry.text("gpu", default.gpu)
        count = entry.whole("gpu_count", 1 if gpu else 0, high=64)
        if gpu and not count:
            entry.complain("gpu_count", "is 0 although a gpu is named")
        spot = entry.number("spot_price", -1.0) if entry.has("spot_price") else None
        found[name] = MachineType(
            name=name,
            gpu=gpu,
            gpu_count=count,
            cpus=entry.whole("cpus", default.cpus, high=4096),
            memory=entry.size("memory", default.memory),
            arch=entry.text("arch", default.arch, choices=("x86_64", "arm64")),
            price=entry.number("price", default.price),
            spot_price=spot if spot is not None and spot >= 0 else default.spot_price,
        )
        entry.raw("spot_price")
        entry.done()
    return found


def why_none(known: Iterable[MachineType], shape: base.Shape) -> str:
    """Plain words on why no type of an operator's list serves a shape; empty when one does."""
    types = list(known)
    if any(one.fits(shape) for one in types):
        return ""
    missing = [name for name in shape.types if name not in {one.name for one in types}]
    if missing:
        return f'it has no machine type "{missing[0]}"{options.nearest(missing[0], (one.name for one in types))}'
    gpus = {one.gpu for one in types if one.gpu}
    if shape.gpu and shape.gpu not in gpus:
        return f'it has no GPU "{shape.gpu}"{options.nearest(shape.gpu, gpus)}'
    counts = sorted({one.gpu_count for one in types if one.gpu == shape.gpu})
    wanted = shape.gpu_count or (1 if shape.gpu else 0)
    if wanted not in counts:
        return f"it has no machine with {wanted} x {shape.gpu}; there are {', '.join(map(str, counts))}"
    return "none of its machine types has the processor, the vCPUs and the memory that the pool asks for"


def refuse_malformed(request: base.CreateRequest, known: Mapping[str, object]) -> None:
    """Raise a definite CONFIG failure for a request that no provider could serve; ``known`` are its pool options."""
    problem = ""
    if not _KEY.match(request.key):
        problem = f'"{request.key}" is not an idempotency key of at most 36 characters a-z, 0-9 and dash'
    elif not INSTANCE.match(request.name):
        problem = f'"{request.name}" is not a name of at most 48 characters a-z, 0-9 and dash'
    elif not request.user_data.startswith("#!"):
        problem = "the boot script does not start with #!"
    elif base.TOKEN_PLACEHOLDER in request.user_data:
        problem = "the boot script was sent without its token"
    else:
        for option in request.options:
            if option not in known:
                problem = f'no such pool option "{option}"{options.nearest(option, known)}'
    if problem:
        raise base.ProvisionError(base.Kind.CONFIG, problem, code="InvalidRequest")
