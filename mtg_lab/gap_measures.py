"""Measures of the gap that do not need to know which voxel belongs to which: how different the modalities' laws are.

Each function looks at paired latents once and returns how to compute the measure for any weights of the subjects [S]
(how often a bootstrap drew each) and any names of their modalities [S, M] (permuted within subjects for the null), from
sums per subject, so that hundreds of repetitions cost little. All are free of a common scale: shrinking every latent
closes nothing.
"""

from collections.abc import Callable
from itertools import combinations

import numpy as np
import torch
from scipy.spatial.distance import pdist
from sklearn.discriminant_analysis import QuadraticDiscriminantAnalysis
from sklearn.model_selection import GroupKFold

from mtg_lab.paired import Paired, own_labels, relabelled

Value = Callable[[np.ndarray, np.ndarray], dict[str, float]]  # weights [S], names [S, M]

COMPONENTS = 32  # principal components for measures that need covariances
_DIRECTIONS, _BINS = 48, 512
_CLASSIFIED = 2000  # voxels at most, since the classifier is fitted anew for every permutation
_SOFTENED_BY = 400  # voxels that choose the temperature
_ROWS = 1024  # of a matrix of distances at a time
_TEMPERATURES = np.array([1.0, 1.5, 2.0, 3.0, 5.0, 8.0, 12.0, 20.0])


def centroid_gap(paired: Paired) -> Value:
    """Mean distance between the modalities' centroids over the spread within a modality.

    The spread is the root mean square distance to the own centroid. Sees an offset; blind to shape, to rotation about
    the centroid and to who is paired with whom.
    """
    first, second = paired.sums(paired.z), paired.sums((paired.z**2).sum(axis=2))

    def value(weights: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        count = weights @ paired.voxels
        means = np.tensordot(weights, relabelled(first, labels), 1) / count
        within = (weights @ relabelled(second, labels) / count - (means**2).sum(axis=1)).mean()
        return {"centroid_gap": float(pdist(means).mean() / np.sqrt(max(within, 1e-24)))}

    return value


def frechet(paired: Paired) -> Value:
    """Frechet distance of Gaussians, mean over pairs of modalities, over the variance within a modality.

    |m_a - m_b|^2 + tr(A + B - 2 (A^1/2 B A^1/2)^1/2) (Dowson and Landau 1982), on at most 32 principal components. Sees
    offset, scale, and rotation of an anisotropic cloud; blind to everything beyond second moments.
    """
    x = paired.principal(COMPONENTS)
    first, second = paired.sums(x), paired.sums(np.einsum("nmc,nmd->nmcd", x, x))

    def value(weights: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        count = weights @ paired.voxels
        means = np.tensordot(weights, relabelled(first, labels), 1) / count
        moments = np.tensordot(weights, relabelled(second, labels), 1) / count
        covariances = moments - np.einsum("mc,md->mcd", means, means)
        traces = np.trace(covariances, axis1=1, axis2=2)
        found = [
            ((means[a] - means[b]) ** 2).sum() + traces[a] + traces[b] - 2 * _shared(covariances[a], covariances[b])
            for a, b in combinations(range(len(means)), 2)
        ]
        return {"frechet": float(np.mean(found) / max(traces.mean(), 1e-24))}

    return value


def _shared(a: np.ndarray, b: np.ndarray) -> float:
    """tr((A^1/2 B A^1/2)^1/2), the sum of the roots of the eigenvalues of A B."""
    values, vectors = np.linalg.eigh(a)
    root = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    return float(np.sqrt(np.linalg.eigvalsh(root @ b @ root).clip(min=0)).sum())


def sliced_wasserstein(paired: Paired) -> Value:
    """Wasserstein-1 distance of projections on random lines, mean over lines and pairs, in units of the spread.

    Sliced as in Bonneel et al. 2015; the unit is the root mean square deviation of a channel. Sees any difference that
    projections show: offset, scale, shape; blind to who is paired with whom. Histograms of 512 bins stand for the
    projections.
    """
    n, modalities, channels = paired.shape
    lines = np.random.default_rng(0).normal(size=(channels, _DIRECTIONS))
    lines /= np.linalg.norm(lines, axis=0)
    along = paired.z @ lines / paired.scale  # [n, M, P]
    low, high = along.min(), along.max()
    width = max(high - low, 1e-12) / _BINS
    bins = np.minimum(((along - low) / width).astype(np.int64), _BINS - 1)
    cells = (paired.subject[:, None] * modalities + np.arange(modalities)).reshape(n, modalities, 1) * _DIRECTIONS
    index = (cells + np.arange(_DIRECTIONS)) * _BINS + bins
    counts = np.bincount(index.ravel(), minlength=paired.subjects * modalities * _DIRECTIONS * _BINS)
    histograms = counts.reshape(paired.subjects, modalities, -1).astype(np.float32)

    def value(weights: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        joined = np.tensordot(weights.astype(np.float32), relabelled(histograms, labels), 1)
        cumulated = joined.reshape(modalities, _DIRECTIONS, _BINS).cumsum(axis=2) / (weights @ paired.voxels)
        pairs = combinations(range(modalities), 2)
        return {"sliced_wasserstein": float(np.mean([np.abs(cumulated[a] - cumulated[b]).sum(1).mean() * width
                                                     for a, b in pairs]))}  # fmt: skip

    return value


def distances(paired: Paired) -> Value:
    """MMD^2 and silhouette, which share one matrix of distances.

    ``mmd``: squared maximum mean discrepancy with the kernel exp(-d^2 / median d^2), mean over pairs of modalities
    (Gretton et al. 2012). Pairs of latents from one subject are left out, as a U-statistic leaves out a latent's pair
    with itself: they are no independent draws. Hence zero on average where the laws are the same, and it can be below.
    Sees any difference of laws; blind to who is paired with whom. Undefined for a single subject.

    ``silhouette``: of the modalities as clusters (Rousseeuw 1987), -1 to 1. Sees separate clouds; hardly sees clouds of
    one centre that differ in scale or direction.
    """
    n, modalities, channels = paired.shape
    flat = torch.tensor(paired.z.reshape(n * modalities, channels), dtype=torch.float32)
    flat = (flat - flat.mean(dim=0)) / paired.scale
    cell = torch.from_numpy((paired.subject[:, None] * modalities + np.arange(modalities)).ravel())
    inside = torch.nn.functional.one_hot(cell, paired.subjects * modalities).float()  # [n M, S M]
    some = flat[torch.randperm(len(flat), generator=torch.Generator().manual_seed(0))[:1000]]
    median = float(torch.pdist(some).square().median().clamp_min(1e-12))
    kernel = torch.zeros(inside.shape[1], inside.shape[1], dtype=torch.float64)
    away = torch.zeros_like(inside)
    for start in range(0, len(flat), _ROWS):
        rows = slice(start, start + _ROWS)
        d = torch.cdist(flat[rows], flat)
        away[rows] = d @ inside
        kernel += (inside[rows].T @ (d.square_().mul_(-1 / median).exp_() @ inside)).double()
    sums, far = kernel.numpy().reshape(paired.subjects, modalities, paired.subjects, modalities), away.numpy()
    others = 1.0 - np.eye(paired.subjects)

    def value(weights: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        places, subjects = np.argsort(labels, axis=1), np.arange(paired.subjects)[:, None]
        named = sums[subjects, places][:, :, subjects, places]
        both = others * np.outer(weights, weights)
        pairs_of_voxels = float(paired.voxels @ both @ paired.voxels)
        joined = np.einsum("st,satb->ab", both, named)
        means = joined / pairs_of_voxels if pairs_of_voxels else np.full_like(joined, np.nan)
        own = np.diag(means)
        found = [own[a] + own[b] - 2 * means[a, b] for a, b in combinations(range(modalities), 2)]
        return {"mmd": float(np.mean(found)), "silhouette": _silhouette(far, weights, labels, paired)}

    return value


def _silhouette(far: np.ndarray, weights: np.ndarray, labels: np.ndarray, paired: Paired) -> float:
    _, modalities, _ = paired.shape
    members = np.zeros((labels.size, modalities), dtype=np.float32)
    members[np.arange(labels.size), labels.ravel()] = np.repeat(weights, modalities)
    to_each = far @ members  # [n M, M], sums of distances
    count = weights @ paired.voxels
    row, own = np.arange(len(to_each)), labels[paired.subject].ravel()
    inner = to_each[row, own] / max(count - 1, 1)
    to_each[row, own] = np.inf
    outer = to_each.min(axis=1) / count
    found = (outer - inner) / np.maximum(np.maximum(inner, outer), 1e-12)
    return float(np.average(found, weights=np.repeat(weights[paired.subject], modalities)))


def classifier(paired: Paired) -> Value:
    """How well a Gaussian classifier tells the modality from the latent, on subjects that it was not fitted on.

    Quadratic discriminant analysis (scikit-learn's) on at most 32 principal components, folds by subject, at most 2000
    voxels; probabilities softened by one temperature, chosen on the training folds.

    ``modality_accuracy``: chance is 1/M. ``proxy_a_distance``: 2 (1 - 2 error), mean over pairs of modalities
    (Ben-David et al. 2007): 0 where two cannot be told apart, 2 where they always can. ``js_share``: (H - CE) / H with
    H = log M, the share of the generalised Jensen-Shannon divergence JS_w / H(w) that the classifier proves, from below
    and cut to 0 ... 1 (:func:`mtg_lab.theory.information_bound`). All see offset, scale and direction, and are blind to
    what lies beyond second moments, and to who is paired with whom; the accuracy saturates once clouds are apart.
    Undefined with fewer than two subjects. An interval draws the held-out subjects anew, not the classifier.
    """
    some = paired.at_most(_CLASSIFIED)
    n, modalities, channels = some.shape
    x = some.principal(max(1, min(COMPONENTS, channels, n // 20)))
    of_own = own_labels(some)
    known: dict[bytes, np.ndarray] = {}

    def value(weights: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        if some.subjects < 2:
            return dict.fromkeys(("modality_accuracy", "proxy_a_distance", "js_share"), float("nan"))
        logs = known.get(labels.tobytes())
        if logs is None:
            logs = _held_out(x, labels[some.subject], some.subject)
            if np.array_equal(labels, of_own):  # the bootstrap asks for these again and again
                known[labels.tobytes()] = logs
        truth = labels[some.subject]
        w = weights[some.subject] / (weights[some.subject].sum() * modalities)
        right = (logs.argmax(axis=2) == truth).sum(axis=1)
        told = np.take_along_axis(logs, truth[:, :, None], axis=2)[..., 0]
        entropy = np.log(modalities)
        share = 1 + float(w @ told.sum(axis=1)) / entropy
        return {
            "modality_accuracy": float(w @ right),
            "proxy_a_distance": _a_distance(logs, truth, w * modalities),
            "js_share": float(np.clip(share, 0, 1)),
        }

    return value


def _held_out(x: np.ndarray, labels: np.ndarray, subject: np.ndarray) -> np.ndarray:
    """Logarithms of probabilities [n, M, M] of every latent's name, from a classifier fitted on other subjects."""
    n, modalities, _ = x.shape
    logs = np.empty((n, modalities, modalities))
    for train, test in GroupKFold(min(5, len(np.unique(subject)))).split(x, groups=subject):
        model = QuadraticDiscriminantAnalysis(reg_param=0.01)
        names = labels[train].ravel()
        model.fit(x[train].reshape(names.size, -1), names)
        some = train[:: max(1, len(train) // _SOFTENED_BY)]
        own = _softened(model, x[some]).reshape(-1, modalities)
        truth = labels[some].ravel()
        fit = [-_normalised(own / t)[np.arange(truth.size), truth].mean() for t in _TEMPERATURES]
        logs[test] = _normalised(_softened(model, x[test]) / _TEMPERATURES[int(np.argmin(fit))])
    return logs


def _softened(model: QuadraticDiscriminantAnalysis, x: np.ndarray) -> np.ndarray:
    flat = model.predict_log_proba(x.reshape(-1, x.shape[2]))
    return np.asarray(flat).clip(min=-200).reshape(*x.shape[:2], -1)


def _normalised(logs: np.ndarray) -> np.ndarray:
    logs = logs - logs.max(axis=-1, keepdims=True)
    return logs - np.log(np.exp(logs).sum(axis=-1, keepdims=True))


def _a_distance(logs: np.ndarray, truth: np.ndarray, weights: np.ndarray) -> float:
    """2 (1 - 2 error), mean over pairs; each pair judged by its own two probabilities alone."""
    found = []
    for a, b in combinations(range(logs.shape[2]), 2):
        for_a = logs[..., a] > logs[..., b]
        wrong = ((truth == a) & ~for_a).sum(axis=1) + ((truth == b) & for_a).sum(axis=1)
        found.append(2 * (1 - 2 * float(weights @ wrong) / 2))
    return float(np.mean(found))
