"""Which machines serve a shape, in which order, and what is said when none does."""

from __future__ import annotations

import pytest

from provisioners import base, catalogue

GIB = 2**30


def names(cloud: str, **shape: object) -> list[str]:
    return [machine.name for machine in catalogue.load(cloud).fitting(base.Shape(**shape))]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("cloud", "shape", "expected"),
    [
        pytest.param("aws", {"gpu": "t4"}, ["g4dn.xlarge", "g4dn.2xlarge", "g4dn.4xlarge"], id="one gpu by default"),
        pytest.param("aws", {"gpu": "t4", "gpu_count": 4}, ["g4dn.12xlarge"], id="exactly four"),
        pytest.param("aws", {"gpu": "t4", "cpus": 60}, ["g4dn.16xlarge"], id="vcpus at least"),
        pytest.param("aws", {"gpu": "l4", "memory": 250 * GIB}, ["gr6.8xlarge", "g6.16xlarge"], id="memory at least"),
        pytest.param("aws", {"gpu": "t4g", "arch": "arm64"}, ["g5g.xlarge", "g5g.2xlarge"], id="arm64 with a gpu"),
        pytest.param(
            "aws", {"types": ("g4dn.12xlarge",)}, ["g4dn.12xlarge"], id="a named type without asking for gpus"
        ),
        pytest.param(
            "aws",
            {"gpu": "t4", "gpu_count": 2, "types": ("g4dn.12xlarge",)},
            ["g4dn.12xlarge"],
            id="a named type may have more",
        ),
        pytest.param("aws", {"gpu": "t4", "types": ("g5.xlarge",)}, [], id="a named type with another gpu"),
        pytest.param(
            "gcp",
            {"gpu": "t4", "types": ("n1-standard-8",)},
            ["n1-standard-8+nvidia-tesla-t4x1"],
            id="a general type with the gpu attached",
        ),
        pytest.param(
            "gcp",
            {"gpu": "t4", "gpu_count": 2, "types": ("n1-standard-8",)},
            ["n1-standard-8+nvidia-tesla-t4x2"],
            id="attached in that number only",
        ),
        pytest.param("gcp", {"types": ("n1-standard-8",)}, ["n1-standard-8"], id="a general type without gpus"),
        pytest.param(
            "gcp",
            {"types": ("n1-standard-8+nvidia-tesla-t4x1",)},
            ["n1-standard-8+nvidia-tesla-t4x1"],
            id="a combination by its name",
        ),
        pytest.param("gcp", {"gpu": "l4", "gpu_count": 8}, ["g2-standard-96"], id="built in"),
        pytest.param("azure", {"gpu": "a10"}, ["Standard_NV36ads_A10_v5", "Standard_NV36adms_A10_v5"], id="whole gpus"),
        pytest.param(
            "azure",
            {"types": ("Standard_NV6ads_A10_v5",)},
            ["Standard_NV6ads_A10_v5"],
            id="a share of a gpu by its name",
        ),
        pytest.param("azure", {"gpu": "a10", "types": ("Standard_NV6ads_A10_v5",)}, [], id="a share is no gpu"),
    ],
)
def test_the_cheapest_that_serves_comes_first(cloud: str, shape: dict[str, object], expected: list[str]) -> None:
    assert names(cloud, **shape)[: max(len(expected), 1)] == expected


@pytest.mark.parametrize("cloud", ["aws", "gcp", "azure"])
@pytest.mark.parametrize("arch", ["x86_64", "arm64"])
def test_a_pool_without_gpu_gets_neither_gpus_nor_a_share_of_one(cloud: str, arch: str) -> None:
    found = catalogue.load(cloud).fitting(base.Shape(cpus=2, memory=4 * GIB, arch=arch))
    assert len(found) > 5
    assert {(machine.gpu, machine.gpu_count, machine.arch) for machine in found} == {("", 0, arch)}


def test_an_attached_accelerator_tells_offers_apart_and_keeps_the_clouds_name() -> None:
    machines = catalogue.load("gcp").fitting(base.Shape(gpu="v100", types=("n1-standard-8",)))
    machines += catalogue.load("gcp").fitting(base.Shape(gpu="v100", gpu_count=2, types=("n1-standard-8",)))
    assert [(machine.type_name, machine.accelerator, machine.gpu_count) for machine in machines] == [
        ("n1-standard-8", "nvidia-tesla-v100", 1),
        ("n1-standard-8", "nvidia-tesla-v100", 2),
    ]
    assert len({machine.name for machine in machines}) == 2


@pytest.mark.parametrize(
    ("cloud", "shape", "why"),
    [
        pytest.param("aws", {"gpu": "t5"}, 'no machine here has the GPU "t5"; did you mean "t4', id="misspelt gpu"),
        pytest.param("aws", {"gpu": "a100"}, 'did you mean "a100-40" or "a100-80"?; GPUs here: a', id="gpu in part"),
        pytest.param("aws", {"gpu": "A10G"}, 'did you mean "a10g"?', id="gpu in capitals"),
        pytest.param("gcp", {"gpu": "nvidia-tesla-t4"}, 'did you mean "t4"?', id="gpu by the cloud's own name"),
        pytest.param("gcp", {"gpu": "zzz"}, "known: a100-40, a100-80, b200, h100", id="nothing like it"),
        pytest.param("gcp", {"gpu": "l40s"}, '"l40s", which AWS sells; GPUs here:', id="sold elsewhere"),
        pytest.param(
            "azure",
            {"gpu": "t4", "gpu_count": 3},
            "no machine here has 3 x t4; they come with 1 or 4",
            id="a count no type has",
        ),
        pytest.param(
            "gcp",
            {"gpu": "t4", "gpu_count": 8, "types": ("n1-standard-8",)},
            "no machine of n1-standard-8 has 8 x t4; they come with 1, 2 or 4",
            id="a count that a named type has not",
        ),
        pytest.param(
            "aws", {"types": ("g4nd.xlarge",)}, 'no machine type "g4nd.xlarge"; did you mean "g4dn', id="unknown type"
        ),
        pytest.param(
            "gcp",
            {"gpu": "l4", "types": ("n1-standard-8",)},
            'no machine of n1-standard-8 has the GPU "l4"; GPUs of n1-standard-8: p100, p4, t4, v100',
            id="a named type with other gpus",
        ),
        pytest.param(
            "azure",
            {"gpu": "a10", "types": ("Standard_NV6ads_A10_v5",)},
            "machines of Standard_NV6ads_A10_v5 have only a share of one a10",
            id="a share only",
        ),
        pytest.param(
            "gcp", {"gpu": "t4", "arch": "arm64"}, "no machine with 1 x t4 is arm64; they are x86_64", id="architecture"
        ),
        pytest.param(
            "gcp", {"gpu": "t4", "cpus": 500}, "no machine with 1 x t4 has 500 vCPUs; the largest has", id="cpus"
        ),
        pytest.param(
            "gcp",
            {"gpu": "t4", "cpus": 8, "memory": 5000 * GIB},
            "has 8 vCPUs and 5,000 GiB of memory; the largest has 208 GiB",
            id="memory",
        ),
        pytest.param("aws", {"cpus": 5000}, "no machine without a GPU has 5000 vCPUs", id="cpus without gpu"),
    ],
)
def test_nothing_that_fits_is_explained_with_the_nearest_thing(cloud: str, shape: dict[str, object], why: str) -> None:
    assert names(cloud, **shape) == []
    assert why in catalogue.load(cloud).why_none(base.Shape(**shape))  # type: ignore[arg-type]


def test_a_shape_that_fits_and_has_a_price_is_not_explained() -> None:
    catalog = catalogue.load("aws")
    assert catalog.why_none(base.Shape(gpu="t4")) == ""
    assert catalog.why_none(base.Shape(gpu="t4"), regions=("us-east-1",)) == ""


def test_what_is_sold_in_one_market_only_is_explained_for_the_other() -> None:
    catalog = catalogue.load("gcp")
    b200 = {"gpu": "b200", "gpu_count": 8}
    why = catalog.why_none(base.Shape(**b200), regions=("us-central1",))  # type: ignore[arg-type]
    assert why.startswith("no price is known for a4-highgpu-8g, on-demand in us-central1")
    spot = base.Shape(**b200, markets=(base.Market.SPOT,))  # type: ignore[arg-type]
    assert catalog.why_none(spot, regions=("us-central1",)) == ""


def test_what_is_not_sold_in_the_configured_regions_is_said_with_the_regions_that_have_it() -> None:
    catalog = catalogue.load("gcp")
    shape = base.Shape(gpu="h200", gpu_count=8)
    why = catalog.why_none(shape, regions=("europe-north2", "asia-east2"))
    assert why.startswith("a3-ultragpu-8g: not sold in asia-east2 or europe-north2; sold in asia-south1, asia-south2, ")
    assert catalog.why_none(shape, regions=("europe-north2", "us-central1")) == ""


def test_an_operators_price_says_that_a_type_is_sold_there() -> None:
    catalog = catalogue.load("gcp")
    own = catalogue.Overrides({("europe-north2", "a3-ultragpu-8g", base.Market.ON_DEMAND): 90.0})
    assert catalog.why_none(base.Shape(gpu="h200", gpu_count=8), regions=("europe-north2",), overrides=own) == ""


@pytest.mark.parametrize(
    ("cloud", "name", "hint"),
    [
        ("aws", "us-est-1", '; did you mean "us-west-1" or "us-east-1"?'),
        ("gcp", "europe-west40", '; did you mean "europe-west4"?'),
        ("azure", "WestEurope", '; did you mean "westeurope"?'),
        ("azure", "xxxxxxxx", ""),
    ],
)
def test_the_nearest_region_is_named(cloud: str, name: str, hint: str) -> None:
    assert catalogue.load(cloud).nearest_region(name) == hint


def test_an_unknown_cloud_has_no_catalogue() -> None:
    for cloud in ("ovh", "../aws", ""):
        with pytest.raises(KeyError):
            catalogue.load(cloud)
