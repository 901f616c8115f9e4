"""Is one method better than another: paired intervals, signed-rank tests, effect sizes, and how firm a ranking is."""

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
import pandas as pd
from scipy.stats import kendalltau, rankdata, wilcoxon

from mtg_lab.errors import InputError
from mtg_lab.resampling import draw_counts, interval, resampled_means, weighted_means
from mtg_lab.score_cube import EVERY_REGION, Scores, comparable_cubes, more_is_better, nanmean, score_cube

SIGNIFICANT = 0.05


def paired_tests(
    scores: Mapping[str, Scores],
    against: str | None = None,
    metric: str = "dice",
    draws: int = 4000,
    seed: int = 0,
) -> pd.DataFrame:
    """Methods in pairs: difference with interval, Wilcoxon's test over patients, effect sizes.

    What is compared is the mean over subsets, each weighing the same: the field's "average of 15".
    (:func:`mtg_lab.evaluation.paired_difference` weighs every number of sequences the same.) The interval draws
    patients and seeds anew; with two or three seeds it is too narrow, as every bootstrap of so few is. The test is
    about patients only, for the trainings at hand: a patient's difference is the mean over seeds.

    Args:
        scores: method to its table, or to its tables by seed; seeds are the same for all.
        against: every other method is compared with this one; None compares all pairs.
        metric: which score.
        draws: bootstrap repetitions; seed: of the bootstrap.

    Returns:
        Columns ours, theirs, region (and ``all``, the mean of a case's regions), difference, low, high (95 %), p,
        p_holm, rank_biserial, cohen_dz, subjects, seeds. ``p_holm`` is corrected for all rows of the table;
        differences, and the signs of both effect sizes, are ours less theirs, whether more or less is better.

    Raises:
        InputError: fewer than two methods, an unknown one, other seeds, or tables of different protocols.
    """
    cubes = comparable_cubes(scores, metric)
    if against is not None and against not in cubes:
        raise InputError(f"no method {against!r} among {', '.join(cubes)}")
    pairs = [(m, against) for m in cubes if m != against] if against else list(combinations(cubes, 2))
    rows = []
    for ours, theirs in pairs:
        mine, other = cubes[ours], cubes[theirs]
        if set(mine.seeds) != set(other.seeds):
            raise InputError(f"seeds must pair: {ours} has {sorted(mine.seeds)}, {theirs} has {sorted(other.seeds)}")
        matching = other.values[[other.seeds.index(s) for s in mine.seeds]]
        gaps = nanmean(mine.values - matching, axis=2)  # [seeds, subjects, regions]
        low, high = interval(resampled_means(gaps, draws, np.random.default_rng(seed)))
        for place, region in enumerate(mine.regions):
            patients = nanmean(gaps[..., place], axis=0)
            patients = np.round(patients[np.isfinite(patients)], 12)  # no ranks for what rounding differs by
            rows.append({"ours": ours, "theirs": theirs, "region": region,
                         "difference": float(nanmean(gaps[..., place], axis=(0, 1))), "low": low[place],
                         "high": high[place], "p": signed_rank_p(patients), "rank_biserial": rank_biserial(patients),
                         "cohen_dz": cohen_dz(patients), "subjects": len(patients),
                         "seeds": len(mine.seeds)})  # fmt: skip
    table = next(iter(cubes.values())).table(rows)
    table.insert(list(table).index("p") + 1, "p_holm", holm(table["p"]))
    return table


def signed_rank_p(differences: np.ndarray) -> float:
    """Two-sided p of Wilcoxon's signed-rank test (1945), by SciPy; zeros are dropped, and 1 where nothing differs."""
    if not len(differences):
        return float("nan")
    return float(wilcoxon(differences).pvalue) if np.any(differences) else 1.0


def holm(p: Sequence[float] | np.ndarray | pd.Series) -> np.ndarray:
    """p values corrected for their number by Holm's step-down procedure (1979); NaN stays and does not count."""
    values = np.asarray(p, dtype=float)
    corrected, known = np.full(len(values), np.nan), np.flatnonzero(np.isfinite(values))
    order = known[np.argsort(values[known])]
    stepped = values[order] * np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(np.maximum.accumulate(stepped), 1.0)
    return corrected


def rank_biserial(differences: np.ndarray) -> float:
    """Matched-pairs rank-biserial correlation: (W+ − W−) / (W+ + W−), the ranks of Wilcoxon's test (Kerby 2014).

    1 where every patient gains, −1 where every one loses; 0 where nothing differs.
    """
    moved = differences[differences != 0]
    if not len(moved):
        return 0.0 if len(differences) else float("nan")
    ranks = rankdata(np.abs(moved))
    return float((ranks * np.sign(moved)).sum() / ranks.sum())


def cohen_dz(differences: np.ndarray) -> float:
    """Mean difference over its standard deviation across patients: Cohen's d_z (Lakens 2013, equation 6).

    NaN with fewer than two patients, or where all differ by the same.
    """
    if len(differences) < 2 or np.isclose(np.ptp(differences), 0, atol=1e-12):
        return float("nan")
    return float(differences.mean() / differences.std(ddof=1))


def verdicts(tests: pd.DataFrame, metric: str = "dice") -> list[str]:
    """:func:`verdict` of every pair of :func:`paired_tests`, over all regions, or on the first if that is missing."""
    whole = EVERY_REGION if EVERY_REGION in set(tests["region"]) else tests["region"].iloc[0]
    return [verdict(row, metric) for _, row in tests[tests["region"] == whole].iterrows()]


def verdict(row: Mapping[str, object] | pd.Series, metric: str = "dice") -> str:
    """What a row of :func:`paired_tests` carries, in one sentence.

    A difference is claimed only where the interval excludes zero and Holm's p is below 0.05.
    """
    difference, low, high, p = (float(row[k]) for k in ("difference", "low", "high", "p_holm"))  # type: ignore[arg-type]
    apart, tested = low > 0 or high < 0, p < SIGNIFICANT
    where = "over all regions" if row["region"] == EVERY_REGION else f"on {row['region']}"
    seeds = f"{row['seeds']} seeds" if row["seeds"] != 1 else "1 seed: another training may say otherwise"
    facts = (
        f"({metric} {difference:+.3f} [{low:+.3f}, {high:+.3f}], Holm p = {p:.2g}, {row['subjects']} subjects, {seeds})"
    )
    ours, theirs = row["ours"], row["theirs"]
    word = "better" if (difference > 0) == more_is_better(metric) else "worse"
    if apart and tested:
        return f"{ours} is {word} than {theirs} {where} {facts}"
    if tested:
        return f"{ours} is {word} than {theirs} {where} in these trainings, but not beyond what seeds vary {facts}"
    if apart:
        return f"{ours} seems {word} than {theirs} {where}, but not after correction for several tests {facts}"
    return f"{ours} and {theirs} cannot be told apart {where} {facts}"


def rank_stability(
    scores: Mapping[str, Scores], metric: str = "dice", draws: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """How firm the ranking of methods is when other patients and seeds had been drawn.

    Methods are ranked by their mean over patients, subsets and seeds, 1 best, ties shared. Each bootstrap draw takes
    patients anew for all methods alike, and seeds (for methods of the same seeds alike), and ranks again, after
    Maier-Hein et al. 2018 and Wiesenfarth et al. 2021.

    Args:
        scores: method to its table, or to its tables by seed.
        metric: which score.
        draws: bootstrap repetitions; seed: of the bootstrap.

    Returns:
        Columns region (and ``all``), method, mean, rank, rank_low, rank_high (95 %), first (share of draws in which
        the method is first; ties share), case_rank (mean over patients of the rank within the patient), tau, tau_low
        (Kendall's tau-b of a draw's ranking with that of the full sample: mean and 2.5 % quantile; one value a region).

    Raises:
        InputError: fewer than two methods, or tables of different protocols.
    """
    cubes = comparable_cubes(scores, metric)
    rng, sign = np.random.default_rng(seed), -1 if more_is_better(metric) else 1
    first = next(iter(cubes.values()))
    columns = draw_counts(len(first.subjects), draws, rng)
    rows_of = {seeds: draw_counts(len(seeds), draws, rng) for seeds in dict.fromkeys(c.seeds for c in cubes.values())}
    cells = {m: nanmean(c.values, axis=2) for m, c in cubes.items()}  # [seeds, subjects, regions]
    means = np.stack([nanmean(v, axis=(0, 1)) for v in cells.values()])  # [methods, regions]
    drawn = np.stack([weighted_means(cells[m], rows_of[c.seeds], columns) for m, c in cubes.items()], axis=1)
    patients = np.stack([nanmean(v, axis=0) for v in cells.values()], axis=1)  # [subjects, methods, regions]
    rows = []
    for place, region in enumerate(first.regions):
        known = np.isfinite(drawn[..., place]).all(axis=1)
        full = rankdata(sign * means[:, place])
        ranks = rankdata(sign * drawn[known, :, place], axis=1)  # [draws, methods]
        low, high = interval(ranks)
        leading = ranks == ranks.min(axis=1, keepdims=True)
        share = (leading / leading.sum(axis=1, keepdims=True)).mean(axis=0)
        agreement = _kendall(ranks, full)
        cases = patients[..., place]
        case_ranks = rankdata(sign * cases[np.isfinite(cases).all(axis=1)], axis=1).mean(axis=0)
        for number, method in enumerate(scores):
            rows.append({"region": region, "method": method, "mean": means[number, place], "rank": full[number],
                         "rank_low": low[number], "rank_high": high[number], "first": share[number],
                         "case_rank": case_ranks[number], "tau": agreement.mean(),
                         "tau_low": np.quantile(agreement, 0.025)})  # fmt: skip
    return first.table(rows)


def selection_optimism(
    scores: Mapping[str, Scores], metric: str = "dice", draws: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """How much too well the best of several methods looks on the patients that chose it.

    Patients are halved at random, again and again. One half chooses the method with the best mean over regions, subsets
    and seeds; its gain is what it has over the average of all methods, on that half (promised) and on the other (kept).
    Where methods do not differ the gain that is kept is zero on average, and all that was promised is selection: the
    "winner's curse"; the more is tried, the larger it is (Cawley and Talbot 2010, JMLR 11).

    Args:
        scores: method to its table, or to its tables by seed.
        metric: which score.
        draws: halvings; seed: of these.

    Returns:
        A row a draw: chosen, promised, kept; positive is better, whichever way the metric counts.

    Raises:
        InputError: fewer than two methods or patients, or tables of different protocols.
    """
    cubes = comparable_cubes(scores, metric)
    sign = 1 if more_is_better(metric) else -1
    cells = sign * np.stack([nanmean(cube.values[..., -1], axis=(0, 2)) for cube in cubes.values()])
    cells = cells[:, np.isfinite(cells).all(axis=0)]  # [methods, subjects]
    count = cells.shape[1]
    if count < 2:
        raise InputError(f"to halve the patients takes two at least; these scores have {count}")
    rng, names, rows = np.random.default_rng(seed), list(scores), []
    for _ in range(draws):
        order = rng.permutation(count)
        choosing, other = (cells[:, half].mean(axis=1) for half in (order[: count // 2], order[count // 2 :]))
        best = int(choosing.argmax())
        rows.append((names[best], choosing[best] - choosing.mean(), other[best] - other.mean()))
    return next(iter(cubes.values())).table(
        [dict(zip(("chosen", "promised", "kept"), row, strict=True)) for row in rows]
    )


def seed_spread(scores: Mapping[str, Mapping[int, pd.DataFrame]], metric: str = "dice") -> pd.DataFrame:
    """How much a method's mean score varies between trainings that differ in their seed alone.

    Returns:
        Columns region, sd (between seeds, of the mean over patients and subsets, pooled over methods), chance
        (1.96 √2 sd: what two trainings of one method differ by in 5 % of pairs, were the scores normal), methods,
        seeds (trainings in all).

    Raises:
        InputError: no method has two seeds.
    """
    cubes = {m: score_cube(s, metric).mean_over_regions() for m, s in scores.items()}
    several = [nanmean(c.values, axis=(1, 2)) for c in cubes.values() if len(c.seeds) > 1]  # each [seeds, regions]
    if not several:
        raise InputError("a spread between seeds needs a method that was trained with two seeds at least")
    freedom = sum(len(v) - 1 for v in several)
    sd = np.sqrt(sum(((v - v.mean(axis=0)) ** 2).sum(axis=0) for v in several) / freedom)
    first = next(iter(cubes.values()))
    return first.table({"region": first.regions, "sd": sd, "chance": 1.96 * np.sqrt(2) * sd, "methods": len(several),
                        "seeds": sum(len(v) for v in several)})  # fmt: skip


def _kendall(ranks: np.ndarray, full: np.ndarray) -> np.ndarray:
    """Kendall's tau-b of each row of ``ranks`` with ``full``; 0 where one side ranks nothing."""
    kinds, inverse = np.unique(ranks, axis=0, return_inverse=True)
    values = np.array([kendalltau(kind, full).statistic for kind in kinds])
    return np.nan_to_num(values)[inverse.reshape(-1)]
