"""Turn an embedding of three dimensions, by a slider or by itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ipywidgets
import pandas as pd
from matplotlib.figure import Figure

from mtg_lab.errors import InputError
from mtg_lab.figure_notes import titled
from mtg_lab.widgets import Picture, _live
from mtg_lab.widgets_points import GROUPS, MOST_POINTS, group_styles


def rotating_view(table: pd.DataFrame, title: str = "Latents") -> ipywidgets.VBox:
    """Turn an embedding of three dimensions, by a slider or by itself.

    Args:
        table: columns x, y, z, and of subject, site, tissue and modality what it is to be coloured by.
        title: of the picture.

    Raises:
        InputError: a column is missing, or there are no points or too many.
    """
    groups = _checked_view(table)
    angle = ipywidgets.IntSlider(
        value=30, min=0, max=355, step=5, description="angle",
        style={"description_width": "11em"}, layout={"width": "32em", "max_width": "100%"},
    )  # fmt: skip
    play = ipywidgets.Play(value=30, min=0, max=355, step=5, interval=400, description="turn")
    ipywidgets.jslink((play, "value"), (angle, "value"))
    colouring = ipywidgets.Dropdown(options=groups, description="coloured by")

    def draw() -> Picture:
        words = f"{title}: {len(table)} points seen from {angle.value} degrees, coloured by {colouring.value}."
        return angles_picture(table, (angle.value,), colouring.value, title), words

    box = _live(draw, [angle, colouring])
    box.children = (play, *box.children)
    return box


def angles_picture(
    table: pd.DataFrame, angles: Sequence[int] = (30, 120, 210, 300), colour_by: str = "modality", title: str = ""
) -> Figure:
    """The static twin: an embedding of three dimensions from several sides, on the same axes."""
    _checked_view(table)
    size = 4.6 if len(angles) == 1 else 3.2
    figure = Figure(figsize=(size * len(angles), size + 0.5))
    styles = group_styles(table, colour_by)
    low, high = (table[["x", "y", "z"]].quantile(q).to_numpy() for q in (0.005, 0.995))
    margin = 0.1 * (high - low)
    for number, angle in enumerate(angles):
        axes: Any = figure.add_subplot(1, len(angles), number + 1, projection="3d")
        for name, (colour, marker) in styles.items():
            part = table[table[colour_by] == name]
            axes.scatter(part["x"], part["y"], part["z"], s=8, color=colour, marker=marker, alpha=0.6, linewidths=0,
                         label=str(name))  # fmt: skip
        axes.view_init(elev=20, azim=angle)
        for axis, a, b in zip("xyz", low - margin, high + margin, strict=True):
            axes.set(**{f"{axis}lim": (a, b), f"{axis}ticklabels": [], f"{axis}label": axis})
        if len(angles) > 1:
            axes.set_title(f"{angle}°", fontsize=10)
    figure.subplots_adjust(left=0.01, right=0.97, bottom=0.12, top=0.86, wspace=0.02)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    if len(labels) <= 12:
        figure.legend(handles, labels, loc="lower center", ncols=6, frameon=False, markerscale=2.5, fontsize=9)
    titled(figure, title)
    return figure


def _checked_view(table: pd.DataFrame) -> list[str]:
    """The columns to colour by."""
    absent = {"x", "y", "z"} - set(table.columns)
    groups = [g for g in GROUPS if g in table]
    if absent or not groups or not 0 < len(table) <= MOST_POINTS:
        raise InputError(
            f"a view needs columns x, y, z, one of {', '.join(GROUPS)}, and one to {MOST_POINTS} points; found "
            f"{', '.join(map(str, table.columns))} of {len(table)} points"
        )
    return groups
