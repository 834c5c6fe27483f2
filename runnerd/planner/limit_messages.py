"""The wording of limits: one place for the planner, which counts what it hands out, and for admission."""

from __future__ import annotations

from runnerd.planner.snapshot import Budget

#: The level that holds every instance.
ALL = "the daemon"


def instances(title: str, limit: int) -> str:
    """Refuse one more instance for a limit of instances."""
    return f"{title} is at its limit of {limit} instances"


def gpus(title: str, limit: int) -> str:
    """Refuse one more instance for a limit of GPUs."""
    return f"{title} is at its limit of {limit} GPUs"


def rate(title: str, *, then: float, limit: float) -> str:
    """Refuse one more instance for a limit of dollars an hour."""
    return f"{title}: ${then:.2f} an hour would exceed the limit of ${limit:.2f}"


def dollars(title: str, budget: Budget, *, left: float, more: float) -> str:
    """Refuse one more instance for a budget of which that much is left; ``more`` is what it would commit."""
    return (
        f"{title}: ${budget.limit - left:.2f} of ${budget.limit:.2f} is spent or committed {budget.span}; "
        f"another instance could cost ${more:.2f}"
    )
