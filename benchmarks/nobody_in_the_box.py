"""Train the network that no patient has taught, as it comes with the package, score it, and write its model card.

    python benchmarks/nobody_in_the_box.py --real gliomas.csv

Writes mtg_lab/weights/nobody/ (recipe, history, environment, weights in half precision) and in it README.md, with Dice
and HD95 on phantoms that it has never met: plain ones (the committed cohort's test split), varied ones, and ``sites``,
whose scanners nobody has met, and by whom it was chosen among others. ``--real`` names a manifest of real patients,
whose split test is met in the end; nothing may be chosen by them. ``--against`` names networks that meet the same
patients. All scores stand in ``--out`` as scores.csv, those of real patients in real.csv, one line a network, cohort,
region and metric in overall.csv, and what it gains over each of those networks in differences.csv (Dice, paired over
patients, 95 % intervals). To be run again whenever a test says that the recipe no longer has the hash of the network.
"""

import argparse
import json
import shutil
import textwrap
from collections.abc import Mapping
from datetime import date
from pathlib import Path

import pandas as pd
import torch
from studies import about, apart, keep_differences
from weights_in_the_box import HOME, pack

from mtg_lab import read_manifest, reliability, runs
from mtg_lab.evaluation import evaluate, paired_difference
from mtg_lab.files import make_folder, write_text
from mtg_lab.protocol import protocol_line
from mtg_lab.recipes import nobody
from mtg_lab.runs import Run, load_run
from mtg_lab.score_summary import summary
from mtg_lab.sweeps import kept_scores
from mtg_lab.training import train

NAME = "nobody"
METRICS = ("dice", "hd95")
COHORTS = {"plain": "", "varied": "varied", "sites": "sites"}
REAL = "real patients"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--real", type=Path, help="manifest of real patients with a split test")
    parser.add_argument("--against", nargs="*", default=[], help="other networks, by name or folder")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("out/nobody_in_the_box"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    recipe = nobody()
    shutil.rmtree(HOME / NAME, ignore_errors=True)  # else it would be taken for trained
    runs.boxed_runs.cache_clear()
    full = train(recipe)
    pack(recipe, HOME / NAME)
    runs.boxed_runs.cache_clear()
    run = load_run(HOME / NAME)
    moved = lost(run, full)
    reliability.save(reliability.measure_reliability(run, recipe.cohort()), run)
    met = COHORTS | ({REAL: str(options.real)} if options.real else {})
    scores = {}
    for old in options.out.glob(f"of-*/scores/{run.digest}-*"):
        old.unlink()  # of a training elsewhere, where rounding may have been another
    for cohort, manifest in met.items():
        patients = read_manifest(manifest)
        for name in (NAME, *options.against):
            out = apart(patients, "test", options.out)
            scores[name, cohort] = kept_scores(load_run(name), patients, "test", out, metrics=METRICS)
    overall = pd.concat(
        summary({name: table}, metric).assign(cohort=cohort, metric=metric)
        for (name, cohort), table in scores.items() for metric in METRICS
    )  # fmt: skip
    make_folder(options.out)
    told = [t.assign(network=name, cohort=cohort) for (name, cohort), t in scores.items()]
    everyone = pd.concat(told, ignore_index=True)
    everyone.to_csv(options.out / "scores.csv", index=False)
    everyone[everyone["cohort"] == REAL].to_csv(options.out / "real.csv", index=False)
    overall.to_csv(options.out / "overall.csv", index=False)
    protocols = {cohort: protocol_line(table) for (name, cohort), table in scores.items() if name == NAME}
    dice = {key: {recipe.seed: table[table["metric"] == "dice"]} for key, table in scores.items()}
    rows = [
        paired_difference(dice[NAME, cohort], dice[name, cohort]).assign(cohort=cohort, ours=NAME, theirs=name)
        for cohort in met for name in options.against
    ]  # fmt: skip
    keep_differences(rows, options.out)
    write_text(options.out / "about.json", json.dumps(about([]) | {"protocols": protocols}, indent=2))
    mine = {cohort: table for (name, cohort), table in scores.items() if name == NAME}
    write_text(HOME / NAME / "README.md", card(run, mine, moved))
    print((HOME / NAME / "README.md").read_text())


def lost(half: Run, full: Run) -> float:
    """The most by which half precision moves the Dice of a patient, of four of ``val``."""
    few, asked = full.recipe.cohort().limit(0, 4, 0), {"subsets": ["t1c", "t1c+t2f", "t1n+t1c+t2w+t2f"]}
    values = [evaluate(run, few, "val", **asked)["value"] for run in (half, full)]
    return float((values[0] - values[1]).abs().max())


def card(run: Run, scores: Mapping[str, pd.DataFrame], moved: float) -> str:
    """The model card, with what was measured."""
    recipe, cohort = run.recipe, run.recipe.cohort()
    numbers = sum(p.numel() for p in run.backbone().parameters())
    training = cohort.split("train")
    cost = run.environment
    lines = ["# Model card: nobody", ""]
    for text in (
        "Made by `benchmarks/nobody_in_the_box.py`; do not edit. No medical device: for research and teaching.",
        f"A segmenter of gliomas for any subset of {', '.join(run.modalities)} that has seen no patient. Recipe "
        f"`{recipe.digest()}`: `mtg-lab train --preset lab --manifest {recipe.manifest} --set steps={recipe.steps} "
        f"--out RUN` trains it again. `mtg-lab predict {NAME} --t1c a.nii.gz --t2f b.nii.gz --out mask.nii.gz`, "
        f"`mtg-lab evaluate {NAME} --manifest yours.csv --out scores.csv`.",
        f"**Data.** {len(training)} synthetic patients at {recipe.preprocessing.spacing_mm:g} mm, plain and varied "
        "ones (the cohort `mixed`; MNI152 anatomy, ICBM 2009, Fonov et al. 2011). No patient; but the look of the "
        "plain phantom's tumours was chosen with three real gliomas in view.",
        f"**Training.** Drawn subsets on the U-Net of the `lab` preset, {numbers} parameters, seed {recipe.seed}, "
        f"{recipe.steps} steps of {recipe.batch} crops of {recipe.sampling.crop_voxels} voxels, "
        f"{cost['seconds_per_step']:.2f} s each in {cost['precision']} (threads: {cost['threads']}), "
        f"{cost['seconds'] / 60:.0f} minutes together. Why these patients and this long: notebook 12. **Stored** "
        f"in half precision, which moves a patient's Dice by at most {moved:.4f} (four of `val`).",
        f"**Scores**, {date.today()}: mean Dice over patients and subsets of that many sequences, and over all subsets "
        "that the patients have, with its 95 % interval over patients (of three: the lowest and the highest); HD95 in "
        "mm over the same subsets. Where a mask is empty and should not be, or the other way round, HD95 is 374 mm, "
        "which is most of it for the enhancing tumour.",
        "It has learnt from none of these patients. It was chosen, among five networks, by `sites` and by the "
        "validation phantoms of `varied`, by the others not. The real patients are three gliomas of BraTS 2015, of "
        "whom t1c and t2f are at hand: the three in view of whom the plain phantom's tumours were made, and met by "
        "earlier networks before. That flatters it. Their columns hold other subsets than those of phantoms.",
    ):
        lines += [textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False), ""]
    for name, table in scores.items():
        dice = table[table["metric"] == "dice"]
        cells = dice.pivot_table(index="region", columns="modalities", values="value", sort=False).sort_index(axis=1)
        whole = summary({NAME: table}).set_index("region")
        far = summary({NAME: table}, "hd95").set_index("region")
        lines += [
            f"| {name}, {dice['subject'].nunique()} patients | "
            + " | ".join(f"{n} sequence{'s' if n > 1 else ''}" for n in cells) + " | all subsets | HD95 |",
            "| --- |" + " --- |" * (cells.shape[1] + 2),
            *(f"| {region} | " + " | ".join(f"{v:.2f}" for v in row)
              + f" | {whole['mean'][region]:.2f} [{whole['low'][region]:.2f}, {whole['high'][region]:.2f}]"
              + f" | {far['mean'][region]:.0f} |" for region, row in cells.iterrows()),
            "",
            f"P{protocol_line(table)[1:]}.",
            "",
        ]  # fmt: skip
    removed = (
        f"**Small parts** of a mask may be taken out, `mtg-lab predict {NAME} ... --remove WT:2000 --remove TC:2000`: "
        "the size was chosen on varied phantoms. What it is worth, and why enhancing tumour is another matter: "
        "notebook 12, `benchmarks/small_parts.py`."
    )
    lines += [textwrap.fill(removed, 120, break_long_words=False, break_on_hyphens=False), ""]
    limits = (
        "**Limits.** Synthetic patients at 2 mm, one training; not validated on clinical data. Enhancing tumour "
        "without t1c is a guess. Children, metastases, meningiomas and treated brains were never made."
    )
    lines += [textwrap.fill(limits, 120), ""]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
