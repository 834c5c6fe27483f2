"""HTTP: two listeners that never share a socket, and the admin socket.

The *public* listener takes webhooks, agents and report images and trusts no client; the *ops* listener serves metrics,
health and a page, on loopback by default.  Nothing here decides what happens to an instance: requests are checked,
handed over and answered.
"""

from __future__ import annotations
