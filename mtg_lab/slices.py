"""Pictures of volumes: slices in grey with the window stated, labels outlined, right and left marked."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from mtg_lab.figure_notes import titled
from mtg_lab.palette import COLOURS, OUTLINES

_PANELS_A_ROW = 4


def fullest_slice(label: np.ndarray, axis: int = 2) -> int:
    """Index of the slice that shows most of the label, the middle one of an empty label; label [D, H, W]."""
    others = tuple(other for other in range(3) if other != axis)
    areas = (label > 0).sum(axis=others)
    return int(np.argmax(areas)) if areas.any() else label.shape[axis] // 2


def intensity_window(volume: np.ndarray) -> tuple[float, float]:
    """Lower and upper intensity shown: 1st and 99.5th percentile of the finite voxels that are not zero."""
    inside = volume[np.isfinite(volume) & (volume != 0)]
    if not inside.size:
        return 0.0, 1.0
    low, high = np.percentile(inside, (1, 99.5))
    return float(low), float(high) if high > low else float(low) + 1.0


def mark_sides(axes: Axes) -> None:
    """Write the patient's left and right into a slice whose first stored axis (RAS) runs across the picture."""
    for place, side in ((0.03, "L"), (0.93, "R")):
        axes.text(place, 0.5, side, color="white", fontsize=9, transform=axes.transAxes)


def slice_panels(
    slices: Mapping[str, np.ndarray | None],
    windows: Mapping[str, tuple[float, float]],
    marks: np.ndarray | Mapping[str, np.ndarray] | None = None,
    names: Mapping[int, str] | None = None,
    axis: int = 2,
    title: str = "",
) -> Figure:
    """Slices side by side in grey, windows stated, labels outlined, right and left marked.

    Args:
        slices: panel title to pixels [A, B] in RAS order, or None for a missing sequence.
        windows: panel title to the intensities shown as black and white.
        marks: label map [A, B] outlined in every panel, or one for each panel.
        names: integer of the label map to its name, in the order of colours.
        axis: that the slice is perpendicular to.
        title: of the whole figure, a sentence.
    """
    names = names or {}
    columns = len(slices) if len(slices) <= _PANELS_A_ROW else -(-len(slices) // 2)
    rows = -(-len(slices) // columns)
    figure = Figure(figsize=(2.6 * columns, 3.1 * rows + 0.3 * bool(title)), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid[len(slices) :]:
        axes.set_axis_off()
    for axes, (panel, pixels) in zip(grid, slices.items(), strict=False):
        _quiet(axes)
        if pixels is None:
            axes.set_title(panel)
            axes.set_box_aspect(1)
            axes.text(0.5, 0.5, "missing", ha="center", va="center", transform=axes.transAxes)
            continue
        low, high = windows[panel]
        # Exactly zero is outside the brain; z-scores would show it as a middle grey.
        axes.imshow(np.where(pixels == 0, low, pixels).T, cmap="gray", vmin=low, vmax=high, origin="lower")
        axes.set_title(f"{panel}  [{low:.3g}, {high:.3g}]", fontsize=10)
        own = marks.get(panel) if isinstance(marks, Mapping) else marks
        for number, value in enumerate(names):
            if own is not None and (own == value).any():
                style, colour = OUTLINES[number % len(OUTLINES)], COLOURS[number % len(COLOURS)]
                axes.contour(np.equal(own.T, value), levels=[0.5], colors=[colour], linestyles=[style], linewidths=1.3)
        if axis != 0:
            mark_sides(axes)
    if names and marks is not None:
        handles = [
            Line2D([], [], color=COLOURS[n % len(COLOURS)], ls=OUTLINES[n % len(OUTLINES)], label=name)
            for n, name in enumerate(names.values())
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=9, frameon=False)
    if title:
        titled(figure, title)
    return figure


def sequences(
    images: Mapping[str, np.ndarray],
    label: np.ndarray | None = None,
    names: Mapping[int, str] | None = None,
    axis: int = 2,
    index: int | None = None,
    title: str = "",
) -> Figure:
    """One slice of every sequence of a subject (volumes [D, H, W] in RAS order), the label outlined."""
    depth = next(iter(images.values())).shape[axis]
    chosen = index if index is not None else depth // 2 if label is None else fullest_slice(label, axis)
    slices = {name: np.take(volume, chosen, axis) for name, volume in images.items()}
    windows = {name: intensity_window(volume) for name, volume in images.items()}
    marks = None if label is None else np.take(label, chosen, axis)
    return slice_panels(slices, windows, marks, names, axis, title)


def predictions(
    image: np.ndarray,
    masks: Mapping[str, np.ndarray],
    names: Mapping[int, str],
    title: str = "",
    axis: int = 2,
    index: int | None = None,
) -> Figure:
    """The same slice with different masks, e.g. the reference and what the network drew from several subsets.

    Without an ``index`` it is the slice that shows most of the first mask.
    """
    chosen = index if index is not None else fullest_slice(next(iter(masks.values())), axis)
    pixels, window = np.take(image, chosen, axis), intensity_window(image)
    marks = {panel: np.take(mask, chosen, axis) for panel, mask in masks.items()}
    return slice_panels(dict.fromkeys(masks, pixels), dict.fromkeys(masks, window), marks, names, axis, title)


def growth_layers(layers: Mapping[str, np.ndarray], axis: int = 2, index: int | None = None, title: str = "") -> Figure:
    """Maps [D, H, W] that a phantom is built from, one slice of each, four in a row."""
    chosen = index if index is not None else next(iter(layers.values())).shape[axis] // 2
    columns, rows = min(len(layers), _PANELS_A_ROW), -(-len(layers) // _PANELS_A_ROW)
    figure = Figure(figsize=(2.4 * columns, 2.9 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid[len(layers) :]:
        axes.set_axis_off()
    for axes, (name, volume) in zip(grid, layers.items(), strict=False):
        _quiet(axes).imshow(np.take(volume, chosen, axis).T, cmap="cividis", origin="lower")
        axes.set_title(name.replace("_", " "), fontsize=10)
    titled(figure, title)
    return figure


def _quiet(axes: Axes) -> Axes:
    axes.set_xticks([])
    axes.set_yticks([])
    return axes
