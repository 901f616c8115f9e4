"""Pictures of alignment studies: what the weight does, and every loss with every anchor."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

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
    figure.suptitle(title or "The same network, more and more alignment", fontsize=12)
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
    figure.suptitle(title or "Every loss with every anchor (mean ± standard deviation over seeds)", fontsize=12)
    return figure
