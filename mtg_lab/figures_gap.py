"""Plots of the modality gap: measures against chance, by part, by pair, during training, and against Dice."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from mtg_lab.figure_notes import name_points, note_protocol, titled
from mtg_lab.palette import COLOURS, MARKERS, OUTLINES, RUN_COLOURS, modality_style
from mtg_lab.slices import intensity_window, mark_sides


def one_voxel(
    images: Mapping[str, np.ndarray], place: Sequence[int], latents: Mapping[str, np.ndarray], title: str = ""
) -> Figure:
    """One voxel of one patient in every sequence (axial slice, the voxel ringed), above its latents.

    Args:
        images: sequence to volume [D, H, W], RAS.
        place: of the voxel in it.
        latents: sequence to latent [C], all drawn on one scale.
    """
    names, (x, y, z) = list(images), place
    figure = Figure(figsize=(2.6 * len(names), 4.4), layout="constrained")
    above, below = figure.subplots(2, len(names), height_ratios=(2.2, 1), squeeze=False)
    reach = 1.1 * max(float(np.abs(v).max()) for v in latents.values())
    for top, bottom, name in zip(above, below, names, strict=True):
        low, high = intensity_window(images[name])
        pixels = images[name][:, :, z]
        top.imshow(np.where(pixels == 0, low, pixels).T, cmap="gray", vmin=low, vmax=high, origin="lower")
        top.plot(x, y, "o", ms=13, mfc="none", mec=COLOURS[0], mew=2)
        top.set(xticks=[], yticks=[], title=name)
        mark_sides(top)
        bottom.bar(range(len(latents[name])), latents[name], color=modality_style(names)[name][0])
        bottom.axhline(0, color="black", lw=0.8)
        bottom.set(ylim=(-reach, reach), xticks=[], yticks=[] if bottom is not below[0] else [0])
        bottom.spines[["top", "right"]].set_visible(False)
    below[0].set_ylabel("latent $z_m$")
    titled(figure, title or "One voxel, and what each encoder makes of it")
    return figure


def gap_against_chance(tables: Mapping[str, pd.DataFrame], title: str = "", columns: int = 3) -> Figure:
    """Every measure with its interval, on a scale of its own, and what permuted labels or pairs would give (grey).

    Args:
        tables: name of a run to its table of :func:`mtg_lab.gap`.
        columns: of panels.
    """
    runs = list(tables)
    metrics = list(dict.fromkeys(m for t in tables.values() for m in t["metric"]))
    rows = -(-len(metrics) // columns)
    figure = Figure(figsize=(3.5 * columns, rows * (0.75 + 0.27 * len(runs))), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, metric in zip(panels, metrics, strict=False):
        for place, run in enumerate(runs):
            found = tables[run][tables[run]["metric"] == metric]
            if len(found):
                _one_measure(axes, found.iloc[0], place)
        axes.set(yticks=range(len(runs)), yticklabels=runs if len(runs) > 1 else [""], ylim=(len(runs) - 0.4, -0.6))
        axes.set_title(metric.replace("_", " "), fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=9)
        axes.locator_params(axis="x", nbins=5)
        axes.margins(x=0.08)
    for axes in panels[len(metrics) :]:
        axes.set_visible(False)
    handles = [
        Line2D([], [], color="#bbbbbb", lw=8, label="95 % of what chance gives"),
        Line2D([], [], color="black", marker="o", lw=2, label="measured, 95 % over subjects"),
        Line2D([], [], color="black", marker="o", mfc="white", lw=2, label="not told from chance (p > 0.05)"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    titled(figure, title or "The gap, measure by measure, against chance")
    return figure


def _one_measure(axes: Axes, row: pd.Series, place: int) -> None:
    colour = RUN_COLOURS[place % len(RUN_COLOURS)]
    if np.isfinite(row.get("null_low", np.nan)):
        axes.barh(place, max(row["null_high"] - row["null_low"], 1e-9), left=row["null_low"], height=0.62,
                  color="#bbbbbb", lw=0)  # fmt: skip
    if np.isfinite(row["low"]):
        axes.plot([row["low"], row["high"]], [place, place], color=colour, lw=2)
    unclear = row.get("p", 0) > 0.05
    axes.plot(row["value"], place, MARKERS[place % len(MARKERS)], color=colour, ms=7, mfc="white" if unclear else None)
    axes.annotate(f"{row['value']:.2f}", (row["value"], place), (0, 7), textcoords="offset points", ha="center",
                  fontsize=9)  # fmt: skip


def gap_by_part(
    tables: Mapping[str, pd.DataFrame], column: str, metrics: Sequence[str], title: str = "", label: str = ""
) -> Figure:
    """Measures of several runs along the parts of their latents, such as layers or tissues; bars are 95 % intervals.

    Args:
        tables: name of a run to its table of :func:`mtg_lab.gap.gap_by`.
        column: the parts' column.
        metrics: one panel each.
        label: of the horizontal axis; by default the column's name.
    """
    parts = list(dict.fromkeys(p for t in tables.values() for p in t[column]))
    figure = Figure(figsize=(3.6 * len(metrics), 3.5), layout="constrained")
    for axes, metric in zip(figure.subplots(1, len(metrics), squeeze=False)[0], metrics, strict=True):
        for number, (run, table) in enumerate(tables.items()):
            rows = table[table["metric"] == metric].set_index(column)
            there = [p for p in parts if p in rows.index]
            x = np.array([parts.index(p) for p in there]) + 0.09 * (number - (len(tables) - 1) / 2)
            rows = rows.loc[there]
            colour = RUN_COLOURS[number % len(RUN_COLOURS)]
            axes.plot(x, rows["value"], ls=OUTLINES[number % 4], marker=MARKERS[number % len(MARKERS)], color=colour,
                      label=run, lw=1.5)  # fmt: skip
            axes.vlines(x, rows["low"], rows["high"], color=colour, lw=1.5)
        axes.set(title=metric.replace("_", " "), xticks=range(len(parts)), xlabel=label or column)
        axes.set_xticklabels(parts, rotation=0 if len(parts) < 5 and max(map(len, map(str, parts))) < 9 else 20)
        axes.set_ylim(bottom=min(0, axes.get_ylim()[0]))
        axes.spines[["top", "right"]].set_visible(False)
    _legend(figure, figure.axes[0])
    titled(figure, title or f"The gap by {column}")
    return figure


def gap_matrices(matrices: Mapping[str, pd.DataFrame], title: str = "", measure: str = "proxy A-distance") -> Figure:
    """A measure between every two modalities, one panel a run, all on one scale; of :func:`mtg_lab.gap.gap_matrix`."""
    figure = Figure(figsize=(3.6 * len(matrices) + 0.8, 3.5), layout="constrained")
    panels = figure.subplots(1, len(matrices), squeeze=False)[0]
    low = min(0.0, min(np.nanmin(m) for m in matrices.values()))
    high = max(np.nanmax(m) for m in matrices.values())
    for axes, (run, matrix) in zip(panels, matrices.items(), strict=True):
        sns.heatmap(matrix, annot=True, fmt=".2f", cmap="cividis", vmin=low, vmax=high, ax=axes, square=True,
                    cbar=axes is panels[-1], cbar_kws={"label": measure}, annot_kws={"fontsize": 10})  # fmt: skip
        axes.set_title(run, fontsize=11)
        axes.tick_params(axis="y", rotation=0)
    titled(figure, title or f"{measure} between every two sequences")
    return figure


def gap_in_training(histories: Mapping[str, pd.DataFrame], title: str = "") -> Figure:
    """Relative gap and Dice on the same few crops once an epoch; one line a run.

    Args:
        histories: name of a run to its history, with the columns of :class:`mtg_lab.probe.Probe`.
    """
    figure = Figure(figsize=(9.5, 3.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    for number, (run, history) in enumerate(histories.items()):
        style = {"color": RUN_COLOURS[number % len(RUN_COLOURS)], "ls": OUTLINES[number % 4], "label": run, "lw": 1.8}
        if "probe_gap" in history:
            left.plot(history["probe_gap"].dropna(), **style)
        alone = [c for c in history if str(c).startswith("probe_dice_")]
        seen = history["probe_dice"].dropna()
        right.plot(seen.rolling(3, min_periods=1, center=True).mean(), **style)
        each = history.loc[seen.index, alone].mean(axis=1)
        right.plot(each.rolling(3, min_periods=1, center=True).mean(), **style | {"lw": 0.9, "label": None})
    left.set(xlabel="step", ylabel="relative gap", title="The gap", ylim=(0, 1))
    right.set(xlabel="step", ylabel="Dice", title="Dice (thick: all sequences, thin: one alone)", ylim=(0, 1))
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    _legend(figure, left)
    titled(figure, title or "Gap and Dice while the network trains (two validation crops)")
    return figure


def gap_against_dice(
    table: pd.DataFrame, x: str, y: str, found: pd.DataFrame, title: str = "", labels: tuple[str, str] = ("", "")
) -> Figure:
    """One point a group, named; markers by number of modalities; the correlation of :func:`gap_dice.correlation`.

    Args:
        table: columns group, ``x``, ``y``, and ``modalities`` where markers are to tell it; averaged over its rows.
        found: of the same columns.
        labels: of the axes.
    """
    sizes = "modalities" in table
    means = table.groupby("group", sort=False)[[x, y, *(["modalities"] if sizes else [])]].mean()
    figure = Figure(figsize=(6.8, 4.6), layout="constrained")
    axes = figure.subplots()
    counts = means["modalities"].astype(int) if sizes else pd.Series(1, index=means.index)
    for number in sorted(set(counts)):
        part, words = means[counts == number], f"{number} sequence{'s' if number > 1 else ''}"
        axes.plot(part[x], part[y], MARKERS[number % len(MARKERS)], ms=8, color=RUN_COLOURS[number % len(RUN_COLOURS)],
                  label=words if sizes else None)  # fmt: skip
    axes.margins(x=0.16, y=0.1)
    axes.set(xlabel=labels[0] or x.replace("_", " "), ylabel=labels[1] or y.replace("_", " "))
    if sizes:
        axes.legend(frameon=False, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(correlation_words(found), fontsize=10)
    titled(figure, title)
    noted = note_protocol(figure, table)
    name_points(figure, axes, means[x], means[y])
    return noted


def correlation_words(found: pd.DataFrame) -> str:
    """The rows of :func:`mtg_lab.gap_dice.correlation` in a sentence."""
    names = {"all": "rank correlation", "same number": "among subsets of one size"}
    rows = found[["correlation", "low", "high"]].to_numpy()
    return "; ".join(
        f"{names[over]} {value:+.2f} [{low:+.2f}, {high:+.2f}]"
        for over, (value, low, high) in zip(found["over"], rows, strict=True)
    )


def _legend(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    if len(labels) > 1:
        figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 4), frameon=False, fontsize=9)
