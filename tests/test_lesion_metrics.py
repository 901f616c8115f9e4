"""Lesion-wise scores: cases worked out by hand, golden values of BraTS 2023."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from mtg_lab.errors import InputError
from mtg_lab.lesion_metrics import LESION_RULES, LesionRule, lesion_scores
from mtg_lab.surface_metrics import hd95

SHAPE = (40, 24, 24)


def cubes(*corners, edge=4, shape=SHAPE):
    mask = np.zeros(shape, dtype=bool)
    for corner in corners:
        mask[tuple(slice(c, c + edge) for c in corner)] = True
    return mask


def summary(predicted, truth, kind="GLI", spacing=(1.0, 1.0, 1.0)):
    s = lesion_scores(predicted, truth, spacing, kind)
    return s.dice, s.hd95_mm, s.found, s.missed, s.invented


# --- worked by hand: cubes of 4^3 = 64 voxels, above the 50 that GLI leaves out --------------------------------------


def test_two_lesions_found_as_they_are():
    truth = cubes((4, 4, 4), (28, 4, 4))
    assert summary(truth, truth) == (1, 0, 2, 0, 0)


def test_a_missed_lesion_counts_0_and_374():
    truth = cubes((4, 4, 4), (28, 4, 4))
    assert summary(cubes((4, 4, 4)), truth) == (0.5, 187, 1, 1, 0)


def test_an_invented_lesion_counts_like_a_missed_one():
    assert summary(cubes((4, 4, 4), (28, 4, 4)), cubes((4, 4, 4))) == (0.5, 187, 1, 0, 1)
    assert summary(cubes((4, 4, 4)), np.zeros(SHAPE, bool)) == (0, 374, 0, 0, 1)


def test_an_invented_lesion_counts_however_small_it_is():
    predicted = cubes((4, 4, 4))
    predicted[30, 20, 20] = True
    assert summary(predicted, cubes((4, 4, 4))) == (0.5, 187, 1, 0, 1)


def test_nothing_to_find_and_nothing_found_is_perfect():
    nothing = np.zeros(SHAPE, bool)
    assert summary(nothing, nothing) == (1, 0, 0, 0, 0)
    assert summary(nothing, cubes((4, 4, 4))) == (0, 374, 0, 1, 0)


def test_a_lesion_shifted_by_one_voxel():
    """48 of 64 voxels shared: Dice 2 x 48 / 128; the surface is one voxel away on the two sides."""
    assert summary(cubes((5, 4, 4)), cubes((4, 4, 4))) == (0.75, 1, 1, 0, 0)
    assert summary(cubes((5, 4, 4)), cubes((4, 4, 4)), spacing=(2.0, 1.0, 1.0))[1] == 2, "mm, not voxels"


def test_parts_that_dilation_joins_are_one_lesion():
    """Gaps of 4 voxels close where both sides grow by 3, and stay open where they grow by 1."""
    truth, found = cubes((4, 4, 4), (12, 4, 4)), cubes((4, 4, 4))
    assert summary(found, truth, "GLI")[2:] == (1, 0, 0)
    assert summary(found, truth, "GLI")[0] == pytest.approx(2 * 64 / (64 + 128))
    assert summary(found, truth, "MET") == (0.5, 187, 1, 1, 0)


def test_a_component_near_a_lesion_belongs_to_it():
    """Two voxels beside the lesion, a component of 8 voxels: touched after three dilations, invented after one."""
    truth, predicted = cubes((4, 4, 4)), cubes((4, 4, 4)) | cubes((10, 4, 4), edge=2)
    assert summary(predicted, truth, "GLI")[0] == pytest.approx(2 * 64 / (64 + 72))
    assert summary(predicted, truth, "GLI")[2:] == (1, 0, 0)
    assert summary(predicted, truth, "MET")[2:] == (1, 0, 1)


def test_small_lesions_are_left_out_and_what_finds_them_is_not_invented():
    small = cubes((28, 4, 4), edge=3)  # 27 voxels
    truth = cubes((4, 4, 4)) | small
    assert summary(truth, truth, "GLI") == (1, 0, 1, 0, 0)
    assert summary(cubes((4, 4, 4)), truth, "GLI") == (1, 0, 1, 0, 0)
    assert summary(cubes((4, 4, 4)), truth, "MET") == (0.5, 187, 1, 1, 0)
    assert summary(small, small, "GLI") == (1, 0, 0, 0, 0), "nothing counts, nothing is invented"


def test_a_lesion_of_exactly_the_smallest_size_is_left_out():
    pair = np.zeros(SHAPE, bool)
    pair[4, 4, 4:6] = True
    assert summary(np.zeros(SHAPE, bool), pair, "MET") == (1, 0, 0, 0, 0)
    pair[4, 4, 6] = True
    assert summary(np.zeros(SHAPE, bool), pair, "MET") == (0, 374, 0, 1, 0)


def test_a_bridge_serves_both_lesions():
    """One predicted rod over two lesions is compared with each of them, and is no third one."""
    truth, rod = cubes((4, 4, 4), (20, 4, 4)), np.zeros(SHAPE, bool)
    rod[4:24, 4:8, 4:8] = True
    assert summary(rod, truth)[0] == pytest.approx(2 * 64 / (64 + 320))
    assert summary(rod, truth)[2:] == (2, 0, 0)


def test_components_hold_together_at_corners():
    predicted = np.zeros(SHAPE, bool)
    predicted[[30, 31], [10, 11], [10, 11]] = True
    assert summary(predicted, np.zeros(SHAPE, bool))[4] == 1


@settings(max_examples=30)
@given(st.integers(0, 10**6), st.sampled_from(sorted(LESION_RULES)))
def test_the_border_of_the_volume_changes_nothing(seed, kind):
    """Masks that are cut off by the border, and the same masks with room around them."""
    pair = [
        ndimage.gaussian_filter(np.random.default_rng(seed + k).standard_normal((20, 18, 16)), 1.5) > 0.1
        for k in (0, 1)
    ]
    found = summary(*pair, kind)
    assert summary(*(np.pad(m, 6) for m in pair), kind) == pytest.approx(found)
    assert 0 <= found[0] <= 1
    assert 0 <= found[1] <= 374


def test_one_lesion_and_one_component_are_the_whole_image():
    """Then lesion-wise Dice and HD95 are those of the image."""
    truth, predicted = cubes((4, 4, 4), edge=8), cubes((6, 5, 4), edge=7)
    dice = 2 * (truth & predicted).sum() / (truth.sum() + predicted.sum())
    found = lesion_scores(predicted, truth)
    assert found.dice == pytest.approx(dice)
    assert found.hd95_mm == pytest.approx(hd95(predicted, truth, definition="surface_weighted"))


def test_rules_are_those_that_the_challenge_published():
    """Synapse syn51156910, discussion 10357: 3 dilations for GLI, SSA, PED, else 1; 50 voxels, for MET 2."""
    assert {k: (r.dilation, r.smallest) for k, r in LESION_RULES.items()} == {
        "GLI": (3, 50), "SSA": (3, 50), "PED": (3, 50), "MEN": (1, 50), "MET": (1, 2),
    }  # fmt: skip


def test_rules_keep_their_lengths_and_volumes_on_another_grid():
    assert LESION_RULES["GLI"].on_grid(1.0) == LESION_RULES["GLI"]
    assert LESION_RULES["GLI"].on_grid(2.0) == LesionRule(2, 6.25), "1.5 voxels are rounded to 2"
    assert LESION_RULES["MET"].on_grid(4.0).dilation == 1


# --- golden -----------------------------------------------------------------------------------------------------------

REGIONS = {"WT": (1, 2, 3), "TC": (1, 3), "ET": (3,)}


@pytest.mark.parametrize("case", range(1, 7))
@pytest.mark.parametrize("kind", ["GLI", "MET"])
@pytest.mark.parametrize("region", REGIONS)
def test_lesion_wise_scores_of_brats_2023(golden, case, kind, region):
    """The public metrics code of the challenge, run as it is (golden/README)."""
    masks = np.load(golden / "masks.npz")
    stored = json.loads((golden / "masks.json").read_text())[str(case)]["lesion_wise"][f"BraTS-{kind}"][region]
    predicted, truth = (np.isin(masks[f"{who}_{case}"], REGIONS[region]) for who in ("prediction", "truth"))
    found = lesion_scores(predicted, truth, kind=kind)
    assert found.dice == pytest.approx(stored["LesionWise_Score_Dice"], rel=1e-9)
    assert found.hd95_mm == pytest.approx(stored["LesionWise_Score_HD95"], rel=1e-9)
    counts = [stored[f"Num_{k}"] for k in ("TP", "FN", "FP")]
    assert [found.found, found.missed, found.invented] == counts
    whole = hd95(predicted, truth, definition="surface_weighted", empty="374")
    assert whole == pytest.approx(stored["Legacy_HD95"], rel=1e-9)


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda m: lesion_scores(m, m, kind="GOAT"), "unknown kind of lesion-wise scores 'GOAT'; there are: GLI, SSA"),
        (lambda m: lesion_scores(m[1:], m), "give two volumes on one grid"),
        (lambda m: lesion_scores(m.astype(int), m), "give bool"),
    ],
)
def test_what_cannot_be_scored_is_one_line(call, told):
    with pytest.raises(InputError, match=told) as refusal:
        call(cubes((4, 4, 4)))
    assert "\n" not in str(refusal.value)
