"""Statistics of latents that losses and monitors share: one pass for sums over space, a draw of voxels for the rest."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mtg_lab.backbones.contract import mask_latents
from mtg_lab.shares import over_processes

_AT_ONCE = 4096  # voxels, which as float32 fit into a processor's cache


@dataclass(frozen=True)
class Moments:
    """Sums over space from which the squared error, its normalised form and the gap follow.

    Attributes:
        gram: [B, C, M, M] float32, sum over voxels of z_m z_n.
        total: [B, C, M] float32, sum over voxels of z_m.
        present: bool [B, M].
        voxels: how many were summed over.
    """

    gram: Tensor
    total: Tensor
    present: Tensor
    voxels: int


def moments(latents: Tensor, present: Tensor) -> Moments:
    """First and second moments of latents [B, M, C, ...] over space, read once forward and once backward.

    A latent at full resolution is the largest tensor of a training step; forming differences, squares and normalised
    copies of it costs more than the encoders do.
    """
    if not bool(present.all()):
        latents = mask_latents(latents, present)
    gram, total = _SpatialSums.apply(latents)
    return Moments(gram, total, present, latents[0, 0, 0].numel())


class _SpatialSums(torch.autograd.Function):
    """Gram matrices and sums in float32; both gradients are one product with the latents.

    Products of all pairs of channels are taken, of which those of a channel with itself are kept: that is one dense
    product of the latents as they lie in memory, whichever layout they have, and takes less time than picking channels.
    """

    @staticmethod
    def forward(ctx: Any, latents: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(latents)
        maps = _as_maps(latents)
        with torch.autocast(latents.device.type, enabled=False):
            gram, total = maps.new_zeros(2, dtype=torch.float32)  # no latent is copied to float32 as a whole
            for part in maps.split(_AT_ONCE, dim=2):
                part = part.float()
                gram, total = gram + part @ part.transpose(1, 2), total + part.sum(dim=2)
        size = latents.shape[1:3]
        own = gram.unflatten(2, size).unflatten(1, size).diagonal(dim1=2, dim2=4)  # [B, M, M, C]
        return own.movedim(3, 1).contiguous(), total.unflatten(1, size).transpose(1, 2).contiguous()

    @staticmethod
    def backward(ctx: Any, of_gram: Tensor, of_total: Tensor) -> Tensor:
        (latents,) = ctx.saved_tensors
        maps = _as_maps(latents)
        coefficients = torch.diag_embed((of_gram + of_gram.transpose(2, 3)).movedim(1, 3), dim1=2, dim2=4)
        coefficients = coefficients.flatten(3, 4).flatten(1, 2).to(maps.dtype)  # [B, M C, M C], symmetric
        offset = of_total.transpose(1, 2).flatten(1).to(maps.dtype)
        if maps.stride(1) == 1:
            gradient = torch.baddbmm(offset[:, None], maps.transpose(1, 2), coefficients).transpose(1, 2)
        else:
            gradient = torch.baddbmm(offset[:, :, None], coefficients, maps)
        return gradient.unflatten(2, latents.shape[3:]).unflatten(1, latents.shape[1:3])


def _as_maps(latents: Tensor) -> Tensor:
    return latents.flatten(3).flatten(1, 2)  # [B, M C, voxels]


def variance(found: Moments, together: bool = False) -> Tensor:
    """Variance of each channel [C] over present modalities, samples and space.

    Args:
        found: the moments.
        together: over the samples of all processes (:func:`mtg_lab.shares.over_processes`).
    """
    sums = found.present.sum() * found.voxels, found.total.sum(dim=(0, 2)), trace(found.gram).sum(dim=0)
    count, total, power = over_processes(*sums) if together else sums
    return (power / count - (total / count).square()).clamp_min(0)


def relative_gap(found: Moments) -> Tensor:
    """Share of the latents' variance that lies between the modalities of one voxel: 0 aligned, 1 nothing shared.

    mean_m |z_m - zbar|^2 / total variance, over samples in which more than one modality is present; free of scale, so
    shrinking does not lower it. NaN when no sample has two modalities.
    """
    pairs = found.present.sum(dim=1) > 1
    part = Moments(found.gram[pairs], found.total[pairs], found.present[pairs], found.voxels)
    shared = part.gram.sum(dim=(2, 3)) / part.present.sum(dim=1, keepdim=True)  # [B, C], M |zbar|^2
    between = (trace(part.gram) - shared).clamp_min(0).sum()
    return between / (variance(part).sum() * part.present.sum() * part.voxels).clamp_min(1e-12 * pairs.any())


def trace(gram: Tensor) -> Tensor:
    """Sum over modalities of [B, C, M, M]: [B, C]."""
    return gram.diagonal(dim1=-2, dim2=-1).sum(dim=-1)


def clouds(latents: Tensor, present: Tensor, seed: int = 0, samples: int = 256) -> dict[int, Tensor]:
    """Latents of random voxels by number of the modality, float32 [n, C]; the same voxels for all that are present.

    Args:
        latents: [B, M, C, ...].
        present: bool [B, M].
        seed: of the draw.
        samples: voxels drawn over the batch, with replacement.
    """
    z = latents.flatten(3)  # [B, M, C, voxels]
    generator = torch.Generator().manual_seed(seed)
    sample = torch.randint(len(z), (samples,), generator=generator).to(z.device)
    voxel = torch.randint(z.shape[3], (samples,), generator=generator).to(z.device)
    last = z.movedim(3, 1)  # indexed where it is one block of memory, so is its gradient
    drawn = last[sample, voxel] if last.is_contiguous() else z[sample, :, :, voxel]
    drawn, there = drawn.float(), present[sample]  # [n, M, C], [n, M]
    return {m: drawn[there[:, m], m] for m in range(z.shape[1]) if bool(there[:, m].any())}


def effective_rank(latents: Tensor, present: Tensor, seed: int = 0) -> float:
    """exp of the entropy of the covariance's normalised eigenvalues (Roy and Vetterli 2007), 1 to C.

    Falls towards 1, or below what the task needs, when latents collapse; NaN for latents that are constant.
    """
    values = torch.cat(list(clouds(latents.detach(), present, seed).values()))
    spectrum = torch.linalg.eigvalsh(torch.cov(values.T).reshape(values.shape[1], values.shape[1])).clamp_min(0)
    if float(spectrum.sum()) <= 0:
        return float("nan")
    p = spectrum / spectrum.sum()
    return float(torch.special.entr(p).sum().exp())
