"""The sweep: what carries our tags at the providers without a row, and what may be ended by its tags alone.

Nothing is ended from here.  Whether something is ended is decided elsewhere: by the daemon, through the termination
check, or without a daemon by the deadline that each instance and each side resource carries in its own tags.
"""

from __future__ import annotations

import asyncio
import collections
import logging
from collections.abc import Callable, Mapping

from provisioners import base
from runnerd import model
from runnerd.kit import display
from runnerd.lifecycle import sweep_documents

log = logging.getLogger(__name__)

#: How long one provider's listing may take, in seconds.
TIMEOUT = 120.0
#: Seconds past its deadline before something is ended by its tags alone: the daemon and the provider come first.
GRACE = 900.0
#: Seconds that a side resource is left alone after it was made, and how long one without a deadline is.
YOUNG, UNDATED = 3600.0, 86400.0

#: Finds the live row of an instance by its name and attempt; None when there is none.
Known = Callable[[str, str], model.Instance | None]
_NOWHERE: Mapping[str, frozenset[base.Scope]] = {}


async def look(
    provisioners: Mapping[str, base.Provisioner],
    known: Known | None,
    *,
    also: Mapping[str, frozenset[base.Scope]] = _NOWHERE,
) -> sweep_documents.Sweep:
    """List every provider once.  Without ``known`` the state could not be read and everything counts as unaccounted.

    ``also`` are scopes with rows by provider, whether they are configured or not.
    """
    names = list(provisioners)
    found = await asyncio.gather(
        *(_look(name, provisioners[name], known, also.get(name, frozenset())) for name in names)
    )
    return {
        "providers": list(found),
        "state_read": known is not None,
        "unaccounted": sum(len([one for one in each["instances"] if not one["row"]]) for each in found),
        "residues": sum(len(each["residues"]) for each in found),
        "incomplete": [each["name"] for each in found if each["problem"] or each["failures"]],
    }


def nothing(name: str, problem: str) -> sweep_documents.Provider:
    """Return the report on a provider that could not be asked."""
    return {"name": name, "problem": problem, "failures": {}, "counts": {}, "instances": [], "residues": []}


async def _look(
    name: str, provisioner: base.Provisioner, known: Known | None, also: frozenset[base.Scope]
) -> sweep_documents.Provider:
    try:
        async with asyncio.timeout(TIMEOUT):
            listing = await provisioner.list_owned(also)
    except TimeoutError:
        return nothing(name, f"no listing within {display.span(TIMEOUT)}")
    except base.ProvisionError as error:
        return nothing(name, str(error))
    except Exception as error:
        # A command prints no traces; the daemon's own listings log theirs.
        log.debug("%s: listing failed in an unexpected way", name, exc_info=True)
        return nothing(name, f"{type(error).__name__}: {error}")
    present = [view for view in listing.views if view.status is not base.InstanceStatus.GONE]
    names = {view.name for view in present}
    instances = [_instance(view, known) for view in present]
    residues = [_residue(one, known, names, listing) for one in listing.residues]
    counts = collections.Counter(one["kind"] for one in residues)
    return {
        **nothing(name, ""),
        "failures": dict(listing.failures),
        "counts": {**({"instance": len(instances)} if instances else {}), **dict(sorted(counts.items()))},
        "instances": instances,
        "residues": residues,
    }


def _instance(view: base.InstanceView, known: Known | None) -> sweep_documents.Instance:
    attempt = view.tags.get(base.TAG_ATTEMPT, "")
    row = known(view.name, attempt) if known else None
    return {
        "instance": view.name,
        "ref": view.ref,
        "scope": view.scope,
        "offer": view.offer or "",
        "status": view.status.value,
        "pool": view.tags.get(base.TAG_POOL, ""),
        "attempt": attempt,
        "created_at": view.created_at,
        "deadline": base.tagged_deadline(view.tags),
        "price": base.tagged_price(view.tags),
        "tags": dict(view.tags),
        "row": row.state.value if row else "",
    }


def _residue(one: base.Residue, known: Known | None, names: set[str], listing: base.Listing) -> sweep_documents.Residue:
    owner = one.tags.get(base.TAG_INSTANCE, "")
    row = known(owner, one.tags.get(base.TAG_ATTEMPT, "")) if known and owner else None
    return {
        "kind": one.kind,
        "ref": one.ref,
        "scope": one.scope,
        "instance": owner,
        "pool": one.tags.get(base.TAG_POOL, ""),
        "created_at": one.created_at,
        "deadline": base.tagged_deadline(one.tags),
        "price": base.tagged_price(one.tags),
        "tags": dict(one.tags),
        "row": row.state.value if row else "",
        #: Its instance is listed; its place was listed whole.
        "instance_listed": owner in names,
        "covered": listing.covers(one.scope),
    }


# -- by the tags alone ---------------------------------------------------------------------------------------------


def spare_instance(each: sweep_documents.Instance, now: float) -> str:
    """Return why an instance is left alone where there is no daemon; empty when it is to be ended."""
    deadline = each["deadline"]
    if deadline <= 0:
        return "it carries no deadline: only its daemon may end it"
    return _time_left(deadline, now)


def spare_residue(each: sweep_documents.Residue, now: float) -> str:
    """Return why a side resource is left alone where there is no daemon; empty when it is to be deleted."""
    if each["instance_listed"]:
        return f"its instance {each['instance']} exists"
    if each["row"]:
        return f"its instance {each['instance']} has a row ({each['row']})"
    if not each["covered"]:
        return f"the listing of {each['scope']} was incomplete: its instance may exist"
    made, deadline = each["created_at"], each["deadline"]
    if made > 0 and now - made <= YOUNG:
        return f"it is only {display.span(now - made)} old"
    if deadline > 0:
        # One that does not tell its age is as old as the time since its deadline at least.
        left = _time_left(deadline, now)
        return left or ("" if made > 0 or now - deadline > YOUNG else "its age is unknown")
    if made <= 0:
        return "it carries no deadline and its age is unknown"
    return "" if now - made > UNDATED else f"it carries no deadline and is only {display.span(now - made)} old"


def _time_left(deadline: float, now: float) -> str:
    if deadline > now:
        return f"its deadline is in {display.span(deadline - now)}"
    if now - deadline <= GRACE:
        return f"its deadline passed only {display.span(now - deadline)} ago"
    return ""
