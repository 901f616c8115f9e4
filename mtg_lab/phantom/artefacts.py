"""What goes wrong between the head and the file: in the scanner, and in the preprocessing that follows it.

Everything here is drawn once a scan, in millimetres and shares, and looks the same at every spacing that can show it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from .atlas import Array, Field, Grid, turned
from .ingredients import stream


@dataclass(frozen=True)
class Mishaps:
    """What happens to one scan; zero and None are nothing.

    Attributes:
        phase_axis: along which lines are encoded one after another, so that ringing, ghosts and motion show there.
        resolution_mm: finest detail along it, above which the spectrum ends and edges ring.
        ghost: share of the image that comes again, `period` times along the field of view.
        moved_mm: how far the head was in the last part of the acquisition, [3]; `moved_share` of the lines were not
            yet acquired then.
        register_mm, register_deg: what registration left, [3] each.
        covered_mm: how much of the head is missing below and above.
        saturated: share of the brightest voxels that are cut off.
        levels: of brightness, 0 for all.
    """

    phase_axis: int = 1
    resolution_mm: float = 0.0
    ghost: float = 0.0
    period: int = 2
    moved_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)
    moved_share: float = 0.0
    register_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)
    register_deg: tuple[float, float, float] = (0.0, 0.0, 0.0)
    covered_mm: tuple[float, float] = (0.0, 0.0)
    saturated: float = 0.0
    levels: int = 0

    @classmethod
    def draw(cls, seed: int, ingredients: Collection[str], channel: int, site: int) -> Mishaps:
        """Draw those of one sequence; each ingredient has a stream of its own."""
        drawn: dict[str, object] = {}

        def three(rng: np.random.Generator, spread: float) -> tuple[float, float, float]:
            x, y, z = np.clip(rng.normal(0, spread, 3), -2.5 * spread, 2.5 * spread).tolist()
            return x, y, z

        if "artefacts" in ingredients:
            rng = stream(seed, "artefacts", channel, site)
            drawn["phase_axis"] = int(rng.integers(2))
            happens = rng.random(3) < (0.5, 0.25, 0.25)
            resolution, ghost, period = rng.uniform(1.2, 3.2), rng.uniform(0.02, 0.12), int(rng.integers(2, 5))
            moved, share = three(rng, 1.5), float(rng.uniform(0.1, 0.45))
            drawn |= {"resolution_mm": float(resolution)} if happens[0] else {}
            drawn |= {"ghost": float(ghost), "period": period} if happens[1] else {}
            drawn |= {"moved_mm": moved, "moved_share": share} if happens[2] else {}
        if "resampling" in ingredients:
            rng = stream(seed, "resampling", channel, site)
            drawn |= {"register_mm": three(rng, 0.35), "register_deg": three(rng, 0.4)}
        if "coverage" in ingredients:
            # At most one sequence of a patient: which one is drawn for all.
            rng = stream(seed, "coverage", site)
            which, above, length = int(rng.integers(12)), bool(rng.random() < 0.5), float(rng.uniform(8, 40))
            if which == channel:
                drawn["covered_mm"] = (0.0, length) if above else (length, 0.0)
        if "ceilings" in ingredients:
            rng = stream(seed, "ceilings", channel, site)
            happens, share = rng.random(2) < (0.25, 0.3), float(np.exp(rng.uniform(np.log(0.001), np.log(0.03))))
            drawn |= {"saturated": share} if happens[0] else {}
            drawn |= {"levels": 256} if happens[1] else {}
        return cls(**drawn)  # type: ignore[arg-type]

    def scanning(self, image: Array, inside: NDArray[np.bool_], grid: Grid) -> Array:
        """While the scanner acquires: motion, then ringing, then ghosts of what is `inside`, [X, Y, Z]."""
        if self.moved_share:
            image = motion(image, np.divide(self.moved_mm, grid.spacing_mm), self.moved_share, self.phase_axis)
        if self.resolution_mm > grid.spacing_mm:
            image = ringing(image, grid.spacing_mm / self.resolution_mm, self.phase_axis)
        if self.ghost:
            shift = image.shape[self.phase_axis] // self.period
            image = image + np.float32(self.ghost) * np.roll(np.where(inside, image, 0), shift, self.phase_axis)
        return image

    def registering(self, image: Array, grid: Grid) -> Array:
        """Interpolated at places that are a little off."""
        if not any((*self.register_mm, *self.register_deg)):
            return image
        turn = turned(np.eye(3), np.deg2rad(self.register_deg))
        centre = (np.array(image.shape) - 1) / 2
        offset = centre - turn @ centre + np.divide(self.register_mm, grid.spacing_mm)
        return ndimage.affine_transform(image, turn, offset, order=1, mode="nearest")

    def filing(self, units: Array, inside: NDArray[np.bool_], grid: Grid) -> tuple[Array, NDArray[np.bool_]]:
        """Units as they are stored, and where the scan covers the brain, [X, Y, Z]."""
        low, high = np.asarray(self.covered_mm) / grid.spacing_mm
        slices = np.flatnonzero(inside.any(axis=(0, 1)))
        covered = inside.copy()
        covered[..., : slices[0] + round(low)] = False
        covered[..., slices[-1] + 1 - round(high) :] = False
        if self.saturated:
            units = np.minimum(units, np.quantile(units[inside], 1 - self.saturated))
        if self.levels:
            top = max(float(units[inside].max()), 1.0)
            units = np.rint(units * np.float32((self.levels - 1) / top))
        return units, covered


NONE = Mishaps()


def ringing(image: Array, kept: float, axis: int) -> Array:
    """The spectrum along an axis without its highest frequencies: edges overshoot by 9 % and ring (Gibbs).

    Args:
        image: [X, Y, Z].
        kept: share of the frequencies, 0..1.
        axis: along which.
    """
    spectrum = fft.rfft(image, axis=axis)
    frequency = fft.rfftfreq(image.shape[axis])
    beyond = tuple(frequency > 0.5 * kept if a == axis else slice(None) for a in range(3))
    spectrum[beyond] = 0
    return fft.irfft(spectrum, image.shape[axis], axis=axis).astype(np.float32)


def motion(image: Array, moved_voxels: NDArray[np.float64], share: float, axis: int) -> Array:
    """A head that moved before the last `share` of the lines of k-space: they are those of the moved image.

    Lines are acquired from the lowest to the highest along `axis`; a shift is a phase, so that nothing is interpolated.
    """
    spectrum = fft.fftn(image)
    phase = np.zeros(image.shape)
    for a, moved in enumerate(moved_voxels):
        frequency = fft.fftfreq(image.shape[a]) * moved
        phase = phase + frequency.reshape([-1 if b == a else 1 for b in range(3)])
    late = fft.fftfreq(image.shape[axis]) >= 0.5 - share
    where = tuple(late if a == axis else slice(None) for a in range(3))
    spectrum[where] *= np.exp(-2j * np.pi * phase[where])
    return np.abs(fft.ifftn(spectrum)).astype(np.float32)


@dataclass(frozen=True)
class Strip:
    """An uneven skull strip: how far beyond the brain's edge it cuts, in mm, negative where it bites."""

    field: Field
    amplitude_mm: float
    offset_mm: float

    @classmethod
    def draw(cls, seed: int) -> Strip:
        """Draw one patient's."""
        rng = stream(seed, "stripping")
        return cls(Field.draw(rng, 17.0), float(rng.uniform(0.3, 1.8)), float(rng.normal(0, 0.7)))

    def on(self, grid: Grid) -> Array:
        """Millimetres at the voxels of a grid."""
        return np.clip(np.float32(self.offset_mm) + np.float32(self.amplitude_mm) * self.field.on(grid), -5, 5)
