"""What carries our tags at the providers, and which of it nobody accounts for.

Only looks.  Whether something is ended is decided elsewhere: by the daemon, through the gate, or without one by the
deadline that each instance carries in its tags.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from provisioners import base
from runnerd import model

#: How long one provider's listing may take, in seconds.
TIMEOUT = 120.0

#: Finds the live row of an instance by its name and attempt; None when there is none.
Known = Callable[[str, str], model.Instance | None]


async def look(provisioners: Mapping[str, base.Provisioner], known: Known | None) -> dict[str, Any]:
    """List every provider once.  Without ``known`` the state could not be read and everything counts as unaccounted."""
    names = list(provisioners)
    found = await asyncio.gather(*(_look(name, provisioners[name], known) for name in names))
    return {
        "providers": list(found),
        "state_read": known is not None,
        "unaccounted": sum(len([one for one in each["instances"] if not one["row"]]) for each in found),
        "residues": sum(len(each["residues"]) for each in found),
        "incomplete": [each["name"] for each in found if each["problem"] or each["failures"]],
    }


async def _look(name: str, provisioner: base.Provisioner, known: Known | None) -> dict[str, Any]:
    answer: dict[str, Any] = {"name": name, "problem": "", "failures": {}, "instances": [], "residues": []}
    try:
        async with asyncio.timeout(TIMEOUT):
            listing = await provisioner.list_owned()
    except TimeoutError:
        return {**answer, "problem": f"no listing within {TIMEOUT:.0f} s"}
    except base.ProvisionError as error:
        return {**answer, "problem": str(error)}
    for view in listing.views:
        if view.status is base.InstanceStatus.GONE:
            continue
        attempt = view.tags.get(base.TAG_ATTEMPT, "")
        row = known(view.name, attempt) if known else None
        answer["instances"].append(
            {
                "instance": view.name,
                "ref": view.ref,
                "scope": view.scope,
                "status": view.status.value,
                "pool": view.tags.get(base.TAG_POOL, ""),
                "attempt": attempt,
                "created_at": view.created_at,
                "deadline": number(view.tags.get(base.TAG_DEADLINE)),
                "price": number(view.tags.get(base.TAG_PRICE)),
                "row": row.state.value if row else "",
            }
        )
    answer["failures"] = dict(listing.failures)
    answer["residues"] = [
        {"kind": one.kind, "ref": one.ref, "scope": one.scope, "created_at": one.created_at} for one in listing.residues
    ]
    return answer


def number(text: str | None) -> float:
    """A number from a tag; 0 when it is none."""
    try:
        return float(text or 0)
    except ValueError:
        return 0.0
