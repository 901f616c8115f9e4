"""The gap between modalities as a table: every measure with its interval, its null and what it can and cannot see."""

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from mtg_lab import gap_measures, pairing_measures
from mtg_lab.embedding import Embedding, neighbourhood_kept
from mtg_lab.errors import InputError
from mtg_lab.latent_tables import (
    complete_pairs,
    hooked,
    latents,
    latents_from,
    of_unit_spread,
    read_latents,
    save_latents,
    thinned,
)
from mtg_lab.paired import Paired, label_permutation, own_labels, own_pairing, random_pairing
from mtg_lab.progress import progress
from mtg_lab.resampling import draw_counts, interval

__all__ = [
    "BASIC",
    "MEASURES",
    "Embedding",
    "complete_pairs",
    "gap",
    "gap_by",
    "gap_matrix",
    "hooked",
    "latents",
    "latents_from",
    "neighbourhood_kept",
    "of_unit_spread",
    "read_latents",
    "save_latents",
    "thinned",
]


@dataclass(frozen=True)
class Measure:
    """A function that measures, and how its numbers are to be read.

    Attributes:
        prepare: see :mod:`mtg_lab.gap_measures` and :mod:`mtg_lab.pairing_measures`.
        names: of the numbers that it gives.
        null: what is permuted within subjects: ``labels`` (which modality is which), ``pairs`` (which voxel belongs to
            which), or nothing.
        tail: where the p-value looks, ``greater`` or ``less`` than the null.
        sees, blind: in words.
    """

    prepare: Callable[[Paired], Callable[[np.ndarray, np.ndarray], dict[str, float]]]
    names: tuple[str, ...]
    null: str
    tail: str
    sees: str
    blind: str


_LABELS, _PAIRS = ("labels", "greater"), ("pairs", "greater")
_ALL = (
    Measure(gap_measures.centroid_gap, ("centroid_gap",), *_LABELS, "an offset", "scale, direction, shape, pairs"),
    Measure(
        pairing_measures.relative_gap,
        ("relative_gap",),
        "pairs",
        "less",
        "an offset, and all that parts a pair",
        "a common scale; which of the two it was",
    ),
    Measure(gap_measures.frechet, ("frechet",), *_LABELS, "offset, scale, direction", "shape beyond covariance, pairs"),
    Measure(
        gap_measures.sliced_wasserstein, ("sliced_wasserstein",), *_LABELS, "any difference of projections", "pairs"
    ),
    Measure(
        gap_measures.distances,
        ("mmd", "silhouette"),
        *_LABELS,
        "laws that differ, or clouds that lie apart",
        "pairs; silhouette also to clouds of one centre",
    ),
    Measure(
        gap_measures.classifier,
        ("modality_accuracy", "proxy_a_distance", "js_share"),
        *_LABELS,
        "offset, scale, direction",
        "shape beyond covariance, pairs",
    ),
    Measure(pairing_measures.matched_cosine, ("matched_cosine",), *_PAIRS, "what pairs share", "depends on the origin"),
    Measure(
        pairing_measures.linear_cka,
        ("linear_cka",),
        *_PAIRS,
        "whether voxels are arranged alike",
        "offset, rotation, scale",
    ),
    Measure(
        pairing_measures.retrieval,
        ("retrieval",),
        *_PAIRS,
        "agreement voxel by voxel",
        "whether an offset or disagreement spoils it",
    ),
    Measure(pairing_measures.shape, ("latent_scale", "effective_rank"), "", "", "shrinking, collapse", "the gap"),
)

MEASURES: dict[str, Measure] = {name: measure for measure in _ALL for name in measure.names}
BASIC = ("centroid_gap", "relative_gap", "latent_scale", "effective_rank", "modality_accuracy")


def gap(
    table: pd.DataFrame,
    draws: int = 200,
    seed: int = 0,
    nulls: int = 200,
    measures: Iterable[str] | None = None,
) -> pd.DataFrame:
    """Numbers that describe the modality gap, each with an interval over subjects, a null and a p-value.

    The null permutes within subjects: the names of the modalities, one permutation a subject, for measures of how
    different the modalities are (p is the chance of so large a value if names meant nothing); or which voxel belongs to
    which, for measures of what a pair shares (p: if pairs meant nothing). What each measure sees and is blind to stands
    in ``MEASURES`` and in the functions of :mod:`mtg_lab.gap_measures` and :mod:`mtg_lab.pairing_measures`.

    Args:
        table: paired latents, of :func:`mtg_lab.latents`.
        draws: bootstrap repetitions over subjects; 0 for no interval.
        seed: of bootstrap and permutations.
        nulls: permutations; 0 for no null.
        measures: names, in any order; by default all of ``MEASURES``; ``BASIC`` are the quick ones.

    Returns:
        Columns metric, value, low, high (95 %, bootstrap over subjects), null_mean, null_low, null_high (95 % of the
        permuted), p ((1 + number at least as extreme) / (1 + nulls)); NaN where not asked for or not defined.

    Raises:
        InputError: fewer than two modalities, no voxel has all of them, or an unknown measure.
    """
    wanted = tuple(MEASURES) if measures is None else tuple(measures)
    if unknown := [m for m in wanted if m not in MEASURES]:
        raise InputError(f"unknown gap measure {unknown[0]!r}; there are: {', '.join(MEASURES)}")
    paired = Paired.of(table)
    rows: dict[str, dict[str, Any]] = {}
    chosen = [m for m in _ALL if set(m.names) & set(wanted)]
    with threadpool_limits(1, user_api="blas"):  # thousands of small products: threads would wait for one another
        for measure in progress(chosen, total=len(chosen), desc="measuring the gap") if nulls else chosen:
            rows |= _measured(measure, paired, draws, nulls, seed)
    return pd.DataFrame([{"metric": name, **rows[name]} for name in MEASURES if name in wanted])


def _measured(measure: Measure, paired: Paired, draws: int, nulls: int, seed: int) -> dict[str, dict[str, Any]]:
    value, rng = measure.prepare(paired), np.random.default_rng(seed)
    labels = measure.null == "labels"
    own = own_labels(paired) if labels else own_pairing(paired)
    once = np.ones(paired.subjects)
    found = value(once, own)
    drawn = [value(counts, own) for counts in draw_counts(paired.subjects, draws, rng).astype(float)]
    permuted = label_permutation if labels else random_pairing
    by_chance = [value(once, permuted(paired, rng)) for _ in range(nulls if measure.null else 0)]
    rows = {}
    for name, number in found.items():
        low, high = _around(number, np.array([d[name] for d in drawn]))
        row = {"value": number, "low": low, "high": high}
        chance = np.array([d[name] for d in by_chance])
        rows[name] = row | _against(number, chance, measure.tail)
    return rows


def _around(number: float, drawn: np.ndarray) -> tuple[float, float]:
    """95 % of the draws less their bias: a distance that cannot be negative grows when subjects repeat."""
    if not len(drawn) or not np.isfinite(drawn).any():
        return float("nan"), float("nan")
    low, high = interval(drawn - np.nanmean(drawn) + number)
    return float(low), float(high)


def _against(number: float, chance: np.ndarray, tail: str) -> dict[str, float]:
    """Mean and 95 % of what chance gives, and the p-value (Phipson and Smyth 2010: never zero)."""
    if not len(chance) or not np.isfinite(number):
        return dict.fromkeys(("null_mean", "null_low", "null_high", "p"), float("nan"))
    low, high = interval(chance)
    beyond = chance >= number if tail == "greater" else chance <= number
    p = (1 + int(beyond.sum())) / (1 + len(chance))
    return {"null_mean": float(chance.mean()), "null_low": float(low), "null_high": float(high), "p": p}


def gap_by(table: pd.DataFrame, column: str, **options: Any) -> pd.DataFrame:
    """:func:`gap` of each part of a table: by ``tissue``, ``site``, or a column of one's own such as ``layer``.

    Returns:
        The rows of :func:`gap` behind ``column``; parts without a voxel in all modalities are left out.

    Raises:
        InputError: no such column, or no part has a gap.
    """
    if column not in table:
        raise InputError(f"these latents have no column {column!r}; they have {', '.join(map(str, table.columns[:5]))}")
    found = []
    for name, part in table.groupby(column, sort=False):
        part = part.dropna(axis=1, how="all")  # layers have numbers of channels of their own
        if part["modality"].nunique() > 1 and len(complete_pairs(part)):
            found.append(gap(part, **options).assign(**{column: name}))
    if not found:
        raise InputError(f"no part of these latents by {column} has a voxel in all modalities")
    parts = pd.concat(found, ignore_index=True)
    return parts[[column, *(c for c in parts if c != column)]]


def gap_matrix(table: pd.DataFrame, measure: str = "proxy_a_distance") -> pd.DataFrame:
    """A measure between every two modalities, M x M; NaN on the diagonal.

    Raises:
        InputError: an unknown measure, or a table without a gap.
    """
    if measure not in MEASURES:
        raise InputError(f"unknown gap measure {measure!r}; there are: {', '.join(MEASURES)}")
    paired = Paired.of(table)
    found = pd.DataFrame(np.nan, index=list(paired.modalities), columns=list(paired.modalities))
    for pair in combinations(paired.modalities, 2):
        found.loc[pair[0], pair[1]] = found.loc[pair[1], pair[0]] = _value(measure, paired.only(pair))
    return found


def _value(name: str, paired: Paired) -> float:
    measure = MEASURES[name]
    own = own_labels(paired) if measure.null == "labels" else own_pairing(paired)
    return measure.prepare(paired)(np.ones(paired.subjects), own)[name]


def described(names: Sequence[str] | None = None) -> pd.DataFrame:
    """What each measure sees, what it is blind to, and what its null permutes; one row a measure."""
    chosen = [(n, MEASURES[n]) for n in names or MEASURES]
    return pd.DataFrame([
        {"metric": n, "sees": m.sees, "blind to": m.blind, "null permutes": m.null or "nothing"} for n, m in chosen
    ]).set_index("metric")  # fmt: skip


class _CallableModule(ModuleType):
    """The module and its main function share a name, and importing a submodule binds it in the package: calling
    ``mtg_lab.gap(...)`` must work whichever of the two the name stands for at that moment.
    """

    def __call__(self, *args: Any, **options: Any) -> pd.DataFrame:
        return gap(*args, **options)


sys.modules[__name__].__class__ = _CallableModule
