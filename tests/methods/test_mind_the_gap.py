"""Mind the Gap: what alignment acts on, and what a student may see."""

import pytest
import torch

from mtg_lab.alignment import LOSSES, align
from mtg_lab.backbones import build
from mtg_lab.errors import InputError
from mtg_lab.methods import AlignedTeacher, Complete, Student
from mtg_lab.methods.mind_the_gap import chosen_scales, schedule_factor

MODALITIES = ("t1n", "t1c", "t2w", "t2f")


def network(seed=0, modalities=MODALITIES, **options):
    torch.manual_seed(seed)
    return build("unet", modalities, 3, {"width": 4, "latent": 3, "depth": 2, **options})


def random_batch(seed=0, samples=2, size=8):
    generator = torch.Generator().manual_seed(seed)
    return {
        "image": torch.randn(samples, 4, size, size, size, generator=generator),
        "label": torch.randint(0, 3, (samples, 1, size, size, size), generator=generator),
        "present": torch.ones(samples, 4, dtype=torch.bool),
        "draw": torch.randint(2**62, (samples,), generator=generator),
    }


def numbers(losses):
    return {"total": float(losses.total.detach())} | {k: float(v) for k, v in losses.parts.items()}


def total(method, batch):
    return float(method(batch).total.detach())


# --- the teacher ------------------------------------------------------------------------------------------------------


def test_without_weight_the_aligned_teacher_is_the_complete_one():
    batch = random_batch()
    assert total(AlignedTeacher(network(), align_weight=0.0), batch) == total(Complete(network()), batch)


@pytest.mark.parametrize("normalise", [False, True])
def test_the_total_is_segmentation_plus_weight_times_distance_to_p_mix(normalise):
    batch, method = random_batch(), AlignedTeacher(network(), align_weight=0.7, normalise=normalise)
    losses = method(batch)
    latents = method.backbone.encode(batch["image"], batch["present"])
    weights = method.backbone.mixture.weights(batch["present"])
    distance = align(latents, weights, batch["present"], normalise=normalise)
    torch.testing.assert_close(losses.parts["alignment"], distance.detach())
    torch.testing.assert_close(losses.total, losses.parts["segmentation"] + 0.7 * distance)


def test_alignment_trains_the_weights_of_the_mixture_unless_they_are_uniform():
    learned, uniform = AlignedTeacher(network()), AlignedTeacher(network(), anchor="uniform")
    fixed_by_the_backbone = AlignedTeacher(network(learned_mixture=False))
    for method in (learned, uniform, fixed_by_the_backbone):
        method(random_batch()).total.backward()
    assert learned.backbone.mixture.theta.grad.any()
    assert uniform.backbone.mixture.theta.grad is None
    assert fixed_by_the_backbone.backbone.mixture.theta.grad is None


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"anchor": "best"}, "unknown anchor 'best'; there are: learned, uniform"),
        ({"anchor": "modality:pet"}, "no modality 'pet'"),
        ({"align_loss": "l1"}, "unknown alignment loss 'l1'"),
        ({"align_schedule": "cosine"}, "unknown align_schedule 'cosine'; there are: constant, warmup, decay"),
        ({"align_scales": "deep"}, "align_scales is 'deep'; it can be first, all, fused, or numbers"),
        ({"anchor": "normal"}, "constant, whatever the encoders do"),
    ],
)
def test_a_bad_option_is_refused_before_training(options, told):
    with pytest.raises(InputError, match=told):
        AlignedTeacher(network(), **options)


def test_a_scale_that_the_backbone_lacks_is_refused():
    assert chosen_scales("all", 4) == [0, 1, 2, 3]
    assert chosen_scales("0+2", 4) == [0, 2]
    with pytest.raises(InputError, match="this backbone has 1 scale"):
        AlignedTeacher(network(), align_scales="1")(random_batch())


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("scales", ["first", "fused"])
def test_every_loss_trains_before_and_after_fusion(loss, scales):
    method = AlignedTeacher(network(), align_loss=loss, align_scales=scales)
    batch = random_batch()
    losses = method(batch)
    losses.total.backward()
    assert losses.parts["alignment"] > 0
    assert numbers(method(batch)) == numbers(losses), "the draw of voxels belongs to the samples"
    assert all(torch.isfinite(p.grad).all() for p in method.parameters() if p.grad is not None)


def test_features_of_a_sequence_alone_are_what_is_aligned_after_fusion():
    batch, method = random_batch(), AlignedTeacher(network(), align_scales="fused").eval()
    latents = method.backbone.encode(batch["image"], batch["present"])
    eye = torch.eye(batch["present"].shape[1], dtype=torch.bool)
    alone = [method.backbone.decode(latents, e.expand_as(batch["present"])).features for e in eye]
    weights = method.backbone.mixture.weights(batch["present"])
    expected = align([torch.stack(alone, dim=1)], weights, batch["present"], normalise=True)
    torch.testing.assert_close(method(batch).parts["alignment"], expected.detach())


@pytest.mark.parametrize(
    ("schedule", "at_start", "at_a_tenth", "at_half", "at_end"),
    [("constant", 1, 1, 1, 1), ("warmup", 0, 0.5, 1, 1), ("decay", 1, 0.9755, 0.5, 0)],
)
def test_schedules(schedule, at_start, at_a_tenth, at_half, at_end):
    found = [schedule_factor(schedule, p) for p in (0, 0.1, 0.5, 1)]
    assert found == pytest.approx([at_start, at_a_tenth, at_half, at_end], abs=1e-4)
    batch = random_batch() | {"progress": torch.tensor(0.5)}
    losses = AlignedTeacher(network(), align_weight=0.7, align_schedule=schedule)(batch)
    expected = losses.parts["segmentation"] + 0.7 * at_half * losses.parts["alignment"]
    torch.testing.assert_close(losses.total.detach(), expected)


def strongly_aligned(normalise):
    method, batch = AlignedTeacher(network(), align_weight=100.0, normalise=normalise), random_batch()
    optimizer = torch.optim.AdamW(method.parameters(), lr=3e-2, weight_decay=0)
    history = []
    for _ in range(40):
        optimizer.zero_grad()
        losses = method(batch)
        losses.total.backward()
        optimizer.step()
        history.append(losses.parts)
    return history[0], history[-1]


def test_the_published_form_can_be_met_by_shrinking():
    """Mode collapse, the failure that the authors name: the loss looks perfect while the latents vanish."""
    first, last = strongly_aligned(normalise=False)
    assert last["alignment"] < 0.05 * first["alignment"]
    assert last["latent_scale"] < 0.5 * first["latent_scale"]


def test_the_normalised_form_closes_the_gap_without_shrinking():
    first, last = strongly_aligned(normalise=True)
    assert last["relative_gap"] < 0.5 * first["relative_gap"]
    assert last["latent_scale"] > 0.8 * first["latent_scale"]


@pytest.mark.parametrize(
    ("column", "values", "told"),
    [
        ("effective_rank", (4.0, 1.4), "their effective rank fell from 4 to 1.4; lower method.align_weight"),
        ("latent_scale", (1.0, 0.05), "their scale fell from 1 to 0.05"),
        ("effective_rank", (7.0, 3.0), None),
        ("effective_rank", (1.0, 1.0), None),
        ("latent_scale", (1.0, 0.2), None),
    ],
)
def test_a_collapse_is_told(column, values, told):
    calm = {"effective_rank": 4.0, "latent_scale": 1.0}
    history = [calm | {column: values[0]}] * 40 + [calm | {column: values[1]}] * 30
    found = AlignedTeacher(network()).warning(history)
    assert found is None if told is None else told in found
    assert AlignedTeacher(network()).warning(history[:4] + history[-20:]) is None, "too short to tell"


def test_a_collapse_within_the_first_steps_is_told():
    """As under a weight of 30: after twenty steps all latents point one way, and nothing changes any more."""
    history = [{"effective_rank": max(1.2, 3.8 - 0.15 * step), "latent_scale": 1.0} for step in range(100)]
    assert "their effective rank fell from 3.5 to 1.2" in AlignedTeacher(network()).warning(history)


def test_with_dropout_the_teacher_decodes_a_drawn_subset():
    batch = random_batch()
    dropped = AlignedTeacher(network(), dropout=True, align_weight=0.0)
    assert total(dropped, batch) != total(Complete(network()), batch)
    batch["draw"] += 1
    assert total(dropped, batch) != total(dropped, random_batch())


def test_an_unknown_alignment_loss_is_refused_before_training():
    with pytest.raises(InputError, match="unknown alignment loss 'l1'; there are: mse"):
        AlignedTeacher(network(), align_loss="l1")


# --- the student ------------------------------------------------------------------------------------------------------


def only(*names):
    return torch.tensor([m in names for m in MODALITIES])


def watched(method):
    """The masks that the student's own network is asked with."""
    masks = []
    encode = method.backbone.encode
    method.backbone.encode = lambda images, present: masks.append(present.clone()) or encode(images, present)
    return masks


def test_a_specialist_sees_its_subset_and_nothing_else():
    batch = random_batch()
    method = Student(network(), teacher=network(1), subset="t1n+t2w")
    masks = watched(method)
    expected = method(batch).parts["segmentation"]
    assert all(torch.equal(row, only("t1n", "t2w")) for row in masks[0])
    batch["image"][:, ~only("t1n", "t2w")] = float("nan")
    assert method(batch).parts["segmentation"] == expected


def test_aliases_name_a_subset_as_well():
    assert Student(network(), teacher=network(1), subset="t1ce+FLAIR").fixed == {"t1c", "t2f"}


def test_the_teacher_sees_everything_the_subject_has():
    batch = random_batch()
    method = Student(network(), teacher=network(1), subset="t1n")
    expected = method(batch).parts["logit_distillation"]
    batch["image"][:, 3] += 1
    assert method(batch).parts["logit_distillation"] != expected


def test_the_subset_of_a_generalist_depends_on_the_draw_only():
    first, second = random_batch(0), random_batch(1)
    second["draw"] = first["draw"]
    method = Student(network(), teacher=network(1))
    masks = watched(method)
    for batch in (first, second, random_batch(2)):
        method(batch)
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])


def test_a_generalist_meets_every_subset():
    method, batch = Student(network(), teacher=network(1)), random_batch(samples=16)
    masks = watched(method)
    with torch.no_grad():
        for seed in range(16):
            method(batch | {"draw": random_batch(seed, samples=16)["draw"]})
    assert len({tuple(row.tolist()) for row in torch.cat(masks)}) == 15


def test_each_term_can_be_switched_off():
    batch = random_batch()
    silent = Student(network(), teacher=network(1), subset="t2f", logit_weight=0.0, latent_weight=0.0)
    losses = silent(batch)
    torch.testing.assert_close(losses.total.detach(), losses.parts["segmentation"])
    assert set(losses.parts) == {"segmentation"}
    weights = {"logit": 2.0, "latent": 3.0, "feature": 5.0, "prototype": 7.0}
    options = {f"{name}_weight": weight for name, weight in weights.items()}
    loud = Student(network(), teacher=network(1), subset="t2f", **options)(batch)
    terms = {name: loud.parts[f"{name}_distillation"] for name in weights}
    assert all(term > 0 for term in terms.values())
    expected = loud.parts["segmentation"] + sum(weights[name] * term for name, term in terms.items())
    torch.testing.assert_close(loud.total.detach(), expected)


def test_a_weight_below_zero_is_refused():
    with pytest.raises(InputError, match="feature_weight is -1"):
        Student(network(), teacher=network(1), feature_weight=-1.0)


def test_a_student_that_starts_as_its_teacher_agrees_with_it_on_everything():
    method = Student(
        network(),
        teacher=network(1),
        subset="+".join(MODALITIES),
        from_teacher=True,
        feature_weight=1.0,
        prototype_weight=1.0,
    )
    parts = method.eval()(random_batch()).parts
    for name in ("logit", "latent", "feature", "prototype"):
        assert parts[f"{name}_distillation"] == pytest.approx(0, abs=1e-6)


def test_another_network_cannot_start_from_the_teacher():
    with pytest.raises(InputError, match="the same backbone options"):
        Student(network(width=8), teacher=network(1), from_teacher=True)


def test_a_teacher_of_other_modalities_is_refused():
    with pytest.raises(InputError, match="the teacher knows t1n, t1c, the student t1n, t1c, t2w, t2f"):
        Student(network(), teacher=network(1, MODALITIES[:2]))


@pytest.mark.parametrize(("subset", "told"), [("t9", "names 't9'"), ("", "is empty")])
def test_a_subset_that_nobody_has_is_refused(subset, told):
    with pytest.raises(InputError, match=told):
        Student(network(), teacher=network(1), subset=subset)


def test_a_subject_without_anything_of_the_subset_is_told():
    batch = random_batch()
    batch["present"][0] = only("t2f")
    with pytest.raises(InputError, match="nothing of t1n"):
        Student(network(), teacher=network(1), subset="t1n")(batch)
