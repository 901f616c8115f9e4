"""Lesion-wise Dice and HD95 by the rules of BraTS 2023.

Written from the description that the organisers published with the challenge (Synapse syn51156910, discussion 10357,
and the readme of rachitsaluja/BraTS-2023-Metrics); agreement with their scores is tested on golden values.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from mtg_lab.surface_metrics import SurfacePair, check_choice, check_pair, union_box

_TOUCHING = np.ones((3, 3, 3), dtype=bool)  # 26 neighbours make a component
_GROWING = ndimage.generate_binary_structure(3, 2)  # a dilation adds 18 neighbours


@dataclass(frozen=True)
class LesionRule:
    """How lesions are told apart and which of them count, in voxels of the 1 mm grid of BraTS.

    Attributes:
        dilation: the reference is dilated so often before its components are taken, and a predicted component belongs
            to a lesion that it touches after as many dilations.
        smallest: lesions of the reference up to this size are left out.
    """

    dilation: int
    smallest: float

    def on_grid(self, spacing_mm: float) -> "LesionRule":
        """The same lengths and volumes on an isotropic grid of another spacing; the dilation is rounded, at least 1."""
        return LesionRule(max(1, round(self.dilation / spacing_mm)), self.smallest / spacing_mm**3)


LESION_RULES = {
    "GLI": LesionRule(3, 50),  # adult glioma
    "SSA": LesionRule(3, 50),  # Sub-Saharan Africa
    "PED": LesionRule(3, 50),  # paediatric
    "MEN": LesionRule(1, 50),  # meningioma
    "MET": LesionRule(1, 2),  # metastases
}
MISSED_MM = 374.0  # HD95 of a lesion that is missed or invented


@dataclass(frozen=True)
class LesionScores:
    """Scores of one region of one subject.

    Attributes:
        dice, hd95_mm: means over the lesions that count and the predicted components that touch none, which have 0 and
            374 mm like a missed lesion; 1 and 0 where there is neither.
        found, missed: lesions that count and are touched by a prediction or not.
        invented: predicted components that touch no lesion, however small it is.
    """

    dice: float
    hd95_mm: float
    found: int
    missed: int
    invented: int


def lesion_rule(kind: str) -> LesionRule:
    """The rule of a task of BraTS 2023.

    Raises:
        InputError: an unknown task.
    """
    check_choice("kind of lesion-wise scores", kind, tuple(LESION_RULES))
    return LESION_RULES[kind]


def lesion_scores(
    predicted: np.ndarray,
    truth: np.ndarray,
    spacing_mm: Sequence[float] = (1.0, 1.0, 1.0),
    kind: str | LesionRule = "GLI",
) -> LesionScores:
    """Score every lesion of the reference by itself.

    Lesions are components of the reference that dilation leaves apart. A lesion is compared with all predicted
    components that touch it once it is dilated; one component may serve several lesions.

    Args:
        predicted, truth: bool [D, H, W].
        spacing_mm: of the three axes; distances are in mm, the rule counts voxels.
        kind: ``GLI``, ``SSA``, ``PED``, ``MEN``, ``MET``, or a rule, see :meth:`LesionRule.on_grid`.

    Raises:
        InputError: masks that cannot be compared, or an unknown kind.
    """
    rule = lesion_rule(kind) if isinstance(kind, str) else kind
    spacing = check_pair(predicted, truth, spacing_mm)
    if not (predicted.any() or truth.any()):
        return LesionScores(1.0, 0.0, 0, 0, 0)
    box = union_box(predicted, truth)
    predicted, truth = (np.pad(m[box], rule.dilation) for m in (predicted, truth))
    components, invented = ndimage.label(predicted, _TOUCHING)
    # A component of the dilated reference is its lesion, dilated: no other one reaches into it.
    grown, lesions = ndimage.label(ndimage.binary_dilation(truth, _GROWING, rule.dilation), _TOUCHING)
    touched = np.zeros(invented + 1, dtype=bool)
    scores: list[tuple[float, float]] = []
    missed = 0
    for number in range(1, lesions + 1):
        inside = grown == number
        lesion = truth & inside
        mine = np.zeros(invented + 1, dtype=bool)
        mine[components[inside]] = True
        mine[0] = False
        touched |= mine
        if lesion.sum() <= rule.smallest:
            continue
        if mine.any():
            scores.append(_scores(mine[components], lesion, spacing))
        else:
            missed += 1
            scores.append((0.0, MISSED_MM))
    invented -= int(touched.sum())
    if not scores and not invented:
        return LesionScores(1.0, 0.0, 0, 0, 0)
    dice, hd95 = np.array(scores + [(0.0, MISSED_MM)] * invented).mean(axis=0)
    return LesionScores(float(dice), float(hd95), len(scores) - missed, missed, invented)


def _scores(answer: np.ndarray, lesion: np.ndarray, spacing_mm: Sequence[float]) -> tuple[float, float]:
    shared = int((answer & lesion).sum())
    dice = 2 * shared / int(answer.sum() + lesion.sum())
    return dice, SurfacePair(answer, lesion, spacing_mm).hd95("surface_weighted")
