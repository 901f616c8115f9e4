"""Choose a point of an embedding and see the voxel it came from.

The scatter is a canvas of our own rather than jupyter-scatter, whose page is far heavier (its state was 2.2 MB for 400
points) and whose points the keyboard cannot reach.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape
from importlib.resources import files
from typing import Any

import anywidget
import ipywidgets
import numpy as np
import pandas as pd
import traitlets
from matplotlib.figure import Figure

from mtg_lab.errors import InputError
from mtg_lab.figures import COLOURS, MARKERS, intensity_window, modality_style
from mtg_lab.slices import mark_sides
from mtg_lab.widgets import Picture, _png

MOST_POINTS = 5000
_KEYS = ("subject", "tissue", "voxel", "modality")
GROUPS = ("modality", "tissue", "subject", "site")

Volumes = Callable[[str], Mapping[str, np.ndarray]]


class PointPicker(anywidget.AnyWidget):
    """A scatter in which one point is chosen, by a click or by the arrow keys.

    Attributes:
        places: float32 pairs between 0 and 1.
        codes: one byte a point, the index of its colour and marker.
        selected: index of the chosen point.
        ringed: indices of points that belong to it.
        label, words: what a screen reader says of the scatter and of the chosen point.
    """

    _esm = (files("mtg_lab") / "widgets_points.js").read_text(encoding="utf-8")
    places = traitlets.Bytes().tag(sync=True)
    codes = traitlets.Bytes().tag(sync=True)
    colours = traitlets.List(traitlets.Unicode()).tag(sync=True)
    markers = traitlets.List(traitlets.Unicode()).tag(sync=True)
    selected = traitlets.Int(0).tag(sync=True)
    ringed = traitlets.List(traitlets.Int()).tag(sync=True)
    label = traitlets.Unicode().tag(sync=True)
    words = traitlets.Unicode().tag(sync=True)


def point_explorer(table: pd.DataFrame, volumes: Volumes, selected: int = 0) -> ipywidgets.VBox:
    """Choose a latent in its embedding and see the voxel it came from, in every sequence of that patient.

    Args:
        table: embedded latents, one row a point: subject, tissue, voxel (flat index in the grid of ``volumes``),
            modality, x, y, and site if known.
        volumes: subject to its sequences [D, H, W]; asked for when a point of another subject is chosen.
        selected: row chosen at the start.

    Raises:
        InputError: a column is missing, or there are no points or too many.
    """
    table, groups = _checked(table), [g for g in GROUPS if g in table]
    picker = PointPicker(selected=selected, label=f"{len(table)} latents; arrow keys choose the next one on that side")
    picker.places = _unit(table).tobytes()
    colouring = ipywidgets.Dropdown(options=groups, description="coloured by")
    image = ipywidgets.Image(format="png", layout={"max_width": "100%", "align_self": "flex-start"})
    legend, caption = ipywidgets.HTML(), ipywidgets.HTML()
    kept: dict[str, Mapping[str, np.ndarray]] = {}

    def colour(_change: Any = None) -> None:
        styles = group_styles(table, colouring.value)
        codes = table[colouring.value].map({name: i for i, name in enumerate(styles)})
        with picker.hold_sync():
            picker.colours, picker.markers = map(list, zip(*styles.values(), strict=True))
            picker.codes = codes.to_numpy(dtype=np.uint8).tobytes()
        legend.value = _legend(styles)

    def show(_change: Any = None) -> None:
        row = table.iloc[picker.selected]
        if row["subject"] not in kept:
            kept.clear()
            kept[row["subject"]] = volumes(row["subject"])
        found = kept[row["subject"]]
        at = voxel_of(row, found)
        with picker.hold_sync():
            picker.ringed = [int(i) for i in _paired(table, picker.selected)]
            picker.words = point_words(table, picker.selected, at)
        image.value = _png(_slices(found, at, str(row["modality"])))
        caption.value = f'<p aria-live="polite">{escape(picker.words)}</p>'

    colouring.observe(colour, names="value")
    picker.observe(show, names="selected")
    colour()
    show()
    left = ipywidgets.VBox([colouring, picker, legend], layout={"flex": "0 1 480px"})
    row = ipywidgets.HBox([left, image], layout=ipywidgets.Layout(flex_flow="row wrap", grid_gap="0 1em"))
    return ipywidgets.VBox([row, caption])


def point_picture(
    table: pd.DataFrame,
    volumes: Volumes,
    selected: int = 0,
    colour_by: str = "modality",
) -> Picture:
    """The static twin: one point in the scatter with its pairs ringed, its voxel in every sequence, and the words."""
    table = _checked(table)
    row = table.iloc[selected]
    found = volumes(row["subject"])
    at = voxel_of(row, found)
    figure = Figure(figsize=(11, 5), layout="constrained")
    halves: Any = figure.subfigures(1, 2, width_ratios=(1, 1.1))
    left, right = halves
    axes = left.subplots()
    for name, (colour, marker) in group_styles(table, colour_by).items():
        part = table[table[colour_by] == name]
        axes.scatter(part["x"], part["y"], s=9, color=colour, marker=marker, alpha=0.6, linewidths=0, label=str(name))
    ringed = table.iloc[_paired(table, selected)]
    axes.scatter(ringed["x"], ringed["y"], s=110, facecolors="none", edgecolors="black", linewidths=1)
    axes.scatter(row["x"], row["y"], s=260, facecolors="none", edgecolors="black", linewidths=1.5)
    axes.set(xticks=[], yticks=[])
    axes.legend(frameon=False, fontsize=9, ncols=4, markerscale=2, loc="upper left", bbox_to_anchor=(0, 0))
    _draw_slices(right, found, at, str(row["modality"]))
    return figure, point_words(table, selected, at)


def voxel_of(row: pd.Series, volumes: Mapping[str, np.ndarray]) -> tuple[int, int, int]:
    """Place of a point's flat index in the volumes of its subject.

    Raises:
        InputError: it is outside, as where latents of another scale or grid were given.
    """
    shape = next(iter(volumes.values())).shape
    if not 0 <= int(row["voxel"]) < int(np.prod(shape)):
        raise InputError(f"voxel {row['voxel']} of {row['subject']} is outside its grid {shape}; take the finest scale")
    i, j, k = np.unravel_index(int(row["voxel"]), shape)
    return int(i), int(j), int(k)


def point_words(table: pd.DataFrame, selected: int, at: Sequence[int]) -> str:
    """The chosen point in a sentence."""
    row = table.iloc[selected]
    others = [str(table["modality"].iloc[i]) for i in _paired(table, selected)]
    pairs = f"; ringed: the same voxel in {', '.join(others)}" if others else ""
    return (
        f"Point {selected + 1} of {len(table)}: {row['subject']}, {row['tissue']}, {row['modality']}, voxel "
        f"{at[0]}, {at[1]}, {at[2]}{pairs}."
    )


def _checked(table: pd.DataFrame) -> pd.DataFrame:
    absent = {*_KEYS, "x", "y"} - set(table.columns)
    if absent:
        raise InputError(f"embedded latents lack the column {', '.join(sorted(absent))}; they have {list(table)}")
    if not 0 < len(table) <= MOST_POINTS:
        raise InputError(f"{len(table)} points; one to {MOST_POINTS} can be shown, draw fewer voxels")
    return table.reset_index(drop=True)


def _unit(table: pd.DataFrame) -> np.ndarray:
    xy = table[["x", "y"]].to_numpy(dtype=np.float64)
    low, high = xy.min(axis=0), xy.max(axis=0)
    return ((xy - low) / np.maximum(high - low, 1e-12)).astype(np.float32)


def group_styles(table: pd.DataFrame, column: str) -> dict[str, tuple[str, str]]:
    """Colour and marker of each value of a column, those of the house for modalities."""
    names = list(dict.fromkeys(table[column]))
    if column == "modality":
        return modality_style(names)
    return {n: (COLOURS[i % len(COLOURS)], MARKERS[(i + i // len(COLOURS)) % 8]) for i, n in enumerate(names)}


_SIGNS = {"o": "●", "s": "■", "^": "▲", "D": "◆", "v": "▼", "P": "✚", "X": "✖", "*": "★"}


def _legend(styles: Mapping[str, tuple[str, str]]) -> str:
    entries = [
        f'<span style="white-space:nowrap;margin-right:1em"><span style="color:{colour}" aria-hidden="true">'
        f"{_SIGNS[marker]}</span> {escape(str(name))}</span>"
        for name, (colour, marker) in styles.items()
    ]
    return f'<div style="line-height:1.5">{" ".join(entries)}</div>'


def _paired(table: pd.DataFrame, selected: int) -> np.ndarray:
    """Rows of the same voxel in the other modalities."""
    row = table.iloc[selected]
    same = (table["subject"] == row["subject"]) & (table["voxel"] == row["voxel"])
    return np.flatnonzero(same.to_numpy() & (table["modality"] != row["modality"]).to_numpy())


def _slices(volumes: Mapping[str, np.ndarray], at: Sequence[int], chosen: str) -> Figure:
    figure = Figure(figsize=(5.4, 3.0 * -(-len(volumes) // 2)))
    _draw_slices(figure, volumes, at, chosen)
    return figure


def _draw_slices(figure: Any, volumes: Mapping[str, np.ndarray], at: Sequence[int], chosen: str) -> None:
    """The axial slice through a voxel in every sequence, with a crosshair; the frame of the chosen one is thick."""
    rows, columns = -(-len(volumes) // 2), min(len(volumes), 2)
    grid = figure.subplots(rows, columns, squeeze=False, gridspec_kw={"wspace": 0.03, "hspace": 0.12}).ravel()
    for axes in grid[len(volumes) :]:
        axes.set_axis_off()
    for axes, (name, volume) in zip(grid, volumes.items(), strict=False):
        (low, high), pixels = intensity_window(volume), volume[:, :, at[2]]
        axes.imshow(np.where(pixels == 0, low, pixels).T, cmap="gray", vmin=low, vmax=high, origin="lower")
        gap, reach = 3, max(pixels.shape)
        for ends in ((-reach, -gap), (gap, reach)):
            axes.plot([at[0] + e for e in ends], [at[1]] * 2, color=COLOURS[6], lw=1)
            axes.plot([at[0]] * 2, [at[1] + e for e in ends], color=COLOURS[6], lw=1)
        axes.set(xticks=[], yticks=[], xlim=(-0.5, pixels.shape[0] - 0.5), ylim=(-0.5, pixels.shape[1] - 0.5))
        axes.set_title(f"{name} (this point)" if name == chosen else name, fontsize=10)
        axes.spines[:].set(color=modality_style(list(volumes))[name][0], linewidth=4 if name == chosen else 1)
        mark_sides(axes)
