"""PASSION on every backbone and as an add-on: who teaches whom, who is gated, what moves and what does not."""

import math

import pytest
import torch

from mtg_lab.backbones import build
from mtg_lab.balancing import relative_preference
from mtg_lab.errors import InputError
from mtg_lab.methods import AlignedTeacher, BalancedStudent, BalancedTeacher, Passion, checked_options
from mtg_lab.methods.contract import Fusion
from mtg_lab.methods.settings import SETTINGS
from mtg_lab.methods.students import one_hot_students, true_class_score
from tests.backbones.test_contract import TINY, WITH_LATENTS

MODALITIES = ("t1n", "t1c", "t2w", "t2f")
# Every third sample has one modality; nobody has t2f but the first.
SOME = torch.tensor([[True, True, True, True], [True, True, False, False], [False, True, False, False]])
OFF = {"uni_weight": 0.0, "pixel_weight": 0.0, "semantic_weight": 0.0}

every_backbone = pytest.mark.parametrize("name", WITH_LATENTS)


def network(name="unet", seed=0, **options):
    torch.manual_seed(seed)
    return build(name, MODALITIES, 3, TINY[name] | options)


def random_batch(seed=0, present=SOME, size=8):
    generator = torch.Generator().manual_seed(seed)
    samples = len(present)
    return {
        "image": torch.randn(samples, 4, size, size, size, generator=generator),
        "label": torch.randint(0, 3, (samples, 1, size, size, size), generator=generator),
        "present": present.clone(),
        "draw": torch.randint(2**62, (samples,), generator=generator),
    }


def one(batch, b):
    return {k: v[b : b + 1] for k, v in batch.items()}


def fused(backbone, batch, setting="idt"):
    encoded, present = SETTINGS[setting].masks(batch["present"], batch["draw"])
    latents = backbone.encode(batch["image"], encoded)
    return Fusion(latents, encoded, present, backbone.decode(latents, present))


def finish(method, losses, step=0, steps=300):
    """One step of the loop, its gradients included."""
    losses.total.backward()
    return {k: float(v) for k, v in method.after_backward(losses.statistics, step, steps).items()}


# --- students ---------------------------------------------------------------------------------------------------------


@every_backbone
def test_a_student_is_the_network_with_that_modality_alone(name):
    backbone, batch = network(name).eval(), random_batch()
    students = one_hot_students(backbone, fused(backbone, batch))
    pairs = list(zip(students.sample.tolist(), students.modality.tolist()))
    assert sorted(pairs) == [tuple(p) for p in SOME.nonzero().tolist()]
    for row, (b, m) in enumerate(pairs):
        alone = torch.eye(4, dtype=torch.bool)[[m]]
        expected = backbone(batch["image"][[b]], alone)
        torch.testing.assert_close(students.prediction.logits[[row]], expected.logits, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(students.prediction.features[[row]], expected.features, rtol=1e-3, atol=1e-4)
        assert len(students.prediction.aux) == len(expected.aux)


def test_encoders_run_once_and_students_are_decoded_together(monkeypatch):
    method, calls = Passion(network()), {"encode": 0, "decode": 0, "decode_alone": 0}
    for what in calls:
        original = getattr(method.backbone, what)

        def counted(*arguments, what=what, original=original):
            calls[what] += 1
            return original(*arguments)

        monkeypatch.setattr(method.backbone, what, counted)
    method(random_batch())
    assert calls == {"encode": 1, "decode": 1, "decode_alone": 1}


def test_whoever_has_one_modality_is_its_own_student_and_is_not_decoded_again():
    backbone, batch = network(), one(random_batch(), 2)
    fusion = fused(backbone, batch)
    backbone.decode = None  # nobody may call it
    students = one_hot_students(backbone, fusion)
    assert students.decoded == 0
    assert students.prediction.logits.equal(fusion.prediction.logits)


def test_a_score_is_the_mean_over_classes_of_the_true_class():
    """Three voxels of class 0 told with 1/2, one of class 1 told with 3/4: mean of 1/2 and 3/4."""
    backbone, batch = network(), random_batch(present=SOME[:1])
    students = one_hot_students(backbone, fused(backbone, batch)).apart()
    label = torch.zeros(1, 1, 1, 1, 4, dtype=torch.long)
    label[..., 3] = 1
    logits = torch.tensor([[[0.0, 0, 0, math.log(1 / 3)], [0, 0, 0, 0]]]).reshape(1, 2, 1, 1, 4)
    told = type(students.prediction)(logits.expand(4, -1, -1, -1, -1), logits)
    students = type(students)(students.sample, students.modality, told, 4, students.mask)
    assert true_class_score(students, label).tolist() == pytest.approx([(0.5 + 0.75) / 2] * 4)


# --- settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_say_what_is_encoded_and_what_is_looked_at(name):
    available = torch.tensor([[True, True, True, True], [True, True, False, False]]).repeat(50, 1)
    draw = torch.randint(2**62, (100,), generator=torch.Generator().manual_seed(0))
    encoded, present = SETTINGS[name].masks(available, draw)
    assert present.any(dim=1).all()
    assert not (present & ~encoded).any()
    assert not (encoded & ~available).any()
    assert encoded.equal(available) == (name != "idt_drop")
    assert present.equal(available) == (name == "idt")
    assert {tuple(r) for r in present[1::2].tolist()} == (
        {(True, True, False, False)} if name == "idt" else
        {(True, False, False, False), (False, True, False, False), (True, True, False, False)}
    )  # fmt: skip


def test_in_perfect_data_training_a_modality_that_was_not_drawn_has_a_student_too():
    method, batch = Passion(network(), setting="pdt"), random_batch(present=torch.ones(3, 4, dtype=torch.bool))
    row = finish(method, method(batch))
    assert all(math.isfinite(row[f"student_{m}"]) for m in MODALITIES)
    dropped = Passion(network(), setting="idt_drop")
    missed = SETTINGS["idt_drop"].masks(batch["present"], batch["draw"])[0].any(dim=0)
    row = finish(dropped, dropped(batch))
    assert [math.isfinite(row[f"student_{m}"]) for m in MODALITIES] == missed.tolist()


def test_weights_follow_the_files_and_the_draws():
    available = torch.tensor([[True, True, False, False]] * 3 + [[True, False, False, False]])
    settings = (("idt", True), ("idt_drop", True), ("idt", False))
    plain, dropping, without = (Passion(network(), setting=s, inverse_frequency=f) for s, f in settings)
    for method in (plain, dropping, without):
        method.prepare(available)
    assert plain.weights.tolist() == pytest.approx([1, 4 / 3, 1, 1])
    # Of two, each is in two of three subsets: t1n in 3/4 x 2/3 + 1/4, t1c in 3/4 x 2/3.
    assert dropping.weights.tolist() == pytest.approx([4 / 3, 2, 1, 1])
    assert without.weights.tolist() == [1, 1, 1, 1]


# --- losses -----------------------------------------------------------------------------------------------------------


@every_backbone
@pytest.mark.parametrize("decoder", [False, True])
def test_it_trains_every_backbone_through_the_contract(name, decoder):
    options = {"uni_decoder": True} if decoder and name in ("rfnet", "mmformer", "m2ftrans") else {}
    method = Passion(network(name, **options), gate="off").train()
    row = finish(method, method(random_batch()))
    assert all(math.isfinite(v) for v in row.values())
    gradients = {n: p.grad for n, p in method.backbone.named_parameters() if p.grad is not None}
    assert all(torch.isfinite(g).all() for g in gradients.values())
    assert any(g.any() for n, g in gradients.items() if n.startswith("uni.")) == bool(options)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.isfinite(method(random_batch()).total)


def test_without_its_terms_it_is_the_method_below():
    batch = random_batch()
    silent, below = BalancedTeacher(network(), **OFF), AlignedTeacher(network())
    quiet, plain = silent(batch), below(batch)
    assert torch.equal(quiet.total, plain.total)
    quiet.total.backward()
    plain.total.backward()
    for ours, theirs in zip(silent.backbone.parameters(), below.backbone.parameters(), strict=True):
        assert (ours.grad is None) == (theirs.grad is None)
        assert ours.grad is None or torch.equal(ours.grad, theirs.grad)
    loud = BalancedTeacher(network())(batch)
    for name, measured in loud.statistics.items():
        torch.testing.assert_close(quiet.statistics[name], measured, equal_nan=True)


@pytest.mark.parametrize("setting", ["idt", "pdt"])
@pytest.mark.parametrize("name", ["unet", "rfnet"])
def test_two_samples_in_one_batch_are_the_mean_of_two_batches(name, setting):
    batch, method = random_batch(), Passion(network(name), setting=setting, published_loss=True)
    method.prepare(SOME)
    together = method(batch)
    alone = [method(one(batch, b)) for b in range(3)]
    torch.testing.assert_close(together.total, sum(a.total for a in alone) / 3, rtol=1e-4, atol=1e-5)
    for key, value in together.statistics.items():
        expected = sum(a.statistics[key] for a in alone) / 3
        torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-5, msg=key)


@pytest.mark.parametrize("gate", ["lagging", "leading"])
def test_a_single_modality_has_no_gate_and_nothing_undefined(gate):
    """Student and teacher are one; the release divides zero by zero."""
    method, batch = Passion(network(), gate=gate), one(random_batch(), 2)
    losses = method(batch)
    torch.testing.assert_close(losses.total, losses.parts["segmentation"])
    assert all(torch.isfinite(v).all() for v in losses.statistics.values())
    assert not losses.statistics["gate"].any()
    assert not losses.statistics["compared"].any()
    row = finish(method, losses)
    assert (row["coefficient_t1c"], row["preference_t1c"], row["gate_t1c"]) == (1, 0, 0)
    assert math.isnan(row["student_t2f"]), "who is not there has no loss, not a loss of zero"


def test_the_encoder_of_what_is_missing_learns_nothing():
    present = SOME.clone()
    present[0, 3] = False
    method = Passion(network())
    method(random_batch(present=present)).total.backward()
    encoders = method.backbone.encoders
    assert all(p.grad is None or not p.grad.any() for p in encoders[3].parameters())
    assert any(p.grad is not None and p.grad.any() for p in encoders[0].parameters())


def test_the_teacher_is_not_pulled_to_its_students():
    """Of the sample that is its own student, too: zeros."""
    backbone, batch = network(), random_batch()
    fusion = fused(backbone, batch)
    for tensor in (fusion.prediction.logits, fusion.prediction.features):
        tensor.retain_grad()
    method = Passion(backbone, gate="off")
    pixel, semantic, _ = method._distilled(fusion, one_hot_students(backbone, fusion).apart(), batch["label"])
    (pixel.sum() + semantic.sum()).backward()
    for tensor in (fusion.prediction.logits, fusion.prediction.features):
        assert tensor.grad is None or not tensor.grad.any()
    assert backbone.head.weight.grad.any(), "the students share the weights"


def test_laggards_alone_get_the_gated_terms():
    batch = random_batch(present=SOME[:2])
    lagging, leading = (Passion(network(), gate=g)(batch) for g in ("lagging", "leading"))
    counted, distance = lagging.statistics["compared"], lagging.statistics["distance"]
    assert torch.equal(distance, leading.statistics["distance"])
    gates = lagging.statistics["gate"] + leading.statistics["gate"]
    torch.testing.assert_close(gates, counted)  # one or the other, unless exactly at the mean
    alone = Passion(network())(one(batch, 0)).statistics
    assert alone["gate"].tolist() == (relative_preference(alone["distance"], SOME[0]) < 0).float().tolist()


def test_the_figure_gates_the_semantic_term_alone():
    batch, backbone = random_batch(), network()
    everybody = Passion(backbone, gate="off")(batch).parts
    release, figure = Passion(backbone)(batch).parts, Passion(backbone, gate_supervision=False)(batch).parts
    torch.testing.assert_close(figure["uni_modal"], everybody["uni_modal"])
    torch.testing.assert_close(figure["semantic"], release["semantic"])
    assert release["uni_modal"] < everybody["uni_modal"]
    assert release["semantic"] < everybody["semantic"]
    assert release["pixel"] == figure["pixel"] == everybody["pixel"]


def test_coefficients_multiply_supervision_in_the_release_and_pixels_only_in_the_figure():
    batch = random_batch()
    for weigh, factor in ((True, 2.0), (False, 1.0)):
        method = Passion(network(), weigh_supervision=weigh)
        before = method(batch).parts
        method.coefficient.fill_(2.0)
        after = method(batch).parts
        torch.testing.assert_close(after["uni_modal"], factor * before["uni_modal"])
        torch.testing.assert_close(after["pixel"], 2 * before["pixel"])
        torch.testing.assert_close(after["semantic"], before["semantic"])


def test_rarity_multiplies_all_three_terms():
    batch = random_batch()
    method = Passion(network())
    before = method(batch).parts
    method.weights.fill_(3.0)
    after = method(batch).parts
    for term in ("uni_modal", "pixel", "semantic"):
        torch.testing.assert_close(after[term], 3 * before[term])


def test_the_total_is_the_sum_that_the_docstring_writes():
    method = Passion(network(), uni_weight=0.7, pixel_weight=0.3, semantic_weight=2.0)
    losses = method(random_batch())
    p = losses.parts
    expected = p["segmentation"] + 0.7 * p["uni_modal"] + 0.3 * p["pixel"] + 2 * p["semantic"]
    torch.testing.assert_close(losses.total.detach(), expected)


def test_at_the_start_each_modality_may_learn_alone():
    method = Passion(network(), fusion_start=0.2)
    early, late = (random_batch() | {"progress": torch.tensor(p)} for p in (0.1, 0.2))
    start, then = method(early), method(late)
    assert start.total.detach() == start.parts["uni_modal"]
    assert start.parts["uni_modal"] > then.parts["uni_modal"], "nobody is gated yet"
    row = finish(method, start, 30, 300)
    assert not method.counts.any()
    assert [row[f"coefficient_{m}"] for m in MODALITIES] == [1] * 4


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"gate": "up"}, "gate is 'up'"),
        ({"distance": "l3"}, "distance is 'l3'"),
        ({"setting": "all"}, "setting is 'all'; it can be pdt, idt, idt_drop"),
        ({"updates": 0}, "updates is 0; it must be at least 1"),
    ],
)
def test_a_bad_option_is_refused_before_training(options, told):
    with pytest.raises(InputError, match=told):
        Passion(network(), **checked_options(Passion, options))


# --- what moves -------------------------------------------------------------------------------------------------------


def test_asking_for_losses_changes_nothing():
    method = Passion(network())
    before = {k: v.clone() for k, v in method.state_dict().items()}
    method(random_batch())
    assert all(torch.equal(before[k], v) for k, v in method.state_dict().items())


def statistics(distance, counted):
    blank = dict.fromkeys(("student", "pixel", "semantic", "gate"), torch.zeros(4))
    return {"distance": torch.tensor(distance), "compared": torch.tensor(counted), "encoded": torch.ones(4), **blank}


def test_preference_is_taken_over_the_time_between_two_updates():
    """Two steps an update: sums 2, 3, 1, 0 over 1, 1.5, 1, 0 samples are means 2, 2, 1: RP = -1/5, -1/5, 2/5."""
    method = Passion(network(), updates=2)
    method.after_backward(statistics([1.0, 1, 1, 0], [0.5, 0.5, 1, 0]), 0, 4)
    assert not method.preference.any()
    row = method.after_backward(statistics([1.0, 2, 0, 0], [0.5, 1, 0, 0]), 1, 4)
    expected = [-0.2, -0.2, 0.4, 0]
    assert [float(row[f"preference_{m}"]) for m in MODALITIES] == pytest.approx(expected, abs=1e-6)
    assert not method.distances.any()
    assert not method.counts.any()
    beta = 1 - 0.015 * torch.tensor(expected)
    torch.testing.assert_close(method.coefficient, beta * 2 / beta.norm())


@pytest.mark.parametrize("steps", [10, 300, 1000])
def test_coefficients_travel_as_far_in_a_short_run_as_in_a_long_one(steps):
    method = Passion(network())
    for step in range(steps):
        method.after_backward(statistics([1.3, 1.0, 0.9, 0.8], [1.0, 1, 1, 1]), step, steps)
    assert method.coefficient.tolist() == pytest.approx([1.93, 0.51, 0.10, 0.10], abs=0.005)


def test_coefficients_can_stay():
    method = Passion(network(), coefficients=False)
    row = method.after_backward(statistics([1.3, 1.0, 0.9, 0.8], [1.0, 1, 1, 1]), 0, 1)
    assert method.coefficient.tolist() == [1] * 4
    assert float(row["preference_t1n"]) == pytest.approx(-0.3)


# --- as an add-on -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("balanced", [BalancedTeacher, BalancedStudent])
def test_it_adds_to_another_method_what_it_adds_to_its_own(balanced):
    teacher = {"teacher": network(seed=1)} if balanced.needs_teacher else {}
    batch = random_batch()
    method, silent = balanced(network(), **teacher), balanced(network(), **teacher, **OFF)
    losses, parts = method(batch), method(batch).parts
    added = parts["uni_modal"] + 0.5 * parts["pixel"] + 0.1 * parts["semantic"]
    torch.testing.assert_close(losses.total.detach(), silent(batch).total.detach() + added)
    assert set(balanced.defaults) > set(balanced.__mro__[2].defaults)
    assert {f"preference_{m}" for m in MODALITIES} < set(finish(method, losses))


def test_a_method_that_hands_out_nothing_cannot_be_balanced():
    from mtg_lab.methods import Complete
    from mtg_lab.methods.passion import Balanced

    class Wrong(Balanced, Complete):
        name = "wrong"

    with pytest.raises(TypeError, match="method wrong returns no fusion"):
        Wrong(network())(random_batch())


def test_a_balanced_specialist_is_weighted_by_the_files_and_a_generalist_by_its_draws():
    available = torch.ones(5, 4, dtype=torch.bool)
    for subset, expected in (("t1n+t2w", 1.0), ("any", 15 / 8)):
        method = BalancedStudent(network(), teacher=network(seed=1), subset=subset)
        method.prepare(available)
        assert method.weights.tolist() == pytest.approx([expected] * 4)
