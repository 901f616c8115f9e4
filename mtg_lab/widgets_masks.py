"""Masks of one slice from networks that differ in the weight of alignment alone, to slide along and take apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import ipywidgets
import numpy as np
import torch
from matplotlib.figure import Figure

from mtg_lab.cases import clearest
from mtg_lab.errors import InputError
from mtg_lab.files import written_aside
from mtg_lab.slices import intensity_window, slice_panels
from mtg_lab.vocabulary import subset_name
from mtg_lab.widgets import Picture, _checkboxes, _live, _ticked

_ARRAYS = ("images", "reference", "masks", "weights", "modalities", "subsets", "labels", "subject")


@dataclass(frozen=True)
class StoredMasks:
    """One axial slice of one patient, and what each network makes of it from each subset of sequences.

    Attributes:
        images: [M, A, B] z-scores in RAS order.
        reference: [A, B] class indices, 0 background.
        masks: [W, S, A, B] class indices, a network a weight, a mask a subset.
        weights: [W] of alignment, ascending.
        modalities, subsets, labels: names; the labels are those of classes 1, 2, ...
        subject: whose slice it is.
    """

    images: np.ndarray
    reference: np.ndarray
    masks: np.ndarray
    weights: tuple[float, ...]
    modalities: tuple[str, ...]
    subsets: tuple[str, ...]
    labels: tuple[str, ...]
    subject: str

    def __post_init__(self) -> None:
        """Refuse arrays whose shapes do not fit together."""
        slice_ = self.reference.shape
        fits = self.images.shape == (len(self.modalities), *slice_)
        if not fits or self.masks.shape != (len(self.weights), len(self.subsets), *slice_):
            raise InputError(
                f"stored masks do not fit together: images {self.images.shape}, masks {self.masks.shape}, "
                f"{len(self.weights)} weights, {len(self.subsets)} subsets, a reference of {slice_}"
            )

    def save(self, path: Path) -> Path:
        """Write a compressed .npz of plain arrays, aside first."""
        with written_aside(path) as aside, aside.open("wb") as file:
            small: dict[str, Any] = {
                "images": self.images.astype(np.float16),
                "reference": self.reference.astype(np.uint8),
            }
            small |= {"masks": self.masks.astype(np.uint8), "weights": np.array(self.weights)}
            small |= {k: np.array(getattr(self, k)) for k in ("modalities", "subsets", "labels", "subject")}
            np.savez_compressed(file, allow_pickle=False, **small)
        return path

    @classmethod
    def read(cls, path: Any) -> StoredMasks:
        """Read what :meth:`save` wrote; nothing is unpickled.

        Raises:
            InputError: it is another kind of file, or lacks an array.
        """
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as found:
                arrays = {name: found[name] for name in _ARRAYS}
        except (OSError, ValueError, KeyError, EOFError) as error:
            raise InputError(f"{path} holds no stored masks ({error})") from error
        names = {k: tuple(map(str, arrays[k])) for k in ("modalities", "subsets", "labels")}
        return cls(
            arrays["images"].astype(np.float32), arrays["reference"], arrays["masks"],
            tuple(map(float, arrays["weights"])), subject=str(arrays["subject"]), **names,
        )  # fmt: skip

    def mask(self, weight: float, subset: str) -> np.ndarray:
        """[A, B] of the network with that weight of alignment, from that subset."""
        return self.masks[self.weights.index(weight), self.subsets.index(subset)]


def measured_masks(study: str) -> StoredMasks:
    """The masks of a study that come with the package; study is a folder of ``mtg_lab/results``."""
    return StoredMasks.read(files("mtg_lab") / "results" / study / "masks.npz")


def weight_masks(stored: StoredMasks, ticked: Sequence[str] | None = None) -> ipywidgets.VBox:
    """Slide the weight of alignment, take sequences away, and see the mask that the network draws then.

    Args:
        stored: masks of networks that differ in the weight alone.
        ticked: sequences there at the start, all by default.
    """
    chosen = ipywidgets.SelectionSlider(
        options=[(f"{w:g}", w) for w in stored.weights], description="alignment weight",
        style={"description_width": "11em"}, layout={"width": "32em", "max_width": "100%"},
    )  # fmt: skip
    boxes = _checkboxes(stored.modalities, stored.modalities if ticked is None else ticked)

    def draw() -> Picture:
        there = _ticked(boxes)
        if not there:
            return Figure(figsize=(8, 0.5)), "Tick a sequence: from none of them there is nothing to draw."
        subset = subset_name(there, stored.modalities)
        return masks_picture(stored, chosen.value, subset), masks_words(stored, chosen.value, subset)

    return _live(draw, [chosen, boxes])


def masks_picture(stored: StoredMasks, weight: float, subset: str) -> Figure:
    """The slice in the sequence of the subset that shows the lesion best: reference, weight 0, and the weight."""
    shown = clearest(torch.from_numpy(stored.images), stored.reference, stored.modalities, set(subset.split("+")))
    image = stored.images[stored.modalities.index(shown)]
    low, high = intensity_window(image)
    least = stored.weights[0]
    marks = {
        "reference": stored.reference,
        f"weight {least:g}": stored.mask(least, subset),
        f"weight {weight:g}, chosen": stored.mask(weight, subset),
    }
    names = dict(enumerate(stored.labels, start=1))
    windows = dict.fromkeys(marks, (low, high))
    title = f"{stored.subject} from {subset}, over {shown}"
    return slice_panels(dict.fromkeys(marks, image), windows, marks, names, title=title)


def masks_words(stored: StoredMasks, weight: float, subset: str) -> str:
    """How many pixels of the slice the network labels otherwise than the reference, and than the first network."""
    mask, first = stored.mask(weight, subset), stored.mask(stored.weights[0], subset)
    return (
        f"Weight {weight:g} from {subset}: {int((mask != stored.reference).sum())} of {mask.size} pixels are not as in "
        f"the reference, {int((mask != first).sum())} not as at weight {stored.weights[0]:g}."
    )
