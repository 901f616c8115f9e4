"""Things to move in a notebook: a volume viewer, a subset explorer, a quiz, and the anchor between Gaussians.

Thin shells: controls, a function that draws a ``Figure``, a picture, and a caption that says in words what is shown.
Nothing here touches pyplot: callbacks run on another thread than the cell, where its current figure is somebody else's.
Every control is an ordinary form element, so the keyboard moves it; exported pages cannot show widgets, so a notebook
puts a static figure after each.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

import ipywidgets
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from mtg_lab.figures import COLOURS, fullest_slice, intensity_window, modality_style, slice_panels

AXIS_NAMES = ("sagittal", "coronal", "axial")

Picture = tuple[Figure, str]


def _png(figure: Figure, dpi: int = 90) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


def _live(draw: Callable[[], Picture], controls: Sequence[ipywidgets.Widget]) -> ipywidgets.VBox:
    """Return controls above picture and caption; both are drawn anew when any control's value changes."""
    # Aligned to one side, because a box stretches its children otherwise and blurs the picture.
    image = ipywidgets.Image(format="png", layout={"max_width": "100%", "align_self": "flex-start"})
    caption = ipywidgets.HTML()

    def redraw(_change: Any = None) -> None:
        figure, words = draw()
        image.value = _png(figure)
        # The image widget has no alternative text: the caption is it, and is read out when it changes.
        caption.value = f'<p aria-live="polite">{escape(words)}</p>'

    moved = [child for control in controls for child in getattr(control, "children", ()) or (control,)]
    for control in moved:
        control.observe(redraw, names="value")
    redraw()
    return ipywidgets.VBox([*controls, image, caption])


def _checkboxes(names: Sequence[str], ticked: Sequence[str]) -> ipywidgets.HBox:
    boxes = [
        ipywidgets.Checkbox(value=name in ticked, description=name, indent=False, layout={"width": "auto"})
        for name in names
    ]
    return ipywidgets.HBox(boxes, layout=ipywidgets.Layout(flex_flow="row wrap", grid_gap="0 1.5em"))


def _ticked(boxes: ipywidgets.HBox) -> list[str]:
    return [box.description for box in boxes.children if box.value]


def _slider(value: float, low: float, high: float, step: float, words: str) -> ipywidgets.FloatSlider:
    return ipywidgets.FloatSlider(
        value=value,
        min=low,
        max=high,
        step=step,
        description=words,
        style={"description_width": "11em"},
        layout={"width": "32em", "max_width": "100%"},
    )


# --- volumes ---------------------------------------------------------------------------------------------------------


def volume_viewer(
    images: Mapping[str, np.ndarray],
    label: np.ndarray | None = None,
    present: Sequence[str] | None = None,
    *,
    label_names: Mapping[int, str] | None = None,
    axis: int = 2,
) -> ipywidgets.VBox:
    """Browse the sequences of one subject slice by slice, take some away, and see the label's outline.

    ``images`` and ``label`` are [D, H, W] in the order right, anterior, superior (RAS, as the project loads them), so
    that ``axis=2`` gives axial slices; ``present`` names the modalities ticked at the start, all of them unless given.
    Raises ValueError when there is no image, the shapes differ, or ``present`` names a modality that is not there.
    """
    volumes = {name: np.asarray(image) for name, image in images.items()}
    shapes = {name: volume.shape for name, volume in volumes.items()}
    if label is not None:
        label = np.asarray(label)
        shapes["label"] = label.shape
    if not volumes or len(set(shapes.values())) != 1 or len(next(iter(shapes.values()))) != 3:
        raise ValueError(f"images and label must be [D, H, W] of one shape; found {shapes or 'none'}")
    unknown = set(present or ()) - set(volumes)
    if unknown:
        raise ValueError(f"present names {', '.join(sorted(unknown))}; there are {', '.join(volumes)}")

    depth = next(iter(volumes.values())).shape[axis]
    windows = {name: intensity_window(volume) for name, volume in volumes.items()}
    first = fullest_slice(label, axis) if label is not None and label.any() else depth // 2
    position = ipywidgets.IntSlider(value=first, min=0, max=depth - 1, description="slice", layout={"width": "32em"})
    boxes = _checkboxes(list(volumes), list(volumes) if present is None else present)
    outline = ipywidgets.Checkbox(value=label is not None, description="outline of the label", indent=False)

    def draw() -> Picture:
        shown = _ticked(boxes)
        slices = {name: np.take(volumes[name], position.value, axis) if name in shown else None for name in volumes}
        marks = np.take(label, position.value, axis) if label is not None and outline.value else None
        names = {value: (label_names or {}).get(value, f"label {value}") for value in _values(marks)}
        words = f"{AXIS_NAMES[axis].capitalize()} slice {position.value} of {depth - 1}; shown: {_list(shown)}"
        missing = [name for name in volumes if name not in shown]
        words += f"; taken away: {_list(missing)}" if missing else ""
        words += f"; outlined: {_list(list(names.values()))}." if marks is not None else "."
        return slice_panels(slices, windows, marks, names, axis), words

    return _live(draw, [position, boxes, *([outline] if label is not None else [])])


def _values(marks: np.ndarray | None) -> list[int]:
    return [] if marks is None else [int(value) for value in np.unique(marks) if value]


def _list(names: Sequence[str]) -> str:
    return ", ".join(names) or "nothing"


# --- subsets ---------------------------------------------------------------------------------------------------------


def subset_explorer(scores: pd.DataFrame, metric: str = "dice") -> ipywidgets.VBox:
    """Tick the sequences that a patient has and see the mean score of each region, against all sequences.

    ``scores`` is tidy: ``subset`` (``t1c+t2f``), ``region``, ``value``, and, when it holds several metrics, ``metric``.
    Raises ValueError when a column is missing or no row is left.
    """
    absent = {"subset", "region", "value"} - set(scores.columns)
    if absent:
        raise ValueError(f"scores lack the column {', '.join(sorted(absent))}; they have {_list(list(scores.columns))}")
    if "metric" in scores.columns:
        scores = scores[scores["metric"] == metric]
    if scores.empty:
        raise ValueError(f"no score of the metric {metric}")
    regions = list(dict.fromkeys(scores["region"]))
    modalities = list(dict.fromkeys(name for subset in scores["subset"] for name in str(subset).split("+")))
    keys = scores["subset"].map(lambda subset: frozenset(str(subset).split("+")))
    means = scores.groupby([keys, "region"])["value"].mean()
    boxes = _checkboxes(modalities, modalities)
    complete = frozenset(modalities)

    def values(subset: frozenset[str]) -> list[float]:
        return [float(means.get((subset, region), np.nan)) for region in regions]

    def draw() -> Picture:
        subset = frozenset(_ticked(boxes))
        title = "+".join(name for name in modalities if name in subset)
        if not subset:
            return _bars(
                regions, values(subset), values(complete), "no sequence, no mask", metric
            ), "Nothing is ticked."
        found = values(subset)
        if np.isnan(found).all():
            return _bars(regions, found, values(complete), title, metric), f"{title} was not scored."
        words = ", ".join(f"{region} {value:.2f}" for region, value in zip(regions, found))
        whole = ", ".join(f"{region} {value:.2f}" for region, value in zip(regions, values(complete)))
        return _bars(regions, found, values(complete), title, metric), (
            f"Mean {metric} with {title}: {words}. With all sequences: {whole}."
        )

    return _live(draw, [boxes])


def _bars(regions: Sequence[str], found: Sequence[float], whole: Sequence[float], title: str, metric: str) -> Figure:
    figure = Figure(figsize=(1.2 + 1.3 * len(regions), 3.2), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(regions))
    axes.bar(places, np.nan_to_num(found), width=0.6, color=COLOURS[4])
    axes.hlines(whole, places - 0.38, places + 0.38, color="black", linewidth=2)
    for place, value in enumerate(found):
        if np.isfinite(value):
            axes.text(place, value / 2, f"{value:.2f}", ha="center", va="center", color="white", fontsize=10)
    axes.set_xticks(places, regions)
    # One scale for all subsets, so that bars can be compared over clicks.
    axes.set_ylim(0, max(1.0, float(np.nanmax([*whole, *found, 0.0])) * 1.05))
    axes.set_ylabel(f"mean {metric}")
    axes.set_title(f"{title}\n(line: all sequences)", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


# --- predictions -----------------------------------------------------------------------------------------------------


def quiz(question: str, options: Sequence[str], answer: str, explanation: str) -> ipywidgets.VBox:
    """Ask for a prediction before the result: choose, press check, read why.

    Raises ValueError when ``answer`` is none of the options.
    """
    if answer not in options:
        raise ValueError(f"the answer {answer!r} is none of the options {list(options)}")
    choice = ipywidgets.RadioButtons(options=list(options), value=None, layout={"width": "max-content"})
    check = ipywidgets.Button(description="Check", button_style="")
    feedback = ipywidgets.HTML('<p role="status"></p>')

    def judge(_button: Any) -> None:
        if choice.value is None:
            words = "Choose one first: a wrong guess teaches more than none."
        elif choice.value == answer:
            words = f"✓ Yes. {explanation}"
        else:
            words = f"✗ Not quite: {answer}. {explanation}"
        feedback.value = f'<p role="status">{escape(words)}</p>'

    check.on_click(judge)
    return ipywidgets.VBox([ipywidgets.HTML(f"<p><strong>{escape(question)}</strong></p>"), choice, check, feedback])


# --- the anchor ------------------------------------------------------------------------------------------------------

Compute = Callable[..., Mapping[str, float]]


def gaussian_anchor(
    means: Sequence[float] = (-1.5, 0.0, 2.0),
    sds: Sequence[float] = (0.8, 1.0, 0.7),
    weights: Sequence[float] | None = None,
    *,
    names: Sequence[str] = ("t1n", "t1c", "t2f"),
    compute: Compute | None = None,
) -> ipywidgets.VBox:
    """Move an anchor P among Gaussian modalities q_m and watch sum_m w_m KL(q_m||P) = JS_w + KL(q_mix||P).

    The gap JS_w stays whatever the anchor does; the price of the anchor is nothing only where P is the mixture.
    ``compute`` is :func:`mtg_lab.theory.compensation` unless given. Raises ValueError when the lengths differ.
    """
    weights = [1 / len(means)] * len(means) if weights is None else list(weights)
    names = list(names)[: len(means)]
    if not len(means) == len(sds) == len(weights) == len(names):
        raise ValueError("means, sds, weights and names must be equally many")
    if compute is None:
        from mtg_lab.theory import compensation

        compute = compensation
    parts_of: Compute = compute
    centre = float(np.average(means, weights=weights))
    distance = _slider(1.0, 0.0, 2.0, 0.1, "distance of the q_m")
    mean = _slider(centre + 1.5, centre - 4, centre + 4, 0.1, "mean of the anchor P")
    width = _slider(1.5, 0.4, 4.0, 0.1, "width of the anchor P")
    mixed = ipywidgets.Checkbox(value=False, description="let P be the mixture of the q_m", indent=False)

    def draw() -> Picture:
        moved = [centre + distance.value * (m - centre) for m in means]
        anchor = (None, 1.0) if mixed.value else (mean.value, width.value)
        parts = parts_of(moved, sds, weights, anchor_mean=anchor[0], anchor_sd=anchor[1])
        words = (
            f"Cost of alignment {parts['cost']:.3f} nats = gap JS {parts['js']:.3f} "
            f"+ price of the anchor {parts['price']:.3f}."
        )
        return _gaussians(moved, sds, weights, names, anchor if anchor[0] is not None else None, parts), words

    return _live(draw, [distance, mean, width, mixed])


def _gaussians(
    means: Sequence[float],
    sds: Sequence[float],
    weights: Sequence[float],
    names: Sequence[str],
    anchor: tuple[Any, float] | None,
    parts: Mapping[str, float],
) -> Figure:
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    densities, bars = figure.subplots(1, 2, width_ratios=(3, 1.2))
    grid = np.linspace(-8, 8, 600)
    each = [_density(grid, mean, sd) for mean, sd in zip(means, sds)]
    for density, mean, (name, (colour, _)) in zip(each, means, modality_style(names).items()):
        densities.plot(grid, density, color=colour, linewidth=2)
        densities.annotate(name, (mean, density.max()), ha="center", va="bottom", fontsize=10)
    mix = np.average(each, axis=0, weights=weights)
    densities.plot(grid, mix, color="black", linestyle="dashed", label="mixture")
    if anchor is not None:
        densities.plot(
            grid, _density(grid, *anchor), color=COLOURS[5], linewidth=3, linestyle="dotted", label="anchor P"
        )
    densities.set_title("The modalities, their mixture and the anchor", fontsize=10)
    densities.set_ylim(0, max(0.65, float(np.max(each)) * 1.15))
    densities.set_yticks([])
    densities.legend(frameon=False, fontsize=9, loc="upper left")
    bars.bar([0], [parts["cost"]], color="#777777")
    bars.bar([1], [parts["js"]], color=COLOURS[4])
    bars.bar([1], [parts["price"]], bottom=[parts["js"]], color=COLOURS[0], hatch="//", edgecolor="black")
    for start, part, name in ((0.0, parts["js"], "gap"), (parts["js"], parts["price"], "price")):
        bars.annotate(f"{name} {part:.2f}", (1.45, start + part / 2), va="center", fontsize=9, annotation_clip=False)
    bars.set_xticks([0, 1], ["cost", "its parts"])
    bars.set_ylabel("nats")
    bars.set_title("One sum, two parts", fontsize=10)
    for axes in (densities, bars):
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _density(grid: np.ndarray, mean: float, sd: float) -> np.ndarray:
    return np.exp(-0.5 * ((grid - mean) / sd) ** 2) / (sd * np.sqrt(2 * np.pi))
