"""HD95 under three definitions and the surface Dice: MONAI's, medpy's, DeepMind's and golden values, on any masks."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from monai.metrics import compute_hausdorff_distance, compute_surface_dice
from monai.metrics.utils import get_code_to_measure_table, get_edge_surface_distance
from scipy import ndimage

from mtg_lab.errors import InputError
from mtg_lab.surface_metrics import DISTANCE_RULES, SurfacePair, diagonal, empty_distance, hd95, nsd, surface_voxels

# --- plain references: the whole distance transform, no cropping, no bounds -------------------------------------------


def edges(mask):
    return mask ^ ndimage.binary_erosion(mask, ndimage.generate_binary_structure(3, 1))


def directed(here, there, spacing):
    return ndimage.distance_transform_edt(~there, sampling=spacing)[here]


def plain_pooled(predicted, truth, spacing):
    """medpy's algorithm, from its description: both directed sets of the edges' distances, 95th percentile."""
    p, t = edges(predicted), edges(truth)
    return np.percentile(np.hstack([directed(p, t, spacing), directed(t, p, spacing)]), 95)


def plain_directed(predicted, truth, spacing):
    p, t = edges(predicted), edges(truth)
    return max(np.percentile(directed(p, t, spacing), 95), np.percentile(directed(t, p, spacing), 95))


def corners(mask, spacing):
    """Areas at the corners between voxels, by correlation with the powers of two that the table is indexed by."""
    table, kernel = get_code_to_measure_table(spacing)
    volume = torch.from_numpy(np.pad(mask, 1)).float()[None, None]
    codes = torch.nn.functional.conv3d(volume, kernel.float().reshape(1, 1, 2, 2, 2))[0, 0].long().numpy()
    return (codes > 0) & (codes < 255), np.asarray(table, dtype=float)[codes]


def plain_weighted(predicted, truth, spacing):
    """DeepMind's algorithm, from its description: directed percentiles by area, the larger."""
    (p, areas_p), (t, areas_t) = corners(predicted, spacing), corners(truth, spacing)
    found = []
    for here, there, areas in ((p, t, areas_p), (t, p, areas_t)):
        distances, weights = directed(here, there, spacing), areas[here]
        order = np.argsort(distances)
        shares = np.cumsum(weights[order]) / weights.sum()
        found.append(distances[order][min(np.searchsorted(shares, 0.95 - 1e-9), len(order) - 1)])
    return max(found)


PLAIN = {"pooled": plain_pooled, "max_of_directed": plain_directed, "surface_weighted": plain_weighted}
SPACINGS = ((1.0, 1.0, 1.0), (2.0, 2.0, 2.0), (1.0, 1.0, 3.0), (0.7, 1.3, 5.0))


def block(shape, *ranges):
    mask = np.zeros(shape, dtype=bool)
    mask[tuple(slice(a, b) for a, b in ranges)] = True
    return mask


def smooth(seed, shape, share, sigma):
    """Round lumps that fill a share of the volume; they touch its border as they like."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(shape), sigma)
    return noise > np.quantile(noise, 1 - share)


@st.composite
def mask_pairs(draw):
    """Salt, one voxel, blocks and lumps, in any combination, near and far, none of them empty."""
    shape = tuple(draw(st.integers(2, 14)) for _ in range(3))
    kinds = st.sampled_from(["salt", "voxel", "block", "lumps", "full"])

    def one():
        kind, seed = draw(kinds), draw(st.integers(0, 10**6))
        rng = np.random.default_rng(seed)
        mask = np.zeros(shape, dtype=bool)
        if kind == "salt":
            mask = rng.random(shape) < draw(st.sampled_from([0.01, 0.1, 0.5]))
        elif kind == "block":
            ends = [sorted(rng.integers(0, n + 1, 2)) for n in shape]
            mask[tuple(slice(a, max(b, a + 1)) for a, b in ends)] = True
        elif kind == "lumps":
            mask = smooth(seed, shape, 0.2, 1.5)
        elif kind == "full":
            mask[:] = True
        if not mask.any():
            mask[tuple(rng.integers(0, n) for n in shape)] = True
        return mask

    return one(), one()


# --- equality ---------------------------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(mask_pairs(), st.sampled_from(SPACINGS), st.sampled_from(sorted(PLAIN)))
@example(
    (block((3, 3, 40), (0, 1), (0, 1), (0, 1)), block((3, 3, 40), (2, 3), (2, 3), (39, 40))), SPACINGS[2], "pooled"
)
@example((block((30, 9, 9), (0, 30), (0, 9), (0, 9)), block((30, 9, 9), (0, 1), (4, 5), (4, 5))), SPACINGS[3], "pooled")
def test_hd95_is_that_of_the_whole_distance_transform(pair, spacing, definition):
    assert hd95(*pair, spacing, definition) == pytest.approx(PLAIN[definition](*pair, spacing), rel=1e-9, abs=1e-9)


@settings(max_examples=40)
@given(mask_pairs(), st.sampled_from(SPACINGS))
def test_hd95_is_monais(pair, spacing):
    p, t = (torch.from_numpy(m)[None, None] for m in pair)
    reference = compute_hausdorff_distance(p, t, include_background=True, percentile=95, spacing=spacing)
    assert hd95(*pair, spacing) == pytest.approx(float(reference), rel=1e-5)


@settings(max_examples=40)
@given(mask_pairs(), st.sampled_from(SPACINGS), st.sampled_from([0.0, 1.0, 2.0, 4.5]), st.booleans())
def test_nsd_is_monais(pair, spacing, tolerance, by_area):
    p, t = (torch.from_numpy(m)[None, None] for m in pair)
    reference = compute_surface_dice(
        p, t, [tolerance + 1e-5], include_background=True, spacing=spacing, use_subvoxels=by_area
    )  # MONAI compares in float32: a distance that equals the tolerance must not fall beyond it there
    found = nsd(*pair, spacing, tolerance, "surface_weighted" if by_area else "voxels")
    assert found == pytest.approx(float(reference), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("definition", sorted(PLAIN))
@pytest.mark.parametrize("seeds", [(0, 1), (2, 3), (4, 5)])
def test_large_masks_far_apart_are_answered_exactly(definition, seeds):
    """Where bounds matter: thousands of points, distances far beyond what is read off the grid."""
    shape, spacing = (60, 50, 70), (1.0, 1.2, 1.5)
    truth = smooth(seeds[0], shape, 0.1, 5)
    predicted = smooth(seeds[1], shape, 0.05, 6)
    predicted[:, :, 35:] = False
    assert hd95(predicted, truth, spacing, definition) == pytest.approx(
        PLAIN[definition](predicted, truth, spacing), rel=1e-12
    )


def test_one_pair_answers_all_questions_in_any_order():
    """Distances that one question made exact serve the next; none of them changes an answer."""
    predicted, truth = smooth(0, (40, 40, 40), 0.1, 4), smooth(1, (40, 40, 40), 0.1, 4)
    pair = SurfacePair(predicted, truth)
    first = [pair.nsd(3), pair.hd95("pooled"), pair.hd95("max_of_directed"), pair.hd95("surface_weighted"), pair.nsd(1)]
    again = [pair.nsd(3), pair.hd95("pooled"), pair.hd95("max_of_directed"), pair.hd95("surface_weighted"), pair.nsd(1)]
    alone = [nsd(predicted, truth, tolerance_mm=3), *(hd95(predicted, truth, definition=d) for d in
             ("pooled", "max_of_directed", "surface_weighted")), nsd(predicted, truth, tolerance_mm=1)]  # fmt: skip
    assert first == again == alone


@settings(max_examples=40)
@given(mask_pairs(), st.sampled_from(SPACINGS), st.sampled_from(sorted(PLAIN)))
def test_hd95_knows_no_direction_and_no_position(pair, spacing, definition):
    predicted, truth = pair
    found = hd95(predicted, truth, spacing, definition)
    assert hd95(truth, predicted, spacing, definition) == pytest.approx(found)
    moved = [np.pad(m, ((3, 0), (0, 2), (1, 5))) for m in pair]
    assert hd95(*moved, spacing, definition) == pytest.approx(found)
    assert hd95(truth, truth, spacing, definition) == 0
    assert hd95(*pair, [2 * s for s in spacing], definition) == pytest.approx(2 * found)


@settings(max_examples=40)
@given(mask_pairs())
def test_the_surface_is_what_erosion_takes_away(pair):
    for mask in pair:
        np.testing.assert_array_equal(surface_voxels(mask), edges(mask))


def test_areas_are_those_of_monais_edges():
    """A block of 4 x 5 x 6 voxels of 1 x 2 x 3 mm: corners and areas as MONAI finds them."""
    mask, spacing = block((9, 9, 9), (2, 6), (2, 7), (2, 8)), (1.0, 2.0, 3.0)
    tensor = torch.from_numpy(mask)
    (found, _), _, (areas, _) = get_edge_surface_distance(tensor, tensor, spacing=spacing, use_subvoxels=True)
    mine, my_areas = corners(mask, spacing)
    assert int(mine.sum()) == int(found.sum())
    assert my_areas[mine].sum() == pytest.approx(float(areas[found].sum()))


# --- worked by hand ---------------------------------------------------------------------------------------------------


def test_two_voxels_are_as_far_apart_as_their_centres():
    a, b = block((9, 9, 9), (0, 1), (0, 1), (0, 1)), block((9, 9, 9), (2, 3), (3, 4), (6, 7))
    assert hd95(a, b) == pytest.approx(7)
    assert hd95(a, b, (1.0, 2.0, 3.0)) == pytest.approx(math.sqrt(4 + 36 + 324))
    assert (nsd(a, b, tolerance_mm=6.9), nsd(a, b, tolerance_mm=7)) == (0, 1)


def test_definitions_differ_on_one_pair():
    """A rod of 30 slabs, whose first two are predicted.

    Its surface has 2 x 25 + 28 x 16 = 498 voxels, slab x lies x - 1 from the prediction. Directed, the percentile is
    number 0.95 x 497 = 472.15 of them, between the last of slab 28 (number 472, 27 mm) and the end (28 mm). The
    prediction's own 50 voxels, at 0, move the pooled one to number 0.95 x 547 - 50 = 469.65, inside slab 28.
    """
    truth, predicted = block((30, 5, 5), (0, 30), (0, 5), (0, 5)), block((30, 5, 5), (0, 2), (0, 5), (0, 5))
    assert hd95(predicted, truth) == pytest.approx(27.15)
    assert hd95(predicted, truth, definition="pooled") == pytest.approx(27)


# --- empty masks ------------------------------------------------------------------------------------------------------

NOTHING, SOMETHING = np.zeros((24, 24, 16), dtype=bool), block((24, 24, 16), (3, 6), (3, 6), (3, 6))
RULES = {"zero": 0.0, "one": 1.0, "diagonal": math.sqrt(24**2 + 24**2 + 32**2), "374": 374.0, "nan": math.nan}


@pytest.mark.parametrize("rule", DISTANCE_RULES)
@pytest.mark.parametrize("definition", sorted(PLAIN))
def test_every_rule_says_what_an_empty_mask_costs(rule, definition):
    for pair in ((NOTHING, SOMETHING), (SOMETHING, NOTHING)):
        assert hd95(*pair, (1.0, 1.0, 2.0), definition, rule) == pytest.approx(RULES[rule], nan_ok=True)
    both = hd95(NOTHING, NOTHING, definition=definition, empty=rule)
    assert both == pytest.approx(math.nan if rule == "nan" else 0.0, nan_ok=True)


def test_the_diagonal_of_brats_is_373_mm():
    """373.13, as AdaMM's code has it; 393.13 in its readme is a misprint."""
    assert diagonal((240, 240, 155), (1, 1, 1)) == pytest.approx(373.1287, abs=1e-4)
    assert empty_distance("diagonal", False, diagonal((240, 240, 155), (1, 1, 1))) == pytest.approx(373.1287, abs=1e-4)


def test_surfaces_of_empty_masks_agree_only_with_each_other():
    assert (nsd(NOTHING, NOTHING), nsd(NOTHING, SOMETHING), nsd(SOMETHING, NOTHING)) == (1, 0, 0)


# --- golden -----------------------------------------------------------------------------------------------------------

GOLDEN = {"pooled_medpy": "pooled", "max_of_directed_monai": "max_of_directed",
          "surface_weighted_brats2023": "surface_weighted"}  # fmt: skip


@pytest.mark.parametrize("case", range(1, 6))
def test_three_definitions_of_golden_masks(golden, case):
    """Values of medpy, MONAI and the public metrics code of BraTS 2023 (golden/README)."""
    masks = np.load(golden / "masks.npz")
    pair = [masks[f"{kind}_{case}"] > 0 for kind in ("prediction", "truth")]
    values = json.loads((golden / "masks.json").read_text())[str(case)]["hd95_whole_tumour"]
    assert len(values) == 2
    for spacing, by_name in values.items():
        for name, expected in by_name.items():
            found = hd95(*pair, tuple(float(s) for s in spacing.strip("()").split(",")), GOLDEN[name])
            assert found == pytest.approx(expected, rel=1e-6)


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: hd95(NOTHING[1:], NOTHING), "give two volumes on one grid"),
        (lambda: hd95(NOTHING[0], NOTHING[0]), "give two volumes on one grid"),
        (lambda: hd95(NOTHING.astype(int), NOTHING), "masks are int64 and bool; give bool"),
        (lambda: hd95(SOMETHING, SOMETHING, (1, 1)), "give three positive numbers in mm"),
        (lambda: hd95(SOMETHING, SOMETHING, (1, 0, 1)), "give three positive numbers in mm"),
        (
            lambda: hd95(SOMETHING, SOMETHING, definition="medpy"),
            "unknown definition of HD95 'medpy'; there are: max_of",
        ),
        (
            lambda: hd95(NOTHING, SOMETHING, empty="393"),
            "unknown rule for HD95 of an empty mask '393'; there are: zero",
        ),
        (lambda: nsd(SOMETHING, SOMETHING, tolerance_mm=-1), "tolerance is -1 mm"),
        (lambda: nsd(SOMETHING, SOMETHING, tolerance_mm=math.nan), "tolerance is nan mm"),
        (lambda: nsd(SOMETHING, SOMETHING, definition="area"), "unknown definition of NSD 'area'"),
    ],
)
def test_what_cannot_be_measured_is_one_line(call, told):
    with pytest.raises(InputError, match=told) as refusal:
        call()
    assert "\n" not in str(refusal.value)
