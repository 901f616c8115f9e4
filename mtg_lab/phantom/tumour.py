"""A glioma: how it grows, what it is made of, and how it pushes the brain.

Cells follow the Fisher-Kolmogorov equation, dc/dt = div(D grad c) + rho c (1 - c), with a larger diffusion D in white
than in grey matter and none in CSF (Swanson, Alvord and Murray, Cell Prolif. 33:317, 2000). Oedema is a second front of
the same equation that starts at the tumour and is all but confined to white matter. Everything happens on one grid of
2 mm whatever the scan's spacing, so that a patient keeps the same tumour at every spacing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from .atlas import BOX_LOW_MM, BOX_MM, Array, Field, Grid, Person, displacement, load_atlas

GROWTH_MM = 2.0
PUSH_MM = 4.0
REACH_MM = 74.0
_RARITY = {"ring": 0.38, "thin": 0.1, "solid": 0.14, "patchy": 0.14, "cystic": 0.08, "low": 0.16}
NECROSIS, OEDEMA, ENHANCING = 1, 2, 3


@dataclass(frozen=True)
class Biology:
    """What kind of tumour a patient has.

    `pattern` is `ring` (necrosis within an enhancing rim), `solid` (mostly enhancing), `patchy` (a non-enhancing
    core with enhancing spots) or `low` (no enhancement, the only one of grade `low`). Volumes in ml, rim in mm;
    `expansion` is the share of the core's volume that had to be made by pushing tissue away. Beyond the plain phantom
    there are `thin` (a ring with hardly a rim) and `cystic` (a cyst with an enhancing knot in its wall), an oedema
    whose edge is `softness` times as wide, and tumours `anywhere`, also below the tentorium.
    """

    grade: str
    pattern: str
    foci: int
    core_ml: float
    oedema_ml: float
    rim_mm: float
    expansion: float
    softness: float = 1.0
    anywhere: bool = False

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Biology:
        """Draw kind and sizes with the frequencies and volumes of BraTS: one in four low grade, one in six bifocal."""
        pattern = str(rng.choice(["ring", "solid", "patchy", "low"], p=[0.48, 0.15, 0.15, 0.22]))
        core = float(np.clip(np.exp(rng.normal(np.log(22), 0.65)), 4, 70))
        oedema = float(np.clip(np.exp(rng.normal(np.log(50), 0.6)), 8, 130))
        if pattern == "low":
            core, oedema = float(np.clip(1.5 * core, 8, 80)), 0.4 * oedema
        elif pattern == "patchy":
            core *= 0.6
        return cls(
            grade="low" if pattern == "low" else "high",
            pattern=pattern,
            foci=2 if rng.random() < 0.17 else 1,
            core_ml=core,
            oedema_ml=oedema,
            rim_mm=float(rng.uniform(2.5, 5.5)),
            expansion=float(rng.uniform(0.4, 1.2)),
        )

    @classmethod
    def draw_any(cls, rng: np.random.Generator) -> Biology:
        """Draw from wider ranges than BraTS has, so that what is met in a clinic lies within them."""
        pattern = str(rng.choice([*_RARITY], p=[*_RARITY.values()]))
        core = float(np.clip(np.exp(rng.normal(np.log(20), 0.95)), 0.8, 120))
        oedema = float(np.clip(np.exp(rng.normal(np.log(45), 0.9)), 1, 180)) * (0.3 if pattern == "low" else 1)
        return cls(
            grade="low" if pattern == "low" else "high",
            pattern=pattern,
            foci=int(rng.choice([1, 2, 3, 4], p=[0.74, 0.15, 0.07, 0.04])),
            core_ml=core,
            oedema_ml=1.0 if rng.random() < 0.07 else oedema,
            rim_mm=float(rng.uniform(0.3, 1.2) if pattern == "thin" else rng.uniform(1.4, 8)),
            expansion=float(rng.uniform(0.1, 1.4)),
            softness=float(np.exp(rng.uniform(np.log(0.6), np.log(2.2)))),
            anywhere=bool(rng.random() < 0.12),
        )


@dataclass(frozen=True)
class Tumour:
    """A grown tumour in the anatomy as it was before it was pushed.

    `core_mm` is the distance to the core's surface (positive inside) and `oedema` the water of the oedema in 0..1, both
    on `grid`; `push_mm` [3, X, Y, Z] on `push_grid` says how far each voxel's tissue was moved to where it is now.
    """

    biology: Biology
    grid: Grid
    core_mm: Array
    oedema: Array
    push_grid: Grid
    push_mm: Array
    seeds_mm: tuple[tuple[float, float, float], ...]
    texture: tuple[Field, ...]


def grow(
    density: Array, diffusion: Array, proliferation: Array, target_voxels: float, max_steps: int = 500,
    along: Array | None = None,
) -> Array:  # fmt: skip
    """Run the Fisher-Kolmogorov equation until `target_voxels` hold more than half of the carrying capacity.

    Args:
        density: cells at the start, [X, Y, Z], 0..1.
        diffusion: D in voxels squared a step, at most 1/6 (the explicit scheme's limit of stability); zero stops it.
        proliferation: rho in 1/step.
        target_voxels: volume at which growth stops.
        max_steps: growth that is walled in stops here.
        along: D along each axis in units of `diffusion`, [3, X, Y, Z], summing to 3 at most (stability again).

    Returns:
        The density afterwards, [X, Y, Z]; nothing flows through a face of which one side has D = 0.
    """
    density = density.copy()
    lower = [tuple(slice(0, -1) if a == axis else slice(None) for a in range(3)) for axis in range(3)]
    upper = [tuple(slice(1, None) if a == axis else slice(None) for a in range(3)) for axis in range(3)]
    axes = [diffusion if along is None else diffusion * along[axis] for axis in range(3)]
    face = [2 * d[lo] * d[up] / np.maximum(d[lo] + d[up], np.float32(1e-9)) for d, lo, up in zip(axes, lower, upper)]
    growth = np.where(diffusion > 0, proliferation, 0).astype(np.float32)
    for _ in range(max_steps):
        change = growth * density * (1 - density)
        for lo, up, conductance in zip(lower, upper, face):
            flux = conductance * (density[up] - density[lo])
            change[lo] += flux
            change[up] -= flux
        density += change
        if np.count_nonzero(density > 0.5) >= target_voxels:
            break
    return density


def _region(centre_mm: NDArray[np.float64], reach_mm: float) -> Grid:
    """The part of the box's 2 mm grid within reach of a point."""
    first = np.floor((centre_mm - reach_mm - BOX_LOW_MM) / GROWTH_MM).clip(0).astype(int)
    last = np.ceil((centre_mm + reach_mm - BOX_LOW_MM) / GROWTH_MM).astype(int)
    last = np.minimum(last, np.floor(BOX_MM / GROWTH_MM).astype(int))
    origin = BOX_LOW_MM + GROWTH_MM * (first + 0.5)
    return Grid(tuple(map(float, origin)), tuple(map(int, last - first)), GROWTH_MM)  # type: ignore[arg-type]


def _seeds(
    rng: np.random.Generator, biology: Biology, brain: dict[str, Array], atlas_mm: Array, grid: Grid
) -> NDArray[np.float64]:
    """Places for the foci, [foci, 3] mm: cerebral white matter, since gliomas of adults spare cerebellum and stem."""
    x, y, z = atlas_mm
    below_tentorium = ((z < -8) & (y < -38)) | ((np.abs(x) < 20) & (z < -2) & (y < -8)) | (z < -30)
    allowed = (brain["wm"] > 0.5) & (brain["depth_mm"] > 11)
    if not biology.anywhere:
        allowed &= ~below_tentorium & (np.abs(x) > 9)
    places = grid.points_mm()[:, allowed].T.astype(np.float64)
    seeds = [places[rng.integers(len(places))]]
    distance = np.linalg.norm(places - seeds[0], axis=1)
    near = places[(distance > 26) & (distance < 44)]
    seeds += [near[rng.integers(len(near))] if len(near) else seeds[0] for _ in range(biology.foci - 1)]
    return np.stack(seeds) + rng.uniform(-1, 1, (biology.foci, 3))


def grow_tumour(person: Person, biology: Biology, rng: np.random.Generator, tracts: bool = False) -> Tumour:
    """Grow a tumour of the given biology in a person's brain.

    Args:
        person: the healthy anatomy.
        biology: kind and target volumes before the push.
        rng: draws seeds and heterogeneity, the same ones at every spacing.
        tracts: cells and water spread along the white matter's sheets rather than across them.
    """
    push_grid = Grid.box(PUSH_MM)
    atlas_mm = person.to_atlas_mm(push_grid)
    brain = person.tissues(load_atlas(1.2), atlas_mm, person.sulci.on(push_grid))
    seeds = _seeds(rng, biology, brain, atlas_mm, push_grid)
    heterogeneity = [Field.draw(rng, knots) for knots in (14.0, 6.0)]
    texture = tuple(Field.draw(rng, knots) for knots in (11.0, 6.5, 4.0, 2.6, 9.0, 5.0))

    centre = seeds.mean(axis=0)
    grid = _region(centre, REACH_MM)
    tissue = person.tissues(load_atlas(0.6), person.to_atlas_mm(grid), person.sulci.on(grid))
    inside = (tissue["csf"] < 0.5) & (tissue["depth_mm"] > 1.0)
    # Growth slows down before it meets the end of the grid, which would cut it flat.
    points = grid.points_mm()
    away = np.sqrt(((points - centre.reshape(3, 1, 1, 1).astype(np.float32)) ** 2).sum(axis=0))
    within = np.clip((REACH_MM - 3 - away) / 25, 0, 1)
    uneven = 0.8 * heterogeneity[0].on(grid) + 0.5 * heterogeneity[1].on(grid)
    cells = np.zeros(grid.shape, np.float32)
    for i, seed in enumerate(seeds):
        radius = 5.0 if i == 0 else 4.0
        cells[((points - seed.reshape(3, 1, 1, 1).astype(np.float32)) ** 2).sum(axis=0) < radius**2] = 0.9
    cells *= inside

    speed = within * np.exp(np.clip(uneven, -1.5, 1.0)) / np.float32(np.e)
    along = np.where(inside, 0.16 * (tissue["wm"] + 0.35 * tissue["gm"]) * speed, 0).astype(np.float32)
    rate = (0.3 * speed).astype(np.float32)
    ways = along_sheets(tissue["wm"]) if tracts else None
    cells = grow(cells, along, rate, biology.core_ml / grid.voxel_ml, along=ways)
    core = ndimage.gaussian_filter((cells > 0.5).astype(np.float32), 0.6) > 0.5
    core &= inside
    core_mm = ndimage.distance_transform_edt(core) - ndimage.distance_transform_edt(~core)
    core_mm = ndimage.gaussian_filter(core_mm.astype(np.float32) * np.float32(GROWTH_MM), 0.5)

    # Fluid follows the white matter and stops at the cortex: that is what draws the fingers.
    permeable = (
        np.clip(tissue["wm"] + 0.03 * tissue["gm"], 0, 1) ** 1.5 * within * np.exp(0.35 * np.clip(uneven, -2, 1.5))
    )
    along = np.where(inside, 0.16 * np.clip(permeable, 0, 1), 0).astype(np.float32)
    whole_voxels = np.count_nonzero(core) + biology.oedema_ml / grid.voxel_ml
    oedema = grow(np.where(core, 1, 0).astype(np.float32), along, 0.12 * permeable, whole_voxels, along=ways)

    push_mm = _push(biology, grid, core_mm, oedema, push_grid, brain)
    return Tumour(biology, grid, core_mm, oedema, push_grid, push_mm, tuple(map(tuple, seeds.tolist())), texture)


def along_sheets(white: Array) -> Array:
    """Diffusion along each axis in units of the isotropic one, [3, X, Y, Z], summing to 3: little across a sheet.

    Without a diffusion scan the white matter's own shape tells where fibres cannot run: across its sheets. Their normal
    is the first eigenvector of the structure tensor of its probability (Bigun and Granlund, ICCV 1987).
    """
    gradient = np.stack(np.gradient(ndimage.gaussian_filter(white, 0.8)))
    tensor = np.empty((*white.shape, 3, 3), np.float32)
    for i in range(3):
        for j in range(i, 3):
            tensor[..., i, j] = tensor[..., j, i] = ndimage.gaussian_filter(gradient[i] * gradient[j], 1.2)
    strength, axes = np.linalg.eigh(tensor)
    normal = np.moveaxis(axes[..., 2], -1, 0)
    sure = (strength[..., 2] - strength[..., 1]) / np.maximum(strength[..., 2] + np.float32(1e-4), np.float32(1e-9))
    return (1 + 0.9 * sure * (0.5 - 1.5 * normal**2)).astype(np.float32)


def _push(
    biology: Biology, grid: Grid, core_mm: Array, oedema: Array, push_grid: Grid, brain: dict[str, Array]
) -> Array:
    """Mass effect, [3, X, Y, Z] mm: the tumour makes room, and CSF near it gives way (the Monro-Kellie doctrine)."""
    points = push_grid.points_mm()
    core = grid.sample(np.clip(core_mm / 4 + 0.5, 0, 1), points, outside=0.0)
    fluid = grid.sample(oedema, points, outside=0.0)
    swelling = biology.expansion * (core + 0.4 * np.clip(fluid - core, 0, 1))
    reach = ndimage.gaussian_filter(swelling, 30 / PUSH_MM)
    soft = brain["csf"] * (brain["depth_mm"] > 0) * reach / max(float(reach.max()), 1e-6)
    yielding = soft * min(float(swelling.sum() / max(soft.sum(), 1e-6)), 0.85 / max(float(soft.max()), 1e-6))
    moved = displacement(swelling - yielding, PUSH_MM)
    # The skull does not give way: the shift fades out over the last 2 cm.
    return moved * np.clip(brain["depth_mm"] / 20, 0, 1)


@dataclass(frozen=True)
class Parts:
    """Fractions of tumour tissue at the scan's voxels, each in 0..1, and the label 0..3."""

    necrosis: Array
    solid: Array
    enhancing: Array
    oedema: Array
    label: NDArray[np.uint8]


def divide(tumour: Tumour, scan: Grid, inside: NDArray[np.bool_], before_mm: Array, csf: Array) -> Parts:
    """Split the tumour into its parts at voxels of a scan.

    Args:
        tumour: the grown tumour.
        scan: the scan's grid; its random fields give edges and rim their roughness.
        inside: the brain's voxels, [X, Y, Z]; all other arrays are [voxels in it].
        before_mm: where each voxel's tissue was before the push, [3, voxels].
        csf: CSF fraction, [voxels].
    """
    biology = tumour.biology
    broad, middle, small, tiny, island, speck = (f.on(scan)[inside] for f in tumour.texture)
    depth = tumour.grid.sample(tumour.core_mm, before_mm, outside=-60.0)
    depth = depth + 0.9 * middle + 0.75 * small + 0.6 * tiny
    core = np.clip(depth / 1.6 + 0.5, 0, 1) * np.clip(1.6 - 2 * csf, 0, 1)

    rim_mm = biology.rim_mm * np.exp(0.45 * broad + 0.4 * small + 0.2 * tiny)
    if biology.pattern in ("ring", "thin"):
        ring = np.clip((rim_mm - depth) / 1.6 + 0.5, 0, 1)
        ring = np.maximum(ring, np.clip(1.6 * (island + 0.6 * speck - 2.2), 0, 1))
        ring = ring * np.clip(1.5 * (speck + 0.4 * tiny + 2.1), 0, 1)
    elif biology.pattern == "solid":
        ring = np.clip(2.5 * (1.5 - island - 0.4 * speck - np.clip(depth - 4, 0, 6) / 8), 0, 1)
    elif biology.pattern == "patchy":
        ring = np.clip(2.5 * (island + 0.6 * speck + 0.25 * tiny - 0.9), 0, 1) * (depth > 1.5)
    elif biology.pattern == "cystic":
        ring = np.clip(2.5 * (broad + 0.3 * small - 0.5), 0, 1) * np.clip((2 * rim_mm - depth) / 1.6 + 0.5, 0, 1)
    else:
        ring = np.zeros_like(depth)
    enhancing = core * ring
    rest = core - enhancing
    # A ring's inside is dead; other cores are living tumour that does not enhance, with a few cysts.
    dead = (
        np.clip((depth - 0.6 * rim_mm) / 2, 0, 1)
        if biology.pattern in ("ring", "thin")
        else np.clip(depth - 1, 0, 1)
        if biology.pattern == "cystic"
        else np.clip(2 * (speck + broad - 2.4), 0, 1)
    )
    fluid = tumour.grid.sample(tumour.oedema, before_mm, outside=0.0) + 0.09 * middle + 0.07 * small + 0.05 * tiny
    low, width = 0.45 - 0.25 * biology.softness, 0.5 * biology.softness
    fluid = np.clip((fluid - low) / width, 0, 1) * np.clip(1.6 - 2 * csf, 0, 1)
    oedema = np.clip(fluid * (tumour.grid.sample(tumour.oedema, before_mm, outside=0.0) > 0.02) - core, 0, 1)

    label = np.zeros(depth.shape, np.uint8)
    label[(oedema > 0.5) & (csf < 0.5)] = OEDEMA
    label[(core > 0.5) & (csf < 0.5)] = NECROSIS
    label[(core > 0.5) & (csf < 0.5) & (ring > 0.5)] = ENHANCING
    return Parts(rest * dead, rest * (1 - dead), enhancing, oedema, label)
