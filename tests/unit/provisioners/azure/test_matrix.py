"""Every fault at random, seeded: never two machines of one attempt at a time, and in the end nothing is left."""

from __future__ import annotations

import asyncio
import random

import pytest

from provisioners import base
from tests.clouds import azure
from tests.clouds.azure import lab

FAULTS = (
    {"lost": "before"},
    {"lost": "after"},
    {"lost": "before", "sent": False},
    {"half": True},
    {"fails_with": "ZonalAllocationFailed"},
    {"fails_with": "OSProvisioningTimedOut", "runs": True},
    {"fails_with": "AllocationFailed", "lost": "after"},
    {"code": "SkuNotAvailable"},
    {"code": "InternalServerError", "status": 500},
    {"code": "TooManyRequests", "status": 429, "retry_after": 3},
    {"hidden_for": 50.0},
    {"vanishes_after": 3.0},
    {"preempted_after": 9.0},
    {"operation": "delete", "code": "InternalServerError", "status": 500},
    {"operation": "delete", "lost": "after"},
    {"operation": "get", "lost": "before"},
    {"operation": "get", "code": "InternalServerError", "status": 500},
    {"operation": "operation", "code": "OperationNotFound", "status": 404},
    {"operation": "operation", "lost": "before"},
    {"operation": "list", "lost": "after"},
    {"operation": "view", "code": "InternalServerError", "status": 500},
    {"operation": "network", "code": "InternalServerError", "status": 500},
    {"operation": "delete-part", "code": "NicReservedForAnotherVm", "status": 400},
)


def alive(one: lab.Lab) -> dict[str, int]:
    """Machines by attempt, less those on their way out."""
    found: dict[str, int] = {}
    for each in one.arm.instances:
        if each.state != "deleting":
            found[each.key] = found.get(each.key, 0) + 1
    return found


async def attempt(one: lab.Lab, request: base.CreateRequest, rng: random.Random) -> None:
    """As the daemon does: an unclear outcome is asked for again, a crash comes at any await."""
    for _ in range(4):
        task = asyncio.ensure_future(one.provisioner.create(request))
        if rng.random() < 0.3:
            for _ in range(rng.randrange(12)):
                await asyncio.sleep(0)
            task.cancel()
        (outcome,) = await asyncio.gather(task, return_exceptions=True)
        assert all(count <= 1 for count in alive(one).values())
        if isinstance(outcome, asyncio.CancelledError):
            await one.provisioner.close()
            one.provisioner = one.make()
            continue
        if isinstance(outcome, base.ProvisionError) and outcome.maybe_created:
            await one.clock.sleep(rng.uniform(0, 90))
            continue
        assert isinstance(outcome, base.InstanceView | base.ProvisionError), outcome
        if isinstance(outcome, base.ProvisionError):
            # A definite failure: no machine of it lives.
            assert alive(one).get(request.key, 0) == 0, outcome
        return


async def swept(one: lab.Lab) -> bool:
    """One pass that ends everything that it sees; True when there was nothing."""
    try:
        listing = await one.provisioner.list_owned()
    except base.ProvisionError:
        return False
    for view in listing.views:
        try:
            await one.provisioner.delete(view.ref)
        except base.ProvisionError:
            continue
    for residue in listing.residues:
        try:
            await one.provisioner.delete_residue(residue)
        except base.ProvisionError:
            continue
    return not listing.views and not listing.residues and not listing.failures


@pytest.mark.parametrize("seed", range(16))
async def test_no_fault_doubles_a_machine_or_leaves_one(seed: int) -> None:
    rng = random.Random(seed)
    one = lab.Lab("eastus", "westus", seed=seed, public_address=bool(seed % 2))
    for number in range(8):
        one.arm.faults = [azure.Fault(**rng.choice(FAULTS), times=rng.randint(1, 2)) for _ in range(rng.randint(0, 3))]
        market = rng.choice(list(base.Market))
        await attempt(one, one.request(key=f"seed-{seed}-{number}", market=market), rng)
    one.arm.faults = []
    for _ in range(40):
        if await swept(one) and not one.arm.instances and not one.arm.parts:
            break
        await one.clock.sleep(60)
    assert (one.arm.instances, one.arm.parts, one.arm.billed) == ([], {}, [])
