"""The health of one GitLab and of its scopes: what fails, since when, and the alarms for people."""

from __future__ import annotations

from runnerd.forges import base
from runnerd.kit import clock as clocks

#: The scope that stands for the forge as a whole.
WHOLE_FORGE = ""


class ForgeHealth:
    """The failures of one forge, by scope."""

    def __init__(self, forge: str, sink: base.Sink, *, clock: clocks.Clock) -> None:
        self._forge = forge
        self._sink = sink
        self._clock = clock
        #: By scope: since when it fails, and the message.
        self._failing: dict[str, tuple[float, str]] = {}

    def problem(self, scope: str) -> tuple[float, str]:
        """Return since when the forge or the scope fails, and the message; 0 and empty when all is well."""
        return self._failing.get(WHOLE_FORGE) or self._failing.get(scope) or (0.0, "")

    def failed(self, scope: str, reason: str, message: str) -> None:
        """Note that the scope fails, and raise an alarm."""
        since = self._failing.get(scope, (self._clock.now(), ""))[0]
        self._failing[scope] = (since, message)
        self._sink.alarm("forge", self._subject(scope), reason, message)

    def recovered(self, scope: str, *reasons: str) -> None:
        """Note that the scope answers, and clear its alarms."""
        if self._failing.pop(scope, None) is not None:
            for reason in reasons:
                self._sink.clear("forge", self._subject(scope), reason)

    def _subject(self, scope: str) -> str:
        return f"{self._forge}/{scope}" if scope else self._forge
