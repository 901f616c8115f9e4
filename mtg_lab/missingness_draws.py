"""Draws of who misses what: a subset, independent rates, PASSION's imbalanced files, chances by the tumour's volume."""

import hashlib
from collections.abc import Mapping, Sequence
from itertools import product

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit

from mtg_lab.errors import InputError

PASSION_SEED = 1037
# The order in which PASSION's files list the patterns of four modalities (shared rows are filled in this order).
_PATTERNS_OF_FOUR = (
    "1111", "1101", "1110", "1100", "1011", "1010", "1001", "1000", "0111", "0101", "0110", "0100", "0011", "0010",
    "0001",
)  # fmt: skip


def draw_subset(available: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One non-empty subset of what is available, uniform over all of them.

    Args:
        available: bool [M], at least one true.
        rng: the generator that is advanced.

    Returns:
        bool [M]. With n modalities available each of the 2^n - 1 subsets is equally likely, so a subset of two is
        six times as frequent, taken together, as the full one at n = 4.

    Raises:
        InputError: nothing is available.
    """
    columns = np.flatnonzero(available)
    if columns.size == 0:
        raise InputError("a subset was asked of a subject without any modality; give it one or drop its row")
    bits = int(rng.integers(1, 2**columns.size))
    chosen = np.zeros(available.shape, dtype=bool)
    chosen[columns] = (bits >> np.arange(columns.size)) & 1
    return chosen


def imbalanced(subjects: int | Sequence[str], rates: Mapping[str, float], seed: int = PASSION_SEED) -> np.ndarray:
    """Fixed patterns of missing modalities at imbalanced rates (PASSION, arXiv 2407.14796, released split files).

    Every pattern gets its expected number of subjects (rounded down, at least one), the rows are shuffled, and rows
    that would lack everything are drawn again until they hold something; so realised rates sit a little below the
    nominal ones and nobody is empty.

    Args:
        subjects: how many, or their names in sorted order.
        rates: missing rate of each modality in [0, 1). Their order matters: the published files of BraTS list
            ``t1n, t1c, t2f, t2w`` (``mr2468`` is 0.2, 0.4, 0.6, 0.8).
        seed: 1037 reproduces the published files.

    Returns:
        bool [subjects, M], true where the modality is there; columns in the order of ``rates``.

    Raises:
        InputError: a rate outside [0, 1), no modality, or fewer subjects than patterns with at least one modality.
    """
    count = len(subjects) if isinstance(subjects, Sequence) else int(subjects)
    missing = np.array(list(rates.values()), dtype=float)
    if missing.size == 0 or not np.all((missing >= 0) & (missing < 1)):  # so that NaN is refused as well
        raise InputError(f"missing rates must lie in [0, 1), one a modality; found {dict(rates)}")
    patterns = _patterns(missing.size)
    if count < len(patterns):
        raise InputError(
            f"{count} subjects cannot show all {len(patterns)} patterns of {missing.size} modalities; "
            f"give at least {len(patterns)}"
        )
    rng = np.random.RandomState(seed)  # the legacy generator: the published files depend on its stream
    for _ in range(missing.size):
        rng.rand(count)
    blocks = [
        np.tile(pattern, (max(1, int(count * np.prod(np.where(pattern, 1 - missing, missing)))), 1))
        for pattern in patterns
    ]
    rows = np.concatenate([*blocks, np.zeros((count, missing.size), dtype=bool)])[:count]
    order = np.arange(count)
    rng.shuffle(order)
    rows = rows[order]
    for row in rows:
        while not row.any():
            row[:] = [rng.rand() > rate for rate in missing]
    return rows


def each_at_its_rate(available: np.ndarray, missing: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Each available modality missing at its rate, given that one at least is left: what redrawing gives in the end."""
    there = np.zeros(available.shape, dtype=bool)
    columns = np.flatnonzero(available)
    for place, column in enumerate(columns):
        # The chance of the rest to leave something, unless something is there already.
        rest = 1.0 if there.any() else 1 - float(np.prod(missing[columns[place:]]))
        there[column] = rest > 0 and rng.random() < (1 - missing[column]) / rest
    return there


def presence_chance(volumes_ml: np.ndarray, slope: float, rate: float) -> np.ndarray:
    """Chance that a modality is there, rising with the tumour's volume: missing not at random (Rubin 1976).

    A logistic of the standardised logarithm of the volume, logit(p) = a + slope * z with z = log(1 + ml) brought to
    mean 0 and standard deviation 1 over the subjects; a is chosen so that the mean of p is 1 - rate.

    Args:
        volumes_ml: [subjects].
        slope: change of the logit for one standard deviation; 0 is missing at random, below 0 large tumours miss it.
        rate: mean missing rate, from 0 to 1.

    Returns:
        [subjects], in [0, 1].
    """
    logs = np.log1p(np.asarray(volumes_ml, dtype=float))
    spread = logs.std()
    z = (logs - logs.mean()) / spread if spread > 0 else np.zeros_like(logs)
    if rate in (0, 1):
        return np.full_like(z, 1 - rate)
    far = abs(slope) * np.abs(z).max() + 40  # where all chances are 0 or 1 to double precision
    level = brentq(lambda a: expit(a + slope * z).mean() - (1 - rate), -far, far)
    return expit(level + slope * z)


def subject_generator(seed: int, name: str) -> np.random.Generator:
    """A stream of the subject's own: who else is in the cohort does not matter."""
    words = np.frombuffer(hashlib.sha256(name.encode()).digest(), dtype="<u4")
    return np.random.default_rng([seed, *map(int, words)])


def _patterns(modalities: int) -> list[np.ndarray]:
    if modalities == 4:
        return [np.array([c == "1" for c in p]) for p in _PATTERNS_OF_FOUR]
    return [np.array(bits) for bits in product([True, False], repeat=modalities) if any(bits)]
