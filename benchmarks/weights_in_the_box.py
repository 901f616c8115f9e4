"""Train the networks that come with the package and write their model card.

    python benchmarks/weights_in_the_box.py --jobs 2

Writes mtg_lab/weights/<name>/ (recipe, history, environment, and the weights in half precision) and
mtg_lab/weights/README.md with scores on the test split, measured with the weights as they are stored. To be run again
whenever a test says that a recipe of the lab preset no longer has the hash of its network.
"""

import argparse
import json
import shutil
from datetime import date
from functools import partial
from importlib.resources import files
from pathlib import Path

import pandas as pd
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save

from mtg_lab import read_manifest, reliability, runs
from mtg_lab.comparison import conduct
from mtg_lab.evaluation import Protocol, evaluate
from mtg_lab.files import make_folder, write_text, written_aside
from mtg_lab.recipes import Recipe, suite
from mtg_lab.runs import boxed_run, load_run
from mtg_lab.training import train

NAMES = {"teacher": "complete", "aligned_teacher": "aligned", "student": "aligned_student"}
HOME = Path(str(files("mtg_lab"))) / "weights"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    options = parser.parse_args()
    recipes = {name: suite("lab", seed=options.seed)[arm] for name, arm in NAMES.items()}
    read_manifest(recipes["teacher"].manifest).materialise(options.jobs)
    for name in NAMES:
        shutil.rmtree(HOME / name, ignore_errors=True)
    runs.boxed_runs.cache_clear()
    for _, job in conduct(recipes, partial(trained, threads=1), options.jobs):
        job.result()
    for name, recipe in recipes.items():
        pack(recipe, HOME / name)
    runs.boxed_runs.cache_clear()
    subsets = {"subsets": ["t1c", "t2f", "t1c+t2f", "t1n+t1c+t2w+t2f"]}
    half, full = (
        evaluate(run, recipes["student"].cohort(), "val", **subsets)["value"]
        for run in (load_run(HOME / "student"), train(recipes["student"]))
    )
    lost = float((half - full).abs().max())
    stored = {name: job.result() for name, job in conduct(recipes, partial(measured, threads=1), options.jobs)}
    write_text(HOME / "README.md", card(recipes, stored, lost))
    size = sum(p.stat().st_size for p in HOME.rglob("*") if p.is_file())
    print(f"{size / 1e6:.2f} MB in {HOME.name}/; half precision moves a patient's Dice by at most {lost:.4f}")


def trained(recipe: Recipe, threads: int) -> str:
    """Train in this process."""
    torch.set_num_threads(threads)
    return train(recipe).digest


def measured(recipe: Recipe, threads: int) -> pd.DataFrame:
    """Scores on test of the network as it is stored; what val says of its reliability is laid beside it."""
    torch.set_num_threads(threads)
    folder = boxed_run(recipe.digest())
    assert folder is not None
    run = load_run(folder)
    reliability.save(reliability.measure_reliability(run, recipe.cohort()), run)
    return evaluate(run, recipe.cohort())


def pack(recipe: Recipe, folder: Path) -> None:
    """Copy a run of the cache: weights in half precision, the history with four digits."""
    run = train(recipe)
    make_folder(folder)
    with safe_open(run.folder / "weights.safetensors", framework="pt") as stored:
        meaning = stored.metadata()
    half = {
        k: v.half() if v.is_floating_point() else v for k, v in load_file(run.folder / "weights.safetensors").items()
    }
    with written_aside(folder / "weights.safetensors") as aside:
        aside.write_bytes(save(half, metadata=meaning))
    with written_aside(folder / "history.csv") as aside:
        run.history.to_csv(aside, float_format="%.4g")
    facts = {k: v for k, v in run.environment.items() if k not in ("platform", "device_name")}
    write_text(folder / "environment.json", json.dumps(facts, indent=2))
    shutil.copy(run.folder / "recipe.json", folder / "recipe.json")


def card(recipes: dict[str, Recipe], scores: dict[str, pd.DataFrame], lost: float) -> str:
    """The model card, with what was measured."""
    digests = {name: recipe.digest() for name, recipe in recipes.items()}
    numbers = sum(p.numel() for p in load_run(HOME / "student").backbone().parameters())
    protocol = Protocol(**scores["student"].attrs["protocol"])
    lines = [
        "# Model card: the networks that come with mtg_lab",
        "",
        "Made by `benchmarks/weights_in_the_box.py`; do not edit. For learning and trying out, not for patients.",
        "",
        "| name | what it is | recipe |",
        "| --- | --- | --- |",
        f"| `teacher` | sees every sequence in training, no alignment | `{digests['teacher']}` |",
        f"| `aligned_teacher` | the same, latents aligned to P_mix (Mind the Gap) | `{digests['aligned_teacher']}` |",
        f"| `student` | any subset of sequences; taught by `aligned_teacher` | `{digests['student']}` |",
        "",
        '`mtg_lab.load_run("student")`, `mtg-lab predict student --t1c a.nii.gz --t2f b.nii.gz --out mask.nii.gz`;',
        "`mtg_lab.train` returns them when a recipe's hash is theirs, so the notebooks find them.",
        "",
        "**Data.** The synthetic cohort of `data_manifest.csv` (36 training phantoms at 2 mm; MNI152 anatomy, ICBM",
        "2009, Fonov et al. 2011). No patient; the look of its tumours was chosen with three real gliomas in view.",
        f"**Training.** `lab` preset, seed {recipes['student'].seed}, {recipes['student'].steps} steps of"
        f" {recipes['student'].batch} crops of {recipes['student'].sampling.crop_voxels} voxels;"
        " `recipe.json` in each folder has every setting.",
        f"**Stored** in half precision, which moves a patient's Dice by at most {lost:.4f}.",
        f"**Scores** on the {len(scores['student']['subject'].unique())} test phantoms, {date.today()}: mean Dice over"
        " patients and subsets of that many sequences (teachers: absent latents are zero, which they never saw).",
        "",
        "| name | region | "
        + " | ".join(f"{n} sequence{'s' if n > 1 else ''}" for n in sorted(scores["student"]["modalities"].unique()))
        + " |",
        "| --- | --- |" + " --- |" * scores["student"]["modalities"].nunique(),
    ]
    for name in recipes:
        table = scores[name]
        cells = table.pivot_table(index="region", columns="modalities", values="value", sort=False)
        lines += [
            f"| `{name}` | {region} | " + " | ".join(f"{v:.2f}" for v in row) + " |" for region, row in cells.iterrows()
        ]
    lines += [
        "",
        f"P{str(protocol)[1:]}.",
        "",
        f"**Limits.** {numbers} parameters each, minutes of training, synthetic patients, 2 mm. Not",
        "validated on clinical data; real scans met so far: three gliomas (notebook 12, phantom_realism.py).",
        "Enhancing tumour without t1c is a guess.",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
