"""`python -m runnerd.demo`."""

from __future__ import annotations

import sys

from runnerd.demo import main

sys.exit(main.main())
