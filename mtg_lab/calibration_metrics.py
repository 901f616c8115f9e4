"""How far probabilities can be believed: Brier score, expected calibration error, and the bins that they come from."""

from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from mtg_lab.errors import InputError

BINS = 15  # Guo et al. 2017, "On calibration of modern neural networks", section 2


@dataclass
class ReliabilityTally:
    """Voxels by predicted probability, added up case by case, so that no cohort need be in memory.

    Attributes:
        bins: of equal width over 0 to 1; a probability on an edge belongs to the upper bin, 1 to the last.
        count, predicted, hits: [bins] voxels, sum of their probabilities, and how many of them are in the region.
        squares: sum over voxels of (probability − truth)².
    """

    bins: int = BINS
    squares: float = 0.0
    count: np.ndarray = field(init=False)
    predicted: np.ndarray = field(init=False)
    hits: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        if self.bins < 1:
            raise InputError(f"{self.bins} bins of probability; give 1 at least, usually {BINS}")
        self.count, self.predicted, self.hits = (np.zeros(self.bins) for _ in range(3))

    def add(self, probability: np.ndarray, truth: np.ndarray) -> None:
        """Count the voxels of a case.

        Args:
            probability: of the region, 0 to 1, float of any shape.
            truth: bool, the same shape.

        Raises:
            InputError: shapes differ, or a value is no probability.
        """
        _check(probability, truth)
        probability = probability.ravel().astype(np.float64)
        hits = truth.ravel().astype(np.float64)
        place = np.minimum((probability * self.bins).astype(np.int64), self.bins - 1)
        self.count += np.bincount(place, minlength=self.bins)
        self.predicted += np.bincount(place, probability, self.bins)
        self.hits += np.bincount(place, hits, self.bins)
        self.squares += float(np.square(probability - hits).sum())

    @property
    def brier(self) -> float:
        """Mean squared difference of probability and truth (Brier 1950); NaN without a voxel."""
        return self.squares / self.count.sum() if self.count.any() else float("nan")

    @property
    def expected_error(self) -> float:
        """Expected calibration error (Naeini et al. 2015): |frequency − confidence|, weighted by voxels."""
        return float(np.abs(self.hits - self.predicted).sum() / self.count.sum()) if self.count.any() else float("nan")

    def table(self) -> pd.DataFrame:
        """A row a bin: bin, low and high (its edges), count, confidence, frequency.

        Confidence is the mean probability, frequency the share of voxels in the region (what a reliability diagram
        calls accuracy); both are NaN where no voxel is.
        """
        edges = np.linspace(0, 1, self.bins + 1)
        confidence, frequency = (
            np.divide(s, self.count, out=np.full(self.bins, np.nan), where=self.count > 0)
            for s in (self.predicted, self.hits)
        )
        return pd.DataFrame({"bin": np.arange(self.bins), "low": edges[:-1], "high": edges[1:],
                             "count": self.count.astype(np.int64), "confidence": confidence,
                             "frequency": frequency})  # fmt: skip


def expected_calibration_error(probability: np.ndarray, truth: np.ndarray, bins: int = BINS) -> float:
    """ECE of one region (Naeini et al. 2015); arguments as for :class:`ReliabilityTally`."""
    tally = ReliabilityTally(bins)
    tally.add(probability, truth)
    return tally.expected_error


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
