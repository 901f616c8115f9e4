"""Scores by name: overlap and volume worked by hand and against MONAI and scikit-learn, settings, empty masks."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.metrics import compute_confusion_matrix_metric, compute_dice, compute_iou, get_confusion_matrix
from sklearn.metrics import f1_score, jaccard_score, precision_score, recall_score

from mtg_lab.calibration_metrics import brier, expected_calibration_error
from mtg_lab.errors import InputError
from mtg_lab.lesion_metrics import LesionRule, lesion_scores
from mtg_lab.metrics import (
    CALIBRATION,
    LESIONS,
    METRICS,
    OVERLAPS,
    MetricSettings,
    choose_metrics,
    overlap_scores,
    region_scores,
    volume_errors,
)
from mtg_lab.surface_metrics import hd95, nsd

NOTHING = np.zeros((6, 6, 6), dtype=bool)
CUBE = NOTHING.copy()
CUBE[1:4, 1:4, 1:4] = True


def salt(seed, share=0.3, shape=(6, 7, 8)):
    mask = np.random.default_rng(seed).random(shape) < share
    mask[0, 0, 0] = True
    return mask


def test_overlap_by_hand():
    """Three voxels are predicted, four are there, two shared."""
    predicted, truth = np.array([1, 1, 1, 0, 0], bool), np.array([0, 1, 1, 1, 1], bool)
    assert overlap_scores(predicted, truth) == pytest.approx(
        {"dice": 4 / 7, "iou": 2 / 5, "sensitivity": 2 / 4, "precision": 2 / 3}
    )


@settings(max_examples=40)
@given(st.integers(0, 10**6), st.sampled_from([0.01, 0.3, 0.9]), st.sampled_from([0.01, 0.3, 0.9]))
def test_overlap_is_that_of_scikit_learn_and_monai(seed, a, b):
    predicted, truth = salt(seed, a), salt(seed + 1, b)
    found = overlap_scores(predicted, truth)
    flat = truth.ravel(), predicted.ravel()
    reference = [f(*flat) for f in (f1_score, jaccard_score, recall_score, precision_score)]
    assert list(found.values()) == pytest.approx(reference)
    p, t = (torch.from_numpy(m)[None, None].float() for m in (predicted, truth))
    confusion = get_confusion_matrix(p, t)
    monai = [compute_dice(p, t), compute_iou(p, t),
             *(compute_confusion_matrix_metric(name, confusion) for name in ("sensitivity", "precision"))]  # fmt: skip
    assert list(found.values()) == pytest.approx([float(v) for v in monai], rel=1e-5)


@pytest.mark.parametrize(
    ("predicted", "truth", "empty", "expected"),
    [
        (NOTHING, NOTHING, "one", 1), (CUBE, NOTHING, "one", 0), (NOTHING, CUBE, "one", 0),
        (NOTHING, NOTHING, "nan", math.nan), (CUBE, NOTHING, "nan", math.nan), (NOTHING, CUBE, "nan", 0),
    ],
)  # fmt: skip
def test_overlap_and_nsd_of_empty_masks(predicted, truth, empty, expected):
    found = region_scores(predicted, truth, metrics=(*OVERLAPS, "nsd"), empty=empty)
    assert list(found.values()) == pytest.approx([expected] * 5, nan_ok=True)


def test_volumes_by_hand():
    """27 voxels of 2 x 2 x 2.5 mm are 0.27 ml."""
    spacing = (2.0, 2.0, 2.5)
    assert list(volume_errors(NOTHING, CUBE, spacing).values()) == pytest.approx([-0.27, 0.27, -1])
    larger = np.ones_like(CUBE)
    assert list(volume_errors(larger, CUBE, spacing).values()) == pytest.approx([1.89, 1.89, 7])
    assert list(volume_errors(CUBE, NOTHING, spacing).values()) == pytest.approx([0.27, 0.27, math.nan], nan_ok=True)


def test_every_metric_is_what_its_own_function_says():
    predicted, truth = salt(0, 0.2, (12, 12, 12)), salt(1, 0.2, (12, 12, 12))
    probability = np.random.default_rng(2).random(truth.shape)
    brain = np.zeros_like(truth)
    brain[2:10] = True
    spacing, chosen = (2.0, 2.0, 2.0), MetricSettings("pooled", "one", 3.0, "surface_weighted", "MET", 7)
    found = region_scores(
        predicted, truth, spacing, METRICS, chosen, probability=probability, brain=brain
    )  # one after the other, in the order of METRICS
    lesions = lesion_scores(predicted, truth, spacing, LesionRule(1, 2 / 8))
    expected = {
        **overlap_scores(predicted, truth),
        "hd95": hd95(predicted, truth, spacing, "pooled"),
        "nsd": nsd(predicted, truth, spacing, 3.0, "surface_weighted"),
        **volume_errors(predicted, truth, spacing),
        **dict(zip(LESIONS, vars(lesions).values(), strict=True)),
        "brier": brier(probability[brain], truth[brain]),
        "ece": expected_calibration_error(probability[brain], truth[brain], 7),
    }
    assert list(found) == list(METRICS)
    assert found == pytest.approx(expected)
    assert all(isinstance(v, float) for v in found.values())


def test_only_what_is_wanted_is_answered_in_one_order():
    found = region_scores(CUBE, CUBE, metrics=["nsd", "dice", "nsd"])
    assert list(found) == ["dice", "nsd"]


def test_the_diagonal_is_that_of_the_image_where_it_is_told():
    chosen = MetricSettings(hd95_empty="diagonal")
    assert region_scores(NOTHING, CUBE, metrics=["hd95"], settings=chosen)["hd95"] == pytest.approx(math.sqrt(108))
    told = region_scores(NOTHING, CUBE, metrics=["hd95"], settings=chosen, diagonal_mm=373.13)
    assert told["hd95"] == 373.13


def test_settings_that_matter_are_those_of_the_metrics():
    chosen = MetricSettings()
    assert chosen.of(["dice", "volume_error_ml", "brier"]) == {}
    assert chosen.of(["dice", "hd95"]) == {"hd95": "max_of_directed", "hd95_empty": "374"}
    assert chosen.of(["nsd"]) == {"nsd_mm": 1.0, "nsd": "voxels"}
    assert chosen.of(["lesion_hd95"]) == chosen.of(LESIONS) == {"lesions": "GLI"}
    assert chosen.of(CALIBRATION) == {"ece_bins": 15}
    assert set(chosen.of(METRICS)) == set(vars(chosen)), "every setting belongs to a metric"


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: choose_metrics(["dice", "hausdorff"]), "unknown metric 'hausdorff'; there are: dice, iou"),
        (lambda: choose_metrics([]), "no metric is named; there are: dice, iou"),
        (lambda: region_scores(CUBE, CUBE, metrics=["ece"]), "brier and ece need probabilities"),
        (lambda: region_scores(CUBE, CUBE[1:]), "give two volumes on one grid"),
        (lambda: overlap_scores(CUBE, CUBE, "zero"), "unknown rule for empty regions 'zero'; there are: one, nan"),
        (lambda: MetricSettings(hd95="medpy"), "unknown definition of HD95 'medpy'"),
        (lambda: MetricSettings(hd95_empty="393.13"), "unknown rule for HD95 of an empty mask '393.13'"),
        (lambda: MetricSettings(nsd="area"), "unknown definition of NSD 'area'"),
        (lambda: MetricSettings(nsd_mm=-1.0), "tolerance is -1.0 mm"),
        (lambda: MetricSettings(lesions="BraTS"), "unknown kind of lesion-wise scores 'BraTS'"),
        (lambda: MetricSettings(ece_bins=0), "0 bins"),
    ],
)
def test_what_cannot_be_scored_is_one_line(call, told):
    with pytest.raises(InputError, match=told) as refusal:
        call()
    assert "\n" not in str(refusal.value)
