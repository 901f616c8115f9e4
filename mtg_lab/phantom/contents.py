"""What else a core may hold: blood of some age, chalk, and the fluid of a resection cavity."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from .atlas import Array, Field, Grid
from .ingredients import stream
from .signal import Tissue

# Signal of blood by its stage (Bradley, Radiology 189:15, 1993): methaemoglobin shortens T1, inside cells T2 as well;
# haemosiderin shortens T2 alone. Values chosen so that the sequences show what that review describes.
BLOOD = {"early": Tissue(600, 42, 0.82), "late": Tissue(560, 230, 0.85), "old": Tissue(1300, 26, 0.75)}
# Chalk has few mobile protons.
CHALK = Tissue(900, 22, 0.25)
FLUID = Tissue(3600, 900, 1.0)


@dataclass(frozen=True)
class Contents:
    """What one patient's core holds; a field that is None is not there.

    `taken_mm` is the radius of a resection cavity, its centre lies in the tumour's first focus.
    """

    tissues: dict[str, Tissue]
    blood: Field | None = None
    blood_level: float = 0.0
    chalk: Field | None = None
    chalk_level: float = 0.0
    wall: Field | None = None
    taken_mm: float = 0.0

    @classmethod
    def draw(cls, seed: int, ingredients: Collection[str]) -> Contents:
        """Draw a patient's; nothing without `haemorrhage`, `calcification` or `cavity` among the ingredients."""
        tissues: dict[str, Tissue] = {}
        found = cls(tissues)
        if "haemorrhage" in ingredients and (rng := stream(seed, "haemorrhage")).random() < 0.35:
            tissues["blood"] = BLOOD[str(rng.choice(list(BLOOD)))]
            found = replace(found, blood=Field.draw(rng, 8.0), blood_level=float(rng.uniform(0.2, 1.2)))
        if "calcification" in ingredients and (rng := stream(seed, "calcification")).random() < 0.2:
            tissues["chalk"] = CHALK
            found = replace(found, chalk=Field.draw(rng, 4.0), chalk_level=float(rng.uniform(1.0, 1.8)))
        if "cavity" in ingredients and (rng := stream(seed, "cavity")).random() < 0.5:
            tissues["fluid"] = FLUID
            found = replace(found, wall=Field.draw(rng, 10.0), taken_mm=float(rng.uniform(7, 18)))
        return found

    def fill(
        self, shares: dict[str, Array], scan: Grid, inside: NDArray[np.bool_], before_mm: Array,
        centre_mm: tuple[float, float, float],
    ) -> tuple[dict[str, Array], NDArray[np.bool_]]:  # fmt: skip
        """Shares of every tissue with these among them, and the voxels that were taken out.

        Args:
            shares: of each tissue at the brain's voxels, [voxels] each.
            scan: the scan's grid.
            inside: the brain's voxels, [X, Y, Z].
            before_mm: where each voxel's tissue was before the push, [3, voxels].
            centre_mm: the tumour's first focus.
        """
        shares, taken = dict(shares), np.zeros(before_mm.shape[1], np.float32)
        for name, field, level, steep in (
            ("blood", self.blood, self.blood_level, 3.0),
            ("chalk", self.chalk, self.chalk_level, 4.0),
        ):
            if field is not None:
                held = np.clip(steep * (field.on(scan)[inside] - np.float32(level)), 0, 1)
                held = _moved(shares, ("necrosis", "solid", "enhancing"), held)
                shares[name] = held
        if self.wall is not None:
            away = np.linalg.norm(before_mm - np.asarray(centre_mm, np.float32)[:, None], axis=0)
            radius = np.float32(self.taken_mm) * np.exp(0.25 * self.wall.on(scan)[inside])
            taken = np.clip((radius - away) / max(scan.spacing_mm, 1.0) + 0.5, 0, 1).astype(np.float32)
            shares["fluid"] = _moved(shares, tuple(shares), taken)
        return shares, taken > 0.5


def _moved(shares: dict[str, Array], sources: tuple[str, ...], held: Array) -> Array:
    """Take the part `held`, 0..1, of some tissues away from them; returns what they gave."""
    given = np.zeros_like(held)
    for name in sources:
        part = shares[name] * held
        shares[name] = shares[name] - part
        given += part
    return given
