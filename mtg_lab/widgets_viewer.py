"""Sequences side by side in the browser's own graphics (NiiVue), under one crosshair, with the label laid over them.

Volumes travel in memory, cropped to the head, windowed to one byte a voxel and compressed. Ordinary sliders move the
crosshair too, and a caption says what lies under it. Without WebGL 2 the slices of
:func:`~mtg_lab.widgets.volume_viewer` take the place of the canvases; on paper ``figures.sequences`` shows the same.
"""

from __future__ import annotations

import gzip
from collections.abc import Mapping, Sequence
from functools import partial
from html import escape
from importlib.resources import files
from typing import Any

import anywidget
import ipyniivue
import ipywidgets
import nibabel as nib
import numpy as np
import traitlets
from ipyniivue import SliceType

from mtg_lab.errors import InputError
from mtg_lab.figures import COLOURS, fullest_slice, intensity_window
from mtg_lab.widgets import _slider, volume_viewer

_MARGIN = 2  # voxels kept around the head
_PLANES = {
    "axial": SliceType.AXIAL,
    "coronal": SliceType.CORONAL,
    "sagittal": SliceType.SAGITTAL,
    "all three": SliceType.MULTIPLANAR,
}


class _Source(anywidget.AnyWidget):
    """The five megabytes of NiiVue's javascript, so that they are sent once and not once a canvas."""

    _esm = "export default {}"
    text = traitlets.Unicode().tag(sync=True)


class _Canvas(ipyniivue.NiiVue):
    _esm = (files("mtg_lab") / "widgets_viewer.js").read_text(encoding="utf-8")
    source = traitlets.Unicode().tag(sync=True)
    label = traitlets.Unicode().tag(sync=True)
    webgl2 = traitlets.Bool(True).tag(sync=True)


_sources: list[_Source] = []


def _source() -> str:
    """The model that holds NiiVue's source in this kernel; another one where it was closed."""
    if not _sources or _sources[-1].comm is None:
        text = (files("ipyniivue") / "static" / "widget.js").read_text(encoding="utf-8")
        _sources[:] = [_Source(text=text)]
    return str(_sources[-1].model_id)


def niivue_viewer(
    images: Mapping[str, np.ndarray],
    label: np.ndarray | None = None,
    affine: np.ndarray | Sequence[float] = (1.0, 1.0, 1.0),
    *,
    label_names: Mapping[int, str] | None = None,
    height: int = 260,
) -> ipywidgets.VBox:
    """Sequences of one subject side by side, one crosshair through all of them, the label over each.

    Args:
        images: sequence to intensities [D, H, W] in RAS order; zero is outside the head.
        label: integers [D, H, W], below 256.
        affine: voxel to millimetres [4, 4] of the stored axes, or the spacing of the three axes in mm.
        label_names: integer to name, in the order of colours.
        height: of a canvas in pixels.

    Raises:
        InputError: no image, shapes that differ, or an affine that is neither.
    """
    volumes = {name: np.nan_to_num(np.asarray(image, dtype=np.float32)) for name, image in images.items()}
    marks = None if label is None else np.asarray(label)
    shapes = {v.shape for v in [*volumes.values(), *([] if marks is None else [marks])]}
    if not volumes or len(shapes) != 1 or len(next(iter(shapes))) != 3:
        raise InputError(f"images and label must be [D, H, W] of one shape; found {sorted(shapes) or 'none'}")
    box = _head(list(volumes.values()))
    grid = _affine(affine)
    inside = grid @ np.vstack([np.column_stack([np.eye(3), [s.start for s in box]]), [0, 0, 0, 1]])
    there = [] if marks is None else [int(v) for v in np.unique(marks) if v]
    names = {int(v): name for v, name in (label_names or {v: f"label {v}" for v in there}).items()}
    shown = {name: _windowed(volume[box], intensity_window(volume)) for name, volume in volumes.items()}
    overlay = None if marks is None else marks[box].astype(np.uint8)
    canvases = [_canvas(name, pixels, overlay, names, inside, height) for name, pixels in shown.items()]
    fallback = partial(volume_viewer, images, label, label_names=label_names)
    return _linked(canvases, volumes, marks, names, box, grid, fallback)


def payload(canvas: ipyniivue.NiiVue) -> int:
    """Bytes of image data that a canvas is sent."""
    return sum(len(volume.data) for volume in canvas.volumes)


def _affine(given: np.ndarray | Sequence[float]) -> np.ndarray:
    found = np.asarray(given, dtype=float)
    if found.shape == (3,):
        return np.diag([*found, 1.0])
    if found.shape != (4, 4):
        raise InputError(f"affine has the shape {found.shape}; give [4, 4], or the spacing of three axes in mm")
    return found


def _head(volumes: Sequence[np.ndarray]) -> tuple[slice, slice, slice]:
    """The box of what is in any volume neither zero nor as its first voxel, and a rim; everything, if all is so."""
    there = np.any([(v != 0) & (v != v.flat[0]) for v in volumes], axis=0)
    if not there.any():
        there[:] = True
    ends = [np.flatnonzero(there.any(axis=tuple(o for o in range(3) if o != axis)))[[0, -1]] for axis in range(3)]
    first, second, third = (
        slice(max(int(a) - _MARGIN, 0), min(int(b) + 1 + _MARGIN, n))
        for (a, b), n in zip(ends, there.shape, strict=True)
    )
    return first, second, third


def _windowed(volume: np.ndarray, window: tuple[float, float]) -> np.ndarray:
    """One byte a voxel: 0 outside the head, 1 to 255 from the window's lower to its upper end."""
    low, high = window
    grey = 1 + np.clip((volume - low) / (high - low), 0, 1) * 254
    return np.where(volume == 0, 0, np.round(grey)).astype(np.uint8)


def _nifti(voxels: np.ndarray, affine: np.ndarray) -> bytes:
    return gzip.compress(nib.Nifti1Image(voxels, affine).to_bytes(), compresslevel=4, mtime=0)


def _canvas(
    name: str,
    pixels: np.ndarray,
    overlay: np.ndarray | None,
    names: Mapping[int, str],
    affine: np.ndarray,
    height: int,
) -> _Canvas:
    canvas = _Canvas(
        height=height, slice_type=SliceType.AXIAL, crosshair_color=(1.0, 1.0, 1.0, 0.7),
        crosshair_width=0.8, crosshair_width_unit="percent",
        # In a corner: NiiVue 0.65 puts its marks at the edges on the wrong side of a slice narrower than its canvas.
        is_corner_orientation_text=True, drag_and_drop_enabled=False, show_legend=False, log_level="error",
    )  # fmt: skip
    canvas.source, canvas.label = _source(), f"{name}: slices at the crosshair, the label over them"
    volumes = [ipyniivue.Volume(data=_nifti(pixels, affine), name=f"{name}.nii.gz", cal_min=0.0, cal_max=255.0,
                                colormap="gray", colorbar_visible=False)]  # fmt: skip
    if overlay is not None:
        volumes.append(ipyniivue.Volume(data=_nifti(overlay, affine), name="label.nii.gz", opacity=0.4,
                                        colorbar_visible=False))  # fmt: skip
        volumes[1].set_colormap_label(_colours(names))
    canvas.volumes = volumes
    canvas.layout = ipywidgets.Layout(width="100%")
    return canvas


def _colours(names: Mapping[int, str]) -> dict[str, list]:
    """The house colours in the order of names, the background clear."""
    hexes = [COLOURS[n % len(COLOURS)] for n in range(len(names))]
    channels = {c: [0, *(int(h[i : i + 2], 16) for h in hexes)] for c, i in (("R", 1), ("G", 3), ("B", 5))}
    return {**channels, "A": [0] + [255] * len(names), "I": [0, *names], "labels": ["", *names.values()]}


def _linked(
    canvases: Sequence[_Canvas],
    volumes: Mapping[str, np.ndarray],
    marks: np.ndarray | None,
    names: Mapping[int, str],
    box: tuple[slice, slice, slice],
    affine: np.ndarray,
    fallback: Any,
) -> ipywidgets.VBox:
    """Canvases under one crosshair that any of them and the sliders move, with a caption of what lies there."""
    middle = [(s.start + s.stop) // 2 for s in box]
    start = [fullest_slice(marks, a) for a in range(3)] if marks is not None and marks.any() else middle
    places = [
        ipywidgets.IntSlider(value=at, min=s.start, max=s.stop - 1, description=words,
                             style={"description_width": "11em"}, layout={"width": "32em", "max_width": "100%"})
        for at, s, words in zip(start, box, ("left to right", "back to front", "bottom to top"), strict=True)
    ]  # fmt: skip
    plane = ipywidgets.Dropdown(options=list(_PLANES), description="plane", style={"description_width": "11em"})
    opacity = _slider(0.4, 0.0, 1.0, 0.1, "opacity of the label")
    caption = ipywidgets.HTML()
    moving = False

    def crosshair(_change: Any = None) -> None:
        at = tuple(p.value for p in places)
        if not moving:
            for canvas in canvases:
                canvas.scene.crosshair_pos = [(v - s.start + 0.5) / (s.stop - s.start) for v, s in zip(at, box)]
        found = ", ".join(f"{name} {volume[at]:.3g}" for name, volume in volumes.items())
        here = 0 if marks is None else int(marks[at])
        there = "" if marks is None else f"; label: {names.get(here, here) if here else 'none'}"
        mm = ", ".join(f"{v:.0f}" for v in (affine @ [*at, 1])[:3])
        words = f"Crosshair at voxel {at[0]}, {at[1]}, {at[2]} ({mm} mm): {found}{there}."
        caption.value = f'<p aria-live="polite">{escape(words)}</p>'

    def clicked(location: Mapping[str, Any]) -> None:
        nonlocal moving
        at = [round(v) + s.start for v, s in zip(location["vox"], box)]
        if at == [p.value for p in places]:
            return
        moving = True  # one move of three sliders, shown once
        for slider, value in zip(places, at, strict=True):
            slider.value = min(max(value, slider.min), slider.max)
        moving = False
        crosshair()

    def through(_change: Any) -> None:
        for canvas in canvases:
            canvas.set_slice_type(_PLANES[plane.value])

    def blended(_change: Any) -> None:
        for canvas in canvases:
            canvas.volumes[-1].opacity = opacity.value

    for slider in places:
        slider.observe(crosshair, names="value")
    for canvas in canvases:
        canvas.on_location_change(clicked)
    plane.observe(through, names="value")
    opacity.observe(blended, names="value")
    crosshair()
    names_row = [
        ipywidgets.VBox([ipywidgets.HTML(f"<strong>{escape(name)}</strong>"), canvas], layout={"flex": "1 1 14em"})
        for name, canvas in zip(volumes, canvases, strict=True)
    ]
    row = ipywidgets.HBox(names_row, layout=ipywidgets.Layout(flex_flow="row wrap", grid_gap="0 0.5em"))
    controls = [plane, *([] if marks is None else [opacity]), *places]
    whole = ipywidgets.VBox([*controls, row, caption])

    def without(_change: Any) -> None:
        if len(whole.children) > 2:
            note = ipywidgets.HTML("<p>This browser has no WebGL 2, so slices are drawn by the kernel instead.</p>")
            whole.children = [note, fallback()]

    for canvas in canvases:
        canvas.observe(without, names="webgl2")
    return whole
