"""Measures of what the modalities of one voxel have in common, and two that tell a gap from a collapse.

As in :mod:`mtg_lab.gap_measures`, each function looks at paired latents once and returns how to compute the measure for
any weights of the subjects [S], here with the voxels of every modality in any order [M, n]: at their own places, or
paired at random within each subject for the null.
"""

from collections.abc import Callable
from itertools import combinations, permutations

import numpy as np
from scipy.spatial.distance import cdist

from mtg_lab.paired import Paired, rearranged

Value = Callable[[np.ndarray, np.ndarray], dict[str, float]]  # weights [S], order [M, n]

COMPONENTS = 64  # principal components for CKA, whose moments grow with the fourth power of M C


def relative_gap(paired: Paired) -> Value:
    """Variance between the modalities of one voxel over total variance, 0 to 1.

    sum |z_m - mean over m|^2 / sum |z - mean over all|^2. 0: the modalities of a voxel agree. Sees an offset, and
    whatever else parts the modalities of a voxel; blind to a common scale, so shrinking does not lower it. Independent
    modalities without any offset have (M - 1) / M: disagreement is not told from a gap.
    """
    total = paired.sums((paired.z**2).sum(axis=(1, 2)))
    first = paired.sums(paired.z.sum(axis=1))
    modalities = len(paired.modalities)

    def value(weights: np.ndarray, order: np.ndarray) -> dict[str, float]:
        z = rearranged(paired.z, order)
        between = weights @ paired.sums(((z - z.mean(axis=1, keepdims=True)) ** 2).sum(axis=(1, 2)))
        count = weights @ paired.voxels * modalities
        spread = weights @ total - ((weights @ first) ** 2).sum() / count
        return {"relative_gap": float(between / max(spread, 1e-24))}

    return value


def matched_cosine(paired: Paired) -> Value:
    """Mean cosine between the modalities of one voxel; its null is the cosine between other voxels of the subject.

    As in studies of image-text gaps (Liang et al. 2022), where the null is the mean cosine of pairs that do not belong
    together. Sees what pairs share beyond the narrow cone that all latents may lie in; depends on the origin.
    """
    unit = paired.z / np.linalg.norm(paired.z, axis=2, keepdims=True).clip(min=1e-12)
    modalities = len(paired.modalities)

    def value(weights: np.ndarray, order: np.ndarray) -> dict[str, float]:
        together = (rearranged(unit, order).sum(axis=1) ** 2).sum(axis=1)
        found = (together - modalities) / (modalities * (modalities - 1))
        return {"matched_cosine": float(weights @ paired.sums(found) / (weights @ paired.voxels))}

    return value


def linear_cka(paired: Paired) -> Value:
    """Linear centred kernel alignment, unbiased, mean over pairs of modalities.

    Kornblith et al. 2019 with the estimator of HSIC of Song et al. 2012, from sums per subject; at most 64 principal
    components. Sees whether the modalities arrange the voxels alike; blind to offset, rotation and scale of a modality,
    so 1 does not mean that there is no gap. Undefined where a modality's latents do not vary.
    """
    x = paired.principal(COMPONENTS)
    x = x - x.mean(axis=(0, 1))
    modalities = len(paired.modalities)

    def value(weights: np.ndarray, order: np.ndarray) -> dict[str, float]:
        z = rearranged(x, order)
        hsic = _hsic(z, weights, paired)
        own = np.diag(hsic)
        found = [
            hsic[a, b] / np.sqrt(own[a] * own[b]) if min(own[a], own[b]) > 1e-12 else np.nan
            for a, b in combinations(range(modalities), 2)
        ]
        return {"linear_cka": float(np.mean(found))}

    return value


def _hsic(z: np.ndarray, weights: np.ndarray, paired: Paired) -> np.ndarray:
    """Song et al. 2012, equation 4, for the linear kernels of every two modalities, up to a common factor: [M, M].

    A voxel that a bootstrap drew several times has no pair with its copies, as it has none with itself.
    """
    n, modalities, channels = z.shape
    norms = (z**2).sum(axis=2)  # [n, M]
    w = weights[paired.subject]
    flat, square, cube = z.reshape(n, -1), w**2, w**3
    cross = ((flat * w[:, None]).T @ flat).reshape(modalities, channels, modalities, channels)
    first = (w @ flat).reshape(modalities, channels)
    whole = (first**2).sum(axis=1) - square @ norms  # sum of the kernel without its diagonal
    products = (norms * square[:, None]).T @ norms
    third = (norms * cube[:, None]).T @ norms
    mixed = ((norms * square[:, None]).T @ flat).reshape(modalities, modalities, channels)  # sum w^2 |x_a|^2 x_b
    count = w.sum()
    traces = (cross**2).sum(axis=(1, 3)) - products
    turned = np.einsum("bac,ac->ab", mixed, first)  # sum w^2 |x_b|^2 x_a . S_a
    rows = np.einsum("ac,acbd,bd->ab", first, cross, first) - turned - turned.T + third
    return traces + np.outer(whole, whole) / ((count - 1) * (count - 2)) - 2 * rows / (count - 2)


def retrieval(paired: Paired) -> Value:
    """How often the nearest latent of another modality, among all voxels of the subject, is that of the same voxel.

    R@1, mean over ordered pairs of modalities; by chance one over the number of voxels. Sees agreement voxel by voxel;
    an offset, a rotation or a change of scale of one modality spoils it as much as disagreement does.
    """
    n, modalities, _ = paired.shape
    nearest = {pair: np.empty(n, dtype=np.int64) for pair in permutations(range(modalities), 2)}
    for start, count in zip(paired.starts, paired.voxels, strict=True):
        block = paired.z[start : start + count]
        for (a, b), found in nearest.items():
            found[start : start + count] = start + cdist(block[:, a], block[:, b], "sqeuclidean").argmin(axis=1)

    def value(weights: np.ndarray, order: np.ndarray) -> dict[str, float]:
        hits = np.mean([found[order[a]] == order[b] for (a, b), found in nearest.items()], axis=0)
        return {"retrieval": float(weights @ paired.sums(hits) / (weights @ paired.voxels))}

    return value


def shape(paired: Paired) -> Value:
    """``latent_scale`` and ``effective_rank`` of all latents together: no gap, but what a false cure leaves behind.

    The scale is the mean standard deviation of a channel, which alignment may shrink; the rank is exp of the entropy of
    the covariance's normalised eigenvalues (Roy and Vetterli 2007), which falls towards 1 when latents collapse.
    """
    n, modalities, channels = paired.shape
    flat = paired.z.reshape(n, modalities, channels)
    first = paired.sums(flat.sum(axis=1))
    second = paired.sums(np.einsum("nmc,nmd->ncd", flat, flat))

    def value(weights: np.ndarray, _order: np.ndarray) -> dict[str, float]:
        count = weights @ paired.voxels * modalities
        mean = weights @ first / count
        covariance = np.tensordot(weights, second, 1) / count - np.outer(mean, mean)
        return {
            "latent_scale": float(np.sqrt(np.diag(covariance).clip(min=0)).mean()),
            "effective_rank": rank_of(covariance),
        }

    return value


def rank_of(covariance: np.ndarray) -> float:
    """exp(H(p)), p the normalised eigenvalues of a covariance [C, C]; 1 where nothing varies."""
    values = np.linalg.eigvalsh(covariance).clip(min=0)
    p = values / max(values.sum(), 1e-12)
    p = p[p > 1e-12]
    return float(np.exp(-(p * np.log(p)).sum()))
