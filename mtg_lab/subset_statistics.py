"""What a lacking sequence costs: area under the missingness curve, the worst subset, and where a sequence hurts."""

import numpy as np
import pandas as pd

from mtg_lab.errors import InputError
from mtg_lab.resampling import interval, resampled_means
from mtg_lab.score_cube import ScoreCube, Scores, more_is_better, nanmean, score_cube


def missingness_area(scores: Scores, metric: str = "dice", draws: int = 2000, seed: int = 0) -> pd.DataFrame:
    """Area under a score's curve over the number of missing sequences.

    The curve of :func:`mtg_lab.evaluation.missingness_curve` by the trapezoidal rule, over M − 1, so that a score that
    never falls has its own value as area. Unlike the mean over subsets, it weighs every number of missing sequences
    alike (the ends half), not every subset.

    Args:
        scores: a table, or seed to table.
        metric: which score.
        draws: bootstrap repetitions over patients and seeds; seed: of the bootstrap.

    Returns:
        Columns region (and ``all``), value, low, high (95 %), subjects (those with subsets of every size).

    Raises:
        InputError: some number of sequences was not scored, or there is one sequence only.
    """
    cube = score_cube(scores, metric).mean_over_regions()
    sizes = np.array([len(s) for s in cube.subsets])
    total = len(cube.modalities)
    if total < 2:
        raise InputError("an area needs subsets of two sizes; these scores have one sequence only")
    if unscored := sorted(set(range(1, total + 1)) - set(sizes)):
        raise InputError(f"no subset of {unscored[0]} of {total} sequences was scored; evaluate on all subsets")
    curve = np.stack([nanmean(cube.values[:, :, sizes == n], axis=2) for n in range(1, total + 1)], axis=-1)
    area = np.trapezoid(curve, axis=-1) / (total - 1)  # [seeds, subjects, regions]
    low, high = interval(resampled_means(area, draws, np.random.default_rng(seed)))
    counted = np.isfinite(area).any(axis=0).sum(axis=0)
    return cube.table({"region": cube.regions, "value": nanmean(area, axis=(0, 1)), "low": low, "high": high,
                       "subjects": counted})  # fmt: skip


def worst_subset(scores: Scores, metric: str = "dice", draws: int = 2000, seed: int = 0) -> pd.DataFrame:
    """The subset with the worst mean score of each region, and how sure it is that it is this one.

    Args:
        scores: a table, or seed to table.
        metric: which score.
        draws: bootstrap repetitions over patients and seeds; seed: of the bootstrap.

    Returns:
        Columns region (and ``all``), subset, value, low, high (95 %), full (mean of the subset of all sequences), share
        (of draws in which this subset is the worst). The interval is that of a subset chosen as the worst: it is a
        little low, as everything that is chosen so.

    Raises:
        InputError: the subset of all sequences was not scored.
    """
    cube = score_cube(scores, metric).mean_over_regions()
    means = nanmean(cube.values, axis=(0, 1))  # [subsets, regions]
    drawn = resampled_means(cube.values, draws, np.random.default_rng(seed))  # [draws, subsets, regions]
    low, high = interval(drawn)
    sign = 1 if more_is_better(metric) else -1
    rows = []
    for place, region in enumerate(cube.regions):
        if not np.isfinite(means[:, place]).any():  # every reference lacks the region, and such are left out
            continue
        worst = int(np.nanargmin(sign * means[:, place]))
        known = drawn[np.isfinite(drawn[..., place]).any(axis=1), :, place]
        rows.append({"region": region, "subset": cube.subset_names[worst], "value": means[worst, place],
                     "low": low[worst, place], "high": high[worst, place], "full": means[cube.full, place],
                     "share": float((np.nanargmin(sign * known, axis=1) == worst).mean())})  # fmt: skip
    return cube.table(rows)


def added_sequences(
    scores: Scores, metric: str = "dice", tolerance: float = 0.02, draws: int = 2000, seed: int = 0
) -> pd.DataFrame:
    """Every step from a subset to one with a further sequence: a further sequence must not hurt.

    Args:
        scores: a table, or seed to table.
        metric: which score.
        tolerance: a patient's loss, averaged over seeds, counts as one from here on.
        draws: bootstrap repetitions over patients and seeds; seed: of the bootstrap.

    Returns:
        A row for each region and pair S, S + m: columns region (and ``all``), subset, added, change (mean over the
        patients that have both; positive is better, also for distances), low, high (95 %), falls (change below zero),
        clearly (the interval below zero), patients_hurt (who lose more than the tolerance), subjects.

    Raises:
        InputError: no two of the subsets differ by one sequence, or a tolerance below zero.
    """
    if tolerance < 0:
        raise InputError(f"tolerance is {tolerance}; give a loss of 0 or more")
    cube = score_cube(scores, metric).mean_over_regions()
    steps = _steps(cube)
    if not steps:
        raise InputError("no two of these subsets differ by one sequence; evaluate on all subsets")
    before, after = (cube.values.take(places, axis=2) for places in zip(*((s, t) for s, t, _ in steps), strict=True))
    change = (after - before) * (1 if more_is_better(metric) else -1)  # [seeds, subjects, steps, regions]
    low, high = interval(resampled_means(change, draws, np.random.default_rng(seed)))
    means, patients = nanmean(change, axis=(0, 1)), nanmean(change, axis=0)
    rows = [
        {"region": region, "subset": cube.subset_names[start], "added": added, "change": means[i, r],
         "low": low[i, r], "high": high[i, r], "falls": bool(means[i, r] < 0), "clearly": bool(high[i, r] < 0),
         "patients_hurt": int((patients[:, i, r] < -tolerance).sum()),
         "subjects": int(np.isfinite(patients[:, i, r]).sum())}
        for r, region in enumerate(cube.regions) for i, (start, _, added) in enumerate(steps)
    ]  # fmt: skip
    return cube.table(rows)


def monotonicity_violations(steps: pd.DataFrame) -> pd.DataFrame:
    """How often a further sequence hurts, by region, counted from :func:`added_sequences`.

    Returns:
        Columns region, steps, falls, clearly, patient_steps, patients_hurt (of them), worst_subset, worst_added,
        worst_change (the step with the lowest mean).
    """
    rows = []
    for region, part in steps.groupby("region", sort=False):
        known = part.dropna(subset=["change"])
        if known.empty:
            continue
        worst = known.iloc[int(known["change"].to_numpy().argmin())]
        rows.append({"region": region, "steps": len(known), "falls": int(known["falls"].sum()),
                     "clearly": int(known["clearly"].sum()), "patient_steps": int(known["subjects"].sum()),
                     "patients_hurt": int(known["patients_hurt"].sum()), "worst_subset": worst["subset"],
                     "worst_added": worst["added"], "worst_change": worst["change"]})  # fmt: skip
    found = pd.DataFrame(rows)
    found.attrs.update(steps.attrs)
    return found


def _steps(cube: ScoreCube) -> list[tuple[int, int, str]]:
    """Places of S and of S + m, and m, for every such pair that was scored."""
    places = {subset: i for i, subset in enumerate(cube.subsets)}
    return [
        (i, places[subset | {m}], m) for subset, i in places.items() for m in cube.modalities
        if m not in subset and subset | {m} in places
    ]  # fmt: skip
