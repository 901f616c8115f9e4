"""What every network of the lab promises: it takes all modalities with a mask of those present, and returns logits.

Shapes: B samples, M modalities, C channels, K classes, D, H, W voxels.
"""

from dataclasses import dataclass, field
from typing import NewType

import torch
from torch import Tensor, nn

Latents = NewType("Latents", list[Tensor])  # over scales, fine to coarse: [B, M, C_s, d_s, h_s, w_s]


@dataclass(frozen=True)
class Prediction:
    """What a network answers.

    Attributes:
        logits: [B, K, D, H, W].
        aux: auxiliary logits for deep supervision, fine to coarse, each [B, K, d, h, w].
        features: the last feature map before the head, [B, C, D, H, W].
    """

    logits: Tensor
    features: Tensor
    aux: tuple[Tensor, ...] = field(default=())


class Backbone(nn.Module):
    """Any network that can miss a modality.

    Voxels of an absent modality never influence a result, whatever they hold, NaN included.
    """

    modalities: tuple[str, ...]

    def forward(self, images: Tensor, present: Tensor) -> Prediction:
        """Logits of ``images`` [B, M, D, H, W], of which only those with ``present`` bool [B, M] are looked at."""
        raise TypeError(f"{type(self).__name__} must define forward(images, present)")


class ModalityBackbone(Backbone):
    """A network with one encoder a modality, so that latents have a room of their own.

    Attributes:
        mixture: weights over modalities; absent latents are replaced by their mixture, and an aligning method uses
            the same weights for its anchor.
    """

    mixture: "Mixture"

    def encode(self, images: Tensor, present: Tensor) -> Latents:
        """Latents of every modality; those of an absent one are zero."""
        raise TypeError(f"{type(self).__name__} must define encode(images, present)")

    def decode(self, latents: Latents, present: Tensor) -> Prediction:
        """Logits from latents, looking only at those with ``present``; may be called again with other masks."""
        raise TypeError(f"{type(self).__name__} must define decode(latents, present)")

    def forward(self, images: Tensor, present: Tensor) -> Prediction:
        """``decode(encode(images, present), present)``."""
        return self.decode(self.encode(images, present), present)


class Mixture(nn.Module):
    """Weights over modalities: w = softmax(theta), theta = 0 at the start (Mind the Gap, released fragment).

    Args:
        modalities: M.
        learned: whether theta is trained; otherwise the weights stay uniform, 1/M.
    """

    def __init__(self, modalities: int, learned: bool = True):
        super().__init__()
        self.theta = nn.Parameter(torch.zeros(modalities), requires_grad=learned)

    def weights(self, present: Tensor) -> Tensor:
        """[B, M] float32, zero for absent modalities, renormalised to one over the present ones."""
        scores = self.theta.float().expand(present.shape).masked_fill(~present, float("-inf"))
        return torch.softmax(scores, dim=1)

    def barycentre(self, latents: Tensor, present: Tensor) -> Tensor:
        """sum_m w_m z_m over the present modalities: [B, M, C, ...] to [B, C, ...].

        This is the anchor of the ``mse`` alignment (Mind the Gap section 3 in the words of its fragment). It is a
        weighted mean of paired latents, not a draw from the mixture distribution sum_m w_m q_m.
        """
        weights = self.weights(present).to(latents.dtype)
        return torch.einsum("bm,bm...->b...", weights, mask_latents(latents, present))


def mask_latents(latents: Tensor, present: Tensor) -> Tensor:
    """Zero the latents of absent modalities; a choice of values, not a product, so that NaN cannot pass."""
    shape = present.shape + (1,) * (latents.ndim - 2)
    return torch.where(present.reshape(shape), latents, torch.zeros((), dtype=latents.dtype, device=latents.device))


def encode_present(encoder: nn.Module, images: Tensor, there: Tensor) -> Tensor | None:
    """What ``encoder`` makes of one modality for the samples that have it, zero for the others; None if nobody has it.

    Absent images are not looked at, and cost nothing.

    Args:
        encoder: of this modality; normalises within a sample, never over the batch.
        images: [B, 1, D, H, W].
        there: bool [B].
    """
    rows = there.nonzero()[:, 0]
    if len(rows) == len(there):
        return encoder(images)
    if not len(rows):
        return None
    encoded = encoder(images[rows])
    return encoded.new_zeros(len(there), *encoded.shape[1:]).index_copy(0, rows, encoded)


def check_images(images: Tensor, present: Tensor, modalities: tuple[str, ...]) -> None:
    """Refuse shapes that cannot be meant.

    Raises:
        ValueError: images are not [B, M, D, H, W], the mask is not bool [B, M], or a sample has no modality.
    """
    expected = f"[B, {len(modalities)}, D, H, W] for {', '.join(modalities)}"
    if images.ndim != 5 or images.shape[1] != len(modalities):
        raise ValueError(f"images have shape {list(images.shape)}; expected {expected}")
    if present.dtype != torch.bool or present.shape != images.shape[:2]:
        raise ValueError(
            f"present is {present.dtype} {list(present.shape)}; expected bool {list(images.shape[:2])}, true = there"
        )
    if not bool(present.any(dim=1).all()):
        raise ValueError("a sample has no modality present; every sample needs at least one")
