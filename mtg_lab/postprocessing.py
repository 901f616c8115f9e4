"""Removal of what is too small to be believed: scored beside the region as it was predicted, or taken out of a mask."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from torch import Tensor

from mtg_lab.errors import InputError
from mtg_lab.surface_metrics import check_choice

WAYS = ("components", "region")
_SUFFIX = "pp"
_TOUCHING = np.ones((3, 3, 3), dtype=bool)  # 26 neighbours make a component


@dataclass(frozen=True)
class Removal:
    """A region without its small parts, scored beside the region: ``ETpp`` beside ``ET``.

    Attributes:
        region: of the label schema.
        smallest_mm3: what is smaller goes; 500 voxels of 1 mm are the field's habit for enhancing tumour.
        of: ``components`` looks at each component, ``region`` at all of the region together (the RFNet family).

    Raises:
        InputError: a size that is not a positive number, or an unknown way.
    """

    region: str
    smallest_mm3: float
    of: str = "components"

    def __post_init__(self) -> None:
        check_choice("way of removing", self.of, WAYS)
        if not (np.isfinite(self.smallest_mm3) and self.smallest_mm3 > 0):
            raise InputError(f"{self.region} cannot lose what is below {self.smallest_mm3} mm3; give a positive number")

    @classmethod
    def parse(cls, text: str) -> "Removal":
        """From ``ET:500`` or ``ET:500:region``.

        Raises:
            InputError: another form.
        """
        region, _, rest = text.partition(":")
        size, _, way = rest.partition(":")
        try:
            smallest = float(size)
        except ValueError as fault:
            raise InputError(
                f"cannot read the removal {text!r}; write REGION:MM3 as in ET:500, or ET:500:region to keep or remove "
                "all of it"
            ) from fault
        return cls(region, smallest, way or WAYS[0])

    @property
    def name(self) -> str:
        """Of the region that results."""
        return self.region + _SUFFIX

    def apply(self, mask: np.ndarray, voxel_mm3: float) -> np.ndarray:
        """The mask bool [D, H, W] of the region without its small parts."""
        return remove_small(mask, self.smallest_mm3 / voxel_mm3, self.of)

    @property
    def told(self) -> str:
        """What is left of the region, in words."""
        if self.of == "region":
            return f"{self.region}, empty where all of it is below {self.smallest_mm3:g} mm3"
        return f"{self.region} without its components below {self.smallest_mm3:g} mm3"

    def __str__(self) -> str:
        return f"{self.name} = {self.told}"


def choose_removals(given: Sequence[Removal | str], regions: Sequence[str]) -> tuple[Removal, ...]:
    """Removals of a label schema's regions, one a region at most.

    Raises:
        InputError: a text that is none, a region that the schema does not have, or two removals of one region.
    """
    removals = [Removal.parse(r) if isinstance(r, str) else r for r in given]
    for removal in removals:
        check_choice("region to remove from", removal.region, regions)
        if [r.name for r in removals].count(removal.name) > 1 or removal.name in regions:
            raise InputError(f"{removal.name} would be two regions; give one removal a region")
    return tuple(removals)


def derived_regions(regions: Sequence[str]) -> list[str]:
    """Those that stand beside their own region (``ETpp`` beside ``ET``), and are no part of a mean over regions."""
    return [r for r in regions if r.endswith(_SUFFIX) and r.removesuffix(_SUFFIX) in regions]


def remove_small(mask: np.ndarray, smallest: float, of: str = "components") -> np.ndarray:
    """A mask without what is smaller than ``smallest`` voxels.

    Args:
        mask: bool [D, H, W].
        smallest: in voxels.
        of: ``components`` removes each component (26 neighbours) below it, ``region`` the whole mask if all of it
            together is below it.

    Raises:
        InputError: an unknown way.
    """
    check_choice("way of removing", of, WAYS)
    if of == "region":
        return mask if mask.sum() >= smallest else np.zeros_like(mask)
    components, _ = ndimage.label(mask, _TOUCHING)
    keep = np.bincount(components.ravel()) >= smallest
    keep[0] = False
    return keep[components]


def classes_without_small(
    probabilities: Tensor, regions: Mapping[str, Sequence[int]], removals: Sequence[Removal], voxel_mm3: float
) -> np.ndarray:
    """The likeliest class of every voxel, where no region keeps parts that are too small to be believed.

    A voxel that its region loses takes the likeliest class of the smallest region around that one (an enhancing tumour
    that goes leaves tumour core), or of all others where there is none. Regions are gone through from the outermost to
    the innermost, so that with nested regions nothing that is below its size is left in the end.

    Args:
        probabilities: float [K, D, H, W].
        regions: classes of each region.
        removals: one a region at most, see :func:`choose_removals`.
        voxel_mm3: of the grid of ``probabilities``.

    Returns:
        Class indices int64 [D, H, W].
    """
    classes = probabilities.max(dim=0).indices.numpy()
    for removal in sorted(removals, key=lambda r: len(regions[r.region]), reverse=True):
        own = set(regions[removal.region])
        mask = np.isin(classes, list(own))
        gone = mask & ~removal.apply(mask, voxel_mm3)
        around = [set(members) for members in regions.values() if own < set(members)]
        others = sorted(min(around, key=len, default=set(range(len(probabilities)))) - own)
        classes[gone] = np.array(others)[probabilities[others].numpy()[:, gone].argmax(axis=0)]
    return classes
