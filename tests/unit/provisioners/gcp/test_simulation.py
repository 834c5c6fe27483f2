"""The simulated Compute Engine does what the real one is documented to do."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from tests.clouds import gcp, wire

ROOT = "https://compute.googleapis.com/compute/v1/projects/acme-ml"
ZONE = f"{ROOT}/zones/us-central1-a"


class Project:
    """A simulated project that is called by hand."""

    def __init__(self, **more: Any) -> None:
        self.seconds = 1_780_000_000.0
        self.cloud = gcp.Gce(now=lambda: self.seconds, rng=random.Random(5), **more)

    def call(self, method: str, url: str, body: Any = None) -> tuple[int, dict[str, Any]]:
        sent = b"" if body is None else json.dumps(body).encode()
        told = self.cloud.handle(wire.Request(method, url, {}, sent))
        return told.status, json.loads(told.body)

    def insert(self, name: str = "vm", query: str = "", **more: Any) -> dict[str, Any]:
        status, told = self.call("POST", f"{ZONE}/instances{query}", {**body(name), **more})
        assert status == 200, told
        return told

    def status(self, name: str = "vm") -> str | None:
        status, told = self.call("GET", f"{ZONE}/instances/{name}")
        return told["status"] if status == 200 else None

    def operations(self) -> list[str]:
        return [one["operationType"] for one in self.call("GET", f"{ZONE}/operations")[1].get("items", [])]


def body(name: str, **scheduling: Any) -> dict[str, Any]:
    return {
        "name": name,
        "machineType": "zones/us-central1-a/machineTypes/n2-standard-4",
        "disks": [
            {
                "boot": True,
                "autoDelete": True,
                "initializeParams": {"sourceImage": "projects/debian-cloud/global/images/family/debian-12"},
            }
        ],
        "networkInterfaces": [{"network": "global/networks/default"}],
        "scheduling": {"onHostMaintenance": "TERMINATE", "automaticRestart": False, **scheduling},
    }


@pytest.fixture
def project() -> Project:
    return Project()


def test_an_instance_takes_its_time_to_run(project: Project) -> None:
    operation = project.insert()
    assert (operation["status"], project.status()) == ("RUNNING", "PROVISIONING")
    project.seconds += 2
    assert project.status() == "STAGING"
    project.seconds += 8
    assert project.status() == "RUNNING"
    assert project.call("GET", f"{ZONE}/operations/{operation['name']}")[1]["status"] == "DONE"


@pytest.mark.parametrize(("action", "left"), [("DELETE", None), ("STOP", "TERMINATED")])
def test_a_longest_run_ends_an_instance_as_it_was_told_to(project: Project, action: str, left: str | None) -> None:
    project.insert(
        scheduling={**body("x", maxRunDuration={"seconds": "600"}, instanceTerminationAction=action)["scheduling"]}
    )
    project.seconds += 590
    assert project.status() == "RUNNING"
    project.seconds += 30
    assert project.status() == left
    assert project.operations()[-1] == f"compute.instances.deferred{action.title()}"
    assert bool(project.cloud.disks) is (left is not None)


def test_a_boot_disk_stays_where_it_is_not_deleted_with_its_instance(project: Project) -> None:
    sent = body("vm")
    sent["disks"][0]["autoDelete"] = False
    assert project.call("POST", f"{ZONE}/instances", sent)[0] == 200
    project.call("DELETE", f"{ZONE}/instances/vm")
    project.seconds += 10
    assert project.status() is None
    (disk,) = project.cloud.disks.values()
    assert disk.users == []


def test_calls_are_counted_by_the_minute_and_group() -> None:
    project = Project(rates={"write": 3, "read": 5})
    for number in range(3):
        project.insert(f"vm-{number}")
    status, told = project.call("POST", f"{ZONE}/instances", body("vm-4"))
    assert (status, told["error"]["errors"][0]["reason"]) == (403, "rateLimitExceeded")
    assert project.status("vm-0") == "PROVISIONING", "reading is another group"
    project.seconds = (project.seconds // 60 + 1) * 60
    project.insert("vm-4")


def test_a_request_id_is_remembered_for_an_hour(project: Project) -> None:
    query = "?requestId=7f0d0e8e-7a4b-4cf5-8d41-0d7b3c1c2a11"
    first = project.insert(query=query)
    project.seconds += 3500
    assert project.insert(query=query)["name"] == first["name"]
    project.seconds += 200
    assert project.call("POST", f"{ZONE}/instances{query}", body("vm"))[0] == 409


def test_a_deleted_instance_can_be_made_again_and_is_another_one(project: Project) -> None:
    first = project.insert()["targetId"]
    project.call("DELETE", f"{ZONE}/instances/vm")
    project.seconds += 10
    assert project.insert()["targetId"] != first


def test_only_spot_instances_are_preempted(project: Project) -> None:
    project.insert("standard")
    project.insert(
        "spot", scheduling=body("x", provisioningModel="SPOT", instanceTerminationAction="STOP")["scheduling"]
    )
    project.seconds += 20
    with pytest.raises(ValueError, match="no spot"):
        project.cloud.preempt("standard")
    project.cloud.preempt("spot")
    assert project.status("spot") == "STOPPING"
    project.seconds += 31
    assert project.status("spot") == "TERMINATED"


def test_capacity_comes_back_when_an_instance_goes(project: Project) -> None:
    project.cloud.capacity["us-central1-a", "n2-standard-4"] = 1
    project.insert("first")
    refused = project.insert("second")
    project.seconds += 10
    told = project.call("GET", f"{ZONE}/operations/{refused['name']}")[1]
    assert told["error"]["errors"][0]["code"] == "ZONE_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS"
    assert project.status("second") is None
    project.call("DELETE", f"{ZONE}/instances/first")
    project.seconds += 10
    project.insert("third")
    project.seconds += 10
    assert project.status("third") == "RUNNING"


def test_whoever_watches_is_told_of_starts_and_ends(project: Project) -> None:
    seen: list[tuple[str, str, bool]] = []
    project.cloud.on_change = lambda one: seen.append((one.name, one.status, one.exists))
    project.insert()
    project.seconds += 10
    project.cloud.tick()
    project.call("DELETE", f"{ZONE}/instances/vm")
    project.seconds += 10
    project.cloud.tick()
    assert seen == [("vm", "RUNNING", True), ("vm", "STOPPING", True), ("vm", "STOPPING", False)]


def test_the_next_thing_to_happen_is_known(project: Project) -> None:
    assert project.cloud.due() is None
    project.insert()
    assert project.cloud.due() == project.seconds + 8
    project.seconds += 8
    project.cloud.tick()
    assert project.cloud.due() is None


@pytest.mark.parametrize(
    ("method", "url", "status"),
    [
        pytest.param("GET", f"{ROOT}/zones/us-central1-q/instances/vm", 404, id="no-zone"),
        pytest.param(
            "GET", "https://compute.googleapis.com/compute/v1/projects/other/regions/us-central1", 404, id="no-project"
        ),
        pytest.param("GET", "https://compute.googleapis.com/compute/v2/projects/acme-ml", 404, id="no-such-api"),
        pytest.param("GET", f"{ZONE}/instances?filter=nonsense", 400, id="filter"),
        pytest.param("GET", f"{ZONE}/instances?filter=(name eq a.*)(labels.x = y)", 400, id="filters-mixed"),
        pytest.param("GET", f"{ZONE}/instances?maxResults=501", 400, id="page-too-large"),
        pytest.param("POST", f"{ZONE}/instances/vm/reset", 501, id="not-simulated"),
        pytest.param("PATCH", f"{ZONE}/instances/vm", 404, id="no-such-method"),
    ],
)
def test_what_does_not_exist_is_refused(project: Project, method: str, url: str, status: int) -> None:
    assert project.call(method, url)[0] == status


def test_without_a_token_a_strict_project_answers_nothing(project: Project) -> None:
    project.cloud.iam.strict = True
    status, told = project.call("GET", ROOT)
    assert (status, told["error"]["errors"][0]["reason"]) == (401, "authError")
