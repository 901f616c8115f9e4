"""Presence terms by hand."""

import pytest
import torch

from mtg_lab.backbones import Prediction
from mtg_lab.methods.presence import dice_by_class, doubted_dice, presence_loss, presence_target, voxel_distance

LABEL = torch.tensor([0, 1, 1, 2]).reshape(1, 1, 1, 2, 2)


def prediction(probabilities, presence=None):
    """Of one sample, four voxels: rows are classes."""
    logits = torch.tensor(probabilities).log().reshape(1, -1, 1, 2, 2)
    return Prediction(logits, logits, presence=None if presence is None else torch.tensor([presence]).logit())


def test_presence_is_any_voxel():
    labels = torch.cat([LABEL, torch.zeros_like(LABEL)])
    assert presence_target(labels, 4).tolist() == [[1, 1, 0], [0, 0, 0]]


def test_presence_loss_is_cross_entropy():
    found = presence_loss(prediction([[0.25] * 4] * 4, presence=[0.5, 0.8, 0.1]), LABEL)
    expected = -torch.tensor([0.5, 0.8, 0.9]).log().mean()
    torch.testing.assert_close(found, expected)


def test_dice_is_that_of_squares():
    # class 1: p = .2 .6 .4 0 against 0 1 1 0 -> 2 * 1 / (.04 + .36 + .16 + 2); class 2: p = .3 .2 .1 1 against 0 0 0 1
    p = [[0.5, 0.2, 0.5, 1e-30], [0.2, 0.6, 0.4, 1e-30], [0.3, 0.2, 0.1, 1.0]]
    found = dice_by_class(prediction(p), LABEL)[0]
    torch.testing.assert_close(found, torch.tensor([1 - 2 / 2.56, 1 - 2 / (0.09 + 0.04 + 0.01 + 1 + 1)]))


def test_dice_says_nothing_against_what_is_invented():
    """The release's constant 1 for a class that is absent: no gradient, which is what the gate is for."""
    logits = torch.randn(1, 4, 1, 2, 2, generator=torch.Generator().manual_seed(0)).requires_grad_()
    lost = dice_by_class(Prediction(logits, logits), LABEL)[0, 2]
    assert lost.item() == 1
    lost.backward()
    assert not logits.grad.any()


def test_doubt_weighs_dice():
    p = [[0.25] * 4] * 4
    told = prediction(p, presence=[0.5, 0.8, 0.1])
    dice = dice_by_class(told, LABEL)[0]
    expected = 0.5 * dice[0] + 0.2 * dice[1] + 0.1 * dice[2]  # |q - y| for y = 1, 1, 0
    torch.testing.assert_close(doubted_dice(told, LABEL), expected)


def test_doubt_pushes_the_head():
    told = prediction([[0.25] * 4] * 4, presence=[0.5, 0.5, 0.5])
    told.presence.requires_grad_()
    doubted_dice(told, LABEL).backward()
    assert (told.presence.grad[0, :2] < 0).all()
    assert told.presence.grad[0, 2] > 0


def test_voxel_distance_sums_classes_and_averages_voxels():
    p = [[1.0, 0.5, 0.5, 1e-30], [1e-30, 0.5, 0.25, 1e-30], [1e-30, 1e-30, 0.25, 1.0]]
    # class 1 against 0 1 1 0: .5^2 + .75^2; class 2 against 0 0 0 1: .25^2; over four voxels
    expected = (0.25 + 0.5625 + 0.0625) / 4
    assert float(voxel_distance(prediction(p), LABEL)) == pytest.approx(expected)
    uniform = torch.full((1, 3, 1, 2, 2), 1 / 3)
    other = sum((torch.tensor(row) - 1 / 3).square().mean() for row in p[1:])
    assert float(voxel_distance(prediction(p), uniform)) == pytest.approx(float(other))
