"""Scans at the edge: a NIfTI file's header and voxels, whether grids agree, what integers a label map holds."""

import zlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path

import nibabel as nib
import numpy as np

from mtg_lab import vocabulary
from mtg_lab.errors import InputError
from mtg_lab.files import file_and_volume
from mtg_lab.volumes import one_volume

# Affines of one patient's sequences differ in the last digits after resampling; this far apart, at the corner of the
# volume where it shows most, is no difference.
AFFINE_TOLERANCE_MM = 0.1


def load_image(path: Path | nib.Nifti1Image) -> nib.Nifti1Image:
    """A 3-D NIfTI image, header read, voxels not yet; an image that is loaded already is passed on.

    A path that ends in ``[k]`` is the k-th volume of a 4-D file; no other volume of it is kept in memory.

    Raises:
        InputError: no such file or volume, not NIfTI, or not three-dimensional.
    """
    if isinstance(path, nib.Nifti1Image):
        return path
    file, volume = file_and_volume(path)
    if not file.is_file():
        raise InputError(f"no such file: {file}; mend the path or leave the cell empty")
    try:
        image = nib.Nifti1Image.from_filename(file)
    except Exception as fault:  # nibabel, gzip and zlib have no base class in common
        raise InputError(
            f"{file} is not a readable NIfTI file ({_first_line(fault)}); convert or copy it again"
        ) from fault
    if volume is not None or len(image.shape) == 4:
        image = one_volume(image, volume)
    if len(image.shape) != 3:
        raise InputError(f"{path} has shape {size_told(image.shape)}; three dimensions are needed, convert it")
    if image.get_data_dtype().kind not in "iuf":
        raise InputError(f"{path} holds {image.get_data_dtype()} voxels; one real number a voxel is needed, convert it")
    return image


def read_voxels(image: nib.Nifti1Image) -> np.ndarray:
    """The voxels of an image, scaled as its header says.

    Raises:
        InputError: the file is cut short or damaged.
    """
    try:
        return np.asarray(image.dataobj)
    except (OSError, EOFError, ValueError, OverflowError, MemoryError, zlib.error) as damage:
        name = image.get_filename()
        raise InputError(f"{name} is cut short or damaged ({_first_line(damage)}); copy it again") from damage


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:80]


def grid_faults(images: Mapping[str, nib.Nifti1Image]) -> Iterator[tuple[str, str]]:
    """Columns that do not share the grid of the others, each with its line; the grid of the majority is right."""
    agreeing = {a: sum(grid_fault(a, images[a], b, images[b]) is None for b in images) for a in images}
    reference = max(agreeing, key=agreeing.__getitem__)  # of equals the first
    for column, image in images.items():
        if fault := grid_fault(column, image, reference, images[reference]):
            yield column, f"{fault}; file {image.get_filename() or 'in memory'}"


def grid_fault(name: str, image: nib.Nifti1Image, reference: str, other: nib.Nifti1Image) -> str | None:
    """One line if two images do not share shape and affine, None if they do."""
    if image.shape != other.shape:
        return (
            f"{name} is {size_told(image.shape)}, {reference} is {size_told(other.shape)}; "
            f"resample {name} to {reference}'s grid or leave its cell empty"
        )
    corners = np.array(list(product(*((0, n - 1) for n in image.shape), (1,))))
    distance = float(np.linalg.norm(corners @ (image.affine - other.affine).T, axis=1).max())
    if distance <= AFFINE_TOLERANCE_MM:
        return None
    mend = f"resample {name} to {reference}'s grid or leave its cell empty"
    here, there = orientation(image.affine), orientation(other.affine)
    if here != there:
        return f"{name} is stored as {here}, {reference} as {there} (corners lie {distance:.3g} mm apart); {mend}"
    return f"{name} and {reference} share the shape but not the affine (corners lie {distance:.3g} mm apart); {mend}"


def orientation(affine: np.ndarray) -> str:
    """Where the axes of a grid lead, as in ``RAS``; ``?`` for an axis that leads nowhere."""
    if not np.isfinite(affine).all():
        return "???"
    return "".join(code or "?" for code in nib.aff2axcodes(affine))


def label_values(voxels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct values of a label map and how many voxels hold each; what is whole to a thousandth is whole."""
    if voxels.size and np.isfinite(voxels).all():
        whole = np.rint(voxels) if voxels.dtype.kind == "f" else voxels
        low, high = int(whole.min()), int(whole.max())
        if high - low < 1000 and (whole is voxels or np.abs(whole - voxels).max() < 1e-3):
            counts = np.bincount((whole - low).astype(np.int64).ravel())  # a tenth of the time of sorting
            return np.flatnonzero(counts) + low, counts[counts > 0]
    return np.unique(voxels, return_counts=True)


def label_fault(voxels: np.ndarray, schema: vocabulary.LabelSchema) -> str | None:
    """What is wrong with the values of a label map, None if all are integers of the schema (to a thousandth).

    Whole values that other schemas allow are told with the names of these schemas.
    """
    values, _ = label_values(voxels)
    near = np.isfinite(values) & (np.abs(values - np.rint(values)) < 1e-3)
    outside = [f"{v:g}" for v, whole in zip(values, near) if not whole or int(np.rint(v)) not in schema.allowed]
    if not outside:
        return None
    told = ", ".join(outside[:5]) + (f" and {len(outside) - 5} more values" if len(outside) > 5 else "")
    known = ", ".join(map(str, sorted(schema.allowed)))
    found = f"the label holds {told}, schema {schema.name} knows {known}"
    if not near.all():
        return f"{found}; interpolate labels by nearest neighbour only and convert"
    fitting = [s.name for s in vocabulary.SCHEMAS.values() if {int(np.rint(v)) for v in values} <= s.allowed]
    more = " and others" if len(fitting) > 3 else ""
    hint = f" (its values fit {', '.join(fitting[:3])}{more})" if fitting else ""
    return f"{found}; name the right schema{hint} or convert"


def size_told(shape: Sequence[float]) -> str:
    """``240x240x155``."""
    return "x".join(f"{edge:g}" for edge in shape)
