"""Documents of the daemon's state, for people and programs: the socket, the page and ``--json`` show these.

Each function takes a :class:`runnerd.read_model.ReadModel` and returns a document; nothing is changed.  An unknown
name raises :class:`runnerd.errors.Refused` with the HTTP status.  This package imports none of its modules, so that
importing one does not load the others.
"""

from __future__ import annotations
