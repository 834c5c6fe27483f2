"""The command line of runnerd."""

from __future__ import annotations
