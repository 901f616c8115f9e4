"""How much faster is HD95 here than in MONAI and by medpy's algorithm, on the same masks, with the same result?

    python benchmarks/metrics.py --rounds 5

Masks of 240 x 240 x 155 voxels at 1 mm: a lobed tumour as reference and four predictions of it. All ways are timed in
turn in one process, round by round; printed is processor time, as turns that other programs take on a shared machine do
not count, with the smallest and largest ratio over rounds. Each definition is compared with the library that has it.

near       the reference with a ragged border: HD95 of 1 to 2 mm
apart      a tumour of other lobes in the same place
outlier    the same, and a small false positive far away
elsewhere  the reference, moved by 60 mm
"""

import argparse
import warnings
from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd
import torch
from monai.metrics import compute_hausdorff_distance, compute_surface_dice
from scipy import ndimage
from timing import seconds

from mtg_lab.surface_metrics import SurfacePair, hd95

SHAPE, SPACING = (240, 240, 155), (1.0, 1.0, 1.0)


def tumour(seed: int, centre: tuple[int, int, int], radius: float, lobes: float = 6.0) -> np.ndarray:
    """A ball whose radius varies smoothly: bool [240, 240, 155]."""
    rng = np.random.default_rng(seed)
    coarse = ndimage.gaussian_filter(rng.standard_normal([n // 4 + 2 for n in SHAPE]), 2)
    rough = ndimage.zoom(coarse / coarse.std(), 4, order=1)[tuple(slice(n) for n in SHAPE)]
    distance = np.sqrt(sum(np.square(axis - c) for axis, c in zip(np.indices(SHAPE), centre, strict=True)))
    return distance + lobes * rough < radius


def predictions(truth: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    noise = ndimage.gaussian_filter(np.random.default_rng(2).standard_normal(SHAPE), 3)
    soft = ndimage.gaussian_filter(truth.astype(np.float32), 2)
    yield "near", (soft + 0.12 * noise / noise.std() > 0.5) & (soft > 0.02)
    other = tumour(1, (102, 121, 79), 31)
    yield "apart", other
    with_outlier = other.copy()
    with_outlier[40:44, 200:204, 100:103] = True
    yield "outlier", with_outlier
    yield "elsewhere", np.roll(truth, 60, axis=1)


def medpy_algorithm(predicted: np.ndarray, truth: np.ndarray) -> float:
    """As medpy describes and does it: eroded edges and distance transforms of whole volumes, both sets pooled."""
    structure = ndimage.generate_binary_structure(3, 1)
    p, t = (m ^ ndimage.binary_erosion(m, structure) for m in (predicted, truth))
    there = ndimage.distance_transform_edt(~t, sampling=SPACING)[p]
    back = ndimage.distance_transform_edt(~p, sampling=SPACING)[t]
    return float(np.percentile(np.hstack([there, back]), 95))


def ways(predicted: np.ndarray, truth: np.ndarray) -> dict[str, tuple[Callable[[], float], Callable[[], float]]]:
    """Theirs and ours, by what is computed."""
    p, t = (torch.from_numpy(m)[None, None] for m in (predicted, truth))

    def monai() -> float:
        return float(compute_hausdorff_distance(p, t, include_background=True, percentile=95, spacing=SPACING))

    def monai_both() -> float:
        return monai() + float(compute_surface_dice(p, t, [1.0], include_background=True, spacing=SPACING))

    def both() -> float:
        pair = SurfacePair(predicted, truth, SPACING)
        return pair.hd95() + pair.nsd(1.0)

    return {
        "HD95, MONAI": (monai, lambda: hd95(predicted, truth, SPACING)),
        "HD95 and NSD, MONAI": (monai_both, both),
        "HD95, medpy's algorithm": (
            lambda: medpy_algorithm(predicted, truth),
            lambda: hd95(predicted, truth, SPACING, "pooled"),
        ),
    }


def table(rounds: int) -> pd.DataFrame:
    """A row a prediction and library: seconds of both, how many times faster, value and difference of values."""
    warnings.filterwarnings("ignore")
    truth = tumour(0, (100, 120, 80), 32)
    cases = {(name, what): w for name, p in predictions(truth) for what, w in ways(p, truth).items()}
    values = {(what, name): (ours(), theirs()) for (name, what), (theirs, ours) in cases.items()}  # and warms up
    rows = []
    for _ in range(rounds):
        for (name, what), (theirs, ours) in cases.items():
            slow, fast = seconds(theirs), seconds(ours)
            rows.append({"prediction": name, "against": what, "theirs": slow, "ours": fast, "faster": slow / fast})
    groups = pd.DataFrame(rows).groupby(["against", "prediction"], sort=False)
    found = groups[["theirs", "ours", "faster"]].median().rename(columns={"theirs": "theirs, s", "ours": "ours, s"})
    found["least"], found["most"] = groups["faster"].min(), groups["faster"].max()
    found["value"] = [values[key][0] for key in found.index]
    found["differs by"] = [abs(values[key][0] - values[key][1]) for key in found.index]
    found.attrs["millilitres"] = truth.sum() / 1000
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = table(options.rounds)
    print(f"a tumour of {found.attrs['millilitres']:.0f} ml in {SHAPE} voxels, one thread, {options.rounds} rounds")
    print(found.round(4).to_string())


if __name__ == "__main__":
    main()
