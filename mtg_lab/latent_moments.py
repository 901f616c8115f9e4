"""Where the modalities' latents lie and how they spread, measured of a run; and latents moved by what was measured."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from monai.data.utils import dense_patch_slices
from torch import Tensor
from torch.nn import functional

from mtg_lab.backbones import Latents, with_latents
from mtg_lab.backbones.blocks import at_least
from mtg_lab.backbones.contract import mask_latents
from mtg_lab.backbones.layout import as_channels
from mtg_lab.data import cached_dataset
from mtg_lab.errors import InputError
from mtg_lab.hardware import default_device, precision_context
from mtg_lab.inference import choose_window
from mtg_lab.manifest import Manifest, read_manifest
from mtg_lab.progress import progress
from mtg_lab.runs import Run

RIDGE = 1e-3  # share of the mean eigenvalue that is added to a covariance before roots are taken


@dataclass(frozen=True)
class LatentMoments:
    """Where each modality's latents lie at one scale, and how they spread.

    Attributes:
        mean: [M, C] float32, the centroids.
        covariance: [M, C, C] float32, of the population (divided by the number of voxels).
    """

    mean: Tensor
    covariance: Tensor

    def root(self, power: float, ridge: float = RIDGE) -> Tensor:
        """Symmetric powers of the covariances, [M, C, C]: 1/2 colours, -1/2 whitens.

        Args:
            power: of the eigenvalues.
            ridge: this share of their mean is added to each of them, for a channel that hardly varies would be blown
                up by a whitening.
        """
        values, vectors = torch.linalg.eigh(self.covariance.double())
        values = values.clamp_min(0) + ridge * values.mean(dim=1, keepdim=True).clamp_min(
            torch.finfo(torch.float32).tiny
        )
        return ((vectors * values[:, None] ** power) @ vectors.mT).float()

    @property
    def offsets(self) -> Tensor:
        """[M, C]: each centroid minus the mean of the centroids, in which every modality weighs the same."""
        return self.mean - self.mean.mean(dim=0)


@torch.inference_mode()
def modality_moments(
    run: Run, manifest: Manifest | str | Path, split: str = "train", window: int | None = None
) -> list[LatentMoments]:
    """Mean and covariance of each modality's latents over the brain, one a scale, fine to coarse.

    Every brain voxel of every subject that has the modality weighs the same; a voxel that several windows share counts
    once a window. Coarser scales take the brain at the nearest voxel.

    Args:
        run: of a backbone with latents.
        manifest: cohort or its path.
        split: whose latents.
        window: edge in voxels of the windows that are encoded, 0 the whole volume, None what scoring takes: an
            instance norm within an encoder makes latents depend on it.

    Raises:
        InputError: an unknown modality or split, a backbone without latents, or a modality that nobody has.
    """
    cohort = (manifest if isinstance(manifest, Manifest) else read_manifest(manifest)).split(split)
    run.check_modalities(cohort.modalities, str(cohort.path))
    device = default_device()
    backbone = with_latents(run.backbone(device), "surgery")
    cohort.materialise()
    samples = cached_dataset(cohort.subjects, run.modalities, run.recipe.preprocessing)
    sums: list[_Sums] = []
    for sample in progress(samples, total=len(cohort), desc="encoding"):
        image, brain, present = sample["image"], sample["brain"], sample["present"]
        edge = choose_window(run, image.shape[1:]) if window is None else window
        size = [edge or n for n in image.shape[1:]]
        image, brain = (at_least(x, edge) for x in (image, brain))
        for place in dense_patch_slices(image.shape[1:], size, size):
            inside = brain[(slice(None), *place)]
            if not inside.any():
                continue
            with precision_context(device, "auto"):
                scales = backbone.encode(image[(slice(None), *place)][None].to(device), present[None].to(device))
            sums = sums or [_Sums(*z.shape[1:3]) for z in scales]
            for total, z in zip(sums, scales, strict=True):
                there = functional.interpolate(inside[None].float(), tuple(z.shape[-3:]))[0, 0] > 0
                total.add(z[0].float().cpu(), there, present)
    if lacking := [m for index, m in enumerate(run.modalities) if not sums or not sums[0].voxels[index]]:
        raise InputError(
            f"{cohort.path}: nobody of split {split} has {lacking[0]}, so that its latents cannot be measured; choose "
            "another split or cohort"
        )
    return [total.moments() for total in sums]


def modality_offsets(
    run: Run, manifest: Manifest | str | Path, split: str = "train", window: int | None = None
) -> list[Tensor]:
    """Where each modality's centroid lies from the mean of all modalities' centroids, [M, C_s] a scale.

    Centroids are means over the brain voxels of all subjects of the split that have the modality, every voxel weighing
    the same; in the mean of the centroids every modality weighs the same. Arguments and errors: as for
    :func:`modality_moments`.
    """
    return [scale.offsets for scale in modality_moments(run, manifest, split, window)]


def moved(latents: Latents, offsets: Sequence[Tensor], present: Tensor, amount: float = 1.0) -> Latents:
    """z_m - amount * offset_m of every modality that is there; the others stay as they are.

    Args:
        latents: [B, M, C_s, d_s, h_s, w_s] a scale.
        offsets: [M, C_s] a scale, see :func:`modality_offsets`.
        present: bool [B, M].
        amount: 0 leaves all latents as they are, 1 lets the centroids coincide, below 0 drives them apart. The distance
            between two centroids becomes (1 - amount) times what it was.
    """
    return Latents([
        torch.where(_there(present, z), (z.float() - amount * _along_channels(offset, z)).to(z.dtype), z)
        for z, offset in zip(latents, offsets, strict=True)
    ])  # fmt: skip


def matched(
    latents: Latents, moments: Sequence[LatentMoments], present: Tensor, amount: float = 1.0, ridge: float = RIDGE
) -> Latents:
    """Each modality that is there whitened by its own covariance, coloured by the mean one, at the mean centroid.

    z_m becomes mean + S^(1/2) S_m^(-1/2) (z_m - mean_m), as CORAL (Sun, Feng, Saenko 2016) brings one domain to
    another: afterwards all modalities have the same mean and covariance, but for the ridge.

    Args:
        latents: [B, M, C_s, d_s, h_s, w_s] a scale.
        moments: of every scale.
        present: bool [B, M].
        amount: how far along the straight way there; 0 leaves all latents as they are.
        ridge: see :meth:`LatentMoments.root`.
    """
    found = []
    for z, scale in zip(latents, moments, strict=True):
        common = LatentMoments(scale.mean.mean(dim=0, keepdim=True), scale.covariance.mean(dim=0, keepdim=True))
        straight = _straight(z, present, common.root(0.5, ridge) @ scale.root(-0.5, ridge), scale.mean, common.mean)
        step = z.float() + amount * (straight - z.float())
        found.append(torch.where(_there(present, z), step.to(z.dtype), z))
    return Latents(found)


def at_centroids(latents: Latents, moments: Sequence[LatentMoments], present: Tensor) -> Latents:
    """Absent latents filled with the centroid of the absent modality, the same at every voxel.

    Args:
        latents: [B, M, C_s, d_s, h_s, w_s] a scale.
        moments: of every scale.
        present: bool [B, M].
    """
    return Latents([
        torch.where(_there(present, z), z, _along_channels(scale.mean, z).to(z.dtype))
        for z, scale in zip(latents, moments, strict=True)
    ])  # fmt: skip


def translated(latents: Latents, moments: Sequence[LatentMoments], present: Tensor, weights: Tensor) -> Latents:
    """Absent latents filled with what the present ones say, in the dialect of the absent modality.

    Absent z_m becomes mean_m + S_m^(1/2) sum_n w_n S_n^(-1/2) (z_n - mean_n) over the n that are there.

    Args:
        latents: [B, M, C_s, d_s, h_s, w_s] a scale.
        moments: of every scale.
        present: bool [B, M].
        weights: [B, M], those of :meth:`mtg_lab.backbones.Mixture.weights`.
    """
    found = []
    for z, scale in zip(latents, moments, strict=True):
        white = _straight(z, present, scale.root(-0.5), scale.mean, torch.zeros_like(scale.mean))
        share = torch.where(present, weights, 0).reshape(*present.shape, *(1,) * (z.ndim - 2))
        said = (mask_latents(white, present) * share).sum(dim=1, keepdim=True).expand_as(z)
        everyone = torch.ones_like(present)
        spoken = _straight(said, everyone, scale.root(0.5), torch.zeros_like(scale.mean), scale.mean)
        found.append(torch.where(_there(present, z), z, spoken.to(z.dtype)))
    return Latents(found)


class _Sums:
    """Sums of latents and of their products over the brain, in double precision, from which moments follow."""

    def __init__(self, modalities: int, channels: int):
        self.voxels = torch.zeros(modalities, dtype=torch.int64)
        self.total = torch.zeros(modalities, channels, dtype=torch.float64)
        self.products = torch.zeros(modalities, channels, channels, dtype=torch.float64)

    def add(self, z: Tensor, brain: Tensor, present: Tensor) -> None:
        """Latents [M, C, d, h, w] of one window with its brain bool [d, h, w]; absent modalities are left out."""
        for m in present.nonzero()[:, 0]:
            inside = z[m][:, brain].double()  # [C, voxels]
            self.voxels[m] += inside.shape[1]
            self.total[m] += inside.sum(dim=1)
            self.products[m] += inside @ inside.T

    def moments(self) -> LatentMoments:
        mean = self.total / self.voxels[:, None]
        covariance = self.products / self.voxels[:, None, None] - mean[:, :, None] * mean[:, None]
        return LatentMoments(mean.float(), covariance.float())


def _there(present: Tensor, z: Tensor) -> Tensor:
    """Bool [B, M] so that it can be read beside latents [B, M, C, ...]."""
    return present.reshape(present.shape + (1,) * (z.ndim - 2))


def _along_channels(numbers: Tensor, z: Tensor) -> Tensor:
    """[M, C] so that it can be added to latents [B, M, C, ...]."""
    return numbers.to(z.device).reshape(numbers.shape + (1,) * (z.ndim - 3))


def _straight(z: Tensor, present: Tensor, maps: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """end_m + A_m (z_m - start_m) in float32, [B, M, C, ...]; maps [M, C, C], start and end [M, C] or [1, C].

    One product of all modalities' channels, zeros between different ones, so that the layout of the latents stays.
    """
    joined = as_channels(mask_latents(z, present)).float().movedim(1, -1)  # [B, ..., M C]
    maps, start, end = (x.to(z.device).float() for x in (maps, start.expand(z.shape[1:3]), end.expand(z.shape[1:3])))
    with torch.autocast(z.device.type, enabled=False):
        found = (joined - start.flatten()) @ torch.block_diag(*maps).T + end.flatten()
    return found.movedim(-1, 1).unflatten(1, z.shape[1:3])
