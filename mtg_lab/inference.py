"""Encode once, decode many: logits of several subsets from one encoding, and the way back to a patient's own grid."""

import math
from collections.abc import Iterator, Sequence

import nibabel as nib
import torch
from monai.data import MetaTensor
from monai.data.utils import compute_importance_map, dense_patch_slices
from monai.transforms import SpatialResample
from torch import Tensor
from torch.nn import functional

from mtg_lab.backbones import Backbone, ModalityBackbone
from mtg_lab.hardware import precision_context
from mtg_lab.runs import Run

# Of neighbouring windows. Half, the field's habit, cost 20 % more time here for the same Dice (0.654 and 0.653).
OVERLAP = 0.25
# An axis up to so many times a window's edge is taken by one longer window, not by two that nearly coincide. Mean Dice
# of windows of 48 less that of 40, by networks that were trained on crops of 40: -0.002 (student, 8 phantoms, standard
# error 0.007) and 0.001 (nobody, 13, 0.010); of 50 and more it falls.
STRETCH = 1.2
# Logits of so many subsets are held for a whole volume while windows slide; 63 of them would be gigabytes.
_MASKS_AT_ONCE = 16
# Subsets are decoded together up to so many voxels. Timed twice on a busy CPU: batches take less time at 32^3 and, in
# pairs, a fifth to two fifths less at 64^3 (unet, rfnet); at 80^3 pairs take longer than one by one (unet).
_VOXELS_AT_ONCE = 2 * 64**3
# Logit of the background where no window was looked at: a probability of one to eight digits.
_SURE = 20.0


@torch.inference_mode()
def subset_classes(
    backbone: Backbone,
    image: Tensor,
    masks: Sequence[Tensor],
    window: int = 0,
    overlap: float = OVERLAP,
    precision: str = "auto",
    brain: Tensor | None = None,
) -> Iterator[Tensor]:
    """Class indices [D, H, W] (uint8) for each mask, from one encoding of the image where the network has latents.

    Args:
        backbone: in eval mode; its device is where the work is done.
        image: [M, D, H, W], absent modalities zero or anything.
        masks: each bool [M], what the network may look at.
        window: edge of the sliding window in voxels; 0 takes the whole volume at once.
        overlap: share by which neighbouring windows overlap.
        precision: ``auto``, ``fp32`` or ``bf16``.
        brain: bool [D, H, W]; windows without any of it are left out, and what only they reach is background; the
            answer inside the brain is the same. None leaves none out, nor does a brain without a voxel.
    """
    for logits in subset_logits(backbone, image, masks, window, overlap, precision, brain):
        yield logits.max(dim=0).indices.to(torch.uint8).cpu()  # argmax takes ten times as long on a processor


@torch.inference_mode()
def subset_logits(
    backbone: Backbone,
    image: Tensor,
    masks: Sequence[Tensor],
    window: int = 0,
    overlap: float = OVERLAP,
    precision: str = "auto",
    brain: Tensor | None = None,
) -> Iterator[Tensor]:
    """Logits [K, D, H, W] (float32) for each mask; arguments as for :func:`subset_classes`.

    Windows are those of MONAI's ``sliding_window_inference`` (but see :func:`window_places`), joined by its Gaussian
    weights; each is encoded once for a group of subsets, however many they are.
    """
    device = next(backbone.parameters()).device
    stacked = torch.stack(list(masks)).to(device)  # [S, M]
    if window <= 0 or max(image.shape[1:]) <= window:
        for logits in _of_each(backbone, image.to(device)[None], stacked, precision):
            yield logits
        return
    size = image.shape[1:]
    pads, places = window_places(size, window, overlap)
    image = functional.pad(image, pads)
    brain = None if brain is None else functional.pad(brain.to(torch.bool), pads)
    inside = tuple(slice(first, first + edge) for first, edge in zip(pads[-2::-2], size, strict=True))
    if brain is not None and brain.any():
        places = [place for place in places if brain[place].any()]
    edges = tuple(side.stop - side.start for side in places[0])
    weight = compute_importance_map(edges, mode="gaussian", dtype=torch.float32)
    weights = torch.zeros(image.shape[1:])
    for place in places:
        weights[place] += weight
    for some in stacked.split(_MASKS_AT_ONCE):
        joined: list[Tensor] = []
        for place in places:
            patch = image[(slice(None), *place)].to(device)[None]
            for number, logits in enumerate(_of_each(backbone, patch, some, precision)):
                if number == len(joined):
                    joined.append(torch.zeros(len(logits), *image.shape[1:]))
                joined[number][(slice(None), *place)].addcmul_(logits.cpu(), weight)
        for total in joined:
            total /= weights.clamp_min(torch.finfo(torch.float32).tiny)
            total[0, weights == 0] = _SURE
            yield total[(slice(None), *inside)]


def window_places(
    size: Sequence[int], window: int, overlap: float = OVERLAP
) -> tuple[list[int], list[tuple[slice, ...]]]:
    """How a volume is padded, as ``functional.pad`` takes it, and the windows of the padded volume.

    Windows are cubes of edge ``window``, but along an axis that a window of up to ``STRETCH`` times that edge covers
    there is only that one. It is longer by multiples of the largest power of two in ``window``, 16 at most, so that a
    network that halves a window without padding halves the longer one too.

    A volume that is no larger than a window, and every volume where ``window`` is 0, is one window without padding.
    """
    if window <= 0 or max(size) <= window:
        return [0] * 6, [tuple(slice(0, n) for n in size)]
    edges = [_covering_edge(n, window) for n in size]
    rim = [max(edge - n, 0) for n, edge in zip(size, edges, strict=True)]
    pads = [side for n in reversed(rim) for side in (n // 2, n - n // 2)]
    padded = [n + more for n, more in zip(size, rim, strict=True)]
    steps = [max(int(edge * (1 - overlap)), 1) for edge in edges]
    return pads, dense_patch_slices(padded, edges, steps)


def _covering_edge(size: int, window: int) -> int:
    """The edge of one window that covers an axis, if it need not be much longer than ``window``; else ``window``."""
    step = math.gcd(window, 16)
    edge = window + max(0, math.ceil((size - window) / step)) * step
    return edge if edge <= STRETCH * window else window


def _of_each(backbone: Backbone, image: Tensor, masks: Tensor, precision: str) -> Iterator[Tensor]:
    """Logits [K, D, H, W] for each of ``masks`` bool [S, M], of an image [1, M, D, H, W] that is encoded once.

    A network without latents runs once a mask.
    """
    together = max(1, _VOXELS_AT_ONCE // image[0, 0].numel())
    with precision_context(image.device, precision):
        if isinstance(backbone, ModalityBackbone):
            latents = backbone.encode(image, masks.any(dim=0, keepdim=True))  # what some mask looks at
            answers = backbone.decode_each(latents, masks, together)
        else:
            answers = (backbone(image.expand(len(some), *image.shape[1:]), some) for some in masks.split(together))
    for _ in range(0, len(masks), together):
        # Left before each yield, for the caller has a precision of its own.
        with precision_context(image.device, precision):
            answer = next(answers)
            logits = backbone.final_logits(answer)
        yield from logits.float()


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
    """The training crop's edge, as in nnU-Net; 0 (the whole volume at once) where the volume is no larger.

    Instance norm takes its statistics from what it is given, and a network knows those of its crops. Measured on 8
    validation phantoms, four subsets, networks of the ``lab`` preset (crops of 40 voxels): mean Dice 0.60 from the
    whole volume, 0.65 from windows of 40 (student); 0.62 and 0.67 (dropout); 0.49 and 0.51 (complete).
    """
    edge = run.recipe.sampling.crop_voxels
    return edge if max(shape) > edge else 0
