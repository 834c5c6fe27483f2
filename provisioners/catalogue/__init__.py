"""The machine types of the clouds and their prices: facts that ship with runnerd, prices that can be renewed.

from provisioners import catalogue
catalog = catalogue.load("aws")
for machine in catalog.fitting(shape): ...
price = catalog.price("g4dn.xlarge", region="us-east-1", market=Market.SPOT)
"""

from __future__ import annotations

from provisioners.catalogue.catalog import Catalog, load
from provisioners.catalogue.machine import Machine
from provisioners.catalogue.overrides import Overrides
from provisioners.catalogue.price import Price

__all__ = ["Catalog", "Machine", "Overrides", "Price", "load"]
