"""Anchors and alignment losses of Mind the Gap (arXiv 2409.19366), and the identity that says why P_mix is best.

Two objects share the name P_mix. The *mixture distribution* sum_m w_m q_m (draw a modality, then its latent) is what
the identity on KL divergences is about. The *barycentre* sum_m w_m z_m averages paired latents; it is the anchor of
the ``mse`` loss and has a narrower distribution. Each is the best anchor for its own loss.
"""

from collections.abc import Callable, Sequence

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


def mse_alignment(latents: Tensor, anchor: Tensor, present: Tensor) -> Tensor:
    """Half the mean squared distance of the present latents to their anchor.

    1/2 mean over present (b, m) and elements of (z_bm - a_b)^2; with all M present this is the 1/(2M) sum of the
    authors' fragment, per element. Absent modalities contribute nothing.

    Args:
        latents: [B, M, C, ...].
        anchor: [B, C, ...]; gradients flow into it, as in the fragment.
        present: bool [B, M].

    Returns:
        Scalar float32.
    """
    difference = mask_latents(latents.float() - anchor.float()[:, None], present)
    elements = present.sum() * latents[0, 0].numel()
    return difference.square().sum() / (2 * elements)


def normalise_channels(latents: Tensor, present: Tensor) -> Tensor:
    """Each channel of the batch to mean 0 and variance 1 over present modalities, samples and space.

    One mean and one variance for all modalities together, so that offsets between modalities stay visible to the loss.
    The gradient flows through both: the loss is then constant along a common scale and its gradient has no component
    that shrinks the latents. With statistics held fixed it would have one, and since the loss is renormalised at the
    next step, shrinking would go on without end and without closing the gap.
    """
    z = mask_latents(latents.float(), present)
    axes = [0, 1, *range(3, z.ndim)]
    count = present.sum() * z[0, 0, 0].numel()
    mean = z.sum(dim=axes, keepdim=True) / count
    variance = mask_latents((z - mean).square(), present).sum(dim=axes, keepdim=True) / count
    return (z - mean) / (variance + 1e-5).sqrt()


def align(
    scales: Sequence[Tensor], mixture: Mixture, present: Tensor, normalise: bool = False, loss: str = "mse"
) -> Tensor:
    """The alignment term: each modality's latents to the barycentre of those present, averaged over scales.

    Args:
        scales: latents, each [B, M, C, ...].
        mixture: weights of the anchor.
        present: bool [B, M].
        normalise: measure distances in units of the latents' spread (see :func:`normalise_channels`).
        loss: ``mse``.

    Raises:
        InputError: an unknown loss.
    """
    compare = find_loss(loss)
    terms = []
    for latents in scales:
        z = normalise_channels(latents, present) if normalise else latents
        terms.append(compare(z, mixture.barycentre(z, present), present))
    return torch.stack(terms).mean()


def find_loss(name: str) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """The alignment loss called ``name``.

    Raises:
        InputError: there is none.
    """
    if name not in LOSSES:
        raise InputError(f"unknown alignment loss {name!r}; there are: {', '.join(LOSSES)}")
    return LOSSES[name]


LOSSES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {"mse": mse_alignment}


def relative_gap(latents: Tensor, present: Tensor) -> Tensor:
    """Share of the latents' variance that lies between the modalities of one voxel: 0 aligned, 1 nothing shared.

    mean_m |z_m - zbar|^2 / total variance, over samples in which more than one modality is present; free of scale, so
    shrinking does not lower it. NaN when no sample has two modalities.
    """
    pairs = present.sum(dim=1) > 1
    if not bool(pairs.any()):
        return torch.tensor(float("nan"), device=latents.device)
    z, p = latents[pairs].float(), present[pairs]
    z = mask_latents(z, p)
    shape = (len(z), 1) + (1,) * (z.ndim - 2)
    mean = z.sum(dim=1, keepdim=True) / p.sum(dim=1).reshape(shape)
    between = mask_latents(z - mean, p).square().sum()
    axes = [0, 1, *range(3, z.ndim)]
    count = p.sum() * z[0, 0, 0].numel()
    grand = z.sum(dim=axes, keepdim=True) / count
    total = mask_latents(z - grand, p).square().sum()
    return between / total.clamp_min(1e-12)


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
