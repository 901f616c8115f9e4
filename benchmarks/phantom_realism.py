"""How real is the phantom? A run trained on phantoms scored on real gliomas, and intensities side by side.

    python benchmarks/phantom_realism.py RUN real_manifest.csv --out out/realism

RUN was trained on the phantom alone; the manifest is of real gliomas with some of its sequences. Writes scores.csv
(every subset), intensities.csv (mean and spread of z-scores per tissue and sequence, phantom and real), densities.png
and side_by_side.png.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from mtg_lab import figures
from mtg_lab.data import cached_dataset
from mtg_lab.evaluation import Protocol, evaluate, save_scores
from mtg_lab.manifest import Manifest, Subject, read_manifest
from mtg_lab.runs import Run, load_run


def intensities(run: Run, subjects: tuple[Subject, ...], modalities: list[str], source: str) -> pd.DataFrame:
    """z-scores drawn per subject and tissue; tissues by their region, so that schemas can be compared."""
    rng, frames = np.random.default_rng(0), []
    for subject, sample in zip(
        subjects, cached_dataset(subjects, run.modalities, run.recipe.preprocessing), strict=True
    ):
        label, brain = sample["label"][0].numpy(), sample["brain"][0].numpy() > 0
        schema = Manifest(Path(), run.modalities, (subject,)).schema.region_classes
        enhancing, core = np.isin(label, schema["ET"]), np.isin(label, schema["TC"])
        parts = {"healthy brain": brain & (label == 0), "oedema": np.isin(label, schema["WT"]) & ~core,
                 "other core": core & ~enhancing, "enhancing": enhancing}  # fmt: skip
        for tissue, where in parts.items():
            places = np.flatnonzero(where)
            for modality in modalities:
                if places.size > 20:
                    voxels = sample["image"][run.modalities.index(modality)].numpy().ravel()
                    values = voxels[rng.choice(places, 400)]
                    frames.append(pd.DataFrame({"modality": modality, "tissue": tissue, "value": values}))
    return pd.concat(frames).assign(source=source)


def side_by_side(run: Run, phantom: tuple[Subject, ...], real: tuple[Subject, ...], modality: str) -> dict:
    """One slice of the same sequence of each subject."""
    slices = {}
    for kind, subjects in (("real", real), ("phantom", phantom)):
        samples = cached_dataset(subjects, run.modalities, run.recipe.preprocessing)
        for number, sample in zip(range(len(subjects)), samples, strict=False):
            image = sample["image"][run.modalities.index(modality)].numpy()
            slices[f"{kind} {number + 1}, {modality}"] = image[..., figures.fullest_slice(sample["label"][0].numpy())]
    return slices


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--split", default="test", help="of the real cohort")
    parser.add_argument("--out", type=Path, default=Path("out/realism"))
    options = parser.parse_args()
    run, real = load_run(options.run), read_manifest(options.manifest)
    scores = evaluate(run, real, options.split)
    save_scores(scores, options.out / "scores.csv")
    print(scores.pivot_table(index="subset", columns="region", values="value", sort=False).round(3).to_string())
    print(
        scores.pivot_table(index="subject", columns=["subset", "region"], values="value", sort=False)
        .round(2)
        .to_string()
    )
    print(Protocol(**scores.attrs["protocol"]))
    shared = [m for m in run.modalities if m in real.modalities]
    phantoms = run.recipe.cohort().split("test").materialise().subjects
    real_subjects = real.split(options.split).subjects
    tables = [intensities(run, real_subjects, shared, "real"), intensities(run, phantoms, shared, "phantom")]
    table = pd.concat(tables, ignore_index=True)
    summary = table.groupby(["modality", "tissue", "source"], sort=False)["value"].agg(["mean", "std"]).unstack()
    summary.to_csv(options.out / "intensities.csv")
    print(summary.round(2).to_string())
    figures.save(figures.tissue_densities(table, "Real (solid) and phantom (dashed)"), options.out, "densities",
                 "Densities of z-scores per tissue and sequence, real gliomas solid and phantoms dashed.")  # fmt: skip
    slices = {}
    for modality in shared:
        slices |= side_by_side(run, phantoms[:3], real_subjects[:3], modality)
    windows = {k: figures.intensity_window(v) for k, v in slices.items()}
    figures.save(figures.slice_panels(slices, windows, title="Which are real?"), options.out, "side_by_side",
                 "Slices of real gliomas and of phantoms in the same sequences.")  # fmt: skip


if __name__ == "__main__":
    main()
