r"""Six categories of strategies against missing sequences, the baselines that papers leave out, and AdaMM taken apart.

    python benchmarks/strategies_study.py --preset lab --seeds 0 1 2 --out out/strategies_study
    python benchmarks/strategies_study.py --arms adamm adamm_no_graph --invented out/more/data_manifest.csv
    python benchmarks/strategies_study.py --split val --seeds 0 --arms multi_task \
        --vary method.reconstruction_weight=0.1,1,10

Arms on the lab's U-Net, same steps, crops and learning rate (those of ``dropout``):

* baselines: ``zero_fill`` (trained on complete data, zeros where a sequence is absent) and ``mean_fill`` (the same
  network, given the mean of the present images), ``specialists`` (a network a subset, trained with nothing else),
  ``nnunet`` (nnU-Net's network, subsets drawn);
* imputation: ``data_generation``, ``feature_generation``, ``sample_retrieval``;
* without: ``dropout`` (robustness; ``dropout_tuned`` at the rate that suits it best), ``multi_task``, distillation:
  ``plain`` (a student of the logits of a teacher that was not aligned), ``mind_the_gap`` (an aligned teacher and its
  anchor), ``adamm_unet`` (AdaMM's terms on the U-Net), ``adamm`` (on its own network), ``adamm_tuned``; and what its
  network does with drawn subsets alone, ``dropout_adamm``.

AdaMM's parts: ``adamm_no_adapters`` (nor graph), ``adamm_no_graph``, ``adamm_no_bbdm`` (no style, content, adversary),
``adamm_no_presence`` (no head, no weights, no gate), ``adamm_free_head`` (no norm in the head), ``adamm_plain_units``
(content and style not in units of the teacher's), ``adamm_released``; ``..._open`` is the same network, where it is
whole, with its gate open.

Runs are recipes: what is trained is not trained again, who is scored is not scored again. After every run scores.csv,
runs.csv (one line a run: mean scores, parameters, seconds) and about.json are written; at the end arms.csv (one line an
arm and seed, specialists put together) and differences.csv (paired over subjects and seeds, 95 % intervals).
``--invented`` names a further cohort, of whose subjects without enhancing tumour it is told how much of it the arms
with AdaMM's terms and those with nothing but drawn subsets invent (invented.csv).
"""

import argparse
import itertools
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from studies import (
    GridKey,
    Tables,
    add_grid_options,
    add_options,
    apart,
    change,
    gathered,
    keep_differences,
    over_grid,
    summary,
    tell_means,
)

from mtg_lab import read_manifest, vocabulary
from mtg_lab.manifest import Manifest
from mtg_lab.methods.adamm import RELEASED, RELEASED_NETWORK
from mtg_lab.recipes import Recipe, override, preset
from mtg_lab.runs import Run

LABELS = ("arm", "settings", "seed")
OPEN = "_open"
INVENTING = ("adamm", "dropout")  # methods whose networks are asked for what they invent
SPECIALIST = "specialist "
NO_BBDM = {"method.style": "off", "method.content_weight": 0.0, "method.adversary_weight": 0.0}
# No gradient reaches the head; the gate is open, as an untrained head would close it at random.
NO_PRESENCE = {"method.presence_weight": 0.0, "method.presence_weights": False, "backbone.gate": "off"}
RELEASE = {f"method.{k}": v for k, v in RELEASED.items()} | {f"backbone.{k}": v for k, v in RELEASED_NETWORK.items()}
# Best of three weights each on val (seed 0, lab preset at 4 mm, 400 steps), then of the rates 0.002 and 0.004; of
# latent_weight the default was best. Dropout, which has no weight, had three rates. What an arm is measured against
# keeps its defaults: the best of these two have arms of their own.
TUNED: dict[str, dict[str, Any]] = {
    "dropout_tuned": {"learning_rate": 0.004},  # of 0.001, 0.002, 0.004
    "data_generation": {"method.painting_weight": 0.1},  # of 0.1, 1, 10
    "feature_generation": {"method.guess_weight": 1.0},  # of 0.01, 0.1, 1
    "sample_retrieval": {"backbone.neighbours": 32},  # of 2, 8, 32
    "multi_task": {"method.reconstruction_weight": 0.01},  # of 0.01, 0.1, 1
    "plain": {"method.logit_weight": 0.5},  # of 0.005, 0.05, 0.5
    "adamm_tuned": {"method.voxel_weight": 1.0},  # of 1, 10, 100
}
PARTS: dict[str, dict[str, Any]] = {
    "adamm": {},
    "adamm_no_adapters": {"backbone.adapters": False, "backbone.graph": False},
    "adamm_no_graph": {"backbone.graph": False},
    "adamm_no_bbdm": NO_BBDM,
    "adamm_no_presence": NO_PRESENCE,
    "adamm_free_head": {"backbone.presence_norm": "none"},
    "adamm_plain_units": {"method.relative": False},
    "adamm_released": RELEASE,
}
STRATEGIES = ("dropout_tuned", "zero_fill", "mean_fill", "specialists", "nnunet", "data_generation",
              "feature_generation", "sample_retrieval", "multi_task", "plain", "mind_the_gap", "dropout_adamm",
              "adamm_unet", "adamm", "adamm_tuned")  # fmt: skip
COMPARISONS = [
    *((arm, "dropout") for arm in STRATEGIES),
    *((arm, "dropout_tuned") for arm in STRATEGIES[1:]),
    *((arm, "adamm") for arm in PARTS if arm != "adamm"),
    *((arm, other) for arm in ("adamm", "adamm_tuned") for other in ("dropout_adamm", "feature_generation")),
    *((arm, arm + OPEN) for arm in ("adamm", "adamm_tuned", "adamm_unet", "adamm_free_head", "adamm_plain_units",
                                           "adamm_released")),
]  # fmt: skip


def arms(name: str, manifest: str, seed: int, changes: Mapping[str, object]) -> dict[str, Recipe]:
    """All recipes by their arm, the networks of one subset each as ``specialist <subset>``."""

    def made(method: str, settings: Mapping[str, object] | None = None, **more: Any) -> Recipe:
        return change(override(preset(name, method, manifest, seed, **more), settings or {}), changes)

    complete = made("complete")
    modalities = read_manifest(manifest).modalities
    found = {
        "dropout": made("dropout"),
        "dropout_tuned": made("dropout", TUNED["dropout_tuned"]),
        "zero_fill": complete,
        "nnunet": made("dropout", backbone="nnunet"),
        **{m: made(m, TUNED[m]) for m in ("data_generation", "feature_generation", "sample_retrieval", "multi_task")},
        "plain": made("student", {"method.latent_weight": 0.0} | TUNED["plain"], teacher=complete),
        "mind_the_gap": made("student", teacher=made("aligned_teacher")),
        "dropout_adamm": made("dropout", {"backbone.gate": "off"}, backbone="adamm"),
        "adamm_unet": made("adamm", {"backbone.gate": "hard"}, backbone="unet"),
        "adamm_tuned": made("adamm", TUNED["adamm_tuned"]),
        **{part: made("adamm", settings) for part, settings in PARTS.items()},
    }
    for subset in vocabulary.subsets(modalities)[:-1]:
        words = vocabulary.subset_name(subset, modalities)
        found[SPECIALIST + words] = replace(complete, missing={"rule": "subset", "subset": words})
    return found


def work(recipe: Recipe, split: str, workers: int, threads: int, invented: str, out: Path) -> Tables:
    """Train (or load) one run and score it, in all its variants: scores, what it invents, a line of facts each."""
    import torch

    torch.set_num_threads(threads)
    from mtg_lab.surgery import with_gate, with_mean_images
    from mtg_lab.training import train

    run = train(recipe, workers=workers)
    variants: dict[str, Run] = {"": run}
    if recipe.method == "complete" and not recipe.missing:
        variants["mean"] = with_mean_images(run)
    if _opened(recipe):
        variants["open"] = with_gate(run, "off")
    found = [_scored(operated, split, invented, out / variant) for variant, operated in variants.items()]
    return tuple(
        pd.concat([t.assign(variant=v) for v, t in zip(variants, tables, strict=True)], ignore_index=True)
        for tables in zip(*found, strict=True)
    )


def _opened(recipe: Recipe) -> bool:
    """Whether it is asked what the gate does: of whole networks with one, in each form of the head."""
    parts = [recipe.backbone_options.get(part, True) for part in ("adapters", "graph")]
    gated = recipe.method == "adamm" and recipe.backbone_options.get("gate") != "off"
    return gated and all(parts) and recipe.method_options["style"] != "off"


def _scored(run: Run, split: str, invented: str, out: Path) -> Tables:
    from mtg_lab.evaluation import evaluate
    from mtg_lab.sweeps import kept_scores

    recipe = run.recipe
    cohort = read_manifest(recipe.manifest).limit(*recipe.limit)  # those scored have everything
    subsets = [str(recipe.missing["subset"])] if recipe.missing else None
    one = replace(cohort, subjects=cohort.split(split).subjects[:1])
    evaluate(run, one, split, subsets=subsets)  # so that all is loaded
    started = time.process_time()
    evaluate(run, one, split, subsets=subsets)
    scoring = time.process_time() - started
    scores = kept_scores(run, cohort, split, out, subsets=subsets)
    line = summary(run, scores)
    line |= {"parameters": sum(p.numel() for p in run.backbone().parameters()), "scoring_seconds": scoring}
    further = invented if recipe.method in INVENTING else ""
    return scores, _invented(run, further, split, subsets, out), pd.DataFrame([line])


def _invented(run: Run, manifest: str, split: str, subsets: list[str] | None, out: Path) -> pd.DataFrame:
    """Millilitres of enhancing tumour where there is none, by subject and subset."""
    from mtg_lab.sweeps import kept_scores

    if not manifest:
        return pd.DataFrame(columns=["subject", "subset", "modalities", "value"])
    cohort = without_enhancing(read_manifest(manifest))
    there = apart(cohort, split, out)
    volumes = kept_scores(run, cohort, split, there, metrics=["volume_error_ml"], subsets=subsets)
    return volumes.loc[volumes["region"] == "ET", ["subject", "subset", "modalities", "value"]]


def without_enhancing(cohort: Manifest) -> Manifest:
    """The subjects whose reference has no enhancing tumour."""
    import nibabel as nib
    import numpy as np

    values = [v for v, name in cohort.schema.labels.items() if name == "ET"]
    kept = [s for s in cohort.materialise() if not np.isin(np.asarray(nib.load(s.label).dataobj), values).any()]
    return replace(cohort, subjects=tuple(kept))


def labelled(tables: Tables, key: GridKey) -> Tables:
    """With arm, settings and seed in front; specialists are one arm, and a variant is an arm of its own."""
    arm, settings, seed = key
    arm = "specialists" if arm.startswith(SPECIALIST) else arm
    names = {"": arm, "mean": "mean_fill", "open": arm + OPEN}
    found = []
    for table in tables:
        labels = dict(zip(LABELS, (table["variant"].map(names), settings, seed), strict=True))
        found.append(table.assign(**labels)[[*labels, *(c for c in table if c != "variant")]])
    return tuple(found)


def report(found: list[Tables], out: Path) -> None:
    """Means over seeds with their spread, what is invented, and paired differences."""
    from mtg_lab.evaluation import paired_difference

    runs = pd.concat([t[-1] for t in found], ignore_index=True)
    groups = runs.groupby(["arm", "settings"], sort=False)
    shown = [c for c in runs if c.startswith("dice")]
    tell_means(groups, [*shown, "parameters", "seconds_per_step", "scoring_seconds"])
    invented = pd.concat([t[1] for t in found], ignore_index=True)
    if len(invented):
        told = invented.assign(any=invented["value"].astype(float) > 0).groupby(["arm", "settings"], sort=False)
        print(told.agg({"value": "mean", "any": "mean"}).round(3).to_string())
    tables: dict[GridKey, pd.DataFrame] = {}
    for key, part in pd.concat([t[0] for t in found]).groupby([*LABELS], sort=False):
        tables[key] = part.assign(protocol="")  # variants and single subsets have protocols of their own
    for (arm, words, seed), part in list(tables.items()):
        if arm == "specialists" and ("zero_fill", words, seed) in tables:  # the specialist for everything
            complete = tables["zero_fill", words, seed]
            everything = complete[complete["modalities"] == complete["modalities"].max()]
            tables[arm, words, seed] = pd.concat([part, everything], ignore_index=True)
    written = [arm_line(key, tables[key], part) for key, part in runs.groupby([*LABELS], sort=False)]
    pd.DataFrame(written).to_csv(out / "arms.csv", index=False)
    rows = []
    for (ours, theirs), words in itertools.product(COMPARISONS, runs["settings"].unique()):
        seeds = [s for a, w, s in tables if (a, w) == (ours, words) and (theirs, words, s) in tables]
        if seeds:
            sides = [{s: tables[arm, words, s] for s in seeds} for arm in (ours, theirs)]
            labels = {"ours": ours, "theirs": theirs, "settings": words, "seeds": len(seeds)}
            rows.append(paired_difference(*sides).assign(**labels))
    keep_differences(rows, out)


def arm_line(key: GridKey, scores: pd.DataFrame, runs: pd.DataFrame) -> dict[str, Any]:
    """One line of an arm and seed: mean Dice, by region and by number of sequences, and what all its networks cost.

    Specialists are added up: parameters, and seconds in which a patient is segmented from all subsets. The one for
    everything, which is the run of ``zero_fill``, is counted as an average one of them.
    """
    line: dict[str, Any] = dict(zip(LABELS, key, strict=True)) | {"dice": scores["value"].mean()}
    for column in ("region", "modalities"):
        line |= {f"dice_{k}": v for k, v in scores.groupby(column, sort=column == "modalities")["value"].mean().items()}
    networks = scores["subset"].nunique() if key[0] == "specialists" else 1
    line |= {k: networks * runs[k].mean() for k in ("parameters", "scoring_seconds")}
    return line | {"seconds_per_step": runs["seconds_per_step"].mean(), "networks": networks}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_options(parser, "out/strategies_study")
    add_grid_options(parser)
    parser.add_argument("--invented", default="", metavar="MANIFEST", help="who of it lacks ET is scored for inventing")
    options = parser.parse_args()
    started = time.perf_counter()
    chosen = over_grid(arms, options, lambda arm: "specialists" if arm.startswith(SPECIALIST) else arm)
    job = partial(
        work,
        split=options.split,
        workers=options.workers,
        threads=options.threads,
        invented=options.invented,
        out=options.out,
    )
    found = gathered(chosen, job, labelled, ("scores", "invented", "runs"), options)
    if found:
        report(found, options.out)
    print(f"wall time {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
