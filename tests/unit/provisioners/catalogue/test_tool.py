"""The tool that puts new prices into the shipped tables changes what it was given, and nothing else."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from types import ModuleType

import pytest

from provisioners.catalogue import renewed, shipped
from tests.support.tree import ROOT


@pytest.fixture
def tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("catalogue_prices", ROOT / "tests/tools/catalogue_prices.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for cloud in ("aws", "gcp", "azure"):
        shutil.copy(module.FOLDER / f"{cloud}.csv", tmp_path)
    monkeypatch.setattr(module, "FOLDER", tmp_path)
    return module


def quotes(directory: Path, cloud: str, region: str, prices: dict[str, shipped.Pair]) -> str:
    """A file as a refresh leaves it."""
    directory.mkdir()
    renewed.write(str(directory), cloud, renewed.Renewed({region: renewed.Region("2026-11-26", "a new list", prices)}))
    return str(directory / renewed.FILE)


@pytest.mark.parametrize("cloud", ["aws", "gcp", "azure"])
def test_without_quotes_the_shipped_table_stays_byte_for_byte(tool: ModuleType, tmp_path: Path, cloud: str) -> None:
    before = (tmp_path / f"{cloud}.csv").read_bytes()
    tool.main(cloud)
    assert (tmp_path / f"{cloud}.csv").read_bytes() == before


def test_quotes_of_a_region_replace_its_prices_and_its_day_alone(tool: ModuleType, tmp_path: Path) -> None:
    file = quotes(tmp_path / "new", "aws", "us-east-1", {"g4dn.xlarge": (0.5, 0.2), "x9.huge": (9.0, None)})
    old = shipped.parse((tmp_path / "aws.csv").read_text())
    tool.main("aws", file)
    new = shipped.parse((tmp_path / "aws.csv").read_text())
    assert new.prices("g4dn.xlarge")["us-east-1"] == (0.5, 0.2)
    assert (new.day("us-east-1"), old.day("us-east-1")) == ("2026-11-26", "2026-07-20")
    assert "a new list, as of 2026-11-26" in new.sources
    assert dict(new.machines) == dict(old.machines) and new.regions == old.regions and new.whole == old.whole
    for name in old.machines:
        for region, pair in old.prices(name).items():
            if (name, region) != ("g4dn.xlarge", "us-east-1"):
                assert new.prices(name)[region] == pair


def test_a_machine_of_two_parts_is_composed(tool: ModuleType, tmp_path: Path) -> None:
    parts: dict[str, shipped.Pair] = {"n1-standard-4": (0.2, 0.05), "nvidia-tesla-t4": (0.3, 0.1)}
    tool.main("gcp", quotes(tmp_path / "new", "gcp", "us-central1", parts))
    new = shipped.parse((tmp_path / "gcp.csv").read_text())
    assert new.prices("n1-standard-4+nvidia-tesla-t4x2")["us-central1"] == pytest.approx((0.8, 0.25))
    assert new.prices("n1-standard-4")["us-central1"] == (0.2, 0.05)


def test_a_new_region_gets_a_column(tool: ModuleType, tmp_path: Path) -> None:
    new_prices: dict[str, shipped.Pair] = {"g2-standard-4": (None, 0.3), "g2-standard-8": (None, None)}
    tool.main("gcp", quotes(tmp_path / "new", "gcp", "moon-east1", new_prices))
    new = shipped.parse((tmp_path / "gcp.csv").read_text())
    assert new.prices("g2-standard-4")["moon-east1"] == (None, 0.3)
    assert new.prices("g2-standard-8")["moon-east1"] == (None, None)
    assert "moon-east1" not in new.prices("n1-standard-4") and "moon-east1" in new.regions
