"""Anatomy: the MNI152 maps, and one person's brain drawn from them.

The anatomy is the symmetric ICBM 2009a average of 152 adults that nilearn carries in its wheel (Fonov et al.,
NeuroImage 54:313, 2011): a skull-stripped T1 and the probabilities of grey and white matter; cerebrospinal fluid (CSF)
is what they leave of the brain. An average is blurred where people differ, so each person gets back what averaging took
away: an own smooth deformation, sharp tissue borders, and sulci and ventricles of an own width.

Every random quantity is a field of cubic B-splines on a lattice in millimetres, never a draw per voxel. The same person
therefore looks the same on a grid of 1 mm and on one of 4 mm.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from nilearn.datasets import load_mni152_gm_template, load_mni152_template, load_mni152_wm_template
from numpy.typing import NDArray
from scipy import fft, ndimage

Array = NDArray[np.floating[Any]]

BOX_LOW_MM = np.array([-88.0, -130.0, -82.0])
BOX_MM = np.array([176.0, 224.0, 176.0])
BRAIN_CENTRE_MM = np.array([0.0, -17.0, 5.0])


@dataclass(frozen=True)
class Grid:
    """A regular grid in MNI millimetres: centre of the first voxel, number of voxels, spacing."""

    origin_mm: tuple[float, float, float]
    shape: tuple[int, int, int]
    spacing_mm: float

    @classmethod
    def box(cls, spacing_mm: float) -> Grid:
        """The whole field of view, 176 x 224 x 176 mm, which every spacing covers from the same corner."""
        shape = tuple(int(n) for n in np.ceil(BOX_MM / spacing_mm - 1e-6))
        origin = tuple(float(o) for o in BOX_LOW_MM + spacing_mm / 2)
        return cls(origin, shape, float(spacing_mm))  # type: ignore[arg-type]

    @property
    def affine(self) -> NDArray[np.float64]:
        """Voxel to MNI millimetres, 4 x 4, axes right, anterior, superior."""
        affine = np.diag([self.spacing_mm] * 3 + [1.0])
        affine[:3, 3] = self.origin_mm
        return affine

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel in millilitres."""
        return self.spacing_mm**3 / 1000

    def axis_mm(self, axis: int) -> Array:
        """Positions of the voxel centres along one axis, mm."""
        return (self.origin_mm[axis] + self.spacing_mm * np.arange(self.shape[axis])).astype(np.float32)

    def points_mm(self) -> Array:
        """Positions of all voxel centres, [3, X, Y, Z], mm."""
        return np.stack(np.meshgrid(*(self.axis_mm(a) for a in range(3)), indexing="ij"))

    def sample(self, volume: Array, points_mm: Array, outside: float | None = None) -> Array:
        """Values of a volume on this grid at points [3, ...] in mm, linear; beyond the grid its edge, or `outside`."""
        origin = np.asarray(self.origin_mm, np.float32).reshape(3, *([1] * (points_mm.ndim - 1)))
        index = (points_mm - origin) / np.float32(self.spacing_mm)
        mode, cval = ("nearest", 0.0) if outside is None else ("constant", outside)
        return ndimage.map_coordinates(volume, index, order=1, mode=mode, cval=cval, output=np.float32)


def turned(matrix: NDArray[np.float64], angles: Iterable[float]) -> NDArray[np.float64]:
    """A 3 x 3 matrix turned about the first axis, then the second, then the third, by three angles in radians."""
    for angle, (i, j) in zip(angles, ((1, 2), (0, 2), (0, 1)), strict=True):
        turn = np.eye(3)
        turn[i, i] = turn[j, j] = np.cos(angle)
        turn[i, j], turn[j, i] = -np.sin(angle), np.sin(angle)
        matrix = turn @ matrix
    return matrix


@dataclass(frozen=True)
class Field:
    """A smooth random field over the box: cubic B-splines with independent normal weights, variance about one."""

    knots_mm: float
    weights: Array

    @classmethod
    def draw(cls, rng: np.random.Generator, knots_mm: float) -> Field:
        """Draw a field whose bumps are about two knots wide."""
        shape = np.ceil(BOX_MM / knots_mm).astype(int) + 4
        # A cubic B-spline's squared taps sum to 0.4795 on average, per axis.
        return cls(knots_mm, rng.standard_normal(shape, dtype=np.float32) / np.float32(0.4795**1.5))

    def on(self, grid: Grid) -> Array:
        """The field at the voxels of a grid, [X, Y, Z]; one axis after the other, since B-splines are separable."""
        values: Array = self.weights
        for axis in range(3):
            position = np.clip((grid.axis_mm(axis) - BOX_LOW_MM[axis]) / self.knots_mm + 1, 1, values.shape[axis] - 3)
            knot = np.floor(position).astype(int)
            t = (position - knot).astype(np.float32)
            taps = ((1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3)
            along = tuple(-1 if a == axis else 1 for a in range(3))
            values = sum(
                np.take(values, knot + i - 1, axis=axis) * (tap / 6).astype(np.float32).reshape(along)
                for i, tap in enumerate(taps)
            )  # type: ignore[assignment]
        return values


def displacement(source: Array, spacing_mm: float) -> Array:
    """Smallest displacement u [3, X, Y, Z] in mm with div u = `source`: the gradient of a potential, zero at the box.

    A growing mass has a positive source, CSF that is squeezed out a negative one; elsewhere tissue keeps its volume.
    The Poisson equation is solved exactly on the grid by the discrete sine transform.
    """
    transformed = fft.dstn(source.astype(np.float64), type=1)
    eigenvalue = sum(
        (2 * np.cos(np.pi * np.arange(1, n + 1) / (n + 1)) - 2).reshape([-1 if a == axis else 1 for a in range(3)])
        for axis, n in enumerate(source.shape)
    )
    potential = fft.idstn(transformed / eigenvalue, type=1) * spacing_mm**2
    return np.stack(np.gradient(potential, spacing_mm)).astype(np.float32)


@dataclass(frozen=True)
class Atlas:
    """The maps on the template's 1 mm grid, each [197, 233, 189] float32.

    `depth_mm` is the distance to the brain's edge (negative outside), `ventricle` the inner CSF spaces in 0..1 and
    `rim` what lies within some millimetres of them, `nuclei` the T1 template's departure from a mix of pure tissues, in
    units of the grey-white contrast. `widening_mm` [3, ...] on `coarse` is how ventricles of twice the volume would
    displace the brain.
    """

    grid: Grid
    gm: Array
    wm: Array
    depth_mm: Array
    ventricle: Array
    rim: Array
    nuclei: Array
    coarse: Grid
    widening_mm: Array


@lru_cache(maxsize=4)
def load_atlas(blur_mm: float) -> Atlas:
    """The atlas, smoothed by a Gaussian of `blur_mm` (standard deviation) for coarser grids; made once a process."""
    sharp = _template()
    if blur_mm == 0:
        return sharp
    gm, wm, ventricle = (ndimage.gaussian_filter(m, blur_mm) for m in (sharp.gm, sharp.wm, sharp.ventricle))
    return replace(sharp, gm=gm, wm=wm, ventricle=ventricle)


@lru_cache(maxsize=1)
def _template() -> Atlas:
    t1, gm, wm = (
        np.asarray(load(resolution=1).dataobj, np.float32)
        for load in (load_mni152_template, load_mni152_gm_template, load_mni152_wm_template)
    )
    box = ndimage.find_objects((t1 > 0).astype(np.uint8))[0]
    around = tuple(slice(max(s.start - 6, 0), s.stop + 6) for s in box)
    t1, gm, wm = t1[around], gm[around], wm[around]
    corner = load_mni152_template(resolution=1).affine[:3, 3] + [s.start for s in around]
    grid = Grid(tuple(float(v) for v in corner), t1.shape, 1.0)  # type: ignore[arg-type]
    brain = ndimage.binary_fill_holes((t1 > 0) | (gm + wm > 0.3))
    brain = ndimage.binary_opening(brain, iterations=2)
    depth = ndimage.distance_transform_edt(brain) - ndimage.distance_transform_edt(~brain)
    total = gm + wm
    gm, wm = (np.where(brain, m / np.maximum(total, 1), 0).astype(np.float32) for m in (gm, wm))
    csf = np.where(brain, 1 - gm - wm, 0)

    inner, count = ndimage.label((csf > 0.5) & (depth > 22))
    sizes = ndimage.sum_labels(np.ones_like(inner), inner, np.arange(1, count + 1))
    ventricle = ndimage.binary_dilation(np.isin(inner, 1 + np.flatnonzero(sizes > 400)), iterations=3) * csf

    pure = [float(t1[tissue > 0.95].mean(dtype=np.float64)) for tissue in (gm, wm, csf)]
    mixed = sum(level * tissue for level, tissue in zip(pure, (gm, wm, csf)))
    nuclei = np.where(brain, (t1 - mixed) / (pure[1] - pure[0]), 0).astype(np.float32)
    # Below 2 mm the residual is the blurred cortex; what lasts beyond it are nuclei, tracts and the brain stem.
    nuclei = np.clip(ndimage.gaussian_filter(nuclei, 1.5), -0.6, 0.6) * np.clip((depth - 12) / 8, 0, 1)
    rim = np.clip(3 * ndimage.gaussian_filter(ventricle, 2.5), 0, 1)
    depth, ventricle, rim, nuclei = (m.astype(np.float32) for m in (depth, ventricle, rim, nuclei))
    coarse = Grid.box(4.0)
    inner_csf = grid.sample(ndimage.gaussian_filter(ventricle, 1.5), coarse.points_mm(), outside=0.0)
    taper = np.clip(grid.sample(depth, coarse.points_mm(), outside=-20.0) / 20, 0, 1)
    return Atlas(grid, gm, wm, depth, ventricle, rim, nuclei, coarse, displacement(inner_csf, 4.0) * taper)


@dataclass(frozen=True)
class Person:
    """One healthy brain: an affine map and smooth displacements into the atlas, and the width of its CSF spaces.

    `warps` are three-component displacements from coarse (shape of the head) to fine (course of the gyri), each with
    its amplitude in mm; `sulcal_width` and `ventricles` grow with age; `edge` makes the skull strip uneven; `lopsided`
    is how much wider the right ventricle is than the left.
    """

    matrix: NDArray[np.float64]
    warps: tuple[tuple[float, tuple[Field, ...]], ...]
    sulci: Field
    sulcal_width: float
    ventricles: float
    edge: Field
    lopsided: float = 0.0

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Person:
        """Draw a person; brains of 1.3 to 1.9 litres, as in patients (the template itself has 1.9)."""
        scale = np.exp(rng.normal(0, 0.016, 3)) * np.exp(rng.normal(np.log(0.95), 0.018))
        matrix = np.diag(1 / scale)
        matrix = turned(matrix, rng.normal(0, np.deg2rad([2, 2, 3])))
        warps = tuple(
            (float(rng.uniform(low, high)), tuple(Field.draw(rng, knots) for _ in range(3)))
            for knots, low, high in ((48.0, 2.5, 4.0), (22.0, 0.8, 1.4), (11.0, 0.9, 1.4), (6.0, 0.4, 0.7))
        )
        sulci, edge = Field.draw(rng, 20.0), Field.draw(rng, 9.0)
        age = rng.uniform(0, 1)
        sulcal_width, ventricles = 0.4 + 0.9 * age + rng.normal(0, 0.1), 1.3 * age - 0.5 + rng.normal(0, 0.15)
        return cls(matrix, warps, sulci, float(sulcal_width), float(ventricles), edge)

    def further(self, rng: np.random.Generator) -> Person:
        """The same person further from the average: form, ventricles, atrophy, two unequal halves."""
        # The fine displacements are near the steepness at which they would fold.
        ranges = [(0.7, 1.7) if fields[0].knots_mm > 15 else (0.8, 1.25) for _, fields in self.warps]
        warps = tuple(
            (amplitude * float(rng.uniform(*span)), fields)
            for span, (amplitude, fields) in zip(ranges, self.warps, strict=True)
        )
        stretch = np.diag(np.exp(rng.uniform(-0.035, 0.035, 3)))
        return replace(
            self,
            matrix=self.matrix @ stretch,
            warps=warps,
            sulcal_width=float(self.sulcal_width + rng.normal(0.05, 0.25)),
            ventricles=float(self.ventricles + rng.uniform(-0.3, 0.9)),
            lopsided=float(np.clip(rng.normal(0, 0.3), -0.7, 0.7)),
        )

    def to_atlas_mm(self, grid: Grid) -> Array:
        """Where in the atlas each voxel of a grid comes from, [3, X, Y, Z], mm."""
        axes = [grid.axis_mm(a) - np.float32(BRAIN_CENTRE_MM[a]) for a in range(3)]
        x, y, z = axes[0][:, None, None], axes[1][:, None], axes[2]
        atlas_mm = np.empty((3, *grid.shape), np.float32)
        for i in range(3):
            a, b, c = self.matrix[i].astype(np.float32)
            atlas_mm[i] = (a * x + b * y) + (c * z + np.float32(BRAIN_CENTRE_MM[i]))
            for amplitude, fields in self.warps:
                atlas_mm[i] += np.float32(amplitude) * fields[i].on(grid)
        atlas = load_atlas(0.0)
        widening = [atlas.coarse.sample(atlas.widening_mm[i], atlas_mm) for i in range(3)]
        width: Array | np.float32 = np.float32(self.ventricles)
        if self.lopsided:
            width = width + np.float32(self.lopsided) * np.tanh(atlas_mm[0] / 12)
        for i in range(3):
            atlas_mm[i] -= width * widening[i]
        return atlas_mm

    def tissues(self, atlas: Atlas, atlas_mm: Array, sulci: Array) -> dict[str, Array]:
        """Fractions `gm`, `wm`, `csf` (sum one) and the atlas's other maps at atlas positions [3, ...].

        Powers of the probabilities, normalised, give back the sharp borders that averaging over people blurred;
        `sulci` (this person's field at the same points) widens or narrows the CSF spaces from place to place.
        """
        gm, wm = (np.clip(atlas.grid.sample(m, atlas_mm, outside=0.0), 0, 1) for m in (atlas.gm, atlas.wm))
        csf = np.clip(1 - gm - wm, 0, 1)
        gain = np.exp(np.float32(self.sulcal_width) + 0.45 * sulci)
        gm, wm, csf = gm**3, wm**3, (gain * csf) ** 3
        furrow = _folia(atlas_mm, sulci) * gm
        gm, csf = gm - furrow, csf + furrow
        total = np.maximum(gm + wm + csf, np.float32(1e-6))
        fractions = {"gm": gm / total, "wm": wm / total, "csf": csf / total}
        for name, outside in (("depth_mm", -20.0), ("ventricle", 0.0), ("rim", 0.0), ("nuclei", 0.0)):
            fractions[name] = atlas.grid.sample(getattr(atlas, name), atlas_mm, outside=outside)
        return fractions


def hindbrain(atlas_mm: Array) -> Array:
    """Share of cerebellum and brain stem, 0..1, at atlas positions [3, ...]; edges of some millimetres."""
    x, y, z = atlas_mm
    cerebellum = np.clip((-10 - z) / 5, 0, 1) * np.clip((-40 - y) / 5, 0, 1)
    stem = np.clip((-6 - z) / 5, 0, 1) * np.clip((18 - np.abs(x)) / 4, 0, 1) * np.clip((-12 - y) / 5, 0, 1)
    return np.maximum(cerebellum, stem)


def _folia(atlas_mm: Array, uneven: Array) -> Array:
    """Share of CSF, 0..1, in the furrows between the folia of the cerebellum, which the average has blurred away.

    Folia fan out from the fourth ventricle in the sagittal plane, a furrow every 9 degrees or so.
    """
    x, y, z = atlas_mm
    cerebellum = np.clip((-12 - z) / 4, 0, 1) * np.clip((-46 - y) / 5, 0, 1) * np.clip((52 - np.abs(x)) / 4, 0, 1)
    angle = np.arctan2(z + 32, -(y + 42)) + 0.0022 * np.abs(x)
    radius = np.hypot(z + 32, y + 42)
    wave = np.cos(40 * angle + 3 * uneven)
    return cerebellum * np.clip(2.5 * (wave - 0.55), 0, 1) * np.clip((radius - 14) / 8, 0, 1) * np.float32(0.4)
