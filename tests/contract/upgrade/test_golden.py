"""Data that an older version left behind loads and replays byte-identically with today's code.

Each folder beside this file is the state of one version: a database, what providers keep, the directories of agents,
and what that very version read of them (``make.py`` wrote it all by running real code).  A difference here means that
an upgrade forgets instances, buys them twice or deletes what it should not: mend the code, not the data.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.contract.upgrade import adapter, agents, capture, make

#: Every class of failure that blocks an offer.
BLOCKED = {
    "auth", "boot", "capacity", "config", "gate", "not-found", "preempted", "price", "quota", "register", "transient",
}  # fmt: skip
VERSIONS = sorted(path.parent.name for path in Path(__file__).parent.glob("*/manifest.json"))


class Golden:
    """One version's data, unpacked."""

    def __init__(self, name: str, folder: Path) -> None:
        self.folder = capture.unpack(Path(__file__).parent / name, folder)
        self.manifest = json.loads((self.folder / "manifest.json").read_text())
        self.expected = json.loads((self.folder / capture.EXPECTED).read_text())

    def copy(self, target: Path) -> Path:
        """A copy to work on: daemons, providers and agents write."""
        return Path(shutil.copytree(self.folder, target / "golden"))


@pytest.fixture(scope="module", params=VERSIONS)
def golden(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Golden:
    return Golden(request.param, tmp_path_factory.mktemp("golden") / "data")


@pytest.fixture(autouse=True)
def _secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNNERD_GOLDEN_TOKEN", "a token of no forge")


def read(golden: Golden, folder: Path, section: str) -> Any:
    """What today's code makes of a section."""
    settings = capture.load_config(golden.copy(folder))
    return json.loads(json.dumps(asyncio.run(capture.SECTIONS[section](settings))))


def lost(expected: Any, found: Any, place: str = "") -> Iterator[str]:
    """What is not as it was.  A field that a later version added is no loss."""
    if isinstance(expected, dict) and isinstance(found, dict):
        for key, value in expected.items():
            if key in found:
                yield from lost(value, found[key], f"{place}/{key}")
            else:
                yield f"{place}/{key} is missing"
    elif isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        for number, (one, other) in enumerate(zip(expected, found, strict=True)):
            yield from lost(one, other, f"{place}/{number}")
    elif expected != found:
        yield f"{place}: was {expected!r}, is {found!r}"


def meaning(replays: Any, made_with: Any) -> Any:
    """The same without what an SDK chooses: protobuf's order of maps, and all orders where SDKs are not the same."""
    same = made_with == capture.versions()
    for entry in replays.values():
        for one in entry.get("sent", {}).get("wire", ()):
            if same and not entry["offer"].startswith("google/"):
                continue
            one["url"] = one["url"].partition("?api-version=")[0]
            body = one["body"]
            one["body"] = json.loads(body) if body.startswith("{") else sorted(urllib.parse.parse_qsl(body))
    return replays


def test_the_data_holds_every_state_of_every_life_cycle(golden: Golden) -> None:
    rows = golden.expected["rows"]
    instances = {one["state"] for one in rows["instances"].values()}
    attempts = {one["state"] for some in rows["attempts"].values() for one in some}
    registrations = {one["state"] for some in rows["registrations"].values() for one in some}
    jobs = {one["state"] for one in rows["jobs"].values()}
    assert instances == golden.manifest["instances"].keys()
    assert (len(instances), len(attempts), len(registrations), len(jobs)) == (12, 4, 5, 3)
    assert {one["reason"] for one in rows["state"]["blocks"]} == BLOCKED
    assert {name.partition("/")[0] for name in rows["state"]["settings"]} == {"drained", "provider", "retry"}


def test_every_row_is_loaded_as_it_was_written(golden: Golden, tmp_path: Path) -> None:
    settings = capture.load_config(golden.copy(tmp_path))
    found = asyncio.run(capture.rows(settings))
    assert not list(lost(golden.expected["rows"], found))[:10]


def test_every_stored_request_is_sent_again_byte_for_byte(golden: Golden, tmp_path: Path) -> None:
    made_with = golden.manifest["made_with"]
    expected = meaning(golden.expected["replays"], made_with)
    found = meaning(read(golden, tmp_path, "replays"), made_with)
    types = {entry["offer"].split("/")[0] for entry in expected.values() if entry.get("sent")}
    assert types == {"sky", "host", "amazon", "google", "az"}
    for key, entry in expected.items():
        assert found[key] == entry, key
    assert found.keys() == expected.keys()


@pytest.mark.parametrize(
    "section",
    [
        pytest.param("remembered image", id="azure-takes-the-image-version-that-it-noted"),
        pytest.param("listings", id="providers-look-wherever-they-bought"),
        pytest.param("offers", id="notes-of-aws-and-gcp-serve-without-a-question"),
        pytest.param("blocked", id="blocks-hold-the-same-offers-for-the-same-time"),
        pytest.param("started", id="a-daemon-starts-with-the-same-settings-in-force"),
        pytest.param("cursors", id="forges-go-on-from-their-cursors"),
        pytest.param("images", id="addresses-of-report-images-stay-good"),
    ],
)
def test_what_was_kept_means_the_same(golden: Golden, tmp_path: Path, section: str) -> None:
    found = read(golden, tmp_path, section)
    assert not list(lost(golden.expected[section], found))[:10]


@pytest.mark.parametrize("case", agents.CASES)
def test_an_agent_takes_up_what_an_older_one_left(golden: Golden, tmp_path: Path, case: str) -> None:
    archive = tmp_path / "agent.pyz"
    archive.write_bytes(adapter.agent_archive().data)
    found = agents.again(archive, golden.copy(tmp_path) / "agents" / case, python=sys.executable)
    expected = golden.expected["agents"][case]
    # A JSON file may have more keys than it had.
    for name in expected["files"]:
        if name.endswith(".json") and isinstance(expected["files"][name], str):
            expected["files"][name] = json.loads(expected["files"][name])
            found["files"][name] = json.loads(found["files"][name])
    assert not list(lost(expected, found))
    assert [one[0] for one in found["told"]] == [one[0] for one in expected["told"]]


@pytest.mark.timeout(300)
def test_the_next_golden_data_can_be_made_with_this_version(golden: Golden, tmp_path: Path) -> None:
    make.write(tmp_path / "scratch", tmp_path / "made")
    made = json.loads((tmp_path / "made" / "manifest.json").read_text())
    assert made["instances"] == golden.manifest["instances"]
