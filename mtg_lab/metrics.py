"""Every score of a region: its name, its settings, and what it says where a mask is empty.

The tidy tables of :func:`mtg_lab.evaluation.evaluate` hold one row for each of these names.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from mtg_lab.calibration_metrics import BINS, brier, expected_calibration_error
from mtg_lab.errors import InputError
from mtg_lab.lesion_metrics import LESION_RULES, lesion_rule, lesion_scores
from mtg_lab.surface_metrics import (
    DISTANCE_RULES,
    HD95_DEFINITIONS,
    NSD_DEFINITIONS,
    SurfacePair,
    check_choice,
    check_pair,
    diagonal,
)

EMPTY_RULES = ("one", "nan")
OVERLAPS = ("dice", "iou", "sensitivity", "precision")
SURFACES = ("hd95", "nsd")
VOLUMES = ("volume_error_ml", "absolute_volume_error_ml", "relative_volume_error")
LESIONS = ("lesion_dice", "lesion_hd95", "lesions_found", "lesions_missed", "lesions_invented")
CALIBRATION = ("brier", "ece")
METRICS = (*OVERLAPS, *SURFACES, *VOLUMES, *LESIONS, *CALIBRATION)


@dataclass(frozen=True)
class MetricSettings:
    """What a metric's name leaves open.

    Attributes:
        hd95: definition, see :meth:`~mtg_lab.surface_metrics.SurfacePair.hd95`.
        hd95_empty: rule for an empty mask, see :func:`~mtg_lab.surface_metrics.empty_distance`.
        nsd_mm: tolerance of the normalised surface distance; nsd: definition.
        lesions: rule of the lesion-wise scores, a task of BraTS 2023.
        ece_bins: of equal width.

    Raises:
        InputError: an unknown name, or a number that cannot be.
    """

    hd95: str = "max_of_directed"
    hd95_empty: str = "374"
    nsd_mm: float = 1.0
    nsd: str = "voxels"
    lesions: str = "GLI"
    ece_bins: int = BINS

    def __post_init__(self) -> None:
        check_choice("definition of HD95", self.hd95, HD95_DEFINITIONS)
        check_choice("rule for HD95 of an empty mask", self.hd95_empty, DISTANCE_RULES)
        check_choice("definition of NSD", self.nsd, NSD_DEFINITIONS)
        check_choice("kind of lesion-wise scores", self.lesions, tuple(LESION_RULES))
        if not (np.isfinite(self.nsd_mm) and self.nsd_mm >= 0):
            raise InputError(f"the NSD's tolerance is {self.nsd_mm} mm; give a number from 0, such as 1")
        if self.ece_bins < 1:
            raise InputError(f"{self.ece_bins} bins for the calibration error; give at least 1, usually {BINS}")

    def of(self, metrics: Sequence[str]) -> dict[str, str | float]:
        """The settings on which these metrics depend, and no others."""
        needed = {
            "hd95": ("hd95", "hd95_empty"), "nsd": ("nsd", "nsd_mm"), "ece": ("ece_bins",),
            **dict.fromkeys(LESIONS, ("lesions",)),
        }  # fmt: skip
        names = {name for metric in metrics for name in needed.get(metric, ())}
        return {name: value for name, value in asdict(self).items() if name in names}


def choose_metrics(names: Sequence[str]) -> tuple[str, ...]:
    """Known metrics without repetition, in the order of :data:`METRICS`.

    Raises:
        InputError: an unknown name, or none.
    """
    for name in names:
        check_choice("metric", name, METRICS)
    if not names:
        raise InputError(f"no metric is named; there are: {', '.join(METRICS)}")
    return tuple(m for m in METRICS if m in names)


def overlap_scores(predicted: np.ndarray, truth: np.ndarray, empty: str = "one") -> dict[str, float]:
    """Dice, IoU, sensitivity (recall) and precision of two masks bool of one shape.

    Args:
        predicted, truth: bool [D, H, W].
        empty: where the reference is empty: ``one`` (1 if the prediction is empty as well, else 0: the rule of BraTS)
            or ``nan``. An empty prediction of something that is there scores 0, its precision too.

    Raises:
        InputError: an unknown rule.
    """
    check_choice("rule for empty regions", empty, EMPTY_RULES)
    shared, answered, wanted = (int(np.count_nonzero(m)) for m in (predicted & truth, predicted, truth))
    if not wanted:
        return dict.fromkeys(OVERLAPS, float("nan") if empty == "nan" else float(not answered))
    return {
        "dice": 2 * shared / (answered + wanted),
        "iou": shared / (answered + wanted - shared),
        "sensitivity": shared / wanted,
        "precision": shared / answered if answered else 0.0,
    }


def volume_errors(predicted: np.ndarray, truth: np.ndarray, spacing_mm: Sequence[float]) -> dict[str, float]:
    """Predicted minus true volume: in ml, its absolute value, and as a share of the true volume (NaN without one)."""
    voxel_ml = float(np.prod(spacing_mm)) / 1000
    wanted = int(np.count_nonzero(truth))
    excess = int(np.count_nonzero(predicted)) - wanted
    relative = excess / wanted if wanted else float("nan")
    return dict(zip(VOLUMES, (excess * voxel_ml, abs(excess) * voxel_ml, relative), strict=True))


def region_scores(
    predicted: np.ndarray,
    truth: np.ndarray,
    spacing_mm: Sequence[float] = (1.0, 1.0, 1.0),
    metrics: Sequence[str] = ("dice", "hd95"),
    settings: MetricSettings | None = None,
    *,
    empty: str = "one",
    diagonal_mm: float | None = None,
    probability: np.ndarray | None = None,
    brain: np.ndarray | None = None,
) -> dict[str, float]:
    """Scores of one region of one subject, by name, in the order of :data:`METRICS`.

    Lesion-wise rules, published for 1 mm, are brought to an isotropic grid of the same voxel volume
    (:meth:`~mtg_lab.lesion_metrics.LesionRule.on_grid`).

    Args:
        predicted, truth: bool [D, H, W].
        spacing_mm: of the three axes.
        metrics: names.
        settings: of the metrics.
        empty: of overlap and NSD, where the reference is empty: ``one`` or ``nan``, see :func:`overlap_scores`.
        diagonal_mm: of the image before it was cropped, for the rule ``diagonal``; by default that of the masks' grid.
        probability: of the region, float [D, H, W], for Brier score and ECE.
        brain: bool [D, H, W], the voxels over which these two are taken; by default all.

    Raises:
        InputError: an unknown name, masks that cannot be compared, or no probability where one is needed.
    """
    wanted, settings = choose_metrics(metrics), settings or MetricSettings()
    spacing = check_pair(predicted, truth, spacing_mm)
    found = overlap_scores(predicted, truth, empty)
    found |= volume_errors(predicted, truth, spacing)
    if set(SURFACES) & set(wanted):
        pair = SurfacePair(predicted, truth, spacing)
        if "hd95" in wanted:
            length = diagonal(truth.shape, spacing) if diagonal_mm is None else diagonal_mm
            found["hd95"] = pair.hd95(settings.hd95, settings.hd95_empty, length)
        if "nsd" in wanted:
            left_out = empty == "nan" and pair.empty[1]
            found["nsd"] = float("nan") if left_out else pair.nsd(settings.nsd_mm, settings.nsd)
    if set(LESIONS) & set(wanted):
        rule = lesion_rule(settings.lesions).on_grid(float(np.cbrt(np.prod(spacing))))
        scores = lesion_scores(predicted, truth, spacing, rule)
        values = (scores.dice, scores.hd95_mm, scores.found, scores.missed, scores.invented)
        found |= {name: float(v) for name, v in zip(LESIONS, values, strict=True)}
    if set(CALIBRATION) & set(wanted):
        if probability is None:
            raise InputError("brier and ece need probabilities; give probability=..., or leave them out")
        p, t = (probability, truth) if brain is None else (probability[brain], truth[brain])
        found |= {"brier": brier(p, t), "ece": expected_calibration_error(p, t, settings.ece_bins)}
    return {name: found[name] for name in wanted}
