"""Encode once, decode many: logits of several subsets from one encoding, and a mask in a patient's own grid."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor
from monai.inferers import sliding_window_inference
from monai.transforms import SpatialResample
from torch import Tensor

from mtg_lab import vocabulary
from mtg_lab.backbones import Backbone, ModalityBackbone
from mtg_lab.data import preprocessing_transform
from mtg_lab.errors import InputError
from mtg_lab.hardware import default_device, precision_context
from mtg_lab.manifest import Subject
from mtg_lab.runs import Run
from mtg_lab.scans import load_image

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


def predict(
    run: Run,
    mask: str | Path | nib.Nifti1Image | None = None,
    window: int | None = None,
    **images: str | Path | nib.Nifti1Image,
) -> nib.Nifti1Image:
    """A label map in the patient's own grid from whatever sequences there are: ``predict(run, t1c=..., t2f=...)``.

    Args:
        run: a trained run.
        mask: brain mask, needed when the images' background is not zero.
        window: edge of the sliding window in voxels of the working grid; None chooses (see :func:`choose_window`).
        images: modality (aliases are understood) to file or nibabel image; all in one grid. ``a.nii.gz[2]`` is the
            third volume of a 4-D file.

    Returns:
        Image with the integers of the run's label schema (uint8, or uint16 where one exceeds 255), with shape and
        affine of the input.

    Raises:
        InputError: no image, an unknown modality or one under two names, grids that differ, an unreadable file.
    """
    named: dict[str, Path | nib.Nifti1Image] = {}
    for name, image in images.items():
        modality = vocabulary.canonical_modality(name)
        if modality in named:
            raise InputError(f"{name} and {modality} are one modality and both are given; leave one out")
        named[modality] = _as_source(image)
    if not named:
        raise InputError(f"nothing to predict from; give at least one of {', '.join(run.modalities)}")
    run.check_modalities(tuple(named), "the patient")
    ordered = {m: named[m] for m in run.modalities if m in named}
    patient = Subject("patient", ordered, mask=None if mask is None else _as_source(mask))  # type: ignore[arg-type]
    sample = preprocessing_transform(run.modalities, run.recipe.preprocessing, labelled=False)({"subject": patient})
    size = choose_window(run, sample["image"].shape[1:]) if window is None else window
    (logits,) = subset_logits(run.backbone(default_device()), sample["image"], [sample["present"]], size)
    reference = next(iter(ordered.values()))
    native = load_image(reference)
    classes = to_native(logits.softmax(dim=0), sample["affine"], native)
    values = [0, *run.schema.values]
    integers = np.array(values, dtype=np.min_scalar_type(max(values)))[classes]
    return nib.Nifti1Image(integers, native.affine)


def to_native(probabilities: Tensor, affine: Tensor, native: nib.Nifti1Image) -> np.ndarray:
    """Class indices on the grid of ``native`` from probabilities [K, D, H, W] on the grid of ``affine``.

    Probabilities are interpolated linearly before the arg max, so that borders do not follow the coarse voxels;
    outside the working grid everything is background.
    """
    source = MetaTensor(probabilities.float().cpu(), affine=affine)
    resample = SpatialResample(mode="bilinear", padding_mode="zeros", dtype="float32")
    moved = resample(source, dst_affine=torch.as_tensor(native.affine), spatial_size=native.shape)
    return np.asarray(moved.argmax(dim=0), dtype=np.uint8)


def choose_window(run: Run, shape: Sequence[int]) -> int:
    """0 (the whole volume at once) up to 160^3 voxels, else windows of twice the training crop."""
    return 0 if int(np.prod(list(shape))) <= 160**3 else 2 * run.recipe.sampling.crop_voxels


def _as_source(image: str | Path | nib.Nifti1Image) -> Path | nib.Nifti1Image:
    return Path(image) if isinstance(image, str | Path) else image
