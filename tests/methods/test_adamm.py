"""AdaMM's training: what passes between student and teacher, in whose direction, and the release's switches."""

import math

import pytest
import torch

from mtg_lab.backbones import build
from mtg_lab.data import subset_mask
from mtg_lab.errors import InputError
from mtg_lab.methods import AdaMM, checked_options
from mtg_lab.methods.adamm import RELEASED, RELEASED_NETWORK, ramp_factor
from mtg_lab.methods.presence import doubted_dice, presence_loss, voxel_distance

MODALITIES = ("t1n", "t1c", "t2w", "t2f")
TINY = {
    "adamm": {"width": 4, "adapter_width": 4, "nodes": 2, "dropout": 0.0},
    "unet": {"width": 4, "latent": 3, "depth": 2},
    "rfnet": {"width": 4, "depth": 2, "guess_width": 4, "hidden": 8},
    "mmformer": {"width": 4, "depth": 2, "tokens": 16, "heads": 2, "mlp": 16, "positions": 3, "dropout": 0.0},
    "m2ftrans": {"width": 4, "depth": 2, "layers": 2, "heads": 2, "mlp": 16, "positions": 3, "guess_width": 4},
    "segresnet": {"init_filters": 8, "blocks_down": [1, 1], "blocks_up": [1]},
}
ALONE = {"content_weight": 0.0, "style": "off", "adversary_weight": 0.0, "voxel_weight": 0.0}


def network(name="adamm", seed=0, **options):
    torch.manual_seed(seed)
    return build(name, MODALITIES, 4, TINY[name] | options)


def method(backbone=None, teacher=None, **options):
    extra = {} if teacher is None else {"teacher": teacher}
    return AdaMM(backbone or network(), **extra, **checked_options(AdaMM, options)).train()


def sample_batch(samples=2, size=16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(0, 3, (samples, 1, 4, 4, 4), generator=generator)
    for axis in (2, 3, 4):
        label = label.repeat_interleave(size // 4, dim=axis)
    image = label + torch.randn(samples, 4, size, size, size, generator=generator)
    draw = torch.randint(2**62, (samples,), generator=generator)
    return {"image": image, "label": label, "present": torch.ones(samples, 4, dtype=torch.bool), "draw": draw}


def test_the_total_is_the_sum_that_the_docstring_gives():
    built, batch = method(network(), base_loss="dice"), sample_batch() | {"progress": torch.tensor(0.05)}
    parts = {k: float(v) for k, v in built(batch).parts.items()}
    with torch.no_grad():
        student = built.backbone(batch["image"], subset_mask(batch["present"], batch["draw"]))
        teacher = built.guide(batch["image"], batch["present"])
    label = batch["label"]
    assert parts["presence"] == pytest.approx(float(presence_loss(student, label) + presence_loss(teacher, label)))
    assert parts["voxel"] == pytest.approx(float(voxel_distance(student, label) + voxel_distance(teacher, label)))
    ours = parts["segmentation"] + float(doubted_dice(student, label))
    theirs = parts["teacher_segmentation"] + float(doubted_dice(teacher, label))
    expected = (
        0.6 * ours + 0.4 * theirs + parts["presence"] + 10 * math.exp(-5 * 0.25) * parts["voxel"]
        + 0.2 * parts["content"] + parts["style"] + 2e-4 * parts["adversary"] + parts["critic"]
    )  # fmt: skip
    assert float(built(batch).total.detach()) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("epoch", "weight"), [(0, 0.067), (5, 0.60), (10, 2.87), (15, 7.3), (20, 10), (200, 10)])
def test_the_ramp_has_the_values_of_the_release(epoch, weight):
    """lambda(e) of 200 epochs, as the methods' notes give it."""
    assert 10 * ramp_factor(epoch / 200) == pytest.approx(weight, rel=0.01)


def gradient_to(module, loss):
    module.zero_grad()
    loss.backward()
    return sum(float(p.grad.abs().sum()) for p in module.parameters() if p.grad is not None)


@pytest.mark.parametrize(("guide", "pulled"), [("detached", False), ("joint", True)])
def test_distillation_pulls_at_a_teacher_only_where_both_learn_from_it(guide, pulled):
    options = {**ALONE, "content_weight": 1.0, "presence_weight": 0.0, "teacher_share": 0.0}
    built = method(guide=guide, **options)
    assert (gradient_to(built.guide, built(sample_batch()).total) > 0) == pulled


def test_a_teacher_starts_as_its_student_and_goes_its_own_way():
    built = method()
    for ours, theirs in zip(built.backbone.parameters(), built.guide.parameters(), strict=True):
        assert ours is not theirs
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_terms_between_equal_networks_that_see_everything_are_nothing():
    everything = torch.ones(1, 4, dtype=torch.bool)
    draws = (draw for draw in range(999) if subset_mask(everything, torch.tensor([draw])).all())
    batch = sample_batch() | {"draw": torch.full((2,), next(draws))}
    parts = method(adversary_weight=0.0).eval()(batch).parts
    assert float(parts["content"]) == pytest.approx(0, abs=1e-12)
    assert float(parts["style"]) == pytest.approx(0, abs=1e-12)


def test_the_critic_learns_from_its_own_term_alone_and_the_student_from_the_other():
    built = method(guide="detached", **{**ALONE, "presence_weight": 0.0, "adversary_weight": 1.0})
    built.options["adversary_weight"] = 0.0  # with weight zero the student gets nothing, the critic still learns
    built.zero_grad()
    base = method(**{**ALONE, "presence_weight": 0.0})
    total = built(sample_batch()).total
    total.backward()
    assert any(p.grad is not None and p.grad.any() for p in built.critic.parameters())
    base(sample_batch()).total.backward()
    for ours, theirs in zip(built.backbone.parameters(), base.backbone.parameters(), strict=True):
        assert (ours.grad is None) == (theirs.grad is None)
        if ours.grad is not None:
            torch.testing.assert_close(ours.grad, theirs.grad)


def test_the_student_alone_is_dropout_with_presence():
    built = method(guide="none", presence_weight=0.0, presence_weights=False, voxel_weight=0.0)
    assert built.guide is None
    assert built.critic is None
    losses = built(sample_batch())
    assert float(losses.total.detach()) == pytest.approx(float(losses.parts["segmentation"]))


def test_a_frozen_teacher_is_used_as_it_is():
    teacher = network(seed=3)
    built = method(teacher=teacher, guide="frozen")
    before = {k: v.clone() for k, v in teacher.state_dict().items()}
    built(sample_batch()).total.backward()
    assert not teacher.training
    assert all(p.grad is None for p in teacher.parameters())
    assert all(torch.equal(v, before[k]) for k, v in teacher.state_dict().items())


@pytest.mark.parametrize("name", [n for n in TINY if n != "adamm"])
def test_its_terms_compose_with_other_networks(name):
    options = {"content_weight": 0.0, "style": "off", "adversary_weight": 0.0} if name == "segresnet" else {}
    built = method(network(name, gate="hard"), **options)
    losses = built(sample_batch())
    losses.total.backward()
    assert float(losses.parts["presence"]) > 0
    assert all(torch.isfinite(p.grad).all() for p in built.parameters() if p.grad is not None)
    assert any(p.grad.any() for p in built.backbone.presence.parameters())


def test_a_network_without_a_head_has_no_presence_terms():
    parts = method(network("unet"))(sample_batch()).parts
    assert float(parts["presence"]) == float(parts["doubt"]) == 0


def test_the_release_runs_as_one_dictionary_a_side():
    built = method(network(**RELEASED_NETWORK), **RELEASED)
    losses = built(sample_batch())
    losses.total.backward()
    assert torch.isfinite(losses.total)
    assert built.backbone.graph.layout == "reshaped"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"guide": "strict"}, "guide is 'strict'; it can be detached, joint, frozen, none"),
        ({"style": "baroque"}, "style is 'baroque'"),
        ({"voxel_weight": -1.0}, "voxel_weight is -1.0; it must be 0 or more"),
        ({"teacher_share": 1.0}, "teacher_share is 1.0"),
        ({"guide": "frozen"}, "guide=frozen needs a trained teacher: give --teacher RUN, or set method.guide=joint"),
    ],
)
def test_a_bad_option_is_told_what_would_work(options, told):
    with pytest.raises(InputError, match=told):
        method(**options)


def test_a_trained_teacher_must_be_asked_for():
    with pytest.raises(InputError, match=r"takes no trained teacher: set method\.guide=frozen"):
        method(teacher=network())


def test_networks_that_cannot_be_compared_are_refused_before_the_first_step():
    with pytest.raises(InputError, match="set content_weight=0, style=off and adversary_weight=0"):
        method(network("segresnet"))
    with pytest.raises(InputError, match="set adversary_at=bottleneck"):
        method(network("unet"), adversary_at="style")
    with pytest.raises(InputError, match=r"\(.*bottleneck 32 and 64.*\); give both the same backbone options"):
        method(teacher=network(width=8), guide="frozen")
