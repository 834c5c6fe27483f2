"""What machines the clouds sell and for how much: facts that ship with runnerd, prices that can be renewed.

    from provisioners import catalogue
    book = catalogue.load("aws")
    for machine in book.fitting(shape): ...
    price = book.price("g4dn.xlarge", region="us-east-1", market=Market.SPOT)
"""

from __future__ import annotations

from provisioners.catalogue.book import Book, Machine, Price, load

__all__ = ["Book", "Machine", "Price", "load"]
