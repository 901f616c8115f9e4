"""Pictures of calibration: reliability diagrams and risk against coverage, subset by subset.

Functions of the tables of :func:`mtg_lab.calibration.calibrate` that return a matplotlib Figure, with the colours of
:mod:`mtg_lab.palette`; nothing touches pyplot.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullLocator

from mtg_lab.calibration import risk_coverage, risk_coverage_area
from mtg_lab.errors import InputError
from mtg_lab.figure_notes import note, titled
from mtg_lab.palette import COLOURS, MARKERS, OUTLINES

_ORDER = (7, 3, 4, 2, 0, 5, 1, 6)  # black first: the subset of all sequences
_FAINT = "#e5e5e5"


def reliability_diagram(bins: pd.DataFrame, subsets: Sequence[str] | None = None, title: str = "") -> Figure:
    """How often voxels are in the region, against the probability predicted, a panel a region, over how many voxels.

    Args:
        bins: of :attr:`mtg_lab.calibration.Calibration.bins`.
        subsets: drawn; by default that of all sequences and those that lack one.
        title: a sentence.

    Raises:
        InputError: a subset is not in the table.
    """
    chosen = _choose(bins, subsets)
    regions = list(dict.fromkeys(bins["region"]))
    figure = Figure(figsize=(0.7 + 2.75 * len(regions), 4.9), layout="constrained")
    upper, lower = figure.subplots(2, len(regions), sharex=True, sharey="row", squeeze=False, height_ratios=(3.2, 1))
    for axes, counts, region in zip(upper, lower, regions, strict=True):
        axes.plot([0, 1], [0, 1], color="black", lw=0.8)
        axes.text(0.97, 0.06, "too sure", ha="right", fontsize=8.5, color="#6b6b6b", style="italic")
        axes.text(0.03, 0.92, "not sure enough", fontsize=8.5, color="#6b6b6b", style="italic")
        for number, subset in enumerate(chosen):
            part = bins[(bins["region"] == region) & (bins["subset"] == subset) & (bins["count"] > 0)]
            colour = COLOURS[_ORDER[number % 8]]
            axes.plot(part["confidence"], part["frequency"], color=colour, marker=MARKERS[number % 8], ms=4.5, lw=1.5,
                      ls=OUTLINES[number % 4], label=subset)  # fmt: skip
            counts.plot(part["confidence"], part["count"], color=colour, lw=1.2, ls=OUTLINES[number % 4])
        axes.set(xlim=(0, 1), ylim=(0, 1), title=region)
        axes.title.set_fontsize(10)
        counts.set(yscale="log", xlabel="predicted probability")
        counts.yaxis.set_major_locator(LogLocator(numticks=4))
        counts.yaxis.set_minor_locator(NullLocator())
        for panel in (axes, counts):
            panel.spines[["top", "right"]].set_visible(False)
            panel.grid(color=_FAINT)
            panel.set_axisbelow(True)
    upper[0].set_ylabel("share of voxels in the region")
    lower[0].set_ylabel("voxels")
    _legend(figure, *upper[0].get_legend_handles_labels())
    titled(figure, title or "Below the diagonal, probabilities are too high")
    return note(figure, _settings(bins))


def risk_coverage_curves(cases: pd.DataFrame, subsets: Sequence[str] | None = None, title: str = "") -> Figure:
    """Mean 1 − Dice of the cases that the network is surest of, a panel a region; markers stand at the mean over all.

    Thin lines are the best possible order of the same cases; the numbers beside the markers are areas (AURC).

    Args:
        cases: of :attr:`mtg_lab.calibration.Calibration.cases`.
        subsets: drawn; by default that of all sequences and those that lack one.
        title: a sentence.

    Raises:
        InputError: a subset is not in the table.
    """
    chosen = _choose(cases, subsets)
    regions = list(dict.fromkeys(cases["region"]))
    figure = Figure(figsize=(0.7 + 2.85 * len(regions), 3.9), layout="constrained")
    for axes, region in zip(figure.subplots(1, len(regions), sharey=True, squeeze=False)[0], regions, strict=True):
        ends = []
        for number, subset in enumerate(chosen):
            part = cases[(cases["region"] == region) & (cases["subset"] == subset)]
            confidence, risk = part["confidence"].to_numpy(), 1 - part["dice"].to_numpy()
            curve = risk_coverage(confidence, risk)
            if curve.empty:
                continue
            colour, end = COLOURS[_ORDER[number % 8]], curve["risk"].iloc[-1]
            axes.plot(curve["coverage"], curve["optimum"], color=colour, lw=0.8, alpha=0.5)
            axes.plot(curve["coverage"], curve["risk"], color=colour, lw=1.8, ls=OUTLINES[number % 4])
            axes.plot(1, end, MARKERS[number % 8], color=colour, ms=6, clip_on=False)
            ends.append((float(end), risk_coverage_area(confidence, risk)[0], colour))
        ends.sort()
        for height, (_, area, colour) in zip(_apart([e for e, *_ in ends], 0.055), ends, strict=True):
            axes.annotate(f"{area:.2f}", (1, height), (8, 0), textcoords="offset points", va="center", fontsize=8.5,
                          color=colour, annotation_clip=False)  # fmt: skip
        axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="share of cases kept, surest first", title=region)
        axes.title.set_fontsize(10)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color=_FAINT)
        axes.set_axisbelow(True)
    figure.axes[0].set_ylabel("mean 1 − Dice")
    handles = [
        Line2D([], [], color=COLOURS[_ORDER[i % 8]], ls=OUTLINES[i % 4], marker=MARKERS[i % 8], label=subset)
        for i, subset in enumerate(chosen)
    ]
    handles.append(Line2D([], [], color="#888888", lw=0.8, label="best possible order"))
    _legend(figure, handles, [str(h.get_label()) for h in handles])
    words = "A flat curve: the network does not know which cases it fails (numbers: area)"
    titled(figure, title or words)
    return note(figure, _settings(cases))


def _settings(table: pd.DataFrame) -> str:
    """How the table came about, in one line; empty where it does not say."""
    given = table.attrs.get("settings")
    if not given:
        return ""
    where = f"windows of {given['window']}^3, overlap {given['overlap']:g}" if given["window"] else "whole volume"
    return (
        f"run {given['run']}, cohort {given['cohort']}, {len(given['cases'])} {given['split']} cases, "
        f"{given['spacing_mm']:g} mm grid, {where}, voxels of the {given['voxels']}, {given['bins']} bins, empty "
        f"reference: {given['empty']}"
    )


def _apart(heights: list[float], gap: float) -> list[float]:
    """Ascending heights moved until they are a gap apart, their mean where it was, none below zero."""
    placed: list[float] = []
    for height in heights:
        placed.append(max(height, placed[-1] + gap) if placed else height)
    shift = min(float(np.mean(placed) - np.mean(heights)), placed[0]) if placed else 0.0
    return [p - shift for p in placed]


def _choose(table: pd.DataFrame, subsets: Sequence[str] | None) -> list[str]:
    known = list(dict.fromkeys(table["subset"]))
    if subsets is None:
        sizes = np.array([name.count("+") for name in known])
        largest = sizes.max()
        return [n for size in (largest, largest - 1) for n, s in zip(known, sizes, strict=True) if s == size]
    if unknown := [s for s in subsets if s not in known]:
        raise InputError(f"the table has no subset {unknown[0]!r}; it has {', '.join(known)}")
    return list(subsets)


def _legend(figure: Figure, handles: list, labels: list[str]) -> None:
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 6), frameon=False, fontsize=8.5,
                  handlelength=3)  # fmt: skip
