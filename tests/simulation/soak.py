"""Play many seeds, or one again: ``python -m tests.simulation.soak --seeds 2000`` or ``--seed 17``.

With ``--clouds`` the scenarios are those over the provisioners of real clouds; they take longer.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time

from tests.simulation import cloud_scenarios, scenarios


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--clouds", action="store_true", help="scenarios over the simulated clouds")
    parser.add_argument("--seconds", type=float, help="begin no further seed after so long")
    chosen = parser.parse_args()
    logging.basicConfig(level=logging.DEBUG if chosen.seed is not None else logging.CRITICAL, format="%(message)s")
    seeds = [chosen.seed] if chosen.seed is not None else range(chosen.first, chosen.first + chosen.seeds)
    play = cloud_scenarios.play if chosen.clouds else scenarios.play
    failed = []
    played = 0
    started = time.monotonic()
    for seed in seeds:
        if chosen.seconds is not None and time.monotonic() - started > chosen.seconds:
            break
        played += 1
        try:
            play(seed)
        except Exception as error:
            failed.append(seed)
            print(f"seed {seed}: {type(error).__name__}: {str(error)[:3000]}", flush=True)
    took = time.monotonic() - started
    print(f"{played} seeds in {took:.1f} s, failed: {failed or 'none'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
