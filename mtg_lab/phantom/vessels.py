"""What takes up contrast in every healthy head, and is not tumour: vessels, meninges, choroid plexus.

The large vessels run along fixed lines of the MNI space, placed by hand to a few millimetres; the small ones are the
curves on which two random fields vanish at once, kept where CSF is.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from .atlas import Array, Field, Grid

Course = tuple[tuple[float, float, float], ...]

# Right-hand side, MNI mm; x is mirrored. Radius in mm, then the course.
_PAIRED = (
    (1.5, ((6, -8, 15), (3, -20, 12), (2.5, -36, 9))),  # internal cerebral vein
    (1.6, ((8, 1, -19), (20, 4, -18), (34, 4, -17), (42, -6, -4), (44, -20, 8))),  # middle cerebral artery
    (1.3, ((4, 6, -17), (2, 28, -14), (2, 40, 4), (2, 30, 26), (2, 4, 36))),  # anterior cerebral artery
    (1.3, ((3, -18, -19), (14, -24, -14), (16, -36, -4))),  # posterior cerebral artery
    (2.0, ((4, -2, -38), (10, 2, -24), (8, 1, -19))),  # carotid
    (2.8, ((4, -100, -10), (24, -94, -20), (50, -66, -28))),  # transverse sinus
)
_SINGLE = (
    (1.8, ((0, -34, -62), (0, -30, -40), (0, -20, -22), (0, -17, -18))),  # basilar artery
    (2.2, ((0, -36, 9), (0, -44, 12), (0, -56, 4), (0, -84, -8))),  # great vein, straight sinus
)
_PLEXUS = ((1.7, ((26, -38, -2), (24, -41, 5), (20, -37, 14), (9, -16, 17), (6, -4, 14))),)


@dataclass(frozen=True)
class Vessels:
    """Fields that decide where this person's small vessels run and how thick the meninges enhance."""

    first: Field
    second: Field
    calibre: Field
    meninges: Field
    radius_mm: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Vessels:
        """Draw one person's vessels."""
        first, second, calibre, meninges = (Field.draw(rng, knots) for knots in (6.5, 6.5, 25.0, 12.0))
        return cls(first, second, calibre, meninges, radius_mm=float(rng.uniform(0.8, 1.2)))

    def parts(
        self, scan: Grid, inside: NDArray[np.bool_], atlas_mm: Array, tissue: dict[str, Array]
    ) -> dict[str, Array]:
        """Fractions `vessel`, `meninges`, `plexus` in 0..1 at the brain's voxels, each [voxels].

        Args:
            scan: the scan's grid.
            inside: the brain's voxels, [X, Y, Z].
            atlas_mm: where they come from in the atlas, [3, voxels].
            tissue: `Person.tissues` at these voxels.
        """
        half = max(scan.spacing_mm, 1.0)
        csf, depth = tissue["csf"], tissue["depth_mm"]
        first, second, calibre, patches = (
            f.on(scan)[inside] for f in (self.first, self.second, self.calibre, self.meninges)
        )
        # A B-spline field of variance one changes by about 0.9 a knot, so this is the distance to the curve in mm.
        distance = np.sqrt(first**2 + second**2) * np.float32(self.first.knots_mm / 0.9 * 0.8)
        small = np.clip((self.radius_mm * np.exp(0.3 * calibre) - distance) / half + 0.5, 0, 1)
        small = small * np.clip(3 * csf + 1.2 * (depth < 2.5) - 0.1, 0, 1) * (tissue["ventricle"] < 0.3)

        large = np.zeros_like(csf)
        for radius, course in [*_both(_PAIRED), *_SINGLE]:
            near = np.clip((radius - _distance_mm(atlas_mm, course)) / half + 0.5, 0, 1)
            large = np.maximum(large, near)
        x, _, z = atlas_mm
        sinus = np.clip((4.0 - depth - 0.8 * np.abs(x)) / half + 0.5, 0, 1) * (z > -5) * (np.abs(x) < 6)
        vessel = np.maximum(np.maximum(small, sinus), large * np.clip(3 * csf + 0.5, 0, 1))

        falx = np.clip((0.7 - np.abs(x)) / half + 0.5, 0, 1) * csf * (tissue["ventricle"] < 0.1)
        meninges = np.maximum(np.clip((0.5 + 0.6 * patches - depth) / half, 0, 1) * csf, 0.6 * falx)
        plexus = np.zeros_like(csf)
        for radius, course in _both(_PLEXUS):
            rough = radius + 0.9 * first + 0.6 * patches
            plexus = np.maximum(plexus, np.clip((rough - _distance_mm(atlas_mm, course)) / half + 0.5, 0, 1))
        return {
            "vessel": vessel,
            "meninges": meninges * (1 - vessel),
            "plexus": plexus * np.clip(2 * tissue["ventricle"], 0, 1) * csf,
        }


def _both(courses: tuple[tuple[float, Course], ...]) -> list[tuple[float, Course]]:
    return [(r, tuple((s * x, y, z) for x, y, z in course)) for r, course in courses for s in (1, -1)]


def _distance_mm(points: Array, course: Course) -> Array:
    """Distance of points [3, voxels] to a polyline."""
    nearest = np.full(points.shape[1], 1e6, np.float32)
    for start, stop in pairwise(course):
        a = np.asarray(start, np.float32)
        along = np.asarray(stop, np.float32) - a
        offset = points - a[:, None]
        t = np.clip((offset * along[:, None]).sum(axis=0) / (along**2).sum(), 0, 1)
        nearest = np.minimum(nearest, ((offset - t * along[:, None]) ** 2).sum(axis=0))
    return np.sqrt(nearest)
