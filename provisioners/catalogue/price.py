"""A price with where it comes from."""

from __future__ import annotations

from dataclasses import dataclass

#: Set by the operator in the configuration.
OPERATOR = "operator"
#: Asked of the cloud's price API by ``runnerd prices refresh``.
RENEWED = "price list"
#: Shipped with runnerd.
SHIPPED = "catalogue"
#: The highest price known for that type in any region.
ESTIMATE = "estimate"
#: A spot price that nobody tells: it stays below the on-demand price.
CEILING = "estimate (on-demand price)"


@dataclass(frozen=True, slots=True)
class Price:
    """Dollars per hour, with where they come from."""

    dollars: float
    #: For people: one of the texts above, or a provider's own such as ``spot price history``.
    source: str
    #: ISO day; empty for an operator's own.
    as_of: str = ""

    def __str__(self) -> str:
        return f"{self.source} {self.as_of}".strip()
