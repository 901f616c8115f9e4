r"""Does alignment help? Baselines and students over seeds, scored on every subset, with paired intervals.

    python benchmarks/alignment_study.py --preset lab --seeds 0 1 2 --split test --out out/alignment_study
    python benchmarks/alignment_study.py --split val --seeds 0 --arms dropout --vary learning_rate=0.001,0.002,0.004
    python benchmarks/alignment_study.py --split val --seeds 0 --arms aligned aligned_student \
        --vary method.align_weight=0.03,0.1,0.3,1,3 method.normalise=false,true

Arms share network and steps; the learning rates are the preset's (benchmarks/README.md). ``unet``, ``rfnet``,
``mmformer``, ``m2ftrans`` are generalists of that network with subsets drawn in training, ``unet_aligned`` and so on
the same with alignment: the budgets are equal there, the rate is not tuned. ``dropout_long`` has as many steps as a
teacher and its student together. Choose settings on ``val`` with ``--vary``, with as many trials for a baseline as for
a student, and score the chosen ones once on ``test``. Runs are recipes: what is trained is not trained again, so a
study that was stopped goes on where it was. Writes scores.csv, gaps.csv and runs.csv (one line a run: mean scores, gap,
seconds) after every run, about.json (command, protocol, versions), and at the end differences.csv (paired over subjects
and seeds, 95 % intervals; also every point of a grid less the first one) and curve.csv (scores averaged over subsets of
one size). Notebook 06 shows what a study of the lab preset found, from these files in mtg_lab/results/alignment_study.
"""

import argparse
import itertools
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import pandas as pd
from studies import GridKey, add_grid_options, add_options, change, gathered, in_front, over_grid, parse_value, summary

from mtg_lab.recipes import Recipe, override, suite
from mtg_lab.recipes import preset as make_preset

BACKBONES = ("unet", "rfnet", "mmformer", "m2ftrans")
COMPARISONS = [
    ("student", "dropout"),
    ("aligned_student", "dropout"),
    ("aligned_student", "student"),
    ("dropout_anchor", "dropout"),
    ("aligned_dropout", "dropout_anchor"),
    ("dropout_long", "dropout"),
    ("student", "dropout_long"),
    ("aligned_student", "dropout_long"),
    *((f"{name}_aligned", name) for name in BACKBONES),
]

Tables = tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]  # scores, gaps, one line of facts


def arms(preset: str, manifest: str, seed: int, changes: Mapping[str, object]) -> dict[str, Recipe]:
    """The recipes that are compared, by name."""
    base = suite(preset, manifest, seed)
    found = {k: change(r, changes) for k, r in base.items() if k != "specialist"}
    dropout, aligned = found["dropout"], found["aligned"]
    found["dropout_anchor"] = override(dropout, {"backbone.fill": "anchor"})
    found["aligned_dropout"] = override(aligned, {"backbone.fill": "anchor", "method.dropout": True})
    found["dropout_long"] = replace(dropout, steps=2 * dropout.steps)
    for name in BACKBONES:
        for arm, weight in ((name, 0.0), (f"{name}_aligned", 0.1)):
            options = {"dropout": True, "align_weight": weight}
            recipe = make_preset(preset, "aligned_teacher", manifest, seed, backbone=name, method_options=options)
            found[arm] = change(recipe, changes)
    return found


def work(recipe: Recipe, split: str, workers: int, threads: int, out: Path, with_gap: bool) -> Tables:
    """Train (or load) one run and score it: scores, gaps, one line of facts."""
    import torch

    torch.set_num_threads(threads)
    from mtg_lab.gap import BASIC, gap, latents
    from mtg_lab.sweeps import kept_scores
    from mtg_lab.training import train

    run = train(recipe, workers=workers)
    cohort = recipe.cohort()
    scores = kept_scores(run, cohort, split, out)
    line = summary(run, scores)
    gaps = pd.DataFrame(columns=["metric", "value", "low", "high"])
    if with_gap:
        gaps = gap(latents(run, cohort, split), nulls=0, measures=BASIC)
        line |= dict(zip(gaps["metric"], gaps["value"], strict=True))
    return scores, gaps, pd.DataFrame([line])


def labelled(tables: Tables, key: GridKey) -> Tables:
    """With the arm, the settings in words and the seed in front; in the line of facts each setting is a column too."""
    scores, gaps, facts = in_front(("arm", "settings", "seed"), tables, key)
    point = (part.split("=", 1) for part in key[1].split())
    return scores, gaps, facts.assign(**{k: parse_value(v) for k, v in point})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_options(parser, "out/alignment_study")
    add_grid_options(parser)
    parser.add_argument("--skip-gap", action="store_true", help="scores alone")
    options = parser.parse_args()
    started = time.perf_counter()
    recipes = over_grid(arms, options)
    job = partial(
        work,
        split=options.split,
        workers=options.workers,
        threads=options.threads,
        out=options.out,
        with_gap=not options.skip_gap,
    )
    found = gathered(recipes, job, labelled, ("scores", "gaps", "runs"), options)
    if found:
        report(found, options.out)
    print(f"wall time {time.perf_counter() - started:.0f} s")


def report(found: list[Tables], out: Path) -> None:
    """Means over seeds with their spread, the gap, and paired differences."""
    from mtg_lab.evaluation import missingness_curve, paired_difference

    curves = [missingness_curve(t[0]).assign(**t[2][["arm", "settings", "seed"]].iloc[0]) for t in found]
    pd.concat(curves).round({"value": 4}).to_csv(out / "curve.csv", index=False)
    runs = pd.concat([t[2] for t in found], ignore_index=True)
    means = [c for c in runs.columns if c.startswith("dice")]
    measured = [c for c in ("centroid_gap", "relative_gap", "effective_rank", "latent_scale") if c in runs]
    groups = runs.groupby(["arm", "settings"], sort=False)
    spread = pd.DataFrame({"sd": groups["dice"].std(), "seeds": groups["dice"].size()})
    print(groups[[*means, *measured, "seconds"]].mean().join(spread).round(3).to_string())
    tables = {(t[2]["arm"][0], t[2]["settings"][0], t[2]["seed"][0]): t[0] for t in found}
    rows = []
    for (ours, theirs), words in itertools.product(COMPARISONS, runs["settings"].unique()):
        own = {w for a, w, _ in tables if a == theirs}
        other = own.pop() if len(own) == 1 else words  # an arm that no varied setting touches stands against all points
        seeds = [s for a, w, s in tables if (a, w) == (ours, words) and (theirs, other, s) in tables]
        if seeds:
            sides = [{s: tables[arm, w, s] for s in seeds} for arm, w in ((ours, words), (theirs, other))]
            rows.append(paired_difference(*sides).assign(ours=ours, theirs=theirs, settings=words, seeds=len(seeds)))
    for arm in dict.fromkeys(a for a, _, _ in tables):
        first, *others = dict.fromkeys(w for a, w, _ in tables if a == arm)
        for words in others:
            seeds = [s for a, w, s in tables if (a, w) == (arm, words) and (arm, first, s) in tables]
            if seeds:
                sides = [{s: tables[arm, w, s] for s in seeds} for w in (words, first)]
                labels = {"ours": arm, "theirs": f"{arm} {first}", "settings": words, "seeds": len(seeds)}
                rows.append(paired_difference(*sides).assign(**labels))
    if rows:
        differences = pd.concat(rows, ignore_index=True)
        differences.to_csv(out / "differences.csv", index=False)
        print(differences[differences["modalities"] == "all"].round(3).to_string(index=False))


if __name__ == "__main__":
    main()
