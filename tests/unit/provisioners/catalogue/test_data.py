"""The data that ships: sane, complete where it was promised, small, and read without delay."""

from __future__ import annotations

import gzip
import itertools
import json
import math
import re
import time
from collections.abc import Callable
from importlib import resources

import pytest

from provisioners import base, catalogue
from provisioners.catalogue import shipped

CLOUDS = ("aws", "gcp", "azure")
OD, SPOT = base.Market.ON_DEMAND, base.Market.SPOT
GIB = 2**30
#: What the clouds are asked to offer, at least one of them each.
PROMISED = {
    "t4": "aws gcp azure",
    "l4": "aws gcp",
    "a10": "azure",
    "a10g": "aws",
    "v100": "aws gcp azure",
    "l40s": "aws",
    "a100-40": "aws gcp azure",
    "a100-80": "aws gcp azure",
    "h100": "aws gcp azure",
    "h200": "aws gcp azure",
    "b200": "aws gcp",
    "rtx-pro-6000": "aws gcp azure",
}


@pytest.mark.parametrize("gpu", PROMISED)
def test_every_promised_gpu_is_sold_where_it_was_promised(gpu: str) -> None:
    sold = {cloud for cloud in CLOUDS for one in catalogue.load(cloud).machines.values() if one.gpu == gpu}
    assert sold == set(PROMISED[gpu].split())


@pytest.mark.parametrize("cloud", CLOUDS)
def test_machines_have_what_machines_have(cloud: str) -> None:
    for name, machine in catalogue.load(cloud).machines.items():
        assert name == machine.name and re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,62}", name), name
        assert 1 <= machine.cpus <= 448 and 0.5 * GIB <= machine.memory <= 4096 * GIB, name
        assert 0.4 * GIB <= machine.memory / machine.cpus <= 32 * GIB, name
        assert machine.arch in ("x86_64", "arm64"), name
        assert (machine.gpu_memory > 0) == bool(machine.gpu), name
        assert 0 <= machine.gpu_count <= 16 and 0 <= machine.scratch < 40 * 10**12, name
        assert bool(machine.accelerator) == ("+" in name), name
        if machine.accelerator:
            assert name == f"{machine.type_name}+{machine.accelerator}x{machine.gpu_count}"
            assert machine.type_name in catalogue.load(cloud).machines


@pytest.mark.parametrize("cloud", CLOUDS)
def test_every_machine_has_a_price_somewhere_and_every_price_is_sane(cloud: str) -> None:
    catalog, data = catalogue.load(cloud), shipped.read(cloud)
    for name, machine in catalog.machines.items():
        priced = [pair for pair in data.prices(name).values() if any(pair)]
        assert priced, f"{name} has no price at all"
        for region, (on_demand, spot) in data.prices(name).items():
            where = f"{name} in {region}"
            for dollars in (on_demand, spot):
                assert dollars is None or (math.isfinite(dollars) and 0.005 < dollars < 500), where
            if on_demand and spot:
                assert spot <= on_demand * 1.05, where
            if on_demand and machine.gpu_count:
                assert 0.1 < on_demand / machine.gpu_count < 25, where


def test_azure_general_machines_cost_by_their_vcpus() -> None:
    """Linux prices are linear in a family; a Windows meter that slipped in costs some 90 % more."""
    data, by_family = shipped.read("azure"), dict[tuple[str, str], list[float]]()
    for name, machine in catalogue.load("azure").machines.items():
        if not machine.gpu:
            family = re.sub(r"(?<=[A-Z])\d+(?=[a-z])", "#", name)
            for region, (dollars, _) in data.prices(name).items():
                by_family.setdefault((family, region), []).append((dollars or 0) / machine.cpus)
    assert len(by_family) > 400
    for where, per_vcpu in by_family.items():
        assert max(per_vcpu) <= min(per_vcpu) * 1.05, where


@pytest.mark.parametrize("cloud", CLOUDS)
def test_more_of_the_same_never_costs_less(cloud: str) -> None:
    """Two machines that differ in size alone: a price in the wrong column shows here."""
    catalog, data = catalogue.load(cloud), shipped.read(cloud)
    families: dict[tuple[str, ...], list[catalogue.Machine]] = {}
    for machine in catalog.machines.values():
        stem = re.sub(r"\d*(xlarge|large|medium)$|(?<=-)\d+$|(?<=[A-Z])\d+(?=[a-z])", "#", machine.type_name)
        families.setdefault((stem, machine.gpu, machine.accelerator), []).append(machine)
    compared = 0
    for family in families.values():
        family.sort(key=lambda one: (one.gpu_count, one.cpus, one.memory))
        for smaller, larger in itertools.pairwise(family):
            if smaller.gpu_count > larger.gpu_count or smaller.cpus > larger.cpus:
                continue
            for region, (dollars, _) in data.prices(smaller.name).items():
                other = data.prices(larger.name).get(region, (None, None))[0]
                if dollars and other:
                    compared += 1
                    assert dollars <= other * 1.001, f"{smaller.name} and {larger.name} in {region}"
    assert compared > 300


@pytest.mark.parametrize(
    ("cloud", "name", "region", "on_demand", "spot"),
    [
        ("aws", "g4dn.xlarge", "us-east-1", 0.526, None),
        ("aws", "g4dn.xlarge", "eu-west-1", 0.587, None),
        ("aws", "g4dn.12xlarge", "us-east-1", 3.912, None),
        ("aws", "g5.xlarge", "us-east-1", 1.006, None),
        ("aws", "g6.xlarge", "us-east-1", 0.805, None),
        ("aws", "g6e.12xlarge", "us-east-1", 10.493, None),
        ("aws", "g7e.2xlarge", "us-east-1", 3.363, None),
        ("aws", "p4d.24xlarge", "us-east-1", 21.958, None),
        ("aws", "p5.48xlarge", "us-east-1", 55.04, None),
        ("aws", "p5en.48xlarge", "us-east-1", 63.296, None),
        ("aws", "p6-b200.48xlarge", "us-east-1", 113.933, None),
        ("gcp", "g2-standard-4", "us-central1", 0.707, 0.397),
        ("gcp", "g2-standard-96", "us-central1", 8.003, 4.499),
        ("gcp", "a2-highgpu-1g", "us-central1", 3.673, 1.928),
        ("gcp", "a3-highgpu-8g", "us-central1", 88.49, 50.61),
        ("gcp", "a3-highgpu-8g", "europe-west4", 112.54, 44.12),
        ("gcp", "g4-standard-48", "us-central1", 4.50, 1.80),
        ("gcp", "n1-standard-4", "us-central1", 0.190, 0.067),
        ("gcp", "n1-standard-4+nvidia-tesla-t4x1", "us-central1", 0.54, None),
        ("azure", "Standard_NC4as_T4_v3", "eastus", 0.526, None),
        ("azure", "Standard_NC4as_T4_v3", "westeurope", 0.658, None),
        ("azure", "Standard_NC24ads_A100_v4", "eastus", 3.673, None),
        ("azure", "Standard_NV36ads_A10_v5", "eastus", 3.20, None),
        ("azure", "Standard_NC40ads_H100_v5", "eastus", 6.98, None),
        ("azure", "Standard_ND96isr_H100_v5", "westeurope", 127.816, None),
    ],
)
def test_known_figures_are_there(cloud: str, name: str, region: str, on_demand: float, spot: float | None) -> None:
    pair = shipped.read(cloud).prices(name)[region]
    assert pair[0] == pytest.approx(on_demand, abs=0.006)
    if spot is not None:
        assert pair[1] == pytest.approx(spot, abs=0.006)


@pytest.mark.parametrize(
    ("name", "cpus", "gib", "gpu", "count", "gpu_gib"),
    [
        ("Standard_NC4as_T4_v3", 4, 28, "t4", 1, 16),
        ("Standard_NC64as_T4_v3", 64, 440, "t4", 4, 16),
        ("Standard_NC96ads_A100_v4", 96, 880, "a100-80", 4, 80),
        ("Standard_ND96asr_v4", 96, 900, "a100-40", 8, 40),
        ("Standard_NC40ads_H100_v5", 40, 320, "h100", 1, 94),
        ("Standard_D4ps_v5", 4, 16, "", 0, 0),
    ],
)
def test_known_azure_sizes_are_right(name: str, cpus: int, gib: int, gpu: str, count: int, gpu_gib: int) -> None:
    machine = catalogue.load("azure").machines[name]
    assert (machine.cpus, machine.memory, machine.gpu, machine.gpu_count) == (cpus, gib * GIB, gpu, count)
    assert machine.gpu_memory == gpu_gib * GIB


def test_ec2_machines_are_as_ec2_describes_them() -> None:
    file = resources.files("moto").joinpath("ec2/resources/instance_types.json.gz")
    described = json.loads(gzip.decompress(file.read_bytes()))
    compared = 0
    for machine in catalogue.load("aws").machines.values():
        told = described.get(machine.name)
        if told is None:
            assert machine.name.startswith("p3."), f"EC2 has no {machine.name}"
            continue
        compared += 1
        gpus = told.get("GpuInfo", {}).get("Gpus", [{"Count": 0, "MemoryInfo": {"SizeInMiB": 0}}])
        assert machine.cpus == told["VCpuInfo"]["DefaultVCpus"], machine.name
        assert machine.memory == told["MemoryInfo"]["SizeInMiB"] * 2**20, machine.name
        assert machine.arch in told["ProcessorInfo"]["SupportedArchitectures"], machine.name
        assert machine.gpu_count == sum(gpu["Count"] for gpu in gpus), machine.name
        assert machine.gpu_memory == pytest.approx(gpus[0]["MemoryInfo"]["SizeInMiB"] * 2**20, rel=0.01), machine.name
        assert machine.scratch == told.get("InstanceStorageInfo", {}).get("TotalSizeInGB", 0) * 10**9, machine.name
    assert compared > 250


@pytest.mark.parametrize("cloud", CLOUDS)
def test_prices_tell_their_day_and_source(cloud: str) -> None:
    catalog, data = catalogue.load(cloud), shipped.read(cloud)
    for region in {region for name in catalog.machines for region in data.prices(name)}:
        assert re.fullmatch(r"20\d\d-\d\d(-\d\d)?", data.day(region)), region
    assert any("as of 20" in source for source in catalog.sources)
    assert catalog.regions >= data.whole


def test_the_data_is_small() -> None:
    folder = resources.files("provisioners.catalogue")
    assert sum(len(folder.joinpath(f"{cloud}.csv").read_bytes()) for cloud in CLOUDS) < 400_000


def test_loading_leaves_the_prices_unparsed() -> None:
    """Compared with parsing all of them, so that a slow host does not matter."""

    def seconds(work: Callable[[], object]) -> float:
        best = math.inf
        for _ in range(5):
            started = time.perf_counter()
            work()
            best = min(best, time.perf_counter() - started)
        return best

    def all_prices(data: shipped.Shipped) -> None:
        for name in data.machines:
            data.prices(name)

    text = resources.files("provisioners.catalogue").joinpath("gcp.csv").read_text()
    fresh = [shipped.parse(text) for _ in range(5)]
    load = seconds(lambda: shipped.parse(text))
    every_price = seconds(lambda: all_prices(fresh.pop()))
    assert load < every_price


def test_a_price_is_parsed_once() -> None:
    data = shipped.read("gcp")
    assert data.prices("g2-standard-4") is data.prices("g2-standard-4")
    assert data.prices("no-such-type") == {}
