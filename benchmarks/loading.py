"""How much faster is a cached sample than its .nii.gz files, and how long does a random crop of it take?

    python benchmarks/loading.py --rounds 15

All ways are timed in turn in one process, round by round. Printed is processor time, medians and ranges over rounds in
ms, and how many times faster than decoding in the same round: every file lies in the page cache, so that nothing waits
for a disk, and the turns that other programs take on a shared machine do not count. In a round, a way is repeated for a
twentieth of a second, as a training loop reads one sample after the other.

decoding     nibabel reads the voxels of every file of the subject; nothing else is done to them
preparing    decoding, one orientation and spacing, brain box, z-scores: what a sample costs without a cache
opening      the cached sample as tensors that map the entry's file: what every access costs
one crop     opening, and copying one cube out of image and label: what a training sample reads
all voxels   opening, and the largest value of every tensor, so that every voxel is read in place
a copy       opening, and a copy of every tensor into new memory: bound by the memory, not by the format
crop stream  a training sample of CropStream, with the search for its centre and augmentation
"""

import argparse
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import patch

import nibabel as nib
import numpy as np
import pandas as pd
import torch
from timing import in_turn, ratios

from mtg_lab import phantom
from mtg_lab.data import CropStream, Preprocessing, Sampling, cached_dataset, preprocessing_transform
from mtg_lab.indexing import index_folder
from mtg_lab.manifest import Subject, read_manifest


def subjects(folder: Path) -> Iterator[tuple[str, Subject, float, int]]:
    """Name, subject, spacing in mm and edge of a crop in voxels; a real one where MTG_LAB_REAL_DATA is set."""
    for spacing, edge in ((2.0, 48), (1.0, 80)):
        case = phantom.synthesise(1, "A", spacing)
        names = phantom.write_case(case, folder / f"{spacing:g}mm", "p")
        paths = {column: folder / f"{spacing:g}mm" / name for column, name in names.items()}
        label = paths.pop("label")
        yield f"phantom {spacing:g} mm", Subject("p", paths, "train", "brats2023", label), spacing, edge
    if root := os.environ.get("MTG_LAB_REAL_DATA"):
        patterns = {"t1n": "*T1_N4*", "t1c": "*T1POST*", "t2w": "*T2_N4*", "t2f": "*FLAIR_N4*"}
        found = index_folder(Path(root) / "open_ms", schema="lesion", patterns=patterns, label="*GOLD*")
        found.write(folder / "real.csv")
        yield "open_ms 1 mm", read_manifest(folder / "real.csv").subjects[0], 1.0, 80


def ways(subject: Subject, spacing: float, edge: int) -> dict[str, Callable[[], object]]:
    modalities = tuple(subject.images)
    settings = Preprocessing(spacing)
    prepare = preprocessing_transform(modalities, settings, labelled=True)
    cached = cached_dataset([subject], modalities, settings)
    stream = CropStream(cached, 10**6, Sampling(edge), 0, classes=4)
    numbers, corners = iter(range(10**6)), np.random.default_rng(0)

    def one_crop() -> list[torch.Tensor]:
        sample = cached[0]
        starts = [int(corners.integers(max(n - edge, 0) + 1)) for n in sample["label"].shape[1:]]
        cube = (slice(None), *(slice(start, start + edge) for start in starts))
        return [sample["image"][cube].clone(), sample["label"][cube].clone()]

    return {
        "decoding": lambda: [np.asarray(nib.load(path).dataobj) for path in subject.files.values()],
        "preparing": lambda: prepare({"subject": subject}),
        "opening": lambda: cached[0],
        "one crop": one_crop,
        "all voxels": lambda: [tensor.amax() for tensor in cached[0].values()],
        "a copy": lambda: [tensor.clone() for tensor in cached[0].values()],
        "crop stream": lambda: stream[next(numbers)],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name, table in tables(options.rounds):
        print(f"\n{name}, one thread, {options.rounds} rounds; ratio: times faster than decoding")
        print(table.assign(seconds=table["seconds"] * 1000).rename(columns={"seconds": "ms"}).round(2).to_string())


def tables(rounds: int) -> Iterator[tuple[str, pd.DataFrame]]:
    """Subject in words, and a row a way: seconds, and how many times faster than decoding."""
    with tempfile.TemporaryDirectory() as scratch, patch.dict(os.environ, MTG_LAB_CACHE=str(Path(scratch) / "cache")):
        for name, subject, spacing, edge in subjects(Path(scratch)):
            measured = in_turn(ways(subject, spacing, edge), rounds, at_least=0.05)
            yield f"{name}, crops of {edge}^3", ratios(measured, lambda _: "decoding", faster=True)


if __name__ == "__main__":
    main()
