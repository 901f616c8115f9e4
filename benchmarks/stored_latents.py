"""Latents and masks of networks that differ in the weight of alignment alone, small enough to come along.

    python benchmarks/stored_latents.py --study out/alignment_sweep --set steps=1000

Takes the runs that ``alignment_study.py --arms aligned_dropout --vary method.align_weight=...`` trained (from the
cache, by their recipes), and writes beside its tables latents.csv (the two first principal components, fitted to all
weights together, each network's latents brought to unit spread first) and masks.npz (one patient's slice with most
lesion, from every subset).
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from alignment_study import arms, parse_value

from mtg_lab import vocabulary
from mtg_lab.cases import predicted_cases
from mtg_lab.data import cached_dataset
from mtg_lab.gap import Embedding, complete_pairs, latents, of_unit_spread
from mtg_lab.manifest import Manifest
from mtg_lab.runs import Run
from mtg_lab.slices import fullest_slice
from mtg_lab.training import train
from mtg_lab.widgets_masks import StoredMasks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--study", type=Path, required=True, help="folder with the study's runs.csv")
    parser.add_argument("--preset", default="lab")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--voxels", type=int, default=4, help="per patient and tissue")
    parser.add_argument("--subject", default="phantom-045", help="of the test split, whose masks are kept")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="as in the study")
    options = parser.parse_args()
    runs = pd.read_csv(options.study / "runs.csv")
    fixed = {k: parse_value(v) for k, v in (pair.split("=", 1) for pair in options.set)}
    tables, runs_of = {}, {}
    for weight in sorted(runs["align_weight"].unique()):
        recipe = arms(options.preset, "", options.seed, {**fixed, "method.align_weight": float(weight)})[
            "aligned_dropout"
        ]
        runs_of[weight] = train(recipe)
        table = complete_pairs(latents(runs_of[weight], recipe.cohort(), voxels=options.voxels, seed=options.seed))
        tables[weight] = of_unit_spread(table)
    joint = Embedding("pca", options.seed).fit(pd.concat(tables.values()))
    placed = pd.concat([joint.transform(t).assign(weight=w) for w, t in tables.items()])
    kept = ["weight", "subject", "tissue", "voxel", "modality", "x", "y"]
    placed[kept].round({"x": 3, "y": 3}).to_csv(options.study / "latents.csv", index=False)
    print(f"{len(placed)} points in {options.study / 'latents.csv'}")
    print(masks(runs_of, recipe.cohort(), options.subject).save(options.study / "masks.npz"))


def masks(runs: dict[float, Run], cohort: Manifest, subject: str) -> StoredMasks:
    """What every network makes of one slice of a test patient, from every subset."""
    first = next(iter(runs.values()))
    patient = cohort.split("test")[subject]
    sample = cached_dataset([patient], first.modalities, first.recipe.preprocessing)[0]
    reference = sample["label"][0].numpy()
    at = fullest_slice(reference)
    by_name = {f"{w:g}": run for w, run in runs.items()}
    subsets = [vocabulary.subset_name(s, first.modalities) for s in vocabulary.subsets(first.modalities)]
    cases = list(predicted_cases(by_name, cohort, "test", subsets, [subject]))
    drawn = np.stack([[case.masks[name][:, :, at] for case in cases] for name in by_name])
    return StoredMasks(
        sample["image"].numpy()[..., at], reference[:, :, at], drawn, tuple(runs), first.modalities,
        tuple(case.subset for case in cases), tuple(first.schema.class_names[1:]), subject,
    )  # fmt: skip


if __name__ == "__main__":
    main()
