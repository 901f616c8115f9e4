"""Anchors and alignment losses of Mind the Gap (arXiv 2409.19366).

Two objects share the name P_mix. The *mixture distribution* sum_m w_m q_m (draw a modality, then its latent) is what
the compensation identity is about (:mod:`mtg_lab.theory`). The *barycentre* sum_m w_m z_m averages paired latents and
has a narrower distribution. Each is the best anchor for its own loss: ``mse`` compares paired latents with their
barycentre; ``kl``, ``coral``, ``mmd`` and ``sliced_wasserstein`` compare the distribution q_m of a modality's latents
over samples and space with the mixture.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mtg_lab.backbones.contract import Mixture
from mtg_lab.errors import InputError
from mtg_lab.moments import clouds, moments, trace, variance
from mtg_lab.shares import over_processes

ANCHORS = ("learned", "uniform", "normal", "modality:NAME")
_PROJECTIONS = 32
_TINY = 1e-5


def anchor_is_learned(anchor: str, modalities: Sequence[str]) -> bool:
    """Whether the weights of the named anchor are trained.

    ``learned`` trains them (P*_mix), ``uniform`` keeps 1/M, ``modality:t1c`` has one modality for anchor (P^k_mix),
    ``normal`` is N(0, I), no modality at all (P^N_mix); Mind the Gap's four variants.

    Raises:
        InputError: an unknown anchor, or a modality that is not among ``modalities``.
    """
    kind, _, name = anchor.partition(":")
    if kind == "modality":
        if name not in modalities:
            raise InputError(f"anchor {anchor!r}: no modality {name!r}; there are: {', '.join(modalities)}")
    elif anchor not in ANCHORS:
        raise InputError(f"unknown anchor {anchor!r}; there are: {', '.join(ANCHORS)}")
    return anchor == "learned"


def anchor_weights(anchor: str, mixture: Mixture, present: Tensor, modalities: Sequence[str]) -> Tensor | None:
    """Weights [B, M] of the anchor over the present modalities, None for ``normal``.

    A sample that lacks the modality of ``modality:NAME`` has weights zero: it has no anchor and is not aligned.
    """
    if anchor == "normal":
        return None
    kind, _, name = anchor.partition(":")
    if kind == "modality":
        one = torch.tensor([m == name for m in modalities], device=present.device)
        return (present & one).float()
    return mixture.weights(present)


def align(
    scales: Sequence[Tensor],
    weights: Tensor | None,
    present: Tensor,
    loss: str = "mse",
    normalise: bool = False,
    seed: int = 0,
) -> Tensor:
    """The alignment term, averaged over scales.

    Under several processes ``mse`` and ``kl`` are those of the samples of all (:func:`mtg_lab.shares.over_processes`);
    the losses on samples draw from each process's own, and are averaged.

    Args:
        scales: latents, each [B, M, C, ...].
        weights: of :func:`anchor_weights`, [B, M], or None for N(0, I).
        present: bool [B, M]; absent modalities contribute neither to the loss nor to the anchor.
        loss: one of :data:`LOSSES`.
        normalise: bring each channel to mean 0 and variance 1 first, over present modalities, samples and space
            together, so that offsets between modalities stay visible. The gradient flows through both statistics: the
            loss is then constant along a common scale and nothing pulls latents towards zero. With the statistics held
            fixed something would, and as the loss is renormalised at the next step, shrinking would go on without end
            and without closing the gap.
        seed: of the voxels and projections that the losses on samples draw.

    Returns:
        Scalar float32.

    Raises:
        InputError: an unknown loss, or ``mse`` towards N(0, I) with ``normalise``, which is constant.
    """
    compare = find_loss(loss, "normal" if weights is None else "", normalise)
    return torch.stack([compare(z, weights, present, normalise, seed) for z in scales]).mean()


def mse(latents: Tensor, weights: Tensor | None, present: Tensor, normalise: bool = False, seed: int = 0) -> Tensor:
    """Half the mean squared distance of the present latents to their barycentre (the authors' fragment).

    1/2 mean over present (b, m) and elements of (z_bm - a_b)^2, a_b = sum_n w_bn z_bn; with all M present this is the
    1/(2M) sum of the fragment, per element. Gradients flow into the anchor, as in the fragment. From the Gram matrix,
    sum_m |z_m - a|^2 = tr G - 2 1'G w + M w'G w, whose value is exact to about 1e-6 of |z|^2 and whose gradient has no
    such limit. Towards N(0, I), whose mean is all that a squared error sees, a = 0: the least is a collapse.
    """
    found = moments(latents, present)
    gram, there = found.gram, present.float()[:, None]
    if weights is None:
        distance = trace(gram)
    else:
        w = weights.float()[:, None]
        there = there * w.sum(dim=2, keepdim=True)  # no anchor, no term
        towards = (gram * w[:, :, None]).sum(dim=3)  # [B, C, M], sum over voxels of z_m a
        anchored = (w * towards).sum(dim=2)  # [B, C], of a a
        own = (there * gram.diagonal(dim1=-2, dim2=-1)).sum(dim=2)
        distance = own - 2 * (there * towards).sum(dim=2) + there.sum(dim=2) * anchored
    per_channel, compared = over_processes(distance.sum(dim=0).clamp_min(0), there.sum())
    if normalise:
        per_channel = per_channel / (variance(found, together=True) + _TINY)
    return per_channel.mean() / (2 * compared.clamp_min(1) * found.voxels)


def kl(latents: Tensor, weights: Tensor | None, present: Tensor, normalise: bool = False, seed: int = 0) -> Tensor:
    """Mean over modalities of KL(q_m || anchor) per channel, q_m and anchor as Gaussians (nats).

    The paper names KL and leaves its form open. Here q_m is N(mean, variance) of a channel over samples and space, and
    the mixture the Gaussian of its moments: mean sum_m w_m mu_m, variance sum_m w_m (s_m^2 + (mu_m - mu)^2).
    """
    found = moments(latents, present)
    samples, total, power = over_processes(
        present.sum(dim=0), found.total.sum(dim=0), found.gram.diagonal(dim1=-2, dim2=-1).sum(dim=0)
    )
    count = (samples * found.voxels).clamp_min(1)  # [M]
    mean, power = total / count, power / count  # [C, M]
    if normalise:
        everything = total.sum(dim=1) / (samples.sum() * found.voxels)
        scale = (variance(found, together=True) + _TINY).sqrt()[:, None]
        power = (power - 2 * everything[:, None] * mean + everything.square()[:, None]) / scale.square()
        mean = (mean - everything[:, None]) / scale
    spread = (power - mean.square()).clamp_min(0) + _TINY
    w = _over_batch(weights, together=True)
    if w is None:
        middle, width = torch.zeros_like(mean[:, :1]), torch.ones_like(mean[:, :1])
    else:
        middle = (w * mean).sum(dim=1, keepdim=True)
        width = (w * (spread + (mean - middle).square())).sum(dim=1, keepdim=True)
    divergence = 0.5 * ((spread + (mean - middle).square()) / width - 1 + (width / spread).log())
    return divergence[:, samples > 0].mean()


def coral(latents: Tensor, weights: Tensor | None, present: Tensor, normalise: bool = False, seed: int = 0) -> Tensor:
    """Mean over modalities of |cov(q_m) - cov(anchor)|_F^2 / (4 C^2) (Sun and Saenko 2016, arXiv 1607.01719).

    The covariance of a mixture holds the distances between the modalities' means, so that offsets count; that of
    N(0, I) is I, and offsets do not count.
    """
    drawn, w = _drawn(latents, weights, present, normalise, seed)
    means = torch.stack([z.mean(dim=0) for z in drawn])  # [M, C]
    covariances = torch.stack([(z - m).T @ (z - m) / len(z) for z, m in zip(drawn, means, strict=True)])
    size = means.shape[1]
    if w is None:
        anchor = torch.eye(size, device=means.device)
    else:
        apart = means - w @ means
        anchor = torch.einsum("m,mcd->cd", w, covariances + apart[:, :, None] * apart[:, None])
    return (covariances - anchor).square().sum(dim=(1, 2)).mean() / (4 * size**2)


def mmd(latents: Tensor, weights: Tensor | None, present: Tensor, normalise: bool = False, seed: int = 0) -> Tensor:
    """Mean over modalities of MMD^2(q_m, anchor) (Gretton et al. 2012), RBF kernel, median bandwidth.

    With mean kernel values K_mn between the samples of two modalities, the distance to the mixture is
    (e_m - w)' K (e_m - w); for N(0, I) the kernel's expectations are closed. The V-statistic: never negative.
    """
    drawn, w = _drawn(latents, weights, present, normalise, seed)
    sizes, pooled = [len(z) for z in drawn], torch.cat(drawn)
    squared = torch.cdist(pooled, pooled, compute_mode="donot_use_mm_for_euclid_dist").square()
    width = _median_above_zero(torch.pdist(pooled.detach()).square()).clamp_min(_TINY)  # twice the kernel's variance
    kernel = (-squared / width).exp()
    means = torch.stack([torch.stack([b.mean() for b in row.split(sizes, 1)]) for row in kernel.split(sizes)])
    if w is not None:
        against = means @ w
        return (means.diagonal() - 2 * against + w @ against).mean()
    size, variance_ = pooled.shape[1], width / 2
    one = (variance_ / (variance_ + 1)) ** (size / 2) * (-pooled.square().sum(dim=1) / (2 * (variance_ + 1))).exp()
    cross = torch.stack([p.mean() for p in one.split(sizes)])
    return (means.diagonal() - 2 * cross + (variance_ / (variance_ + 2)) ** (size / 2)).mean()


def _median_above_zero(values: Tensor) -> Tensor:
    """The lower median of those above zero, without picking them, which would take longer; 1 if there are none."""
    zeros = int((values == 0).sum())
    if zeros == len(values):
        return values.new_tensor(1.0)
    return values.kthvalue(zeros + (len(values) - zeros + 1) // 2).values


def sliced_wasserstein(
    latents: Tensor, weights: Tensor | None, present: Tensor, normalise: bool = False, seed: int = 0
) -> Tensor:
    """Mean over modalities of the squared 2-Wasserstein distance to the anchor on random lines (Bonneel et al. 2015).

    Quantiles of a mixture jump where its weights do, so that learned weights get no gradient here and stay uniform.
    """
    drawn, w = _drawn(latents, weights, present, normalise, seed)
    generator = torch.Generator().manual_seed(seed)
    lines = torch.randn(drawn[0].shape[1], _PROJECTIONS, generator=generator).to(drawn[0].device)
    sorted_ = [(z @ (lines / lines.norm(dim=0))).sort(dim=0).values for z in drawn]  # [n_m, projections]
    points = max(len(z) for z in drawn)
    levels = (torch.arange(points, device=lines.device) + 0.5) / points
    own = [z[(levels * len(z)).long()] for z in sorted_]
    if w is None:
        anchor = (math.sqrt(2) * torch.erfinv(2 * levels - 1))[:, None]
    else:
        pooled, order = torch.cat(sorted_).sort(dim=0)
        share = torch.cat([v.expand(len(z)) / len(z) for v, z in zip(w.detach(), drawn, strict=True)])
        reached = share[order].cumsum(dim=0).T.contiguous()  # [projections, all points]
        place = torch.searchsorted(reached, levels.expand(_PROJECTIONS, -1).contiguous()).clamp_max(len(pooled) - 1)
        anchor = pooled.gather(0, place.T)
    return torch.stack([(q - anchor).square().mean() for q in own]).mean()


def _drawn(
    latents: Tensor, weights: Tensor | None, present: Tensor, normalise: bool, seed: int
) -> tuple[list[Tensor], Tensor | None]:
    """Samples [n, C] of every modality that is there, and the anchor's weights over these."""
    with torch.autocast(latents.device.type, enabled=False):
        found = clouds(latents, present, seed)
        pooled = torch.cat(list(found.values()))
        mean, scale = pooled.mean(dim=0), (pooled.var(dim=0, unbiased=False) + _TINY).sqrt()
    w = _over_batch(weights)
    if w is not None:
        w = w[list(found)]
        w = w / w.sum().clamp_min(_TINY)
    return [(z - mean) / scale if normalise else z for z in found.values()], w


def _over_batch(weights: Tensor | None, together: bool = False) -> Tensor | None:
    """One set of weights [M] for a batch, that of all processes if together."""
    if weights is None:
        return None
    total = weights.float().sum(dim=0)
    if together:
        (total,) = over_processes(total)
    return total / total.sum().clamp_min(_TINY)


def find_loss(
    name: str, anchor: str = "learned", normalise: bool = False
) -> Callable[[Tensor, Tensor | None, Tensor, bool, int], Tensor]:
    """The alignment loss called ``name``, for use with an anchor.

    Raises:
        InputError: there is none, or the two make a constant.
    """
    if name not in LOSSES:
        raise InputError(f"unknown alignment loss {name!r}; there are: {', '.join(LOSSES)}")
    if name == "mse" and anchor == "normal" and normalise:
        raise InputError(
            "anchor 'normal' with loss 'mse' on normalised latents is a constant, whatever the encoders do; take loss "
            "'kl', or normalise=false"
        )
    return LOSSES[name]


LOSSES: dict[str, Callable[[Tensor, Tensor | None, Tensor, bool, int], Tensor]] = {
    f.__name__: f for f in (mse, kl, coral, mmd, sliced_wasserstein)
}
ON_SAMPLES = ("coral", "mmd", "sliced_wasserstein")
