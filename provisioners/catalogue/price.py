"""A price with its source."""

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
#: An unknown spot price: it stays below the on-demand price.
CEILING = "estimate (on-demand price)"


@dataclass(frozen=True, slots=True)
class Price:
    """US dollars per hour, with their source."""

    dollars: float
    #: For people: one of the texts above, or a provider's own such as ``spot price history``.
    source: str
    #: ISO day; empty for an operator's own.
    as_of: str = ""

    def __str__(self) -> str:
        return f"{self.source} {self.as_of}".strip()
