"""Domain randomisation: what a network should not rely on is drawn anew for every sample and every sequence.

In the spirit of SynthSeg (Billot et al., Med. Image Anal. 86:102789, 2023), which draws contrast, resolution, bias and
noise beyond what any scanner shows. There contrasts are drawn for each label of a whole brain; here labels are those of
a tumour, so that each sequence keeps its physics and its grey values are bent, blurred and shaded instead.
"""

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.transforms import (
    Compose,
    MapTransform,
    RandAdjustContrast,
    RandAffined,
    RandBiasField,
    RandGaussianNoise,
    RandGaussianSmooth,
    RandGibbsNoise,
    RandHistogramShift,
    Randomizable,
    RandScaleIntensity,
    RandShiftIntensity,
    RandSimulateLowResolution,
    ShiftIntensity,
    Transform,
)

# z-scores of a brain, lifted by this much, are positive: a coil's profile multiplies what is above zero.
_LIFT = 4.0


def randomising(strength: float) -> list[Transform]:
    """Transforms of a sample's ``image`` [M, D, H, W] (z-scores, zero outside the brain) and ``label`` [1, D, H, W].

    Turned by up to 15 degrees and scaled by up to 15 % together; then in every sequence by itself, each with a chance
    of its own: grey values bent by a monotone curve and a gamma, another mean and width, a coil's profile, blurred or
    of a coarser grid along all axes, ringing, noise. Where a sequence is zero it stays zero.

    Args:
        strength: scales all ranges; 1 as above, 0 for nothing.
    """
    if strength == 0:
        return []
    turn, scale, sigma = np.deg2rad(15) * strength, 0.15 * strength, (0.25, 0.25 + 0.75 * strength)
    steps: list[Any] = [
        RandHistogramShift(num_control_points=(5, 10), prob=0.3 * min(strength, 1)),
        RandAdjustContrast(prob=0.3, gamma=(1 / (1 + 0.5 * strength), 1 + 0.5 * strength), retain_stats=True),
        RandScaleIntensity(factors=0.25 * strength, prob=0.5),
        RandShiftIntensity(offsets=0.25 * strength, prob=0.5),
        ShiftIntensity(_LIFT),
        RandBiasField(degree=3, coeff_range=(-0.1 * strength, 0.1 * strength), prob=0.3),
        ShiftIntensity(-_LIFT),
        RandGaussianSmooth(sigma_x=sigma, sigma_y=sigma, sigma_z=sigma, prob=0.2),
        RandSimulateLowResolution(prob=0.2, zoom_range=(1 / (1 + strength), 1.0)),
        RandGibbsNoise(prob=0.1, alpha=(0.0, min(0.5 * strength, 1.0))),
        RandGaussianNoise(prob=0.4, std=0.2 * strength),
    ]
    return [
        RandAffined(
            ("image", "label"), prob=0.5, rotate_range=[turn] * 3, scale_range=[scale] * 3,
            mode=("bilinear", "nearest"), padding_mode="zeros",
        ),
        EachSequence(Compose(steps)),
    ]  # fmt: skip


class EachSequence(Randomizable, MapTransform):
    """A transform of arrays [1, D, H, W] on every sequence of ``image`` by itself, within what is not zero there."""

    def __init__(self, transform: Compose):
        super().__init__(["image"])
        self.transform = transform

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> "EachSequence":
        """As MONAI's own."""
        super().set_random_state(seed, state)
        self.transform.set_random_state(seed=int(self.R.randint(2**31)))
        return self

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The sample with another image."""
        image = data["image"]
        changed = torch.zeros_like(image)
        for number, sequence in enumerate(image):
            brain = sequence != 0
            if brain.any():
                changed[number] = torch.where(brain, self.transform(sequence[None])[0], 0)
        return {**data, "image": changed}
