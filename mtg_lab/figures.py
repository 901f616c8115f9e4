"""Every plot of the lab: functions of tables and arrays that return a matplotlib Figure.

One colour a modality everywhere (Okabe and Ito's palette, told apart by colour-blind readers) and one marker, so that a
page printed in grey can be read too. Nothing here touches pyplot: a figure belongs to whoever asked for it.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy.stats import gaussian_kde, norm

from mtg_lab.figure_notes import note_protocol, titled
from mtg_lab.files import written_aside
from mtg_lab.palette import COLOURS, MARKERS, OUTLINES, modality_style
from mtg_lab.protocol import check_comparable, check_one_metric
from mtg_lab.slices import fullest_slice, growth_layers, intensity_window, predictions, sequences, slice_panels

__all__ = [
    "COLOURS",
    "MARKERS",
    "OUTLINES",
    "embedding",
    "forest",
    "fullest_slice",
    "gap_dots",
    "gaussian_anchors",
    "growth_layers",
    "intensity_window",
    "learning_curves",
    "missingness_lines",
    "modality_style",
    "predictions",
    "presence",
    "save",
    "sequences",
    "slice_panels",
    "subset_heatmap",
    "tissue_densities",
]


def save(figure: Figure, folder: str | Path, name: str, alt: str) -> Path:
    """Write ``<folder>/<name>.png`` at 150 dpi; ``alt`` is stored in it as the picture's description."""
    target = Path(folder) / f"{name}.png"
    with written_aside(target) as aside:
        figure.savefig(aside, dpi=150, metadata={"Description": alt})
    return target


def presence(table: pd.DataFrame, title: str = "") -> Figure:
    """Which subject has which modality: a matrix of filled and empty squares; bool, subjects x modalities."""
    figure = Figure(figsize=(8, 0.5 + 0.42 * table.shape[1]), layout="constrained")
    axes = figure.subplots()
    sns.heatmap(table.T.astype(int), cmap=["#f2f2f2", COLOURS[4]], cbar=False, linewidths=0.4, ax=axes, vmin=0, vmax=1)
    axes.set(xlabel=f"{len(table)} subjects", ylabel="", xticks=[])
    axes.tick_params(axis="y", rotation=0)
    axes.set_title(title or "Filled: the subject has the sequence", fontsize=11)
    return figure


def tissue_densities(table: pd.DataFrame, title: str = "") -> Figure:
    """Distribution of intensities per tissue, one panel a modality; columns modality, tissue, value (and source)."""
    modalities = list(dict.fromkeys(table["modality"]))
    tissues = list(dict.fromkeys(table["tissue"]))
    sources = list(dict.fromkeys(table["source"])) if "source" in table else [None]
    figure = Figure(figsize=(3.1 * len(modalities), 3.4), layout="constrained")
    low, high = np.percentile(table["value"], (0.5, 99.5))
    grid = np.linspace(low, high, 200)
    for axes, modality in zip(figure.subplots(1, len(modalities), squeeze=False)[0], modalities, strict=True):
        for number, tissue in enumerate(tissues):
            for style, source in zip(OUTLINES, sources, strict=False):
                rows = table[(table["modality"] == modality) & (table["tissue"] == tissue)]
                values = (rows if source is None else rows[rows["source"] == source])["value"].to_numpy()
                if len(values) > 5 and values.std() > 0:
                    axes.plot(grid, gaussian_kde(values)(grid), color=COLOURS[number], ls=style, lw=1.8)
        axes.set(title=modality, yticks=[], xlabel="z-score in the brain")
        axes.spines[["top", "right", "left"]].set_visible(False)
    handles = [Line2D([], [], color=COLOURS[n], label=t) for n, t in enumerate(tissues)]
    handles += [Line2D([], [], color="black", ls=s, label=o) for s, o in zip(OUTLINES, sources, strict=False) if o]
    figure.legend(handles=handles, loc="outside lower center", ncols=2 * len(modalities), fontsize=9, frameon=False)
    titled(figure, title or "How bright each tissue is in each sequence")
    return figure


def embedding(
    panels: Mapping[str, pd.DataFrame], colour_by: str, title: str = "", palette: Sequence[str] = COLOURS
) -> Figure:
    """Embedded latents (columns x, y and ``colour_by``), one panel each on the same axes.

    Axes reach from the first to the last half per cent, so that a few stragglers do not squeeze the rest; how many
    points lie outside is told in the panel.
    """
    names = list(dict.fromkeys(name for table in panels.values() for name in table[colour_by]))
    styles = (
        modality_style(names)
        if colour_by == "modality"
        else {n: (palette[i % len(palette)], MARKERS[i % len(MARKERS)]) for i, n in enumerate(names)}
    )
    figure = Figure(figsize=(4.6 * len(panels), 4.4), layout="constrained")
    axes_row = figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)[0]
    limits = {c: _reach(np.concatenate([t[c] for t in panels.values()])) for c in ("x", "y")}
    for axes, (panel, table) in zip(axes_row, panels.items(), strict=True):
        shuffled = table.sample(frac=1, random_state=0)  # so that the last group does not hide the others
        for name, (colour, marker) in styles.items():
            rows = shuffled[shuffled[colour_by] == name]
            axes.scatter(rows["x"], rows["y"], s=9, c=colour, marker=marker, alpha=0.55, linewidths=0, label=str(name))
        axes.set(xticks=[], yticks=[], title=panel, xlim=limits["x"], ylim=limits["y"])
        beyond = int((~(table["x"].between(*limits["x"]) & table["y"].between(*limits["y"]))).sum())
        if beyond:
            axes.annotate(f"{beyond} outside", (0.99, 0.01), xycoords="axes fraction", ha="right", fontsize=8)
        axes.spines[:].set_color("#cccccc")
    handles, labels = axes_row[0].get_legend_handles_labels()
    if len(labels) <= 12:
        legend = figure.legend(
            handles, labels, loc="outside lower center", ncols=min(len(labels), 6), frameon=False, markerscale=2.5
        )
        for handle in legend.legend_handles:
            if handle is not None:
                handle.set_alpha(1)
    titled(figure, title or f"Latents, coloured by {colour_by}")
    return figure


def _reach(values: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(values, [0.005, 0.995])
    margin = 0.1 * max(high - low, 1e-9)
    return float(low - margin), float(high + margin)


def gap_dots(table: pd.DataFrame, title: str = "") -> Figure:
    """Gap metrics of several runs with their intervals; columns run, metric, value, low, high."""
    metrics, runs = list(dict.fromkeys(table["metric"])), list(dict.fromkeys(table["run"]))
    figure = Figure(figsize=(2.5 * len(metrics), 1.4 + 0.36 * len(runs)), layout="constrained")
    for axes, metric in zip(figure.subplots(1, len(metrics), squeeze=False, sharey=True)[0], metrics, strict=True):
        for place, run in enumerate(runs):
            row = table[(table["metric"] == metric) & (table["run"] == run)].iloc[0]
            colour = COLOURS[(4, 3, 2, 0)[place % 4]]
            if np.isfinite(row["low"]):
                axes.plot([row["low"], row["high"]], [place, place], color=colour, lw=2)
            axes.plot(row["value"], place, MARKERS[place % len(MARKERS)], color=colour, ms=7)
            axes.annotate(f"{row['value']:.2f}", (row["value"], place), (0, 7), textcoords="offset points", ha="center")
        axes.set(
            yticks=range(len(runs)), yticklabels=runs, title=metric.replace("_", " "), ylim=(len(runs) - 0.4, -0.8)
        )
        axes.set_xlim(left=0)
        axes.spines[["top", "right"]].set_visible(False)
    titled(figure, title)
    return figure


def subset_heatmap(scores: pd.DataFrame, title: str = "") -> Figure:
    """Mean score of every subset (rows, fewest sequences first) and region (columns), with filled and empty dots.

    Raises:
        InputError: the table holds several metrics.
    """
    check_one_metric(scores)
    subsets = list(dict.fromkeys(scores["subset"]))
    modalities = list(dict.fromkeys(name for subset in subsets for name in subset.split("+")))
    regions = list(dict.fromkeys(scores["region"]))
    means = scores.pivot_table(index="subset", columns="region", values="value", aggfunc="mean", sort=False)
    means = means.reindex(index=subsets, columns=regions)
    row_inches, text, dot = (0.34, 10, 9) if len(subsets) <= 31 else (0.2, 8, 6)  # 63 rows still fit a page
    figure = Figure(figsize=(2.2 + 0.55 * len(modalities) + 0.9 * len(regions), 1.2 + row_inches * len(subsets)),
                    layout="constrained")  # fmt: skip
    dots, heat = figure.subplots(1, 2, width_ratios=(len(modalities), 1.7 * len(regions)))
    style = modality_style(modalities)
    for row, subset in enumerate(subsets):
        for column, modality in enumerate(modalities):
            there = modality in subset.split("+")
            colour = style[modality][0]
            dots.plot(column, row + 0.5, "o", ms=dot, mfc=colour if there else "white", mec=colour)
    dots.set(xticks=range(len(modalities)), xticklabels=modalities, yticks=[], ylim=(len(subsets), 0))
    dots.set_xlim(-0.6, len(modalities) - 0.4)
    dots.xaxis.tick_top()
    dots.spines[:].set_visible(False)
    dots.tick_params(length=0)
    sns.heatmap(means, annot=True, fmt=".2f", vmin=0, vmax=1, cmap="cividis", cbar=False, ax=heat, yticklabels=False,
                annot_kws={"fontsize": text})  # fmt: skip
    sizes = [subset.count("+") for subset in subsets]
    edges = [row for row in range(1, len(sizes)) if sizes[row] != sizes[row - 1]]
    dots.hlines(edges, -0.5, len(modalities) - 0.5, color="#cccccc", lw=0.8)
    heat.hlines(edges, 0, len(regions), color="white", lw=1.5)
    heat.set(xlabel="", ylabel="")
    heat.xaxis.tick_top()
    heat.tick_params(length=0)
    titled(figure, title or "Dice by subset of sequences")
    return note_protocol(figure, scores)


def missingness_lines(scores: Mapping[str, pd.DataFrame], title: str = "", draws: int = 500) -> Figure:
    """Mean score against the number of missing modalities, one panel a region, one line a run.

    Bands are 95 % bootstrap intervals over subjects.

    Raises:
        InputError: the tables were scored under different protocols, or hold several metrics.
    """
    for table in scores.values():
        check_one_metric(table)
    check_comparable([table for table in scores.values() if "protocol" in table])
    regions = list(dict.fromkeys(next(iter(scores.values()))["region"]))
    most = max(int(table["modalities"].max()) for table in scores.values())
    figure = Figure(figsize=(3.4 * len(regions), 3.5), layout="constrained")
    row = figure.subplots(1, len(regions), sharey=True, squeeze=False)[0]
    for axes, region in zip(row, regions, strict=True):
        for number, (run, table) in enumerate(scores.items()):
            part = table[table["region"] == region]
            cells = part.pivot_table(index="subject", columns="modalities", values="value", aggfunc="mean")
            if cells.empty:  # every reference lacks the region, and such are left out
                continue
            values, rng = cells.to_numpy(), np.random.default_rng(0)
            means = np.stack([
                np.nanmean(values[rng.integers(len(values), size=len(values))], axis=0) for _ in range(draws)
            ])  # fmt: skip
            missing = most - cells.columns.to_numpy()
            colour = COLOURS[(4, 3, 2, 0, 5, 7)[number % 6]]
            axes.fill_between(missing, *np.nanquantile(means, [0.025, 0.975], axis=0), color=colour, alpha=0.12, lw=0)
            axes.plot(missing, np.nanmean(values, axis=0), color=colour, label=run, marker=MARKERS[number % 8],
                      ls=OUTLINES[number % 4])  # fmt: skip
        axes.set(title=region, xlabel="missing sequences", xticks=range(most), ylim=(0, 1))
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#e5e5e5")
    row[0].set_ylabel("mean Dice")
    named = {label: handle for axes in row for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(list(named.values()), list(named), loc="outside lower center", ncols=3, frameon=False)
    titled(figure, title or "Dice falls as sequences go missing (bands: 95 % over subjects)")
    return note_protocol(figure, scores.values())


def forest(differences: pd.DataFrame, title: str = "") -> Figure:
    """Paired differences with intervals around the line of no difference; columns name, difference, low, high."""
    figure = Figure(figsize=(7, 1.1 + 0.34 * len(differences)), layout="constrained")
    axes = figure.subplots()
    columns = (differences[c].astype(float) for c in ("difference", "low", "high"))
    for place, (middle, low, high) in enumerate(zip(*columns, strict=True)):
        clear = low > 0 or high < 0
        axes.plot([low, high], [place, place], color=COLOURS[4] if clear else "#888888", lw=2)
        axes.plot(middle, place, "o", color=COLOURS[4] if clear else "#888888", mfc=None if clear else "white")
    axes.axvline(0, color="black", lw=1)
    axes.set(yticks=range(len(differences)), yticklabels=differences["name"], xlabel="difference in Dice")
    axes.set_ylim(len(differences) - 0.4, -0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(title or "Filled where the interval excludes zero", fontsize=11)
    return note_protocol(figure, differences)


def learning_curves(histories: Mapping[str, pd.DataFrame], column: str = "segmentation", title: str = "") -> Figure:
    """A column of several runs' histories over steps, as a running mean over a fortieth of the run."""
    figure = Figure(figsize=(7, 3.4), layout="constrained")
    axes = figure.subplots()
    for number, (run, history) in enumerate(histories.items()):
        if column in history:
            smooth = history[column].rolling(max(1, len(history) // 40), min_periods=1).mean()
            axes.plot(smooth.index, smooth, color=COLOURS[number % 8], ls=OUTLINES[number % 4], label=run)
    axes.set(xlabel="step", ylabel=column.replace("_", " "))
    if axes.lines:
        axes.legend(frameon=False, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(title or f"{column.replace('_', ' ').capitalize()} during training", fontsize=11)
    return figure


def gaussian_anchors(
    means: Sequence[float],
    sds: Sequence[float],
    weights: Sequence[float],
    names: Sequence[str],
    costs: pd.DataFrame,
    barycentre: tuple[float, float] | None = None,
) -> Figure:
    """One-dimensional modalities with their mixture (and barycentre), beside the cost of each anchor in two parts.

    Args:
        means, sds, weights, names: of the modalities q_m.
        costs: columns anchor, js, price (nats).
        barycentre: mean and spread of the weighted mean of paired draws, another object than the mixture.
    """
    figure = Figure(figsize=(10, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.4, 1))
    grid = np.linspace(min(means) - 4 * max(sds), max(means) + 4 * max(sds), 500)
    each = np.stack([norm.pdf(grid, m, s) for m, s in zip(means, sds, strict=True)])
    for density, mean, name in zip(each, means, names, strict=True):
        colour = modality_style(names)[name][0]
        left.plot(grid, density, color=colour, lw=2)
        left.annotate(name, (mean, density.max()), ha="center", va="bottom", color=colour)
    left.plot(grid, np.average(each, axis=0, weights=weights), color="black", ls="dashed", label="mixture")
    if barycentre:
        left.plot(grid, norm.pdf(grid, *barycentre), color=COLOURS[5], ls="dotted", lw=2.5, label="barycentre")
    left.set(yticks=[], xlabel="latent", title="Two objects are called P_mix")
    left.legend(frameon=False)
    places = np.arange(len(costs))
    right.barh(places, costs["js"], color=COLOURS[4], label="gap JS: the same for all")
    right.barh(places, costs["price"], left=costs["js"], color=COLOURS[0], hatch="//", label="price of the anchor")
    right.set(yticks=places, yticklabels=costs["anchor"], xlabel="nats", title="The mixture is the cheapest anchor")
    right.invert_yaxis()
    right.legend(frameon=False, fontsize=9, loc="upper right")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    return figure
