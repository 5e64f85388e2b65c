"""Names of TPU slices: known ones are parsed, and unknown ones are refused with the nearest known name."""

import pytest

from msm_jax.errors import InputError
from msm_jax.planning import topology
from msm_jax.planning.chips import TPUS, of_kind


@pytest.mark.parametrize(
    ("name", "chips", "rings"),
    [
        ("v5e:1x1", 1, (False, False)),
        ("v5e:8x8", 64, (False, False)),
        ("v5e:8x16", 128, (False, True)),
        ("v6e:16x16", 256, (True, True)),
        ("v5p:2x4x4", 32, (False,) * 3),
        ("v5p:4x4x4", 64, (True,) * 3),
        ("v4:2x2x1", 4, (False,) * 3),
        ("v4:4x8x8", 256, (True,) * 3),
    ],
)
def test_a_slice_has_its_chips_and_rings(name, chips, rings):
    found = topology.parse(name)
    assert (found.name, found.chips, found.rings) == (name, chips, rings)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("v5e:64", "v5e:8x8"),
        ("v5e-64", "v5e:8x8"),
        ("v6e-32", "v6e:4x8"),
        ("v5litepod:8x8", "v5e:8x8"),
        ("V5E:8x8", "v5e:8x8"),
        ("v5e:8x4", "v5e:4x8"),
        ("v5e:3x3", "v5e:2x4"),
        ("v5e:32x32", "v5e:16x16"),
        ("v5e:8x8x1", "v5e:8x8"),
        ("v5p:4x4x2", "v5p:2x4x4"),
        ("v5p-128", "v5p:4x4x4"),
        ("v5p:5x5x5", "v5p:4x4x8"),
        ("v4:0x0x0", "v4:2x2x1"),
        ("v5e:", "v5e:1x1"),
    ],
)
def test_a_slice_that_is_not_there_is_refused_with_the_nearest(name, nearest):
    with pytest.raises(InputError, match=f"the nearest is {nearest} of"):
        topology.parse(name)
    assert topology.parse(nearest).name == nearest


@pytest.mark.parametrize("name", ["v7x:2x2x2", "h100:8", "8x8", ""])
def test_an_unknown_chip_is_refused_with_those_that_are_known(name):
    with pytest.raises(InputError, match="use one of v4, v5e, v5p, v6e"):
        topology.parse(name)


def test_a_chip_is_known_by_what_jax_calls_it():
    assert {name: of_kind(chip.kind) for name, chip in TPUS.items()} == TPUS
    assert of_kind("NVIDIA H100 80GB HBM3").name == "H100"
    assert of_kind("cpu") is None
