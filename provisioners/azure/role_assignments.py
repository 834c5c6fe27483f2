"""The right of each machine to delete itself and nothing else, where machines have identities of their own; pure.

A system-assigned identity lives and dies with its machine, and can do nothing until it is given a role.  It gets the
operator's role on its own machine: a job that becomes root there can end that machine only.  Role assignments carry no
tags; ours are known by their names, which are derived from the controller and the machine.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from provisioners import base
from provisioners.azure import instances, names, settings

Wire = Mapping[str, Any]

_SPACE = uuid.UUID("b2f3ce20-0f59-4f0e-9a53-3c1e2a1f5c11")
_KIND = "/providers/Microsoft.Authorization/roleAssignments/"


def assignment(machine: str, controller: str) -> str:
    """The id of the assignment on a machine, which is given by its resource id."""
    return f"{machine}{_KIND}{uuid.uuid5(_SPACE, f'{controller} {machine.lower()}')}"


def body(role: str, principal: str, subscription: str) -> dict[str, Any]:
    """Return the body of the request for an assignment."""
    whole = role if role.lower().startswith("/subscriptions/") else f"/subscriptions/{subscription}{role}"
    return {
        "properties": {
            "roleDefinitionId": whole,
            "principalId": principal,
            # With it, Azure does not look for the identity, which it may not find yet.
            "principalType": "ServicePrincipal",
        }
    }


def principal(vm: Wire) -> str:
    """The object id of a machine's own identity, empty when it has none (yet)."""
    return str((vm.get("identity") or {}).get("principalId") or "")


def missing(vms: Iterable[tuple[str, Wire]], granted: Iterable[Wire], controller: str) -> list[tuple[str, str]]:
    """(resource id, object id) of the machines with an identity that has no right yet."""
    there = {str(one.get("id", "")).lower() for one in granted}
    return [
        (machine, principal(vm))
        for machine, vm in vms
        if principal(vm) and assignment(machine, controller).lower() not in there
    ]


def left(
    granted: Iterable[Wire], machines: frozenset[str], *, provider: str, subscription: str, controller: str
) -> Iterator[base.Residue]:
    """Assignments of ours on machines that are not there; ``machines`` are resource ids in lower case."""
    for one in granted:
        whole = str(one.get("id", ""))
        machine, kind, _ = whole.partition(_KIND)
        if not kind or machine.lower() in machines or assignment(machine, controller).lower() != whole.lower():
            continue
        yield base.Residue(
            kind=instances.ROLE,
            ref=whole,
            scope=base.Scope.of(provider, subscription, settings.NO_ZONE, settings.NO_ZONE),
            tags={base.TAG_CONTROLLER: controller, base.TAG_INSTANCE: names.instance(names.tail(machine))},
            created_at=0.0,
        )
