"""Latents of teachers that differ in the weight of alignment alone, on common axes, small enough to come along.

    python benchmarks/stored_latents.py --study out/alignment_sweep --set steps=1000

Takes the runs that ``alignment_study.py --arms aligned_dropout --vary method.align_weight=...`` trained (from the
cache, by their recipes), and writes beside its tables latents.csv (the two first principal components, fitted to all
weights together, each teacher's latents brought to unit spread first).
"""

import argparse
from pathlib import Path

import pandas as pd
from alignment_study import arms, parse_value

from mtg_lab.gap import Embedding, complete_pairs, latents
from mtg_lab.training import train


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--study", type=Path, required=True, help="folder with the study's runs.csv")
    parser.add_argument("--preset", default="lab")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--voxels", type=int, default=4, help="per patient and tissue")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="as in the study")
    options = parser.parse_args()
    runs = pd.read_csv(options.study / "runs.csv")
    fixed = {k: parse_value(v) for k, v in (pair.split("=", 1) for pair in options.set)}
    tables = {}
    for weight in sorted(runs["align_weight"].unique()):
        recipe = arms(options.preset, "", options.seed, {**fixed, "method.align_weight": float(weight)})[
            "aligned_dropout"
        ]
        table = complete_pairs(latents(train(recipe), recipe.cohort(), voxels=options.voxels, seed=options.seed))
        columns = [c for c in table if c.startswith("z")]
        tables[weight] = table.assign(**(table[columns] - table[columns].mean()) / table[columns].to_numpy().std())
    joint = Embedding("pca", options.seed).fit(pd.concat(tables.values()))
    placed = pd.concat([joint.transform(t).assign(weight=w) for w, t in tables.items()])
    kept = ["weight", "subject", "tissue", "voxel", "modality", "x", "y"]
    placed[kept].round({"x": 3, "y": 3}).to_csv(options.study / "latents.csv", index=False)
    print(f"{len(placed)} points in {options.study / 'latents.csv'}")


if __name__ == "__main__":
    main()
