"""Pictures of who lacks what: combinations of modalities with their counts, and every subject of every site.

Functions of tables that return a matplotlib Figure, with the colours of :mod:`mtg_lab.palette`; nothing touches pyplot.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from mtg_lab.figure_notes import note_protocol, titled
from mtg_lab.palette import COLOURS, OUTLINES, modality_style

_BAR = "#5a5a5a"
_FAINT = "#e3e3e3"


def upset(pattern: pd.DataFrame, title: str = "", most: int = 31) -> Figure:
    """How many subjects have which combination of modalities (an UpSet plot, Lex et al. 2014).

    Bars of counts over a matrix of dots, most frequent combination first; at the side how often each modality is there
    at all. Combinations beyond ``most`` are summed up in words.

    Args:
        pattern: bool, subjects x modalities.
        title: a sentence; by default one that the counts make.
        most: combinations drawn.
    """
    modalities = [str(m) for m in pattern.columns]
    found = pattern.groupby(list(pattern.columns), sort=False).size().rename("count").reset_index()
    found["size"] = found[pattern.columns].sum(axis=1)
    found = found.sort_values(["count", "size"], ascending=False, kind="stable")
    shown, rest = found.head(most), found.iloc[most:]
    columns, rows = len(shown), len(modalities)
    figure = Figure(figsize=(3.4 + max(0.3 * columns, 2.6), 2.5 + 0.3 * rows), layout="constrained")
    axes = figure.subplots(2, 2, width_ratios=(1.6, max(0.3 * columns, 2.4)), height_ratios=(2, 0.3 * rows))
    (corner, bars), (totals, dots) = axes
    corner.set_axis_off()
    _bars(bars, shown["count"].to_numpy())
    _dots(dots, shown[pattern.columns].to_numpy(dtype=bool), modalities)
    _totals(totals, pattern.sum().to_numpy(), modalities, len(pattern))
    dots.set_xlabel(f"and {len(rest)} rarer combinations with {rest['count'].sum()} subjects" if len(rest) else "")
    complete = int(pattern.all(axis=1).sum())
    titled(figure, title or f"{complete} of {len(pattern)} subjects have everything")
    return figure


def _bars(axes: Axes, counts: np.ndarray) -> None:
    places = np.arange(len(counts))
    axes.bar(places, counts, color=_BAR, width=0.68)
    for place, count in zip(places, counts, strict=True):
        axes.annotate(str(count), (place, count), (0, 2), textcoords="offset points", ha="center", fontsize=9)
    axes.set(xticks=[], xlim=(-0.6, max(len(counts), 8) - 0.4), ylabel="subjects")
    axes.margins(y=0.14)
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.spines[["top", "right"]].set_visible(False)


def _dots(axes: Axes, members: np.ndarray, modalities: Sequence[str]) -> None:
    style, columns = modality_style(modalities), len(members)
    for row in range(0, len(modalities), 2):
        axes.axhspan(row - 0.5, row + 0.5, color="#f4f4f4", lw=0)
    for place, there in enumerate(members):
        rows = np.flatnonzero(there)
        axes.plot([place, place], [rows.min(), rows.max()], color=_BAR, lw=1.6, zorder=1)
    for row, modality in enumerate(modalities):
        colour, marker = style[modality]
        has, lacks = np.flatnonzero(members[:, row]), np.flatnonzero(~members[:, row])
        axes.scatter(lacks, np.full(len(lacks), row), s=26, color=_FAINT, marker="o", linewidths=0, zorder=2)
        axes.scatter(has, np.full(len(has), row), s=52, color=colour, marker=marker, linewidths=0, zorder=3)
    axes.set(xticks=[], yticks=[], xlim=(-0.6, max(columns, 8) - 0.4), ylim=(len(modalities) - 0.5, -0.5))
    axes.spines[:].set_visible(False)


def _totals(axes: Axes, totals: np.ndarray, modalities: Sequence[str], subjects: int) -> None:
    style = modality_style(modalities)
    axes.barh(range(len(modalities)), totals, color=[style[m][0] for m in modalities], height=0.62)
    for row, total in enumerate(totals):
        axes.annotate(
            str(total), (total, row), (-3, 0), textcoords="offset points", ha="right", va="center", fontsize=9
        )
    axes.set(ylim=(len(modalities) - 0.5, -0.5), xlabel="subjects that have it")
    axes.set_xlim(subjects * 1.3, 0)  # to the left, so that the names stand beside their dots
    axes.xaxis.set_major_locator(MaxNLocator(3, integer=True))
    axes.yaxis.tick_right()
    axes.set_yticks(range(len(modalities)), modalities)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "left", "right"]].set_visible(False)


def subject_matrix(
    pattern: pd.DataFrame,
    sites: Sequence[str | None] | None = None,
    had: pd.DataFrame | None = None,
    title: str = "",
) -> Figure:
    """Every subject by every modality, ordered by site and within a site by what is there.

    Args:
        pattern: bool, subjects x modalities.
        sites: of the rows of ``pattern``; None where there are none.
        had: what the cohort has before the rule: cells that it lacks anyway are told apart (grey).
        title: a sentence.
    """
    modalities = [str(m) for m in pattern.columns]
    names = pd.Series("" if sites is None else [s or "no site" for s in sites], index=pattern.index)
    order = np.lexsort((*[~pattern[m].to_numpy() for m in reversed(pattern.columns)], names.to_numpy(dtype=str)))
    there, names = pattern.iloc[order].to_numpy(dtype=bool), names.iloc[order]
    lacked = ~(there if had is None else had.loc[names.index, pattern.columns].to_numpy(dtype=bool)) & ~there
    lacked = lacked if had is not None else np.zeros_like(there)
    colours = np.array([to_rgb(modality_style(modalities)[m][0]) for m in modalities])
    cells = np.where(there[..., None], colours[None], 1.0)  # [subjects, M, 3]
    cells[lacked] = to_rgb("#c4c4c4")
    figure = Figure(figsize=(8, 1.5 + 0.32 * len(modalities)), layout="constrained")
    axes = figure.subplots()
    axes.imshow(cells.swapaxes(0, 1), aspect="auto", interpolation="nearest")
    if len(there) <= 120:  # thin lines between subjects, as long as they leave something of the cells
        axes.set_xticks(np.arange(len(there) + 1) - 0.5, minor=True)
        axes.grid(which="minor", axis="x", color="white", lw=0.6)
    for row in range(1, len(modalities)):
        axes.axhline(row - 0.5, color="white", lw=3)
    _site_names(axes, list(names))
    axes.set_yticks(range(len(modalities)), modalities)
    axes.set(xlabel=f"{len(there)} subjects" + ("" if sites is None else ", by site"), xticks=[])
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_color("#9a9a9a")
    words = {"there (in its colour)": _BAR, "missing": "white"} | (
        {"not in the cohort": "#c4c4c4"} if lacked.any() else {}
    )
    handles = [Patch(facecolor=c, edgecolor="#9a9a9a", label=w) for w, c in words.items()]
    figure.legend(handles=handles, loc="outside lower right", ncols=len(handles), frameon=False, fontsize=9)
    titled(figure, title or f"{int((~pattern).to_numpy().sum())} of {pattern.size} cells are missing")
    return figure


def _site_names(axes: Axes, names: Sequence[str]) -> None:
    starts = [i for i, name in enumerate(names) if i == 0 or names[i - 1] != name]
    if not any(names):
        return
    for start, end in zip(starts, [*starts[1:], len(names)], strict=True):
        axes.annotate(names[start], ((start + end - 1) / 2, 1.02), xycoords=("data", "axes fraction"), ha="center",
                      va="bottom", fontsize=9)  # fmt: skip
        if start:
            axes.axvline(start - 0.5, color="black", lw=1.2)


def absence_modes(scores: pd.DataFrame, title: str = "") -> Figure:
    """Mean score of a subset under each mode of absence; columns subset, mode, value, as ``absence`` gives them."""
    subsets, modes = (list(dict.fromkeys(scores[c])) for c in ("subset", "mode"))
    means = scores.groupby(["subset", "mode"])["value"].mean()
    figure = Figure(figsize=(7, 1.4 + 0.55 * len(subsets)), layout="constrained")
    axes = figure.subplots()
    for number, mode in enumerate(modes):
        colour, marker = COLOURS[(3, 2, 4)[number % 3]], ("X", "s", "o")[number % 3]
        places = np.arange(len(subsets)) + 0.2 * (number - (len(modes) - 1) / 2)
        values = [means.get((s, mode), np.nan) for s in subsets]
        axes.scatter(values, places, color=colour, marker=marker, s=55, label=mode)
    for place in range(1, len(subsets)):
        axes.axhline(place - 0.5, color=_FAINT, lw=1, ls=OUTLINES[0])
    axes.set(yticks=range(len(subsets)), yticklabels=subsets, xlabel="mean Dice", xlim=(-0.02, 1.02))
    axes.set_ylim(len(subsets) - 0.5, -0.5)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=len(modes), frameon=False)
    titled(figure, title or "Three ways to lack a sequence")
    return note_protocol(figure, scores)
