"""The phantom taken apart: how it looks after each step of its making, then with one ingredient more at a time."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from mtg_lab import phantom
from mtg_lab.errors import InputError
from mtg_lab.slices import fullest_slice, intensity_window, slice_panels


@dataclass(frozen=True)
class Step:
    """What is there after a step.

    Attributes:
        name: of the step.
        words: what it does.
        panels: title to volume [X, Y, Z], axes right, anterior, superior; all steps have the same grid.
        label: [X, Y, Z], 0 to 3 as in BraTS 2023.
        shares: the panels are shares of a voxel, from 0 to 1.
    """

    name: str
    words: str
    panels: dict[str, np.ndarray]
    label: np.ndarray
    shares: bool = False

    def windows(self) -> dict[str, tuple[float, float]]:
        """What is shown as black and white, by panel."""
        return {title: (0.0, 1.0) if self.shares else intensity_window(v) for title, v in self.panels.items()}


def built_up(seed: int, spacing_mm: float = 4.0, site: str = "A", ingredients: str = "all") -> list[Step]:
    """One patient from healthy tissue to the scans, and on with one ingredient more at a time.

    Args:
        seed: of the patient.
        spacing_mm: voxel size.
        site: whose scanner.
        ingredients: as :func:`mtg_lab.phantom.chosen_ingredients` takes them, added in their order.

    Raises:
        ValueError: what :func:`mtg_lab.phantom.synthesise` refuses.
    """
    maps, plain = phantom.layers(seed, spacing_mm, site=site), phantom.synthesise(seed, site, spacing_mm)
    label, nothing = plain.label, np.zeros_like(plain.label)
    push = np.sqrt((maps["push_mm"] ** 2).sum(axis=0))
    tumour = {name: maps[name] for name in ("oedema", "solid", "enhancing", "necrosis")}
    steps = [
        Step("healthy tissue", "shares of a voxel, of an average brain bent into the form of one person",
             {name: maps[f"healthy_{name}"] for name in ("gm", "wm", "csf")}, nothing, True),
        Step("a tumour", "cells grow and spread in white matter; the middle starves, the rim leaks, water runs out",
             tumour, label, True),
        Step("its mass", "tissue gives way and fluid makes room",
             {"csf before": maps["healthy_csf"], "push, 10 mm": push / 10, "csf after": maps["csf"]}, label, True),
        Step("signal", "how brightly each tissue shines in four sequences, by its T1, T2, protons and contrast agent",
             {name: maps[f"signal_{name}"] for name in phantom.MODALITIES}, label),
        Step("scanner", "slices, the profile of a coil, noise: the plain phantom",
             dict(plain.images), label),
    ]  # fmt: skip
    chosen = phantom.chosen_ingredients(ingredients)
    for number, name in enumerate(chosen, start=1):
        case = phantom.synthesise(seed, site, spacing_mm, ingredients=chosen[:number])
        steps.append(Step(f"+ {name}", phantom.INGREDIENTS[name], dict(case.images), case.label))
    return steps


def step_panels(steps: Sequence[Step], sequence: str, names: dict[int, str], title: str = "") -> Figure:
    """The same slice of one sequence after each step that has it, the labels outlined.

    Args:
        steps: of :func:`built_up`.
        sequence: such as ``t1c``.
        names: integer of the label to its name.
        title: of the figure.

    Raises:
        InputError: no step has the sequence.
    """
    shown = [step for step in steps if sequence in step.panels]
    if not shown:
        raise InputError(f"no step shows {sequence!r}; there are: {', '.join(steps[-1].panels)}")
    place = common_slice(steps)
    slices = {step.name: np.take(step.panels[sequence], place, 2) for step in shown}
    windows = {step.name: step.windows()[sequence] for step in shown}
    marks = {step.name: np.take(step.label, place, 2) for step in shown}
    return slice_panels(slices, windows, marks, names, 2, title or f"One patient in {sequence}, step by step")


def common_slice(steps: Sequence[Step]) -> int:
    """The axial slice with most of the labels of all steps together."""
    return fullest_slice(np.any([step.label > 0 for step in steps], axis=0), 2)
