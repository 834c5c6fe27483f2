"""``runnerd check`` for GitHub: each step is tried, nothing is made, and every fault has a remedy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from provisioners.base import Finding, Level
from runnerd import config
from tests.unit.forges.github import gh_lab
from tests.unit.forges.github.gh_lab import Reply, on_virtual_time
from tests.unit.forges.github.gh_service import Service


async def findings(lab: Service, *specs: Any) -> list[Finding]:
    if not any("/runner-groups" in part for _, part, _ in lab.script.routes):
        lab.script.on("GET", "/runner-groups", Reply(404))
    return await lab.client.check(specs or (lab.spec,))


def bad(found: list[Finding]) -> list[Finding]:
    return [finding for finding in found if finding.level is not Level.OK]


@on_virtual_time
async def test_a_fair_day_has_no_faults_and_makes_nothing(tmp_path: Path) -> None:
    lab = Service(tmp_path)
    assert not bad(await findings(lab))
    assert not lab.created and not lab.sessions


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (Reply(401, {"message": "Bad credentials"}), "expired"),
        (Reply(403, {"message": "no"}), "admin:org"),
        (Reply(404, {"message": "Not Found"}), "exists"),
        (Reply(lost=True), "no answer|cut"),
    ],
)
@on_virtual_time
async def test_a_credential_that_does_not_do_is_told_with_its_remedy(tmp_path: Path, reply: Reply, words: str) -> None:
    lab = Service(tmp_path)
    lab.script.on("POST", "/registration-token", reply)
    [fault] = bad(await findings(lab))
    assert fault.level is Level.ERROR
    assert any(word in f"{fault.message} {fault.remedy}" for word in words.split("|"))


@on_virtual_time
async def test_a_secret_that_is_missing_is_named(tmp_path: Path) -> None:
    lab = Service(tmp_path)
    (tmp_path / "token").unlink()
    assert any("token" in fault.message for fault in bad(await findings(lab)))


@pytest.mark.parametrize(("skew", "level"), [(5, None), (60, Level.WARNING), (-400, Level.ERROR)])
@on_virtual_time
async def test_the_clocks_are_compared(tmp_path: Path, skew: float, level: Level | None) -> None:
    lab = Service(tmp_path)
    lab.script.skew = skew
    faults = bad(await findings(lab))
    assert [fault.level for fault in faults] == ([level] if level else [])


@pytest.mark.parametrize(("allows", "wanted", "fine"), [(True, False, False), (False, True, False), (True, True, True)])
@on_virtual_time
async def test_public_repositories_are_compared_with_the_group(
    tmp_path: Path, allows: bool, wanted: bool, fine: bool
) -> None:
    lab = Service(tmp_path, public_repositories=wanted)
    groups = [{"id": 3, "name": "Default", "allows_public_repositories": allows}]
    lab.script.on("GET", "/runner-groups", Reply(200, {"total_count": 1, "runner_groups": groups}))
    faults = bad(await findings(lab))
    assert (not faults) is fine
    assert all("public" in fault.message for fault in faults)


@on_virtual_time
async def test_labels_of_an_existing_set_are_read_back(tmp_path: Path) -> None:
    lab = Service(tmp_path)
    lab.set = {"id": 9, "name": "gpu-t4", "labels": [{"name": "gpu-t4"}]}
    assert not bad(await findings(lab))
    [fault] = bad(await findings(lab, gh_lab.spec(labels=["gpu-t4", "big"])))
    assert fault.place == "pools.gpu-t4" and "big" in fault.message


@on_virtual_time
async def test_a_host_without_scale_sets_is_pointed_to_rest(tmp_path: Path) -> None:
    lab = Service(tmp_path)
    lab.script.on("POST", "/actions/runner-registration", Reply(404))
    [fault] = bad(await findings(lab))
    assert "mode: rest" in fault.remedy


@on_virtual_time
async def test_rest_mode_wants_repositories_that_can_be_read(tmp_path: Path) -> None:
    lab = Service(tmp_path, mode=config.Mode.REST)
    groups = {"total_count": 1, "runner_groups": [{"id": 1, "name": "Default", "default": True}]}
    lab.script.on("GET", "/runner-groups", Reply(200, groups))
    assert any("no repository is listed" in fault.message for fault in bad(await findings(lab)))
    lab.settings = lab.settings.model_copy(update={"repos": ("acme/ml", "acme/x-*")})
    lab.client = lab.another()
    lab.script.on("GET", "/repos/acme/ml/actions/runs", Reply(403, {"message": "no"}))
    faults = bad(await findings(lab))
    assert any("Actions: read" in fault.remedy for fault in faults)
