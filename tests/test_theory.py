"""The identity that makes P_mix the best anchor (Mind the Gap; mathematics of the KL divergence)."""

import math

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from mtg_lab.theory import compensation, gaussian_divergence, information_bound, sampled_compensation

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


# --- more dimensions, by sampling -------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 4), st.integers(1, 5), st.integers(0, 999))
def test_the_identity_holds_draw_by_draw_in_any_dimension(modalities, dimensions, seed):
    rng = np.random.default_rng(seed)
    means, sds = rng.normal(size=(modalities, dimensions)), rng.uniform(0.3, 2, size=(modalities, dimensions))
    weights = rng.uniform(0.1, 1, size=modalities)
    terms = sampled_compensation(means, sds, weights, rng.normal(size=dimensions), 1.5, draws=500, seed=seed)
    assert terms["cost"] == pytest.approx(terms["js"] + terms["price"], rel=1e-9, abs=1e-9)


def test_sampling_agrees_with_closed_forms_and_with_integration():
    means, sds, weights = np.array([[0.0], [1.0], [3.0]]), np.array([[1.0], [0.5], [2.0]]), [0.5, 0.3, 0.2]
    sampled = sampled_compensation(means, sds, weights, 0.5, 2.0, draws=40_000)
    exact = compensation(means[:, 0], sds[:, 0], weights, 0.5, 2.0)
    assert sampled["js"] == pytest.approx(exact["js"], abs=4 * sampled["js_error"])
    assert sampled["closed_cost"] == pytest.approx(exact["cost"], rel=1e-6)
    assert sampled["cost"] == pytest.approx(sampled["closed_cost"], rel=0.03)


def test_divergences_of_diagonal_gaussians_are_those_of_torch():
    rng = np.random.default_rng(0)
    m, s, a, b = rng.normal(size=5), rng.uniform(0.5, 2, 5), rng.normal(size=5), rng.uniform(0.5, 2, 5)
    normal = torch.distributions.Normal
    reference = torch.distributions.kl_divergence(
        normal(torch.from_numpy(m), torch.from_numpy(s)), normal(torch.from_numpy(a), torch.from_numpy(b))
    )
    assert gaussian_divergence(m, s, a, b) == pytest.approx(float(reference.sum()))


@pytest.mark.parametrize(("distance", "low", "high"), [(0.0, 0.0, 0.01), (1.5, 0.1, 0.9), (40.0, 0.999, 1.0)])
def test_a_classifier_bounds_the_gap_from_below(distance, low, high):
    """Identical, overlapping and separable clouds: share 0, between, 1; never above the exact gap."""
    rng = np.random.default_rng(0)
    modality = np.arange(6000) % 3
    z = rng.normal(size=6000) + distance * modality
    likelihood = np.exp(-0.5 * (z[:, None] - distance * np.arange(3)) ** 2) + 1e-300
    found = information_bound(likelihood / likelihood.sum(axis=1, keepdims=True), modality)
    exact = compensation([0, distance, 2 * distance], [1, 1, 1], [1, 1, 1])["js"]
    assert found["entropy"] == pytest.approx(math.log(3))
    assert low <= found["share"] <= high
    assert found["bound"] == pytest.approx(exact, abs=0.03), "the best classifier reaches the gap"
    worse = information_bound(np.full((6000, 3), 1 / 3), modality)
    assert worse["bound"] <= found["bound"] + 1e-9


@pytest.mark.parametrize("wrong", [([0, 1], [1, 1], [1, 1]), ([[0.0]], [[0.0]], [1]), ([[0.0]], [[1.0]], [1, 2])])
def test_impossible_clouds_are_refused(wrong):
    with pytest.raises(ValueError, match="must be positive"):
        sampled_compensation(*wrong)
