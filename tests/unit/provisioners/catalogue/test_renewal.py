"""Renewed prices are kept in one step, region by region, and a directory that cannot hold them is told."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from provisioners import base, catalogue
from provisioners.catalogue import renewal, renewed

OD, SPOT = base.Market.ON_DEMAND, base.Market.SPOT
NOW = 1_795_651_200.0  # 2026-11-26


def round_of(catalog: catalogue.Catalog, *regions: str) -> renewal.Renewal:
    return renewal.Renewal(catalog, regions=regions, source="list", now=NOW, place="providers.gcp")


@pytest.fixture
def catalog() -> catalogue.Catalog:
    return catalogue.load("gcp")


def fill(asked: renewal.Renewal, catalog: catalogue.Catalog, region: str, factor: float = 1.0) -> None:
    for name in catalog.machines:
        price = catalog.price(name, region=region, market=OD)
        if price:
            asked.quote(region, name, OD, price.dollars * factor)


def test_the_summary_counts_what_changed_and_what_is_spot(catalog: catalogue.Catalog) -> None:
    asked = round_of(catalog, "us-central1")
    fill(asked, catalog, "us-central1")
    asked.quote("us-central1", "g2-standard-4", OD, 0.9)
    asked.quote("us-central1", "g2-standard-4", SPOT, 0.3)
    findings = asked.finish("")
    assert "1 spot prices of 2026-11-26, 1 of them changed" in findings[0].message
    assert [finding.level for finding in findings] == [base.Level.OK, base.Level.WARNING]
    assert "not kept: the provider has no directory" in findings[1].message


def test_of_two_prices_the_higher_one_counts(catalog: catalogue.Catalog) -> None:
    asked = round_of(catalog, "us-central1")
    fill(asked, catalog, "us-central1")
    for dollars in (0.8, 0.9, 0.85):
        asked.quote("us-central1", "g2-standard-4", OD, dollars)
    asked.finish("")
    price = catalog.price("g2-standard-4", region="us-central1", market=OD)
    assert price is not None and price.dollars == 0.9


def test_only_regions_that_were_asked_for_and_known_types_are_taken(catalog: catalogue.Catalog) -> None:
    asked = round_of(catalog, "us-central1")
    fill(asked, catalog, "us-central1")
    asked.quote("us-east1", "g2-standard-4", OD, 0.5)
    asked.quote("us-central1", "z9-standard-4", OD, 0.5)
    asked.refuse("us-east1", "whatever")
    findings = asked.finish("")
    assert all("us-east1" not in finding.message for finding in findings)
    assert "z9-standard-4" not in catalog.machines
    price = catalog.price("g2-standard-4", region="us-east1", market=OD)
    assert price is not None and price.source == "catalogue"


def test_many_refused_prices_are_summed_up(catalog: catalogue.Catalog) -> None:
    asked = round_of(catalog, "us-central1")
    fill(asked, catalog, "us-central1")
    for name in ("g2-standard-4", "g2-standard-8", "g2-standard-12", "g2-standard-16", "g2-standard-24"):
        asked.quote("us-central1", name, OD, 1e6)
    messages = [finding.message for finding in asked.finish("") if finding.level is base.Level.WARNING]
    assert "g2-standard-4 on-demand at 1e+06 dollars" in messages[0] and messages[0].endswith("and 2 more")


@pytest.mark.parametrize(("dollars", "taken"), [(0.1, True), (0.5, True), (11.0, False), (0.02, False)])
def test_a_spot_price_is_judged_by_the_on_demand_price_where_none_is_known(dollars: float, taken: bool) -> None:
    azure = catalogue.load("azure")
    asked = round_of(azure, "eastus")
    fill(asked, azure, "eastus")
    asked.quote("eastus", "Standard_NC4as_T4_v3", SPOT, dollars)
    told = any("not taken over: Standard_NC4as_T4_v3 spot" in finding.message for finding in asked.finish(""))
    assert told is not taken
    price = azure.price("Standard_NC4as_T4_v3", region="eastus", market=SPOT)
    assert price is not None and price.dollars == (dollars if taken else 0.526)


def test_the_file_is_replaced_in_one_step_and_keeps_other_regions(catalog: catalogue.Catalog, tmp_path: Path) -> None:
    directory = tmp_path / "made" / "when-needed"
    for region in ("us-central1", "us-east1"):
        asked = round_of(catalog, region)
        fill(asked, catalog, region)
        assert [finding.level for finding in asked.finish(str(directory))] == [base.Level.OK]
    assert [path.name for path in directory.iterdir()] == ["prices.json"]
    written = json.loads((directory / "prices.json").read_text())
    assert sorted(written["regions"]) == ["us-central1", "us-east1"]
    assert written["regions"]["us-east1"]["as_of"] == "2026-11-26"
    assert written["regions"]["us-east1"]["source"] == "list"
    again, problem = renewed.read(str(directory), "gcp")
    assert problem == "" and again.regions == {"us-central1", "us-east1"}


def test_a_write_that_fails_leaves_the_old_file_and_says_so(
    catalog: catalogue.Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = round_of(catalog, "us-central1")
    fill(asked, catalog, "us-central1")
    asked.finish(str(tmp_path))
    before = (tmp_path / "prices.json").read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    asked = round_of(catalog, "us-east1")
    fill(asked, catalog, "us-east1")
    findings = asked.finish(str(tmp_path))
    assert findings[-1].level is base.Level.ERROR and "No space left on device" in findings[-1].message
    assert (tmp_path / "prices.json").read_bytes() == before
    price = catalog.price("g2-standard-4", region="us-east1", market=OD)
    assert price is not None and price.source == "price list", "used until the restart"


def test_a_damaged_file_is_told_and_replaced(catalog: catalogue.Catalog, tmp_path: Path) -> None:
    (tmp_path / "prices.json").write_text("{")
    asked = round_of(catalog, "us-central1")
    fill(asked, catalog, "us-central1")
    findings = asked.finish(str(tmp_path))
    assert [finding.level for finding in findings] == [base.Level.WARNING, base.Level.OK]
    assert catalog.load_renewed(str(tmp_path)) == ""


def test_nothing_asked_is_nothing_done(catalog: catalogue.Catalog, tmp_path: Path) -> None:
    assert round_of(catalog).finish(str(tmp_path)) == []
    assert list(tmp_path.iterdir()) == []
