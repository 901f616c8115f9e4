"""A cohort in the layouts of nnU-Net v2 and MONAI, and with its labels converted to another schema."""

import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from mtg_lab import vocabulary
from mtg_lab.datalists import OWN
from mtg_lab.doctor import label_fault, load_image, read_voxels
from mtg_lab.errors import InputError
from mtg_lab.files import file_and_volume, folder_aside, make_folder, write_text, written_aside
from mtg_lab.manifest import Manifest, Subject, write_manifest
from mtg_lab.manifest_files import schema_file
from mtg_lab.progress import progress
from mtg_lab.schemas import LabelSchema, consecutive, convertible

_SECTIONS = {"train": "training", "val": "validation", "test": "test"}


def export_nnunet(manifest: Manifest, out: str | Path, *, copy: bool = False, fill_zeros: bool = False) -> Path:
    """Write an nnU-Net v2 raw folder: dataset.json, imagesTr, labelsTr, imagesTs, and labelsTs where there are labels.

    Scans are linked, or copied; one volume of a 4-D file is written out. Rows of the split test go to imagesTs, and so
    do rows without a label. Train and val are also written as splits_final.json, which nnU-Net reads from its folder of
    preprocessed data. Splits, sites and the schema come back with ``index_folder``; brain masks have no place.

    Raises:
        InputError: ``out`` holds something, a modality is absent (unless it is to be filled with zeros), the labels are
            not 1, 2, ... n, or a name is of no use as a file's.
    """
    cohort = manifest.materialise()
    schema = _exportable(cohort, fill_zeros)
    if schema and not _counts_up(schema):
        others = [s for s in convertible(schema) if _counts_up(vocabulary.schema(s))] or ["consecutive"]
        holds = ", ".join(map(str, sorted(schema.allowed - {0})))
        raise InputError(
            f"nnU-Net needs the labels 1, 2, ... n; {schema.name} has {holds}; convert them first: "
            f"mtg-lab convert {cohort.path} --schema {others[0]} --out DIR"
        )
    files = [file_and_volume(p) for s in cohort for p in s.files.values()]
    plain = all(k is None and f.name.lower().endswith(".nii") for f, k in files)
    ending = ".nii" if plain else ".nii.gz"
    training = [s for s in cohort if s.label is not None and s.split != "test"]
    with folder_aside(out) as folder:
        for subject in progress(cohort, total=len(cohort), desc="exporting"):
            part = "Tr" if subject in training else "Ts"
            for channel, modality in enumerate(cohort.modalities):
                target = folder / f"images{part}" / f"{subject.name}_{channel:04d}{ending}"
                _place(subject.images.get(modality), target, subject, copy)
            if subject.label is not None:
                _place(subject.label, folder / f"labels{part}" / f"{subject.name}{ending}", subject, copy)
        labels, order = region_labels(schema) if schema else ({"background": 0}, None)
        facts: dict[str, Any] = {
            "name": Path(out).name,
            "channel_names": {str(k): m for k, m in enumerate(cohort.modalities)},
            "labels": labels,
            **({"regions_class_order": order} if order else {}),
            "numTraining": len(training),
            "file_ending": ending,
            OWN: {
                "schema": schema.to_json() if schema else None,
                "subjects": {s.name: _own_facts(s, cohort.modalities) for s in cohort},
            },
        }
        write_text(folder / "dataset.json", json.dumps(facts, indent=2) + "\n")
        fold = {split: [s.name for s in training if s.split == split] for split in ("train", "val")}
        if all(fold.values()):
            write_text(folder / "splits_final.json", json.dumps([fold], indent=2) + "\n")
    return Path(out)


def _counts_up(schema: LabelSchema) -> bool:
    return schema.values == tuple(range(1, len(schema.values) + 1)) and not schema.ignored


def region_labels(schema: LabelSchema) -> tuple[dict[str, Any], list[int] | None]:
    """nnU-Net's ``labels`` and ``regions_class_order`` of a schema.

    nnU-Net paints its regions one over the other, each with one integer, so the larger must come first, and each must
    hold exactly one integer that no later one holds. Where the regions do not allow that (necrosis and non-enhancing
    tumour of 2015 are in the same regions), the labels are written one by one and the order is None.
    """
    regions = sorted(schema.regions.items(), key=lambda r: -len(r[1]))  # stable: equals keep their order
    order = []
    for place, (_, members) in enumerate(regions):
        later = {v for _, others in regions[place + 1 :] for v in others}
        order.append(sorted(set(members) - later))
    painted = [own[0] for own in order if len(own) == 1]
    if len(painted) < len(order) or sorted(painted) != list(schema.values):
        return {"background": 0} | {schema.labels[v]: v for v in schema.values}, None
    if all(len(members) == 1 for _, members in regions):
        return {"background": 0} | {name: members[0] for name, members in regions}, None
    return {"background": 0} | {name: list(members) for name, members in regions}, painted


def export_monai(manifest: Manifest, out: str | Path, *, fill_zeros: bool = False) -> Path:
    """Write a MONAI datalist: training, validation and test, the image a list of paths in the order of the channels.

    Where every subject is one 4-D file with the channels in order, that file is the image. Scans stay where they are;
    what is not a file of its own (one volume of a 4-D file, zeros) is written to ``<name>_volumes`` beside the list.

    Returns:
        The datalist: ``out``, or datalist.json in the folder ``out``.

    Raises:
        InputError: the list is there already, a modality is absent (unless it is to be filled with zeros), or a name is
            of no use as a file's.
    """
    cohort = manifest.materialise()
    schema = _exportable(cohort, fill_zeros)
    path = Path(os.path.abspath(out))
    path = path if path.suffix.lower() == ".json" else path / "datalist.json"
    if path.exists():
        raise InputError(f"{path} is there already; choose another --out, or move this one away")
    make_folder(path.parent)
    whole = all(_one_file(s, cohort.modalities) for s in cohort)
    sections: dict[str, list[dict[str, Any]]] = {section: [] for section in _SECTIONS.values()}
    for subject in progress(cohort, total=len(cohort), desc="exporting"):
        images: str | list[str]
        if whole:
            images = _written(file_and_volume(next(iter(subject.images.values())))[0], path.parent)
        else:
            images = []
            for modality in cohort.modalities:
                cell = subject.images.get(modality)
                if cell is None or file_and_volume(cell)[1] is not None:
                    target = path.with_name(f"{path.stem}_volumes") / f"{subject.name}-{modality}.nii.gz"
                    _place(cell, target, subject, copy=True)
                    cell = target
                images.append(_written(cell, path.parent))
        extra = {k: _written(v, path.parent) for k, v in (("label", subject.label), ("mask", subject.mask)) if v}
        section = _SECTIONS[subject.split or ("train" if subject.label else "test")]
        own = {OWN: _own_facts(subject, cohort.modalities)}
        sections[section].append({"subject": subject.name, "image": images, **extra, **own})
    names = {0: "background"} | (dict(schema.labels) if schema else {})
    facts = {
        "name": cohort.path.stem,
        "modality": {str(k): m for k, m in enumerate(cohort.modalities)},
        "labels": {str(v): names[v] for v in sorted(names)},
        OWN: {"schema": schema.to_json() if schema else None},
        **{section: entries for section, entries in sections.items() if entries},
    }
    return write_text(path, json.dumps(facts, indent=2) + "\n")


def convert_labels(manifest: Manifest, schema: str, out: str | Path) -> Path:
    """Write the cohort's labels in another schema, and a manifest that names them beside the scans, which stay.

    Args:
        manifest: of one schema.
        schema: a listed schema, or ``consecutive``: the same labels as 1, 2, ... n.
        out: a new folder, for ``labels/`` and ``data_manifest.csv``.

    Returns:
        The new manifest.

    Raises:
        InputError: a label has no counterpart, a label map is at fault, or ``out`` holds something.
    """
    cohort = manifest.materialise()
    _check_names(cohort)
    source = cohort.schema
    target = consecutive(source) if schema == "consecutive" else vocabulary.schema(schema)
    mapping = vocabulary.conversion(source, target)
    dtype = np.min_scalar_type(max(target.values))
    name = "data_manifest.csv"
    with folder_aside(out) as folder:
        rows = []
        for subject in progress(cohort, total=len(cohort), desc="converting"):
            row = {"subject": subject.name, "split": subject.split, "site": subject.site}
            row |= {c: os.path.abspath(p) for c, p in subject.files.items()}
            if subject.label is not None:
                image = load_image(subject.label)
                voxels = converted(read_voxels(image), source, mapping, subject).astype(dtype)
                row |= {"label": f"labels/{subject.name}.nii.gz", "schema": target.name}
                with written_aside(folder / row["label"]) as aside:
                    nib.save(nib.Nifti1Image(voxels, image.affine), aside)
            rows.append(row)
        if target.name not in vocabulary.SCHEMAS:
            write_text(schema_file(folder / name), json.dumps(target.to_json(), indent=2) + "\n")
        write_manifest(rows, cohort.modalities, folder / name)
    return Path(out) / name


def converted(voxels: np.ndarray, source: LabelSchema, mapping: Mapping[int, int], subject: Subject) -> np.ndarray:
    """A label map with every integer replaced by its counterpart.

    Raises:
        InputError: a value is outside the source's schema.
    """
    if fault := label_fault(voxels, source):
        raise InputError(f"subject {subject.name}: {fault} {subject.label}")
    rounded = np.rint(voxels).astype(np.int64)
    table = np.zeros(max(mapping) + 1, dtype=np.int64)
    table[list(mapping)] = list(mapping.values())
    return table[rounded]


def _exportable(cohort: Manifest, fill_zeros: bool) -> LabelSchema | None:
    """The cohort's schema, None where nothing has a label; refuses what neither format can hold."""
    _check_names(cohort)
    lacking = [(s.name, m) for s in cohort for m in cohort.modalities if m not in s.images]
    if lacking and not fill_zeros:
        subject, modality = lacking[0]
        more = f", and {len(lacking) - 1} more cells are empty" if len(lacking) > 1 else ""
        raise InputError(
            f"subject {subject} has no {modality}{more}; the format needs every channel, drop the rows or fill the "
            "channels with zeros by --fill-zeros"
        )
    return cohort.schema if any(s.label for s in cohort) else None


def _check_names(cohort: Manifest) -> None:
    for subject in cohort:
        if not re.fullmatch(r"[\w+.-]*\w", subject.name) or subject.name.startswith("."):
            raise InputError(
                f"subject {subject.name!r} cannot name a file; rename it with letters, digits, - and _ in the manifest"
            )


def _own_facts(subject: Subject, modalities: Sequence[str]) -> dict[str, Any]:
    absent = [m for m in modalities if m not in subject.images]
    facts = {"split": subject.split, "site": subject.site, "absent": absent}
    return {k: v for k, v in facts.items() if v}


def _one_file(subject: Subject, modalities: Sequence[str]) -> bool:
    """Whether the subject's channels are all the volumes of one 4-D file, in order."""
    cells = [file_and_volume(subject.images[m]) for m in modalities if m in subject.images]
    if [k for _, k in cells] != list(range(len(modalities))) or len({f for f, _ in cells}) > 1:
        return False
    return nib.Nifti1Image.from_filename(cells[0][0]).shape[3:] == (len(modalities),)


def _place(cell: Path | None, target: Path, subject: Subject, copy: bool) -> None:
    """Put a scan at ``target``: linked or copied, written out if it is no file of that ending, zeros if absent."""
    target.parent.mkdir(parents=True, exist_ok=True)
    file, volume = file_and_volume(cell) if cell is not None else (None, None)
    ending = ".nii.gz" if target.name.endswith(".nii.gz") else ".nii"
    if file is not None and volume is None and file.name.lower().endswith(ending):
        if copy:
            shutil.copyfile(file, target)
        else:
            try:
                target.symlink_to(os.path.abspath(file))
            except OSError as error:
                raise InputError(f"cannot link {target.name} ({error.strerror or error}); copy by --copy") from error
        return
    image = load_image(cell if cell is not None else next(iter(subject.images.values())))
    if cell is None:
        voxels = np.zeros(image.shape, dtype=np.int16)
    else:
        voxels = read_voxels(image)
        if voxels.dtype == np.float64 and image.get_data_dtype().kind in "iu":
            voxels = voxels.astype(np.float32)  # scaled integers
    with written_aside(target) as aside:
        nib.save(nib.Nifti1Image(voxels, image.affine), aside)


def _written(path: Path, folder: Path) -> str:
    """A path as the list writes it: relative where the scan lies below the list's folder."""
    whole = Path(os.path.abspath(path))
    return whole.relative_to(folder).as_posix() if whole.is_relative_to(folder) else str(whole)
