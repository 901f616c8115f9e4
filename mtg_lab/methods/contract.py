"""What every training method promises: losses and schedule around a backbone, never inside it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from monai.losses import DiceCELoss
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
    """Soft Dice plus cross-entropy (MONAI's DiceCELoss), with deep supervision where the backbone has auxiliary heads.

    Auxiliary logits l = 1, 2, ..., fine to coarse, are enlarged to the label's grid and weighted 2^-l, whatever their
    resolution (RFNet and M2FTrans have one more at full resolution); the weights of all terms sum to one (nnU-Net's
    rule, Isensee et al. 2021).
    """

    def __init__(self) -> None:
        super().__init__()
        # Dice over the batch, not per crop, keeps a crop without a class from dominating the gradient.
        self.loss = DiceCELoss(to_onehot_y=True, softmax=True, include_background=False, batch=True, squared_pred=False)

    def forward(self, prediction: Prediction, label: Tensor) -> Tensor:
        """Scalar float32 for logits [B, K, D, H, W] and class indices [B, 1, D, H, W]."""
        weights = [2.0**-s for s in range(1 + len(prediction.aux))]
        total = weights[0] * self.loss(prediction.logits.float(), label)
        for weight, aux in zip(weights[1:], prediction.aux, strict=True):
            enlarged = nn.functional.interpolate(
                aux.float(), size=label.shape[2:], mode="trilinear", align_corners=False
            )
            total = total + weight * self.loss(enlarged, label)
        return total / sum(weights)


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
