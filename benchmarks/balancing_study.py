r"""Does balancing help those that are often missing? Balancing methods, PASSION and its parts, scored on every subset.

    python benchmarks/balancing_study.py --preset lab --backbones unet rfnet --seeds 0 1 2 --out out/balancing_study
    python benchmarks/balancing_study.py --arms fused passion --rates mr2468 balanced --set steps=400

Every training patient lacks a fixed set of files at the missing rates of t1n, t1c, t2f, t2w: ``mr2468`` is 0.2, 0.4,
0.6, 0.8 as in PASSION's published files, ``mr1379`` likewise; ``balanced`` has the same mean, 0.5 for each. Test
patients have everything. Arms share network, steps and files:

* ``fused`` uses all that a patient has; ``fused_drop`` draws subsets of it (the settings idt and idt_drop);
* ``watched`` is ``fused`` with PASSION's terms measured and not used: its curves are those of ``fused``, and its
  difference to it tells what a training varies by that computes the same in other words (nothing on a U-Net);
* ``uni_modal`` adds uni-modal supervision, PASSION's own baseline, ``inverse_frequency`` its weights;
* ``prototype_modulation``, ``gradient_modulation``, ``passion``; ``no_...`` is PASSION with that part taken away.

Runs are recipes: what is trained is not trained again. Writes after every run scores.csv, histories.csv (each modality
over training, about 100 points a run), runs.csv (one line a run: mean Dice, that of each modality alone, by number
missing; share of training patients with it; its coefficient at the end and mean preference) and about.json, and at the
end differences.csv (paired over subjects and seeds, 95 % intervals: each arm less ``fused``, each part's absence less
``passion``; over all subsets, by number missing, and for each modality alone). A mean in runs.csv is over subsets, in
differences.csv each number of missing modalities counts the same.
"""

import argparse
import itertools
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pandas as pd
from studies import COST, Tables, add_options, change, check_options, gathered, in_front, points, tell_means

from mtg_lab.missingness import Missingness, availability
from mtg_lab.recipes import Recipe, preset
from mtg_lab.runs import Run

UNUSED = {"uni_weight": 0.0, "pixel_weight": 0.0, "semantic_weight": 0.0}
PARTS = {
    "no_uni": {"uni_weight": 0.0},
    "no_pixel": {"pixel_weight": 0.0},
    "no_semantic": {"semantic_weight": 0.0},
    "no_gate": {"gate": "off"},
    "no_coefficients": {"coefficients": False},
    "no_inverse_frequency": {"inverse_frequency": False},
}
ARMS: dict[str, tuple[str, dict[str, object]]] = {
    "fused": ("complete", {}),
    "watched": ("passion", UNUSED),
    "fused_drop": ("dropout", {}),
    "uni_modal": ("inverse_frequency", {"power": 0.0}),
    "inverse_frequency": ("inverse_frequency", {}),
    "prototype_modulation": ("prototype_modulation", {}),
    "gradient_modulation": ("gradient_modulation", {}),
    "passion": ("passion", {}),
    **{name: ("passion", options) for name, options in PARTS.items()},
}
CURVES = ("student", "distance", "preference", "coefficient", "gate", "score", "modulation", "gradient")
LABELS = ("arm", "backbone", "rates", "seed")
_POINTS = 100

Key = tuple[str, str, str, int]


def rule(rates: str) -> Missingness:
    """The rule of missingness that a word of ``--rates`` names."""
    return Missingness.parse("imbalanced:" + {"balanced": "mr5555"}.get(rates, rates))


def planned(options: argparse.Namespace) -> dict[Key, Recipe]:
    """What to train, seed by seed, so that a study that is stopped has whole seeds."""
    fixed = dict(next(points(options.set))[1])
    if unknown := set(options.arms or ()) - set(ARMS):
        raise SystemExit(f"no arm {sorted(unknown)[0]}; there are: {', '.join(ARMS)}")
    recipes: dict[Key, Recipe] = {}
    for seed, rates, backbone in itertools.product(options.seeds, options.rates, options.backbones):
        for arm in options.arms or ARMS:
            method, given = ARMS[arm]
            base = preset(options.preset, method, options.manifest, seed, backbone=backbone, method_options=given)
            recipes[arm, backbone, rates, seed] = change(under(base, rates), fixed)
    check_options(recipes, list(fixed))
    return recipes


def under(recipe: Recipe, rates: str) -> Recipe:
    """The recipe with files missing; of a cohort that the preset cuts short, patients enough to show every pattern."""
    cohort = recipe.cohort()
    patterns = 2 ** len(cohort.modalities) - 1
    if 0 < recipe.limit[0] < patterns:
        recipe = replace(recipe, limit=(patterns, *recipe.limit[1:]))
    return replace(recipe, missing=rule(rates).to_json())


def work(recipe: Recipe, split: str, workers: int, threads: int, out: Path) -> Tables:
    """Train (or load) one run and score it: scores, each modality over training, one line of facts."""
    import torch

    torch.set_num_threads(threads)
    from mtg_lab.sweeps import kept_scores
    from mtg_lab.training import train

    run = train(recipe, workers=workers)
    scores = kept_scores(run, recipe.cohort(), split, out)
    return scores, thinned(run.history, run.modalities), pd.DataFrame([facts(run, scores)])


def facts(run: Run, scores: pd.DataFrame) -> dict[str, object]:
    """One line: scores in short, who was there in training, what balancing came to."""
    line = {"run": run.digest, "steps": run.recipe.steps, "dice": scores["value"].mean()}
    line |= {f"dice_{name}": part["value"].mean() for name, part in parts(scores).items() if name != "all"}
    line |= {f"dice_{region}": values.mean() for region, values in scores.groupby("region", sort=False)["value"]}
    shares = availability(run.recipe.cohort().split("train")).mean()
    line |= {f"share_{m}": shares[m] for m in run.modalities}
    for m in run.modalities:
        if f"coefficient_{m}" in run.history:
            line[f"coefficient_{m}"] = run.history[f"coefficient_{m}"].iloc[-1]
            line[f"preference_{m}"] = run.history[f"preference_{m}"].mean()
    return line | {k: run.environment[k] for k in COST} | {"protocol": scores["protocol"].iloc[0]}


def parts(scores: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The scores of all subsets, by number of modalities missing, and of each modality alone."""
    most = scores["modalities"].max()
    alone = scores[scores["modalities"] == 1]
    return {
        "all": scores,
        **{f"{most - n}_missing": part for n, part in reversed(list(scores.groupby("modalities")))},
        **{f"{m}_alone": part for m, part in alone.groupby("subset", sort=False)},
    }


def thinned(history: pd.DataFrame, modalities: tuple[str, ...]) -> pd.DataFrame:
    """What a method tells of every modality, as means over about 100 equal stretches; undefined where nobody had it."""
    columns = [f"{c}_{m}" for c in CURVES for m in modalities if f"{c}_{m}" in history]
    stretch = max(1, len(history) // _POINTS)
    steps = pd.Series(history.index, index=history.index)
    groups = steps // stretch * stretch
    return history[columns].groupby(groups).mean().round(5).rename_axis("step").reset_index()


def report(found: list[Tables], out: Path) -> None:
    """Means over seeds, and paired differences."""
    runs = pd.concat([t[-1] for t in found], ignore_index=True)
    groups = runs.groupby(["backbone", "rates", "arm"], sort=False)
    shown = [c for c in runs if c.startswith("dice") and c != "dice"]
    tell_means(groups, ["dice", *shown, "seconds_per_step"])
    if coefficients := [c for c in runs if c.startswith(("coefficient_", "preference_"))]:
        print(groups[coefficients].mean().dropna().round(3).to_string())
    rows = differences({tuple(t[-1].loc[0, list(LABELS)]): t[0] for t in found})
    if len(rows):
        rows.to_csv(out / "differences.csv", index=False)
        print(rows.query("region == 'all' and subsets == 'all'").round(3).to_string(index=False))


def differences(tables: dict[Key, pd.DataFrame]) -> pd.DataFrame:
    """Every arm less ``fused`` and every part's absence less ``passion``, under the same rates, on the same network."""
    from mtg_lab.evaluation import paired_difference

    found = []
    pairs = [(arm, "fused") for arm in ARMS if arm != "fused"] + [(arm, "passion") for arm in PARTS]
    kinds = dict.fromkeys((backbone, rates) for _, backbone, rates, _ in tables)
    for (backbone, rates), (ours, theirs) in itertools.product(kinds, pairs):
        sides = [{s: t for (a, b, r, s), t in tables.items() if (a, b, r) == (x, backbone, rates)}
                 for x in (ours, theirs)]  # fmt: skip
        seeds = [s for s in sides[0] if s in sides[1]]
        for name in parts(sides[0][seeds[0]]) if seeds else ():
            compared = paired_difference(*({s: parts(side[s])[name] for s in seeds} for side in sides))
            labels = {"ours": ours, "theirs": theirs, "backbone": backbone, "rates": rates, "seeds": len(seeds)}
            rows = compared[compared["modalities"] == "all"].drop(columns="modalities")
            found.append(rows.assign(**labels, subsets=name, protocol=sides[0][seeds[0]]["protocol"].iloc[0]))
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_options(parser, "out/balancing_study")
    parser.add_argument("--backbones", nargs="+", default=["unet"])
    parser.add_argument("--rates", nargs="+", default=["mr2468", "mr1379", "balanced"])
    options = parser.parse_args()
    started = time.perf_counter()
    recipes = planned(options)
    job = partial(work, split=options.split, workers=options.workers, threads=options.threads, out=options.out)
    found = gathered(recipes, job, partial(in_front, LABELS), ("scores", "histories", "runs"), options)
    if found:
        report(found, options.out)
    print(f"wall time {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
