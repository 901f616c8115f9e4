"""What each sequence is worth, and which sequences stand in for each other: Shapley values over all subsets.

The game: players are sequences, and v(S) is the score of the network that sees S. v of no sequence is 0 by definition:
without images there is no mask, and its Dice with a lesion is 0. (A patient without the lesion would score 1 with an
empty mask under the rule ``one``; the definition holds for such patients as well, so that values always sum to the
score with all sequences.)
"""

from itertools import combinations
from math import factorial

import numpy as np
import pandas as pd

from mtg_lab.errors import InputError
from mtg_lab.resampling import interval, resampled_means
from mtg_lab.score_cube import ScoreCube, Scores, nanmean, score_cube

# Scores from 0, nothing, to 1: what a game without players can be worth is known of these only.
SCORES = ("dice", "iou", "sensitivity", "precision", "nsd", "lesion_dice")


def worth(scores: Scores, metric: str = "dice", draws: int = 2000, seed: int = 0) -> pd.DataFrame:
    """Exact Shapley value of each sequence, per region.

    φ_m = Σ over S without m of |S|! (M − |S| − 1)! / M! · (v(S + m) − v(S)) (Shapley 1953): what a sequence adds,
    averaged over all orders in which sequences may arrive. Values are computed for every patient and seed and
    averaged; they sum to the score with all sequences.

    Args:
        scores: a table, or seed to table; of all 2^M − 1 subsets.
        metric: a score from 0 to 1, see ``SCORES``.
        draws: bootstrap repetitions over patients and seeds; seed: of the bootstrap.

    Returns:
        Columns region (and ``all``), modality, value, low, high (95 %), share (of the score with all sequences), full
        (that score), subjects (those scored on every subset; others are left out).

    Raises:
        InputError: a subset is missing, no patient was scored on all, or the metric has no value for nothing.
    """
    cube = _game(scores, metric)
    weights = shapley_weights(cube.modalities, cube.subsets)
    rows = []
    for region, cells, full in _complete(cube):
        values = cells @ weights.T  # [seeds, subjects, M]
        low, high = interval(resampled_means(values, draws, np.random.default_rng(seed)))
        rows += [
            {"region": region, "modality": m, "value": value, "low": low[i], "high": high[i],
             "share": value / full if full else np.nan, "full": full, "subjects": cells.shape[1]}
            for i, (m, value) in enumerate(zip(cube.modalities, values.mean(axis=(0, 1)), strict=True))
        ]  # fmt: skip
    return cube.table(rows)


def pair_interactions(scores: Scores, metric: str = "dice", draws: int = 2000, seed: int = 0) -> pd.DataFrame:
    """Do two sequences help each other or say the same: two indices for each pair, per region.

    ``shapley``: I_ij = Σ over S without i, j of |S|! (M − |S| − 2)! / (M − 1)! · (v(S + i + j) − v(S + i) − v(S + j) +
    v(S)), the Shapley interaction index (Grabisch and Roubens 1999, equation 2). ``alone``: its first term,
    v({i, j}) − v({i}) − v({j}). Negative: redundant, the second of them adds less after the first; positive: they need
    each other. Because v of nothing is 0, the term of the empty S is negative wherever one sequence already finds the
    lesion; ``given_others`` is the same average without it (weights renewed), NaN for two sequences.

    Args:
        scores, metric, draws, seed: as for :func:`worth`.

    Returns:
        Columns region (and ``all``), first, second, index (``shapley``, ``alone`` or ``given_others``), value, low,
        high (95 %), subjects.

    Raises:
        InputError: as for :func:`worth`; one sequence only.
    """
    cube = _game(scores, metric)
    if len(cube.modalities) < 2:
        raise InputError(f"a pair needs two sequences; these scores have {cube.modalities[0]} only")
    pairs = list(combinations(cube.modalities, 2))
    kinds = {name: interaction_weights(cube.modalities, cube.subsets, name) for name in INDICES}
    rows = []
    for region, cells, _ in _complete(cube):
        for name, weights in kinds.items():
            values = cells @ weights.T  # [seeds, subjects, pairs]
            low, high = interval(resampled_means(values, draws, np.random.default_rng(seed)))
            means = nanmean(values, axis=(0, 1))
            rows += [
                {"region": region, "first": a, "second": b, "index": name, "value": means[i], "low": low[i],
                 "high": high[i], "subjects": cells.shape[1]}
                for i, (a, b) in enumerate(pairs)
            ]  # fmt: skip
    return cube.table(rows)


INDICES = ("shapley", "alone", "given_others")


def shapley_weights(modalities: tuple[str, ...], subsets: tuple[frozenset[str], ...]) -> np.ndarray:
    """Matrix [M, subsets] whose product with v of the non-empty subsets are the Shapley values, v(∅) = 0."""
    total = len(modalities)
    weights = np.zeros((total, len(subsets)))
    for column, subset in enumerate(subsets):
        size = len(subset)
        for row, modality in enumerate(modalities):
            if modality in subset:
                weights[row, column] = factorial(size - 1) * factorial(total - size) / factorial(total)
            else:
                weights[row, column] = -factorial(size) * factorial(total - size - 1) / factorial(total)
    return weights


def interaction_weights(modalities: tuple[str, ...], subsets: tuple[frozenset[str], ...], index: str) -> np.ndarray:
    """Matrix [pairs, subsets] of an index of :func:`pair_interactions`, v(∅) = 0; NaN where it has no term."""
    total, places = len(modalities), {s: i for i, s in enumerate(subsets)}
    pairs = list(combinations(modalities, 2))
    weights = np.zeros((len(pairs), len(subsets)))
    for row, (a, b) in enumerate(pairs):
        others = [m for m in modalities if m not in (a, b)]
        for size in range(len(others) + 1):
            weight = factorial(size) * factorial(total - size - 2) / factorial(total - 1)
            if index == "alone":
                weight = float(size == 0)
            elif index == "given_others":  # the empty S weighs 1 / (M - 1)
                weight = weight * (total - 1) / (total - 2) if size else 0.0
            for rest in map(frozenset, combinations(others, size)):
                for joined, sign in ((rest | {a, b}, 1), (rest | {a}, -1), (rest | {b}, -1), (rest, 1)):
                    if joined:
                        weights[row, places[joined]] += sign * weight
    return np.full_like(weights, np.nan) if index == "given_others" and total == 2 else weights


def _game(scores: Scores, metric: str) -> ScoreCube:
    if metric not in SCORES:
        raise InputError(
            f"what a sequence is worth in {metric} is not defined, because nothing has no {metric}; take one of "
            f"{', '.join(SCORES)}"
        )
    cube = score_cube(scores, metric).mean_over_regions()
    needed, given = 2 ** len(cube.modalities) - 1, len(cube.subsets)
    if given < needed:
        raise InputError(
            f"exact Shapley values of {len(cube.modalities)} sequences need all {needed} subsets, and {given} were "
            f"scored; evaluate with most_subsets={needed} and without naming subsets"
        )
    return cube


def _complete(cube: ScoreCube) -> list[tuple[str, np.ndarray, float]]:
    """Each region's cells [seeds, subjects, subsets] of the patients scored on every subset, and its full score."""
    found = []
    for place, region in enumerate(cube.regions):
        cells = cube.values[..., place]
        cells = cells[:, np.isfinite(cells).all(axis=(0, 2))]
        if cells.shape[1]:
            found.append((region, cells, float(cells[..., cube.full].mean())))
    if not found:
        raise InputError("no subject was scored on every subset; Shapley values need one that has all sequences")
    return found
