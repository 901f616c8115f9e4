"""Why the mixture is the best anchor (Mind the Gap, arXiv 2409.19366), as executable mathematics.

The identity on KL divergences is a textbook fact of information theory (the compensation identity), not the authors'
theorem, whose proof was not available to us: they state that aligning each modality to P_mix certifies a tighter bound.
"""

from collections.abc import Sequence

import numpy as np
from scipy.integrate import trapezoid
from scipy.special import logsumexp, rel_entr
from scipy.stats import norm


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


def gaussian_divergence(
    mean: np.ndarray, sd: np.ndarray, anchor_mean: np.ndarray | float = 0.0, anchor_sd: np.ndarray | float = 1.0
) -> float:
    """KL(N(mean, sd^2) || N(anchor_mean, anchor_sd^2)) of diagonal Gaussians, in closed form (nats).

    sum over dimensions of ln(b/s) + (s^2 + (m - a)^2) / (2 b^2) - 1/2; Kullback 1959, section 9.1.
    """
    m, s, a, b = np.broadcast_arrays(*(np.asarray(v, dtype=float) for v in (mean, sd, anchor_mean, anchor_sd)))
    return float((np.log(b / s) + (s**2 + (m - a) ** 2) / (2 * b**2) - 0.5).sum())


def sampled_compensation(
    means: np.ndarray,
    sds: np.ndarray,
    weights: Sequence[float],
    anchor_mean: np.ndarray | float = 0.0,
    anchor_sd: np.ndarray | float = 1.0,
    draws: int = 20_000,
    seed: int = 0,
) -> dict[str, float]:
    """The identity in any number of dimensions, by Monte Carlo: diagonal Gaussians q_m and a Gaussian anchor.

    The three terms use the same draws, so that the identity holds to rounding for them; each term alone carries the
    error of the draw, given as ``js_error`` (one standard error).

    Args:
        means, sds: [M, C].
        weights: [M]; normalised to one.
        anchor_mean, anchor_sd: of the anchor, [C] or a number.
        draws: per modality.
        seed: of the draws.

    Returns:
        ``cost`` = ``js`` + ``price`` (nats), ``entropy`` H(w), ``js_error``, and ``closed_cost``, the cost without
        sampling.

    Raises:
        ValueError: shapes differ, or a spread or weight is not positive.
    """
    m, s, w = np.asarray(means, dtype=float), np.asarray(sds, dtype=float), np.asarray(weights, dtype=float)
    if m.ndim != 2 or m.shape != s.shape or w.shape != m.shape[:1] or (s <= 0).any() or (w <= 0).any():
        raise ValueError("means and sds need the shape [M, C], weights [M]; sds and weights must be positive")
    w = w / w.sum()
    rng = np.random.default_rng(seed)
    z = m[:, None] + s[:, None] * rng.standard_normal((len(m), draws, m.shape[1]))  # [M, draws, C]
    parts = norm.logpdf(z[:, :, None], m, s).sum(axis=-1)  # [M, draws, M]: log q_n at draws of q_m
    own = np.stack([parts[i, :, i] for i in range(len(m))])
    mixture = logsumexp(parts, b=w, axis=2)
    anchor = norm.logpdf(z, anchor_mean, anchor_sd).sum(axis=-1)
    errors = (own - mixture).std(axis=1) / np.sqrt(draws)
    return {
        "cost": float(w @ (own - anchor).mean(axis=1)),
        "js": float(w @ (own - mixture).mean(axis=1)),
        "price": float(w @ (mixture - anchor).mean(axis=1)),
        "entropy": float(-(w * np.log(w)).sum()),
        "js_error": float(np.sqrt((w**2 * errors**2).sum())),
        "closed_cost": float(sum(p * gaussian_divergence(a, b, anchor_mean, anchor_sd) for p, a, b in zip(w, m, s))),
    }


def information_bound(probabilities: np.ndarray, modality: np.ndarray) -> dict[str, float]:
    """What a classifier of the modality says about the gap: H(w) - CE <= JS_w = I(z; m) <= H(w) (nats).

    The gap is the information that a latent carries on which modality it came from, and the cross-entropy of any
    classifier bounds it from below (on data that it was not fitted on).

    Args:
        probabilities: [n, M], of each modality given the latent, on held-out latents.
        modality: int [n], where each latent came from.

    Returns:
        ``bound`` (not below 0), ``entropy`` H(w) with w the frequencies in ``modality``, and ``share``, the bound over
        the entropy: 0 nothing is told apart, 1 everything.
    """
    frequencies = np.bincount(modality, minlength=probabilities.shape[1]) / len(modality)
    present = frequencies[frequencies > 0]
    entropy = float(-(present * np.log(present)).sum())
    of_truth = np.take_along_axis(probabilities, modality[:, None], axis=1)
    bound = max(0.0, entropy + float(np.log(np.maximum(of_truth, 1e-12)).mean()))
    return {"bound": bound, "entropy": entropy, "share": bound / entropy if entropy > 0 else 0.0}
