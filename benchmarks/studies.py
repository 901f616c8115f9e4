"""What the studies share: settings on the command line, runs conducted and written as they end, how it was made."""

import argparse
import itertools
import json
import os
import platform
import shlex
import sys
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd

from mtg_lab import read_manifest
from mtg_lab.comparison import conduct
from mtg_lab.manifest import Manifest
from mtg_lab.protocol import protocol_attrs
from mtg_lab.recipes import Recipe, override
from mtg_lab.runs import Run

Tables = tuple[pd.DataFrame, ...]  # of one run: its scores first, one line of facts last
GridKey = tuple[str, str, int]  # arm, settings in words, seed
Arms = Callable[[str, str, int, Mapping[str, object]], Mapping[str, Recipe]]
COST = ("seconds", "seconds_per_step", "peak_memory_mb", "device_name")  # of a run's environment, facts for that line


def add_options(parser: argparse.ArgumentParser, out: str) -> None:
    """What every study takes."""
    parser.add_argument("--preset", default="lab")
    parser.add_argument("--manifest", default="")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--split", default="test")
    parser.add_argument("--arms", nargs="*", help="by default all")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="for every arm, e.g. steps=500")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--workers", type=int, default=0, help="loader processes a run")
    parser.add_argument("--threads", type=int, default=2, help="processor threads a run")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="start nothing after so many")
    parser.add_argument("--out", type=Path, default=Path(out))


def add_grid_options(parser: argparse.ArgumentParser) -> None:
    """What a study takes whose arms are tried at several points."""
    parser.add_argument("--vary", nargs="*", default=[], metavar="KEY=VALUE,VALUE", help="every arm at every point")
    parser.add_argument("--points", nargs="*", default=[], metavar="'KEY=VALUE KEY=VALUE'", help="instead, these alone")


def over_grid(arms: Arms, options: argparse.Namespace, called: Callable[[str], str] = str) -> dict[GridKey, Recipe]:
    """What to train, seed by seed, without repetition: an arm that a varied setting does not touch is there once.

    Args:
        arms: recipes by their arm, of a preset, a manifest, a seed and changed settings.
        options: of the command line, with those of a grid.
        called: what ``--arms`` calls an arm.
    """
    fixed = dict(next(points(options.set))[1])
    recipes: dict[GridKey, Recipe] = {}
    seen = set()
    grid = [p for text in options.points for p in points(text.split())] or list(points(options.vary))
    for seed, (words, point) in itertools.product(options.seeds, grid):
        for arm, recipe in arms(options.preset, options.manifest, seed, fixed | point).items():
            wanted = not options.arms or called(arm) in options.arms
            if wanted and (digest := (arm, recipe.digest())) not in seen:
                seen.add(digest)
                recipes[arm, words, seed] = recipe
    check_options(recipes, [*fixed, *(k for _, point in grid for k in point)])
    return recipes


def change(recipe: Recipe, changes: Mapping[str, object]) -> Recipe:
    """A recipe and its teacher with settings changed, each taking the method options that it has."""
    known = {k: v for k, v in changes.items() if not k.startswith("method.") or k[7:] in recipe.method_options}
    teacher = change(recipe.teacher, changes) if recipe.teacher else None
    return override(replace(recipe, teacher=teacher), known)


def points(pairs: Sequence[str]) -> Iterator[tuple[str, dict[str, object]]]:
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


def check_options(recipes: Mapping[Hashable, Recipe], asked: Sequence[str]) -> None:
    """Refuse an option of methods that none of the recipes has."""
    trained = [*recipes.values(), *(r.teacher for r in recipes.values() if r.teacher)]
    methods = {f"method.{k}" for r in trained for k in r.method_options}
    if unknown := [k for k in asked if k.startswith("method.") and k not in methods]:
        raise SystemExit(f"{unknown[0]}: no chosen arm has this option; there are: {', '.join(sorted(methods))}")


def gathered(
    recipes: Mapping[Hashable, Recipe],
    job: Callable[[Recipe], Tables],
    labelled: Callable[[Tables, Hashable], Tables],
    names: Sequence[str],
    options: argparse.Namespace,
) -> list[Tables]:
    """Work on every recipe, and write all tables and about.json anew after each, so that nothing is lost by a stop.

    Tables come in the order of the recipes, whichever was done first: the first of a grid is what others are held to.

    Args:
        recipes: by key.
        job: must be importable, as processes are spawned.
        labelled: puts a key's parts in front of the tables.
        names: of the tables' files.
        options: of the command line.
    """
    started = time.perf_counter()
    read_manifest(options.manifest).materialise(min(options.jobs * options.threads, os.cpu_count() or 1))
    options.out.mkdir(parents=True, exist_ok=True)
    done: dict[Hashable, Tables] = {}
    for key, future in conduct(recipes, job, options.jobs, options.minutes):
        if error := future.exception():
            print(f"{' '.join(map(str, key))}: {error}", flush=True)
            continue
        done[key] = labelled(future.result(), key)
        found = [done[k] for k in recipes if k in done]
        print(f"{time.perf_counter() - started:.0f} s, {len(found)}/{len(recipes)}", *done[key][-1].round(4).values[0])
        for name, parts in zip(names, zip(*found, strict=True), strict=True):
            pd.concat(parts, ignore_index=True).to_csv(options.out / f"{name}.csv", index=False)
        (options.out / "about.json").write_text(json.dumps(about([t[0] for t in found]), indent=2))
    if missing := len(recipes) - len(done):
        print(f"{missing} of {len(recipes)} runs are missing; the same command goes on with them")
    return [done[k] for k in recipes if k in done]


def in_front(names: Sequence[str], tables: Tables, key: Sequence[Hashable]) -> Tables:
    """The tables with a key's parts as their first columns."""
    labels = dict(zip(names, key, strict=True))
    return tuple(t.assign(**labels)[[*labels, *t.columns]] for t in tables)


def summary(run: Run, scores: pd.DataFrame) -> dict[str, object]:
    """One line of a run: mean scores, by region and by number of modalities, and what it cost."""
    line: dict[str, object] = {"run": run.digest, "steps": run.recipe.steps, "dice": scores["value"].mean()}
    for column in ("region", "modalities"):
        line |= {f"dice_{k}": v for k, v in scores.groupby(column, sort=False)["value"].mean().items()}
    return line | {k: run.environment.get(k) for k in COST}


def tell_means(groups: Any, shown: Sequence[str]) -> None:
    """Print means over runs, their standard deviation and number."""
    spread = pd.DataFrame({"sd": groups["dice"].std(), "runs": groups["dice"].size()})
    print(groups[list(shown)].mean().join(spread).round(3).to_string())


def keep_differences(rows: Sequence[pd.DataFrame], out: Path) -> None:
    """Write differences.csv, and print those over all numbers of modalities."""
    if not rows:
        return
    differences = pd.concat(rows, ignore_index=True)
    differences.to_csv(out / "differences.csv", index=False)
    told = differences[differences["modalities"] == "all"]
    print(told.round({"difference": 3, "low": 3, "high": 3, "detectable": 3}).to_string(index=False))


def apart(cohort: Manifest, split: str, out: Path) -> Path:
    """A folder of ``out`` for scores of a cohort that is not the runs' own."""
    return out / f"of-{cohort.split(split).fingerprint()}"


def about(scores: Sequence[pd.DataFrame]) -> dict[str, object]:
    """What a reader needs to repeat the study."""
    return {
        "command": shlex.join(["python", *sys.argv]),
        "date": date.today().isoformat(),
        "python": platform.python_version(),
        "packages": {p: version(p) for p in ("mtg-lab", "torch", "monai", "numpy")},
        **protocol_attrs(*scores),
    }
