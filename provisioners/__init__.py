"""Sources of instances.  Imports nothing from runnerd, so that a provisioner can live in a package of its own."""

from __future__ import annotations
