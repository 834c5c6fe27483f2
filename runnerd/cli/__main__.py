"""``python -m runnerd.cli``: the command where the script is not installed."""

from __future__ import annotations

from runnerd.cli.main import main

if __name__ == "__main__":
    main()
