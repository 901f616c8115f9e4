"""Examine a manifest: one line a fault, each with the mend."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

from mtg_lab import vocabulary
from mtg_lab.errors import InputError
from mtg_lab.files import content_fingerprint
from mtg_lab.manifest import Manifest, Subject, parse_manifest
from mtg_lab.progress import progress

# Affines of one patient's sequences differ in the last digits after resampling; a tenth of a voxel is no difference.
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
    or the same content used twice; a label without any foreground.

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
    if not any(s.split for s in manifest):
        findings.append(
            Finding("warning", "", f"{manifest.path}: no row has a split; fill 'split' with train, val or test")
        )
    return findings


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
    reference = next(iter(images))
    for column, image in images.items():
        if fault := grid_fault(column, image, reference, images[reference]):
            yield error(f"{fault}; file {subject.files[column]}")
    for column, image in images.items():
        try:
            voxels = np.asarray(image.dataobj)
        except (OSError, EOFError, ValueError) as damage:
            yield error(f"{column}: {subject.files[column]} is cut short or damaged ({damage}); copy it again")
            continue
        if column == "label":
            yield from _label_faults(subject, voxels)
        else:
            yield from _image_faults(subject, column, voxels)


def load_image(path: Path | nib.Nifti1Image) -> nib.Nifti1Image:
    """A 3-D NIfTI image, header read, voxels not yet; an image that is loaded already is passed on.

    Raises:
        InputError: no such file, not NIfTI, or not three-dimensional.
    """
    if isinstance(path, nib.Nifti1Image):
        return path
    if not path.is_file():
        raise InputError(f"no such file: {path}; mend the path or leave the cell empty")
    try:
        image = nib.Nifti1Image.from_filename(path)
    except (nib.filebasedimages.ImageFileError, OSError, EOFError, ValueError) as fault:
        raise InputError(f"{path} is not a readable NIfTI file ({str(fault)[:80]})") from fault
    if len(image.shape) != 3:
        raise InputError(f"{path} has shape {_size(image.shape)}; three dimensions are needed, split it by channel")
    return image


def grid_fault(name: str, image: nib.Nifti1Image, reference: str, other: nib.Nifti1Image) -> str | None:
    """One line if two images do not share shape and affine, None if they do."""
    if image.shape != other.shape:
        return (
            f"{name} is {_size(image.shape)}, {reference} is {_size(other.shape)}; "
            f"resample {name} to {reference}'s grid or leave its cell empty"
        )
    distance = float(np.abs(image.affine - other.affine).max())
    if distance > AFFINE_TOLERANCE_MM:
        return (
            f"{name} and {reference} share the shape but not the affine (they differ by up to {distance:.3g}); "
            f"resample {name} to {reference}'s grid or leave its cell empty"
        )
    return None


def _label_faults(subject: Subject, voxels: np.ndarray) -> Iterator[Finding]:
    schema = vocabulary.schema(str(subject.schema))
    values = np.unique(voxels)
    outside = [f"{v:g}" for v in values if v not in schema.allowed]
    if outside:
        allowed = ", ".join(map(str, sorted(schema.allowed)))
        yield Finding(
            "error",
            subject.name,
            f"subject {subject.name}: the label holds {', '.join(outside[:5])}, schema {schema.name} knows {allowed}; "
            f"name the right schema or convert {subject.label}",
        )
    elif not np.isin(values, schema.values).any():
        yield Finding(
            "warning", subject.name, f"subject {subject.name}: the label has no foreground; check {subject.label}"
        )


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
            if column != "mask" and path.is_file():
                uses[content_fingerprint(path)].append((subject.name, column))
    for places in uses.values():
        if len(places) > 1:
            told = ", ".join(f"{name}/{column}" for name, column in places[:4])
            yield Finding(
                "error",
                places[0][0],
                f"the same content stands in {len(places)} places: {told}; keep one (a patient on both "
                "sides of a split makes every score wrong)",
            )


def _size(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))
