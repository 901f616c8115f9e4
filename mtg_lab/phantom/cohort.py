"""The files of a patient, and the table of a cohort."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
from joblib import Parallel, delayed

from .ingredients import chosen_ingredients
from .maps import EXTENDED
from .patient import PROTOCOLS, PhantomCase, check_patient, synthesise
from .signal import MODALITIES, SITES

SCHEMA = "brats2023"


def file_names(subject: str, protocol: str = "standard") -> dict[str, str]:
    """Manifest column to the name of a patient's file, in the protocol's order, the label last."""
    return {name: f"{subject}-{name}.nii.gz" for name in PROTOCOLS[protocol]} | {"label": f"{subject}-seg.nii.gz"}


def write_case(case: PhantomCase, folder: str | Path, subject: str) -> dict[str, str]:
    """Write a patient's files into a folder; returns manifest column to file name.

    Each file is written aside in the same folder and renamed, so that no reader ever sees a part of one.

    Raises:
        OSError: the folder cannot be written to; nothing half-written stays.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    names = file_names(subject, find_protocol(case.images))
    for column, name in names.items():
        array = case.label if column == "label" else case.images[column]
        image = nib.Nifti1Image(array, case.affine)
        image.header.set_xyzt_units("mm")
        handle, aside = tempfile.mkstemp(prefix=f".{name}.", suffix=".nii.gz", dir=folder)
        os.close(handle)
        try:
            nib.save(image, aside)
            os.chmod(aside, 0o644)
            os.replace(aside, folder / name)
        except BaseException:
            Path(aside).unlink(missing_ok=True)
            raise
    return names


def find_protocol(columns: Iterable[str]) -> str:
    """The protocol that makes these columns of a row: `extended` where it names more than `standard` has."""
    return "standard" if {*columns} <= {"label", *MODALITIES} else "extended"


def cohort_rows(
    subjects: int = 60,
    seed: int = 0,
    spacing_mm: float = 2.0,
    protocol: str = "standard",
    ingredients: str | Collection[str] = "",
) -> list[dict[str, Any]]:
    """The manifest rows of a cohort: train, val and test as 36 : 8 : 16, the three sites balanced within each.

    Paths are relative to the cohort's root, `2mm/phantom-001/phantom-001-t1n.nii.gz`. Seed and site of a subject do
    not depend on the size of the cohort; its split does.

    Raises:
        ValueError: no subjects, negative seed, unknown protocol or ingredient, or spacing out of range.
    """
    check_patient(seed, spacing_mm, protocol=protocol)
    chosen = "+".join(chosen_ingredients(ingredients))
    if subjects < 1:
        raise ValueError(f"{subjects} subjects make no cohort; ask for at least 1")
    val, test = (max(1, round(subjects * share / 60)) if subjects >= 3 else 0 for share in (8, 16))
    splits = ["train"] * (subjects - val - test) + ["val"] * val + ["test"] * test
    rows = []
    for i, split in enumerate(splits):
        subject = f"phantom-{i + 1:03d}"
        folder = f"{spacing_mm:g}mm/{subject}"
        row = {"subject": subject, "split": split, "site": list(SITES)[i % len(SITES)], "seed": seed * 100_000 + i}
        row |= {"ingredients": chosen} if chosen else {}
        rows.append(row | {"schema": SCHEMA} | {c: f"{folder}/{n}" for c, n in file_names(subject, protocol).items()})
    return rows


def _materialise_row(row: Mapping[str, Any], root: str, spacing_mm: float) -> str:
    columns = [c for c in (*EXTENDED, "label") if row.get(c)]
    case = synthesise(
        int(row["seed"]), str(row["site"]), spacing_mm, find_protocol(columns), str(row.get("ingredients") or "")
    )
    write_case(case, (Path(root) / str(row["label"])).parent, str(row["subject"]))
    return str(row["subject"])


def materialise(
    rows: Sequence[Mapping[str, Any]],
    root: str | Path,
    spacing_mm: float,
    workers: int | None = None,
    progress: Callable[..., Iterable[Any]] | None = None,
) -> None:
    """Write every row whose files are not all there below `root`.

    Args:
        rows: as `cohort_rows` gives them; a row with one of the extended protocol's columns is made by that protocol.
        root: folder that the rows' paths are relative to.
        spacing_mm: voxel size.
        workers: processes; None for one a core, 1 for this process alone.
        progress: wraps the iteration like tqdm, called with the iterable, `total` and `desc`.

    Raises:
        ValueError: as `synthesise`. OSError: the folder cannot be written to.
    """
    root = Path(root)
    for row in rows:
        check_patient(int(row["seed"]), spacing_mm, str(row["site"]))
    missing = [r for r in rows if not all((root / str(r[c])).is_file() for c in (*EXTENDED, "label") if r.get(c))]
    if not missing:
        return
    show = progress or (lambda iterable, **_: iterable)
    task = partial(_materialise_row, root=str(root), spacing_mm=spacing_mm)
    workers = min(workers or os.cpu_count() or 1, len(missing))
    if workers == 1:
        for row in show(missing, total=len(missing), desc="phantom"):
            task(row)
        return
    # joblib's processes do not import the caller's main module: a script needs no main guard, a notebook none either.
    jobs = Parallel(n_jobs=workers, return_as="generator_unordered")(delayed(task)(dict(row)) for row in missing)
    for _ in show(jobs, total=len(missing), desc="phantom"):
        pass
