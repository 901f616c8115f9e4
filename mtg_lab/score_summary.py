"""The table of a paper: a mean with its interval for each method and region, and the same in LaTeX."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from mtg_lab.resampling import interval, resampled_means
from mtg_lab.score_cube import Scores, more_is_better, nanmean, score_cube
from mtg_lab.statistics import SIGNIFICANT

_COLUMN = {"all": "all regions"}


def summary(scores: Mapping[str, Scores], metric: str = "dice", draws: int = 4000, seed: int = 0) -> pd.DataFrame:
    """Mean over patients, subsets and seeds, every subset weighing the same: the field's "average of 15".

    Args:
        scores: method to its table, or to its tables by seed.
        metric: which score.
        draws: bootstrap repetitions over patients and seeds; seed: of the bootstrap.

    Returns:
        Columns method, region (and ``all``, the mean of a case's regions), mean, low, high (95 %), sd_seeds (standard
        deviation between trainings, NaN where there is one), subjects, seeds.

    Raises:
        InputError: an unknown metric, or tables of different protocols under one method.
    """
    rows: list[dict] = []
    attrs: dict = {}
    for method, tables in scores.items():
        cube = score_cube(tables, metric).mean_over_regions()
        attrs = attrs or dict(cube.attrs)
        cells = nanmean(cube.values, axis=2)  # [seeds, subjects, regions]
        low, high = interval(resampled_means(cells, draws, np.random.default_rng(seed)))
        means, trainings = nanmean(cells, axis=(0, 1)), nanmean(cells, axis=1)
        spread = trainings.std(axis=0, ddof=1) if len(cube.seeds) > 1 else np.full(len(cube.regions), np.nan)
        rows += [
            {"method": method, "region": region, "mean": means[i], "low": low[i], "high": high[i],
             "sd_seeds": spread[i], "subjects": int(np.isfinite(cells[..., i]).any(axis=0).sum()),
             "seeds": len(cube.seeds)}
            for i, region in enumerate(cube.regions)
        ]  # fmt: skip
    table = pd.DataFrame(rows)
    table.attrs.update(attrs)
    return table


def leaders(table: pd.DataFrame, tests: pd.DataFrame | None, metric: str = "dice") -> set[tuple[str, str]]:
    """Method and region of every cell that no test sets below the best mean of its region.

    Args:
        table: of :func:`summary`.
        tests: of :func:`mtg_lab.statistics.paired_tests` over all pairs; None leaves the best mean alone, and nothing
            at all where there is one method.
        metric: which score the table has.
    """
    if table["method"].nunique() < 2:
        return set()
    found = set()
    for region, part in table.groupby("region", sort=False):
        known = part.dropna(subset=["mean"])
        if known.empty:
            continue
        order = known["mean"].to_numpy(dtype=float) * (1 if more_is_better(metric) else -1)
        best = str(known["method"].iloc[int(order.argmax())])
        found.add((best, str(region)))
        if tests is None:
            continue
        of_region = tests[tests["region"] == region]
        for ours, theirs, p in of_region[["ours", "theirs", "p_holm"]].itertuples(index=False):
            if best in (ours, theirs) and not p < SIGNIFICANT:
                found.add((str(theirs if ours == best else ours), str(region)))
    return found


def wide(table: pd.DataFrame, digits: int = 3) -> pd.DataFrame:
    """Methods by regions, cells such as ``0.530 [0.482, 0.571]``, from :func:`summary`."""
    numbers = table[["mean", "low", "high"]].to_numpy(dtype=float)
    cells = table.assign(cell=[_cell(mean, low, high, digits) for mean, low, high in numbers])
    shown = cells.pivot(index="method", columns="region", values="cell")
    regions, methods = (list(dict.fromkeys(table[c])) for c in ("region", "method"))
    return shown.reindex(index=methods, columns=regions).rename(columns=_COLUMN)


def latex(
    table: pd.DataFrame, caption: str, label: str, tests: pd.DataFrame | None = None, metric: str = "dice"
) -> str:
    r"""The table of :func:`summary` for a paper: ``booktabs`` rules, intervals in small type.

    Bold is what no test sets below the best of its column (:func:`leaders`), so that bold never says more than the
    statistics do.

    Args:
        table: of :func:`summary`.
        caption, label: of the table; characters that TeX would read are escaped in the caption.
        tests: of :func:`mtg_lab.statistics.paired_tests`.
        metric: which score.
    """
    bold = leaders(table, tests, metric)
    regions = list(dict.fromkeys(table["region"]))
    lines = [
        r"\begin{table}", r"\centering", rf"\caption{{{escaped(caption)}}}", rf"\label{{{label}}}",
        rf"\begin{{tabular}}{{l{'c' * len(regions)}}}", r"\toprule",
        " & ".join(["method", *(escaped(_COLUMN.get(r, r)) for r in regions)]) + r" \\", r"\midrule",
    ]  # fmt: skip
    for method, part in table.groupby("method", sort=False):
        cells = []
        for region in regions:
            row = part[part["region"] == region].iloc[0]
            mean = f"{row['mean']:.3f}" if np.isfinite(row["mean"]) else "--"
            mean = rf"\textbf{{{mean}}}" if (method, region) in bold else mean
            cells.append(rf"{mean} {{\scriptsize[{row['low']:.3f}, {row['high']:.3f}]}}")
        lines.append(" & ".join([escaped(str(method)), *cells]) + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}", r"\end{table}"]
    return "\n".join(lines) + "\n"


def escaped(text: str) -> str:
    """Text with the characters that TeX gives a meaning to made plain."""
    plain = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    return "".join(plain.get(c, f"\\{c}" if c in "&%$#_{}" else c) for c in text)


def _cell(mean: float, low: float, high: float, digits: int) -> str:
    return f"{mean:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]" if np.isfinite(mean) else "not scored"
