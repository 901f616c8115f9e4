"""Anchors, alignment losses, and the identity that makes P_mix the best anchor (mind_the_gap.md, section 2)."""

import math

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from mtg_lab.alignment import (
    align,
    anchor_is_learned,
    compensation,
    moments,
    variance,
)
from mtg_lab.alignment import relative_gap as gap_of_moments
from mtg_lab.backbones import Mixture
from mtg_lab.errors import InputError

seeds = st.integers(0, 2**20)


def latents(seed=0, batch=2, modalities=4, channels=3, size=4):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, modalities, channels, size, size, size, generator=generator)


def everything(z):
    return torch.ones(z.shape[:2], dtype=torch.bool)


def term(z, mixture, present, normalise=False):
    return align([moments(z, present)], mixture, normalise)


def relative_gap(z, present):
    return gap_of_moments(moments(z, present))


def in_words(z, mixture, present, normalise):
    """The same term as the formula reads: differences, squares and (for the normalised form) z-scores, in float64."""
    there = present[:, :, None, None, None, None]
    z = torch.where(there, z, 0).double()
    if normalise:
        values = torch.stack([c[present].flatten() for c in z.unbind(dim=2)])  # [C, everything there]
        z = z / (values.var(dim=1, unbiased=False) + 1e-5).sqrt()[:, None, None, None]
    anchor = torch.einsum("bm,bmcdhw->bcdhw", mixture.weights(present).double(), z)
    return 0.5 * (z - anchor[:, None]).square()[present].mean()


def mixture_of(theta):
    mixture = Mixture(len(theta))
    mixture.theta.data = torch.as_tensor(theta, dtype=torch.float32)
    return mixture


# --- the published form -----------------------------------------------------------------------------------------------


def test_a_value_worked_by_hand():
    """Latents 1 and 5, anchor 3: half the mean of 4 and 4 is 2, the 1/(2M) sum of the authors' fragment."""
    z = torch.tensor([[[[1.0]], [[5.0]]]])
    assert term(z, mixture_of([0.0, 0.0]), everything(z)) == 2


@settings(deadline=None, max_examples=30)
@given(seeds, st.integers(1, 15), st.booleans(), st.lists(st.floats(-3, 3, width=32), min_size=4, max_size=4))
def test_value_and_gradients_are_those_of_the_formula(seed, members, normalise, theta):
    z = (3 * latents(seed) + 1).requires_grad_()
    present = torch.tensor([[bool(members >> m & 1) for m in range(4)], [True] * 4])
    mixture = mixture_of(theta)
    fast, slow = term(z, mixture, present, normalise), in_words(z, mixture, present, normalise)
    torch.testing.assert_close(fast.double(), slow, rtol=1e-4, atol=1e-5)
    ours, theirs = (torch.autograd.grad(loss, [z, mixture.theta]) for loss in (fast, slow))
    for mine, reference in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-3, atol=1e-6)


def test_bf16_latents_have_float32_sums_under_autocast():
    z = latents(channels=8, size=16)
    rounded = z.bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        found = term(rounded, Mixture(4), everything(z), normalise=True)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, term(rounded.float(), Mixture(4), everything(z), normalise=True))


def test_an_absent_modality_counts_neither_in_the_loss_nor_in_the_anchor():
    z, present = torch.tensor([[[[1.0]], [[5.0]], [[math.nan]]]]), torch.tensor([[True, True, False]])
    mixture = Mixture(3)
    loss = term(z, mixture, present)
    loss.backward()
    assert loss == 2, "as if the third modality did not exist"
    assert torch.isfinite(mixture.theta.grad).all()


@settings(deadline=None, max_examples=30)
@given(seeds, st.lists(st.floats(-3, 3, width=32), min_size=2, max_size=5))
def test_the_cost_of_any_anchor_is_the_gap_plus_the_price_of_the_anchor(seed, theta):
    """sum_m w_m |z_m - a|^2 = sum_m w_m |z_m - zbar|^2 + |zbar - a|^2 with zbar the barycentre of weights w."""
    z = latents(seed, modalities=len(theta)).double()
    anchor = latents(seed + 1, modalities=1)[:, 0].double()
    mixture, present = mixture_of(theta).double(), everything(z)
    weights = mixture.weights(present).double()
    zbar = mixture.barycentre(z, present)

    def cost(a):
        return (weights * (z - a[:, None]).square().flatten(2).sum(dim=2)).sum()

    price = (zbar - anchor).square().sum()
    torch.testing.assert_close(cost(anchor), cost(zbar) + price, rtol=1e-6, atol=1e-6)
    assert cost(zbar) <= cost(anchor)


@settings(deadline=None, max_examples=20)
@given(seeds, st.lists(st.floats(-3, 3, width=32), min_size=4, max_size=4))
def test_the_uniform_barycentre_is_the_cheapest_anchor(seed, theta):
    z = latents(seed)
    costs = [term(z, mixture_of(t), everything(z)) for t in ([0.0] * 4, theta)]
    assert costs[0] <= costs[1] + 1e-6


@settings(deadline=None, max_examples=20)
@given(seeds)
def test_doubled_latents_cost_four_times_as_much(seed):
    z, mixture = latents(seed), mixture_of([0.5, -1.0, 0.0, 2.0])
    once, doubled = (term(k * z, mixture, everything(z)) for k in (1, 2))
    torch.testing.assert_close(doubled, 4 * once)


@settings(deadline=None, max_examples=20)
@given(seeds, st.floats(0.2, 50))
def test_shrinking_does_not_help_against_the_normalised_form(seed, scale):
    z, mixture = latents(seed), mixture_of([0.5, -1.0, 0.0, 2.0])
    forms = [term(k * z, mixture, everything(z), normalise=True) for k in (1, scale)]
    torch.testing.assert_close(forms[0], forms[1], rtol=1e-3, atol=1e-5)


def test_the_normalised_form_never_pulls_towards_a_smaller_scale():
    z = latents().requires_grad_()
    term(z, mixture_of([0.5, -1.0, 0.0, 2.0]), everything(z), normalise=True).backward()
    along_scale = (z.grad * (z.detach() - z.detach().mean(dim=(0, 1, 3, 4, 5), keepdim=True))).sum()
    assert abs(along_scale.item()) < 1e-4 * (z.grad.norm() * z.detach().norm()).item()


def test_the_variance_is_over_what_is_there():
    z, present = 7 * latents() + 3, torch.tensor([[True, True, False, True], [True, False, False, True]])
    there = z[present]  # [5, C, d, h, w]
    torch.testing.assert_close(variance(moments(z, present)), there.var(dim=(0, 2, 3, 4), unbiased=False))


def test_scales_are_averaged():
    z = latents()
    fine, coarse, mixture = z, z[..., ::2, ::2, ::2], Mixture(4)
    found = [moments(s, everything(z)) for s in (fine, coarse)]
    torch.testing.assert_close(align(found, mixture), sum(align([f], mixture) for f in found) / 2)


def test_aligned_latents_cost_nothing():
    z = latents(modalities=1).expand(-1, 4, -1, -1, -1, -1)
    assert term(z, mixture_of([1.0, 2.0, 3.0, 4.0]), everything(z)) < 1e-6


def test_an_unknown_anchor_or_loss_is_told_which_there_are():
    assert anchor_is_learned("learned")
    assert not anchor_is_learned("uniform")
    with pytest.raises(InputError, match="unknown anchor 'best'; there are: learned, uniform"):
        anchor_is_learned("best")
    with pytest.raises(InputError, match="unknown alignment loss 'l1'; there are: mse"):
        align([moments(latents(), everything(latents()))], Mixture(4), loss="l1")


# --- the relative gap -------------------------------------------------------------------------------------------------


def test_identical_latents_have_no_gap():
    z = latents(modalities=1).expand(-1, 4, -1, -1, -1, -1)
    assert relative_gap(z, everything(z)) < 1e-6


def test_a_gap_worked_by_hand():
    """Two voxels, two modalities: (0, 2) and (4, 6). Between 4 x 1, total 9 + 1 + 1 + 9, so one fifth."""
    z = torch.tensor([[0.0, 4.0], [2.0, 6.0]]).reshape(1, 2, 1, 2)
    assert float(relative_gap(z, everything(z))) == pytest.approx(0.2)


def test_nothing_shared_is_a_gap_of_one():
    z = torch.tensor([[-1.0, -1.0], [1.0, 1.0]]).reshape(1, 2, 1, 2)
    assert float(relative_gap(z, everything(z))) == pytest.approx(1.0)


@settings(deadline=None, max_examples=20)
@given(seeds, st.floats(0.01, 100))
def test_the_relative_gap_is_free_of_scale(seed, scale):
    z = latents(seed)
    gap = relative_gap(z, everything(z))
    torch.testing.assert_close(relative_gap(scale * z, everything(z)), gap, rtol=1e-4, atol=1e-6)
    assert 0 <= gap <= 1


def test_samples_with_one_modality_say_nothing_about_the_gap():
    z = torch.cat([latents(1), latents(2)])
    present = torch.ones(4, 4, dtype=torch.bool)
    present[2:] = torch.tensor([True, False, False, False])
    z[~present] = math.nan
    torch.testing.assert_close(relative_gap(z, present), relative_gap(latents(1), everything(latents(1))))
    assert relative_gap(z[2:], present[2:]).isnan()


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
