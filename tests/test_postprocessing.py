"""Small parts go, large ones stay, and the protocol can say which."""

import numpy as np
import pytest

from mtg_lab.errors import InputError
from mtg_lab.postprocessing import Removal, remove_small

SHAPE = (40, 24, 24)


def cube(corner, edge):
    mask = np.zeros(SHAPE, dtype=bool)
    mask[tuple(slice(c, c + edge) for c in corner)] = True
    return mask


LARGE, SMALL = cube((4, 4, 4), 4), cube((28, 4, 4), 3)  # 64 and 27 voxels
NOTHING = np.zeros(SHAPE, bool)


@pytest.mark.parametrize(
    ("smallest", "kept"), [(27, LARGE | SMALL), (28, LARGE), (64, LARGE), (65, NOTHING), (0.5, LARGE | SMALL)]
)
def test_small_components_go_and_large_ones_stay(smallest, kept):
    np.testing.assert_array_equal(remove_small(LARGE | SMALL, smallest), kept)
    assert not remove_small(NOTHING, smallest).any()


def test_components_hold_together_at_corners():
    pair = NOTHING.copy()
    pair[[30, 31], [10, 11], [10, 11]] = True
    np.testing.assert_array_equal(remove_small(pair, 2), pair)


def test_a_region_goes_as_a_whole():
    """RFNet's habit: 91 voxels in two parts stay or go together."""
    both = LARGE | SMALL
    np.testing.assert_array_equal(remove_small(both, 91, "region"), both)
    assert not remove_small(both, 92, "region").any()


def test_a_size_in_mm3_means_the_same_on_every_grid():
    """On 2 mm voxels, of 8 mm3 each, 27 voxels are 216 mm3."""
    np.testing.assert_array_equal(Removal("ET", 216).apply(LARGE | SMALL, 8), LARGE | SMALL)
    np.testing.assert_array_equal(Removal("ET", 217).apply(LARGE | SMALL, 8), LARGE)
    np.testing.assert_array_equal(Removal("ET", 28).apply(LARGE | SMALL, 1), LARGE)


def test_removals_are_read_and_told():
    assert Removal.parse("ET:500") == Removal("ET", 500.0, "components")
    assert Removal.parse("ET:62.5:region") == Removal("ET", 62.5, "region")
    assert Removal("ET", 500).name == "ETpp"
    assert str(Removal("ET", 500)) == "ETpp = ET without its components below 500 mm3"
    assert str(Removal("ET", 500, "region")) == "ETpp = ET, empty where all of it is below 500 mm3"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("ET", "cannot read the removal 'ET'; write REGION:MM3 as in ET:500"),
        ("ET:many", "cannot read the removal 'ET:many'"),
        ("ET:0", "below 0.0 mm3; give a positive number"),
        ("ET:nan", "below nan mm3"),
        ("ET:500:all", "unknown way of removing 'all'; there are: components, region"),
    ],
)
def test_what_is_no_removal_is_one_line(text, told):
    with pytest.raises(InputError, match=told):
        Removal.parse(text)
