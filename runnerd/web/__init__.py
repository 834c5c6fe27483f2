"""Everything that speaks HTTP to the daemon from outside: public listener, ops listener, and the commands' socket."""

from __future__ import annotations
