"""A sweep as pictures: who leads and by how much, what it costs, and what a choice among many promises too much."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from mtg_lab.errors import InputError
from mtg_lab.figure_notes import logarithmic, name_points, note_protocol, titled
from mtg_lab.palette import COLOURS, MARKERS

_COSTS = {
    "parameters": "parameters",
    "seconds_per_step": "seconds a training step",
    "scoring_seconds": "seconds to score the split",
}


def leaderboard(summary: pd.DataFrame, runs: pd.DataFrame, title: str = "") -> Figure:
    """Arms by their mean score, best first: a bar for the 95 % interval, a dot for each seed.

    Args:
        summary: of :func:`mtg_lab.score_summary.summary`.
        runs: of :func:`mtg_lab.sweeps.sweep`.
        title: a sentence.

    Raises:
        InputError: there is no arm.
    """
    table = summary[summary["region"] == "all"].sort_values("mean", ascending=False, ignore_index=True)
    if table.empty:
        raise InputError("no run of this sweep is done; there is nothing to show")
    figure = Figure(figsize=(8, 1.5 + 0.36 * len(table)), layout="constrained")
    axes = figure.subplots()
    for place, (arm, mean, low, high) in enumerate(
        zip(*(table[c] for c in ("method", "mean", "low", "high")), strict=True)
    ):
        dots = runs.loc[(runs["arm"] == arm) & (runs["status"] == "done"), "dice"]
        axes.plot([low, high], [place, place], color=COLOURS[0], lw=5, alpha=0.35)
        axes.plot(dots, [place] * len(dots), "o", color="white", mec=COLOURS[3], ms=5)
        axes.plot(mean, place, "D", color=COLOURS[0], ms=6)
    axes.set(yticks=range(len(table)), yticklabels=table["method"], ylim=(len(table) - 0.5, -0.5))
    axes.set_xlabel("mean over patients, subsets and regions (diamond; circles: single seeds)")
    axes.grid(axis="x", color="#e5e5e5")
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    titled(figure, title or "Who leads, and by how much")
    return note_protocol(figure, summary)


def costs(runs: pd.DataFrame, title: str = "") -> Figure:
    """Mean Dice of each arm against parameters, seconds a step and seconds of scoring, means over its seeds.

    Args:
        runs: of :func:`mtg_lab.sweeps.sweep`.
        title: a sentence.

    Raises:
        InputError: there is no arm.
    """
    done = runs[runs["status"] == "done"]
    if done.empty:
        raise InputError("no run of this sweep is done; there is nothing to show")
    means = done.groupby("arm", sort=False)[["dice", *_COSTS]].mean()
    figure = Figure(figsize=(12, 4.2), layout="constrained")
    row = figure.subplots(1, len(_COSTS), sharey=True)
    for axes, (column, words) in zip(row, _COSTS.items(), strict=True):
        for place, (_, line) in enumerate(means.iterrows()):
            axes.plot(line[column], line["dice"], MARKERS[place % 8], color=COLOURS[place % 8], ms=8)
        axes.set_xlabel(words)
        logarithmic(axes)
        axes.margins(x=0.3, y=0.15)
        axes.spines[["top", "right"]].set_visible(False)
    row[0].set_ylabel("mean Dice")
    titled(figure, title or "What an arm costs, and what it reaches")
    figure = note_protocol(figure, runs)
    for axes, column in zip(row, _COSTS, strict=True):
        name_points(figure, axes, means[column], means["dice"])
    return figure


def promises(optimism: pd.DataFrame, title: str = "") -> Figure:
    """What the best of many seemed to gain on the patients that chose it, and what was left of it on the others.

    Args:
        optimism: of :func:`mtg_lab.statistics.selection_optimism`.
        title: a sentence.
    """
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axes = figure.subplots()
    rng = np.random.default_rng(0)
    for place, column in enumerate(("promised", "kept")):
        values = optimism[column].to_numpy(dtype=float)
        spread = place + rng.uniform(-0.18, 0.18, len(values))
        axes.plot(values, spread, ".", color=COLOURS[(0, 3)[place]], ms=3, alpha=0.35)
        axes.plot([values.mean()] * 2, [place - 0.3, place + 0.3], color="black", lw=2)
    axes.axvline(0, color="#999999", lw=0.8)
    axes.set(yticks=[0, 1], yticklabels=["on the half that chose", "on the other half"], ylim=(1.5, -0.5))
    axes.set_xlabel("gain of the chosen arm over the average one (line: mean of the draws)")
    axes.spines[["top", "right", "left"]].set_visible(False)
    titled(figure, title or "What the best of many promises, and what it keeps")
    return note_protocol(figure, optimism)
