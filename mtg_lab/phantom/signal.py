"""From tissue to signal: relaxation times, sequence equations, contrast agent, and three scanners.

Relaxation times at 3 T (T1 / T2) lie between Wansapura et al. (J. Magn. Reson. Imaging 9:531, 1999: white matter
832 / 80 ms, grey matter 1331 / 110 ms) and Stanisz et al. (Magn. Reson. Med. 54:507, 2005: 1084 / 69 and 1820 / 99 ms;
blood 1932 / 275 ms). Relaxometry finds longer times in tumour and oedema, with much overlap (Just and Thelen,
Radiology 169:779, 1988, at 1.5 T); the values here, and the concentrations of contrast agent, are not measured ones but
were chosen in that sense so that the z-scores of t1c and t2f agree with those of three real gliomas (BraTS 2015).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from .artefacts import NONE, Mishaps
from .atlas import Array, Field, Grid

MODALITIES = ("t1n", "t1c", "t2w", "t2f")
# Relaxivities of Gd-DTPA in plasma at 3 T, 1/(mM s): Rohrer et al., Invest. Radiol. 40:715, 2005.
R1_PER_MM_S, R2_PER_MM_S = 3.7, 5.2


@dataclass(frozen=True)
class Tissue:
    """Relaxation times in ms, proton density relative to water, and contrast agent after injection in mM."""

    t1_ms: float
    t2_ms: float
    density: float
    gadolinium_mm: float = 0.0


TISSUES: Mapping[str, Tissue] = MappingProxyType(
    {
        "wm": Tissue(900, 72, 0.70, 0.01),
        "gm": Tissue(1550, 96, 0.82, 0.03),
        "csf": Tissue(4300, 1500, 1.00, 0.0),
        "gliosis": Tissue(1250, 115, 0.78, 0.015),
        "oedema": Tissue(1800, 190, 0.85, 0.02),
        "solid": Tissue(1900, 175, 0.85, 0.015),
        "enhancing": Tissue(1600, 145, 0.87, 0.15),
        "necrosis": Tissue(2350, 300, 0.93, 0.02),
        # Flowing blood leaves the slice before its echo: little signal without contrast agent.
        "vessel": Tissue(1900, 60, 0.55, 0.9),
        "meninges": Tissue(1300, 60, 0.60, 0.25),
        "plexus": Tissue(1800, 150, 0.90, 0.22),
    }
)

# Dura and fat together, where a skull strip leaves some.
SCALP = Tissue(480, 75, 0.85, 0.05)


@dataclass(frozen=True)
class Sequence:
    """One acquisition: `kind` is `spin_echo`, `inversion_recovery` or `spoiled_gradient_echo`; times in ms.

    `noise` is relative to the scanner's.
    """

    kind: str
    tr_ms: float
    te_ms: float
    ti_ms: float = 0.0
    flip_deg: float = 90.0
    thickness_mm: float = 1.0
    slice_axis: int = 2
    noise: float = 1.0

    def signal(self, t1_ms: Array | float, t2_ms: Array | float, density: Array | float) -> Array:
        """Magnitude of the signal, in units of the proton density of water.

        spin echo:              rho (1 - exp(-TR/T1)) exp(-TE/T2)
        inversion recovery:     rho |1 - 2 exp(-TI/T1) + exp(-TR/T1)| exp(-TE/T2)
        spoiled gradient echo:  rho sin(a) (1 - E) / (1 - E cos(a)) exp(-TE/T2), E = exp(-TR/T1)   (Ernst angle formula)
        (Bernstein, King and Zhou, Handbook of MRI Pulse Sequences, 2004; T2 stands in for T2*.)
        """
        recovered = np.exp(-self.tr_ms / np.asarray(t1_ms))
        if self.kind == "spin_echo":
            longitudinal = 1 - recovered
        elif self.kind == "inversion_recovery":
            longitudinal = np.abs(1 - 2 * np.exp(-self.ti_ms / np.asarray(t1_ms)) + recovered)
        else:
            angle = np.deg2rad(self.flip_deg)
            longitudinal = np.sin(angle) * (1 - recovered) / (1 - recovered * np.cos(angle))
        return density * longitudinal * np.exp(-self.te_ms / np.asarray(t2_ms))


@dataclass(frozen=True)
class Scanner:
    """One site: four sequences, noise (share of white matter's signal at 1 mm), bias (log amplitude), gain (units)."""

    name: str
    sequences: Mapping[str, Sequence]
    noise: float
    bias: float
    gain: float


def null_ti_ms(t1_ms: float, tr_ms: float) -> float:
    """Inversion time at which an inversion recovery shows nothing of a tissue: T1 ln(2 / (1 + exp(-TR/T1)))."""
    return float(t1_ms * np.log(2 / (1 + np.exp(-tr_ms / t1_ms))))


def _flair(tr_ms: float, te_ms: float, thickness_mm: float, slice_axis: int = 2) -> Sequence:
    ti_ms = round(null_ti_ms(TISSUES["csf"].t1_ms, tr_ms) / 10) * 10
    return Sequence(
        "inversion_recovery", tr_ms, te_ms, ti_ms, thickness_mm=thickness_mm, slice_axis=slice_axis, noise=1.5
    )


def _site(name: str, noise: float, bias: float, gain: float, *sequences: Sequence) -> Scanner:
    return Scanner(name, MappingProxyType(dict(zip(MODALITIES, sequences))), noise, bias, gain)


SITES: Mapping[str, Scanner] = MappingProxyType(
    {
        # A modern protocol: everything three-dimensional but T2.
        "A": _site(
            "A", 0.025, 0.07, 1400.0,
            Sequence("spoiled_gradient_echo", 22, 4, flip_deg=25, thickness_mm=1.0),
            Sequence("spoiled_gradient_echo", 22, 4, flip_deg=25, thickness_mm=1.0),
            Sequence("spin_echo", 5200, 98, thickness_mm=3.0),
            _flair(9000, 115, 1.2, slice_axis=0),
        ),
        # A hurried protocol: thick axial slices, and only the scan after contrast in three dimensions.
        "B": _site(
            "B", 0.03, 0.10, 2200.0,
            Sequence("spin_echo", 620, 11, thickness_mm=5.0),
            Sequence("spoiled_gradient_echo", 25, 5, flip_deg=28, thickness_mm=1.0),
            Sequence("spin_echo", 4600, 90, thickness_mm=5.0),
            _flair(9500, 125, 5.0),
        ),
        # An older scanner: spin echoes throughout, more noise, a stronger coil profile.
        "C": _site(
            "C", 0.045, 0.14, 900.0,
            Sequence("spin_echo", 560, 10, thickness_mm=3.0),
            Sequence("spin_echo", 560, 10, thickness_mm=3.0),
            Sequence("spin_echo", 4200, 105, thickness_mm=3.0),
            _flair(8400, 105, 4.0),
        ),
    }
)  # fmt: skip


def shortened(t1_ms: Array | float, t2_ms: Array | float, gadolinium_mm: Array | float) -> tuple[Array, Array]:
    """T1 and T2 in ms after contrast agent of a concentration in mM: 1/T = 1/T0 + r C."""
    r1 = 1 / np.asarray(t1_ms) + R1_PER_MM_S / 1000 * np.asarray(gadolinium_mm)
    r2 = 1 / np.asarray(t2_ms) + R2_PER_MM_S / 1000 * np.asarray(gadolinium_mm)
    return 1 / r1, 1 / r2


@dataclass(frozen=True)
class Body:
    """One patient's tissue values (jittered) and the fields that vary them from place to place.

    `hindbrain` is by how much the logarithm of T1 differs in the grey and white matter of cerebellum and brain stem.
    """

    tissues: Mapping[str, Tissue]
    fields: Mapping[str, Field]
    uptake: float
    ageing: float
    hindbrain: tuple[float, float] = (0.0, 0.0)

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Body:
        """Draw a patient's tissue values: a few per cent around the literature, more in the tumour."""
        tissues = {}
        for name, t in TISSUES.items():
            spread = 0.025 if name in ("wm", "gm", "csf") else 0.09 if name == "necrosis" else 0.08
            a, b, c, d = np.exp(rng.normal(0, [spread, spread, 0.25 * spread, 2 * spread]))
            tissues[name] = Tissue(t.t1_ms * a, t.t2_ms * b, min(t.density * c, 1.0), t.gadolinium_mm * d)
        fields = {
            name: Field.draw(rng, knots)
            for name, knots in (("fine", 2.2), ("grain", 4.0), ("patch", 9.0), ("wide", 30.0), ("spots", 5.0))
        }
        return cls(
            MappingProxyType(tissues),
            MappingProxyType(fields),
            float(np.exp(rng.normal(0, 0.12))),
            float(rng.uniform(0, 1)),
        )

    def gliosis(self, scan: Grid, inside: NDArray[np.bool_], rim: Array) -> Array:
        """Share of white matter scarred by age, [voxels]: caps at the ventricles and a few spots, bright on t2f.

        They are in many patients' scans, look like oedema, and are not labelled.
        """
        spots, patch = (self.fields[name].on(scan)[inside] for name in ("spots", "patch"))
        caps = self.ageing * np.clip(1.3 * rim - 0.15 + 0.25 * patch, 0, 1)
        return np.clip(caps + np.clip(1.5 * (spots + self.ageing + 0.4 * patch - 3.6), 0, 1), 0, 1)


def weigh(
    sequence: Sequence, fractions: Mapping[str, Array], body: Body, texture: Mapping[str, Array], contrast: bool
) -> Array:
    """Signal of a mixture: every tissue's own signal, weighted by its share of the voxel (partial volume).

    Args:
        sequence: the acquisition.
        fractions: share of each tissue, [voxels] each.
        body: the patient's tissue values.
        texture: the patient's fields at these voxels, `nuclei` of the atlas, and `hindbrain` (0..1) where the body has
            values of its own there.
        contrast: after injection of contrast agent.
    """
    total = np.zeros_like(fractions["wm"])
    fine = 0.5 * texture["fine"] + 0.7 * texture["grain"]
    for name, share in fractions.items():
        tissue = body.tissues[name]
        some = share > 1e-3
        tumour = name in ("oedema", "solid", "enhancing", "necrosis")
        amount = 0.05 if name == "oedema" else 0.09 if tumour else 0.0 if name == "csf" else 0.022
        vary = amount * fine[some]
        if tumour:
            vary += 0.06 * texture["patch"][some]
        if name in ("wm", "gm"):
            vary += 0.02 * texture["wide"][some]
        t1: Array = tissue.t1_ms * np.exp(vary - (0.35 * texture["nuclei"][some] if name in ("wm", "gm") else 0))
        if name in ("gm", "wm") and any(body.hindbrain):
            t1 = t1 * np.exp(np.float32(body.hindbrain[name == "wm"]) * texture["hindbrain"][some])
        t2: Array = tissue.t2_ms * np.exp(1.2 * vary - (0.25 * texture["nuclei"][some] if name == "gm" else 0))
        if contrast:
            spread = np.exp(0.35 * texture["grain"][some] + 0.3 * texture["patch"][some]) if tumour else 1.0
            t1, t2 = shortened(t1, t2, body.uptake * tissue.gadolinium_mm * spread)
        total[some] += share[some] * sequence.signal(t1, t2, tissue.density)
    return total


def acquire(
    signal: Array, inside: NDArray[np.bool_], surround: float, grid: Grid, sequence: Sequence, scanner: Scanner,
    white: float, session: np.random.Generator, noise: np.random.Generator, mishaps: Mishaps = NONE,
) -> NDArray[np.int16]:  # fmt: skip
    """What the scanner makes of it: thick slices, coil profile, Rician noise, and integers; zero outside the brain.

    Args:
        signal: the brain's signal, [voxels inside].
        inside: the brain's voxels, [X, Y, Z].
        surround: signal of what lies outside (CSF), with which edge slices are averaged.
        grid: the scan's grid.
        sequence: gives slice thickness and direction.
        scanner: gives noise, bias and gain.
        white: mean signal of white matter, by which noise and gain are scaled.
        session: drawn from once a scan, the same at every spacing.
        noise: draws a value a voxel.
        mishaps: what goes wrong.
    """
    image = np.full(inside.shape, surround, np.float32)
    image[inside] = signal
    # The point spread of an acquisition of about 1 mm, which larger voxels hide.
    if grid.spacing_mm < 1.5:
        image = ndimage.gaussian_filter(image, 0.4 / grid.spacing_mm)
    image = average_slices(image, grid, sequence.thickness_mm, sequence.slice_axis, session)
    bias = scanner.bias * (0.6 * Field.draw(session, 70.0).on(grid) + 0.35 * Field.draw(session, 45.0).on(grid))
    image = mishaps.scanning(image * np.exp(bias), inside, grid)
    # Averaging over larger voxels and thicker slices makes less noise.
    volume = (grid.spacing_mm**2 * max(grid.spacing_mm, sequence.thickness_mm**0.5)) ** 0.5
    sigma = np.float32(scanner.noise * sequence.noise * white * session.uniform(0.7, 1.4) / volume)
    real, imaginary = (noise.standard_normal(image.shape, dtype=np.float32) for _ in range(2))
    # Scans reach a common grid by interpolation, which correlates neighbours.
    blur = 0.45 / grid.spacing_mm
    real, imaginary = (ndimage.gaussian_filter(n, blur) for n in (real, imaginary))
    image = mishaps.registering(np.hypot(image + sigma * real, sigma * imaginary), grid)
    units = np.rint(image * np.float32(scanner.gain * 0.4 * session.uniform(0.8, 1.25) / white))
    units, covered = mishaps.filing(np.clip(units, 1, 4095), inside, grid)
    return np.where(covered, np.maximum(units, 1), 0).astype(np.int16)


def average_slices(image: Array, grid: Grid, thickness_mm: float, axis: int, session: np.random.Generator) -> Array:
    """Average over slices of a thickness along an axis, each of its own brightness; interpolate between centres."""
    phase, drift = session.uniform(), session.normal(0, 0.03, 256)
    step = thickness_mm / grid.spacing_mm
    if step <= 1.01:
        return image
    averaged = ndimage.gaussian_filter1d(image, 0.35 * step, axis=axis, mode="nearest")
    count = image.shape[axis]
    position = np.arange(count) / step + phase
    first, last = int(np.floor(position[0])), int(np.ceil(position[-1]))
    slices = _interpolate((np.arange(first, last + 1) - phase) * step, averaged, axis)
    # Slices are excited one after the other; those of a thick two-dimensional scan never quite match.
    if thickness_mm >= 2.5:
        gain = np.exp(drift[: last - first + 1]).astype(np.float32)
        slices = slices * gain.reshape([-1 if a == axis else 1 for a in range(3)])
    return _interpolate(position - first, slices, axis)


def _interpolate(position: Array, volume: Array, axis: int) -> Array:
    """Linear interpolation along one axis at positions in voxels; beyond the ends, the last value."""
    position = np.clip(position, 0, volume.shape[axis] - 1)
    low = np.minimum(position.astype(int), volume.shape[axis] - 2)
    weight = (position - low).astype(np.float32).reshape([-1 if a == axis else 1 for a in range(3)])
    return np.take(volume, low, axis=axis) * (1 - weight) + np.take(volume, low + 1, axis=axis) * weight
