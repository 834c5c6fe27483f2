"""The command ``runnerd``."""

from __future__ import annotations
