"""Statistics of latents: the relative gap, variances, effective rank."""

import math

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from mtg_lab.moments import clouds, effective_rank, moments, variance
from mtg_lab.moments import relative_gap as gap_of_moments

seeds = st.integers(0, 2**20)


def latents(seed=0, batch=2, modalities=4, channels=3, size=4):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, modalities, channels, size, size, size, generator=generator)


def everything(z):
    return torch.ones(z.shape[:2], dtype=torch.bool)


def relative_gap(z, present):
    return gap_of_moments(moments(z, present))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sums_and_their_gradients_whatever_the_layout(dtype):
    """Against the definition in float64, for memory with space last and with channels last, over more than one part."""
    z = latents(1, batch=2, modalities=3, channels=2, size=21).to(dtype)
    last = z.flatten(1, 2).contiguous(memory_format=torch.channels_last_3d).unflatten(1, (3, 2))
    exact = z.double().requires_grad_()
    by_channel = exact.flatten(3).transpose(1, 2)
    expected = by_channel @ by_channel.transpose(2, 3), by_channel.sum(dim=3)
    weighting = [torch.linspace(-1, 1, e.numel(), dtype=torch.float64).reshape(e.shape) for e in expected]
    (slope,) = torch.autograd.grad(sum((e * w).sum() for e, w in zip(expected, weighting, strict=True)), exact)
    for memory in (z, last):
        memory = memory.detach().requires_grad_()
        found = moments(memory, everything(z))
        torch.testing.assert_close([found.gram, found.total], [e.float() for e in expected], rtol=1e-4, atol=1e-2)
        terms = ((e * w).sum() for e, w in zip((found.gram, found.total), weighting, strict=True))
        (gradient,) = torch.autograd.grad(sum(terms), memory)
        torch.testing.assert_close(gradient.double(), slope, rtol=2e-2, atol=5e-2 if dtype is torch.bfloat16 else 1e-4)
        assert gradient.stride() == memory.stride(), "so that adding it to other gradients turns nothing round"


def test_drawn_voxels_are_the_same_in_both_layouts_and_so_are_gradients():
    z = latents(2)
    last = z.flatten(1, 2).contiguous(memory_format=torch.channels_last_3d).unflatten(1, (4, 3))
    found = []
    for memory in (z, last):
        memory = memory.detach().requires_grad_()
        drawn = torch.stack(list(clouds(memory, everything(z), seed=5).values()))
        found.append((drawn, *torch.autograd.grad(drawn.square().sum(), memory)))
        assert found[-1][1].stride() == memory.stride()
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=0)


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


# --- variance, samples, effective rank --------------------------------------------------------------------------------


def test_the_variance_is_over_what_is_there():
    z, present = 7 * latents() + 3, torch.tensor([[True, True, False, True], [True, False, False, True]])
    there = z[present]  # [5, C, d, h, w]
    torch.testing.assert_close(variance(moments(z, present)), there.var(dim=(0, 2, 3, 4), unbiased=False))


def test_samples_are_pairs_and_leave_out_what_is_absent():
    z = torch.arange(2 * 3 * 64.0).reshape(2, 3, 1, 4, 4, 4)  # the value tells sample, modality and voxel
    present = torch.tensor([[True, False, True], [True, False, False]])
    z[~present] = math.nan
    found = clouds(z, present, samples=500)
    assert list(found) == [0, 2]
    assert set(found[0].flatten().tolist()) <= set(range(64)) | set(range(192, 256))
    assert set(found[2].flatten().tolist()) <= set(range(128, 192))
    paired = found[0][found[0] < 64]
    torch.testing.assert_close(paired + 128, found[2].flatten(), msg="the same voxels for every modality")


def test_effective_rank_counts_directions():
    """Equal variance along k of C axes has an effective rank of k; rank one is one."""
    z = torch.zeros(1, 2, 8, 12, 12, 12)
    z[:, :, :3] = torch.randn(1, 2, 3, 12, 12, 12, generator=torch.Generator().manual_seed(0))
    assert effective_rank(z, everything(z)) == pytest.approx(3, rel=0.05)
    assert effective_rank(z[:, :, :1].expand(-1, -1, 8, -1, -1, -1), everything(z)) == pytest.approx(1, abs=1e-3)
    assert math.isnan(effective_rank(torch.ones_like(z), everything(z)))


@settings(deadline=None, max_examples=15)
@given(seeds, st.floats(1e-3, 1e3))
def test_effective_rank_is_free_of_scale_and_agrees_with_numpy(seed, scale):
    from mtg_lab.pairing_measures import rank_of

    z = latents(seed, channels=5)
    ours = effective_rank(z, everything(z), seed)
    assert effective_rank(scale * z, everything(z), seed) == pytest.approx(ours, rel=1e-3)
    drawn = np.concatenate([c.numpy() for c in clouds(z, everything(z), seed).values()])
    assert rank_of(np.cov(drawn, rowvar=False)) == pytest.approx(ours, rel=1e-3)
