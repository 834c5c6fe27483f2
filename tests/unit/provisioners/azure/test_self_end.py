"""A machine ends itself: the real command, run as a process, against the simulated metadata service and API."""

from __future__ import annotations

import asyncio
import dataclasses
import shlex
from pathlib import Path
from typing import Any

import pytest

from provisioners import base
from provisioners.azure import self_end, settings
from tests.clouds import azure, wire
from tests.clouds.azure import lab

ROLE = f"/subscriptions/{azure.SUBSCRIPTION}/providers/Microsoft.Authorization/roleDefinitions/self-delete"


async def run(one: lab.Lab, identity: str, ref: str, **change: Any) -> tuple[int, str]:
    """Runs the command as the machine would; its status and what it said."""
    async with wire.serve(one.arm.guest(ref)) as url:
        chosen = dataclasses.replace(settings.Settings(), identity=identity, endpoint=change.pop("endpoint", url))
        command = self_end.command(chosen, metadata=url, budget=0.1, pause=0.06, off="echo powered off", **change)
        process = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        said, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, said.decode()


async def test_a_machine_with_an_identity_deletes_itself_with_all_its_parts() -> None:
    one = lab.Lab("eastus")
    identity = one.arm.add_identity()
    one.provisioner = one.make(identity=identity)
    view = await one.provisioner.create(one.request())
    status, said = await run(one, identity, view.ref)
    assert (status, said) == (0, "powered off\n")
    await one.clock.sleep(60)
    assert (one.arm.instances, one.arm.parts) == ([], {})
    assert (await one.provisioner.end_reason(view.ref)).kind is base.EndKind.SELF_ENDED


async def test_a_machine_that_may_not_delete_itself_powers_off_and_says_why() -> None:
    one = lab.Lab("eastus")
    view = await one.provisioner.create(one.request())
    status, said = await run(one, one.arm.add_identity(), view.ref)
    assert status == 0
    assert said.count("cannot delete this machine") >= 2
    assert said.endswith("powered off\n")
    assert one.arm.created[0].state == "running"


async def test_an_api_that_cannot_be_reached_does_not_keep_it_running() -> None:
    one = lab.Lab("eastus")
    identity = one.arm.add_identity()
    one.provisioner = one.make(identity=identity)
    view = await one.provisioner.create(one.request())
    _, said = await run(one, identity, view.ref, endpoint="http://127.0.0.1:9")
    assert said.endswith("powered off\n")


async def test_an_identity_of_its_own_may_end_its_machine_and_no_other() -> None:
    one = lab.Lab("eastus")
    one.provisioner = one.make(identity="system", identity_role=ROLE)
    first, second = [await one.provisioner.create(one.request()) for _ in range(2)]
    who = one.arm.find(second.ref).principal
    assert sorted(role["properties"]["principalId"] for role in one.arm.roles.values()) == sorted(
        each.principal for each in one.arm.created
    )
    # The second machine's token, used against the first.
    guest = one.arm.guest(second.ref)
    path = "/metadata/identity/oauth2/token?api-version=2018-02-01"
    token = guest(wire.Request("GET", f"http://169.254.169.254{path}", {"Metadata": "true"}))
    import json

    headers = {"Authorization": f"Bearer {json.loads(token.body)['access_token']}"}
    url = f"https://management.azure.com{one.arm.id_of(one.arm.find(first.ref))}?api-version=2024-07-01"
    assert guest(wire.Request("DELETE", url, headers)).status == 403
    status, said = await run(one, "system", second.ref)
    assert (status, said) == (0, "powered off\n")
    await one.clock.sleep(60)
    assert [each.name for each in one.arm.instances] == [one.arm.find(first.ref).name]
    # Its right outlives it, and is swept.
    (residue,) = (await one.provisioner.list_owned()).residues
    assert (residue.kind, residue.tags[base.TAG_INSTANCE]) == ("role-assignment", second.name)
    await one.provisioner.delete_residue(residue)
    assert [role["properties"]["principalId"] for role in one.arm.roles.values()] != [who]
    assert len(one.arm.roles) == 1


async def test_a_right_that_could_not_be_given_is_given_by_the_next_listing() -> None:
    one = lab.Lab("eastus")
    one.provisioner = one.make(identity="system", identity_role=ROLE)
    one.arm.faults.append(azure.Fault(operation="other", code="InternalServerError", status=500))
    await one.provisioner.create(one.request())
    assert one.arm.roles == {}
    await one.clock.sleep(60)
    await one.provisioner.list_owned()
    assert len(one.arm.roles) == 1
    await one.provisioner.list_owned()
    assert len(one.arm.roles) == 1


@pytest.mark.parametrize("identity", ["", "system"])
def test_the_command_fits_into_a_boot_script(identity: str) -> None:
    chosen = dataclasses.replace(settings.Settings(), identity=identity)
    assert sum(len(word) for word in self_end.command(chosen)) < 2500


async def test_the_command_survives_the_shell_script_that_ends_a_machine_at_its_deadline(tmp_path: Path) -> None:
    one = lab.Lab("eastus")
    identity = one.arm.add_identity()
    one.provisioner = one.make(identity=identity)
    view = await one.provisioner.create(one.request())
    async with wire.serve(one.arm.guest(view.ref)) as url:
        chosen = dataclasses.replace(settings.Settings(), identity=identity, endpoint=url)
        script = tmp_path / "end.sh"
        script.write_text(shlex.join(self_end.command(chosen, metadata=url, off="echo powered off")))
        process = await asyncio.create_subprocess_exec("/bin/sh", str(script), stdout=asyncio.subprocess.PIPE)
        said, _ = await process.communicate()
    assert (process.returncode, said) == (0, b"powered off\n")
    assert one.arm.created[0].state == "deleting"
