"""HD95 under the three definitions that the field calls by one name, and the normalised surface distance.

Two kinds of surface are in use. Voxels: those of a mask with one of their six neighbours outside it (medpy, MONAI).
Corners: the points between eight voxels that are neither all in nor all out, each standing for the area of the surface
that passes there (DeepMind's surface-distance, which the BraTS-2023 scores use).
"""

from collections.abc import Sequence
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from monai.metrics.utils import get_code_to_measure_table

from mtg_lab.errors import InputError
from mtg_lab.surface_distances import CELLS, Surface, SurfaceDistances, largest_percentile, margin, pooled_percentile

HD95_DEFINITIONS = ("max_of_directed", "pooled", "surface_weighted")
NSD_DEFINITIONS = ("voxels", "surface_weighted")
DISTANCE_RULES = ("zero", "one", "diagonal", "374", "nan")
_PERCENT = 95


class SurfacePair:
    """Two masks and the distances between their surfaces, computed once for all that is asked of them.

    Args:
        predicted, truth: bool [D, H, W].
        spacing_mm: of the three axes.

    Raises:
        InputError: shapes differ, or the spacing is not three positive numbers.
    """

    def __init__(self, predicted: np.ndarray, truth: np.ndarray, spacing_mm: Sequence[float] = (1.0, 1.0, 1.0)):
        self.spacing_mm = check_pair(predicted, truth, spacing_mm)
        self.empty = not predicted.any(), not truth.any()
        if not any(self.empty):
            box = union_box(predicted, truth)
            rim = [(n, n) for n in margin(self.spacing_mm)]
            self._masks = tuple(np.pad(m[box], rim) for m in (predicted, truth))

    def hd95(self, definition: str = "max_of_directed", empty: str = "nan", diagonal_mm: float = np.nan) -> float:
        """95th percentile of the Hausdorff distance in mm.

        * ``max_of_directed``: the larger of the two directed percentiles (MONAI, torchmetrics).
        * ``pooled``: the percentile of both directed sets thrown together (medpy, so nnU-Net and the RFNet family).
        * ``surface_weighted``: directed percentiles by surface area, the larger of both (BraTS 2023).

        Args:
            definition: one of these.
            empty: see :func:`empty_distance`.
            diagonal_mm: of the image, for the rule ``diagonal``.

        Raises:
            InputError: an unknown definition or rule.
        """
        check_choice("definition of HD95", definition, HD95_DEFINITIONS)
        if any(self.empty):
            return empty_distance(empty, all(self.empty), diagonal_mm)
        if definition == "pooled":
            return pooled_percentile(self._of_voxels, _PERCENT)
        if definition == "max_of_directed":
            return largest_percentile(self._of_voxels, _PERCENT)
        directed, areas = zip(*self._of_corners, strict=True)
        return largest_percentile(directed, _PERCENT, areas)

    def nsd(self, tolerance_mm: float = 1.0, definition: str = "voxels") -> float:
        """Normalised surface distance (surface Dice): the share of both surfaces that is within a tolerance.

        Args:
            tolerance_mm: at most so far from the other surface counts as agreement.
            definition: ``voxels`` counts surface voxels (MONAI's default), ``surface_weighted`` area (DeepMind's;
                MONAI's ``use_subvoxels``).

        Returns:
            0 to 1; 1 where both masks are empty, 0 where one is.

        Raises:
            InputError: a tolerance that is not a finite number from 0, or an unknown definition.
        """
        check_choice("definition of NSD", definition, NSD_DEFINITIONS)
        if not (np.isfinite(tolerance_mm) and tolerance_mm >= 0):
            raise InputError(f"the NSD's tolerance is {tolerance_mm} mm; give a number from 0, such as 1")
        if any(self.empty):
            return float(all(self.empty))
        if definition == "voxels":
            parts = [(d, np.ones(len(d.lower))) for d in self._of_voxels]
        else:
            parts = list(self._of_corners)
        within = whole = 0.0
        for distances, weights in parts:
            for cell in CELLS:
                distances.narrow(tolerance_mm, tolerance_mm, cell)
            within += float(weights[distances.upper <= tolerance_mm].sum())
            whole += float(weights.sum())
        return within / whole

    @cached_property
    def _of_voxels(self) -> tuple[SurfaceDistances, SurfaceDistances]:
        return self._both_ways([_surface_of_inner(m) for m in self._masks])

    @cached_property
    def _of_corners(self) -> tuple[tuple[SurfaceDistances, np.ndarray], ...]:
        codes = [_corner_codes(m) for m in self._masks]
        surfaces = [(c != 0) & (c != 255) for c in codes]
        areas = [_areas(self.spacing_mm)[c[s]] for c, s in zip(codes, surfaces, strict=True)]
        return tuple(zip(self._both_ways(surfaces), areas, strict=True))

    def _both_ways(self, surfaces: Sequence[np.ndarray]) -> tuple[SurfaceDistances, SurfaceDistances]:
        predicted, truth = (Surface(s, self.spacing_mm) for s in surfaces)
        return SurfaceDistances(predicted, truth), SurfaceDistances(truth, predicted)


def hd95(
    predicted: np.ndarray,
    truth: np.ndarray,
    spacing_mm: Sequence[float] = (1.0, 1.0, 1.0),
    definition: str = "max_of_directed",
    empty: str = "nan",
) -> float:
    """HD95 of two masks bool [D, H, W] in mm, the diagonal being that of their grid; see :meth:`SurfacePair.hd95`."""
    pair = SurfacePair(predicted, truth, spacing_mm)
    return pair.hd95(definition, empty, diagonal(predicted.shape, pair.spacing_mm))


def nsd(
    predicted: np.ndarray,
    truth: np.ndarray,
    spacing_mm: Sequence[float] = (1.0, 1.0, 1.0),
    tolerance_mm: float = 1.0,
    definition: str = "voxels",
) -> float:
    """Normalised surface distance of two masks bool [D, H, W]; see :meth:`SurfacePair.nsd`."""
    return SurfacePair(predicted, truth, spacing_mm).nsd(tolerance_mm, definition)


def empty_distance(rule: str, both: bool, diagonal_mm: float = np.nan) -> float:
    """The distance in mm that stands for one that does not exist, because a mask is empty.

    Where both masks are empty nothing is wrong and every rule but ``nan`` says 0. Where one is:

    * ``zero``: 0.
    * ``one``: 1 mm (the PASSION release, which follows ACN and SMU-Net).
    * ``diagonal``: of the image (nnU-Net's habit, and AdaMM's code: 373.13 mm for 240 x 240 x 155 at 1 mm).
    * ``374``: 374 mm (the scores of BraTS 2023).
    * ``nan``: no number; the row is left out of means, also where ``both`` are empty.

    Args:
        rule: one of these.
        both: whether both masks are empty.
        diagonal_mm: for the rule ``diagonal``.

    Raises:
        InputError: an unknown rule.
    """
    check_choice("rule for HD95 of an empty mask", rule, DISTANCE_RULES)
    if rule == "nan":
        return float("nan")
    return 0.0 if both else {"zero": 0.0, "one": 1.0, "diagonal": float(diagonal_mm), "374": 374.0}[rule]


def diagonal(shape: Sequence[int], spacing_mm: Sequence[float]) -> float:
    """Length in mm of the diagonal of a grid."""
    return float(np.sqrt(np.square(np.multiply(shape, spacing_mm)).sum()))


def surface_voxels(mask: np.ndarray) -> np.ndarray:
    """Voxels of a mask bool [D, H, W] with one of their six neighbours outside it, or outside the grid."""
    return _surface_of_inner(np.pad(mask, 1))[1:-1, 1:-1, 1:-1]


def union_box(predicted: np.ndarray, truth: np.ndarray) -> tuple[slice, slice, slice]:
    """The smallest box around two masks bool [D, H, W] of which one at least is not empty."""

    def span(flags: Any) -> slice:
        places = np.flatnonzero(flags)
        return slice(int(places[0]), int(places[-1]) + 1)

    # The whole volume is read once; for the other axes only what is left of it.
    depth = span(np.logical_or(predicted.any(axis=(1, 2)), truth.any(axis=(1, 2))))
    shadow: Any = np.logical_or(predicted[depth].any(axis=0), truth[depth].any(axis=0))
    return depth, span(shadow.any(axis=1)), span(shadow.any(axis=0))


def check_choice(what: str, given: str, choices: Sequence[str]) -> None:
    """Refuse a name that is none of ``choices``.

    Raises:
        InputError: it is not.
    """
    if given not in choices:
        raise InputError(f"unknown {what} {given!r}; there are: {', '.join(choices)}")


def check_pair(predicted: np.ndarray, truth: np.ndarray, spacing_mm: Sequence[float]) -> tuple[float, float, float]:
    """The spacing as three floats, once the two masks can be compared.

    Raises:
        InputError: shapes differ, masks are not boolean volumes, or the spacing is not three positive numbers.
    """
    if predicted.shape != truth.shape or predicted.ndim != 3:
        raise InputError(
            f"masks have shapes {list(predicted.shape)} and {list(truth.shape)}; give two volumes on one grid"
        )
    if predicted.dtype != bool or truth.dtype != bool:
        raise InputError(f"masks are {predicted.dtype} and {truth.dtype}; give bool, as in label == 3")
    if len(spacing_mm) != 3 or not all(np.isfinite(s) and s > 0 for s in spacing_mm):
        raise InputError(f"the spacing is {list(spacing_mm)}; give three positive numbers in mm")
    a, b, c = map(float, spacing_mm)
    return a, b, c


def _surface_of_inner(mask: np.ndarray) -> np.ndarray:
    """:func:`surface_voxels` of a mask that leaves the grid's border free, where a neighbour is a step in memory."""
    flat = mask.ravel()
    inner = flat.copy()
    for step in (1, mask.shape[2], mask.shape[1] * mask.shape[2]):
        inner[step:] &= flat[:-step]
        inner[:-step] &= flat[step:]
    return (flat & ~inner).reshape(mask.shape)


def _corner_codes(mask: np.ndarray) -> np.ndarray:
    """Which of its eight voxels are in the mask, as a byte, for every corner between voxels of [D, H, W].

    The bits are those of the table of areas: 128 for the first voxel of the eight, 1 for the last.
    """
    voxels = np.pad(mask, ((0, 1),) * 3).astype(np.uint8)
    codes = np.zeros(mask.shape, dtype=np.uint8)
    for bit, (i, j, k) in enumerate(np.ndindex(2, 2, 2)):
        d, h, w = mask.shape
        codes |= voxels[i : i + d, j : j + h, k : k + w] << (7 - bit)
    return codes


@lru_cache(maxsize=16)
def _areas(spacing_mm: tuple[float, float, float]) -> np.ndarray:
    """Area in mm2 of the surface that passes between eight voxels, by their code (MONAI's table, from DeepMind's)."""
    table, _ = get_code_to_measure_table(spacing_mm)
    return np.asarray(table, dtype=np.float64)
