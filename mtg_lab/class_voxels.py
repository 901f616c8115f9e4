"""The voxels of each class, from which random crops draw their centres.

MONAI finds them too, but lists every voxel of every class, background as well, at each crop: most of a crop's time.
"""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
from monai.transforms import Transform


class FindClasses(Transform):
    """Adds ``voxels``, :func:`class_voxels` of ``label``, which MONAI's crop takes as ``indices_key``."""

    def __init__(self, classes: int):
        self.classes = classes

    def __call__(self, sample: Mapping[str, Any]) -> dict[str, Any]:  # noqa: D102
        return {**sample, "voxels": class_voxels(np.asarray(sample["label"][0]), self.classes)}


def class_voxels(label: np.ndarray, classes: int) -> list[Sequence[int]]:
    """Flat positions of the voxels of each class, ascending, background first; label [D, H, W] of class indices."""
    flat = label.reshape(-1)
    marked = np.flatnonzero(flat != 0)
    kinds = flat[marked]
    found = [marked[kinds == value] for value in range(1, classes)]
    return cast(list[Sequence[int]], [_AllBut(marked, flat.size), *found])


class _AllBut(Sequence[int]):
    """The numbers from 0 to ``size`` that are not among ``others`` (ascending), without a list of them."""

    def __init__(self, others: np.ndarray, size: int):
        self.before = others - np.arange(len(others))  # how many of ours lie below each of the others
        self.length = size - len(others)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, number: Any) -> Any:
        if not 0 <= number < self.length:
            raise IndexError(number)
        return int(number) + int(np.searchsorted(self.before, number, side="right"))
