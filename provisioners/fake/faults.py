"""Scripted faults: which calls fail, in which way, how often, and after how many calls.

A fault fires by counting the calls that match it, and by chance where a probability is given.  Chance is a hash of the
seed, the fault and the count, so that the same script over the same calls always gives the same failures.
"""

from __future__ import annotations

import enum
import fnmatch
import functools
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass

from provisioners import base, options
from provisioners.options import Span


class Call(enum.StrEnum):
    """A call that can go wrong."""

    #: Buying an instance.
    CREATE = "create"
    #: Looking at one.
    DESCRIBE = "describe"
    #: Ending one.
    DELETE = "delete"
    #: Listing all.
    LIST = "list"


#: Fails like a lost connection: the caller cannot know whether the call was carried out.
TIMEOUT = "timeout"
#: Failures after which a create may have been carried out.
UNCLEAR = frozenset({TIMEOUT, base.Kind.TRANSIENT.value})
_KINDS = (*(kind.value for kind in base.Kind if kind is not base.Kind.NOT_FOUND), TIMEOUT)
_EFFECTS = ("kind", "partial_list", "stale", "async_failure", "preempt_after", "stop_after", "delay")
_CODES = {
    "capacity": "InsufficientCapacity",
    "quota": "QuotaExceeded",
    "price": "PriceTooLow",
    "throttled": "RequestLimitExceeded",
    "auth": "AuthFailure",
    "config": "InvalidParameter",
    "transient": "InternalError",
    "timeout": "Timeout",
}


@dataclass(frozen=True, slots=True)
class Fault:
    """One line of the script."""

    #: Unique in the script and stable while the line stays as it is; counts are kept under it.
    ident: str
    call: Call
    #: Pattern over ``provider/account/region/zone/type/market``; for lists over the first four.
    match: str
    #: A :class:`base.Kind` value, ``timeout``, or empty for a call that does not fail.
    kind: str
    code: str
    #: What the error says it speaks for; None for what its kind usually speaks for.
    scope: base.OfferPattern | None
    #: Fires at most so often, None for always; the first ``after`` matching calls pass.
    times: int | None
    after: int
    probability: float
    #: The call is carried out although it fails.
    applied: bool
    #: The call takes that much longer.
    delay: float
    #: What a throttled answer asks the caller to wait.
    retry_after: float
    #: Scope patterns that a listing lacks.
    partial_list: tuple[str, ...]
    #: The listing is that old.
    stale: float
    #: The instance is accepted and breaks while it boots.
    async_failure: bool
    #: A spot instance is taken back that long after its create.
    preempt_after: Span | None
    #: The instance stops, and is billed on, that long after its create.
    stop_after: float | None

    @property
    def error_code(self) -> str:
        return self.code or _CODES[self.kind]


def _scope(reader: options.Reader) -> base.OfferPattern | None:
    text = reader.text("scope")
    pattern = base.OfferPattern.read(text) if text else None
    if text and pattern is None:
        reader.complain("scope", f'"{text}" has more segments than provider/account/region/zone/type/market/image')
    return pattern


def read(reader: options.Reader, position: int) -> Fault:
    """Read one fault of the options."""
    effects = [key for key in _EFFECTS if reader.has(key)]
    if not effects:
        reader.complain("", f"the fault has no effect; set one of {', '.join(_EFFECTS)}")
    listing = {"partial_list", "stale"} & set(effects)
    fates = {"async_failure", "preempt_after", "stop_after"} & set(effects)
    default = Call.LIST if listing else Call.CREATE
    call = Call(reader.text("call", default.value, choices=[one.value for one in Call]))
    misplaced = (set() if call is Call.LIST else listing) | (set() if call is Call.CREATE else fates)
    for effect in sorted(misplaced):
        reader.complain(effect, f"cannot happen to a {call.value} call")
    kind = reader.text("kind", choices=_KINDS)
    fault = Fault(
        ident=f"{position}-{hashlib.blake2b(repr(reader.given).encode(), digest_size=4).hexdigest()}",
        call=call,
        match=reader.text("match", "*"),
        kind=kind,
        code=reader.text("code"),
        scope=_scope(reader),
        times=reader.whole_or_none("times", low=1),
        after=reader.whole("after", 0),
        probability=reader.number("probability", 1.0, high=1.0),
        applied=reader.flag("applied", False),
        delay=reader.seconds("delay", 60.0 if kind == TIMEOUT else 0.0),
        retry_after=reader.seconds("retry_after", 1.0 if kind == base.Kind.THROTTLED.value else 0.0),
        partial_list=reader.texts("partial_list"),
        stale=reader.seconds("stale", 0.0),
        async_failure=reader.flag("async_failure", False),
        preempt_after=reader.span("preempt_after", Span(0, 0)) if reader.has("preempt_after") else None,
        stop_after=reader.seconds("stop_after", 0.0) if reader.has("stop_after") else None,
    )
    if fault.applied and fault.kind not in UNCLEAR:
        reader.complain("applied", "only a transient failure or a timeout can hide a call that was carried out")
    for key in ("preempt_after", "stop_after"):
        reader.raw(key)
    reader.done()
    return fault


@functools.lru_cache(maxsize=1024)
def _pattern(pattern: str) -> re.Pattern[str]:
    # Only ``*`` is special, as in the block list; fnmatch would also read ``?`` and ``[``.
    return re.compile(fnmatch.translate(re.sub(r"([?\[])", r"[\1]", pattern)))


def matches(pattern: str, subject: str) -> bool:
    """Return True when a pattern with ``*`` matches the subject."""
    return _pattern(pattern).match(subject) is not None


def chance(*parts: object) -> float:
    """Return a number from 0 to 1 that depends on nothing but ``parts``."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def fires(fault: Fault, counts: Mapping[str, tuple[int, int]], seed: str) -> tuple[bool, tuple[int, int]]:
    """Decide if the fault fires at this matching call; return that and its counts (seen, fired) afterwards."""
    seen, fired = counts.get(fault.ident, (0, 0))
    seen += 1
    if seen <= fault.after or (fault.times is not None and fired >= fault.times):
        return False, (seen, fired)
    if fault.probability < 1.0 and chance(seed, "fault", fault.ident, seen) >= fault.probability:
        return False, (seen, fired)
    return True, (seen, fired + 1)
