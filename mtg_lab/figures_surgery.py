"""Pictures of representation surgery: gap and Dice along a path, and every operation in the plane of the two."""

from collections.abc import Mapping
from itertools import pairwise

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from mtg_lab.figure_notes import titled
from mtg_lab.palette import MARKERS, OUTLINES, RUN_COLOURS


def along(panels: Mapping[str, pd.DataFrame], xlabel: str, title: str = "") -> Figure:
    """Lines over the amount of an operation; all panels share the amounts.

    Args:
        panels: title to numbers from 0 to about 1, the amounts as index, a column a line.
        xlabel: what the amount is.
        title: of the figure.
    """
    figure = Figure(figsize=(4.6 * len(panels), 3.8), layout="constrained")
    for axes, (panel, table) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        ordered = table.sort_index()
        for number, name in enumerate(ordered):
            colour, marker = RUN_COLOURS[number % len(RUN_COLOURS)], MARKERS[number % 8]
            axes.plot(
                ordered.index, ordered[name], color=colour, marker=marker, ls=OUTLINES[number % 4], label=str(name)
            )
        axes.set(title=panel, xlabel=xlabel)
        axes.set_ylim(0, 1.05 * max(1.0, float(np.nanmax(ordered.to_numpy()))))
        axes.grid(axis="y", color="#e5e5e5")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(0, -0.2), ncols=2)
    titled(figure, title)
    return figure


def gap_against_dice(table: pd.DataFrame, xlabel: str, title: str = "") -> Figure:
    """Each operation as an arrow from its network's gap, at no difference, to the gap and the difference it made.

    Args:
        table: columns network, operation, gap_before, gap, difference, low, high.
        xlabel: which gap.
        title: of the figure.
    """
    figure = Figure(figsize=(9, 4.6), layout="constrained")
    axes = figure.subplots()
    axes.axhline(0, color="black", lw=1)
    low, high = min(0.0, table["low"].min()), max(0.0, table["high"].max())
    table = table.assign(place=_spread(table["difference"].to_numpy(), 0.05 * (high - low)))
    edge = 1.05 * float(table[["gap", "gap_before"]].to_numpy().max())
    for number, (network, part) in enumerate(table.groupby("network", sort=False)):
        colour, marker = RUN_COLOURS[number % len(RUN_COLOURS)], MARKERS[number % 8]
        for row in part.to_dict("records"):
            axes.plot([row["gap_before"], row["gap"]], [0, row["difference"]], color=colour, lw=0.7, alpha=0.5)
            axes.plot([row["gap"], row["gap"]], [row["low"], row["high"]], color=colour, lw=1.5)
            axes.annotate(
                row["operation"], (row["gap"], row["difference"]), (edge, row["place"]), va="center", fontsize=9,
                color=colour, arrowprops={"arrowstyle": "-", "color": "#bbbbbb", "lw": 0.6}, annotation_clip=False,
            )  # fmt: skip
        axes.plot(part["gap"], part["difference"], marker, color=colour, ms=7, label=str(network))
        axes.plot(part["gap_before"], [0] * len(part), marker, color=colour, mfc="white", ms=9)
    axes.set(xlabel=xlabel, ylabel="difference in Dice")
    axes.set_xlim(0, edge)
    figure.legend(frameon=False, fontsize=9, title="open: before", loc="outside lower center", ncols=3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(title, fontsize=11)
    return figure


def _spread(places: np.ndarray, apart: float) -> np.ndarray:
    """Heights in the same order, moved up where one would lie less than ``apart`` above the one below it."""
    order, found = np.argsort(places, kind="stable"), places.astype(float).copy()
    for below, above in pairwise(order):
        found[above] = max(found[above], found[below] + apart)
    return found
