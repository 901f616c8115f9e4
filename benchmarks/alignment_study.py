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
import json
import os
import platform
import shlex
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import date
from functools import partial
from importlib.metadata import version
from pathlib import Path

import pandas as pd

from mtg_lab import read_manifest
from mtg_lab.comparison import conduct
from mtg_lab.protocol import protocol_attrs
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

Key = tuple[str, str, int]  # arm, settings in words, seed
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


def change(recipe: Recipe, changes: Mapping[str, object]) -> Recipe:
    """A recipe and its teacher with settings changed, each taking the method options that it has."""
    known = {k: v for k, v in changes.items() if not k.startswith("method.") or k[7:] in recipe.method_options}
    teacher = change(recipe.teacher, changes) if recipe.teacher else None
    return override(replace(recipe, teacher=teacher), known)


def points(pairs: list[str]) -> Iterator[tuple[str, dict[str, object]]]:
    """Every point of a grid given as KEY=VALUE,VALUE: in words and as settings."""
    grid = {k: [parse_value(v) for v in values.split(",")] for k, values in (p.split("=", 1) for p in pairs)}
    for values in itertools.product(*grid.values()):
        point = dict(zip(grid, values, strict=True))
        yield " ".join(f"{k.rpartition('.')[2]}={v}" for k, v in point.items()), point


def parse_value(text: str) -> object:
    """A literal of the command line: number, truth value or text."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return {"true": True, "false": False}.get(text.lower(), text)


def planned(options: argparse.Namespace) -> dict[Key, Recipe]:
    """What to train, without repetition: an arm that a varied setting does not touch is there once a seed."""
    fixed = dict(next(points(options.set))[1])
    recipes: dict[Key, Recipe] = {}
    seen = set()
    grid = [p for text in options.points for p in points(text.split())] or list(points(options.vary))
    for seed, (words, point) in itertools.product(options.seeds, grid):
        for arm, recipe in arms(options.preset, options.manifest, seed, fixed | point).items():
            if (not options.arms or arm in options.arms) and (digest := (arm, recipe.digest())) not in seen:
                seen.add(digest)
                recipes[arm, words, seed] = recipe
    trained = [*recipes.values(), *(r.teacher for r in recipes.values() if r.teacher)]
    methods = {f"method.{k}" for r in trained for k in r.method_options}
    asked = [*fixed, *(k for _, point in grid for k in point)]
    if unknown := [k for k in asked if k.startswith("method.") and k not in methods]:
        raise SystemExit(f"{unknown[0]}: no chosen arm has this option; there are: {', '.join(sorted(methods))}")
    return recipes


def work(recipe: Recipe, split: str, workers: int, threads: int, with_gap: bool) -> Tables:
    """Train (or load) one run and score it: scores, gaps, one line of facts."""
    import torch

    torch.set_num_threads(threads)
    from mtg_lab.evaluation import evaluate
    from mtg_lab.gap import BASIC, gap, latents
    from mtg_lab.training import train

    run = train(recipe, workers=workers)
    cohort = recipe.cohort()
    scores = evaluate(run, cohort, split)
    line = {"run": run.digest, "steps": recipe.steps, "dice": scores["value"].mean()}
    for column in ("region", "modalities"):
        line |= {f"dice_{k}": v for k, v in scores.groupby(column, sort=False)["value"].mean().items()}
    gaps = pd.DataFrame(columns=["metric", "value", "low", "high"])
    if with_gap:
        gaps = gap(latents(run, cohort, split), nulls=0, measures=BASIC)
        line |= dict(zip(gaps["metric"], gaps["value"], strict=True))
    line |= {k: run.environment[k] for k in ("seconds", "seconds_per_step", "peak_memory_mb", "device_name")}
    return scores, gaps, pd.DataFrame([line])


def labelled(tables: Tables, key: Key) -> Tables:
    """With the arm, the settings in words and the seed in front; in the line of facts each setting is a column too."""
    labels = dict(zip(("arm", "settings", "seed"), key, strict=True))
    scores, gaps, facts = (t.assign(**labels)[[*labels, *t.columns]] for t in tables)
    point = (part.split("=", 1) for part in str(labels["settings"]).split())
    return scores, gaps, facts.assign(**{k: parse_value(v) for k, v in point})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="lab")
    parser.add_argument("--manifest", default="")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--split", default="test")
    parser.add_argument("--arms", nargs="*", help="by default all")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="for every arm, e.g. steps=500")
    parser.add_argument("--vary", nargs="*", default=[], metavar="KEY=VALUE,VALUE", help="every arm at every point")
    parser.add_argument("--points", nargs="*", default=[], metavar="'KEY=VALUE KEY=VALUE'", help="instead, these alone")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--workers", type=int, default=0, help="loader processes a run")
    parser.add_argument("--threads", type=int, default=2, help="processor threads a run")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="start nothing after so many")
    parser.add_argument("--skip-gap", action="store_true", help="scores alone")
    parser.add_argument("--out", type=Path, default=Path("out/alignment_study"))
    options = parser.parse_args()
    started = time.perf_counter()
    recipes = planned(options)
    read_manifest(options.manifest).materialise(min(options.jobs * options.threads, os.cpu_count() or 1))
    options.out.mkdir(parents=True, exist_ok=True)
    found: list[Tables] = []
    job = partial(
        work, split=options.split, workers=options.workers, threads=options.threads, with_gap=not options.skip_gap
    )
    for key, future in conduct(recipes, job, options.jobs, options.minutes):
        if error := future.exception():
            print(f"{' '.join(map(str, key))}: {error}", flush=True)
            continue
        tables = labelled(future.result(), key)
        found.append(tables)
        print(f"{time.perf_counter() - started:.0f} s, {len(found)}/{len(recipes)}", *tables[2].round(4).values[0])
        for name, parts in zip(("scores", "gaps", "runs"), zip(*found, strict=True), strict=True):
            pd.concat(parts, ignore_index=True).to_csv(options.out / f"{name}.csv", index=False)
        (options.out / "about.json").write_text(json.dumps(about([t[0] for t in found]), indent=2))
    if missing := len(recipes) - len(found):
        print(f"{missing} of {len(recipes)} runs are missing; the same command goes on with them")
    if found:
        report(found, options.out)
    print(f"wall time {time.perf_counter() - started:.0f} s")


def about(scores: list[pd.DataFrame]) -> dict[str, object]:
    """What a reader needs to repeat the study."""
    return {
        "command": shlex.join(["python", *sys.argv]),
        "date": date.today().isoformat(),
        "python": platform.python_version(),
        "packages": {p: version(p) for p in ("mtg-lab", "torch", "monai", "numpy")},
        **protocol_attrs(*scores),
    }


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
