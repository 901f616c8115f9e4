"""The identity that makes P_mix the best anchor (Mind the Gap; mathematics of the KL divergence)."""

import math

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from mtg_lab.theory import compensation

# --- the identity -----------------------------------------------------------------------------------------------------

gaussians = st.lists(
    st.tuples(st.floats(-4, 4), st.floats(0.3, 3), st.floats(0.05, 1)), min_size=1, max_size=5
)  # mean, standard deviation, weight


@settings(deadline=None, max_examples=60)
@given(gaussians, st.floats(-5, 5), st.floats(0.5, 4))
def test_the_identity_holds_for_every_anchor(parts, mean, sd):
    terms = compensation(*zip(*parts, strict=True), anchor_mean=mean, anchor_sd=sd)
    assert terms["cost"] == pytest.approx(terms["js"] + terms["price"], rel=1e-6, abs=1e-7)
    assert terms["price"] >= -1e-9


@settings(deadline=None, max_examples=60)
@given(gaussians)
def test_the_mixture_is_the_cheapest_anchor(parts):
    terms = compensation(*zip(*parts, strict=True))
    assert terms["price"] == pytest.approx(0, abs=1e-9)
    assert terms["cost"] == pytest.approx(terms["js"], abs=1e-7)


@settings(deadline=None, max_examples=60)
@given(gaussians)
def test_the_gap_lies_between_0_and_the_entropy_of_the_weights(parts):
    terms = compensation(*zip(*parts, strict=True))
    assert -1e-9 <= terms["js"] <= terms["entropy"] + 1e-9 <= math.log(len(parts)) + 2e-9


def test_identical_modalities_have_no_gap_and_separable_ones_all_of_it():
    assert compensation([1, 1, 1], [2, 2, 2], [1, 2, 3])["js"] == pytest.approx(0, abs=1e-9)
    apart = compensation([-30, 0, 30], [1, 1, 1], [1, 2, 3])
    assert apart["js"] == pytest.approx(apart["entropy"], abs=1e-9)
    assert apart["entropy"] == pytest.approx(math.log(6) - (2 * math.log(2) + 3 * math.log(3)) / 6)


def test_the_cost_of_one_gaussian_is_its_divergence_in_closed_form():
    """KL(N(m, s^2) || N(a, b^2)) = ln(b/s) + (s^2 + (m - a)^2) / (2 b^2) - 1/2; torch.distributions agrees."""
    terms = compensation([1.5], [0.7], [1], anchor_mean=-0.5, anchor_sd=2)
    expected = math.log(2 / 0.7) + (0.7**2 + 2**2) / (2 * 2**2) - 0.5
    normal = torch.distributions.Normal
    reference = torch.distributions.kl_divergence(normal(1.5, 0.7), normal(-0.5, 2.0))
    assert terms["cost"] == pytest.approx(expected, rel=1e-6)
    assert terms["cost"] == pytest.approx(float(reference), rel=1e-6)
    assert terms["js"] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("wrong", [([0, 1], [1], [1]), ([0], [0], [1]), ([0], [1], [0]), ([0], [-1], [1])])
def test_impossible_gaussians_are_refused(wrong):
    with pytest.raises(ValueError, match="must be positive"):
        compensation(*wrong)
