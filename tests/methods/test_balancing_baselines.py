"""What PASSION is compared with: dropout within what is there, weights by rarity, prototypes, gradients."""

import math

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import assume, given

from mtg_lab.methods import Dropout, GradientModulation, InverseFrequency, PrototypeModulation
from mtg_lab.methods.gradient_modulation import encoder_parameters, modulation_factors
from mtg_lab.methods.prototype_modulation import others_over_own
from mtg_lab.methods.students import Students
from tests.methods.test_passion import MODALITIES, SOME, every_backbone, finish, network, one, random_batch

# --- modality dropout in incomplete data ------------------------------------------------------------------------------


def test_dropout_draws_within_what_a_subject_has():
    method, masks = Dropout(network()), []
    forward = method.backbone.forward
    method.backbone.forward = lambda images, present: masks.append(present) or forward(images, present)
    with torch.no_grad():
        for seed in range(40):
            method(random_batch(seed))
    drawn = torch.stack(masks)
    assert not (drawn & ~SOME).any()
    assert {tuple(m) for m in drawn[:, 1].tolist()} == {
        (True, False, False, False), (False, True, False, False), (True, True, False, False),
    }  # fmt: skip


# --- rarity -----------------------------------------------------------------------------------------------------------


def test_supervision_of_a_rare_modality_weighs_more():
    method, plain = InverseFrequency(network()), InverseFrequency(network(), power=0.0)
    for built in (method, plain):
        built.prepare(torch.tensor([[True, True, False, False]] * 3 + [[True, False, True, False]]))
    assert method.weights.tolist() == pytest.approx([1, 4 / 3, 4, 1])
    assert plain.weights.tolist() == [1] * 4
    batch = one(random_batch(), 1)  # t1n and t1c
    weighted, unweighted = method(batch), plain(batch)
    first, second = unweighted.statistics["student"][:2]
    torch.testing.assert_close(unweighted.parts["uni_modal"], first + second)
    torch.testing.assert_close(weighted.parts["uni_modal"], first + 4 / 3 * second)
    torch.testing.assert_close(weighted.total.detach(), weighted.parts["segmentation"] + weighted.parts["uni_modal"])


# --- prototypes -------------------------------------------------------------------------------------------------------


def test_prototypes_start_as_the_first_means_and_then_move_slowly():
    method = PrototypeModulation(network(), momentum=0.75)
    first, second = method(random_batch(0)), method(random_batch(1))
    assert first.parts["prototypical"] == 0, "nothing is known yet"
    means = [x.statistics["sums"] / x.statistics["counts"].clamp_min(1e-9)[..., None] for x in (first, second)]
    finish(method, first)
    torch.testing.assert_close(method.prototypes, means[0])
    assert method.seen.all()
    finish(method, second)
    torch.testing.assert_close(method.prototypes, 0.75 * means[0] + 0.25 * means[1])


def test_a_prototype_stays_where_nobody_has_its_modality():
    method = PrototypeModulation(network())
    finish(method, method(random_batch()))
    before = method.prototypes.clone()
    finish(method, method(one(random_batch(1), 1)))  # t1n and t1c
    assert method.prototypes[2:].equal(before[2:])
    assert not torch.equal(method.prototypes[0], before[0])


def test_a_voxel_is_told_by_its_distance_to_the_prototypes():
    """Prototypes at 0 and 4 on a line, features 1 (class 0) and 4 (class 1): softmax of -1, -3 and of -4, 0."""
    method = PrototypeModulation(network())
    method.prototypes, method.seen = torch.tensor([[[0.0], [4.0]]]), torch.ones(1, 2)
    features = torch.tensor([1.0, 4.0]).reshape(1, 1, 1, 1, 2)
    label = torch.tensor([0, 1]).reshape(1, 1, 1, 1, 2)
    zero = torch.zeros(1, dtype=torch.long)
    prediction = type(method.backbone(torch.zeros(1, 4, 8, 8, 8), SOME[:1]))(features, features)
    students = Students(zero, zero, prediction, 1, torch.ones(1, 1, dtype=torch.bool))
    loss, score, sums, counts = method._told_by_prototypes(students, label)
    chances = [1 / (1 + math.exp(-2)), 1 / (1 + math.exp(-4))]
    assert float(score) == pytest.approx(sum(chances) / 2, rel=1e-4)
    assert float(loss) == pytest.approx(-sum(map(math.log, chances)) / 2, rel=1e-4)
    torch.testing.assert_close(sums, features.reshape(1, 2, 1), rtol=1e-4, atol=0)
    assert counts.tolist() == [[1, 1]]


def test_one_known_class_tells_nothing():
    method = PrototypeModulation(network())
    method.seen[:, 0] = 1
    losses = method(random_batch())
    assert losses.parts["prototypical"] == 0
    losses.total.backward()
    assert all(torch.isfinite(p.grad).all() for p in method.parameters() if p.grad is not None)


def test_others_over_own_by_hand():
    """Scores 0.2, 0.4, 0.6: the first has others of 0.5 on average."""
    scores, counted = torch.tensor([0.2, 0.4, 0.6, 0.9]), torch.tensor([True, True, True, False])
    assert others_over_own(scores, counted).tolist() == pytest.approx([2.5, 1.0, 0.5, 1.0])
    assert others_over_own(scores, torch.tensor([True, False, False, False])).tolist() == [1] * 4


def test_slow_modalities_alone_are_pulled_and_the_single_one_never():
    method = PrototypeModulation(network())
    finish(method, method(random_batch()))
    modulation = method(one(random_batch(1), 0)).statistics
    scores = modulation["score"]
    assert (modulation["modulation"] > 0).tolist() == (scores < (scores.sum() - scores) / 3).tolist()
    assert not method(one(random_batch(1), 2)).statistics["modulation"].any()


# --- gradients --------------------------------------------------------------------------------------------------------


@every_backbone
def test_the_parameters_of_an_encoder_are_found_by_asking(name):
    backbone = network(name)
    names = {id(p): n for n, p in backbone.named_parameters()}
    for m, parameters in enumerate(encoder_parameters(backbone)):
        found = {names[id(p)] for p in parameters}
        assert found == {n for n in names.values() if n.startswith(f"encoders.{m}.")}
    assert backbone.training


def test_factors_by_hand():
    """rho = 2 and alpha = 1/2: 1 - tanh(1); who does not lead keeps its gradient."""
    own, others = torch.tensor([0.8, 0.4, 0.5, 0.0]), torch.tensor([0.4, 0.6, 0.5, 0.0])
    assert modulation_factors(own, others, 0.5).tolist() == pytest.approx([1 - math.tanh(1), 1, 1, 1])


@given(st.lists(st.floats(0, 1), min_size=2, max_size=5), st.floats(0, 3))
def test_a_factor_slows_down_and_never_turns(scores, alpha):
    own = torch.tensor(scores)
    assume(own.min() < 0.999 * own.max())
    factors = modulation_factors(own, (own.sum() - own) / (len(own) - 1), alpha)
    assert ((factors >= 0) & (factors <= 1)).all()
    assert factors[own.argmin()] == 1


def gradients(method, batch, step=0):
    losses = method(batch)
    losses.total.backward()
    before = {n: p.grad.clone() for n, p in method.backbone.named_parameters() if p.grad is not None}
    row = method.after_backward(losses.statistics, step, 10)
    after = {n: p.grad for n, p in method.backbone.named_parameters() if p.grad is not None}
    return before, after, {m: float(row[f"gradient_{m}"]) for m in MODALITIES}


def test_encoders_that_lead_are_slowed_down_and_nothing_else_is_touched():
    before, after, factors = gradients(GradientModulation(network(), noise=False), random_batch())
    assert 0 < sum(f < 1 for f in factors.values()) < 4
    for name, gradient in after.items():
        part, _, rest = name.partition(".")
        factor = factors[MODALITIES[int(rest[0])]] if part == "encoders" else 1.0
        torch.testing.assert_close(gradient, factor * before[name])


def test_noise_has_the_spread_of_the_gradient_and_is_drawn_from_the_samples():
    batch = random_batch()
    before, after, factors = gradients(GradientModulation(network()), batch)
    again = gradients(GradientModulation(network()), batch)[1]
    assert all(torch.equal(after[n], again[n]) for n in after)
    name = "encoders.0.conv2.conv.weight"
    noise = after[name] - factors["t1n"] * before[name]
    assert float(noise.std() / before[name].std()) == pytest.approx(1, abs=0.15)
    assert torch.equal(after["head.weight"], before["head.weight"])


def test_after_the_end_gradients_are_left_alone():
    before, after, factors = gradients(GradientModulation(network(), ends=0.5), random_batch(), step=5)
    assert all(torch.equal(after[n], before[n]) for n in after)
    assert set(factors.values()) == {1.0}
