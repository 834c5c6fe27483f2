"""The roles in the documentation allow what is needed, and the simulation lets a daemon with them do its work."""

from __future__ import annotations

import dataclasses
import json
import re
from typing import Any

import pytest

from provisioners import base
from provisioners.azure import permissions, settings
from tests.clouds import azure
from tests.clouds.azure import lab
from tests.support.tree import ROOT

DOCUMENT = ROOT / "docs" / "azure.md"
ROLES: dict[str, dict[str, Any]] = {
    role["Name"]: role for role in map(json.loads, re.findall(r"```json\n(.*?)```", DOCUMENT.read_text(), re.S))
}
IDENTITY = (
    f"/subscriptions/{azure.SUBSCRIPTION}/resourceGroups/{azure.GROUP}"
    "/providers/Microsoft.ManagedIdentity/userAssignedIdentities/self-delete"
)


def test_the_documented_role_allows_everything_that_is_needed_and_no_wildcard() -> None:
    chosen = settings.Settings(resource_group=azure.GROUP, identity=IDENTITY)
    assert (
        permissions.missing(
            [{"actions": ROLES["runnerd machines"]["Actions"]}], permissions.needed(chosen, public=True)
        )
        == []
    )
    assert not any("*" in action for role in ROLES.values() for action in role["Actions"])


@pytest.mark.parametrize("action", ["Microsoft.Compute/virtualMachines/delete", "Microsoft.Compute/disks/read"])
def test_a_grant_that_takes_back_an_action_is_noticed(action: str) -> None:
    grant = {"actions": ["*"], "notActions": [action]}
    chosen = settings.Settings(resource_group=azure.GROUP)
    assert permissions.missing([grant], permissions.needed(chosen, public=False)) == [action]
    assert permissions.missing([grant, {"actions": [action.upper()]}], permissions.needed(chosen, public=False)) == []


async def test_a_daemon_with_the_documented_roles_buys_lists_checks_sweeps_and_ends() -> None:
    one = lab.Lab("eastus", public_address=True)
    one.arm.add_identity()
    one.provisioner = one.make(identity=IDENTITY)
    # The simulation names reads of networks and identities coarsely.
    coarse = ("Microsoft.Network/read", "Microsoft.ManagedIdentity/read")
    actions = tuple(
        action for name in ("runnerd machines", "runnerd network", "runnerd facts") for action in ROLES[name]["Actions"]
    )
    one.arm.daemon = dataclasses.replace(one.arm.daemon, actions=actions + coarse)
    one.arm.faults.append(azure.Fault(half=True))
    with pytest.raises(base.ProvisionError):
        await one.provisioner.create(one.request())
    (offer, *_) = await one.provisioner.offers(lab.SHAPE)
    view = await one.provisioner.create(dataclasses.replace(one.request(), offer=offer))
    listing = await one.provisioner.list_owned()
    assert (len(listing.views), dict(listing.failures)) == (1, {})
    for residue in listing.residues:
        await one.provisioner.delete_residue(residue)
    assert await one.provisioner.console_log(view.ref)
    assert await one.provisioner.quotas()
    findings = await one.provisioner.check([one.request()])
    assert [finding for finding in findings if finding.level is not base.Level.OK] == []
    await one.provisioner.delete(view.ref)
    await one.clock.sleep(60)
    assert (await one.provisioner.end_reason(view.ref)).kind is base.EndKind.ENDED_BY_US
    assert (one.arm.instances, one.arm.parts) == ([], {})
