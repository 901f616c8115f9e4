"""Manifests for the three real cohorts that tests may be given: four, three and two modalities, one label or four."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mtg_lab.manifest import write_manifest

_MS = "{}_N4_noneck_reduced_winsor_regtoFLAIR_brain_N4_regtoMNI.nii.gz"
_MS_LABEL = "GOLD_STANDARD_N4_noneck_reduced_winsor_regtoFLAIR_regtoMNI.nii.gz"
STROKE_RAW_FLAIR = "flair"  # 512 x 512 x 29 on a grid of its own


def open_ms(root: Path) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
    """Multiple sclerosis (Lesjak et al. 2017): four modalities, one label, LAS."""
    names = {"t2f": "FLAIR", "t1n": "T1", "t1c": "T1POST", "t2w": "T2"}
    rows = []
    for patient, split in (("patient07", "train"), ("patient19", "val"), ("patient26", "test")):
        folder = root / "open_ms" / patient
        row = {"subject": patient, "split": split, "schema": "lesion", "label": str(folder / _MS_LABEL)}
        rows.append(row | {m: str(folder / _MS.format(word)) for m, word in names.items()})
    return rows, tuple(names)


def isles22(root: Path, flair: str = "flair_resampled_to_dwi") -> tuple[list[dict[str, Any]], tuple[str, ...]]:
    """Stroke (Hernandez Petzsche et al. 2022): diffusion and FLAIR, one label, one subject, hence one split."""
    subject = "sub-strokecase0009"
    stem = str(root / "isles22" / subject / f"{subject}_ses-0001_")
    row = {"subject": subject, "split": "train", "schema": "lesion", "label": f"{stem}msk.nii.gz"}
    row |= {"adc": f"{stem}adc.nii.gz", "dwi": f"{stem}dwi.nii.gz", "t2f": f"{stem}{flair}.nii.gz"}
    return [row], ("adc", "dwi", "t2f")


def brats15(root: Path) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
    """Glioma (Menze et al. 2015): two modalities, z-scored, so that the brain mask is needed; labels as floats, LPS."""
    rows = []
    for number, split in ((1, "train"), (2, "val"), (3, "test")):
        folder = root / "brats15" / f"brats_2013_pat000{number}_1"
        row = {"subject": folder.name, "split": split, "schema": "brats2015"}
        row |= {"t2f": str(folder / "Flair_subtrMeanDivStd.nii.gz"), "t1c": str(folder / "T1c_subtrMeanDivStd.nii.gz")}
        rows.append(row | {"label": str(folder / "OTMultiClass.nii.gz"), "mask": str(folder / "brainmask.nii.gz")})
    return rows, ("t2f", "t1c")


COHORTS = {"open_ms": open_ms, "isles22": isles22, "brats15": brats15}


def real_manifests(folder: Path, root: Path) -> Mapping[str, Path]:
    """Write a manifest for each cohort below ``root`` into ``folder``; name of the cohort to path."""
    return {name: write_manifest(*rows(root), folder / f"{name}.csv") for name, rows in COHORTS.items()}
