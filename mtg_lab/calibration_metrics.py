"""How far probabilities can be believed: Brier score, expected calibration error, and the bins that they come from."""

from dataclasses import dataclass

import numpy as np

from mtg_lab.errors import InputError

BINS = 15  # Guo et al. 2017, "On calibration of modern neural networks", section 2


@dataclass(frozen=True)
class Reliability:
    """Voxels by their predicted probability, in bins of equal width.

    Attributes:
        count: [bins] voxels.
        confidence: [bins] mean probability that was predicted; NaN where no voxel is.
        frequency: [bins] share of voxels that are in the region; NaN where no voxel is.
    """

    count: np.ndarray
    confidence: np.ndarray
    frequency: np.ndarray

    @property
    def expected_error(self) -> float:
        """Mean distance of frequency from confidence, weighted by voxels (ECE); NaN without a voxel."""
        filled = self.count > 0
        if not filled.any():
            return float("nan")
        gap = np.abs(self.frequency[filled] - self.confidence[filled])
        return float((self.count[filled] * gap).sum() / self.count.sum())


def reliability(probability: np.ndarray, truth: np.ndarray, bins: int = BINS) -> Reliability:
    """Bin voxels by the probability that they belong to a region.

    Args:
        probability: float, any shape, from 0 to 1.
        truth: bool, the same shape.
        bins: of equal width; a probability on an edge belongs to the upper bin, 1 to the last.

    Raises:
        InputError: shapes differ, a value is no probability, or there is no bin.
    """
    _check(probability, truth)
    if bins < 1:
        raise InputError(f"{bins} bins for the calibration error; give at least 1, usually {BINS}")
    place = np.minimum((probability.ravel() * bins).astype(np.int64), bins - 1)
    count = np.bincount(place, minlength=bins)
    sums = (
        np.bincount(place, weights=values.ravel().astype(np.float64), minlength=bins) for values in (probability, truth)
    )
    confidence, frequency = (np.divide(s, count, out=np.full(bins, np.nan), where=count > 0) for s in sums)
    return Reliability(count, confidence, frequency)


def expected_calibration_error(probability: np.ndarray, truth: np.ndarray, bins: int = BINS) -> float:
    """ECE of one region (Naeini et al. 2015); arguments as for :func:`reliability`."""
    return reliability(probability, truth, bins).expected_error


def brier(probability: np.ndarray, truth: np.ndarray) -> float:
    """Mean squared difference of probability and truth (0 or 1), from 0 to 1; NaN without a voxel.

    Args:
        probability: float, any shape, from 0 to 1.
        truth: bool, the same shape.

    Raises:
        InputError: shapes differ, or a value is no probability.
    """
    _check(probability, truth)
    return float(np.square(probability.astype(np.float64) - truth).mean()) if truth.size else float("nan")


def _check(probability: np.ndarray, truth: np.ndarray) -> None:
    if probability.shape != truth.shape or truth.dtype != bool:
        raise InputError(
            f"probabilities {list(probability.shape)} and truth {truth.dtype} {list(truth.shape)} must be one shape, "
            "the truth bool"
        )
    # Sums of float32 probabilities may exceed one by their rounding.
    if probability.size and not (probability.min() >= 0 and probability.max() <= 1 + 1e-5):
        raise InputError(
            f"probabilities run from {probability.min():g} to {probability.max():g}; give numbers from 0 to 1, such as "
            "the softmax of logits"
        )
