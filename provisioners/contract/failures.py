"""Failures of provider calls, and what may be concluded from them."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from provisioners.contract.offer_keys import OfferPattern


class Kind(enum.StrEnum):
    """The class of a failure, which decides what is tried next."""

    #: Nothing free here now; elsewhere there may be.
    CAPACITY = "capacity"
    #: The account's limit at the provider is reached.
    QUOTA = "quota"
    #: The price asked is above the price paid.
    PRICE = "price"
    #: Too many calls: this API needs a backoff, the offer is not at fault.
    THROTTLED = "throttled"
    #: The credential is missing, expired or refused.
    AUTH = "auth"
    #: The request cannot work as configured (image, subnet, type).
    CONFIG = "config"
    #: The provider failed; the same call may succeed.
    TRANSIENT = "transient"
    #: There is nothing under that handle.
    NOT_FOUND = "not-found"
    #: The machine started and its system did not come up: the image is suspected.
    BOOT = "boot"


@dataclass(frozen=True, slots=True)
class Failure:
    """The reason why something could not be bought, and the offers that it applies to."""

    kind: Kind
    message: str
    #: The offers that it applies to, as widely as the provider says; None for only this one.
    scope: OfferPattern | None = None
    #: The provider's own code.
    code: str = ""
    #: Seconds for which it lasts by the provider's documentation; 0 for the usual time of its kind.
    block_for: float = 0.0


class ProvisionError(Exception):
    """A provider call failed.

    ``scope``, ``code`` and ``block_for`` are those of :class:`Failure`; ``retry_after`` is the pause in seconds that a
    throttling provider asked for (0 where it did not say).

    ``maybe_created`` is True unless it is certain that no instance came of the call.  An unknown outcome must be
    resolved by listing or by sending the same request again, never by a new one.
    """

    def __init__(
        self,
        kind: Kind,
        message: str,
        *,
        scope: OfferPattern | None = None,
        code: str = "",
        maybe_created: bool = False,
        retry_after: float = 0.0,
        block_for: float = 0.0,
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.scope = scope
        self.code = code
        self.maybe_created = maybe_created
        self.retry_after = retry_after
        self.block_for = block_for

    @property
    def failure(self) -> Failure:
        """The part of it that is remembered."""
        return Failure(self.kind, str(self), self.scope, self.code, self.block_for)
