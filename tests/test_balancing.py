"""Preference, gate, coefficients and weights: by hand, by the published trajectory, and what must always hold."""

import math
from itertools import product

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import assume, given

from mtg_lab.balancing import (
    coefficient_rate,
    drawn_shares,
    inverse_frequency,
    relative_preference,
    task_gate,
    updated_coefficients,
)
from mtg_lab.errors import InputError

ALL = torch.ones(4, dtype=torch.bool)
distances = st.lists(st.floats(0.01, 10), min_size=4, max_size=4).map(lambda v: torch.tensor(v, dtype=torch.float64))
masks = st.lists(st.booleans(), min_size=4, max_size=4).map(torch.tensor)


# --- relative preference and gate -------------------------------------------------------------------------------------


def test_preference_by_hand():
    """D = 1, 2, 3 has mean 2: RP = 1/2, 0, -1/2; the fourth is not there."""
    counted = torch.tensor([True, True, True, False])
    found = relative_preference(torch.tensor([1.0, 2.0, 3.0, 9.0]), counted)
    assert found.tolist() == pytest.approx([0.5, 0, -0.5, 0])
    assert task_gate(found, counted).tolist() == [0, 0, 1, 0]
    assert task_gate(found, counted, "leading").tolist() == [1, 0, 0, 0]
    assert task_gate(found, counted, "off").tolist() == [1, 1, 1, 0]


@given(distances, masks)
def test_preferences_cancel_and_do_not_depend_on_the_unit(distance, counted):
    preference = relative_preference(distance, counted)
    assert float(preference.sum()) == pytest.approx(0, abs=1e-9)
    assert (preference[~counted] == 0).all()
    torch.testing.assert_close(relative_preference(7 * distance, counted), preference)


@given(distances, masks)
def test_whoever_is_further_than_the_mean_lags(distance, counted):
    assume(counted.sum() >= 2)
    mean = distance[counted].mean()
    assume(((distance - mean).abs() > 1e-9)[counted].all())
    gate = task_gate(relative_preference(distance, counted), counted)
    assert gate.bool().tolist() == (counted & (distance > mean)).tolist()


@pytest.mark.parametrize("counted", [[False] * 4, [False, True, False, False]])
def test_with_nobody_to_compare_there_is_no_preference_and_no_gate(counted):
    """The release divides zero by zero here, and the NaN shuts the gate of the whole batch."""
    counted = torch.tensor(counted)
    preference = relative_preference(torch.tensor([0.0, 0.3, 0.2, 0.1]), counted)
    assert preference.tolist() == [0] * 4
    assert task_gate(preference, counted).tolist() == [0] * 4


def test_where_nobody_is_away_from_the_teacher_nobody_lags():
    assert relative_preference(torch.zeros(4), ALL).tolist() == [0] * 4


def test_samples_do_not_see_each_other():
    rows = torch.tensor([[1.0, 2, 3, 4], [0, 0, 0, 0], [5, 1, 1, 1]])
    counted = torch.tensor([[True] * 4, [True, False, False, False], [True, True, False, False]])
    alone = torch.stack([relative_preference(r, c) for r, c in zip(rows, counted)])
    assert relative_preference(rows, counted).equal(alone)


def test_an_unknown_gate_is_refused():
    with pytest.raises(InputError, match="gate is 'up'; it can be lagging, leading, off"):
        task_gate(torch.zeros(4), ALL, "up")


# --- coefficients -----------------------------------------------------------------------------------------------------


def test_the_published_trajectory_of_coefficients():
    """passion.md 2.7, verified there: a constant ratio 1.3 : 1 : .9 : .8 leads to these at epochs 99 and 299."""
    preference = relative_preference(torch.tensor([1.3, 1.0, 0.9, 0.8]), ALL)
    beta, seen = torch.ones(4), {}
    for epoch in range(300):
        beta = updated_coefficients(beta, preference, coefficient_rate(epoch, 300))
        seen[epoch] = beta.tolist()
    assert seen[99] == pytest.approx([1.40, 0.96, 0.82, 0.67], abs=0.005)
    assert seen[299] == pytest.approx([1.93, 0.51, 0.10, 0.10], abs=0.005)


def test_the_rate_is_multiplied_at_each_third_that_begins():
    assert [coefficient_rate(e, 300) for e in (0, 99, 100, 200)] == pytest.approx([0.015, 0.015, 0.0225, 0.03375])
    # After a warm-up of 20 epochs, epoch 0 has been passed over (release: `if epoch % 100 == 0` within the phase).
    assert [coefficient_rate(e, 300, first=20) for e in (20, 99, 100, 200)] == pytest.approx(
        [0.01, 0.01, 0.015, 0.0225]
    )


@given(distances, distances, masks, st.floats(0.001, 0.05))
def test_coefficients_keep_their_norm_and_a_laggard_gains_on_a_leader(start, distance, counted, rate):
    """Before clipping, the ratio of a laggard's coefficient to a leader's never falls."""
    beta = (start * 2 / start.norm()).clamp(0.3, 3.5)
    preference = relative_preference(distance, counted)
    moved = beta - rate * preference
    assume(((moved > 0.1) & (moved < 4)).all())
    after = updated_coefficients(beta, preference, rate)
    assert float(after.norm()) == pytest.approx(math.sqrt(4), rel=1e-6)
    for m, n in product(range(4), repeat=2):
        if preference[m] < 0 <= preference[n]:
            assert after[m] / after[n] >= beta[m] / beta[n] * (1 - 1e-9)


@given(st.lists(st.floats(-3, 1), min_size=3, max_size=3), st.floats(0, 5))
def test_coefficients_stay_positive_and_finite(preference, rate):
    after = updated_coefficients(torch.ones(3), torch.tensor(preference), rate)
    assert torch.isfinite(after).all()
    assert (after > 0).all()
    assert float(after.norm()) == pytest.approx(math.sqrt(3), rel=1e-5)


# --- weights by rarity ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("available", "expected"),
    [((90, 135, 184, 43), (2.43, 1.62, 1.19, 5.09)), ((68, 156, 200, 23), (3.22, 1.40, 1.10, 9.52))],
)
def test_the_published_weights_of_mr2468_and_mr1379(available, expected):
    """passion.md 2.8: 219 over the number of patients with FLAIR, T1ce, T1, T2."""
    assert inverse_frequency(torch.tensor(available) / 219).tolist() == pytest.approx(expected, abs=0.005)


def test_complete_data_have_no_weights_and_a_modality_that_nobody_has_none_either():
    assert inverse_frequency(torch.tensor([1.0, 1.0, 0.0])).tolist() == [1, 1, 1]


@given(st.lists(st.lists(st.booleans(), min_size=3, max_size=3).filter(any), min_size=1, max_size=5))
def test_shares_of_drawn_subsets_are_counted_out(rows):
    """Against all subsets written down."""
    expected = torch.zeros(3, dtype=torch.float64)
    for row in rows:
        subsets = [s for s in product([0, 1], repeat=3) if any(s) and all(r or not b for r, b in zip(row, s))]
        expected += torch.tensor(subsets, dtype=torch.float64).mean(dim=0) / len(rows)
    torch.testing.assert_close(drawn_shares(torch.tensor(rows)).double(), expected, rtol=1e-6, atol=1e-7)
