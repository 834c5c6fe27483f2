"""Notifications to systemd: ready, reloading, stopping, alive.

The protocol is datagrams of ``KEY=value`` lines to the socket in ``$NOTIFY_SOCKET`` (sd_notify(3)).  Without that
variable nothing is sent, and a message that cannot be delivered is never a reason to fail.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import MutableMapping

from provisioners.support import numbers


class Notify:
    """The connection to the service manager, taken from the environment once."""

    def __init__(self, environ: MutableMapping[str, str] | None = None) -> None:
        variables = os.environ if environ is None else environ
        # Children (runners, hooks) must not speak for the service.
        self._address = variables.pop("NOTIFY_SOCKET", "")
        microseconds, pid = variables.pop("WATCHDOG_USEC", ""), variables.pop("WATCHDOG_PID", "")
        meant = not pid or pid == str(os.getpid())
        #: Seconds between signs of life that systemd asks for; 0 for none.
        self.watchdog = (numbers.whole(microseconds) or 0) / 1e6 if meant else 0.0

    def send(self, **facts: str | int) -> bool:
        """Send facts, for example ``send(READY=1, STATUS="reconciling")``; True when they were handed over."""
        if not self._address:
            return False
        # A leading @ stands for the abstract namespace.
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        text = "\n".join(f"{key}={str(value).splitlines()[0] if str(value) else ''}" for key, value in facts.items())
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
                sock.setblocking(False)
                sock.sendto(text.encode(), address)
        except OSError:
            return False
        return True

    def ready(self, status: str) -> None:
        """Report that the daemon works."""
        self.send(READY=1, STATUS=status)

    def reloading(self) -> None:
        """Report that the configuration is being read again, until ``ready``.  The time distinguishes reloads."""
        self.send(RELOADING=1, MONOTONIC_USEC=time.monotonic_ns() // 1000)

    def stopping(self, status: str) -> None:
        """Report that the daemon ends."""
        self.send(STOPPING=1, STATUS=status)

    def alive(self) -> None:
        """Send a sign of life to the watchdog."""
        self.send(WATCHDOG=1)
