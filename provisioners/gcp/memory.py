"""What is asked once and kept: images that families stood for, zones of regions, and what a zone has.

It is kept as JSON in the provider's directory, so that a restart asks nothing; without a directory, in memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from provisioners.support import jsonfile, numbers

FILE = "gcp-facts.json"
#: Seconds that an answer serves.
FRESH = 86400.0
#: Seconds after a question failed in which the old answer serves without asking again.
RETRY = 300.0


class Memory:
    """Answers by kind and name, each with the time it is of."""

    def __init__(self, directory: str, *, now: Callable[[], float]) -> None:
        self._notes = jsonfile.Notes(directory, FILE)
        self._now = now
        self._facts: dict[str, dict[str, Any]] = {}
        self._tried: dict[str, float] = {}
        self._notes.load(self._take)

    def _take(self, kept: Any) -> None:
        self._facts = {str(key): {"value": one["value"], "at": numbers.must(one["at"])} for key, one in kept.items()}

    def fresh(self, kind: str, name: str) -> Any:
        """The answer, None where there is none or it is too old to serve unasked."""
        fact = self._facts.get(f"{kind}:{name}")
        if fact is None:
            return None
        age = self._now() - fact["at"]
        if age < FRESH or self._now() - self._tried.get(f"{kind}:{name}", float("-inf")) < RETRY:
            return fact["value"]
        return None

    def old(self, kind: str, name: str) -> Any:
        """The last answer however old, for when the question fails; it is not asked again for a while."""
        self._tried[f"{kind}:{name}"] = self._now()
        fact = self._facts.get(f"{kind}:{name}")
        return None if fact is None else fact["value"]

    def keep(self, kind: str, name: str, value: Any) -> None:
        """Keep an answer."""
        self._facts[f"{kind}:{name}"] = {"value": value, "at": self._now()}
        self._notes.save(self._facts)
