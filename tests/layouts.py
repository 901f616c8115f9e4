"""Miniature folders in the layouts of challenges and frameworks: volumes of 8x8x8, every file really there."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np

SHAPE = (8, 8, 8)
OLD, NEW = ("t1", "t1ce", "t2", "flair"), ("t1n", "t1c", "t2w", "t2f")


def scan(path: Path, seed: int = 0, shape=SHAPE) -> Path:
    """A volume of positive noise inside a rim of zeros."""
    voxels = np.zeros(shape, dtype=np.int16)
    rng = np.random.default_rng([seed, *path.name.encode()])
    voxels[1:-1, 1:-1, 1:-1] = rng.integers(1, 900, voxels[1:-1, 1:-1, 1:-1].shape)
    return _saved(path, voxels)


def label(path: Path, values=(1, 2, 3)) -> Path:
    """A label map that holds each of ``values`` in a slab of its own."""
    voxels = np.zeros(SHAPE, dtype=np.int16)
    for place, value in enumerate(values, start=1):
        voxels[2:6, 2:6, place] = value
    return _saved(path, voxels)


def _saved(path: Path, voxels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(voxels, np.diag([2.0, 2, 2, 1])), path)
    return path


def brats_case(
    folder: Path, case: str, parts=NEW, separator="-", values=(1, 2, 3), ending=".nii.gz", seg="seg"
) -> Path:
    for number, part in enumerate(parts):
        scan(folder / case / f"{case}{separator}{part}{ending}", number)
    if values:
        label(folder / case / f"{case}{separator}{seg}{ending}", values)
    return folder


def old_case(folder: Path, case: str, **options) -> Path:
    return brats_case(folder, case, **{"parts": OLD, "separator": "_", "values": (1, 2, 4), **options})


def decathlon(folder: Path, training=5, test=2) -> Path:
    """Task01_BrainTumour: 4-D images, channels FLAIR, T1w, t1gd, T2w, labels of its own."""
    names = [f"BRATS_{n:03d}" for n in range(1, training + test + 1)]
    for number, name in enumerate(names):
        part = "Tr" if number < training else "Ts"
        scan(folder / f"images{part}" / f"{name}.nii.gz", number, (*SHAPE, 4))
        if part == "Tr":
            label(folder / "labelsTr" / f"{name}.nii.gz", (1, 2, 3))
    facts = {
        "name": "BRATS", "tensorImageSize": "4D",
        "modality": {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"},
        "labels": {"0": "background", "1": "edema", "2": "non-enhancing tumor", "3": "enhancing tumour"},
        "numTraining": training, "numTest": test,
        "training": [
            {"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"} for n in names[:training]
        ],
        "test": [f"./imagesTs/{n}.nii.gz" for n in names[training:]],
    }  # fmt: skip
    return dataset_json(folder, facts)


def nnunet(folder: Path, facts: dict, training=("a", "b"), test=("c",), channels=2, values=(1, 2, 3)) -> Path:
    ending = facts.get("file_ending", ".nii.gz")
    for part, cases in (("Tr", training), ("Ts", test)):
        for case in cases:
            for channel in range(channels):
                scan(folder / f"images{part}" / f"{case}_{channel:04d}{ending}", channel)
    for case in training:
        label(folder / "labelsTr" / f"{case}{ending}", values)
    return dataset_json(folder, facts)


def dataset_json(folder: Path, facts, name="dataset.json") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps(facts))
    return folder


def isles(folder: Path, case="sub-strokecase0001", resampled=True) -> Path:
    stem = f"{case}_ses-0001_"
    scan(folder / "rawdata" / case / "ses-0001" / "dwi" / f"{stem}dwi.nii.gz")
    scan(folder / "rawdata" / case / "ses-0001" / "dwi" / f"{stem}adc.nii.gz")
    scan(folder / "rawdata" / case / "ses-0001" / "anat" / f"{stem}FLAIR.nii.gz", shape=(10, 10, 4))
    if resampled:
        scan(folder / "rawdata" / case / "ses-0001" / "anat" / f"{stem}flair_resampled_to_dwi.nii.gz")
    label(folder / "derivatives" / case / "ses-0001" / f"{stem}msk.nii.gz", (1,))
    return folder


def myops(folder: Path, training=5, test=2) -> Path:
    for number in range(training):
        case = f"myops_training_{101 + number}"
        for part in ("C0", "DE", "T2"):
            scan(folder / "train25" / f"{case}_{part}.nii.gz")
        label(folder / "train25_myops_gd" / f"{case}_gd.nii.gz", (200, 500, 600, 1220, 2221))
    for number in range(test):
        for part in ("C0", "DE", "T2"):
            scan(folder / "test20" / f"myops_test_{201 + number}_{part}.nii.gz")
    return folder
