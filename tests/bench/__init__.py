"""`make bench`: the speed that the design promises, measured on the real daemon as a process."""

from __future__ import annotations
