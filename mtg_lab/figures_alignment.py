"""Pictures of alignment studies: what the weight does, and every loss with every anchor."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from mtg_lab.figure_notes import titled
from mtg_lab.figures import COLOURS, MARKERS

MEASURES = (("dice", "mean Dice"), ("relative_gap", "relative gap"), ("effective_rank", "effective rank"))


def weight_sweep(runs: pd.DataFrame, title: str = "") -> Figure:
    """Dice, gap and effective rank against the weight of alignment; a point a seed, a line through their means.

    Args:
        runs: columns align_weight, seed, dice, relative_gap, effective_rank.
        title: of the figure.
    """
    figure = Figure(figsize=(10, 3.3), layout="constrained")
    weights = sorted(runs["align_weight"].unique())
    places = {w: i for i, w in enumerate(weights)}
    for axes, (column, words) in zip(figure.subplots(1, 3), MEASURES, strict=True):
        means = runs.groupby("align_weight")[column].mean()
        axes.plot(range(len(weights)), means[weights], color=COLOURS[4], lw=2)
        for number, (seed, part) in enumerate(runs.groupby("seed")):
            axes.plot(
                part["align_weight"].map(places), part[column], MARKERS[number % len(MARKERS)], color="#555555", ms=5,
                mfc="none", label=f"seed {seed}",
            )  # fmt: skip
        axes.set_xticks(range(len(weights)), [f"{w:g}" for w in weights])
        axes.set(xlabel="alignment weight", title=words)
        axes.set_ylim(0, 1.06 * runs[column].max())
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].legend(frameon=False, fontsize=9)
    titled(figure, title or "The same network, more and more alignment")
    return figure


def loss_by_anchor(runs: pd.DataFrame, columns: Sequence[str] = ("dice", "relative_gap"), title: str = "") -> Figure:
    """Means over seeds of every alignment loss (rows) with every anchor (columns); their spread below.

    Args:
        runs: columns align_loss, anchor, seed and those named by ``columns``; combinations that are missing stay white.
        columns: what to show, a panel each.
        title: of the figure.
    """
    losses, anchors = ([str(v) for v in dict.fromkeys(runs[c])] for c in ("align_loss", "anchor"))
    figure = Figure(figsize=(1.2 + 3.9 * len(columns), 1.6 + 0.55 * len(losses)), layout="constrained")
    cells = runs.groupby(["align_loss", "anchor"])
    for axes, column in zip(figure.subplots(1, len(columns), squeeze=False)[0], columns, strict=True):
        middle, spread = (
            found.unstack().reindex(index=losses, columns=anchors).to_numpy(dtype=float)
            for found in (cells[column].mean(), cells[column].std())
        )
        picture = axes.imshow(middle, cmap="cividis", aspect="auto")
        for (row, place), value in np.ndenumerate(middle):
            if np.isfinite(value):
                dark = picture.norm(value) < 0.5
                axes.text(
                    place, row, f"{value:.3f}\n±{spread[row, place]:.3f}", ha="center", va="center", fontsize=9,
                    color="white" if dark else "black",
                )  # fmt: skip
        axes.set_xticks(range(len(anchors)), anchors, rotation=20, ha="right", fontsize=9)
        axes.set_yticks(range(len(losses)), [x.replace("_", " ") for x in losses], fontsize=9)
        axes.set_title(column.replace("_", " "), fontsize=11)
        axes.spines[:].set_visible(False)
    titled(figure, title or "Every loss with every anchor (mean ± standard deviation over seeds)")
    return figure


def anchor_front(runs: pd.DataFrame, differences: pd.DataFrame, title: str = "") -> Figure:
    """Gap and Dice of every loss with every anchor: relative gap against the paired difference in Dice to no alignment.

    Args:
        runs: columns align_loss, anchor, align_weight, seed and relative_gap; rows of weight 0 are the reference and
            give the dotted line of its gap.
        differences: one row a combination: align_loss, anchor, align_weight, difference, low, high.
        title: of the figure.

    Returns:
        A panel a weight; colour is the loss, the marker is the anchor, bars are 95 % intervals.
    """
    weights = sorted(differences["align_weight"].unique())
    losses, anchors = (list(dict.fromkeys(differences[c])) for c in ("align_loss", "anchor"))
    figure = Figure(figsize=(1.6 + 4.2 * len(weights), 4.6), layout="constrained")
    keys = ["align_loss", "anchor", "align_weight"]
    gaps = runs.groupby(keys)["relative_gap"].mean()
    reference = runs.loc[runs["align_weight"] == 0, "relative_gap"].mean()
    panels = figure.subplots(1, len(weights), sharex=True, sharey=True, squeeze=False)[0]
    for axes, weight in zip(panels, weights, strict=True):
        axes.axhline(0, color="#888888", lw=0.8)
        axes.axvline(reference, color="#888888", lw=0.8, ls=":")
        for row in differences[differences["align_weight"] == weight].itertuples():
            colour = COLOURS[losses.index(row.align_loss) % len(COLOURS)]
            marker = MARKERS[anchors.index(row.anchor) % len(MARKERS)]
            place = gaps[row.align_loss, row.anchor, weight]
            axes.plot([place, place], [row.low, row.high], color=colour, lw=1, alpha=0.7)
            axes.plot(place, row.difference, marker, color=colour, ms=7, mec="white", mew=0.5)
        axes.set(title=f"weight {weight:g}", xlabel="relative gap")
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("Dice less that without alignment")
    marks = [Line2D([], [], color=COLOURS[i % len(COLOURS)], marker="s", ls="", label=x.replace("_", " "))
             for i, x in enumerate(losses)]  # fmt: skip
    marks += [Line2D([], [], color="#555555", marker=MARKERS[i % len(MARKERS)], ls="", label=f"to {x}")
              for i, x in enumerate(anchors)]  # fmt: skip
    marks.append(Line2D([], [], color="#888888", ls=":", label="gap without alignment"))
    figure.legend(handles=marks, frameon=False, fontsize=9, loc="outside right center")
    titled(figure, title or "Gap and Dice of every loss with every anchor")
    return figure
