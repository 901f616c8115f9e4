"""How much faster is one encoding with many decodings than a forward pass for every subset and window?

    python benchmarks/evaluation.py
    python benchmarks/evaluation.py --spacing 1 --timed 1 --patients 1     # ten minutes

Phantoms, cut to their brains' boxes, and a network that comes with the package. The naive loop is that of the
PASSION release: windows of 80^3 with half overlap, a full forward pass for each subset, softmax averaged with equal
weights, in single precision, with PyTorch's own convolutions and memory layout. Ours is what ``mtg_lab.evaluate`` does,
in windows of the same size: each encoded once and decoded for every subset, windows without brain left out, a quarter
of overlap, the precision and layout that suit the processor.

Both are run whole for some subsets of several phantoms: what ours does to Dice is the mean over these subsets and all
regions, by phantom. For the time of all subsets of the first phantom, some of the naive loop's windows are timed for
every subset and scaled to their number. Printed is processor time of one thread: a shared machine's other programs do
not count.
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from monai.data.utils import dense_patch_slices
from step_time import pytorchs_own
from timing import seconds
from torch import Tensor

from mtg_lab import inference, load_run, vocabulary
from mtg_lab.backbones import Backbone
from mtg_lab.data import Preprocessing, preprocessing_transform
from mtg_lab.manifest import Subject
from mtg_lab.phantom import synthesise, write_case
from mtg_lab.resampling import interval, resampled_means
from mtg_lab.runs import Run
from mtg_lab.scoring import dice, region_masks

WINDOW, OVERLAP = 80, 0.5
COMPARED = ("t1c+t2f", "t2f", "t1n+t1c+t2w+t2f")


def naive(backbone: Backbone, image: Tensor, mask: Tensor, places: Sequence[tuple[slice, ...]]) -> Tensor:
    """Class indices [D, H, W] by a forward pass a window, as the release has it."""
    total, count = torch.zeros(1), torch.zeros(image.shape[1:])
    for place in places:
        softmax = backbone(image[(slice(None), *place)][None], mask[None]).logits[0].softmax(dim=0)
        if total.ndim == 1:
            total = torch.zeros(len(softmax), *image.shape[1:])
        total[(slice(None), *place)] += softmax
        count[place] += 1
    return (total / count.clamp_min(1)).argmax(dim=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", default="student", help="a network of the package, or a run's folder")
    parser.add_argument("--spacing", type=float, default=1.5, help="of the phantom, in mm")
    parser.add_argument("--windows", type=int, nargs="*", default=[WINDOW], help="edges of ours; 0 the whole volume")
    parser.add_argument("--timed", type=int, default=2, help="windows of the naive loop that are timed for each subset")
    parser.add_argument("--precision", default="auto", help="of ours: auto as in evaluate, fp32 or bf16")
    parser.add_argument("--patients", type=int, default=8, help="phantoms whose Dice is compared")
    parser.add_argument("--compared", nargs="*", default=COMPARED, help="subsets whose Dice is compared")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = table(
        options.run, options.spacing, options.windows, options.timed, options.precision, options.patients,
        options.compared,
    )  # fmt: skip
    print(f"{found.attrs['words']}, one thread; ratio: times faster than the naive loop")
    print(f"Dice: {options.patients} phantoms, {', '.join(options.compared)}; less the naive loop's, interval of 95 %")
    print(found.round(4).to_string(index=False))


def table(
    name: str = "student", spacing: float = 1.5, windows: Sequence[int] = (WINDOW,), timed: int = 2,
    precision: str = "auto", patients: int = 8, compared: Sequence[str] = COMPARED,
) -> pd.DataFrame:  # fmt: skip
    """The naive loop and ours in each window: seconds of all subsets, how many times faster, mean Dice, difference.

    The spread of the ratio is that of the naive loop's timed windows, the interval of the difference is over phantoms.
    """
    run = load_run(name)
    samples = [phantom(run.modalities, spacing, run.recipe.preprocessing, seed) for seed in range(5, 5 + patients)]
    image, brain = looked_at(samples[0])
    backbone = run.backbone(torch.device("cpu"))
    subsets = vocabulary.subsets(run.modalities)
    masks = {s: torch.tensor([m in s for m in run.modalities]) for s in subsets}
    chosen = [masks[vocabulary.parse_subset(s, run.modalities)] for s in compared]
    places = naive_places(image)
    with torch.inference_mode(), pytorchs_own():
        naive(backbone, image, chosen[0], places[:1])  # warms up
        each = np.array([per_window(backbone, image, m, spread(places, timed)) for m in masks.values()])
        theirs = np.array([
            [scores(run, naive(backbone, x, m, naive_places(x)), sample) for m in chosen]
            for sample in samples for x, _ in [looked_at(sample)]
        ])  # fmt: skip
    totals = len(places) * np.array([each.mean(axis=1).sum(), each.min(axis=1).sum(), each.max(axis=1).sum()])
    rows = [{"case": "naive", "seconds": totals[0], "ratio": 1.0, "least": 1.0, "most": 1.0, "dice": theirs.mean()}]
    for window in windows:

        def ours(image: Tensor, brain: Tensor, masks: Sequence[Tensor], window: int = window) -> list[Tensor]:
            return list(inference.subset_classes(backbone, image, masks, window, inference.OVERLAP, precision, brain))

        took = seconds(lambda ask=ours: ask(image, brain, list(masks.values())))
        found = np.array([
            [scores(run, answer, sample) for answer in ours(*looked_at(sample), chosen)] for sample in samples
        ])  # fmt: skip
        gained = (found - theirs).mean(axis=(1, 2))  # by phantom
        low, high = interval(resampled_means(gained[None], 10_000, np.random.default_rng(0)))
        rows.append({
            "case": f"windows of {window}^3" if window else "whole volume", "seconds": took,
            **dict(zip(("ratio", "least", "most"), totals / took, strict=True)), "dice": found.mean(),
            "difference": gained.mean(), "low": float(low), "high": float(high),
        })  # fmt: skip
    result = pd.DataFrame(rows)
    result.attrs["words"] = (
        f"{list(image.shape[1:])} voxels at {spacing:g} mm, {len(subsets)} subsets, {len(places)} windows naively"
    )
    return result


def looked_at(sample: dict) -> tuple[Tensor, Tensor]:
    return torch.as_tensor(sample["image"]), torch.as_tensor(sample["brain"])[0] > 0


def naive_places(image: Tensor) -> list[tuple[slice, ...]]:
    edges = [min(WINDOW, n) for n in image.shape[1:]]
    return dense_patch_slices(image.shape[1:], edges, [int(e * (1 - OVERLAP)) for e in edges])


def scores(run: Run, answer: Tensor, sample: dict) -> list[float]:
    """Dice of each region; 1 where there is none and none was drawn."""
    regions = run.schema.region_classes
    truth = region_masks(torch.as_tensor(sample["label"])[0].long(), regions)
    return dice(region_masks(answer, regions), truth)


def phantom(modalities: tuple[str, ...], spacing: float, preprocessing: Preprocessing, seed: int) -> dict:
    settings = replace(preprocessing, spacing_mm=spacing)
    with tempfile.TemporaryDirectory() as folder:
        names = write_case(synthesise(seed, "A", spacing), folder, "P")
        files = {key: Path(folder) / name for key, name in names.items()}
        subject = Subject("P", {m: files[m] for m in modalities}, schema="brats2023", label=files["label"])
        return preprocessing_transform(modalities, settings, labelled=True)({"subject": subject})


def spread(places: Sequence[tuple[slice, ...]], count: int) -> list[tuple[slice, ...]]:
    return [places[i] for i in np.linspace(0, len(places) - 1, count).round().astype(int)]


def per_window(backbone: Backbone, image: Tensor, mask: Tensor, places: Sequence[tuple[slice, ...]]) -> list[float]:
    found = []
    for place in places:
        started = time.process_time()
        backbone(image[(slice(None), *place)][None], mask[None]).logits.float().softmax(dim=1)
        found.append(time.process_time() - started)
    return found


if __name__ == "__main__":
    main()
