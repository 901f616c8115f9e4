"""Small parts go, large ones stay, and the protocol can say which."""

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given
from scipy import ndimage

from mtg_lab.errors import InputError
from mtg_lab.postprocessing import Removal, choose_removals, classes_without_small, remove_small
from mtg_lab.vocabulary import schema

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


REGIONS = schema("brats2023").region_classes  # WT of three classes, TC of two, ET of one
(ENHANCING,) = REGIONS["ET"]
(NECROTIC,) = set(REGIONS["TC"]) - {ENHANCING}
(OEDEMA,) = set(REGIONS["WT"]) - set(REGIONS["TC"])


def likely(classes, second):
    """Probabilities [K, D, H, W] with a first and a second choice in every voxel."""
    first, other = (np.moveaxis(np.eye(4)[np.broadcast_to(c, SHAPE)], -1, 0) for c in (classes, second))
    return torch.from_numpy(0.6 * first + 0.3 * other + 0.025)


@pytest.mark.parametrize("second", [0, NECROTIC, OEDEMA])
def test_what_a_region_loses_stays_in_the_region_around_it(second):
    """An enhancing speck becomes core whatever came second; a speck of core oedema; a speck of tumour nothing."""
    volume = np.where(LARGE | SMALL, ENHANCING, 0)
    for text, left in (("ET:28", NECROTIC), ("TC:28", OEDEMA), ("WT:28", 0)):
        found = classes_without_small(likely(volume, second), REGIONS, [Removal.parse(text)], 1)
        np.testing.assert_array_equal(found, np.where(LARGE, ENHANCING, np.where(SMALL, left, 0)))


def test_the_likelier_of_several_classes_is_taken():
    regions = {"around": (1, 2, 3), "inner": (1,)}
    volume = np.where(LARGE | SMALL, 1, 0)
    for second in (2, 3):
        found = classes_without_small(likely(volume, second), regions, [Removal("inner", 28)], 1)
        assert set(found[SMALL]) == {second}
    alone = classes_without_small(likely(volume, 3), {"inner": (1,)}, [Removal("inner", 28)], 1)
    assert set(alone[SMALL]) == {3}, "without a region around it: the likeliest of all others"


@given(st.integers(0, 2**32 - 1), st.permutations([("WT", 8), ("TC", 30), ("ET", 12)]), st.integers(1, 3))
def test_nothing_below_its_size_is_left_in_nested_regions(seed, sizes, count):
    noise = torch.from_numpy(np.random.default_rng(seed).normal(size=(4, 10, 9, 8)))
    noise[0] += 0.7
    probabilities = noise.softmax(dim=0)
    removals = [Removal(region, size) for region, size in sizes[:count]]
    found = classes_without_small(probabilities, REGIONS, removals, 1)
    for removal in removals:
        parts, _ = ndimage.label(np.isin(found, REGIONS[removal.region]), np.ones((3, 3, 3)))
        assert (np.bincount(parts.ravel())[1:] >= removal.smallest_mm3).all(), removal
    plain = probabilities.max(dim=0).indices.numpy()
    for classes in REGIONS.values():
        assert not (np.isin(found, classes) & ~np.isin(plain, classes)).any(), "no region grows"
    np.testing.assert_array_equal(classes_without_small(probabilities, REGIONS, [], 1), plain)


def test_one_size_for_all_regions_gives_the_masks_that_are_scored():
    """``evaluate`` removes from each region by itself; with one size both ways agree."""
    noise = torch.from_numpy(np.random.default_rng(3).normal(size=(4, 12, 12, 12))) * 2
    plain = noise.max(dim=0).indices.numpy()
    removals = choose_removals(["WT:9", "TC:9", "ET:9"], tuple(REGIONS))
    found = classes_without_small(noise.softmax(dim=0), REGIONS, removals, 1)
    assert (found != plain).any()
    for removal in removals:
        members = REGIONS[removal.region]
        np.testing.assert_array_equal(np.isin(found, members), removal.apply(np.isin(plain, members), 1))


def test_a_removal_of_no_region_or_of_one_twice_is_one_line():
    with pytest.raises(InputError, match="unknown region to remove from 'lesion'; there are: WT, TC, ET"):
        choose_removals(["lesion:5"], tuple(REGIONS))
    with pytest.raises(InputError, match="give one removal a region"):
        choose_removals(["ET:5", "ET:6"], tuple(REGIONS))
