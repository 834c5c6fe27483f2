"""The client of GitHub: runner scale sets, or REST where there are none."""

from __future__ import annotations

from runnerd.forges.github.client import GitHub

__all__ = ["GitHub"]
