"""Pictures of balance: each modality over training, who lags and what is done about it, and what Dice comes of it."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from mtg_lab.errors import InputError
from mtg_lab.figure_notes import note_protocol, titled
from mtg_lab.figures import forest
from mtg_lab.palette import COLOURS, MARKERS, modality_style

COURSE = ("distance", "preference", "coefficient")
_WORDS = {
    "student": "loss of the modality alone",
    "distance": "distance to the fused prediction",
    "preference": "relative preference",
    "coefficient": "coefficient",
    "gate": "share of steps with the gate open",
    "score": "score of the modality alone",
}
_NEUTRAL = {"preference": 0.0, "coefficient": 1.0}  # where nobody lags, and where every modality begins
_ARM_COLOURS = (7, 4, 3, 2, 0, 5, 1)


def modality_curves(histories: Mapping[str, pd.DataFrame], column: str = "student", title: str = "") -> Figure:
    """One quantity of every modality over training, a panel a run on common axes, as a running mean.

    Args:
        histories: run to its history, index step, columns ``<column>_<modality>``; a modality that no sample of a step
            has is undefined there and left out of the mean. A run's panel stays away if it has no such column.
        column: ``student``, ``distance``, ``preference``, ``coefficient``, ``gate``, ...
        title: of the figure.

    Raises:
        InputError: no history has the quantity.
    """
    shown = {run: h for run, h in histories.items() if _modalities(h, column)}
    if not shown:
        raise InputError(f"no history has columns {column}_<modality>; give runs of a method that writes them down")
    figure = Figure(figsize=(0.8 + 3.9 * len(shown), 3.5), layout="constrained")
    row = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
    for axes, (run, history) in zip(row, shown.items(), strict=True):
        _curves(axes, history, column)
        axes.set(title=str(run).replace("_", " "), xlabel="step")
    row[0].set_ylabel(_WORDS.get(column, column))
    _modality_legend(figure, list(shown.values()), column)
    titled(figure, title or f"{_WORDS.get(column, column).capitalize()} during training")
    return figure


def balance_course(history: pd.DataFrame, columns: Sequence[str] = COURSE, title: str = "") -> Figure:
    """Who is away from the fused prediction in one run, who counts as lagging, and whose coefficient grows.

    Args:
        history: of a run of PASSION, index step.
        columns: what to show, a panel each.
        title: of the figure.

    Raises:
        InputError: the history lacks one of the columns.
    """
    if lacking := [c for c in columns if not _modalities(history, c)]:
        raise InputError(f"the history has no columns {lacking[0]}_<modality>; give a run of PASSION")
    figure = Figure(figsize=(0.6 + 3.4 * len(columns), 3.4), layout="constrained")
    for axes, column in zip(figure.subplots(1, len(columns), squeeze=False)[0], columns, strict=True):
        _curves(axes, history, column)
        axes.set(title=_WORDS.get(column, column), xlabel="step")
    _modality_legend(figure, [history], columns[0])
    titled(figure, title or "Below zero a modality lags, and its coefficient grows")
    return figure


def dice_by_share(runs: pd.DataFrame, title: str = "") -> Figure:
    """Dice of each modality alone against the share of training patients that had it; a panel a modality.

    Within a panel the modality is the same, so that how much it shows by itself does not enter; the points of one arm
    are joined from rates to rates, at their means over seeds, with bars from the lowest seed to the highest.

    Args:
        runs: one line a run, columns arm, rates, seed, ``share_<modality>`` and ``dice_<modality>_alone``, of one
            network; protocols, where the table knows them, are printed below.
        title: of the figure.
    """
    modalities = _modalities(runs, "share")
    _one_network(runs)
    figure = Figure(figsize=(0.8 + 2.6 * len(modalities), 3.6), layout="constrained")
    row = figure.subplots(1, len(modalities), sharex=True, sharey=True, squeeze=False)[0]
    arms = list(dict.fromkeys(runs["arm"]))
    for axes, modality in zip(row, modalities, strict=True):
        for arm in arms:
            cells = runs[runs["arm"] == arm].groupby("rates")
            share = cells[f"share_{modality}"].mean().sort_values()
            dice = cells[f"dice_{modality}_alone"].agg(["mean", "min", "max"]).loc[share.index]
            place = share + 0.012 * (arms.index(arm) - (len(arms) - 1) / 2)  # side by side, else bars hide each other
            _with_spread(axes, place.to_numpy(), dice, arm, arms, line="-")
        axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="share of training patients")
        axes.set_title(modality, fontsize=11, color=modality_style(modalities)[modality][0])
        _plain(axes)
    row[0].set_ylabel("Dice from it alone")
    _arm_legend(figure, arms)
    titled(figure, title or "What a modality alone is worth, by how often it was there in training")
    return note_protocol(figure, runs)


def balance_scores(runs: pd.DataFrame, title: str = "") -> Figure:
    """Dice of each modality alone, and by number of modalities missing, for every arm under one set of missing rates.

    Points are means over seeds, bars reach from the lowest seed to the highest.

    Args:
        runs: as in :func:`dice_by_share`, also with columns ``dice_<n>_missing``; of one network and one set of rates.
        title: of the figure.

    Raises:
        InputError: the runs were trained under several rates, or on several networks.
    """
    if runs["rates"].nunique() != 1:
        raise InputError(f"these runs were trained under {runs['rates'].nunique()} sets of rates; choose one")
    _one_network(runs)
    modalities, arms = _modalities(runs, "share"), list(dict.fromkeys(runs["arm"]))
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(1.2, 1))
    missing = [f"dice_{n}_missing" for n in range(len(modalities))]
    for axes, columns in ((left, [f"dice_{m}_alone" for m in modalities]), (right, missing)):
        for number, arm in enumerate(arms):
            spread = runs.loc[runs["arm"] == arm, columns].agg(["mean", "min", "max"]).T
            places = np.arange(len(columns)) + 0.7 * ((number + 0.5) / len(arms) - 0.5)
            _with_spread(axes, places, spread, arm, arms)
        _plain(axes)
    shares = runs[[f"share_{m}" for m in modalities]].mean()
    left.set_xticks(range(len(modalities)), [f"{m}\n{s:.0%} had it" for m, s in zip(modalities, shares, strict=True)])
    right.set_xticks(range(len(missing)), [str(n) for n in range(len(missing))])
    left.set(ylabel="mean Dice", ylim=(0, 1), title="each modality alone")
    right.set(xlabel="modalities missing", title="averaged over subsets")
    _arm_legend(figure, arms)
    titled(figure, title or f"Dice after training under the rates {runs['rates'].iloc[0]}")
    return note_protocol(figure, runs)


def ablation_forest(differences: pd.DataFrame, title: str = "") -> Figure:
    """What taking a part of PASSION away does to mean Dice, a row a part; to the left of zero the part had helped.

    Args:
        differences: of the balancing study, of one network under one set of rates.
        title: of the figure.

    Raises:
        InputError: there is no such difference, or those of several rates or networks.
    """
    chosen = differences.query("theirs == 'passion' and region == 'all' and subsets == 'all'")
    if chosen.empty or chosen["ours"].duplicated().any():
        raise InputError("give the differences to passion under one set of rates, of one network")
    named = chosen.assign(name=[f"without {str(n).removeprefix('no_').replace('_', ' ')}" for n in chosen["ours"]])
    return forest(named, title or f"PASSION without a part, less all of it ({chosen['seeds'].iloc[0]} seeds)")


def _modalities(table: pd.DataFrame, column: str) -> list[str]:
    """Whose columns ``<column>_<modality>`` hold something, in the order of the table."""
    named = [c for c in table.columns if c.startswith(f"{column}_") and table[c].notna().any()]
    return [c.removeprefix(f"{column}_") for c in named]


def _curves(axes: Axes, history: pd.DataFrame, column: str) -> None:
    modalities = _modalities(history, column)
    if column in _NEUTRAL:
        axes.axhline(_NEUTRAL[column], color="#888888", lw=0.8)
    for modality, (colour, marker) in modality_style(modalities).items():
        values = history[f"{column}_{modality}"]
        # Coefficients are sums already; what is measured in one step of two patients is not.
        window = 1 if column == "coefficient" else max(1, len(values) // 20)
        smooth = values.rolling(window, min_periods=1).mean()
        axes.plot(smooth.index, smooth, color=colour, marker=marker, ms=5, markevery=max(1, len(smooth) // 6), lw=1.5)
    _plain(axes)


def _with_spread(
    axes: Axes, places: np.ndarray, spread: pd.DataFrame, arm: str, arms: Sequence[str], line: str = "none"
) -> None:
    """Means with bars from the lowest to the highest; columns mean, min, max."""
    colour, marker = _arm_style(arm, arms)
    axes.vlines(places, spread["min"], spread["max"], color=colour, lw=1.5)
    axes.plot(places, spread["mean"], color=colour, marker=marker, ls=line, ms=6, lw=0.9)


def _arm_style(arm: str, arms: Sequence[str]) -> tuple[str, str]:
    place = list(arms).index(arm)
    return COLOURS[_ARM_COLOURS[place % len(_ARM_COLOURS)]], MARKERS[place % len(MARKERS)]


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e5e5e5")


def _modality_legend(figure: Figure, histories: Sequence[pd.DataFrame], column: str) -> None:
    names = list(dict.fromkeys(m for h in histories for m in _modalities(h, column)))
    styles = modality_style(names)
    handles = [Line2D([], [], color=c, marker=k, label=m) for m, (c, k) in styles.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(names), frameon=False)


def _arm_legend(figure: Figure, arms: Sequence[str]) -> None:
    handles = []
    for arm in arms:
        colour, marker = _arm_style(arm, arms)
        handles.append(Line2D([], [], color=colour, marker=marker, label=str(arm).replace("_", " ")))
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(arms), 5), frameon=False, fontsize=9)


def _one_network(runs: pd.DataFrame) -> None:
    if "backbone" in runs and runs["backbone"].nunique() > 1:
        raise InputError(f"these runs are of the networks {', '.join(runs['backbone'].unique())}; choose one")
