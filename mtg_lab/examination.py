"""One subject examined: every file is read once, and what is noticed becomes findings and a few measures."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import nibabel as nib
import numpy as np

from mtg_lab import twins
from mtg_lab.errors import InputError
from mtg_lab.findings import Finding, split_line
from mtg_lab.manifest import Subject
from mtg_lab.scans import (
    grid_faults,
    label_fault,
    label_values,
    load_image,
    orientation,
    read_voxels,
    size_told,
)

# Sequences stripped with one mask agree to 0.9999, with a mask each to 0.96 (measured on the multiple sclerosis and
# stroke cohorts that the tests use); a head beside a stripped brain comes to about 0.5.
BRAIN_DICE = 0.9
# Partial volume at the brain's rim put at most 0.1 % of a real label outside.
OUTSIDE_WARNING, OUTSIDE_ERROR = 0.01, 0.5
ANISOTROPIC_NOTE, ANISOTROPIC_WARNING = 1.2, 3.0
# The largest numbers of the types that scanners and converters write, and of their 12 bits.
_CEILINGS = (127, 255, 4095, 32767, 65535)
_SATURATED_VOXELS, _SATURATED_SHARE = 10, 5e-4

Draw = Callable[[Subject, np.ndarray, Mapping[str, np.ndarray]], Any]


@dataclass(frozen=True)
class Examination:
    """What was found and measured in one subject.

    Attributes:
        shape, spacing, orientation: of the grid that most of the row shares; empty if no file can be read.
        region_ml: volume of each region of the schema, empty without a usable label.
        patterns: modality to its content fingerprint.
        picture: what ``draw`` made of the volumes.
    """

    subject: Subject
    findings: tuple[Finding, ...]
    shape: tuple[int, ...] = ()
    spacing: tuple[float, ...] = ()
    orientation: str = ""
    region_ml: Mapping[str, float] = field(default_factory=dict)
    patterns: Mapping[str, np.ndarray] = field(default_factory=dict)
    picture: Any = None


def examine(subject: Subject, draw: Draw | None = None) -> Examination:
    """Read the files of a subject and tell what is wrong with them.

    Args:
        subject: a row whose files lie on disk.
        draw: called with the subject, the affine and its readable volumes [D, H, W] of one grid.
    """
    findings: list[Finding] = []
    images = {}
    for column, path in subject.files.items():
        try:
            images[column] = load_image(path)
        except InputError as refusal:
            findings.append(_unreadable(subject, column, refusal))
    if not images:
        return Examination(subject, tuple(findings))
    astray = dict(grid_faults(images))
    reference = images[next(column for column in images if column not in astray)]
    for column, line in astray.items():
        findings.append(_told(subject, "error", _grid_code(images[column], reference), column, *split_line(line)))
    volumes = {}
    for column, image in images.items():
        try:
            volumes[column] = read_voxels(image)
        except InputError as refusal:
            findings.append(_unreadable(subject, column, refusal))
    for column in [c for c in volumes if c != "label"]:
        if broken := _broken(subject, column, volumes[column]):
            findings.append(broken)
            del volumes[column]
    findings += _geometry(subject, images, reference)
    values = {c: v for c, v in volumes.items() if c in subject.images}
    for column in values:
        findings += _intensities(subject, column, images[column], values[column])
    if "label" in volumes:
        findings += _label(subject, images["label"], volumes["label"])
    together = {c: v for c, v in volumes.items() if c not in astray}
    findings += _brain(subject, together)
    return Examination(
        subject,
        tuple(findings),
        tuple(reference.shape),
        tuple(float(f"{edge:.3g}") for edge in nib.affines.voxel_sizes(reference.affine)),
        orientation(reference.affine),
        _region_ml(subject, images, volumes),
        {c: p for c, v in values.items() if (p := twins.fingerprint(v, images[c].affine)) is not None},
        draw(subject, reference.affine, together) if draw else None,
    )


def _told(subject: Subject, severity: str, code: str, column: str, line: str, mend: str) -> Finding:
    file = str(subject.files.get(column, ""))
    return Finding(severity, code, subject.name, file, f"subject {subject.name}: {line}", mend)


def _unreadable(subject: Subject, column: str, refusal: InputError) -> Finding:
    line, mend = split_line(str(refusal))
    return _told(subject, "error", "file-unreadable", column, f"{column}: {line}", mend)


def _grid_code(image: nib.Nifti1Image, reference: nib.Nifti1Image) -> str:
    if image.shape != reference.shape:
        return "grid-shape"
    same = orientation(image.affine) == orientation(reference.affine)
    return "grid-affine" if same else "grid-orientation"


def _broken(subject: Subject, column: str, voxels: np.ndarray) -> Finding | None:
    path = subject.files[column]
    if voxels.dtype.kind == "f" and not np.isfinite(voxels).all():
        count = int((~np.isfinite(voxels)).sum())
        line = f"{column} has {count} voxels that are NaN or infinite"
        return _told(subject, "error", "not-finite", column, line, f"replace them in {path}")
    if voxels.min() == voxels.max():
        line = f"{column} is constant ({voxels.flat[0]:g})"
        return _told(subject, "error", "constant", column, line, f"replace {path} or leave its cell empty")
    return None


def _geometry(subject: Subject, images: Mapping[str, nib.Nifti1Image], reference: nib.Nifti1Image) -> Iterator[Finding]:
    unset = [c for c, i in images.items() if not int(i.header["sform_code"]) and not int(i.header["qform_code"])]
    if unset:
        line = f"the header of {', '.join(unset)} does not say where the image lies (sform and qform code 0)"
        mend = f"copy the affine of the original scan into {subject.files[unset[0]]}"
        yield _told(subject, "warning", "affine-unset", unset[0], line, mend)
    edges = nib.affines.voxel_sizes(reference.affine)
    ratio = edges.max() / edges.min() if edges.min() > 0 else np.inf
    if ratio > ANISOTROPIC_NOTE:
        line = f"voxels of {size_told(np.round(edges, 3))} mm are {ratio:.1f} times as long as wide"
        mend = "resampling to cubes invents detail along the long edge; prefer a scan with thin slices"
        severity = "warning" if ratio > ANISOTROPIC_WARNING else "note"
        yield _told(subject, severity, "spacing-anisotropic", "", line, mend)


def _intensities(subject: Subject, column: str, image: nib.Nifti1Image, voxels: np.ndarray) -> Iterator[Finding]:
    path = subject.files[column]
    slope, offset = (float(getattr(image.dataobj, name)) for name in ("slope", "inter"))
    top = voxels.max()
    stored = (float(top) - offset) / slope
    piled = int((voxels == top).sum()) if any(abs(stored - c) < 1e-3 for c in _CEILINGS) else 0
    if piled >= max(_SATURATED_VOXELS, _SATURATED_SHARE * np.count_nonzero(voxels)):
        line = f"{column} has {piled} voxels at {stored:.0f}, the ceiling of an integer type"
        mend = f"brighter tissue is cut off, convert the original scan to another type ({path})"
        yield _told(subject, "warning", "saturated", column, line, mend)
    corners = _corners(voxels)
    if np.count_nonzero(corners) > corners.size // 2:
        line = f"{column} has a background of {np.median(corners):.3g}, not zero"
        if subject.mask is None:
            mend = f"name a brain mask in the column 'mask' ({path})"
            yield _told(subject, "warning", "background", column, line, mend)
        else:
            yield _told(subject, "note", "background", column, line, "nothing to do, the mask tells what is brain")


def _corners(voxels: np.ndarray) -> np.ndarray:
    return voxels[np.ix_(*((0, -1),) * 3)].ravel()


def _label(subject: Subject, image: nib.Nifti1Image, voxels: np.ndarray) -> Iterator[Finding]:
    schema = subject.label_schema
    values, _ = label_values(voxels)
    if fault := label_fault(values, schema):
        line, mend = split_line(fault)
        whole = np.isfinite(values).all() and np.abs(values - np.rint(values)).max() < 1e-3
        code = "label-value" if whole else "label-fraction"
        yield _told(subject, "error", code, "label", line, f"{mend} {subject.label}")
        return
    if not np.isin(values, schema.values).any():
        line = "the label has no foreground"
        yield _told(subject, "warning", "label-empty", "label", line, f"check {subject.label}")
    if image.get_data_dtype().kind == "f":
        line = f"the label is stored as {image.get_data_dtype()}, all values are whole"
        mend = f"nothing to do here, store uint8 for programs that want integers ({subject.label})"
        yield _told(subject, "note", "label-float", "label", line, mend)


def _brain(subject: Subject, volumes: Mapping[str, np.ndarray]) -> Iterator[Finding]:
    """What needs the brain: sequences that disagree on it, intensities below zero in it, tumour outside it."""
    supports = {c: s for c in subject.images if c in volumes and (s := _support(volumes[c])) is not None}
    mask = volumes["mask"] > 0 if "mask" in volumes else None
    if mask is None and not supports:
        return
    votes = np.sum(list(supports.values()), axis=0, dtype=np.uint8)
    brain = np.asarray(2 * votes >= len(supports)) if mask is None else mask
    others = "the other sequences" if mask is None else "the mask"
    for column, support in supports.items():
        # Inside a mask, what lies outside it does not matter.
        dice = _dice(support if mask is None else support & mask, brain)
        if dice < BRAIN_DICE:
            line = f"{column} covers another brain than {others} (Dice {dice:.2f})"
            mend = f"strip all sequences with one brain mask or name it in 'mask' ({subject.files[column]})"
            yield _told(subject, "warning", "brain-differs", column, line, mend)
        below = (volumes[column] < 0) & support & brain
        if below.any():
            share = 100 * int(np.count_nonzero(below)) / int(np.count_nonzero(brain))
            line = f"{column} is negative in {share:.2g} % of the brain, down to {volumes[column][below].min():.3g}"
            mend = "no fault for z-scores, clip before taking logarithms, roots or ratios"
            yield _told(subject, "note", "negative-values", column, line, mend)
    if "label" in volumes:
        yield from _outside(subject, volumes["label"], np.asarray(votes > 0) if mask is None else mask)


def _support(voxels: np.ndarray) -> np.ndarray | None:
    """Where an image differs from its background; None where the background is noise and tells nothing."""
    corners = _corners(voxels)
    empty = 0 if np.count_nonzero(corners) <= corners.size // 2 else corners[0]
    return voxels != empty if empty == 0 or (corners == empty).all() else None


def _outside(subject: Subject, label: np.ndarray, brain: np.ndarray) -> Iterator[Finding]:
    tumour = label > 0
    for value in subject.label_schema.ignored:  # a cavity may be zero in every sequence
        tumour &= label != value
    share = int(np.count_nonzero(tumour & ~brain)) / max(1, int(np.count_nonzero(tumour)))
    if share > OUTSIDE_WARNING:
        line = f"{100 * share:.0f} % of the tumour lie outside the brain"
        mend = f"check that label and images are one patient and neither is mirrored or shifted ({subject.label})"
        severity = "error" if share > OUTSIDE_ERROR else "warning"
        yield _told(subject, severity, "label-outside", "label", line, mend)


def _dice(a: np.ndarray, b: np.ndarray) -> float:
    both = int(np.count_nonzero(a)) + int(np.count_nonzero(b))
    return 2 * int(np.count_nonzero(a & b)) / max(1, both)


def _region_ml(
    subject: Subject, images: Mapping[str, nib.Nifti1Image], volumes: Mapping[str, np.ndarray]
) -> dict[str, float]:
    if "label" not in volumes:
        return {}
    schema = subject.label_schema
    values, counts = label_values(volumes["label"])
    if label_fault(values, schema):
        return {}
    voxel_ml = abs(float(np.linalg.det(images["label"].affine[:3, :3]))) / 1000
    return {r: voxel_ml * int(counts[np.isin(values, members)].sum()) for r, members in schema.regions.items()}
