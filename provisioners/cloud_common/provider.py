"""The frame of a cloud's provisioner: its settings, its catalogue, its offers."""

from __future__ import annotations

import abc
import logging
from collections.abc import Mapping
from typing import Any, ClassVar, Generic, TypeVar

from provisioners import base, catalogue
from provisioners.cloud_common import offers

log = logging.getLogger(__name__)

S = TypeVar("S")
P = TypeVar("P", bound=offers.Pool)


class CloudProvider(base.Basics, abc.ABC, Generic[S, P]):
    """A provisioner with a catalogue of machine types and options of its own; to inherit from."""

    #: The name of the catalogue.
    cloud: ClassVar[str]
    #: Set by each cloud when it is created.
    _offers: offers.Offers[P]

    def __init__(self, context: base.Context, options: Mapping[str, Any]) -> None:
        self._context = context
        self._catalog = catalogue.load(self.cloud)
        self._settings, problems = self.read_settings(options, self._catalog)
        if problems:
            raise ValueError("; ".join(problems))

    @classmethod
    @abc.abstractmethod
    def read_settings(cls, options: Mapping[str, Any], catalog: catalogue.Catalog) -> tuple[S, list[str]]:
        """Return the provider's options as they are used, and what is wrong with them."""

    @abc.abstractmethod
    def read_pool(self, options: Mapping[str, Any]) -> tuple[P, list[str]]:
        """Return a pool's options as they are used, and what is wrong with them."""

    @classmethod
    def validate(cls, options: Mapping[str, Any]) -> list[str]:
        return cls.read_settings(options, catalogue.load(cls.cloud))[1]

    async def start(self) -> None:
        """Read the prices that were renewed.

        Nothing else is opened here: credentials and connections are looked for when they are first needed, and fail by
        themselves.
        """
        problem = self._catalog.load_renewed(self._context.directory)
        if problem:
            log.warning("%s: %s", self._context.name, problem)

    async def offers(self, shape: base.Shape, options: Mapping[str, Any] = base.NO_OPTIONS) -> list[base.Offer]:
        pool, problems = self.read_pool(options)
        if problems:
            raise base.ProvisionError(base.Kind.CONFIG, "; ".join(problems), code="BadPoolOptions")
        return await self._offers.find(shape, pool)

    def why_none(self, shape: base.Shape, options: Mapping[str, Any] = base.NO_OPTIONS) -> str:
        pool, problems = self.read_pool(options)
        return "; ".join(problems) or self._offers.why_none(shape, pool)
