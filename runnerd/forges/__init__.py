"""The forges: where jobs wait and runners register."""

from __future__ import annotations
