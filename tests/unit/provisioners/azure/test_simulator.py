"""The simulated Azure does what Azure does, and the same every time."""

from __future__ import annotations

import json
import random

import pytest

from provisioners import base
from tests.clouds import azure, wire
from tests.clouds.azure import lab, limits, schema


def call(one: lab.Lab, method: str, path: str, body: object = None, **headers: str) -> tuple[int, dict[str, object]]:
    token = one.arm.token(one.arm.daemon)
    sent = {"Authorization": f"Bearer {token}", **{key.replace("_", "-"): value for key, value in headers.items()}}
    data = b"" if body is None else json.dumps(body).encode()
    told = one.arm.handle(wire.Request(method, f"https://management.azure.com{path}", sent, data))
    return told.status, json.loads(told.body) if told.body else {}


def path_of(one: lab.Lab, name: str) -> str:
    group = f"/subscriptions/{one.arm.subscription}/resourceGroups/runnerd"
    return f"{group}/providers/Microsoft.Compute/virtualMachines/{name}"


async def test_the_same_seed_gives_the_same_story() -> None:
    async def story() -> list[tuple[object, ...]]:
        one = lab.Lab(seed=11)
        one.arm.faults.append(azure.Fault(fails_with="AllocationFailed", probability=0.4, times=None))
        for _ in range(6):
            try:
                await one.provisioner.create(one.request())
            except base.ProvisionError:
                pass
        return [(each.vm_id, each.runs_at, each.state) for each in one.arm.created]

    first = await story()
    assert first == await story()
    assert {state for _, _, state in first} == {"running", "gone"}


async def test_a_put_on_a_machine_that_is_there_updates_conflicts_or_is_refused_as_asked() -> None:
    one = lab.Lab()
    await one.provisioner.create(one.request())
    made = one.arm.created[0]
    path = f"{path_of(one, made.name)}?api-version=2026-04-01"
    assert call(one, "PUT", path, made.body)[0] == 200
    assert call(one, "PUT", path, made.body, If_None_Match="*")[0] == 412
    changed = {**made.body, "tags": {}}
    status, told = call(one, "PUT", path, changed)
    assert (status, told["error"]["code"]) == (409, "PropertyChangeNotAllowed")  # type: ignore[index]
    assert len(one.arm.created) == 1


async def test_starts_and_ends_are_told_once_each() -> None:
    one = lab.Lab()
    seen: list[tuple[str, str]] = []
    one.arm.on_change = lambda each: seen.append((each.name, each.state))
    view = await one.provisioner.create(one.request())
    name = one.arm.created[0].name
    assert seen == [(name, "running")]
    one.arm.power_off(view.ref)
    await one.provisioner.delete(view.ref)
    await one.clock.sleep(60)
    one.arm.tick()
    assert seen == [(name, "running"), (name, "stopped"), (name, "deleting"), (name, "gone")]


async def test_parts_stay_where_nothing_says_that_they_go() -> None:
    one = lab.Lab(public_address=True)
    view = await one.provisioner.create(one.request())
    for part in one.arm.parts.values():
        part.delete = part.kind != "disks"
    await one.provisioner.delete(view.ref)
    await one.clock.sleep(60)
    one.arm.tick()
    assert [part.kind for part in one.arm.parts.values()] == ["disks"]
    assert one.arm.parts.popitem()[1].tags == {}


async def test_beyond_its_buckets_it_refuses_and_says_when_to_come_again() -> None:
    one = lab.Lab()
    one.arm.buckets.policies["PutVM"] = limits.Policy("PutVM", 1, 1)
    await one.provisioner.create(one.request())
    with pytest.raises(base.ProvisionError) as caught:
        await one.provisioner.create(one.request())
    assert (caught.value.kind, caught.value.maybe_created) == (base.Kind.THROTTLED, False)
    await one.clock.sleep(caught.value.retry_after)
    await one.provisioner.create(one.request())
    assert one.puts() == ["201", "429", "201"]


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        pytest.param("GET", "/subscriptions/other", 404, "SubscriptionNotFound", id="another-subscription"),
        pytest.param("GET", "{s}/nothing", 404, "InvalidResourceType", id="no-such-operation"),
        pytest.param("GET", "{s}?api-version=1999-01-01", 400, "InvalidApiVersionParameter", id="no-such-version"),
    ],
)
def test_what_is_not_there_is_refused(method: str, path: str, status: int, code: str) -> None:
    one = lab.Lab()
    told = call(one, method, path.format(s=f"/subscriptions/{one.arm.subscription}"))
    assert (told[0], told[1]["error"]["code"]) == (status, code)  # type: ignore[index]


def test_without_a_token_nothing_is_told() -> None:
    one = lab.Lab()
    url = f"https://management.azure.com/subscriptions/{one.arm.subscription}?api-version=2022-09-01"
    assert one.arm.handle(wire.Request("GET", url, {})).status == 401
    assert one.arm.handle(wire.Request("GET", url, {"Authorization": "Bearer made-up"})).status == 401


def test_an_answer_that_azure_could_not_give_is_an_error_of_the_simulation() -> None:
    assert schema.response_problems({"unit": "Count", "limit": 1, "currentvalue": 2}, "Usage") != []
    assert schema.response_problems({"statuses": [{"level": "info"}]}, "VirtualMachineInstanceView") != []
    assert schema.response_problems({"statuses": [{"level": "Info"}]}, "VirtualMachineInstanceView") == []


def test_only_spot_machines_are_taken_back() -> None:
    one = azure.Arm(lambda: 0.0, random.Random(1))
    with pytest.raises(KeyError):
        one.preempt("nothing")
