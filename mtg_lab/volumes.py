"""One volume of a 4-D NIfTI file as an image of its own, so that no file has to be split by channel."""

from typing import Any

import nibabel as nib
import numpy as np

from mtg_lab.errors import InputError


class _OneVolume:
    """What nibabel asks of an image's data: it is read when it is asked for, and only the one volume."""

    is_proxy = True
    ndim = 3

    def __init__(self, volumes: Any, index: int):
        self.volumes, self.index = volumes, index
        self.shape, self.dtype = tuple(volumes.shape[:3]), volumes.dtype

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        # The last axis varies slowest in the file, so this is one block; what lies before it in a .gz is skipped.
        voxels = np.asarray(self.volumes[..., self.index])
        return voxels if dtype is None else voxels.astype(dtype, copy=False)

    def __getitem__(self, place: Any) -> np.ndarray:
        return np.asarray(self)[place]


def one_volume(image: nib.Nifti1Image, index: int | None) -> nib.Nifti1Image:
    """The volume ``index`` [D, H, W] of a 4-D image, its voxels not yet read.

    Raises:
        InputError: the image is not 4-D, ``index`` is missing, or there is no such volume.
    """
    name = image.get_filename() or "the image"
    size = "x".join(map(str, image.shape))
    if len(image.shape) != 4:
        raise InputError(f"{name} has shape {size} and no volumes to choose from; leave out [{index}]")
    count = image.shape[3]
    if index is None:
        raise InputError(
            f"{name} has shape {size}, {count} volumes; three dimensions are needed, name one volume by its number, "
            f"{name.replace(chr(92), '/').rpartition('/')[2]}[0]{f' to [{count - 1}]' if count > 1 else ''}"
        )
    if index >= count:
        raise InputError(f"{name} has shape {size}; there is no volume [{index}], they are [0] to [{count - 1}]")
    return nib.Nifti1Image(_OneVolume(image.dataobj, index), image.affine, image.header, file_map=image.file_map)
