"""Diffusion and perfusion: two maps beyond the four sequences, which see what relaxation times do not.

`adc` is the apparent diffusion coefficient in 1e-6 mm^2/s (cells hinder water), `rcbv` the relative cerebral blood
volume, white matter = 1 (tumours of high grade grow vessels). Both have, beside each tissue's value, fields of their
own, cell density and capillaries, that appear in none of the four sequences.

Diffusion: white matter 0.76e-3 and enhancing glioblastoma 0.96e-3 mm^2/s (Toh et al., AJNR 29:471, 2008); solid tumour
of grade II 1.14e-3, above glioblastoma, and falling with cellularity (Kono et al., AJNR 22:1081, 2001); necrosis 1.9 to
2.4e-3 (doi 10.1371/journal.pone.0162565); free water at 37 degrees, and so CSF, 3.0e-3 (Holz, Heil and Sacco,
Phys. Chem. Chem. Phys. 2:4740, 2000). Vasogenic oedema lies between, 1.4e-3.

Blood volume: grey matter 5.0 and white matter 1.8 ml/100 g by contrast-enhanced MRI (PMC5801598), and a ratio nearer
to 2 by positron emission; high-grade glioma 5.4, low-grade astrocytoma 1.75 and the brain around
them 2.2 and 1.2 (Bulakbasi et al., AJNR 26:2187, 2005); corrected for leakage 3.96 in grade IV and 1.52 in grade II
(Boxerman, Schmainda and Weisskoff, AJNR 27:859, 2006); raised to 1 or 2 cm beyond the enhancing edge in half of the
high-grade gliomas (Price et al., AJNR 32:501, 2011).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from .atlas import Array, Field, Grid
from .signal import MODALITIES, Body, average_slices

EXTENDED = (*MODALITIES, "adc", "rcbv")
B_S_PER_MM2 = 1000.0

# Diffusion in 1e-6 mm^2/s and blood volume relative to white matter.
_TISSUES: Mapping[str, tuple[float, float]] = MappingProxyType(
    {
        "wm": (740, 1.0),
        "gm": (830, 2.7),
        "csf": (3000, 0.1),
        "gliosis": (1000, 0.7),
        "oedema": (1560, 0.65),
        "solid": (1000, 3.0),
        "enhancing": (920, 5.6),
        "necrosis": (2100, 0.1),
        "vessel": (1600, 13.0),
        "meninges": (1100, 3.0),
        "plexus": (1700, 5.0),
    }
)
_LOW_GRADE: Mapping[str, tuple[float, float]] = MappingProxyType({"solid": (1320, 1.25)})
# What a core may hold beside tumour, and what a skull strip leaves; not drawn, as they are in few patients.
_SELDOM: Mapping[str, tuple[float, float]] = MappingProxyType(
    {"blood": (900, 0.1), "chalk": (700, 0.1), "fluid": (2800, 0.1), "scalp": (1200, 1.0)}
)
_TUMOUR = ("solid", "enhancing", "necrosis")


@dataclass(frozen=True)
class EchoPlanar:
    """A fast acquisition: large voxels, noise, and anatomy shifted along y where air in the skull bends the field.

    `noise` is a share of white matter's signal (diffusion) or of its blood volume; `shift_mm` the largest shift.
    """

    te_ms: float
    in_plane_mm: float
    thickness_mm: float
    noise: float
    shift_mm: float


DIFFUSION: Mapping[str, EchoPlanar] = MappingProxyType(
    {
        "A": EchoPlanar(75, 1.8, 3.0, 0.022, 3.0),
        "B": EchoPlanar(92, 2.2, 5.0, 0.030, 5.0),
        "C": EchoPlanar(100, 2.4, 5.0, 0.036, 4.5),
    }
)
PERFUSION: Mapping[str, EchoPlanar] = MappingProxyType(
    {
        "A": EchoPlanar(30, 2.0, 4.0, 0.15, 3.5),
        "B": EchoPlanar(35, 2.4, 5.0, 0.20, 5.5),
        "C": EchoPlanar(40, 2.6, 6.0, 0.24, 5.0),
    }
)


@dataclass(frozen=True)
class Physiology:
    """One patient's diffusion and blood volume by tissue, and the fields that vary them from place to place.

    `reach_mm` is how far the tumour's cells and vessels reach into the oedema, `spread` the blood volume that they add.
    """

    diffusion: Mapping[str, float]
    volume: Mapping[str, float]
    cells: Field
    capillaries: Field
    reach_mm: float
    spread: float

    @classmethod
    def draw(cls, rng: np.random.Generator, grade: str) -> Physiology:
        """Draw a patient of grade `low` or `high`: little spread in healthy tissue, more in the tumour."""
        diffusion, volume = ({name: values[i] for name, values in _SELDOM.items()} for i in range(2))
        for name, values in _TISSUES.items():
            adc, cbv = _LOW_GRADE.get(name, values) if grade == "low" else values
            sick = name in (*_TUMOUR, "oedema")
            a, b = np.exp(rng.normal(0, [0.08 if sick else 0.02, 0.2 if sick else 0.06]))
            diffusion[name], volume[name] = float(min(adc * a, 3100)), float(cbv * b)
        cells, capillaries = Field.draw(rng, 7.0), Field.draw(rng, 6.0)
        reach, spread = float(rng.uniform(4, 9)), float(rng.uniform(0.6, 1.6))
        return cls(
            MappingProxyType(diffusion), MappingProxyType(volume), cells, capillaries, reach,
            0.15 * spread if grade == "low" else spread,
        )  # fmt: skip


@dataclass(frozen=True)
class Scene:
    """A patient at the voxels of a grid: `inside` the brain, [X, Y, Z]; all other maps are [voxels inside].

    `fractions` is the share of each tissue, `core_mm` the distance to the tumour core's surface, negative outside.
    """

    grid: Grid
    inside: NDArray[np.bool_]
    fractions: Mapping[str, Array]
    core_mm: Array


def signal_at(b_s_per_mm2: float, te_ms: float, scene: Scene, body: Body, physiology: Physiology) -> Array:
    """Spin-echo signal under a diffusion weighting, [voxels]: rho exp(-TE/T2) exp(-b D), summed over tissues.

    (Stejskal and Tanner, J. Chem. Phys. 42:288, 1965. Voxels of two tissues therefore mix signals, not coefficients.)
    """
    cells = physiology.cells.on(scene.grid)[scene.inside]
    near = np.exp(np.clip(scene.core_mm, -60, 0) / physiology.reach_mm)
    total = np.zeros_like(scene.core_mm)
    for name, share in scene.fractions.items():
        tissue, diffusion = body.tissues[name], physiology.diffusion[name]
        if name in _TUMOUR:
            varied = diffusion * np.exp(np.float32(-0.13) * cells)
        elif name == "oedema":
            varied = diffusion * (1 - 0.12 * min(physiology.spread, 1) * near) * np.exp(np.float32(-0.08) * cells)
        else:
            varied = diffusion * np.exp(np.float32(-0.03 * (name != "csf")) * cells)
        weight = tissue.density * np.exp(-te_ms / tissue.t2_ms)
        total += share * weight * np.exp(-b_s_per_mm2 * 1e-6 * varied)
    return total


def blood_volume(scene: Scene, physiology: Physiology) -> Array:
    """Blood volume of the mixture in each voxel, [voxels], in units of an average white matter's."""
    capillaries = physiology.capillaries.on(scene.grid)[scene.inside]
    near = np.exp(np.clip(scene.core_mm, -60, 0) / physiology.reach_mm)
    total = np.zeros_like(scene.core_mm)
    for name, share in scene.fractions.items():
        volume = physiology.volume[name]
        amount = 0.38 if name in ("solid", "enhancing") else 0.12 if name in ("gm", "wm", "oedema") else 0.0
        added = physiology.spread * near if name == "oedema" else 0.0
        total += share * (volume + added) * np.exp(np.float32(amount) * capillaries)
    return total


def acquire_maps(
    scene: Scene, body: Body, physiology: Physiology, site: str, seed: int, site_number: int
) -> dict[str, NDArray[Any]]:
    """The maps as a scanner's console gives them, zero outside the brain.

    Returns:
        `adc` int16 in 1e-6 mm^2/s; `rcbv` float32 in hundredths, white matter = 1 on average.
    """
    spacing = round(1000 * scene.grid.spacing_mm)

    def streams(channel: int) -> tuple[int, np.random.Generator]:
        session = np.random.default_rng([seed, 10 + channel, site_number])
        return int(session.integers(2**32)), np.random.default_rng([seed, 20 + channel, site_number, spacing])

    return {
        "adc": _adc(scene, body, physiology, DIFFUSION[site], *streams(4)),
        "rcbv": _rcbv(scene, physiology, PERFUSION[site], *streams(5)),
    }


def _adc(
    scene: Scene, body: Body, physiology: Physiology, scan: EchoPlanar, session: int, noise: np.random.Generator
) -> NDArray[np.int16]:
    """ln(S0 / Sb) / b of two noisy images."""
    csf, white = (body.tissues[name] for name in ("csf", "wm"))
    sigma = scan.noise * white.density * np.exp(-scan.te_ms / white.t2_ms)
    images = []
    for b in (0.0, B_S_PER_MM2):
        surround = csf.density * np.exp(-scan.te_ms / csf.t2_ms - b * 1e-6 * physiology.diffusion["csf"])
        image = _echo_planar(signal_at(b, scan.te_ms, scene, body, physiology), surround, scene, scan, session)
        real, imaginary = (_coarse_noise(scene.grid, scan, noise) for _ in range(2))
        images.append(np.hypot(image + sigma * real, sigma * imaginary))
    adc = 1e6 / B_S_PER_MM2 * np.log(images[0] / np.maximum(images[1], np.float32(1e-6)))
    return np.where(scene.inside, np.clip(np.rint(adc), 1, 4000), 0).astype(np.int16)


def _rcbv(
    scene: Scene, physiology: Physiology, scan: EchoPlanar, session: int, noise: np.random.Generator
) -> NDArray[np.float32]:
    """Blood volume with noise that grows with it and where signal is lost, divided by that of the white matter."""
    image = _echo_planar(blood_volume(scene, physiology), physiology.volume["csf"], scene, scan, session)
    lost = 1 + 2.5 * _air(scene.grid)
    image = image + scan.noise * lost * (0.7 + 0.3 * np.sqrt(image)) * _coarse_noise(scene.grid, scan, noise)
    values = image[scene.inside]
    values = values / np.average(values, weights=scene.fractions["wm"] ** 4)
    ratio = np.zeros(scene.inside.shape, np.float32)
    ratio[scene.inside] = np.clip(np.rint(100 * values), 1, 3000) / 100
    return ratio


def _echo_planar(signal: Array, surround: float, scene: Scene, scan: EchoPlanar, session: int) -> Array:
    """Fill the volume, shift it along y, blur it to the acquired voxels and average it over thick slices."""
    grid = scene.grid
    image = np.full(scene.inside.shape, surround, np.float32)
    image[scene.inside] = signal
    index = np.stack(np.meshgrid(*(np.arange(n, dtype=np.float32) for n in grid.shape), indexing="ij"))
    index[1] += np.float32(scan.shift_mm / grid.spacing_mm) * _air(grid)
    image = ndimage.map_coordinates(image, index, order=1, mode="nearest", output=np.float32)
    in_plane = 0.4 * scan.in_plane_mm / grid.spacing_mm
    image = ndimage.gaussian_filter(image, (in_plane, in_plane, 0))
    # The same session for both images of a pair: slices lie in the same places and are equally bright.
    return average_slices(image, grid, scan.thickness_mm, 2, np.random.default_rng(session))


def _air(grid: Grid) -> Array:
    """How strongly air bends the field, 0..1, [X, Y, Z]: above the sphenoid sinus and the petrous bones (MNI mm)."""
    total = np.zeros(grid.shape, np.float32)
    for centre, width in (((0, 34, -24), 13.0), ((-48, -20, -36), 11.0), ((48, -20, -36), 11.0)):
        x, y, z = (np.exp(-((grid.axis_mm(a) - centre[a]) ** 2) / np.float32(2 * width**2)) for a in range(3))
        total += x[:, None, None] * y[:, None] * z
    return np.minimum(total, 1)


def _coarse_noise(grid: Grid, scan: EchoPlanar, noise: np.random.Generator) -> Array:
    """Noise of standard deviation one per acquired voxel, less where the grid averages over several of them."""
    size = np.array([scan.in_plane_mm, scan.in_plane_mm, scan.thickness_mm])
    blur = 0.35 * size / grid.spacing_mm
    values = ndimage.gaussian_filter(noise.standard_normal(grid.shape, dtype=np.float32), blur)
    finer = np.sqrt(np.minimum(size / grid.spacing_mm, 1).prod())
    return values * np.float32(finer / values.std())
