"""Brier score and calibration error: worked by hand, against scikit-learn, and of a forecaster that knows its odds."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss

from mtg_lab.calibration_metrics import brier, expected_calibration_error, reliability
from mtg_lab.errors import InputError


def test_four_voxels_by_hand():
    """Two bins: 0.1 and 0.3 (one is true) and 0.6 and 0.8 (both are)."""
    probability, truth = np.array([0.1, 0.3, 0.6, 0.8]), np.array([False, True, True, True])
    bins = reliability(probability, truth, 2)
    assert bins.count.tolist() == [2, 2]
    assert bins.confidence.tolist() == pytest.approx([0.2, 0.7])
    assert bins.frequency.tolist() == pytest.approx([0.5, 1.0])
    assert expected_calibration_error(probability, truth, 2) == pytest.approx((2 * 0.3 + 2 * 0.3) / 4)
    assert brier(probability, truth) == pytest.approx((0.01 + 0.49 + 0.16 + 0.04) / 4)


def test_certainty_that_is_right_and_that_is_wrong():
    truth = np.array([[True, False], [False, True]])
    assert (brier(truth.astype(float), truth), expected_calibration_error(truth.astype(float), truth)) == (0, 0)
    assert (brier(1.0 - truth, truth), expected_calibration_error(1.0 - truth, truth)) == (1, 1)


def test_edges_of_bins_belong_to_the_upper_one():
    bins = reliability(np.array([0.0, 0.5, 1.0]), np.array([False, True, True]), 2)
    assert bins.count.tolist() == [1, 2]


@settings(max_examples=30)
@given(st.integers(0, 10**6), st.integers(1, 20))
def test_bins_are_those_of_scikit_learn(seed, bins):
    rng = np.random.default_rng(seed)
    probability = rng.random(200)
    truth = rng.random(200) < probability**2
    frequency, confidence = calibration_curve(truth, probability, n_bins=bins)
    found = reliability(probability, truth, bins)
    filled = found.count > 0
    assert found.frequency[filled] == pytest.approx(frequency)
    assert found.confidence[filled] == pytest.approx(confidence)
    assert np.isnan(found.frequency[~filled]).all()
    assert found.count.sum() == 200
    assert brier(probability, truth) == pytest.approx(brier_score_loss(truth, probability))


def test_a_forecaster_that_knows_its_odds_is_calibrated():
    """100 000 voxels: the error falls to the noise of a bin's mean; squaring the odds is off by E[p - p^2] = 1/6."""
    rng = np.random.default_rng(0)
    probability = rng.random(100_000)
    truth = rng.random(100_000) < probability
    assert expected_calibration_error(probability, truth) < 0.01
    assert expected_calibration_error(probability**2, truth, 200) == pytest.approx(1 / 6, abs=0.01)


def test_no_voxel_has_no_score():
    nothing = np.zeros(0)
    assert np.isnan(brier(nothing, nothing.astype(bool)))
    assert np.isnan(expected_calibration_error(nothing, nothing.astype(bool)))


@pytest.mark.parametrize(
    ("probability", "truth", "bins", "told"),
    [
        (np.zeros(3), np.zeros(4, bool), 5, "must be one shape"),
        (np.zeros(3), np.zeros(3), 5, "the truth bool"),
        (np.array([0.0, 1.5]), np.zeros(2, bool), 5, "run from 0 to 1.5; give numbers from 0 to 1"),
        (np.array([0.0, np.nan]), np.zeros(2, bool), 5, "run from nan"),
        (np.zeros(3), np.zeros(3, bool), 0, "0 bins"),
    ],
)
def test_what_is_no_probability_is_one_line(probability, truth, bins, told):
    with pytest.raises(InputError, match=told):
        expected_calibration_error(probability, truth, bins)
