"""Choose a patient from a list: where the patient lies in the scatter of two methods, and what they drew."""

from __future__ import annotations

from collections.abc import Callable

import ipywidgets
import numpy as np
from matplotlib.figure import Figure

from mtg_lab.figures_scores import case_scatter
from mtg_lab.score_cube import Scores, comparable_cubes, nanmean
from mtg_lab.widgets import Picture, _live


def case_explorer(
    ours: Scores,
    theirs: Scores,
    names: tuple[str, str],
    picture: Callable[[str], Figure],
    metric: str = "dice",
) -> ipywidgets.VBox:
    """Every patient of two methods, those whose scores differ most first; a click shows the patient.

    Args:
        ours, theirs: as for :func:`mtg_lab.figures_scores.case_scatter`.
        names: of the two.
        picture: subject to the figure that shows the case, such as that of :meth:`mtg_lab.cases.Case.picture`.
        metric: which score.

    Raises:
        InputError: tables of different protocols.
    """
    cubes = comparable_cubes(dict(zip(names, (ours, theirs), strict=True)), metric)
    mine, other = (nanmean(cubes[n].values[..., -1], axis=(0, 2)) for n in names)  # [subjects], mean over regions
    subjects = cubes[names[0]].subjects
    order = np.argsort(-np.nan_to_num(np.abs(mine - other)), kind="stable")
    chosen = ipywidgets.Select(
        options=[(f"{subjects[i]}   {mine[i] - other[i]:+.3f}", subjects[i]) for i in order],
        rows=min(8, len(subjects)), description="patient", layout={"width": "24em"},
    )  # fmt: skip
    places = {name: i for i, name in enumerate(subjects)}

    def scatter() -> Picture:
        i = places[chosen.value]
        words = (
            f"{chosen.value}: mean {metric} {mine[i]:.3f} under {names[0]}, {other[i]:.3f} under {names[1]} "
            f"(difference {mine[i] - other[i]:+.3f})."
        )
        return case_scatter(ours, theirs, names, metric, words, marked=chosen.value), words

    def case() -> Picture:
        return picture(chosen.value), f"What was drawn for {chosen.value}, beside the reference."

    below = _live(case, [chosen])
    below.children = below.children[1:]  # the list is above already, and moves both
    return ipywidgets.VBox([_live(scatter, [chosen]), below])
