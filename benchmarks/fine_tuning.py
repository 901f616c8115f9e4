r"""How many patients is a trained network worth? Fine-tuning on n of them against training on the same n from nothing.

    python benchmarks/fine_tuning.py student real.csv --sizes 1 2 4 8 --seeds 0 1 2 --out out/fine_tuning
    python benchmarks/fine_tuning.py runs/nobody real.csv --set steps=300 --rates 0.0002 0.0005 0.002 --split val
    python benchmarks/fine_tuning.py nobody real.csv --arms scratch --rates 0.002 --out out/longer

RUN is a run folder or a network of the box; the manifest has its columns, patients to learn from in its split train
and others in its split test. ``start`` begins with the run's weights, ``scratch`` with random ones of the same network;
both see the same n patients, drawn by the seed, for the same steps, which may be too few for a start from nothing.
``--rates`` tries several learning rates for both, to be chosen on ``--split val``. The run itself, untouched, is n = 0.

Runs are recipes: what is trained is not trained again. Writes after every run scores.csv, runs.csv and about.json, and
at the end differences.csv: ``start`` less ``scratch`` for every n, paired over subjects and seeds, 95 % intervals.
"""

import argparse
import itertools
import json
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from studies import (
    Tables,
    add_options,
    apart,
    change,
    gathered,
    in_front,
    keep_differences,
    points,
    summary,
    tell_means,
)

from mtg_lab import read_manifest
from mtg_lab.files import write_text
from mtg_lab.manifest import Manifest, write_manifest
from mtg_lab.recipes import Recipe, preset
from mtg_lab.runs import Run, begun_with, load_run

Key = tuple[str, int, float, int]  # arm, patients, learning rate, seed
LABELS = ("arm", "patients", "rate", "seed")
ARMS = ("start", "scratch")


def drawn(cohort: Manifest, patients: int, seed: int, split: str, folder: Path) -> Path:
    """Some patients to learn from and all to be scored on; more patients of one seed contain the fewer."""
    training = cohort.split("train").subjects
    order = np.random.default_rng(seed).permutation(len(training))
    chosen = [*(training[i] for i in order[:patients]), *cohort.split(split).subjects]
    rows = [
        {"subject": s.name, "split": s.split, "schema": s.schema, "site": s.site or ""}
        | {column: str(path.absolute()) for column, path in s.files.items()}
        for s in chosen
    ]
    if definition := chosen[0].definition:  # labels of the cohort's own
        write_text(folder / f"{patients}-{seed}.schema.json", json.dumps(definition.to_json()))
    return write_manifest(rows, cohort.modalities, folder / f"{patients}-{seed}.csv")


def planned(options: argparse.Namespace, run: Run, cohort: Manifest, folder: Path) -> dict[Key, Recipe]:
    """What to train, seed by seed."""
    fixed = dict(next(points(options.set))[1])
    if "learning_rate" in fixed:
        raise SystemExit("--set learning_rate: give --rates, which name the runs")
    recipes: dict[Key, Recipe] = {}
    for seed, patients in itertools.product(options.seeds, options.sizes):
        manifest = drawn(cohort, patients, seed, options.split, folder)
        for rate in options.rates:
            base = preset(options.preset, "dropout", str(manifest), seed, limit=(0, 0, 0))
            start = change(begun_with(base, run), {"learning_rate": rate, **fixed})
            both = {"start": start, "scratch": replace(start, start="")}
            recipes |= {(arm, patients, rate, seed): both[arm] for arm in options.arms or both}
    return recipes


def work(recipe: Recipe, split: str, workers: int, threads: int, out: Path) -> Tables:
    """Train (or load) one run and score it: scores, and a line of facts."""
    import torch

    torch.set_num_threads(threads)
    from mtg_lab.sweeps import kept_scores
    from mtg_lab.training import train

    run = train(recipe, workers=workers)
    scores = kept_scores(run, recipe.cohort(), split, out)
    return scores, pd.DataFrame([summary(run, scores)])


def report(found: list[Tables], out: Path) -> None:
    """Means over seeds, and what the start was worth for every number of patients."""
    from mtg_lab.evaluation import paired_difference

    runs = pd.concat([t[-1] for t in found], ignore_index=True)
    groups = runs.groupby(["patients", "rate", "arm"])
    shown = [c for c in runs if c.startswith("dice")]
    tell_means(groups, shown)
    scores = pd.concat([t[0] for t in found], ignore_index=True)
    rows = []
    for (patients, rate), part in scores[scores["patients"] > 0].groupby(["patients", "rate"]):
        sides = {arm: dict(list(of_arm.groupby("seed"))) for arm, of_arm in part.groupby("arm")}
        seeds = sorted(set(sides.get("start", {})) & set(sides.get("scratch", {})))
        if seeds:
            ours, theirs = ({s: sides[arm][s] for s in seeds} for arm in ("start", "scratch"))
            labels = {"patients": patients, "rate": rate, "seeds": len(seeds)}
            rows.append(paired_difference(ours, theirs).assign(**labels))
    keep_differences(rows, out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run")
    parser.add_argument("cohort", type=Path)
    add_options(parser, "out/fine_tuning")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 2, 4, 8], help="patients to learn from")
    parser.add_argument("--rates", type=float, nargs="+", default=[5e-4], help="learning rates, for both arms")
    options = parser.parse_args()
    if options.manifest:
        raise SystemExit("--manifest is not for this study: the cohort stands behind RUN")
    if unknown := set(options.arms or ()) - set(ARMS):
        raise SystemExit(f"no arm {sorted(unknown)[0]}; there are: {', '.join(ARMS)}")
    started = time.perf_counter()
    run, cohort = load_run(options.run), read_manifest(options.cohort).materialise()
    there = len(cohort.split("train"))
    if max(options.sizes) > there:
        raise SystemExit(f"--sizes {max(options.sizes)}: {options.cohort} has {there} patients in its split train")
    folder = options.out.absolute() / "cohorts"
    folder.mkdir(parents=True, exist_ok=True)
    recipes = planned(options, run, cohort, folder)
    options.manifest = str(options.cohort)
    job = partial(work, split=options.split, workers=options.workers, threads=options.threads, out=options.out)
    found = gathered(recipes, job, partial(in_front, LABELS), ("scores", "runs"), options)
    from mtg_lab.sweeps import kept_scores

    scores = kept_scores(run, cohort, options.split, apart(cohort, options.split, options.out))
    found.append(in_front(LABELS, (scores, pd.DataFrame([summary(run, scores)])), ("start", 0, 0.0, 0)))
    for name, parts in zip(("scores", "runs"), zip(*found, strict=True), strict=True):
        pd.concat(parts, ignore_index=True).to_csv(options.out / f"{name}.csv", index=False)
    report(found, options.out)
    print(f"wall time {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
