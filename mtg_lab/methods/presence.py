"""Whether a crop shows a class: what teaches the head that tells, and what its doubt does to Dice (AdaMM's LGRM)."""

import torch
from torch import Tensor
from torch.nn import functional

from mtg_lab.backbones import Prediction


def presence_target(label: Tensor, classes: int) -> Tensor:
    """1 where a sample has any voxel of a class, else 0: [B, 1, D, H, W] to float32 [B, K - 1], background left out."""
    return torch.stack([(label == k).flatten(1).any(dim=1) for k in range(1, classes)], dim=1).float()


def presence_loss(prediction: Prediction, label: Tensor) -> Tensor:
    """Binary cross-entropy of the presence of every class, mean over samples and classes."""
    assert prediction.presence is not None
    target = presence_target(label, prediction.logits.shape[1])
    return functional.binary_cross_entropy_with_logits(prediction.presence.float(), target)


def dice_by_class(prediction: Prediction, label: Tensor) -> Tensor:
    """1 - 2 sum(p g) / (sum p^2 + sum g^2 + 1e-7) of every sample and class but background: [B, K - 1].

    AdaMM's Dice (release at f2e1733), with a softmax's probabilities. A class that a sample lacks gives the constant 1
    whatever is predicted, hence no gradient against inventing it.
    """
    classes = prediction.logits.shape[1]
    p = prediction.logits.float().softmax(dim=1)[:, 1:].flatten(2)
    g = functional.one_hot(label[:, 0], classes).movedim(-1, 1)[:, 1:].to(p.dtype).flatten(2)
    return 1 - 2 * (p * g).sum(dim=2) / (p.square().sum(dim=2) + g.sum(dim=2) + 1e-7)


def doubted_dice(prediction: Prediction, label: Tensor) -> Tensor:
    """sum_c |q_c - y_c| dice_c, mean over samples: what AdaMM's weight w_c = 1 + |q_c - y_c| adds to its Dice.

    q is the predicted presence and y the true one. q is not detached (as in the release): this term too pushes the
    head towards the truth.
    """
    assert prediction.presence is not None
    doubt = (prediction.presence.float().sigmoid() - presence_target(label, prediction.logits.shape[1])).abs()
    return (doubt * dice_by_class(prediction, label)).sum(dim=1).mean()


def voxel_distance(prediction: Prediction, target: Tensor) -> Tensor:
    """sum_c mean over samples and voxels of (p_c - target_c)^2, classes but background.

    Args:
        prediction: of the network that learns.
        target: probabilities [B, K, D, H, W] of a teacher, or class indices [B, 1, D, H, W].
    """
    p = prediction.logits.float().softmax(dim=1)
    if not target.is_floating_point():
        target = functional.one_hot(target[:, 0], p.shape[1]).movedim(-1, 1).to(p.dtype)
    return (p - target)[:, 1:].square().mean(dim=(0, 2, 3, 4)).sum()
