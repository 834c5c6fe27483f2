"""The built-in ``cml``: reports of CI jobs as comments, compatible with the flags and requests of CML 0.20.6.

Built in are ``comment create|update``, ``asset publish`` and the old ``publish`` and ``send-comment``. It
never sends telemetry and uploads to no public third party unless its address is given. Standard library only, any
Python from 3.9.

The seam to the agent is two functions. The agent's zipapp serves the sub-command ``cml`` by
``sys.exit(cml.main(["cml", *sys.argv[2:]]))``, and puts ``cml`` on a job's PATH by
``cml.install(bin_directory, sys.executable, "/path/agent.pyz")``. ``python -m runnerd.agent.cml`` is the same
command without either.
"""

from __future__ import annotations

from runnerd.agent.cml.command import main
from runnerd.agent.cml.shims import NAMES, install

__all__ = ["NAMES", "install", "main"]
