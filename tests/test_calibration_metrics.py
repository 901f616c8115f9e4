"""Brier score and calibration error: worked by hand, against scikit-learn, and of a forecaster that knows its odds."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss

from mtg_lab.calibration_metrics import ReliabilityTally, brier, expected_calibration_error
from mtg_lab.errors import InputError


def tallied(probability, truth, bins=15):
    tally = ReliabilityTally(bins)
    tally.add(np.asarray(probability), np.asarray(truth, dtype=bool))
    return tally


def drawn(count=20_000, seed=0, power=1.0):
    """Probabilities and a truth that has probability p ** power: calibrated where power is 1."""
    rng = np.random.default_rng(seed)
    p = rng.random(count)
    return p, rng.random(count) < p**power


def test_four_voxels_by_hand():
    """Two bins: 0.1 and 0.3 (one is true) and 0.6 and 0.8 (both are)."""
    probability, truth = np.array([0.1, 0.3, 0.6, 0.8]), np.array([False, True, True, True])
    assert expected_calibration_error(probability, truth, 2) == pytest.approx((2 * 0.3 + 2 * 0.3) / 4)
    assert brier(probability, truth) == pytest.approx((0.01 + 0.49 + 0.16 + 0.04) / 4)


def test_certainty_that_is_right_and_that_is_wrong():
    truth = np.array([[True, False], [False, True]])
    assert (brier(truth.astype(float), truth), expected_calibration_error(truth.astype(float), truth)) == (0, 0)
    assert (brier(1.0 - truth, truth), expected_calibration_error(1.0 - truth, truth)) == (1, 1)


def test_no_voxel_has_no_score():
    nothing = np.zeros(0)
    assert np.isnan(brier(nothing, nothing.astype(bool)))
    assert np.isnan(expected_calibration_error(nothing, nothing.astype(bool)))


def test_worked_by_hand():
    """Two bins; below: 0.2, 0.4, one of two true; above: 0.6, 1, one of two: gaps 0.2 and 0.3."""
    tally = tallied([0.2, 0.4, 0.6, 1.0], [0, 1, 0, 1], bins=2)
    table = tally.table()
    assert table["count"].tolist() == [2, 2]
    assert table["confidence"].tolist() == pytest.approx([0.3, 0.8])
    assert table["frequency"].tolist() == pytest.approx([0.5, 0.5])
    assert tally.expected_error == pytest.approx((2 * 0.2 + 2 * 0.3) / 4)
    assert tally.brier == pytest.approx((0.04 + 0.36 + 0.36 + 0) / 4)


def test_bins_and_brier_are_those_of_scikit_learn():
    p, truth = drawn(power=2)
    tally = tallied(p, truth, bins=10)
    frequency, confidence = calibration_curve(truth, p, n_bins=10)
    assert tally.table()["frequency"].to_numpy() == pytest.approx(frequency)
    assert tally.table()["confidence"].to_numpy() == pytest.approx(confidence)
    assert tally.brier == pytest.approx(brier_score_loss(truth, p))


def test_honest_probabilities_have_no_error_and_the_brier_of_their_variance():
    """E[p (1 − p)] = 1/6 for uniform p."""
    tally = tallied(*drawn(200_000))
    assert tally.expected_error < 0.01
    assert tally.brier == pytest.approx(1 / 6, abs=0.002)


def test_too_sure_probabilities_err_by_what_they_are_too_sure():
    """Truth at p²: the gap is E[p − p²] = 1/6."""
    assert tallied(*drawn(200_000, power=2)).expected_error == pytest.approx(1 / 6, abs=0.004)


@given(some.lists(some.tuples(some.floats(0, 1), some.booleans()), min_size=1, max_size=30), some.integers(0, 29))
def test_case_by_case_is_all_at_once(voxels, cut):
    p, truth = (np.array(column) for column in zip(*voxels, strict=True))
    parts = ReliabilityTally()
    parts.add(p[:cut], truth[:cut])
    parts.add(p[cut:], truth[cut:])
    whole = tallied(p, truth)
    assert (parts.count == whole.count).all()
    assert (parts.brier, parts.expected_error) == pytest.approx((whole.brier, whole.expected_error))
    assert 0 <= whole.expected_error <= 1
    # |mean p − mean truth| can only grow when it is taken bin by bin.
    assert whole.expected_error >= abs(p.mean() - truth.mean()) - 1e-12


def test_edges_and_emptiness():
    table = tallied([0.5, 1.0, 0.0], [1, 1, 0], bins=2).table()
    assert table["count"].tolist() == [1, 2], "an edge belongs to the upper bin, 1 to the last"
    empty = ReliabilityTally(3)
    assert np.isnan([empty.brier, empty.expected_error]).all()
    assert empty.table()[["confidence", "frequency"]].isna().all(axis=None)


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
