"""What every training method promises: losses and schedule around a backbone, never inside it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from monai.losses import DiceLoss
from torch import Tensor, nn

from mtg_lab.backbones import Backbone, Prediction, with_latents
from mtg_lab.errors import InputError


@dataclass(frozen=True)
class Losses:
    """The scalar that is minimised and its parts for the history."""

    total: Tensor
    parts: Mapping[str, Tensor]


class Method(nn.Module):
    """A way to train a backbone: forward takes a batch and returns its losses.

    The method holds the backbone as ``self.backbone`` so that one module can be handed to a data-parallel wrapper.
    Networks of the method's own (a frozen teacher, a discriminator) are further attributes.

    Class attributes:
        name: how recipes and the command line call it.
        needs_teacher: whether a trained run must be given.
        needs_latents: whether the backbone must have latents, one a modality.
        defaults: options and their default values.
    """

    name: ClassVar[str]
    needs_teacher: ClassVar[bool] = False
    needs_latents: ClassVar[bool] = False
    defaults: ClassVar[Mapping[str, Any]] = {}

    def __init__(self, backbone: Backbone, **options: Any):
        super().__init__()
        self.backbone = with_latents(backbone, f"method {self.name}") if self.needs_latents else backbone
        self.options = {**self.defaults, **options}
        self.segmentation = SegmentationLoss()

    def forward(self, batch: Mapping[str, Tensor]) -> Losses:
        """Losses of a batch: image [B, M, D, H, W], label [B, 1, D, H, W], present bool [B, M], draw int64 [B].

        ``progress``, where it is there, is the share of the steps that are done, a scalar.
        """
        raise TypeError(f"{type(self).__name__} must define forward(batch)")

    def warning(self, history: Sequence[Mapping[str, float]]) -> str | None:
        """One line if the rows of the history so far tell that training goes wrong; asked at every checkpoint."""
        return None

    def trained(self) -> Mapping[str, Tensor]:
        """The state that is kept when training ends: the backbone's."""
        return self.backbone.state_dict()


class SegmentationLoss(nn.Module):
    """Soft Dice plus class-weighted cross-entropy, with deep supervision where the backbone has auxiliary heads.

    The weight of class k is 1 - n_k / n, n_k of a batch's n voxels (RFNet, mmFormer, M2FTrans and PASSION; passion.md
    2.1). With equal weights a small network predicted no enhancing tumour in 6 of 15 runs of 1000 steps: once its
    probability is near zero, soft Dice has no gradient there, and background outvotes cross-entropy. Two things differ
    from the releases. They clamp probabilities at 0.005, below which cross-entropy has no gradient either; here nothing
    is clamped. They count voxels per crop, so that one without tumour weighs nothing; here a batch is counted, and Dice
    is taken over it (MONAI's, without background).

    Auxiliary logits l = 1, 2, ..., fine to coarse, are enlarged to the label's grid and weighted 2^-l, whatever their
    resolution (RFNet and M2FTrans have one more at full resolution); the weights of all terms sum to one (nnU-Net's
    rule, Isensee et al. 2021).
    """

    def __init__(self) -> None:
        super().__init__()
        # Over the batch, not per crop, so that a crop without a class does not dominate the gradient.
        self.dice = DiceLoss(to_onehot_y=True, include_background=False, batch=True)

    def forward(self, prediction: Prediction, label: Tensor) -> Tensor:
        """Scalar float32 for logits [B, K, D, H, W] and class indices [B, 1, D, H, W]."""
        weight = class_weights(label, prediction.logits.shape[1])
        shares = [2.0**-s for s in range(1 + len(prediction.aux))]
        total = shares[0] * self._one(prediction.logits.float(), label, weight)
        for share, aux in zip(shares[1:], prediction.aux, strict=True):
            enlarged = nn.functional.interpolate(
                aux.float(), size=label.shape[2:], mode="trilinear", align_corners=False
            )
            total = total + share * self._one(enlarged, label, weight)
        return total / sum(shares)

    def _one(self, logits: Tensor, label: Tensor, weight: Tensor) -> Tensor:
        logs = nn.functional.log_softmax(logits, dim=1)
        entropy = nn.functional.nll_loss(logs, label[:, 0], weight, reduction="sum") / label.numel()
        return self.dice(logs.exp(), label) + entropy


def class_weights(label: Tensor, classes: int) -> Tensor:
    """1 - n_k / n for each class [K]: the share of the voxels of ``label`` that are of another class."""
    return 1 - torch.bincount(label.flatten(), minlength=classes) / label.numel()


def checked_options(method: type[Method], options: Mapping[str, Any]) -> dict[str, Any]:
    """The method's defaults overlaid with ``options``.

    Raises:
        InputError: an option that the method does not take, or of another type.
    """
    for key, value in options.items():
        if key not in method.defaults:
            known = ", ".join(method.defaults) or "none"
            raise InputError(f"method {method.name} takes no option {key!r}; it takes: {known}")
        default = method.defaults[key]
        same = isinstance(value, bool) == isinstance(default, bool)
        if not same or not isinstance(value, float | int if isinstance(default, float | int) else type(default)):
            raise InputError(f"method {method.name}: {key} is {value!r}; its default is {default!r}, give that type")
    return {**method.defaults, **options}


def all_present(batch: Mapping[str, Tensor]) -> Tensor:
    """The mask bool [B, M] of what the subjects have."""
    return batch["present"].to(torch.bool)
