"""runnerd rents a GPU machine for each CI job that asks for one, and gives it back."""

from __future__ import annotations

__version__ = "0.1.0"
