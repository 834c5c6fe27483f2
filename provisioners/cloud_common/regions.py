"""One question to each region of a provider: a region that fails leaves the answers of the others."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

from provisioners import base

_T = TypeVar("_T")


async def ask_each(
    regions: Iterable[str], ask: Callable[[str], Awaitable[_T]]
) -> tuple[dict[str, _T], dict[str, base.ProvisionError]]:
    """Return the answers by region, and the failures of the regions that gave none."""
    names = list(regions)
    outcomes = await asyncio.gather(*(ask(name) for name in names), return_exceptions=True)
    answers: dict[str, _T] = {}
    failures: dict[str, base.ProvisionError] = {}
    for name, outcome in zip(names, outcomes, strict=True):
        if isinstance(outcome, base.ProvisionError):
            failures[name] = outcome
        elif isinstance(outcome, BaseException):
            raise outcome
        else:
            answers[name] = outcome
    return answers, failures
