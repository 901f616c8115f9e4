"""Numbers of the literature, with where each was read: what was claimed, and how far reports of one method lie apart.

They are in percent and have no subjects, so no function of scores takes them: what others report and what this package
has measured are never in one table.
"""

from importlib.resources import files

import pandas as pd

from mtg_lab.errors import InputError

AVERAGE = "average of 15"
_SETTING = ["dataset", "year", "region"]


def claimed(dataset: str | None = None, year: int | None = None) -> pd.DataFrame:
    """Mean Dice in percent as reported.

    Args:
        dataset: ``BraTS`` or ``FeTS``; None for all.
        year: of the data, such as 2020; None for all.

    Returns:
        Columns block (one table of one source: what may be compared), method, paper, origin (``own``, ``peer``,
        ``digest`` or ``rerun``, explained in ``results/literature/about.json``), claim (the source presents this
        method), source, table, dataset, year, split, region, subset (of sequences, or ``average of 15``), metric, unit,
        value, postprocessing (of ET, ``none`` or ``not said``), doubtful, note.

    Raises:
        InputError: nothing is known of this dataset and year.
    """
    with (files("mtg_lab") / "results" / "literature" / "scores.csv").open() as stream:
        table = pd.read_csv(stream, keep_default_na=False)
    for column, wanted in (("dataset", dataset), ("year", year)):
        if wanted is not None:
            known = ", ".join(map(str, sorted(set(table[column]))))
            table = table[table[column] == wanted]
            if table.empty:
                raise InputError(f"no number of {dataset or 'any dataset'} {year or ''} is kept; there are: {known}")
    return table.reset_index(drop=True)


def claimed_gains(table: pd.DataFrame | None = None) -> pd.DataFrame:
    """By how much a source says that its method is better than the best of the others in the same table.

    Args:
        table: of :func:`claimed`; by default all of it.

    Returns:
        Columns block, method, dataset, year, region, value, over (the best other method), gain (points of Dice, %),
        origin. Average over subsets only; doubtful rows, and sources that show no other method, are left out.
    """
    rows = []
    for (block, region), part in _averages(table).groupby(["block", "region"], sort=False):
        claims, others = part[part["claim"]], part[~part["claim"]]
        if others.empty:
            continue
        best = others.iloc[int(others["value"].to_numpy().argmax())]
        for claim in claims.to_dict("records"):
            facts = {k: claim[k] for k in ("method", "dataset", "year", "value", "origin")}
            rows.append({"block": block, "region": region, **facts, "over": best["method"],
                         "gain": claim["value"] - best["value"]})  # fmt: skip
    columns = ["block", "method", *_SETTING, "value", "over", "gain", "origin"]
    return pd.DataFrame(rows, columns=columns)


def reported_spread(table: pd.DataFrame | None = None) -> pd.DataFrame:
    """How far reports of one method on one dataset lie apart: other splits, trainings and crops, one name.

    Args:
        table: of :func:`claimed`; by default all of it.

    Returns:
        Columns method, dataset, year, region, low, high, range (points of Dice, %), reports (different values; a number
        that was copied counts once). Average over subsets only, one report at least of two values; ET without
        deletion of small components and doubtful rows are left out.
    """
    part = _averages(table)
    part = part[(part["region"] != "ET") | (part["postprocessing"] != "none")]
    grouped = part.groupby(["method", *_SETTING], sort=False)["value"]
    spread = grouped.agg(low="min", high="max", reports="nunique").reset_index()
    spread.insert(spread.columns.get_loc("high") + 1, "range", spread["high"] - spread["low"])  # type: ignore[arg-type, operator]
    return spread[spread["reports"] > 1].reset_index(drop=True)


def _averages(table: pd.DataFrame | None) -> pd.DataFrame:
    table = claimed() if table is None else table
    return table[(table["subset"] == AVERAGE) & ~table["doubtful"]]
