"""Examine a manifest: one line a fault, each with the mend."""

import zlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import nibabel as nib
import numpy as np

from mtg_lab import vocabulary
from mtg_lab.errors import InputError
from mtg_lab.files import content_fingerprint, file_and_volume, is_there
from mtg_lab.manifest import Manifest, Subject, parse_manifest
from mtg_lab.progress import progress
from mtg_lab.volumes import one_volume

# Affines of one patient's sequences differ in the last digits after resampling; this far apart, at the corner of the
# volume where it shows most, is no difference.
AFFINE_TOLERANCE_MM = 0.1


@dataclass(frozen=True)
class Finding:
    """One thing that doctor noticed.

    Attributes:
        severity: ``error`` (the row cannot be used) or ``warning`` (it can, but look at it).
        subject: the row, empty for the whole manifest.
        line: what was found, where, and how to mend it.
    """

    severity: str
    subject: str
    line: str

    def __str__(self) -> str:
        return f"{self.severity}: {self.line}"


def doctor(path: str | Path = "", workers: int = 2) -> list[Finding]:
    """Every fault of a manifest and of the files that it names.

    Known faults: rows without a name, a modality or a schema; files that are missing or unreadable; grids and affines
    that differ within a row; label values outside the schema; NaN and infinite voxels; constant images; the same file
    or the same content used twice; more than one schema. Warned of: a label that is missing or without foreground, a
    background that is not zero, no splits.

    Raises:
        InputError: the manifest itself cannot be read.
    """
    manifest, faults = parse_manifest(path)
    findings = [Finding("error", "", line) for line in faults]
    with ThreadPoolExecutor(workers) as pool:
        jobs = pool.map(lambda s: list(examine(s)), _with_files(manifest, workers))
        for found in progress(jobs, total=len(manifest), desc="examining"):
            findings += found
    findings += _duplicates(manifest)
    findings += _cohort_faults(manifest)
    return findings


def _cohort_faults(manifest: Manifest) -> Iterator[Finding]:
    schemas = sorted({s.schema for s in manifest if s.schema})
    if len(schemas) > 1:
        line = f"the rows name the schemas {', '.join(schemas)}; a cohort has one, split the manifest or convert labels"
        yield Finding("error", "", f"{manifest.path}: {line}")
    if len(manifest) and not any(s.split for s in manifest):
        line = "no row has a split; fill 'split' with train, val or test"
        yield Finding("warning", "", f"{manifest.path}: {line}")
    for subject in manifest:
        if subject.split and subject.label is None:
            line = f"it has no label; training and scoring need one, fill the cell or empty 'split' ({subject.split})"
            yield Finding("warning", subject.name, f"subject {subject.name}: {line}")


def _with_files(manifest: Manifest, workers: int) -> Sequence[Subject]:
    seeded = Manifest(manifest.path, manifest.modalities, tuple(s for s in manifest if s.seed is not None))
    seeded.materialise(workers)
    return manifest.subjects


def examine(subject: Subject) -> Iterator[Finding]:
    """The faults of one subject's files."""

    def error(line: str) -> Finding:
        return Finding("error", subject.name, f"subject {subject.name}: {line}")

    images: dict[str, nib.Nifti1Image] = {}
    for column, path in subject.files.items():
        try:
            images[column] = load_image(path)
        except InputError as refusal:
            yield error(f"{column}: {refusal}")
    if not images:
        return
    for _, line in grid_faults(images):
        yield error(line)
    for column, image in images.items():
        try:
            voxels = read_voxels(image)
        except InputError as refusal:
            yield error(f"{column}: {refusal}")
            continue
        if column == "label":
            yield from _label_faults(subject, voxels)
        else:
            yield from _image_faults(subject, column, voxels)


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
        raise InputError(f"{path} has shape {_size(image.shape)}; three dimensions are needed, convert it")
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
            f"{name} is {_size(image.shape)}, {reference} is {_size(other.shape)}; "
            f"resample {name} to {reference}'s grid or leave its cell empty"
        )
    corners = np.array(list(product(*((0, n - 1) for n in image.shape), (1,))))
    distance = float(np.linalg.norm(corners @ (image.affine - other.affine).T, axis=1).max())
    if not distance <= AFFINE_TOLERANCE_MM:  # so that NaN is a difference
        return (
            f"{name} and {reference} share the shape but not the affine (corners lie {distance:.3g} mm apart); "
            f"resample {name} to {reference}'s grid or leave its cell empty"
        )
    return None


def _label_faults(subject: Subject, voxels: np.ndarray) -> Iterator[Finding]:
    schema = subject.label_schema
    if fault := label_fault(voxels, schema):
        yield Finding("error", subject.name, f"subject {subject.name}: {fault} {subject.label}")
    elif not np.isin(np.rint(voxels), schema.values).any():
        yield Finding(
            "warning", subject.name, f"subject {subject.name}: the label has no foreground; check {subject.label}"
        )


def label_fault(voxels: np.ndarray, schema: vocabulary.LabelSchema) -> str | None:
    """What is wrong with the values of a label map, None if all are integers of the schema (to a thousandth)."""
    values = np.unique(voxels)
    near = np.isfinite(values) & (np.abs(values - np.rint(values)) < 1e-3)
    outside = [f"{v:g}" for v, whole in zip(values, near) if not whole or int(np.rint(v)) not in schema.allowed]
    if not outside:
        return None
    told = ", ".join(outside[:5]) + (f" and {len(outside) - 5} more values" if len(outside) > 5 else "")
    known = ", ".join(map(str, sorted(schema.allowed)))
    return f"the label holds {told}, schema {schema.name} knows {known}; name the right schema or convert"


def _image_faults(subject: Subject, column: str, voxels: np.ndarray) -> Iterator[Finding]:
    path = subject.files[column]
    if not np.isfinite(voxels).all():
        count = int((~np.isfinite(voxels)).sum())
        line = f"{column} has {count} voxels that are NaN or infinite; replace them in {path}"
        yield Finding("error", subject.name, f"subject {subject.name}: {line}")
    elif voxels.min() == voxels.max():
        line = f"{column} is constant ({voxels.flat[0]:g}); replace {path} or leave its cell empty"
        yield Finding("error", subject.name, f"subject {subject.name}: {line}")
    elif column != "mask" and subject.mask is None and voxels.flat[0] != 0:
        line = f"{column} has a background that is not zero; name a brain mask in the column 'mask' ({path})"
        yield Finding("warning", subject.name, f"subject {subject.name}: {line}")


def _duplicates(manifest: Manifest) -> Iterator[Finding]:
    uses: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for subject in manifest:
        for column, path in subject.files.items():
            if column != "mask" and is_there(path):
                uses[content_fingerprint(path)].append((subject.name, column))
    for places in uses.values():
        if len(places) > 1:
            told = ", ".join(f"{name}/{column}" for name, column in places[:4])
            # Two healthy subjects have the same empty label; two equal images are one patient.
            yield Finding(
                "warning" if all(column == "label" for _, column in places) else "error",
                places[0][0],
                f"the same content stands in {len(places)} places: {told}; keep one (a patient on both "
                "sides of a split makes every score wrong)",
            )


def _size(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))
