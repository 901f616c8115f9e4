"""The loss terms of PASSION (Shi et al., ACM MM 2024, arXiv 2407.14796), each a function with one value a sample.

Shapes: B samples, K classes, C features, V voxels. Probabilities and one-hot targets are [B, K, ...]. Every term is
taken within a sample, so that two samples in one batch are the mean of two batches of one. Constants are the release's.
"""

from collections.abc import Sequence

import torch
from monai.networks import one_hot
from torch import Tensor, nn
from torch.nn import functional

from mtg_lab.backbones import Prediction
from mtg_lab.errors import InputError

NORMS = ("l1", "l2")
_FLOOR = 0.005  # probabilities below it are raised to it, and get no gradient


def weighted_cross_entropy(probabilities: Tensor, target: Tensor) -> Tensor:
    """-(1/V) sum_v sum_k w_k Y_kv log P_kv with w_k = 1 - (share of class k in the sample): [B]."""
    told = (target * probabilities.clamp(_FLOOR, 1).log()).flatten(2).mean(dim=2)
    return -((1 - target.flatten(2).mean(dim=2)) * told).sum(dim=1)


def dice_loss(probabilities: Tensor, target: Tensor) -> Tensor:
    """One minus soft Dice, averaged over all classes, background included: [B]; an absent class scores zero."""
    p, y = probabilities.flatten(2), target.flatten(2)
    overlap = 2 * (p * y).sum(dim=2) / (p.sum(dim=2) + y.sum(dim=2) + 1e-7)
    return 1 - overlap.mean(dim=1)


def base_loss(probabilities: Tensor, target: Tensor) -> Tensor:
    """Weighted cross-entropy plus soft Dice: [B]."""
    return weighted_cross_entropy(probabilities, target) + dice_loss(probabilities, target)


def deep_supervision(aux: Sequence[Tensor], target: Tensor) -> Tensor:
    """sum_l 2^-l base loss of auxiliary logits l = 1, 2, ..., fine to coarse, enlarged as probabilities: [B]."""
    total = target.new_zeros(len(target))
    for level, logits in enumerate(aux, start=1):
        total = total + 2.0**-level * base_loss(enlarged(logits.float().softmax(dim=1), target.shape[2:]), target)
    return total


class PublishedLoss(nn.Module):
    """The segmentation loss of PASSION's release in the place of the lab's: base loss and deep supervision."""

    def forward(self, prediction: Prediction, label: Tensor, together: bool = False) -> Tensor:
        """Scalar float32, the mean over samples, for logits [B, K, D, H, W] and class indices [B, 1, D, H, W].

        As it is a mean over samples, ``together`` has no part in it.
        """
        logits = prediction.logits.float()
        target = one_hot(label, logits.shape[1], dtype=torch.float32)
        return (base_loss(logits.softmax(dim=1), target) + deep_supervision(prediction.aux, target)).mean()


def softened(prediction: Prediction, temperature: float) -> list[Tensor]:
    """softmax(logits / T) of the logits and of every auxiliary map, enlarged to the logits' grid: each [B, K, ...]."""
    size = prediction.logits.shape[2:]
    maps = (prediction.logits, *prediction.aux)
    return [enlarged((x.float() / temperature).softmax(dim=1), size).clamp(_FLOOR, 1) for x in maps]


def pixel_distillation(student: Sequence[Tensor], teacher: Sequence[Tensor], temperature: float) -> Tensor:
    """T^2 KL(teacher || student), averaged over voxels **and classes**; auxiliary maps l count 2^-l: [B].

    That it is a mean over classes makes it 1/K of :func:`mtg_lab.distillation.logit_distillation`.

    Args:
        student, teacher: as :func:`softened` gives them; the teacher gets no gradient.
        temperature: T, the same.
    """
    total = student[0].new_zeros(len(student[0]))
    for level, (q, p) in enumerate(zip(student, teacher, strict=True)):
        p = p.detach()
        divergence = (p * (p.log() - q.log())).flatten(1).mean(dim=1)
        total = total + 2.0**-level * temperature**2 * divergence
    return total


def semantic_distillation(student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
    """Mean squared difference of similarity maps over all voxels and the classes that the sample has: [B].

    Args:
        student, teacher: similarity maps [B, K, V]; the teacher gets no gradient.
        target: one-hot [B, K, ...].
    """
    return _over_classes((student - teacher.detach()).square().mean(dim=2), target)


def semantic_distance(student: Tensor, teacher: Tensor, target: Tensor, norm: str = "l1") -> Tensor:
    """How far a student's similarity maps are from its teacher's, without gradient: [B].

    Args:
        student, teacher, target: as in :func:`semantic_distillation`.
        norm: ``l1`` the mean absolute difference (the release), ``l2`` the root mean square (the figure says L2).

    Raises:
        InputError: an unknown norm.
    """
    if norm not in NORMS:
        raise InputError(f"distance is {norm!r}; it can be {' or '.join(NORMS)}")
    difference = (student - teacher).detach()
    if norm == "l1":
        return _over_classes(difference.abs().mean(dim=2), target)
    return _over_classes(difference.square().mean(dim=2), target).sqrt()


def enlarged(x: Tensor, size: Sequence[int]) -> Tensor:
    """[B, K, d, h, w] on a finer grid, trilinear with aligned corners as in the release; no copy on its own grid."""
    if tuple(x.shape[2:]) == tuple(size):
        return x
    return functional.interpolate(x, tuple(size), mode="trilinear", align_corners=True)


def _over_classes(values: Tensor, target: Tensor) -> Tensor:
    """Mean of [B, K] over the classes of each sample."""
    there = target.flatten(2).any(dim=2)
    return (values * there).sum(dim=1) / there.sum(dim=1)
