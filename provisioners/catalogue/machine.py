"""One machine type of a cloud, and the shapes that it serves."""

from __future__ import annotations

from dataclasses import dataclass

from provisioners import base
from provisioners.catalogue.price import Price


@dataclass(frozen=True, slots=True)
class Machine:
    """One machine type.

    Where a cloud attaches GPUs to a general type, each sensible combination is a machine of its own, named
    ``TYPE+ACCELERATORxCOUNT`` (``n1-standard-8+nvidia-tesla-t4x1``): the name tells offers apart, blocks match it, and
    ``type_name`` is what the cloud's API takes.
    """

    name: str
    #: Catalogue name of the GPU model (``t4``, ``a100-40``), empty for none.
    gpu: str
    #: Whole GPUs: 0 beside a model is a machine with a share of one, which is given only to a pool that names its type.
    gpu_count: int
    #: Memory of one GPU, or of the share, in bytes.
    gpu_memory: int
    cpus: int
    #: Bytes.
    memory: int
    arch: str = "x86_64"
    #: The provider's quota that counts it (``g``, ``standardNCASv3_T4Family``), empty where not known.
    family: str = ""
    #: Bytes of disk inside the machine that are gone when it ends.
    scratch: int = 0
    #: Attached to a general machine type by this name (Google Cloud's ``nvidia-tesla-t4``); empty when built in.
    accelerator: str = ""

    @property
    def type_name(self) -> str:
        """The cloud's own name of the type, without what is attached to it."""
        return self.name.partition("+")[0]

    def fits(self, shape: base.Shape) -> bool:
        """Return True when a machine of this type serves that shape.

        A pool without GPU gets a machine with GPUs only by naming its type, and then the type with its built-in GPUs:
        a general type that it names is given without attachments.  Naming a type also allows more GPUs than asked.
        """
        if shape.types and not self._named_by(shape):
            return False
        if shape.arch != self.arch or self.cpus < shape.cpus or self.memory < shape.memory:
            return False
        if shape.gpu != self.gpu and (shape.gpu or not shape.types):
            return False
        wanted = shape.gpu_count or (1 if shape.gpu else 0)
        return self.gpu_count >= wanted if self.name in shape.types else self.gpu_count == wanted

    def offer(
        self, price: Price, *, provider: str, account: str, region: str, zone: str, market: base.Market, image: str
    ) -> base.Offer:
        """Return the offer of this machine at that price, in that place."""
        return base.Offer(
            provider=provider,
            account=account,
            region=region,
            zone=zone,
            machine_type=self.name,
            market=market,
            price=price.dollars,
            gpus=self.gpu_count,
            cpus=self.cpus,
            image=image,
            price_source=str(price),
        )

    def _named_by(self, shape: base.Shape) -> bool:
        return self.name in shape.types or self.type_name in shape.types
