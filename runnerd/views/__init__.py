"""Documents of what the daemon knows, for people and programs: the socket, the page and ``--json`` show these.

Each function takes a running daemon and answers with JSON values; nothing is changed by asking.  What is not there is
an :class:`runnerd.errors.Refused` with the HTTP status that says so.  This package imports none of its modules, so that
naming one does not load the others.
"""

from __future__ import annotations
