"""How long does a manifest of thousands of subjects take to open, to name its runs and to be examined, in what memory?

    python benchmarks/large_cohort.py --subjects 500 5000 --workers 1 2 --out out/large_cohort.csv
    python benchmarks/large_cohort.py --subjects 16 --edge 208 --out out/whole_files.csv    # files as large as BraTS's

Subjects are cubes of noise with four sequences and a label. Small ones, as by default, tell not of reading voxels
(``loading.py`` does), but of what comes on top of it for every subject, and what grows with their number or its square;
large ones tell what threads are worth. Wall seconds; peak memory is that of a process of its own for each line.
"""

import argparse
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
from timing import environment

from mtg_lab.files import make_folder, written_aside
from mtg_lab.manifest import read_manifest, write_manifest

SEQUENCES = ("t1n", "t1c", "t2w", "t2f")


def cohort(folder: Path, subjects: int, edge: int) -> Path:
    """Files of so many subjects and their manifest."""
    rng = np.random.default_rng(0)
    rows = []
    for number in range(subjects):
        name = f"P{number:05d}"
        row = {"subject": name, "split": "test" if number % 5 == 0 else "train", "schema": "brats2023"}
        place = make_folder(folder / name)
        for column in (*SEQUENCES, "label"):
            noise = rng.integers(0, 4, (edge,) * 3) if column == "label" else rng.normal(100, 20, (edge,) * 3)
            nib.save(nib.Nifti1Image(noise.astype("uint8"), np.eye(4)), place / f"{column}.nii.gz")
            row[column] = f"{name}/{column}.nii.gz"
        rows.append(row)
    return write_manifest(rows, SEQUENCES, folder / "data_manifest.csv")


def opened(manifest: Path, workers: int) -> None:
    """The rows are read and checked; nothing of the files."""
    read_manifest(manifest)


def named(manifest: Path, workers: int) -> None:
    """The cohort's part of a run's name: every file is asked for its checksum."""
    read_manifest(manifest).fingerprint()


def examined(manifest: Path, workers: int) -> None:
    """``mtg-lab doctor``: every file read, subjects compared with each other."""
    from mtg_lab.doctor import doctor

    doctor(manifest, workers)


WAYS: dict[str, Callable[[Path, int], None]] = {"open": opened, "fingerprint": named, "doctor": examined}


def alone(way: str, manifest: Path, workers: int) -> tuple[float, float]:
    """Seconds and peak megabytes, called in a process of its own; a first call on nothing imports what is needed."""
    started = time.perf_counter()
    WAYS[way](manifest, workers)
    return time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measured(way: str, manifest: Path, warm: Path, workers: int) -> dict[str, float]:
    """One line; imports are made on a cohort of one subject before."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        _, before = pool.apply(alone, (way, warm, workers))
        seconds, peak = pool.apply(alone, (way, manifest, workers))
    return {"seconds": seconds, "peak_mb": peak, "peak_mb_before": before}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--subjects", type=int, nargs="+", default=[500, 5000])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2], help="threads of the doctor")
    parser.add_argument("--edge", type=int, default=16, help="voxels along an edge of every volume")
    parser.add_argument("--out", type=Path, default=Path("out/large_cohort.csv"))
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        warm = cohort(make_folder(Path(folder, "1")), 1, options.edge)
        for subjects in options.subjects:
            manifest = cohort(make_folder(Path(folder, str(subjects))), subjects, options.edge)
            for way in WAYS:
                for workers in options.workers if way == "doctor" else [1]:
                    line = measured(way, manifest, warm, workers)
                    rows.append({"what": way, "subjects": subjects, "edge": options.edge, "workers": workers, **line})
                    print(pd.DataFrame(rows[-1:]).round(3).to_string(index=False, header=len(rows) == 1), flush=True)
    make_folder(options.out.parent)
    with written_aside(options.out) as aside:
        pd.DataFrame(rows).assign(**environment()).round(4).to_csv(aside, index=False)


if __name__ == "__main__":
    main()
