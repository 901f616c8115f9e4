"""What every training method promises, asked of each of them."""

import copy

import numpy as np
import pytest
import torch
from monai.losses import DiceCELoss

from mtg_lab.backbones import Prediction, build
from mtg_lab.errors import InputError
from mtg_lab.methods import METHODS, checked_options, find
from mtg_lab.methods.contract import SegmentationLoss

MODALITIES = ("t1n", "t1c", "t2w", "t2f")

every_method = pytest.mark.parametrize("name", METHODS)


def network(seed=0, method="dropout", modalities=MODALITIES, **options):
    """A U-Net, or what the method needs in its place."""
    torch.manual_seed(seed)
    usual = find(method).usual_backbone
    usual = "unet" if usual == "adamm" else usual  # AdaMM's terms compose with any network; see test_adamm
    return build(usual, modalities, 3, {"width": 4, "latent": 3, "depth": 2, **options})


def make(name, **options):
    method = find(name)
    teacher = {"teacher": network(seed=1)} if method.needs_teacher else {}
    return method(network(method=name), **teacher, **checked_options(method, options)).train()


def sample_batch(samples=2, size=8, seed=0):
    """Modality m of a voxel tells its class with a strength of its own."""
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(0, 3, (samples, 1, size // 4, size // 4, size // 4), generator=generator)
    for axis in (2, 3, 4):
        label = label.repeat_interleave(4, dim=axis)
    strength = torch.tensor([0.5, 2.0, 1.0, 1.5]).reshape(1, 4, 1, 1, 1)
    image = strength * label + 0.1 * torch.randn(samples, 4, size, size, size, generator=generator)
    return {
        "image": image,
        "label": label,
        "present": torch.ones(samples, 4, dtype=torch.bool),
        "draw": torch.randint(2**62, (samples,), generator=generator),
    }


@every_method
@pytest.mark.parametrize("count", [1, 2, 3, 5, 6, 7, 8])
def test_any_number_of_modalities_from_one_to_eight(name, count):
    """Also where a sample has one of them only."""
    names, method = [f"m{i}" for i in range(count)], find(name)
    teacher = {"teacher": network(modalities=names)} if method.needs_teacher else {}
    built = method(network(method=name, modalities=names), **teacher, **checked_options(method, {})).train()
    batch = sample_batch()
    batch["image"] = batch["image"].repeat(1, 2, 1, 1, 1)[:, :count]
    batch["present"] = torch.ones(2, count, dtype=torch.bool)
    batch["present"][1, 1:] = False
    losses = built(batch)
    losses.total.backward()
    found = numbers(losses)
    if count == 1:
        assert np.isnan(found.pop("relative_gap", np.nan)), "one modality has no gap"
    assert all(np.isfinite(value) for value in found.values())
    assert all(torch.isfinite(p.grad).all() for p in built.parameters() if p.grad is not None)


def numbers(losses):
    return {"total": float(losses.total.detach()), **{k: float(v) for k, v in losses.parts.items()}}


@every_method
def test_the_total_is_one_finite_number_that_teaches_the_backbone(name):
    method = make(name)
    losses = method(sample_batch())
    losses.total.backward()
    assert losses.total.shape == ()
    assert losses.total.dtype == torch.float32
    assert torch.isfinite(losses.total)
    gradients = {n: p.grad for n, p in method.backbone.named_parameters() if p.grad is not None}
    assert all(torch.isfinite(g).all() for g in gradients.values())
    taught = {n.removeprefix("trunk.") for n, g in gradients.items() if g.any()}
    assert {"head.weight", "encoders.0.conv1.conv.weight"} <= taught


@every_method
def test_parts_are_numbers_without_a_history(name):
    parts = make(name)(sample_batch()).parts
    assert "segmentation" in parts
    assert all(p.shape == () and not p.requires_grad for p in parts.values())
    assert "loss" not in parts, "the history has a column of that name"


@every_method
def test_the_same_batch_gives_the_same_loss(name):
    method = make(name)
    assert numbers(method(sample_batch())) == numbers(method(sample_batch()))


@every_method
def test_the_loss_falls_on_one_batch(name):
    method, batch = make(name), sample_batch()
    optimizer = torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], lr=1e-2)
    before = float(method(batch).total.detach())
    for _ in range(30):
        optimizer.zero_grad()
        method(batch).total.backward()
        optimizer.step()
    assert float(method(batch).total.detach()) < 0.8 * before


@every_method
def test_what_a_subject_lacks_is_never_looked_at(name):
    method, batch = make(name), sample_batch()
    batch["present"][0, 1] = batch["present"][1, 3] = False
    expected = numbers(method(batch))
    batch["image"][0, 1] = batch["image"][1, 3] = float("nan")
    assert numbers(method(batch)) == pytest.approx(expected, nan_ok=True)


@every_method
def test_the_loss_depends_on_the_draw_alone_where_chance_plays(name):
    """No generator of the process is read: a resumed run goes on with the same subsets."""
    method, batch = make(name), sample_batch()
    torch.manual_seed(1)
    once = numbers(method(batch))
    torch.manual_seed(2)
    assert numbers(method(batch)) == once


@every_method
def test_bf16_is_close_to_float32(name):
    decisions = {"gate": "off"} if "gate" in find(name).defaults else {}  # rounding may turn a gate
    method, batch = make(name, **decisions), sample_batch()
    exact = float(method(batch).total.detach())
    with torch.autocast("cpu", torch.bfloat16):
        losses = method(batch)
    assert losses.total.dtype == torch.float32
    assert float(losses.total.detach()) == pytest.approx(exact, rel=0.05)


@every_method
def test_auxiliary_heads_are_taught_where_the_backbone_has_them(name):
    method = find(name)
    teacher = {"teacher": network(seed=1)} if method.needs_teacher else {}
    supervised = method(network(method=name, aux_heads=1), **teacher)
    supervised(sample_batch()).total.backward()
    (head,) = getattr(supervised.backbone, "trunk", supervised.backbone).aux
    assert head.weight.grad.any()


def answer(logits, *aux):
    return Prediction(logits, logits, aux)


def noisy(seed=0, size=6):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, 4, size, size, size, generator=generator)
    return logits, torch.randint(0, 4, (2, 1, size, size, size), generator=generator)


def test_every_label_as_a_region_is_the_loss_of_monai():
    logits, label = noisy()
    expected = DiceCELoss(to_onehot_y=True, softmax=True, include_background=False, batch=True)(logits, label)
    torch.testing.assert_close(SegmentationLoss()(answer(logits), label), expected)
    apart = {"a": (1,), "b": (2,), "c": (3,)}
    torch.testing.assert_close(SegmentationLoss(apart)(answer(logits), label), expected)


def test_a_region_is_the_sum_of_its_labels_probabilities():
    """Dice by hand from probabilities, cross-entropy from torch."""
    logits, label = noisy()
    p, y = logits.softmax(dim=1), torch.nn.functional.one_hot(label[:, 0], 4).movedim(-1, 1).float()
    terms = []
    for members in ((1, 2, 3), (1, 3), (3,)):
        inside, truth = (x[:, list(members)].sum(dim=1) for x in (p, y))
        terms.append(1 - 2 * (inside * truth).sum() / (inside.sum() + truth.sum()))
    expected = sum(terms) / 3 + torch.nn.functional.cross_entropy(logits, label[:, 0])
    brats = {"WT": (1, 2, 3), "TC": (1, 3), "ET": (3,)}
    torch.testing.assert_close(SegmentationLoss(brats)(answer(logits), label), expected)


def test_auxiliary_logits_count_half_of_the_finer_ones():
    logits, label = noisy()
    coarse, _ = noisy(1, 3)
    enlarged = torch.nn.functional.interpolate(coarse, size=(6, 6, 6), mode="trilinear")
    alone = [SegmentationLoss()(answer(x), label) for x in (logits, enlarged)]
    torch.testing.assert_close(SegmentationLoss()(answer(logits, coarse), label), (alone[0] + alone[1] / 2) / 1.5)


def test_what_is_right_about_the_core_is_right_whatever_the_labels_in_it():
    """All core called necrosis: the Dice of whole tumour and core is perfect, only the enhancing part costs."""
    label = torch.zeros(1, 1, 8, 8, 8, dtype=torch.long)
    label[..., :4, :] = 1
    label[..., :2, :] = 3
    guess = torch.where(label > 0, 1, 0)
    logits = 40.0 * torch.nn.functional.one_hot(guess[:, 0], 4).movedim(-1, 1)
    loss = SegmentationLoss({"WT": (1, 2, 3), "TC": (1, 3), "ET": (3,)})
    entropy = torch.nn.functional.cross_entropy(logits, label[:, 0])
    assert float(loss(answer(logits), label) - entropy) == pytest.approx(1 / 3, abs=1e-4)


def step(method, batch, number):
    """What the loop does but for the optimiser; the columns of the history."""
    losses = method(batch)
    losses.total.backward()
    row = method.after_backward(losses.statistics, number, 4)
    assert not set(row) & set(losses.parts)
    assert all(v.shape == () and not v.requires_grad for v in row.values())
    return numbers(losses) | {k: float(v) for k, v in row.items()}


@every_method
def test_asking_for_losses_changes_no_state_and_statistics_have_no_history(name):
    method = make(name)
    before = {k: v.clone() for k, v in method.state_dict().items()}
    losses = method(sample_batch())
    assert not any(v.requires_grad for v in losses.statistics.values())
    assert all(torch.equal(before[k], v) for k, v in method.state_dict().items())


@every_method
def test_whatever_moves_is_in_the_checkpoint(name):
    """One that loads the state of another goes on as that one does."""
    method = make(name)
    method.prepare(torch.tensor([[True, True, True, False], [True, False, True, True]]))
    for number in range(2):
        step(method, sample_batch(seed=number), number)
    loaded = make(name)
    loaded.load_state_dict(method.state_dict())
    for number in (2, 3):
        batch = sample_batch(seed=number)
        batch["present"][0, 1] = False
        assert step(loaded, batch, number) == pytest.approx(step(method, batch, number), nan_ok=True)


@every_method
def test_only_the_backbone_is_kept(name):
    method = make(name)
    assert set(method.trained()) == set(network(method=name).state_dict())


@pytest.mark.parametrize("name", [n for n, m in METHODS.items() if m.needs_teacher])
def test_the_teacher_neither_learns_nor_leaves_eval_mode(name):
    method = make(name)
    before = copy.deepcopy(method.teacher.state_dict())
    optimizer = torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], lr=0.1, weight_decay=0.1)
    for _ in range(3):
        method.train()
        assert not any(m.training for m in method.teacher.modules())
        method(sample_batch()).total.backward()
        optimizer.step()
    assert all(p.grad is None and not p.requires_grad for p in method.teacher.parameters())
    after = method.teacher.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert method.backbone.training


# --- options ----------------------------------------------------------------------------------------------------------


def test_an_unknown_method_is_told_which_there_are():
    with pytest.raises(InputError, match="unknown method 'magic'; there are: complete, dropout"):
        find("magic")


@every_method
def test_an_unknown_option_is_told_which_there_are(name):
    with pytest.raises(InputError, match=f"method {name} takes no option 'colour'; it takes: "):
        checked_options(find(name), {"colour": 1})


@every_method
def test_an_option_of_another_type_is_refused(name):
    for key, default in find(name).defaults.items():
        wrong = "much" if not isinstance(default, str) else 3
        with pytest.raises(InputError, match=f"method {name}: {key} is {wrong!r}"):
            checked_options(find(name), {key: wrong})
        assert checked_options(find(name), {key: default}) == dict(find(name).defaults)


def test_a_whole_number_is_a_float_but_truth_is_no_number():
    assert checked_options(find("aligned_teacher"), {"align_weight": 1})["align_weight"] == 1
    for wrong in ({"align_weight": True}, {"normalise": 1}):
        with pytest.raises(InputError, match="give that type"):
            checked_options(find("aligned_teacher"), wrong)
