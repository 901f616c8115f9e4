"""A phantom patient built up by a slider, a step of its making at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import ipywidgets
import numpy as np

from mtg_lab.errors import InputError
from mtg_lab.phantom_views import Step, common_slice
from mtg_lab.slices import slice_panels
from mtg_lab.widgets import Picture, _live


def phantom_builder(steps: Sequence[Step], label_names: Mapping[int, str] | None = None) -> ipywidgets.VBox:
    """Move through the steps of a patient's making, and through its slices.

    Args:
        steps: of :func:`mtg_lab.phantom_views.built_up`.
        label_names: integer of the label to its name.

    Raises:
        InputError: there is no step.
    """
    if not steps:
        raise InputError("there is no step to show; give those of built_up")
    depth, names = steps[0].label.shape[2], dict(label_names or {})
    windows = [step.windows() for step in steps]
    wide = {"width": "32em", "max_width": "100%"}
    reached = ipywidgets.IntSlider(value=0, min=0, max=len(steps) - 1, description="step", layout=wide)
    place = ipywidgets.IntSlider(value=common_slice(steps), min=0, max=depth - 1, description="slice", layout=wide)
    outline = ipywidgets.Checkbox(value=False, description="outline of the label", indent=False)

    def draw() -> Picture:
        step = steps[reached.value]
        slices = {title: np.take(volume, place.value, 2) for title, volume in step.panels.items()}
        marks = np.take(step.label, place.value, 2) if outline.value else None
        figure = slice_panels(slices, windows[reached.value], marks, names, 2, step.name)
        words = f"Step {reached.value + 1} of {len(steps)}, {step.name}: {step.words}. Axial slice {place.value} of "
        words += f"{depth - 1}: {', '.join(step.panels)}{', the label outlined' if outline.value else ''}."
        return figure, words

    return _live(draw, [reached, place, outline])
