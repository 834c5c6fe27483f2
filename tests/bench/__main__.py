"""`python -m tests.bench`: measure, print a table for people, and one line of JSON for programs as the last.

Nothing is estimated: what could not be measured within the time is null, and the table says what was measured.
"""

from __future__ import annotations

import argparse
import json
import sys

from tests.bench import measures, report


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer repetitions, and no queue of 10,000 jobs")
    parser.add_argument("--only", choices=measures.NAMES, action="append", help="only this one; may be repeated")
    parser.add_argument("--keep", action="store_true", help="keep the directories with the logs and say where")
    arguments = parser.parse_args()
    found = measures.Found()
    bench = measures.Bench(found, quick=arguments.quick, keep=arguments.keep, say=_say)
    problems = bench.run(arguments.only or measures.NAMES)
    print(report.table(found))
    for problem in problems:
        print(f"not measured: {problem}", file=sys.stderr)
    print(json.dumps(report.line(found)), flush=True)
    return 1 if problems else 0


def _say(text: str) -> None:
    """Progress, where it does not disturb what programs read."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
