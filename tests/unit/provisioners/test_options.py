"""Options are read completely, and every complaint names its key."""

from __future__ import annotations

import re
from typing import Any

import pytest

from provisioners import base, fake, local, options
from provisioners.catalogue import listed_types


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        pytest.param({"regoins": {}}, 'regoins: no such key; did you mean "regions"?', id="misspelt at the top"),
        pytest.param(
            {"regions": {"us-1": {"zone": ["a"]}}},
            'regions.us-1.zone: no such key; did you mean "zones"?',
            id="misspelt inside",
        ),
        pytest.param({"regions": []}, "regions: expected a map of names, not a list", id="list for a map"),
        pytest.param({"regions": {"a/b": {}}}, 'regions.a/b: "a/b" is no name', id="a slash in a name"),
        pytest.param({"regions": {"us-1": {"capacity": -1}}}, "regions.us-1.capacity: -1 is not within", id="negative"),
        pytest.param(
            {"regions": {"us-1": {"capacity": {"sim-t5": 1}}}},
            'regions.us-1.capacity.sim-t5: no such key; did you mean "sim-t4"?',
            id="capacity of an unknown type",
        ),
        pytest.param(
            {"regions": {"us-1": {"machine_types": ["sim-t5"]}}},
            'regions.us-1.machine_types: "sim-t5" is no machine type; did you mean "sim-t4"?',
            id="unknown type sold",
        ),
        pytest.param(
            {"regions": {"us-1": {"boot": "soon"}}},
            'regions.us-1.boot: "soon" is not a duration; write 30s',
            id="no duration",
        ),
        pytest.param({"boot": [60, 20]}, "boot: the shortest is longer than the longest", id="bounds swapped"),
        pytest.param({"backing": "locale"}, 'backing: "locale" is not known; did you mean "local"?', id="choice"),
        pytest.param({"idempotent": "yes"}, 'idempotent: expected true or false, not "yes"', id="no truth"),
        pytest.param({"faults": [{"times": 1}]}, "faults.0: the fault has no effect", id="fault without effect"),
        pytest.param(
            {"faults": [{"kind": "capacity", "applied": True}]},
            "faults.0.applied: only a transient failure or a timeout",
            id="definite failure that was applied",
        ),
        pytest.param(
            {"faults": [{"kind": "capasity"}]},
            'faults.0.kind: "capasity" is not known; did you mean "capacity"?',
            id="kind",
        ),
        pytest.param(
            {"faults": [{"call": "delete", "async_failure": True}]},
            "faults.0.async_failure: cannot happen to a delete call",
            id="effect on the wrong call",
        ),
        pytest.param(
            {"machine_types": {"m": {"gpu": "t4", "gpu_count": 0}}},
            "machine_types.m.gpu_count: is 0 although",
            id="no gpus of a model",
        ),
        pytest.param(
            {"machine_types": {"m": {"memory": "16 Gigs"}}},
            'machine_types.m.memory: "Gigs" is not a unit of size',
            id="size",
        ),
    ],
)
def test_the_simulated_cloud_names_what_is_wrong(given: dict[str, Any], problem: str) -> None:
    problems = fake.Fake.validate(given)
    assert [one for one in problems if one.startswith(problem)], problems
    with pytest.raises(ValueError, match=re.escape(problem)):
        fake.Fake(CONTEXT, given)


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        pytest.param({"slots": 0}, "slots: 0 is not within 1 to", id="no slots"),
        pytest.param({"slots": True}, 'slots: expected a whole number, not "True"', id="truth for a number"),
        pytest.param({"grace": "5"}, 'grace: "5" has no unit; write 5s, 5m or 5h', id="no unit"),
        pytest.param({"machine_types": {"m": {"spot_price": 1}}}, "machine_types.m.spot_price: there is no", id="spot"),
        pytest.param({"gpu": "t4", "gpus": 0}, "gpus: is 0 although a gpu is named", id="no gpus"),
    ],
)
def test_local_names_what_is_wrong(given: dict[str, Any], problem: str) -> None:
    problems = local.Local.validate(given)
    assert len(problems) == 1 and problems[0].startswith(problem), problems


def test_every_problem_is_told_at_once() -> None:
    assert len(fake.Fake.validate({"seed": "x", "regions": {"r": {"zones": "a", "boot": -1}}, "colour": 1})) == 4


def test_real_processes_need_a_directory() -> None:
    with pytest.raises(ValueError, match="backing: real processes need a directory"):
        fake.Fake(CONTEXT, {"backing": "local"})


CONTEXT = base.Context("sim", "acme-ci", "", lambda: 0.0, lambda seconds: None)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (30, 30.0),
        (0.5, 0.5),
        ("90s", 90.0),
        ("1h30m", 5400.0),
        ("250ms", 0.25),
        (0, 0.0),
        ("0", 0.0),
        ("1w", 604800.0),
        (" 5s ", 5.0),
    ],
)
def test_durations_are_seconds_or_carry_a_unit(value: object, seconds: float) -> None:
    reader = options.Reader({"wait": value})
    assert reader.seconds("wait", 7.0) == seconds
    assert reader.problems == []


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("30m1h", '"30m1h" repeats or reorders its units'),
        ("1h1h", '"1h1h" repeats or reorders its units'),
        ("30", '"30" has no unit'),
        (-1, '"-1" is not a number of seconds'),
        (float("nan"), '"nan" is not a number of seconds'),
        (1e12, '"1e+12" is not a number of seconds from 0 to ten years'),
        ("600w", '"600w" is longer than ten years'),
        (True, "expected a duration"),
    ],
)
def test_options_refuse_the_durations_that_the_configuration_refuses(value: object, problem: str) -> None:
    reader = options.Reader({"wait": value})
    assert reader.seconds("wait", 7.0) == 7.0
    assert len(reader.problems) == 1 and reader.problems[0].startswith(f"wait: {problem}"), reader.problems


@pytest.mark.parametrize(
    ("value", "size"), [(1024, 1024), ("16GiB", 2**34), ("100KB", 100_000), ("1.5 GiB", 3 * 2**29), (0, 0), ("0", 0)]
)
def test_sizes_are_bytes_or_carry_a_unit(value: object, size: int) -> None:
    reader = options.Reader({"disk": value})
    assert reader.size("disk", 7) == size
    assert reader.problems == []


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("16G", '"G" is not a unit of size; write 16GB'),
        ("100", '"100" has no unit'),
        (-1, '"-1" is not a number of bytes'),
        (2**51, '"2251799813685248" is not a number of bytes from 0 to a pebibyte'),
        (1.5, '"1.5" has no unit'),
        (False, "expected a size"),
    ],
)
def test_options_refuse_the_sizes_that_the_configuration_refuses(value: object, problem: str) -> None:
    reader = options.Reader({"disk": value})
    assert reader.size("disk", 7) == 7
    assert len(reader.problems) == 1 and reader.problems[0].startswith(f"disk: {problem}"), reader.problems


@pytest.mark.parametrize(
    ("shape", "fits"),
    [
        pytest.param(base.Shape("t4", 1), True, id="exactly"),
        pytest.param(base.Shape("t4"), True, id="one gpu is meant where no count is given"),
        pytest.param(base.Shape("t4", 2), False, id="too few gpus"),
        pytest.param(base.Shape("a100-40", 1), False, id="another model"),
        pytest.param(base.Shape(), False, id="a gpu is not wasted on a job without need"),
        pytest.param(base.Shape(types=("m",)), True, id="unless the type is named"),
        pytest.param(base.Shape("t4", 1, types=("n",)), False, id="another type is named"),
        pytest.param(base.Shape("t4", 1, cpus=5), False, id="too few cpus"),
        pytest.param(base.Shape("t4", 1, memory=11), False, id="too little memory"),
        pytest.param(base.Shape("t4", 1, arch="arm64"), False, id="another architecture"),
    ],
)
def test_a_machine_type_fits_a_shape_or_not(shape: base.Shape, fits: bool) -> None:
    assert listed_types.MachineType("m", "t4", 1, cpus=4, memory=10).fits(shape) is fits
