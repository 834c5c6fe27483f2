"""The built-in ``cml``: reports of CI jobs as comments, with upstream CML 0.20.6's flags, environment and
requests.

Built in are ``comment create|update``, ``asset publish`` and the old ``publish`` and ``send-comment``. It
never sends telemetry and never uploads to a public third party that nobody named. Standard library only, any
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
