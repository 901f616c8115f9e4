r"""What is each ingredient of the varied phantom worth to a network that is trained on nobody?

    python benchmarks/nobody_study.py --preset lab --seeds 0 1 2 --out out/nobody_study
    python benchmarks/nobody_study.py --arms all plain --real glioma.csv --set preprocessing.spacing_mm=4.0 steps=400

Every arm is the same generalist (``dropout``), with the same steps, trained on a phantom cohort of its own from the
same seeds: ``plain`` and ``all`` ingredients, ``no_...`` all but one, and ``..._randomised`` with grey values bent in
training as well (domain randomisation). They are scored on phantoms of other seeds: ``varied`` (all ingredients),
``plain``, and ``sites`` (plain patients, scanners that nobody has met). Whoever takes an ingredient away that the
varied test has in it loses by that alone; so look at the other two, which have none of the lesions and anatomies.
``--real`` names a cohort of real patients, scored the same way and never looked at when choosing.

Runs are recipes: what is trained is not trained again. Writes after every run scores.csv, runs.csv (one line a run and
test cohort) and about.json, and at the end differences.csv: every arm less ``all``, paired over subjects and seeds,
95 % intervals, by test cohort, number of sequences and region.
"""

import argparse
import itertools
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

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

from mtg_lab import phantom, read_manifest
from mtg_lab.manifest import write_manifest
from mtg_lab.recipes import Recipe, preset

RANDOMISED = "_randomised"
INGREDIENTS = [name for name in phantom.INGREDIENTS if name not in phantom.OPTIONAL]
ARMS: dict[str, str] = {
    "all": "all",
    "plain": "",
    **{f"no_{name}": f"all-{name}" for name in INGREDIENTS},
    "all" + RANDOMISED: "all",
    "plain" + RANDOMISED: "",
}
TESTS = {"varied": "all", "plain": "", "sites": "scanners"}
# Beyond those of the committed cohort and of each other.
_TRAINING, _TESTING = 40, 50

Key = tuple[str, int]
LABELS = ("arm", "seed")


def cohort(folder: Path, words: str, split: str, subjects: int, seed: int, spacing_mm: float) -> Path:
    """The manifest of a phantom cohort, all of one split; the same seeds whatever its ingredients are."""
    name = words or "plain"
    rows = phantom.cohort_rows(subjects, seed, spacing_mm, ingredients=words)
    return write_manifest([row | {"split": split} for row in rows], phantom.MODALITIES, folder / f"{name}-{split}.csv")


def planned(options: argparse.Namespace, folder: Path) -> dict[Key, Recipe]:
    """What to train, seed by seed."""
    fixed = dict(next(points(options.set))[1])
    if unknown := set(options.arms or ()) - set(ARMS):
        raise SystemExit(f"no arm {sorted(unknown)[0]}; there are: {', '.join(ARMS)}")
    recipes: dict[Key, Recipe] = {}
    for seed, arm in itertools.product(options.seeds, options.arms or ARMS):
        randomise = options.randomise if arm.endswith(RANDOMISED) else 0.0
        recipe = change(preset(options.preset, "dropout", "", seed), {"sampling.randomise": randomise, **fixed})
        spacing = recipe.preprocessing.spacing_mm
        manifest = cohort(folder, ARMS[arm], "train", options.subjects, _TRAINING, spacing)
        recipes[arm, seed] = replace(recipe, manifest=str(manifest))
    return recipes


def work(recipe: Recipe, tests: dict[str, Path], workers: int, threads: int, out: Path) -> Tables:
    """Train (or load) one run and score it on every test cohort: scores, and a line of facts for each."""
    import torch

    torch.set_num_threads(threads)
    from mtg_lab.sweeps import kept_scores
    from mtg_lab.training import train

    run = train(recipe, workers=workers)
    found, lines = [], []
    for name, manifest in tests.items():
        tested = read_manifest(manifest)
        scores = kept_scores(run, tested, "test", apart(tested, "test", out))
        found.append(scores.assign(cohort=name))
        lines.append({"cohort": name} | summary(run, scores))
    return pd.concat(found, ignore_index=True), pd.DataFrame(lines)


def report(found: list[Tables], out: Path) -> None:
    """Means over seeds, and paired differences to ``all``."""
    from mtg_lab.evaluation import paired_difference

    runs = pd.concat([t[-1] for t in found], ignore_index=True)
    groups = runs.groupby(["cohort", "arm"], sort=False)
    shown = [c for c in runs if c.startswith("dice")]
    tell_means(groups, shown)
    scores = pd.concat([t[0] for t in found], ignore_index=True)
    tables = dict(list(scores.groupby(["cohort", "arm", "seed"], sort=False)))
    rows = []
    for name, arm in itertools.product(scores["cohort"].unique(), ARMS):
        seeds = [s for c, a, s in tables if (c, a) == (name, arm) and (name, "all", s) in tables]
        if seeds and arm != "all":
            sides = [{s: tables[name, a, s] for s in seeds} for a in (arm, "all")]
            rows.append(paired_difference(*sides).assign(cohort=name, ours=arm, theirs="all", seeds=len(seeds)))
    keep_differences(rows, out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_options(parser, "out/nobody_study")
    parser.add_argument("--subjects", type=int, default=40, help="phantoms to train on")
    parser.add_argument("--tests", type=int, default=16, help="phantoms of each test cohort")
    parser.add_argument("--randomise", type=float, default=0.5, help="strength of domain randomisation")
    parser.add_argument("--real", type=Path, help="manifest of real patients with a split test")
    options = parser.parse_args()
    if options.manifest or options.split != "test":
        raise SystemExit("--manifest and --split are not for this study: it makes its cohorts, and tests them whole")
    started = time.perf_counter()
    folder = options.out.absolute() / "cohorts"
    folder.mkdir(parents=True, exist_ok=True)
    recipes = planned(options, folder)
    spacing = next(iter(recipes.values())).preprocessing.spacing_mm
    tests = {n: cohort(folder, w, "test", options.tests, _TESTING, spacing) for n, w in TESTS.items()}
    if options.real:
        tests["real"] = options.real.absolute()
    jobs = options.jobs * options.threads
    for manifest in dict.fromkeys([*(r.manifest for r in recipes.values()), *tests.values()]):
        read_manifest(manifest).materialise(jobs)
    options.manifest = next(iter(recipes.values())).manifest
    job = partial(work, tests=tests, workers=options.workers, threads=options.threads, out=options.out)
    found = gathered(recipes, job, partial(in_front, LABELS), ("scores", "runs"), options)
    if found:
        report(found, options.out)
    print(f"wall time {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
