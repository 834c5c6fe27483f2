"""What speaks HTTP with the rest of the world: two listeners that never share a socket.

The *public* one takes webhooks, agents and report images and believes nobody; the *ops* one tells Prometheus and
people how the daemon does, on loopback unless somebody decides otherwise.  Nothing here decides what happens to an
instance: requests are checked, handed over, and answered in words.
"""

from __future__ import annotations
