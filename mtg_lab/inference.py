"""Encode once, decode many: logits of several subsets from one encoding, and the way back to a patient's own grid."""

from collections.abc import Iterator, Sequence
from functools import partial

import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor
from monai.inferers import sliding_window_inference
from monai.transforms import SpatialResample
from torch import Tensor

from mtg_lab.backbones import Backbone, ModalityBackbone
from mtg_lab.hardware import precision_context
from mtg_lab.runs import Run

# Logits of so many subsets are held for a whole volume while windows slide; 63 of them would be gigabytes.
_MASKS_AT_ONCE = 16


@torch.inference_mode()
def subset_classes(
    backbone: Backbone,
    image: Tensor,
    masks: Sequence[Tensor],
    window: int = 0,
    overlap: float = 0.5,
    precision: str = "auto",
) -> Iterator[Tensor]:
    """Class indices [D, H, W] (uint8) for each mask, from one encoding of the image where the network has latents.

    Args:
        backbone: in eval mode; its device is where the work is done.
        image: [M, D, H, W], absent modalities zero or anything.
        masks: each bool [M], what the network may look at.
        window: edge of the sliding window in voxels; 0 takes the whole volume at once.
        overlap: share by which neighbouring windows overlap.
        precision: ``auto``, ``fp32`` or ``bf16``.
    """
    for logits in subset_logits(backbone, image, masks, window, overlap, precision):
        yield logits.argmax(dim=0).to(torch.uint8).cpu()


@torch.inference_mode()
def subset_logits(
    backbone: Backbone,
    image: Tensor,
    masks: Sequence[Tensor],
    window: int = 0,
    overlap: float = 0.5,
    precision: str = "auto",
) -> Iterator[Tensor]:
    """Logits [K, D, H, W] (float32) for each mask; arguments as for :func:`subset_classes`."""
    device = next(backbone.parameters()).device
    image = image.to(device)[None]
    stacked = torch.stack(list(masks)).to(device)  # [S, M]
    if window <= 0 or max(image.shape[2:]) <= window:
        for logits in _of_each(backbone, image, stacked, precision):
            yield logits[0]
        return

    def decode_all(patch: Tensor, some: Tensor) -> Tensor:
        return torch.cat(list(_of_each(backbone, patch, some, precision)), dim=1)  # [1, S*K, w, w, w]

    for some in stacked.split(_MASKS_AT_ONCE):
        joined = sliding_window_inference(
            image, (window,) * 3, sw_batch_size=1, predictor=partial(decode_all, some=some), overlap=overlap,
            mode="gaussian", device=torch.device("cpu"),
        )  # fmt: skip
        yield from joined[0].unflatten(0, (len(some), -1))


def _of_each(backbone: Backbone, images: Tensor, masks: Tensor, precision: str) -> Iterator[Tensor]:
    """Logits [B, K, D, H, W] for each of ``masks`` bool [S, M]: encoded once, or a forward pass a mask."""
    masks = masks[:, None].expand(-1, len(images), -1)  # [S, B, M]
    if isinstance(backbone, ModalityBackbone):
        with precision_context(images.device, precision):
            latents = backbone.encode(images, masks.any(dim=0))  # what some mask looks at
    for mask in masks:
        with precision_context(images.device, precision):
            if isinstance(backbone, ModalityBackbone):
                prediction = backbone.decode(latents, mask)
            else:
                prediction = backbone(images, mask)
        yield prediction.logits.float()


def native_probabilities(probabilities: Tensor, affine: Tensor, native: nib.Nifti1Image) -> Tensor:
    """Probabilities [K, D, H, W] on the grid of ``affine`` carried to the grid of ``native``, linearly interpolated.

    Outside the working grid everything is background.
    """
    source = MetaTensor(probabilities.float().cpu(), affine=affine)
    resample = SpatialResample(mode="bilinear", padding_mode="zeros", dtype="float32")
    moved = torch.as_tensor(resample(source, dst_affine=torch.as_tensor(native.affine), spatial_size=native.shape))
    moved = moved.as_subclass(torch.Tensor)
    moved[0] += 1 - moved.sum(dim=0)
    return moved


def choose_window(run: Run, shape: Sequence[int]) -> int:
    """0 (the whole volume at once) up to 160^3 voxels, else windows of twice the training crop."""
    return 0 if int(np.prod(list(shape))) <= 160**3 else 2 * run.recipe.sampling.crop_voxels
