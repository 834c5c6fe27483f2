"""``python -m runnerd.agent.cml``."""

from __future__ import annotations

import sys

from runnerd.agent.cml import command

if __name__ == "__main__":
    sys.exit(command.main())
