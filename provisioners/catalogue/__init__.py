"""What machines the clouds sell and for how much: facts that ship with runnerd, prices that can be renewed.

from provisioners import catalogue
book = catalogue.load("aws")
for machine in book.fitting(shape): ...
price = book.price("g4dn.xlarge", region="us-east-1", market=Market.SPOT)
"""

from __future__ import annotations

from provisioners.catalogue.book import Book, load
from provisioners.catalogue.machine import Machine
from provisioners.catalogue.overrides import Overrides
from provisioners.catalogue.overrides import read as read_overrides
from provisioners.catalogue.price import Price

__all__ = ["Book", "Machine", "Overrides", "Price", "load", "read_overrides"]
