"""One module per step, oldest first."""

from __future__ import annotations
