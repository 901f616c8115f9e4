"""Anchors, alignment losses, and the identity that makes P_mix the best anchor (mind_the_gap.md, section 2)."""

import math

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from mtg_lab.alignment import LOSSES, _median_above_zero, align, anchor_is_learned, anchor_weights, find_loss
from mtg_lab.backbones import Mixture
from mtg_lab.errors import InputError
from mtg_lab.moments import clouds

seeds = st.integers(0, 2**20)


def latents(seed=0, batch=2, modalities=4, channels=3, size=4):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, modalities, channels, size, size, size, generator=generator)


def everything(z):
    return torch.ones(z.shape[:2], dtype=torch.bool)


NAMES = ("t1n", "t1c", "t2w", "t2f")


def term(z, mixture, present, normalise=False, loss="mse", anchor="learned", seed=0):
    weights = anchor_weights(anchor, mixture, present, NAMES[: z.shape[1]])
    return align([z], weights, present, loss, normalise, seed)


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


def test_scales_are_averaged():
    z = latents()
    fine, coarse, weights = z, z[..., ::2, ::2, ::2], Mixture(4).weights(everything(z))
    apart = [align([s], weights, everything(z)) for s in (fine, coarse)]
    torch.testing.assert_close(align([fine, coarse], weights, everything(z)), sum(apart) / 2)


def test_aligned_latents_cost_nothing():
    z = latents(modalities=1).expand(-1, 4, -1, -1, -1, -1)
    assert term(z, mixture_of([1.0, 2.0, 3.0, 4.0]), everything(z)) < 1e-6


# --- every loss -------------------------------------------------------------------------------------------------------

every_loss = pytest.mark.parametrize("loss", LOSSES)
every_anchor = pytest.mark.parametrize("anchor", ["learned", "uniform", "modality:t1c", "normal"])


def shifted(offset, seed=0, size=8, channels=3, modalities=4):
    """Independent unit Gaussians whose modality m has the mean m * offset."""
    z = latents(seed, batch=1, modalities=modalities, channels=channels, size=size)
    return z + offset * torch.arange(modalities)[None, :, None, None, None, None]


@every_loss
@every_anchor
@pytest.mark.parametrize("normalise", [False, True])
def test_every_combination_has_finite_gradients_and_ignores_what_is_absent(loss, anchor, normalise):
    if (loss, anchor, normalise) == ("mse", "normal", True):
        pytest.skip("constant, refused: see below")
    present = torch.tensor([[True, True, False, True], [True, False, False, True]])
    z, mixture = shifted(1.0).repeat(2, 1, 1, 1, 1, 1), mixture_of([0.3, -0.4, 9.0, 0.1])
    values = []
    for poison in (0.0, math.nan, 1e30):
        x = torch.where(present[:, :, None, None, None, None], z, poison).requires_grad_()
        value = term(x, mixture, present, normalise, loss, anchor, seed=3)
        value.backward()
        assert torch.isfinite(x.grad).all()
        assert not x.grad[~present].any()
        values.append(value.detach())
    assert torch.isfinite(values[0])
    assert values[0] >= 0
    torch.testing.assert_close(values[1], values[0])
    torch.testing.assert_close(values[2], values[0])


@every_loss
def test_equal_modalities_cost_nothing_and_offsets_cost_more_the_larger_they_are(loss):
    same = latents(batch=1, modalities=1, size=8).expand(-1, 4, -1, -1, -1, -1)
    costs = [term(same + offset * torch.arange(4.0)[None, :, None, None, None, None], Mixture(4),
                        everything(same), loss=loss).item() for offset in (0, 0.3, 1, 3)]  # fmt: skip
    assert costs[0] == pytest.approx(0, abs=1e-5)
    assert costs[0] < costs[1] < costs[2] < costs[3]


@every_loss
def test_a_step_down_the_gradient_narrows_the_gap(loss):
    z = shifted(1.0).requires_grad_()
    before = term(z, Mixture(4), everything(z), True, loss)
    (gradient,) = torch.autograd.grad(before, z)
    # The losses on samples move the voxels they saw; a small step lowers each of them.
    after = term(z - 0.05 * gradient / gradient.norm(), Mixture(4), everything(z), True, loss)
    assert after < before


@every_loss
@settings(deadline=None, max_examples=10)
@given(seed=seeds, scale=st.floats(0.2, 50))
def test_no_normalised_loss_gains_by_shrinking(loss, seed, scale):
    z, mixture = shifted(1.0, seed), mixture_of([0.5, -1.0, 0.0, 2.0])
    forms = [term(k * z, mixture, everything(z), True, loss) for k in (1, scale)]
    torch.testing.assert_close(forms[0], forms[1], rtol=2e-3, atol=1e-5)


@pytest.mark.parametrize("loss", ["kl", "coral", "mmd", "sliced_wasserstein"])
def test_standard_normal_latents_cost_little_towards_the_normal_anchor(loss):
    near, far = shifted(0.0, size=16), 3 * shifted(0.0, size=16) + 2
    costs = [float(term(z, Mixture(4), everything(z), loss=loss, anchor="normal")) for z in (near, far)]
    assert costs[0] < 0.05
    assert costs[1] > 10 * costs[0]


def test_kl_is_that_of_torch_between_the_moments():
    z = shifted(0.7, channels=2) * torch.tensor([1.0, 2.0, 0.5, 1.5])[None, :, None, None, None, None]
    w = torch.tensor([0.1, 0.2, 0.3, 0.4])
    flat = z.transpose(1, 2)[0].flatten(2)  # [C, M, voxels]
    mean, var = flat.mean(dim=2), flat.var(dim=2, unbiased=False)
    middle = (w * mean).sum(dim=1, keepdim=True)
    width = (w * (var + (mean - middle).square())).sum(dim=1, keepdim=True)
    normal = torch.distributions.Normal
    reference = torch.distributions.kl_divergence(normal(mean, var.sqrt()), normal(middle, width.sqrt())).mean()
    ours = term(z, mixture_of(w.log()), everything(z), loss="kl")
    torch.testing.assert_close(ours, reference, rtol=1e-3, atol=1e-5)
    to_normal = torch.distributions.kl_divergence(normal(mean, var.sqrt()), normal(0.0, 1.0)).mean()
    torch.testing.assert_close(
        term(z, Mixture(4), everything(z), loss="kl", anchor="normal"), to_normal, rtol=1e-3, atol=1e-4
    )


def test_mmd_to_the_mixture_is_half_the_distance_to_the_other_of_two():
    """e_1 - (e_1 + e_2) / 2 = (e_1 - e_2) / 2 in the kernel's space, so a quarter of the squared distance."""
    z = shifted(1.5, modalities=2)
    to_mixture = term(z, Mixture(2), everything(z), loss="mmd")
    to_first = align([z], torch.tensor([[1.0, 0.0]]), everything(z), "mmd")  # mean of 0 and the whole distance
    torch.testing.assert_close(to_mixture, to_first / 2, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 7, 8])
def test_the_bandwidth_is_the_median_of_the_distances_above_zero(n):
    points = torch.randn(n, 3, generator=torch.Generator().manual_seed(n))
    points = torch.cat([points, points[:1]])  # one drawn twice
    squared = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist").square()
    expected = squared[squared > 0].median() if n > 1 else torch.tensor(1.0)
    torch.testing.assert_close(_median_above_zero(torch.pdist(points).square()), expected)


def test_mmd_to_the_normal_anchor_is_that_of_many_draws():
    z = shifted(0.5, modalities=2, size=6)
    closed = float(term(z, Mixture(2), everything(z), loss="mmd", anchor="normal"))
    drawn = torch.cat(list(clouds(z, everything(z)).values()))
    width = torch.cdist(drawn, drawn).square()
    width = width[width > 0].median()
    normal = torch.randn(6000, 3, generator=torch.Generator().manual_seed(1))

    def kernel(a, b):
        return (-torch.cdist(a, b).square() / width).exp().mean()

    sides = [kernel(a, a) - 2 * kernel(a, normal) + kernel(normal, normal)
             for a in clouds(z, everything(z)).values()]  # fmt: skip
    assert closed == pytest.approx(float(sum(sides) / 2), abs=3e-3)


def test_sliced_wasserstein_between_shifted_copies_is_the_shift():
    """Copies shifted by d along every axis: on a unit line l the distance is (d.l)^2, on average |d|^2 / C; each of
    the two, as its own anchor or the other's, contributes half."""
    same = latents(batch=1, modalities=1, size=8, channels=6).expand(-1, 2, -1, -1, -1, -1)
    z = same + torch.tensor([0.0, 2.0])[None, :, None, None, None, None]
    weights = torch.tensor([[1.0, 0.0]])
    found = [float(align([z], weights, everything(z), "sliced_wasserstein", seed=s)) for s in range(40)]
    assert sum(found) / 40 == pytest.approx(0.5 * 4, rel=0.15)


def test_coral_against_numpy():
    z = shifted(1.0, modalities=2)
    a, b = (c.numpy() for c in clouds(z, everything(z)).values())
    covariances = [np.cov(c.T, bias=True) for c in (a, b)]
    anchor = np.cov(np.concatenate([a, b]).T, bias=True)  # equal numbers of samples: the mixture's
    expected = np.mean([((c - anchor) ** 2).sum() / (4 * 9) for c in covariances])
    assert float(term(z, Mixture(2), everything(z), loss="coral")) == pytest.approx(expected, rel=1e-3)


def test_anchors_differ_as_they_should():
    """The mixture is the cheapest, N(0, I) the dearest for clouds far from it (the compensation identity)."""
    z = shifted(1.0) + 5
    cost = {
        a: float(term(z, Mixture(4), everything(z), loss="kl", anchor=a)) for a in ("uniform", "modality:t1n", "normal")
    }
    assert cost["uniform"] < cost["modality:t1n"] < cost["normal"]


def test_a_sample_without_the_anchor_modality_is_not_aligned():
    z, present = shifted(1.0), torch.tensor([[True, False, True, True]])
    assert term(z, Mixture(4), present, anchor="modality:t1c") == 0
    assert term(z, Mixture(4), present, anchor="modality:t1n") > 0.1


def test_learned_weights_get_a_gradient_where_the_loss_has_one():
    z = shifted(1.0)
    for loss, has in (("mse", True), ("kl", True), ("coral", True), ("mmd", True), ("sliced_wasserstein", False)):
        mixture = Mixture(4)
        value = term(z.requires_grad_(), mixture, everything(z), loss=loss)
        value.backward()
        assert (mixture.theta.grad is not None and bool(mixture.theta.grad.any())) == has, loss


def test_an_unknown_anchor_or_loss_is_told_which_there_are():
    assert anchor_is_learned("learned", NAMES)
    assert not any(anchor_is_learned(a, NAMES) for a in ("uniform", "normal", "modality:t1c"))
    with pytest.raises(InputError, match="unknown anchor 'best'; there are: learned, uniform, normal, modality:NAME"):
        anchor_is_learned("best", NAMES)
    with pytest.raises(InputError, match="anchor 'modality:pet': no modality 'pet'; there are: t1n, t1c, t2w, t2f"):
        anchor_is_learned("modality:pet", NAMES)
    with pytest.raises(InputError, match="unknown alignment loss 'l1'; there are: mse, kl, coral, mmd, sliced"):
        find_loss("l1")


def test_a_loss_that_is_constant_is_refused():
    with pytest.raises(InputError, match="constant, whatever the encoders do; take loss 'kl'"):
        term(latents(), Mixture(4), everything(latents()), normalise=True, anchor="normal")
