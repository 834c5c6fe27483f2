"""Backoff before the next try: delays as data in seconds, spread by an injected random source."""

from __future__ import annotations

import random
from collections.abc import Sequence

#: The longest backoff, unless the server names a longer one.
LONGEST = 60.0

#: After a failed step of a loop that never gives up.
LOOP = (0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 40.0, 60.0)
#: Between tries of a request that may be repeated.
AGAIN = (0.5, 2.0)
#: Between tries of the runner registration: a fresh registration token takes seconds to reach every replica
#: (actions-runner-controller #3377; 404 in #3006).
HANDSHAKE = (0.5, 1.0, 2.0, 4.0, 8.0)
#: While another session holds the scale set.  It ended after about 50 s when its owner was killed (runpool).
HELD = (2.0, 5.0, 10.0, 15.0, 30.0)
#: After a refused registration of a runner.  Longer than LONGEST on purpose: the instance waits, no other is bought.
REFUSED = (5.0, 15.0, 30.0, 60.0, 120.0, 300.0)


def spread(seconds: float, rng: random.Random) -> float:
    """Return the delay, up to a fifth shorter or longer, so that many clients do not retry at once."""
    return seconds * rng.uniform(0.8, 1.2)


class Backoff:
    """Walks along a sequence of delays and stays at the last."""

    def __init__(self, delays: Sequence[float], rng: random.Random, *, longest: float = LONGEST) -> None:
        self._delays = delays
        self._rng = rng
        self._longest = longest
        #: Failures in a row.
        self.failures = 0

    def next(self) -> float:
        """Count a failure and return the seconds to wait."""
        delay = self._delays[min(self.failures, len(self._delays) - 1)]
        self.failures += 1
        return min(self._longest, spread(delay, self._rng))

    def reset(self) -> None:
        """Start again at the first delay, after a success."""
        self.failures = 0
