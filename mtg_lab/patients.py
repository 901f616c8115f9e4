"""One patient, or a whole cohort, from any sequences: masks in the patient's own grid, volumes, pictures, warnings."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from matplotlib.figure import Figure

from mtg_lab import reliability, vocabulary
from mtg_lab.data import preprocessing_transform
from mtg_lab.errors import InputError
from mtg_lab.files import make_folder, written_aside
from mtg_lab.hardware import default_device, use_bf16
from mtg_lab.inference import OVERLAP, choose_window, native_probabilities, subset_logits
from mtg_lab.manifest import Manifest, Subject
from mtg_lab.postprocessing import Removal, choose_removals, classes_without_small
from mtg_lab.progress import progress
from mtg_lab.runs import Run
from mtg_lab.scans import load_image
from mtg_lab.slices import sequences

Source = str | Path | nib.Nifti1Image | tuple[np.ndarray, np.ndarray]  # an array comes with its affine


@dataclass(frozen=True)
class Segmented:
    """What a network says of a patient.

    Attributes:
        labels: integers of the run's label schema in the grid of the input.
        probabilities: [D, H, W, R] float32, one volume a region in the order of ``report["regions"]``.
        images: the sequences that were looked at.
        report: what JSON can hold: run, subset, volumes of the regions in ml, grid, protocol, and warnings, among them
            which regions are not to be trusted from this subset where that was measured
            (:mod:`mtg_lab.reliability`).
    """

    labels: nib.Nifti1Image
    probabilities: nib.Nifti1Image
    images: Mapping[str, nib.Nifti1Image]
    report: Mapping[str, Any]


def predict(
    run: Run,
    mask: Source | None = None,
    window: int | None = None,
    removals: Sequence[Removal | str] = (),
    **images: Source,
) -> nib.Nifti1Image:
    """A label map in the patient's own grid from whatever sequences there are: ``predict(run, t1c=..., t2f=...)``.

    The labels of :func:`segment`, which see for arguments and errors.
    """
    return segment(run, mask, window, removals, **images).labels


@torch.inference_mode()
def segment(
    run: Run,
    mask: Source | None = None,
    window: int | None = None,
    removals: Sequence[Removal | str] = (),
    **images: Source,
) -> Segmented:
    """Segment a patient from whatever sequences there are: ``segment(run, t1c=..., t2f=...)``.

    Orientation, spacing and brain box are those of the run's preprocessing on the way in and undone on the way out.
    Probabilities are carried to the input's grid before a label is chosen, so that borders do not follow coarse voxels.

    Args:
        run: a trained run.
        mask: brain mask, needed when the images' background is not zero.
        window: edge of the sliding window in voxels of the working grid; None chooses (see
            :func:`mtg_lab.inference.choose_window`).
        removals: regions that lose their small parts, such as ``"ET:500"`` (mm3 in the input's grid), see
            :func:`mtg_lab.postprocessing.classes_without_small`; probabilities stay as they are.
        images: modality (aliases are understood) to file, nibabel image, or array [D, H, W] with its affine [4, 4];
            all in one grid. ``a.nii.gz[2]`` is the third volume of a 4-D file.

    Returns:
        Labels with shape and affine of the input, in its data type where that is an integer type that can hold them,
        else in the smallest unsigned one; probabilities of the regions; a report.

    Raises:
        InputError: no image, an unknown modality or one under two names, grids that differ, an unreadable file, a
            removal from a region that the run does not know.
    """
    ordered = _named(run, images)
    chosen = choose_removals(removals, tuple(run.schema.regions))
    patient = Subject("patient", ordered, mask=None if mask is None else _as_source(mask))  # type: ignore[arg-type]
    sample = preprocessing_transform(run.modalities, run.recipe.preprocessing, labelled=False)({"subject": patient})
    size = choose_window(run, sample["image"].shape[1:]) if window is None else window
    network = run.backbone(default_device())
    (logits,) = subset_logits(
        network, sample["image"], [sample["present"]], size, OVERLAP, brain=sample["brain"][0] > 0
    )
    opened = {m: load_image(source) for m, source in ordered.items()}
    native = next(iter(opened.values()))
    carried = native_probabilities(logits.softmax(dim=0), sample["affine"], native)
    values = [0, *run.schema.values]
    members, voxel_mm3 = run.schema.region_classes, float(abs(np.linalg.det(native.affine[:3, :3])))
    classes = classes_without_small(carried, members, chosen, voxel_mm3)
    small = _taken_out(carried.max(dim=0).indices.numpy(), classes, members, chosen, voxel_mm3 / 1000)
    integers = np.array(values, dtype=_integer_type(native, max(values)))[classes]
    regions = {r: carried[list(own)].sum(dim=0) for r, own in members.items()}
    stacked = torch.stack(list(regions.values()), dim=-1).numpy().astype(np.float32)
    report = _report(run, tuple(ordered), integers, native, size)
    report["removals"], report["removed_ml"] = [r.told for r in chosen], small
    report["warnings"] += [
        f"{region}: all {lost:.2f} ml of it lay in parts that are too small to be kept"
        for region, lost in small.items()
        if lost and not report["volumes_ml"][region]
    ]
    return Segmented(nib.Nifti1Image(integers, native.affine), nib.Nifti1Image(stacked, native.affine), opened, report)


def overlay(segmented: Segmented, schema_labels: Mapping[int, str], title: str = "") -> Figure:
    """The slice with most of the mask in every sequence that was given, outlined, in canonical orientation."""
    volumes = {m: nib.as_closest_canonical(image).get_fdata() for m, image in segmented.images.items()}
    label = np.asarray(nib.as_closest_canonical(segmented.labels).dataobj)
    ml = ", ".join(f"{region} {volume:.1f} ml" for region, volume in segmented.report["volumes_ml"].items())
    return sequences(volumes, label, dict(schema_labels), title=title or f"{segmented.report['subset']}: {ml}")


def write_segmented(
    segmented: Segmented,
    out: Path,
    schema_labels: Mapping[int, str],
    probabilities: bool = False,
    picture: bool = False,
) -> list[Path]:
    """Write ``out`` (the mask) and ``<stem>.json``; on request ``<stem>.probabilities.nii.gz`` and ``<stem>.png``.

    Everything is written aside first and renamed when all of it is there.

    Raises:
        InputError: ``out`` is no NIfTI name, or its folder cannot be written to.
    """
    stem = out.with_name(nifti_stem(out))
    targets = [out, stem.with_name(stem.name + ".json")]
    targets += [stem.with_name(stem.name + ".probabilities.nii.gz")] * probabilities
    targets += [stem.with_name(stem.name + ".png")] * picture
    with ExitStack() as stack:
        asides = {target: stack.enter_context(written_aside(target)) for target in targets}
        nib.save(segmented.labels, asides[out])
        asides[targets[1]].write_text(json.dumps(segmented.report, indent=2) + "\n")
        for target, aside in asides.items():
            if target.name.endswith(".probabilities.nii.gz"):
                nib.save(segmented.probabilities, aside)
            if target.suffix == ".png":
                overlay(segmented, schema_labels).savefig(aside, dpi=120, format="png")
    return targets


def segment_cohort(
    run: Run,
    cohort: Manifest,
    folder: Path,
    probabilities: bool = False,
    picture: bool = False,
    removals: Sequence[Removal | str] = (),
) -> Iterator[tuple[str, Mapping[str, Any], bool]]:
    """Segment every subject from the sequences that it has, into ``folder/<subject>.nii.gz`` and its companions.

    What is there already of the same run, subset and removals is not computed again, so that an interrupted call goes
    on; each subject's files appear together.

    Yields:
        Subject, its report, and whether it was computed now.

    Raises:
        InputError: a modality or region that the run does not know, or whatever a subject's files are refused for.
    """
    run.check_modalities(cohort.modalities, str(cohort.path))
    chosen = choose_removals(removals, tuple(run.schema.regions))
    make_folder(folder)
    for subject in progress(list(cohort.materialise()), total=len(cohort), desc="segmenting"):
        out = folder / f"{subject.name}.nii.gz"
        wanted = [out, *[folder / f"{subject.name}.probabilities.nii.gz"] * probabilities]
        wanted += [folder / f"{subject.name}.png"] * picture
        subset = vocabulary.subset_name(subject.images, run.modalities)
        known = _known_report(folder / f"{subject.name}.json", run.digest, subset, chosen)
        if known and all(path.is_file() for path in wanted):
            yield subject.name, known, False
            continue
        try:
            found = segment(run, subject.mask, removals=chosen, **subject.images)
        except InputError as refusal:
            raise InputError(f"subject {subject.name}: {str(refusal).removeprefix('subject patient: ')}") from None
        write_segmented(found, out, run.schema.labels, probabilities, picture)
        yield subject.name, found.report, True


def nifti_stem(path: Path) -> str:
    """The file's name without ``.nii`` or ``.nii.gz``.

    Raises:
        InputError: it ends in neither.
    """
    for ending in (".nii.gz", ".nii"):
        if path.name.endswith(ending) and path.name != ending:
            return path.name.removesuffix(ending)
    raise InputError(f"--out {path} must end in .nii or .nii.gz; rename it")


def _named(run: Run, images: Mapping[str, Source]) -> dict[str, Path | nib.Nifti1Image]:
    """By modality, in the run's order."""
    named: dict[str, Path | nib.Nifti1Image] = {}
    for name, image in images.items():
        modality = vocabulary.canonical_modality(name)
        if modality in named:
            raise InputError(f"{name} and {modality} are one modality and both are given; leave one out")
        named[modality] = _as_source(image)
    if not named:
        raise InputError(f"nothing to predict from; give at least one of {', '.join(run.modalities)}")
    run.check_modalities(tuple(named), "the patient")
    return {m: named[m] for m in run.modalities if m in named}


def _as_source(image: Source) -> Path | nib.Nifti1Image:
    if isinstance(image, tuple):
        voxels, affine = image
        if np.ndim(voxels) != 3 or np.shape(affine) != (4, 4):
            raise InputError(
                f"an array of shape {np.shape(voxels)} with an affine of {np.shape(affine)}; give [D, H, W] and [4, 4]"
            )
        plain = np.asarray(voxels)
        return nib.Nifti1Image(plain.astype(np.uint8) if plain.dtype == bool else plain, affine, dtype=_storable(plain))
    return Path(image) if isinstance(image, str | Path) else image


def _storable(voxels: np.ndarray) -> np.dtype:
    """NIfTI knows no booleans, and nibabel wants to be told that 64-bit integers are meant."""
    return np.dtype(np.uint8) if voxels.dtype == bool else voxels.dtype


def _integer_type(native: nib.Nifti1Image, largest: int) -> np.dtype:
    """The input's type if it holds integers up to ``largest``, else the smallest that does."""
    own = native.get_data_dtype()
    if own.kind in "iu" and np.iinfo(own).max >= largest:
        return own
    return np.min_scalar_type(largest)


def _report(
    run: Run, given: tuple[str, ...], integers: np.ndarray, native: nib.Nifti1Image, window: int
) -> dict[str, Any]:
    voxel_ml = float(abs(np.linalg.det(native.affine[:3, :3]))) / 1000
    volumes = {r: float(np.isin(integers, members).sum()) * voxel_ml for r, members in run.schema.regions.items()}
    warnings = [] if integers.any() else ["no voxel was labelled; look at the input before believing it"]
    measured = None if run.operations else reliability.load(run)  # what was measured is another network now
    warnings += reliability.warnings_for(measured, given) if measured else []
    return {
        "run": run.digest,
        **({"operations": list(run.operations)} if run.operations else {}),
        "method": run.recipe.method,
        "backbone": run.recipe.backbone,
        "subset": vocabulary.subset_name(given, run.modalities),
        "missing": [m for m in run.modalities if m not in given],
        "schema": run.schema.name,
        "labels": {str(value): name for value, name in run.schema.labels.items()},
        "regions": list(run.schema.regions),
        "volumes_ml": {r: round(v, 4) for r, v in volumes.items()},
        "grid": {
            "shape": [int(n) for n in native.shape],
            "voxel_mm": [round(float(n), 5) for n in native.header.get_zooms()[:3]],
            "orientation": "".join(nib.aff2axcodes(native.affine)),
        },
        "protocol": {
            "spacing_mm": run.recipe.preprocessing.spacing_mm,
            "window": window,
            "overlap": OVERLAP if window else 0.0,
            "precision": "bf16" if use_bf16("auto") else "fp32",
            "decision": "arg max of label probabilities on the input's grid",
        },
        "warnings": warnings,
        "versions": {p: version(p) for p in ("mtg-lab", "torch", "monai")},
    }


def _taken_out(
    before: np.ndarray,
    after: np.ndarray,
    members: Mapping[str, Sequence[int]],
    removals: Sequence[Removal],
    voxel_ml: float,
) -> dict[str, float]:
    """What each region with a removal has lost, in ml."""
    own = {r.region: list(members[r.region]) for r in removals}
    return {r: round(float((np.isin(before, c) & ~np.isin(after, c)).sum()) * voxel_ml, 4) for r, c in own.items()}


def _known_report(path: Path, digest: str, subset: str, removals: Sequence[Removal]) -> dict[str, Any] | None:
    try:
        report = json.loads(path.read_text())
        told = report["run"], report["subset"], report.get("removals", [])
        return report if told == (digest, subset, [r.told for r in removals]) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
