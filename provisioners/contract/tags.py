"""The tags of instances and side resources: names, and the numbers that runnerd reads back from them."""

from __future__ import annotations

from collections.abc import Mapping

from provisioners.support import numbers

#: Tag names that every instance and side resource carries from the moment it exists.
TAG_CONTROLLER = "runnerd-controller"
TAG_INSTANCE = "runnerd-instance"
TAG_POOL = "runnerd-pool"
TAG_ATTEMPT = "runnerd-attempt"
#: Unix seconds, whole.
TAG_DEADLINE = "runnerd-deadline"
#: US dollars per hour.
TAG_PRICE = "runnerd-price"


def tagged_deadline(tags: Mapping[str, str]) -> float:
    """Return the deadline in unix seconds; 0 where the tag is missing or is not a finite number."""
    return numbers.real(tags.get(TAG_DEADLINE)) or 0.0


def tagged_price(tags: Mapping[str, str]) -> float:
    """Return the price in US dollars per hour; 0 where the tag is missing or is not a finite number."""
    return numbers.real(tags.get(TAG_PRICE)) or 0.0
