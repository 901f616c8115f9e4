"""Score tables as arrays: seed by subject by subset by region, for whatever is computed over all subsets at once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from mtg_lab.errors import InputError
from mtg_lab.postprocessing import derived_regions
from mtg_lab.protocol import check_comparable, protocol_attrs, select_metric

# One training's table as evaluate() gives it, or several of one method by seed.
Scores = pd.DataFrame | Mapping[int, pd.DataFrame]

EVERY_REGION = "all"
_LESS_IS_BETTER = (
    "hd95", "lesion_hd95", "lesions_missed", "lesions_invented", "brier", "ece", "absolute_volume_error_ml",
)  # fmt: skip
_NEITHER = ("volume_error_ml", "relative_volume_error")  # signed: best in the middle


@dataclass(frozen=True)
class ScoreCube:
    """Scores of one method.

    Attributes:
        values: [seeds, subjects, subsets, regions]; NaN where nothing was scored.
        seeds, subjects, regions: names along the axes.
        subsets: sets of modalities along the axis, names in ``subset_names``.
        modalities: of the largest subset, in its order.
        attrs: of the tables computed from this: the protocol.
    """

    values: np.ndarray
    seeds: tuple[int, ...]
    subjects: tuple[str, ...]
    subsets: tuple[frozenset[str], ...]
    subset_names: tuple[str, ...]
    regions: tuple[str, ...]
    modalities: tuple[str, ...]
    attrs: Mapping[str, Any] = field(default_factory=dict)

    @property
    def full(self) -> int:
        """Place of the subset of all modalities.

        Raises:
            InputError: it was not scored.
        """
        everything = frozenset(self.modalities)
        if everything not in self.subsets:
            raise InputError(
                f"no subset of these scores holds all of {', '.join(self.modalities)}; evaluate on all subsets"
            )
        return self.subsets.index(everything)

    def mean_over_regions(self) -> "ScoreCube":
        """The same with one more region, ``all``: the mean of a case's regions; unchanged where there is one region.

        A region without its small parts (``ETpp``) stands beside the region itself and does not count twice.
        """
        counted = [i for i, r in enumerate(self.regions) if r not in derived_regions(self.regions)]
        if len(counted) < 2:
            return self
        mean = nanmean(self.values[..., counted], axis=3)[..., None]
        values = np.concatenate([self.values, mean], axis=3)
        return replace(self, values=values, regions=(*self.regions, EVERY_REGION))

    def table(self, rows: Any) -> pd.DataFrame:
        """A table of what was computed from these scores, which knows their protocol."""
        found = pd.DataFrame(rows)
        found.attrs.update(self.attrs)
        return found


def score_cube(scores: Scores, metric: str = "dice") -> ScoreCube:
    """Read one method's tables as an array.

    Args:
        scores: a table of :func:`mtg_lab.evaluate`, or seed to table.
        metric: the one that is read, where a table has several.

    Raises:
        InputError: no table, tables of different protocols, an unknown metric, or a case that is scored twice.
    """
    tables = {0: scores} if isinstance(scores, pd.DataFrame) else dict(scores)
    if not tables:
        raise InputError("there are no scores; give at least one table of mtg_lab.evaluate")
    for table in tables.values():
        if lacking := [c for c in ("subject", "subset", "region", "value", "protocol") if c not in table]:
            raise InputError(
                f"this is no table of scores: it lacks the column {lacking[0]}; take that of mtg_lab.evaluate"
            )
    chosen = [select_metric(table, metric) for table in tables.values()]
    check_comparable(chosen)
    keys = ["subject", "subset", "region"]
    for table in chosen:
        twice = table[table.duplicated(keys)]
        if len(twice):
            subject, subset, region = twice.iloc[0][keys]
            raise InputError(
                f"subject {subject}, subset {subset}, region {region} is scored twice in one table; "
                "split a table of several runs with by_arm"
            )
    axes = [list(dict.fromkeys(name for t in chosen for name in t[key])) for key in keys]
    every = pd.MultiIndex.from_product(axes, names=keys)
    values = np.stack([
        t.set_index(keys)["value"].reindex(every).to_numpy(dtype=float).reshape([len(a) for a in axes]) for t in chosen
    ])  # fmt: skip
    subsets = [frozenset(name.split("+")) for name in axes[1]]
    ordered = sorted(axes[1], key=lambda name: -name.count("+"))
    modalities = tuple(dict.fromkeys(m for name in ordered for m in name.split("+")))
    return ScoreCube(values, tuple(tables), tuple(axes[0]), tuple(subsets), tuple(axes[1]), tuple(axes[2]), modalities,
                     protocol_attrs(*chosen))  # fmt: skip


def comparable_cubes(scores: Mapping[str, Scores], metric: str = "dice") -> dict[str, ScoreCube]:
    """Methods side by side, with the region ``all``, on the axes of the first.

    Raises:
        InputError: fewer than two methods, tables of different protocols or with other cases.
    """
    if len(scores) < 2:
        raise InputError(f"{len(scores)} method to compare; give two at least")
    tables = [t for s in scores.values() for t in ([s] if isinstance(s, pd.DataFrame) else s.values())]
    check_comparable([select_metric(t, metric) for t in tables])
    cubes = {method: score_cube(s, metric).mean_over_regions() for method, s in scores.items()}
    first = next(iter(cubes.values()))
    return {method: _aligned(cube, first, method) for method, cube in cubes.items()}


def _aligned(cube: ScoreCube, to: ScoreCube, method: str) -> ScoreCube:
    axes = ("subjects", "subset_names", "regions")
    values = cube.values
    for number, axis in enumerate(axes, start=1):
        wanted, there = getattr(to, axis), getattr(cube, axis)
        if other := set(wanted) ^ set(there):
            raise InputError(f"{method} has not the same {axis.replace('_names', 's')} as the others: {min(other)}")
        values = values.take([there.index(name) for name in wanted], axis=number)
    return replace(to, values=values, seeds=cube.seeds)


def by_arm(table: pd.DataFrame, column: str = "arm") -> dict[str, dict[int, pd.DataFrame]]:
    """A long table with an arm (a method) and a seed in each row, as ``{arm: {seed: table}}``; the protocol is kept.

    Raises:
        InputError: a column is missing.
    """
    for name in (column, "seed"):
        if name not in table:
            raise InputError(f"this table has no column {name!r}; it has {', '.join(map(str, table.columns))}")
    found: dict[str, dict[int, pd.DataFrame]] = {}
    for arm, seed in table[[column, "seed"]].drop_duplicates().itertuples(index=False):
        part = table[(table[column] == arm) & (table["seed"] == seed)].reset_index(drop=True)
        part.attrs = dict(table.attrs)
        found.setdefault(str(arm), {})[int(seed)] = part
    return found


def more_is_better(metric: str) -> bool:
    """Whether a larger value of this metric is a better one.

    Raises:
        InputError: neither is, as with a signed error.
    """
    if metric in _NEITHER:
        raise InputError(
            f"{metric} is best at 0, not where it is largest or smallest; compare absolute_volume_error_ml"
        )
    return metric not in _LESS_IS_BETTER


def nanmean(values: np.ndarray, axis: int | Sequence[int]) -> np.ndarray:
    """Mean of what is not NaN; NaN, without a warning, where nothing is left."""
    where = np.isfinite(values)
    axes = axis if isinstance(axis, int) else tuple(axis)
    count = where.sum(axis=axes)
    total = np.where(where, values, 0.0).sum(axis=axes)
    return np.divide(total, count, out=np.full(np.shape(total), np.nan), where=count > 0)
