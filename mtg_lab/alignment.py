"""Anchors and alignment losses of Mind the Gap (arXiv 2409.19366), and the identity that says why P_mix is best.

Two objects share the name P_mix. The *mixture distribution* sum_m w_m q_m (draw a modality, then its latent) is what
the identity on KL divergences is about. The *barycentre* sum_m w_m z_m averages paired latents; it is the anchor of
the ``mse`` loss and has a narrower distribution. Each is the best anchor for its own loss.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.integrate import trapezoid
from scipy.special import rel_entr
from scipy.stats import norm
from torch import Tensor

from mtg_lab.backbones.contract import Mixture, mask_latents
from mtg_lab.errors import InputError

ANCHORS = ("learned", "uniform")


def anchor_is_learned(anchor: str) -> bool:
    """Whether the weights of the named anchor are trained (``learned``, P*_mix) or stay 1/M (``uniform``).

    Raises:
        InputError: an unknown anchor.
    """
    if anchor not in ANCHORS:
        raise InputError(f"unknown anchor {anchor!r}; there are: {', '.join(ANCHORS)}")
    return anchor == "learned"


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
    """Gram matrices and sums in float32; both gradients are one product with the latents."""

    @staticmethod
    def forward(ctx: Any, latents: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(latents)
        with torch.autocast(latents.device.type, enabled=False):
            z = _by_channel(latents).float()
            return z @ z.transpose(-1, -2), z.sum(dim=-1)

    @staticmethod
    def backward(ctx: Any, of_gram: Tensor, of_total: Tensor) -> Tensor:
        (latents,) = ctx.saved_tensors
        z = _by_channel(latents)
        coefficients = of_gram + of_gram.transpose(-1, -2)
        gradient = torch.baddbmm(
            of_total.flatten(0, 1)[..., None].to(z.dtype), coefficients.flatten(0, 1).to(z.dtype), z.flatten(0, 1)
        )
        return gradient.unflatten(0, z.shape[:2]).transpose(1, 2).reshape(latents.shape)


def _by_channel(latents: Tensor) -> Tensor:
    return latents.flatten(3).transpose(1, 2)  # [B, C, M, voxels]


def mse_alignment(found: Moments, weights: Tensor, normalise: bool = False) -> Tensor:
    """Half the mean squared distance of the present latents to their barycentre.

    1/2 mean over present (b, m) and elements of (z_bm - a_b)^2, a_b = sum_n w_bn z_bn; with all M present this is the
    1/(2M) sum of the authors' fragment, per element. Absent modalities contribute nothing; gradients flow into the
    anchor, as in the fragment. From the Gram matrix, sum_m |z_m - a|^2 = tr G - 2 1'G w + M w'G w, whose value is
    exact to about 1e-6 of |z|^2 and whose gradient has no such limit.

    Args:
        found: of :func:`moments`.
        weights: [B, M], zero for absent modalities, summing to one.
        normalise: divide each channel by its variance over present modalities, samples and space. One variance for
            all modalities together, so that offsets between them stay visible. The gradient flows through it: the
            loss is then constant along a common scale and nothing pulls latents towards zero. With the variance held
            fixed something would, and as the loss is renormalised at the next step, shrinking would go on without end
            and without closing the gap.

    Returns:
        Scalar float32.
    """
    gram, there, w = found.gram, found.present.float()[:, None], weights.float()[:, None]
    towards = (gram * w[:, :, None]).sum(dim=3)  # [B, C, M], sum over voxels of z_m a
    anchored = (w * towards).sum(dim=2)  # [B, C], of a a
    distance = _trace(gram) - 2 * (there * towards).sum(dim=2) + there.sum(dim=2) * anchored  # [B, C]
    per_channel = distance.sum(dim=0).clamp_min(0)
    if normalise:
        per_channel = per_channel / (variance(found) + 1e-5)
    return per_channel.mean() / (2 * found.present.sum() * found.voxels)


def variance(found: Moments) -> Tensor:
    """Variance of each channel [C] over present modalities, samples and space."""
    count = found.present.sum() * found.voxels
    mean = found.total.sum(dim=(0, 2)) / count
    return (_trace(found.gram).sum(dim=0) / count - mean.square()).clamp_min(0)


def relative_gap(found: Moments) -> Tensor:
    """Share of the latents' variance that lies between the modalities of one voxel: 0 aligned, 1 nothing shared.

    mean_m |z_m - zbar|^2 / total variance, over samples in which more than one modality is present; free of scale, so
    shrinking does not lower it. NaN when no sample has two modalities.
    """
    pairs = found.present.sum(dim=1) > 1
    part = Moments(found.gram[pairs], found.total[pairs], found.present[pairs], found.voxels)
    shared = part.gram.sum(dim=(2, 3)) / part.present.sum(dim=1, keepdim=True)  # [B, C], M |zbar|^2
    between = (_trace(part.gram) - shared).clamp_min(0).sum()
    return between / (variance(part).sum() * part.present.sum() * part.voxels).clamp_min(1e-12 * pairs.any())


def _trace(gram: Tensor) -> Tensor:
    return gram.diagonal(dim1=-2, dim2=-1).sum(dim=-1)


def align(found: Sequence[Moments], mixture: Mixture, normalise: bool = False, loss: str = "mse") -> Tensor:
    """The alignment term: each modality's latents to the barycentre of those present, averaged over scales.

    Args:
        found: moments of the latents of each scale.
        mixture: weights of the anchor.
        normalise: measure distances in units of the latents' spread (see :func:`mse_alignment`).
        loss: ``mse``.

    Raises:
        InputError: an unknown loss.
    """
    compare = find_loss(loss)
    return torch.stack([compare(f, mixture.weights(f.present), normalise) for f in found]).mean()


def find_loss(name: str) -> Callable[[Moments, Tensor, bool], Tensor]:
    """The alignment loss called ``name``.

    Raises:
        InputError: there is none.
    """
    if name not in LOSSES:
        raise InputError(f"unknown alignment loss {name!r}; there are: {', '.join(LOSSES)}")
    return LOSSES[name]


LOSSES: dict[str, Callable[[Moments, Tensor, bool], Tensor]] = {"mse": mse_alignment}


def compensation(
    means: Sequence[float],
    sds: Sequence[float],
    weights: Sequence[float],
    anchor_mean: float | None = None,
    anchor_sd: float = 1.0,
    points: int = 20001,
) -> dict[str, float]:
    """The compensation identity on one-dimensional Gaussians q_m, by numerical integration (nats).

    sum_m w_m KL(q_m || P) = JS_w(q_1..q_M) + KL(q_mix || P), with q_mix = sum_m w_m q_m, for every anchor P. The
    identity is a textbook fact of information theory, not the authors' theorem.

    Args:
        means, sds, weights: of the modalities; weights are normalised to one.
        anchor_mean, anchor_sd: the Gaussian anchor P; ``anchor_mean=None`` takes P = q_mix.
        points: of the integration grid.

    Returns:
        ``cost`` (left side), ``js`` (modality gap), ``price`` (of the wrong anchor), ``entropy`` H(w) >= js.

    Raises:
        ValueError: lengths differ, a spread or a weight is not positive.
    """
    m, s, w = (np.asarray(v, dtype=float) for v in (means, sds, weights))
    if not (m.shape == s.shape == w.shape) or (s <= 0).any() or (w <= 0).any() or anchor_sd <= 0:
        raise ValueError("means, sds and weights need one length, sds and weights must be positive")
    w = w / w.sum()
    low, high = (m - 12 * s).min(), (m + 12 * s).max()
    grid = np.linspace(low, high, points)
    q = norm.pdf(grid[:, None], m, s)  # [points, M]
    mix = q @ w
    log_anchor = np.log(np.maximum(mix, 1e-300)) if anchor_mean is None else norm.logpdf(grid, anchor_mean, anchor_sd)

    def kl(density: np.ndarray) -> float:
        own = np.where(density > 0, density * np.log(np.maximum(density, 1e-300)), 0.0)
        return float(trapezoid(own - density * log_anchor, grid))

    js = float(sum(wi * trapezoid(rel_entr(q[:, i], mix), grid) for i, wi in enumerate(w)))
    cost = float(sum(wi * kl(q[:, i]) for i, wi in enumerate(w)))
    return {"cost": cost, "js": js, "price": kl(mix), "entropy": float(-(w * np.log(w)).sum())}
