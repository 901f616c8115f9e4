"""What a student takes from its teacher, against other implementations and by hand."""

import json

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch.nn import functional

from mtg_lab.distillation import (
    Critic,
    content_distillation,
    feature_distillation,
    frozen,
    latent_distillation,
    logit_distillation,
    prototype_distillation,
    released_style_matching,
    similarity_maps,
    style_matching,
)
from mtg_lab.errors import InputError


def logits(seed, batch=2, classes=4, size=4):
    return 3 * torch.randn(batch, classes, size, size, size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_a_student_that_agrees_costs_nothing(temperature):
    assert float(logit_distillation(logits(0), logits(0), temperature)) == pytest.approx(0, abs=1e-6)
    shifted = logits(0) + 5  # a constant over classes changes no probability
    assert float(logit_distillation(shifted, logits(0), temperature)) == pytest.approx(0, abs=1e-5)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**20), st.floats(0.5, 8))
def test_the_divergence_is_that_of_torch_times_the_square_of_the_temperature(seed, temperature):
    student, teacher = logits(seed), logits(seed + 1)
    per_voxel = functional.kl_div(
        functional.log_softmax(student / temperature, 1),
        functional.log_softmax(teacher / temperature, 1),
        log_target=True,
        reduction="none",
    ).sum(dim=1)
    ours = logit_distillation(student, teacher, temperature)
    torch.testing.assert_close(ours, per_voxel.mean() * temperature**2, rtol=1e-4, atol=1e-6)
    assert ours >= 0


def test_one_voxel_worked_by_hand():
    """Teacher (3/4, 1/4), student (1/2, 1/2), T = 1: ln 2 minus the entropy of (3/4, 1/4)."""
    teacher, student = torch.tensor([[[np.log(3.0)], [0.0]]]), torch.zeros(1, 2, 1)
    expected = np.log(2) + 0.75 * np.log(0.75) + 0.25 * np.log(0.25)
    assert float(logit_distillation(student, teacher, 1.0)) == pytest.approx(expected, rel=1e-5)


def test_the_gradient_keeps_its_size_when_the_temperature_is_high():
    """Hinton et al. 2015, equation 4: at high T the gradient becomes (z - v) / N for centred logits, free of T."""
    teacher = logits(1)
    norms = []
    for temperature in (50.0, 100.0):
        student = logits(2).requires_grad_()
        logit_distillation(student, teacher, temperature).backward()
        norms.append(float(student.grad.norm()))
    assert norms[0] == pytest.approx(norms[1], rel=0.05)


@pytest.mark.parametrize("case", ["1", "2", "3"])
def test_the_golden_values_of_passion_up_to_its_mean_over_classes(golden, case):
    """PASSION averages over classes too, so K = 4 of its terms are one of ours (passion.md 2.3; its clamp at 0.005
    does not act on these logits).
    """
    arrays = np.load(golden / "passion_terms.npz")
    expected = json.loads((golden / "passion_terms.json").read_text())[case]["pixel_kl_T4"]
    student, teacher = (torch.from_numpy(arrays[f"{who}_logits_{case}"]) for who in ("student", "teacher"))
    ours = [float(logit_distillation(s[None], t[None], 4.0)) for s, t in zip(student, teacher, strict=True)]
    assert ours == pytest.approx([4 * value for value in expected], rel=1e-5)


def test_the_distance_of_latents_is_in_units_of_the_teachers_spread():
    """Teacher 0, 2 (variance 2 with n - 1), student 1, 1: both are 1 away, so 1/2."""
    teacher, student = torch.tensor([[[0.0, 2.0]]]), torch.ones(1, 1, 2)
    assert float(latent_distillation(student, teacher)) == pytest.approx(0.5, rel=1e-4)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**20), st.lists(st.floats(0.125, 32, width=32), min_size=4, max_size=4))
def test_the_units_of_a_channel_do_not_matter(seed, scales):
    units = torch.tensor(scales).reshape(1, 4, 1, 1, 1)
    student, teacher = logits(seed), logits(seed + 1)
    plain = latent_distillation(student, teacher)
    torch.testing.assert_close(latent_distillation(units * student, units * teacher), plain, rtol=1e-3, atol=1e-6)


def half_and_half(batch=2, size=4):
    """Class 1 in one half of the volume, class 0 in the other; no voxel of class 2."""
    label = torch.zeros(batch, 1, size, size, size, dtype=torch.long)
    label[:, :, : size // 2] = 1
    return label


def prototype_term(student, teacher):
    return prototype_distillation(student, teacher, half_and_half(), 3)


def test_features_of_another_width_are_refused_in_one_line():
    with pytest.raises(InputError, match=r"\[8, 4, 4, 4\].*\[4, 4, 4, 4\].*feature_weight"):
        feature_distillation(logits(0, classes=8), logits(0))


def test_two_classes_worked_by_hand():
    """Voxels (1, 0), (0, 2) are prototypes of their own classes: cosines 1 and 0; the third class has none."""
    features, label = torch.tensor([[[1.0, 0.0], [0.0, 2.0]]]), torch.tensor([[[1, 0]]])
    target = functional.one_hot(label[:, 0], 3).movedim(-1, 1).float()
    expected = torch.tensor([[[0.0, 1.0], [1.0, 0.0], [0.0, 0.0]]])
    torch.testing.assert_close(similarity_maps(features, target), expected, rtol=1e-4, atol=1e-4)
    # To a student all voxels look alike: it is off by one in each class's map at one of two voxels.
    found = prototype_distillation(torch.ones(1, 2, 2), features, label, 3)
    assert float(found) == pytest.approx(1 / 2, abs=1e-4)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**20), st.floats(0.125, 32), st.integers(1, 6))
def test_similarity_to_prototypes_knows_no_scale_no_rotation_and_no_width(seed, scale, width):
    """Cosines are invariant under scale and rotation, so a turned copy of the teacher costs nothing."""
    teacher = logits(seed)
    turned, _ = torch.linalg.qr(torch.randn(4 + width, 4 + width, generator=torch.Generator().manual_seed(seed)))
    student = scale * torch.einsum("oc,bcxyz->boxyz", turned[:, :4], teacher)
    assert float(prototype_term(student, teacher)) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("case", ["1", "2", "3"])
def test_the_golden_values_of_passions_prototype_term(golden, case):
    """There each term is divided by the classes that all samples hold (passion.md 2.4)."""
    arrays = np.load(golden / "passion_terms.npz")
    expected = json.loads((golden / "passion_terms.json").read_text())[case]["prototype_loss"]
    student, teacher = (torch.from_numpy(arrays[f"{who}_feature_{case}"]) for who in ("student", "teacher"))
    label = torch.from_numpy(arrays[f"label_{case}"]).long()
    ours = [
        float(prototype_distillation(s[None], t[None], y.reshape(1, 1, *s.shape[1:]), 4))
        for s, t, y in zip(student, teacher, label, strict=True)
    ]
    assert ours == pytest.approx(expected, rel=1e-4)


TERMS = [logit_distillation, latent_distillation, feature_distillation, prototype_term]


@pytest.mark.parametrize("term", TERMS)
def test_the_teacher_gets_no_gradient(term):
    student, teacher = logits(0).requires_grad_(), logits(1).requires_grad_()
    term(student, teacher).backward()
    assert teacher.grad is None
    assert student.grad.abs().sum() > 0


@pytest.mark.parametrize("term", TERMS)
def test_half_precision_in_float32_out(term):
    value = term(logits(0).bfloat16(), logits(1).bfloat16())
    assert value.dtype == torch.float32
    assert float(value) == pytest.approx(float(term(logits(0), logits(1))), rel=0.05)


def test_a_frozen_network_neither_learns_nor_drops():
    network = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Dropout(0.5)).train()
    frozen(network)
    assert not network.training
    assert not any(p.requires_grad for p in network.parameters())


# --- style and adversary ----------------------------------------------------------------------------------------------


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def maps(seed=0, grid=(3, 4, 5), channels=6):
    return {name: noise(2, channels, *grid, seed=seed + n) for n, name in enumerate(("encoder", "style", "content"))}


@pytest.mark.parametrize("matching", [style_matching, released_style_matching])
def test_equal_networks_have_equal_style(matching):
    assert float(matching(maps(), maps())) == 0
    assert float(matching(maps(), maps(seed=9))) > 0


def test_style_is_the_mean_squared_difference_of_matrices_across_layers():
    ours, theirs = maps(), maps(seed=9)
    expected = []
    for a, b in (("encoder", "style"), ("encoder", "content"), ("style", "content")):
        grams = [torch.einsum("bcxyz,bdxyz->bcd", m[a], m[b]) / 60 for m in (ours, theirs)]
        expected.append((grams[0] - grams[1]).square().mean())
    torch.testing.assert_close(style_matching(ours, theirs), sum(expected) / 3)


def test_style_does_not_ask_where_something_is_but_the_released_form_does():
    flipped = {name: z.flip(2) for name, z in maps().items()}
    assert float(style_matching(maps(), flipped)) == pytest.approx(0, abs=1e-10)
    assert float(released_style_matching(maps(), flipped)) > 1e-6


def test_mixing_channels_changes_the_style():
    mixed = maps() | {"style": maps()["style"][:, torch.tensor([1, 0, 2, 3, 4, 5])]}
    assert float(style_matching(maps(), mixed)) > 1e-3


def test_in_units_of_the_teacher_neither_style_nor_content_knows_how_large_features_are():
    ours, theirs = maps(), maps(seed=9)
    large = [{name: 50 * z for name, z in m.items()} for m in (ours, theirs)]
    assert float(style_matching(*large)) == pytest.approx(50**4 * float(style_matching(ours, theirs)), rel=1e-4)
    torch.testing.assert_close(style_matching(*large, relative=True), style_matching(ours, theirs, relative=True))
    twice = {name: 2 * z for name, z in theirs.items()}  # every matrix four times the teacher's: (4 - 1)^2
    assert float(style_matching(twice, theirs, relative=True)) == pytest.approx(9, rel=1e-4)
    z = theirs["content"]
    assert float(content_distillation(z + 2 * z.std(), z, relative=True)) == pytest.approx(4, rel=1e-4)
    assert float(content_distillation(z + 2, z)) == pytest.approx(4, rel=1e-4)
    nothing = {name: torch.zeros_like(m) for name, m in theirs.items()}
    assert torch.isfinite(style_matching(ours, nothing, relative=True)), "a teacher that is silent is no division by 0"


def test_the_unit_gets_no_gradient():
    z = noise(2, 6, 3, 4, 5).requires_grad_()
    content_distillation(noise(2, 6, 3, 4, 5, seed=9), z, relative=True).backward()
    difference = 2 * (z - noise(2, 6, 3, 4, 5, seed=9)) / z.numel() / z.var()
    torch.testing.assert_close(z.grad, difference.detach())


def test_the_released_style_is_that_of_planes_of_each_channel():
    ours, theirs = (torch.cat(list(m.values()), dim=1) for m in (maps(), maps(seed=9)))
    total = []
    for a, b in zip(ours, theirs, strict=True):
        difference = torch.einsum("cixy,cjxy->cij", a, a) - torch.einsum("cixy,cjxy->cij", b, b)
        total.append(((difference / 20) ** 2).sum() / (4 * 3**2 * 18**2))
    torch.testing.assert_close(released_style_matching(maps(), maps(seed=9)), 100 * sum(total) / 2)


def test_two_maps_of_other_grids_have_a_style_too():
    ours = {"encoder": noise(2, 4, 6, 6, 6), "bottleneck": noise(2, 8, 3, 3, 3)}
    pooled = torch.nn.functional.avg_pool3d(ours["encoder"], 2)
    zeros = {name: torch.zeros_like(z) for name, z in ours.items()}
    gram = torch.einsum("bcxyz,bdxyz->bcd", pooled, ours["bottleneck"]) / 27
    torch.testing.assert_close(style_matching(ours, zeros), gram.square().mean())


def test_the_critic_has_the_size_of_the_release_but_for_its_last_kernel():
    count = sum(p.numel() for p in Critic(128).parameters())
    assert count == 3149249 - 256 * (2 * 3 * 2) + 256  # a kernel of (2, 3, 2), where this one has a single voxel


@pytest.mark.parametrize("grid", [(20, 24, 16), (5, 5, 5), (1, 2, 3), (7, 8, 9)])
def test_the_critic_reads_any_grid(grid):
    torch.manual_seed(0)
    assert Critic(4)(noise(2, 4, *grid)).shape == (2,)


def test_the_critic_halves_even_grids_as_the_release_does():
    torch.manual_seed(0)
    critic, x = Critic(4), noise(1, 4, 8, 8, 8)
    padded = torch.nn.functional.conv3d(x, critic.stages[0].weight, critic.stages[0].bias, stride=2, padding=1)
    found = []
    critic.stages[0].register_forward_hook(lambda module, args, output: found.append(output))
    critic(x)
    torch.testing.assert_close(found[0], padded)


def test_the_critics_losses_are_cross_entropies_and_keep_apart():
    torch.manual_seed(0)
    critic, student, teacher = Critic(4), noise(3, 4, 4, 4, 4).requires_grad_(), noise(3, 4, 4, 4, 4, seed=1)
    fooled, own = critic.losses(student, teacher.requires_grad_())
    with torch.no_grad():
        told, known = critic(student).sigmoid(), critic(teacher).sigmoid()
    torch.testing.assert_close(fooled, -(1 - told).log().mean())
    torch.testing.assert_close(own, -(1 - known).log().mean() - told.log().mean())
    fooled.backward(retain_graph=True)
    assert student.grad.any()
    assert all(p.grad is None for p in critic.parameters())
    student.grad = None
    own.backward()
    assert student.grad is None
    assert teacher.grad is None
    assert all(p.grad is not None for p in critic.parameters())
