"""One patient's crop around the lesion, encoded once and decoded again and again from latents that were changed."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.decomposition import PCA
from torch import Tensor
from torch.nn import functional

from mtg_lab.backbones import Latents, Mixture, ModalityBackbone, with_latents
from mtg_lab.errors import InputError
from mtg_lab.hardware import precision_context
from mtg_lab.runs import Run
from mtg_lab.schemas import LabelSchema
from mtg_lab.scoring import dice, region_masks

# Voxels of the crop that stand for its latents in a picture, and voxels left free around the lesion.
_CLOUD, _RIM = 160, 4


@dataclass(frozen=True, eq=False)
class EncodedCrop:
    """What :func:`encode_crop` returns.

    Attributes:
        name: of the subject.
        backbone: in eval mode.
        schema: of the labels.
        image: [M, D, H, W] z-scores, in RAS order.
        truth: class indices [D, H, W] (uint8).
        brain: bool [D, H, W].
        latents: of one sample, on the backbone's device.
        present: bool [M], the sequences that the subject has.
    """

    name: str
    backbone: ModalityBackbone
    schema: LabelSchema
    image: Tensor
    truth: Tensor
    brain: Tensor
    latents: Latents
    present: Tensor

    @property
    def modalities(self) -> tuple[str, ...]:
        """In channel order."""
        return self.backbone.modalities

    @property
    def labels(self) -> dict[int, str]:
        """Class index to the name of the label."""
        return dict(enumerate(self.schema.class_names[1:], start=1))


@dataclass(frozen=True, eq=False)
class Decoded:
    """A mask drawn from changed latents.

    Attributes:
        sequences: that the network looked at.
        classes: indices [D, H, W] (uint8).
        dice: of each region against the reference, both within the crop; two empty masks agree.
        latents: that were decoded.
        filled: sequences in whose place stood a mixture of the others.
    """

    sequences: tuple[str, ...]
    classes: np.ndarray
    dice: Mapping[str, float]
    latents: Latents
    filled: tuple[str, ...]


@torch.inference_mode()
def encode_crop(run: Run, sample: Mapping[str, Tensor], name: str, device: str | torch.device = "cpu") -> EncodedCrop:
    """Encode the crop around a subject's lesion: the training crop's edge, more where the lesion is larger.

    An instance norm knows crops of that size; where the lesion needs a larger one, masks differ a little from those
    that windows of the training size give.

    Args:
        run: of a backbone with latents.
        sample: of :func:`mtg_lab.data.cached_dataset`.
        name: of the subject.
        device: to compute on.

    Raises:
        InputError: a backbone without latents.
    """
    backbone = with_latents(run.backbone(device), "moving latents")
    place = _around(sample["label"][0] > 0, run.recipe.sampling.crop_voxels)
    image, label, brain = (sample[k][(slice(None), *place)].contiguous() for k in ("image", "label", "brain"))
    present = sample["present"].bool()
    with precision_context(torch.device(device), "auto"):
        latents = backbone.encode(image[None].to(device), present[None].to(device))
    return EncodedCrop(name, backbone, run.schema, image, label[0].byte(), brain[0] > 0, latents, present)


def _around(lesion: Tensor, edge: int) -> tuple[slice, ...]:
    """A box of at least ``edge`` voxels a side around the lesion (the middle, if there is none), inside the volume."""
    where = lesion.nonzero()
    slices = []
    for axis, size in enumerate(lesion.shape):
        low, high = (int(where[:, axis].min()), int(where[:, axis].max()) + 1) if len(where) else (size // 2, size // 2)
        wanted = min(size, max(edge, -(-(high - low + 2 * _RIM) // 8) * 8))
        start = min(max((low + high - wanted) // 2, 0), size - wanted)
        slices.append(slice(start, start + wanted))
    return tuple(slices)


@torch.inference_mode()
def decode_crop(
    crop: EncodedCrop,
    sequences: Collection[str],
    *,
    weights: Sequence[float] | None = None,
    offsets: Sequence[Tensor] | None = None,
    amount: float = 0.0,
    pull: float = 0.0,
) -> Decoded:
    """The mask from some of the sequences, after their latents were moved and absent ones filled.

    A network that convolves the latents and then takes an instance norm, as the lab's U-Net does, cannot see a move by
    ``amount``: the same vector at every voxel changes a channel's mean alone, which the norm takes away, but for the
    zeros that pad the border. It does see ``pull``, which moves each voxel by a vector of its own.

    Args:
        crop: encoded.
        sequences: to look at; those that the subject lacks are left out.
        weights: one a modality, above or equal to zero; a :class:`~mtg_lab.backbones.Mixture` with these weights,
            renormalised over what is there, then stands for what is absent. None fills as the network was trained.
        offsets: of each modality at every scale, each [M, C_s].
        amount: how far the latents are moved against them, z_m - amount * offset_m.
        pull: how far every latent is then moved to the mean over the sequences looked at of its own voxel, 0 not at
            all, 1 all the way.

    Raises:
        InputError: no sequence is left, or weights or offsets of another number of modalities or scales.
    """
    there = torch.tensor([m in sequences for m in crop.modalities]) & crop.present
    if not there.any():
        raise InputError(f"none of {', '.join(crop.modalities)} is left to look at; keep one")
    latents = crop.latents if offsets is None or amount == 0 else _moved(crop.latents, offsets, amount)
    mask = there[None].to(crop.latents[0].device)
    filled: tuple[str, ...] = ()
    with precision_context(mask.device, "auto"):
        if pull:
            even = Mixture(len(crop.modalities), learned=False).to(mask.device)
            latents = Latents([z + pull * (even.barycentre(z, mask)[:, None] - z) for z in latents])
        if weights is not None:
            mixture = mixture_of(weights, len(crop.modalities)).to(mask.device)
            latents = Latents(mixture.fill_absent(latents, mask))
            filled = tuple(m for m, t in zip(crop.modalities, there, strict=True) if not t)
            mask = mixture.seen(mask)
        logits = crop.backbone.final_logits(crop.backbone.decode(latents, mask))[0]
    classes = logits.max(dim=0).indices.byte().cpu()
    members = crop.schema.region_classes
    scores = dice(region_masks(classes, members), region_masks(crop.truth, members))
    shown = tuple(m for m, t in zip(crop.modalities, there, strict=True) if t)
    return Decoded(shown, classes.numpy(), dict(zip(members, scores, strict=True)), latents, filled)


def mixture_of(weights: Sequence[float], modalities: int) -> Mixture:
    """A mixture that fills by the anchor with these weights, normalised to one; all zero means equal ones.

    Raises:
        InputError: not one weight a modality, or one below zero.
    """
    w = torch.as_tensor(list(weights), dtype=torch.float32)
    if w.shape != (modalities,) or bool((w < 0).any()):
        raise InputError(f"weights are {w.tolist()}; {modalities} of zero or more are needed, one a modality")
    mixture = Mixture(modalities, learned=False, fill="anchor")
    # A logarithm of zero would leave nothing to renormalise where only modalities of weight zero are present.
    mixture.theta.data = (w / w.sum() if w.sum() > 0 else torch.full_like(w, 1 / modalities)).clamp_min(1e-9).log()
    return mixture


def _moved(latents: Latents, offsets: Sequence[Tensor], amount: float) -> Latents:
    shapes, found = [tuple(z.shape[1:3]) for z in latents], [tuple(o.shape) for o in offsets]
    if shapes != found:
        raise InputError(f"offsets have the shapes {found}; one [M, C] a scale is needed: {shapes}")
    return Latents(
        [z - amount * o.to(z)[None, :, :, None, None, None] for z, o in zip(latents, offsets, strict=True)]
    )  # fmt: skip


@torch.inference_mode()
def crop_offsets(crop: EncodedCrop) -> list[Tensor]:
    """Offsets [M, C_s] of this subject's modalities: centroid of its brain voxels in the crop less the mean centroid.

    A subject's own offsets are larger than a cohort's where subjects differ; modalities that it lacks have zero.
    """
    found = []
    for z in crop.latents:
        inside = _on_grid(crop.brain, z.shape[-3:]) > 0
        centroids = z[0].float().cpu()[:, :, inside].mean(dim=2)
        offsets = centroids - centroids[crop.present].mean(dim=0)
        found.append(torch.where(crop.present[:, None], offsets, torch.zeros(())))
    return found


class LatentMap:
    """Two principal components of a crop's latents at the finest scale, fitted once; changed latents lie on the same.

    Attributes:
        tissue: class index of the voxels drawn, [n]; as many of each class as there are, up to a limit.
    """

    def __init__(self, crop: EncodedCrop, seed: int = 0):
        z = crop.latents[0]
        label = _on_grid(crop.truth, z.shape[-3:]).flatten().numpy()
        brain = _on_grid(crop.brain, z.shape[-3:]).flatten().numpy() > 0
        rng = np.random.default_rng(seed)
        classes = [np.flatnonzero((label == c) & brain) for c in range(crop.schema.classes)]
        share = _CLOUD // max(sum(len(w) > 0 for w in classes), 1)
        self._drawn = np.concatenate([rng.permutation(w)[:share] for w in classes])
        self.tissue = label[self._drawn]
        self._pca = PCA(n_components=2).fit(self._points(crop.latents)[crop.present.numpy()].reshape(-1, z.shape[2]))

    def _points(self, latents: Latents) -> np.ndarray:
        return latents[0][0].flatten(2)[:, :, self._drawn].movedim(1, 2).float().cpu().numpy()  # [M, n, C]

    def __call__(self, latents: Latents) -> np.ndarray:
        """Where the latents of the drawn voxels lie: [M, n, 2]."""
        points = self._points(latents)
        return np.asarray(self._pca.transform(points.reshape(-1, points.shape[2])).reshape(*points.shape[:2], 2))


def _on_grid(volume: Tensor, grid: Sequence[int]) -> Tensor:
    """A map [D, H, W] of integers at the voxels of a coarser grid, the nearest each."""
    return functional.interpolate(volume[None, None].float(), size=tuple(grid), mode="nearest")[0, 0].byte()
