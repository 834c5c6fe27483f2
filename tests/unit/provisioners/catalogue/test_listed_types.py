from __future__ import annotations

import dataclasses

import pytest

from provisioners import base
from provisioners.catalogue import listed_types

KNOWN = [
    listed_types.MachineType("small", "t4", 1, cpus=4, memory=16),
    listed_types.MachineType("big", "t4", 4, cpus=48, memory=192),
    listed_types.MachineType("cpu", cpus=4, memory=16),
]


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        pytest.param(base.Shape("t4", 1), "", id="one fits"),
        pytest.param(base.Shape("t5", 1), 'no GPU "t5"', id="an unknown GPU"),
        pytest.param(base.Shape("t4", 3), "no machine with 3 x t4; there are 1, 4", id="a count that no type has"),
        pytest.param(
            base.Shape(types=("smal",)), 'no machine type "smal"; did you mean "small"?', id="a misspelt type"
        ),
        pytest.param(base.Shape("t4", 1, cpus=64), "the vCPUs", id="more than any has"),
    ],
)
def test_why_nothing_fits_names_what_there_is(shape: base.Shape, words: str) -> None:
    said = listed_types.why_none(KNOWN, shape)
    assert words in said and bool(said) is bool(words)
    assert bool(said) is not any(one.fits(shape) for one in KNOWN)


def test_words_and_offers_agree_for_every_shape_around_the_known_ones() -> None:
    for gpu in ("", "t4", "l4"):
        for count in range(6):
            for arch in ("x86_64", "arm64"):
                shape = base.Shape(gpu, count, arch=arch)
                for one in (shape, dataclasses.replace(shape, types=("big",))):
                    assert bool(listed_types.why_none(KNOWN, one)) is not any(each.fits(one) for each in KNOWN)
