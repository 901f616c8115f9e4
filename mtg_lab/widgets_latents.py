"""Two things to move on stored latents: how strongly the teacher was aligned, and the weights of the anchor."""

from __future__ import annotations

from collections.abc import Sequence

import ipywidgets
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from mtg_lab.figures import COLOURS, modality_style
from mtg_lab.widgets import Picture, _live, _slider

_TISSUES = ("o", "s", "^", "D", "v", "P")


def alignment_weight(stored: pd.DataFrame, facts: pd.DataFrame) -> ipywidgets.VBox:
    """Slide the weight of alignment from nothing to far too much, and see the latents of that teacher.

    Args:
        stored: latents of teachers that differ in the weight alone, on axes fitted to all of them together; columns
            weight, modality, tissue, x, y.
        facts: measured of the same teachers; columns weight, relative_gap, effective_rank, dice.

    Raises:
        ValueError: no weight is in both tables.
    """
    weights = [w for w in sorted(facts["weight"].unique()) if (stored["weight"] == w).any()]
    if not weights:
        raise ValueError("the two tables share no weight")
    chosen = ipywidgets.SelectionSlider(
        options=[(f"{w:g}", w) for w in weights], value=weights[0], description="alignment weight",
        style={"description_width": "11em"}, layout={"width": "32em", "max_width": "100%"},
    )  # fmt: skip
    colouring = ipywidgets.Dropdown(options=["modality", "tissue"], description="coloured by")

    def draw() -> Picture:
        row = facts[facts["weight"] == chosen.value].iloc[0]
        words = (
            f"Weight {chosen.value:g}: relative gap {row['relative_gap']:.2f}, effective rank "
            f"{row['effective_rank']:.1f}, mean Dice over all subsets {row['dice']:.3f}."
        )
        return weight_picture(stored, facts, chosen.value, colouring.value), words

    return _live(draw, [chosen, colouring])


def weight_picture(stored: pd.DataFrame, facts: pd.DataFrame, weight: float, colour_by: str = "modality") -> Figure:
    """Latents of one teacher on the common axes, beside gap, rank and Dice over all weights with this one marked."""
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    left, *rows = (figure.add_subplot(spec) for spec in _one_and_three(figure))
    shown = stored[stored["weight"] == weight]
    names = list(dict.fromkeys(stored[colour_by]))
    styles = (
        modality_style(names)
        if colour_by == "modality"
        else {n: (COLOURS[i % len(COLOURS)], _TISSUES[i % len(_TISSUES)]) for i, n in enumerate(names)}
    )
    mixed = shown.sample(frac=1, random_state=0)
    for name, (colour, marker) in styles.items():
        part = mixed[mixed[colour_by] == name]
        left.scatter(part["x"], part["y"], s=10, color=colour, marker=marker, alpha=0.6, linewidths=0, label=name)
    for axis, column in (("x", "x"), ("y", "y")):
        low, high = np.quantile(stored[column], [0.005, 0.995])
        left.set(**{f"{axis}lim": (low - 0.1 * (high - low), high + 0.1 * (high - low)), f"{axis}ticks": []})
    left.legend(frameon=False, fontsize=9, markerscale=2, loc="upper left", bbox_to_anchor=(0, 0), ncols=4)
    left.set_title(f"Latents at alignment weight {weight:g}", fontsize=11)
    ordered = facts.sort_values("weight")
    places = np.arange(len(ordered))
    here = int(np.flatnonzero(ordered["weight"].to_numpy() == weight)[0])
    measures = (("relative_gap", "relative gap"), ("effective_rank", "effective rank"), ("dice", "mean Dice"))
    for axes, (column, title) in zip(rows, measures, strict=True):
        axes.plot(places, ordered[column], color="#888888", marker="o", ms=4)
        axes.plot(here, ordered[column].iloc[here], "D", color=COLOURS[5], ms=9)
        axes.set_ylabel(title, fontsize=9)
        axes.set_ylim(bottom=0)
        axes.set_xticks(places, [f"{w:g}" for w in ordered["weight"]] if axes is rows[-1] else [])
        axes.spines[["top", "right"]].set_visible(False)
    rows[-1].set_xlabel("alignment weight")
    return figure


def anchor_weights(stored: pd.DataFrame) -> ipywidgets.VBox:
    """Move the weights of the anchor among the latents of a teacher and see whom it is near.

    Args:
        stored: paired latents of one teacher, columns subject, voxel, modality, x, y.
    """
    modalities = list(dict.fromkeys(stored["modality"]))
    sliders = [_slider(1.0, 0.0, 4.0, 0.25, f"weight of {m}") for m in modalities]

    def draw() -> Picture:
        raw = np.array([s.value for s in sliders])
        weights = raw / raw.sum() if raw.sum() > 0 else np.full(len(raw), 1 / len(raw))
        distances = anchor_distances(stored, weights)
        words = "; ".join(f"{m}: weight {w:.2f}, {d:.2f} away" for m, w, d in zip(modalities, weights, distances))
        total = float(weights @ distances)
        return anchor_picture(stored, weights), f"{words}. Cost with these weights: {total:.2f}."

    return _live(draw, sliders)


def anchor_distances(stored: pd.DataFrame, weights: Sequence[float] | np.ndarray) -> np.ndarray:
    """Mean squared distance [M] of each modality's latents (x, y) to the barycentre of its voxel with these weights."""
    points = _paired(stored)
    anchor = np.tensordot(np.asarray(weights), points, axes=1)
    return np.asarray(((points - anchor) ** 2).sum(axis=2).mean(axis=1))


def anchor_picture(stored: pd.DataFrame, weights: Sequence[float] | np.ndarray) -> Figure:
    """The modalities' latents with the anchor of every voxel, beside how far each modality is from it."""
    modalities = list(dict.fromkeys(stored["modality"]))
    points, distances = _paired(stored), anchor_distances(stored, weights)
    anchor = np.tensordot(np.asarray(weights), points, axes=1)
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.4, 1))
    styles = modality_style(modalities)
    for cloud, (name, (colour, marker)) in zip(points, styles.items(), strict=True):
        left.scatter(*cloud.T, s=9, color=colour, marker=marker, alpha=0.45, linewidths=0, label=name)
    left.scatter(*anchor.T, s=9, color="black", marker="x", linewidths=0.6, alpha=0.6, label="anchor")
    left.set(xticks=[], yticks=[], title="Each voxel's anchor is the weighted mean of its latents")
    left.legend(frameon=False, fontsize=9, markerscale=2, ncols=5, loc="upper left", bbox_to_anchor=(0, 0))
    places = np.arange(len(modalities))
    right.barh(places, distances, color=[styles[m][0] for m in modalities])
    for place, (weight, distance) in enumerate(zip(weights, distances, strict=True)):
        right.annotate(f" weight {weight:.2f}", (distance, place), va="center", fontsize=9)
    right.set(yticks=places, yticklabels=modalities, xlabel="mean squared distance to the anchor")
    right.set_xlim(0, 1.25 * max(float(distances.max()), 1e-9))
    right.invert_yaxis()
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _one_and_three(figure: Figure) -> list:
    grid = figure.add_gridspec(3, 2, width_ratios=(1.5, 1))
    return [grid[:, 0], grid[0, 1], grid[1, 1], grid[2, 1]]


def _paired(stored: pd.DataFrame) -> np.ndarray:
    """[M, voxels, 2]; the same voxels of the same subjects in every modality."""
    modalities = list(dict.fromkeys(stored["modality"]))
    parts = [
        stored[stored["modality"] == m].set_index(["subject", "voxel"])[["x", "y"]].sort_index() for m in modalities
    ]
    if any(not part.index.equals(parts[0].index) for part in parts):
        raise ValueError("the latents are not paired: every modality needs the same voxels of the same subjects")
    return np.stack([part.to_numpy() for part in parts])
