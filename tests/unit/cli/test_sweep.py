"""A sweep without the daemon: what is ended by its own tags, what is left alone and why, and what people are told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import click.testing
import pytest

from provisioners import base
from provisioners.offload import Offload
from provisioners.support import numbers
from runnerd import config, daemon, store
from runnerd.cli import sweeping
from runnerd.cli.exits import Exit
from runnerd.cli.main import cli
from runnerd.kit import clock
from runnerd.lifecycle import sweep_documents, sweep_policy
from tests.support import clocks, fakes, small_daemon

TEXT = """\
controller: acme-ci
state: state
public_url: https://runnerd.example
forges:
  hub: {type: github, url: "http://127.0.0.1:1/acme", token: "file:pat-that-is-not-on-this-host"}
providers:
  sky: {type: fake}
limits: {instances: 2}
pools:
  gpu-t4: {gpu: t4}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "runnerd.yaml"
    path.write_text(TEXT)
    return path


def load(file: Path) -> config.Config:
    return config.load(file, reveal=False)


class Wall(clock.SystemClock):
    """The host's clock, some seconds off."""

    def __init__(self, off: float) -> None:
        super().__init__()
        self._off = off

    def wall(self) -> float:
        return super().wall() + self._off


async def _bought(settings: config.Config, *, overdue: float) -> None:
    """An instance in the cloud that is past its deadline by so much, and no row of it anywhere."""
    now = clock.SystemClock()
    directory = settings.state / "providers" / "sky"
    directory.mkdir(parents=True)
    context = base.Context("sky", settings.controller, str(directory), now.now, now.sleep)
    cloud = daemon.provisioner(settings.providers["sky"], context)
    await cloud.start()
    (offer,) = await cloud.offers(base.Shape("t4", 1))
    tags = {
        base.TAG_CONTROLLER: settings.controller,
        base.TAG_INSTANCE: "lost",
        base.TAG_ATTEMPT: "key-lost",
        base.TAG_POOL: "gpu-t4",
        base.TAG_DEADLINE: str(int(now.now() - overdue)),
    }
    # The cloud itself would end it only later: that is what the sweep is for.
    await cloud.create(base.CreateRequest("key-lost", "lost", offer, "#!/bin/sh\n", tags, now.now() + 86400))
    await cloud.close()


def _entries(found: sweep_documents.Sweep) -> list[sweep_documents.Instance]:
    return [one for each in found["providers"] for one in each["instances"]]


async def test_a_dry_run_without_state_lists_all_and_says_that_nothing_was_compared(file: Path) -> None:
    settings = load(file)
    await _bought(settings, overdue=7200)
    found = await sweeping.once(settings, dry_run=True)
    assert [(one["instance"], one["row"]) for one in _entries(found)] == [("lost", "")]
    assert found["state_read"] is False and found["ended"] == 0
    assert not (settings.state / "runnerd.db").exists()


@pytest.mark.parametrize(
    ("overdue", "doubt", "ended"),
    [
        pytest.param(7200.0, "", 1, id="overdue"),
        pytest.param(60.0, "", 0, id="just overdue, the daemon comes first"),
        pytest.param(-3600.0, "", 0, id="a job may still run"),
        pytest.param(7200.0, "the clock is off", 0, id="the clock is in doubt"),
    ],
)
async def test_a_sweep_ends_only_what_is_past_its_deadline_by_a_clock_that_is_confirmed(
    file: Path, monkeypatch: pytest.MonkeyPatch, overdue: float, doubt: str, ended: int
) -> None:
    settings = load(file)
    await _bought(settings, overdue=overdue)

    async def answer(*_: Any) -> str:
        return doubt

    monkeypatch.setattr(sweeping, "_clock_doubt", answer)
    assert (await sweeping.once(settings, dry_run=True))["ended"] == 0
    assert len(_entries(await sweeping.once(settings, dry_run=True))) == 1
    found = await sweeping.once(settings, dry_run=False)
    assert found["ended"] == ended
    assert bool(doubt) == any(doubt in note for note in found["notes"] if doubt)
    assert len(_entries(await sweeping.once(settings, dry_run=True))) == 1 - ended


async def test_a_forge_that_does_not_answer_confirms_no_clock(file: Path) -> None:
    settings = load(file)
    await _bought(settings, overdue=7200)
    found = await sweeping.once(settings, dry_run=False, system=Wall(0))
    assert found["ended"] == 0
    assert any("cannot be checked" in note for note in found["notes"])


async def test_rows_of_a_running_daemon_are_read_beside_it(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    async with small_daemon.running(folder) as small:
        await small.queue("train")
        row = await small.booting()
        rows, problem = sweeping._rows(small.daemon.runtime.config)
        assert problem == "" and rows is not None and list(rows) == [row.id]


# -- side resources ------------------------------------------------------------------------------------------------

NOW = clocks.START
H = 3600.0


def residue(**facts: Any) -> dict[str, Any]:
    """A side resource that is due but for what a case changes; ages and deadlines in hours from now."""
    made, deadline = facts.pop("made", -30.0), facts.pop("deadline", -20.0)
    values = {"instance": "vm-1", "instance_listed": False, "row": "", "covered": True, "scope": "sky/acct/east/a"}
    return {
        **values,
        "created_at": NOW + made * H if made else 0.0,
        "deadline": NOW + deadline * H if deadline else 0.0,
        **facts,
    }


@pytest.mark.parametrize(
    ("facts", "why"),
    [
        pytest.param({}, "", id="left over"),
        pytest.param({"instance_listed": True}, "its instance vm-1 exists", id="its instance is there"),
        pytest.param({"row": "busy"}, "has a row (busy)", id="its instance has a row"),
        pytest.param({"covered": False}, "incomplete: its instance may exist", id="its place was listed in part"),
        pytest.param({"made": -0.9, "deadline": -0.8}, "only 54 min old", id="young"),
        pytest.param({"deadline": 5.0}, "its deadline is in 5 h", id="a job may still run"),
        pytest.param({"deadline": -0.2}, "passed only 12 min ago", id="just overdue"),
        pytest.param({"deadline": 0}, "", id="undated and old"),
        pytest.param({"deadline": 0, "made": -23.0}, "only 23 h old", id="undated and not a day old"),
        pytest.param({"deadline": 0, "made": 0}, "no deadline and its age is unknown", id="nothing is known"),
        pytest.param({"deadline": -2.0, "made": 0}, "", id="as old as its deadline"),
        pytest.param({"deadline": -0.5, "made": 0}, "its age is unknown", id="perhaps young"),
    ],
)
def test_a_side_resource_is_spared_unless_its_own_tags_say_that_it_is_left_over(
    facts: dict[str, Any], why: str
) -> None:
    told = sweep_policy.spare_residue(cast(sweep_documents.Residue, residue(**facts)), NOW)
    assert told == "" if not why else why in told


@pytest.mark.parametrize("text", ["", "soon", "nan", "inf", "-inf", "1e400", None])
def test_a_tag_that_is_no_number_is_no_deadline(text: str | None) -> None:
    found = cast(sweep_documents.Instance, {"deadline": numbers.real(text) or 0.0})
    assert sweep_policy.spare_instance(found, NOW)


class Sky:
    """A provider with things in it, in the place of the configured one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, doubt: str = "") -> None:
        self.clock = clocks.ManualClock()
        self.cloud = fakes.ScriptedProvisioner("sky", self.clock)
        monkeypatch.setattr(sweeping, "_provisioner", lambda *_: self.cloud)

        async def answer(*_: Any) -> str:
            return doubt

        monkeypatch.setattr(sweeping, "_clock_doubt", answer)

    def holds(self, kind: str, ref: str, *, owner: str = "vm-1", made: float = -30.0, deadline: float = -20.0) -> None:
        tags = {base.TAG_INSTANCE: owner, base.TAG_DEADLINE: str(NOW + deadline * H), base.TAG_PRICE: "0.5"}
        one = base.Residue(kind, ref, base.Scope("sky/acct/east/a"), tags, NOW + made * H)
        self.cloud.residues = (*self.cloud.residues, one)

    def runs(self, name: str, *, deadline: float) -> None:
        tags = {base.TAG_INSTANCE: name, base.TAG_DEADLINE: str(NOW + deadline * H)}
        self.cloud.machines[f"i-{name}"] = base.InstanceView(
            f"i-{name}", name, base.Scope("sky/acct/east/a"), base.InstanceStatus.RUNNING, tags, NOW - 30 * H
        )

    def did(self) -> list[tuple[str, str]]:
        return [(call, ref) for call, ref in self.cloud.calls if call.startswith("delete")]


async def test_what_is_left_over_is_deleted_in_the_order_of_the_listing_after_the_instances(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sky = Sky(monkeypatch)
    sky.runs("old", deadline=-20)
    sky.runs("new", deadline=5)
    sky.holds("interface", "nic-1")
    sky.holds("address", "ip-1")
    sky.holds("disk", "disk-of-new", owner="new")
    sky.holds("disk", "disk-2", made=-0.5)
    dry = await sweeping.once(load(file), dry_run=True, system=sky.clock)
    assert sky.did() == [] and (dry["ended"], dry["deleted"]) == (0, 0)
    assert [one.get("done") for each in dry["providers"] for one in (*each["instances"], *each["residues"])] == [
        "would be ended: its deadline has passed",
        None,
        "would be deleted: it is orphaned",
        "would be deleted: it is orphaned",
        None,
        None,
    ]
    found = await sweeping.once(load(file), dry_run=False, system=sky.clock)
    assert sky.did() == [("delete", "i-old"), ("delete_residue", "nic-1"), ("delete_residue", "ip-1")]
    assert (found["ended"], found["deleted"], found["failed"]) == (1, 2, 0)
    (provider,) = found["providers"]
    assert provider["counts"] == {"instance": 2, "address": 1, "disk": 2, "interface": 1}
    assert [one["why"] for one in provider["residues"]][2:] == ["its instance new exists", "it is only 30 min old"]
    assert provider["residues"][0]["tags"][base.TAG_PRICE] == "0.5" and provider["residues"][0]["price"] == 0.5


async def test_nothing_is_deleted_where_the_listing_is_not_whole(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sky = Sky(monkeypatch)
    sky.holds("disk", "disk-1")
    sky.cloud.partial = True
    found = await sweeping.once(load(file), dry_run=False, system=sky.clock)
    assert sky.did() == [] and "incomplete: its instance may exist" in found["providers"][0]["residues"][0]["why"]


async def test_one_that_cannot_be_deleted_does_not_keep_the_others(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sky = Sky(monkeypatch)
    for ref in ("disk-1", "disk-2", "disk-3"):
        sky.holds("disk", ref)
    gone = []

    async def delete_residue(one: base.Residue) -> None:
        if one.ref == "disk-1":
            raise fakes.refusal(base.Kind.TRANSIENT)
        if one.ref == "disk-2":
            raise KeyError("a fault of the plugin")
        gone.append(one.ref)

    monkeypatch.setattr(sky.cloud, "delete_residue", delete_residue)
    found = await sweeping.once(load(file), dry_run=False, system=sky.clock)
    assert gone == ["disk-3"] and (found["deleted"], found["failed"]) == (1, 2)
    told = [one["done"] for one in found["providers"][0]["residues"]]
    assert told[0] == "failed: transient, says the cloud" and "KeyError" in told[1]


async def test_a_provider_that_cannot_be_asked_does_not_keep_the_others(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write_text(TEXT.replace("sky: {type: fake}", "sky: {type: fake}\n  sea: {type: fake}\n  air: {type: fake}"))
    sky = Sky(monkeypatch)
    sky.holds("disk", "disk-1")
    sea, air = (fakes.ScriptedProvisioner(name, sky.clock) for name in ("sea", "air"))

    async def start() -> None:
        raise KeyError("a fault of the plugin")

    async def list_owned(also: frozenset[base.Scope] = frozenset()) -> base.Listing:
        raise AttributeError("another fault")

    monkeypatch.setattr(sea, "start", start)
    monkeypatch.setattr(air, "list_owned", list_owned)
    made = {"sky": sky.cloud, "sea": sea, "air": air}
    monkeypatch.setattr(sweeping, "_provisioner", lambda settings, one, now: made[one.name])
    found = await sweeping.once(load(file), dry_run=False, system=sky.clock)
    assert sky.did() == [("delete_residue", "disk-1")]
    problems = {each["name"]: each["problem"] for each in found["providers"]}
    assert "another fault" in problems["air"] and "a fault of the plugin" in problems["sea"]
    assert sorted(found["incomplete"]) == ["air", "sea"]


async def test_a_doubt_about_the_clock_holds_back_what_is_left_over_too(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sky = Sky(monkeypatch, doubt="the clock is off")
    sky.holds("disk", "disk-1")
    for dry in (True, False):
        found = await sweeping.once(load(file), dry_run=dry, system=sky.clock)
        assert (found["held_back"], sky.did()) == (1, [])
        assert "nothing is ended: the clock is off" in found["notes"]
        assert "clock is in doubt" in found["providers"][0]["residues"][0]["why"]


async def test_scopes_with_rows_are_listed_too_and_providers_that_are_not_configured_are_named(
    file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings = load(file)
    settings.state.mkdir()
    opened = await store.Store.open(settings.database_url, offload=Offload(0), now=lambda: NOW)
    await opened.write(
        fakes.bought("vm-1", "busy", attempt=None, offer="sky/acct/west/c/small/spot"),
        fakes.bought("vm-2", "busy", attempt=None, provider="old-cloud", offer="old-cloud/x/y/z/t/spot"),
    )
    await opened.close()
    sky = Sky(monkeypatch)
    asked: list[frozenset[str]] = []

    async def list_owned(also: frozenset[base.Scope] = frozenset()) -> base.Listing:
        asked.append(also)
        return base.Listing((), frozenset())

    monkeypatch.setattr(sky.cloud, "list_owned", list_owned)
    found = await sweeping.once(settings, dry_run=True, system=sky.clock)
    assert asked == [frozenset({"sky/acct/west/c"})] and found["state_read"]
    assert found["notes"] == ["provider old-cloud has instances with rows and is not configured here"]


@pytest.mark.parametrize(
    ("doubt", "exit"),
    [pytest.param("", Exit.OK, id="done"), pytest.param("the clock is off", Exit.PROBLEMS, id="held back")],
)
def test_people_and_programs_are_told_what_is_done_and_why_not(
    file: Path, monkeypatch: pytest.MonkeyPatch, doubt: str, exit: Exit
) -> None:
    monkeypatch.setattr(clock, "SystemClock", clocks.ManualClock)
    sky = Sky(monkeypatch, doubt=doubt)
    sky.runs("new", deadline=5)
    sky.holds("disk", "disk-1")
    line = ["sweep", "--once", "--config", str(file)]
    text = click.testing.CliRunner().invoke(cli, line)
    assert text.exit_code == exit, text.output
    shown = "deleted: it was orphaned" if not doubt else "clock is in doubt"
    for words in (
        "disk-1",
        "disk",
        "vm-1",
        "i-new",
        "its deadline is in 5 h",
        shown,
        "provider sky: 1 instance, 1 disk",
    ):
        assert words in text.stdout, words
    found = json.loads(click.testing.CliRunner().invoke(cli, [*line, "--json", "--dry-run"]).stdout)
    assert found["dry_run"] and found["residues"] == 1
