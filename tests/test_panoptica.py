"""The same scores as panoptica, on masks that its stored values were made from."""

import json

import numpy as np
import pytest
from scipy import ndimage

from mtg_lab.lesion_metrics import LesionRule, lesion_scores
from mtg_lab.metrics import overlap_scores
from mtg_lab.surface_metrics import hd95
from tests.golden.panoptica_values import STORED, cases

VALUES = json.loads(STORED.read_text())["values"]
every_case = pytest.mark.parametrize(
    ("predicted", "truth", "spacing", "expected"),
    [(p, t, s, VALUES[f"{name} {s}"]) for name, p, t, s in cases()],
    ids=VALUES.keys(),
)
# panoptica joins by overlap, without a dilation, and leaves no lesion out; our cases keep lesions apart by more voxels.
AS_PANOPTICA = LesionRule(dilation=1, smallest=0)


@every_case
def test_overlap_of_the_whole_masks(predicted, truth, spacing, expected):
    found = overlap_scores(predicted, truth)
    assert found["dice"] == pytest.approx(expected["dice"], abs=1e-12)
    assert found["iou"] == pytest.approx(expected["iou"], abs=1e-12)


@every_case
def test_hd95_of_the_whole_masks(predicted, truth, spacing, expected):
    assert hd95(predicted, truth, (1, 1, 1), "pooled") == pytest.approx(expected["hd95_voxels"], abs=1e-9)


@every_case
def test_lesions_are_counted_and_scored_alike(predicted, truth, spacing, expected):
    found = lesion_scores(predicted, truth, spacing, AS_PANOPTICA)
    assert (found.found, found.missed, found.invented) == (expected["tp"], expected["fn"], expected["fp"])
    everything = found.found + found.missed + found.invented
    assert found.dice * everything == pytest.approx(expected["lesion_dice"] * expected["tp"], abs=1e-9)


@every_case
def test_hd95_of_a_lesion_is_in_mm(predicted, truth, spacing, expected):
    numbered, count = ndimage.label(predicted | truth, np.ones((3, 3, 3)))
    pairs = [(predicted & (numbered == n), truth & (numbered == n)) for n in range(1, count + 1)]
    found = [hd95(p, t, spacing, "pooled") for p, t in pairs if p.any() and t.any()]
    assert np.mean(found) == pytest.approx(expected["lesion_hd95_mm"], abs=1e-9)
