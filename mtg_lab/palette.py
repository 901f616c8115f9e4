"""One colour and one marker a modality, in every figure of the project.

Okabe and Ito's palette, told apart by colour-blind readers; the markers for a page printed in grey.
"""

from collections.abc import Sequence

COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#D55E00", "#0072B2", "#CC79A7", "#F0E442", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
RUN_COLOURS = tuple(COLOURS[i] for i in (4, 3, 2, 0, 5, 7))  # of runs: apart from each other in grey too
OUTLINES = ("solid", "dashed", "dotted", "dashdot")
# Fixed, so that t1c looks the same in a cohort that lacks t1n.
_KNOWN = {"t1n": 0, "t1c": 3, "t2w": 4, "t2f": 2, "dwi": 1, "adc": 5, "rcbv": 7}
_OTHERS = (1, 5, 7, 6, 0, 2, 3, 4)  # what other names take, as far as it is free


def modality_style(names: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Colour and marker of each modality, the same in every figure of the project.

    Modalities of our vocabulary look the same in every cohort; others as long as the cohort's modalities are the same,
    in whatever order they come.
    """
    taken = {_KNOWN[n] for n in names if n in _KNOWN}
    free = [i for i in _OTHERS if i not in taken] or _OTHERS
    others = sorted(set(names) - set(_KNOWN))
    places = _KNOWN | {n: free[i % len(free)] for i, n in enumerate(others)}
    return {n: (COLOURS[places[n]], MARKERS[places[n]]) for n in names}
