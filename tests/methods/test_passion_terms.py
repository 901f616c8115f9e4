"""The terms of PASSION: the release's own answers, values worked by hand, and what must always hold."""

import json
import math

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from monai.networks import one_hot
from torch.nn import functional

from mtg_lab.backbones import Prediction
from mtg_lab.distillation import logit_distillation, prototypes, similarity_maps
from mtg_lab.errors import InputError
from mtg_lab.methods.passion_terms import (
    PublishedLoss,
    base_loss,
    deep_supervision,
    dice_loss,
    pixel_distillation,
    semantic_distance,
    semantic_distillation,
    softened,
    weighted_cross_entropy,
)


def only(logits, *aux):
    return Prediction(logits, logits, aux)


def random(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def random_case(seed=0, samples=2, classes=3, edge=4):
    """Logits, features and one-hot target in which every class occurs."""
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(0, classes, (samples, 1, edge, edge, edge), generator=generator)
    label[:, 0, 0, 0, :classes] = torch.arange(classes)
    shape = (edge, edge, edge)
    target = one_hot(label, classes, dtype=torch.float32)
    return random(seed + 1, samples, classes, *shape), random(seed + 2, samples, 5, *shape), target


# --- the release's answers --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", ["1", "2", "3"])
def test_the_release_says_the_same(golden, case):
    arrays = np.load(golden / "passion_terms.npz")
    expected = json.loads((golden / "passion_terms.json").read_text())[case]
    read = {
        name: torch.from_numpy(arrays[f"{name}_{case}"])
        for name in ("student_logits", "teacher_logits", "student_feature", "teacher_feature", "label")
    }
    target = one_hot(read["label"][:, None].long(), 4, dtype=torch.float32)
    probabilities = read["student_logits"].softmax(dim=1)
    student, teacher = (softened(only(read[f"{who}_logits"]), 4.0) for who in ("student", "teacher"))
    own, taught = (similarity_maps(read[f"{who}_feature"], target) for who in ("student", "teacher"))
    found = {
        "weighted_ce": weighted_cross_entropy(probabilities, target),
        "dice_loss": dice_loss(probabilities, target),
        "pixel_kl_T4": pixel_distillation(student, teacher, 4.0),
        "prototype_loss": semantic_distillation(own, taught, target),
        "prototype_distance": semantic_distance(own, taught, target),
    }
    assert found.keys() == expected.keys()
    for name, value in found.items():
        assert value.tolist() == pytest.approx(expected[name], rel=1e-5), name


# --- by hand ----------------------------------------------------------------------------------------------------------

# Two voxels, two classes: the first voxel is class 0, the second class 1; three quarters for the truth in both.
TARGET = torch.tensor([[[[[1.0, 0.0]]], [[[0.0, 1.0]]]]]).reshape(1, 2, 1, 1, 2)
THREE_QUARTERS = torch.tensor([0.75, 0.25, 0.25, 0.75]).reshape(1, 2, 1, 1, 2)


def test_cross_entropy_by_hand():
    """w = 1/2 for both classes: -(1/2) (1/2 log 3/4 + 1/2 log 3/4) = (1/2) log 4/3."""
    assert float(weighted_cross_entropy(THREE_QUARTERS, TARGET)) == pytest.approx(0.5 * math.log(4 / 3))


def test_a_frequent_class_weighs_little():
    """Three voxels of four are class 0, weight 1/4; class 1 weighs 3/4; all probabilities one half."""
    target = torch.tensor([[1.0, 1, 1, 0], [0, 0, 0, 1]]).reshape(1, 2, 1, 1, 4)
    expected = math.log(2) * (0.25 * 3 + 0.75 * 1) / 4
    assert float(weighted_cross_entropy(torch.full_like(target, 0.5), target)) == pytest.approx(expected)


def test_cross_entropy_is_clamped_and_then_teaches_nothing():
    sure_and_wrong = torch.tensor([0.001, 0.999, 0.999, 0.001]).reshape(TARGET.shape).requires_grad_()
    loss = weighted_cross_entropy(sure_and_wrong, TARGET)
    loss.sum().backward()
    assert float(loss.detach()) == pytest.approx(-0.5 * math.log(0.005))
    assert not sure_and_wrong.grad.any()


def test_dice_by_hand():
    """Each class: 2 x 3/4 over (1 + 1); one minus that."""
    assert float(dice_loss(THREE_QUARTERS, TARGET)) == pytest.approx(0.25, abs=1e-6)


def test_a_class_that_nobody_has_costs_its_share():
    target = torch.cat([TARGET, torch.zeros(1, 1, 1, 1, 2)], dim=1)
    assert float(dice_loss(target, target)) == pytest.approx(1 / 3, abs=1e-6)


def test_deep_supervision_halves_from_head_to_head():
    logits, _, target = random_case()
    part = base_loss(logits.softmax(dim=1), target)
    torch.testing.assert_close(deep_supervision((logits, logits, logits), target), part * (1 / 2 + 1 / 4 + 1 / 8))
    assert deep_supervision((), target).tolist() == [0, 0]


def test_auxiliary_probabilities_are_enlarged_after_the_softmax():
    _, _, target = random_case()
    coarse = 3 * random(3, 2, 3, 2, 2, 2)
    expected = functional.interpolate(coarse.softmax(dim=1), (4, 4, 4), mode="trilinear", align_corners=True)
    torch.testing.assert_close(deep_supervision((coarse,), target), base_loss(expected, target) / 2)


def test_the_published_loss_is_all_of_it():
    logits, _, target = random_case()
    label = target.argmax(dim=1, keepdim=True)
    expected = base_loss(logits.softmax(dim=1), target) + deep_supervision((logits,), target)
    torch.testing.assert_close(PublishedLoss()(only(logits, logits), label), expected.mean())


def test_one_voxel_of_divergence_by_hand():
    """Teacher (3/4, 1/4), student (1/2, 1/2), T = 1, two classes: half of ln 2 minus the teacher's entropy."""
    teacher, student = torch.tensor([math.log(3.0), 0.0]).reshape(1, 2, 1, 1, 1), torch.zeros(1, 2, 1, 1, 1)
    expected = (math.log(2) + 0.75 * math.log(0.75) + 0.25 * math.log(0.25)) / 2
    found = pixel_distillation(softened(only(student), 1.0), softened(only(teacher), 1.0), 1.0)
    assert float(found) == pytest.approx(expected, rel=1e-5)


@settings(max_examples=20)
@given(st.integers(0, 2**20), st.floats(2, 8))
def test_the_pixel_term_is_hintons_over_the_classes(seed, temperature):
    student, teacher = random(seed, 1, 4, 3, 3, 3), random(seed + 1, 1, 4, 3, 3, 3)
    ours = pixel_distillation(softened(only(student), temperature), softened(only(teacher), temperature), temperature)
    torch.testing.assert_close(4 * ours[0], logit_distillation(student, teacher, temperature), rtol=1e-3, atol=1e-5)


def test_auxiliary_maps_are_distilled_at_half_the_weight_of_the_one_before():
    student, teacher = random(0, 2, 3, 4, 4, 4), random(1, 2, 3, 4, 4, 4)
    one = pixel_distillation(softened(only(student), 4.0), softened(only(teacher), 4.0), 4.0)
    three = pixel_distillation(
        softened(only(student, student, student), 4.0), softened(only(teacher, teacher, teacher), 4.0), 4.0
    )
    torch.testing.assert_close(three, one * (1 + 1 / 2 + 1 / 4))


def test_prototypes_are_the_means_over_classes():
    """Features (1, 0) and (3, 0) in class 0, (0, 2) in class 1."""
    features = torch.tensor([[1.0, 3, 0], [0, 0, 2]]).reshape(1, 2, 1, 1, 3)
    target = torch.tensor([[1.0, 1, 0], [0, 0, 1]]).reshape(1, 2, 1, 1, 3)
    torch.testing.assert_close(prototypes(features, target)[0], torch.tensor([[2.0, 0], [0, 2]]), rtol=1e-4, atol=0)
    expected = torch.tensor([[1.0, 1, 0], [0, 0, 1]])  # cosines
    torch.testing.assert_close(similarity_maps(features, target)[0], expected)


def test_semantic_terms_by_hand():
    """Maps differ by 1 and 0 in class 0; class 1 does not occur and does not count: 1/2, 1/2 and its root."""
    student, teacher = torch.tensor([[[1.0, 0.0], [9.0, 9.0]]]), torch.zeros(1, 2, 2)
    target = torch.tensor([[1.0, 1.0], [0.0, 0.0]]).reshape(1, 2, 1, 1, 2)
    assert semantic_distillation(student, teacher, target).tolist() == [0.5]
    assert semantic_distance(student, teacher, target).tolist() == [0.5]
    assert semantic_distance(student, teacher, target, "l2").tolist() == pytest.approx([math.sqrt(0.5)])
    with pytest.raises(InputError, match="distance is 'l3'; it can be l1 or l2"):
        semantic_distance(student, teacher, target, "l3")


@settings(max_examples=20)
@given(st.integers(0, 2**20), st.floats(0.125, 32))
def test_similarity_is_torchs_cosine_and_has_no_unit(seed, scale):
    _, features, target = random_case(seed, samples=1)
    found, centres = similarity_maps(features, target), prototypes(features, target)
    for k in range(3):
        expected = functional.cosine_similarity(features, centres[:, k, :, None, None, None], dim=1, eps=1e-5)
        torch.testing.assert_close(found[:, k], expected.flatten(1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(similarity_maps(scale * features, target), found, rtol=1e-3, atol=1e-4)


# --- what must always hold --------------------------------------------------------------------------------------------


def all_terms(logits, features, target, teacher_logits, teacher_features):
    student, teacher = softened(only(logits), 4.0), softened(only(teacher_logits), 4.0)
    own, taught = similarity_maps(features, target), similarity_maps(teacher_features, target)
    return {
        "ce": weighted_cross_entropy(logits.softmax(dim=1), target),
        "dice": dice_loss(logits.softmax(dim=1), target),
        "aux": deep_supervision((logits[..., ::2, ::2, ::2],), target),
        "pixel": pixel_distillation(student, teacher, 4.0),
        "semantic": semantic_distillation(own, taught, target),
        "l1": semantic_distance(own, taught, target),
        "l2": semantic_distance(own, taught, target, "l2"),
    }


def test_whoever_is_its_own_teacher_has_nothing_to_learn():
    logits, features, target = random_case()
    found = all_terms(logits, features, target, logits, features)
    for name in ("pixel", "semantic", "l1", "l2"):
        assert found[name].tolist() == [0, 0], name


def test_a_sample_does_not_see_its_batch():
    """Also where the other sample lacks a class: the release then leaves the class out for both."""
    logits, features, target = random_case()
    target[1, 0] += target[1, 2]
    target[1, 2] = 0
    teacher = random(7, *logits.shape), random(8, *features.shape)
    together = all_terms(logits, features, target, *teacher)
    alone = [all_terms(logits[[b]], features[[b]], target[[b]], *(t[[b]] for t in teacher)) for b in range(len(logits))]
    for name, value in together.items():
        torch.testing.assert_close(value, torch.cat([a[name] for a in alone]), msg=name)


def test_the_teacher_gets_no_gradient():
    logits, features, target = random_case()
    student = logits.clone().requires_grad_(), features.clone().requires_grad_()
    teacher = random(7, *logits.shape).requires_grad_(), random(8, *features.shape).requires_grad_()
    found = all_terms(*student, target, *teacher)
    (found["pixel"] + found["semantic"]).sum().backward()
    assert all(t.grad is None for t in teacher)
    assert all(s.grad.any() for s in student)
    assert not found["l1"].requires_grad
    assert not found["l2"].requires_grad
