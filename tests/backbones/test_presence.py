"""The presence head and the gate."""

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from mtg_lab.backbones.presence import PresenceHead, gated, groups_of, small_norm


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


presences = st.lists(st.floats(-20, 20, width=32), min_size=3, max_size=3)


@settings(deadline=None, max_examples=50)
@given(presences, st.integers(0, 2**20))
def test_a_hard_gate_leaves_the_order_of_the_others_and_no_voxel_of_the_closed(told, seed):
    logits, presence = noise(1, 4, 3, 3, 3, seed=seed), torch.tensor([told])
    answer = gated(logits, presence, "hard")
    closed = [k for k, value in enumerate(told, start=1) if value <= 0]
    opened = [k for k in range(4) if k not in closed]
    torch.testing.assert_close(answer[:, opened], logits[:, opened], rtol=0, atol=0)
    assert not torch.isin(answer.argmax(dim=1), torch.tensor(closed)).any()


@settings(deadline=None, max_examples=50)
@given(presences, st.integers(0, 2**20))
def test_a_soft_gate_multiplies_probabilities(told, seed):
    logits, presence = noise(1, 4, 2, 2, 2, seed=seed).double(), torch.tensor([told]).double()
    factors = torch.cat([torch.ones(1, 1, dtype=torch.float64), presence.sigmoid()], dim=1)[..., None, None, None]
    expected = logits.softmax(dim=1) * factors
    torch.testing.assert_close(gated(logits, presence, "soft").softmax(dim=1), expected / expected.sum(1, keepdim=True))


def test_an_open_gate_and_a_network_that_does_not_tell_change_nothing():
    logits = noise(2, 4, 2, 2, 2)
    assert gated(logits, torch.full((2, 3), -9.0), "off") is logits
    assert gated(logits, None, "hard") is logits


def test_one_half_is_not_enough():
    """AdaMM closes a class whose presence is at most one half."""
    assert not (gated(noise(1, 2, 4, 4, 4), torch.zeros(1, 1), "hard").argmax(dim=1) == 1).any()


def test_the_head_answers_the_mean_over_voxels():
    torch.manual_seed(0)
    head, features = PresenceHead(8, 4), noise(2, 8, 5, 4, 3)
    expected = head.tell(head.look(features)).flatten(2).mean(dim=2)
    torch.testing.assert_close(head(features), expected)


@pytest.mark.parametrize(("norm", "blind"), [("instance", True), ("group", True), ("none", False)])
def test_a_norm_of_single_channels_hides_how_strong_the_answer_is(norm, blind):
    """Features five times as strong: after such a norm the head says the same."""
    torch.manual_seed(0)
    head, features = PresenceHead(8, 4, norm), noise(2, 8, 6, 6, 6)
    head.look[0].bias.data.zero_()
    said, louder = head(features), head(5 * features)
    assert torch.allclose(said, louder, atol=1e-3) is blind


@pytest.mark.parametrize(("channels", "groups"), [(1, 1), (4, 4), (8, 8), (12, 6), (16, 8), (100, 5)])
def test_groups_divide_the_channels(channels, groups):
    assert groups_of(channels) == groups


@pytest.mark.parametrize("kind", ["group", "instance", "batch"])
@pytest.mark.parametrize("dimensions", [1, 3])
def test_every_small_norm_normalises(kind, dimensions):
    x = 3 + 5 * noise(4, 16, *((6,) * dimensions))
    answer = small_norm(kind, 16, dimensions).train()(x)
    assert float(answer.mean()) == pytest.approx(0, abs=1e-4)
    assert float(answer.std()) == pytest.approx(1, abs=0.05)
