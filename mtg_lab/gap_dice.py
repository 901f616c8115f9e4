"""Does a smaller gap mean a better Dice? How far each subset moves the latents, against what it costs in Dice."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy.stats import rankdata
from torch import Tensor

from mtg_lab import vocabulary
from mtg_lab.backbones import with_latents
from mtg_lab.data import cached_dataset
from mtg_lab.errors import InputError
from mtg_lab.hardware import default_device, precision_context
from mtg_lab.manifest import Manifest, read_manifest
from mtg_lab.progress import progress
from mtg_lab.resampling import draw_counts, interval
from mtg_lab.runs import Run


@torch.inference_mode()
def displacement(
    run: Run,
    manifest: Manifest | str | Path,
    split: str = "test",
    subsets: Sequence[str] | None = None,
    voxels: int = 200,
    seed: int = 0,
    decoder: bool = True,
) -> pd.DataFrame:
    """How far a subset moves a subject's latents from where all modalities together would have them.

    ``encoder``: squared distance between the mixture of the present latents and that of all, sum_m w_m z_m with the
    run's weights, at the finest scale; ``decoder``: the same of the last features. Both are means over voxels of the
    brain, in units of the variance of that mixture or those features over these voxels: free of scale.

    Args:
        run: of a backbone with one encoder a modality.
        manifest, split: cohort; subjects that lack a modality are left out.
        subsets: such as ``t1c+t2f``; by default every one but the whole.
        voxels: at most so many a subject from each tissue.
        seed: of their draw.
        decoder: whether to decode every subset, which takes most of the time.

    Returns:
        Columns subject, subset, modalities (how many), encoder and, if asked for, decoder.

    Raises:
        InputError: a backbone without latents, an unknown subset, or no complete subject.
    """
    cohort = (manifest if isinstance(manifest, Manifest) else read_manifest(manifest)).split(split)
    run.check_modalities(cohort.modalities, str(cohort.path))
    device = default_device()
    backbone = with_latents(run.backbone(device), "the displacement by a subset")
    cohort.materialise()
    asked = subsets if subsets is not None else vocabulary.subsets(run.modalities)
    parsed = [vocabulary.parse_subset(s, run.modalities) for s in asked]
    chosen = [s for s in parsed if len(s) < len(run.modalities)]
    names = [vocabulary.subset_name(s, run.modalities) for s in chosen]
    masks = torch.tensor([[True] * len(run.modalities), *([m in s for m in run.modalities] for s in chosen)])
    samples = cached_dataset(cohort.subjects, run.modalities, run.recipe.preprocessing)
    rows = []
    pairs = enumerate(progress(zip(cohort, samples, strict=True), total=len(cohort), desc="displacement"))
    for index, (subject, sample) in pairs:
        if not bool(sample["present"].all()):
            continue
        places = _places(sample, voxels, np.random.default_rng([seed, index]))
        with precision_context(device, "auto"):
            latents = backbone.encode(sample["image"][None].to(device), sample["present"][None].to(device))
            answers = backbone.decode_each(latents, masks.to(device)) if decoder else ()
            decoded = [_at(answer.features[0], places) for answer in answers]
        z = _at(latents[0][0].flatten(0, 1), places).unflatten(0, latents[0].shape[1:3])[None]  # [1, M, C, v]
        mixed = [backbone.mixture.barycentre(z, mask[None])[0] for mask in masks.to(device)]
        for number, name in enumerate(names, start=1):
            found = {"encoder": _moved(mixed[number], mixed[0])}
            if decoder:
                found["decoder"] = _moved(decoded[number], decoded[0])
            rows.append({"subject": subject.name, "subset": name, "modalities": len(chosen[number - 1]), **found})
    if not rows:
        raise InputError(f"{cohort.path}: no subject of split {split} has all of {', '.join(run.modalities)}")
    return pd.DataFrame(rows)


def dice_lost(scores: pd.DataFrame) -> pd.DataFrame:
    """Dice with all modalities less Dice with a subset, mean over regions, of every subject.

    Args:
        scores: of :func:`mtg_lab.evaluate`; the largest subset stands for all modalities.

    Returns:
        Columns subject, subset, dice_lost; a region that a subject lacks under either is left out.
    """
    dice = scores[scores["metric"] == "dice"] if "metric" in scores else scores
    cells = dice.pivot_table(index=["subject", "region"], columns="subset", values="value", sort=False)
    whole = max(cells.columns, key=lambda name: name.count("+"))
    lost = -cells.drop(columns=whole).sub(cells[whole], axis=0)
    means = lost.groupby(level="subject", sort=False).mean()
    return means.melt(ignore_index=False, var_name="subset", value_name="dice_lost").reset_index()


def correlation(table: pd.DataFrame, x: str, y: str, unit: str, draws: int = 2000, seed: int = 0) -> pd.DataFrame:
    """Rank correlation of two columns over groups, over all of them and among those with as many modalities.

    Both columns are averaged over units (subjects, seeds) in each group (subset, setting). With fewer sequences, both
    the distance and the loss of Dice grow, whatever the one has to do with the other: the second number compares
    subsets of one size only. Intervals draw units anew, for they are what was sampled: with few of them they are wide,
    and they say nothing about other subsets.

    Args:
        table: columns ``unit``, ``group``, ``x``, ``y`` and, for the second number, ``modalities``.
        x, y: names of the two columns.
        unit: what is drawn anew.
        draws: bootstrap repetitions; seed: of the bootstrap.

    Returns:
        Rows ``all`` and, with a column ``modalities``, ``same number``; columns over, groups, units, correlation
        (Spearman's), low, high (95 %).

    Raises:
        InputError: fewer than three groups.
    """
    both = [table.pivot_table(index=unit, columns="group", values=c, sort=False).dropna(axis=1) for c in (x, y)]
    groups = [g for g in both[0].columns if g in both[1].columns]
    if len(groups) < 3:
        raise InputError(f"a correlation needs three groups or more; this table has {len(groups)}")
    first, second = (b[groups].to_numpy() for b in both)
    sizes = table.groupby("group")["modalities"].first()[groups].to_numpy() if "modalities" in table else None
    counts = draw_counts(len(first), draws, np.random.default_rng(seed)) / len(first)
    rows = []
    for name, levels in [("all", None), *([("same number", sizes)] if sizes is not None else [])]:
        value = _ranked(first.mean(axis=0), second.mean(axis=0), levels)
        drawn = np.array([_ranked(w @ first, w @ second, levels) for w in counts])
        low, high = interval(drawn) if len(first) > 1 else (np.nan, np.nan)
        rows.append({"over": name, "groups": len(groups), "units": len(first), "correlation": value,
                     "low": float(low), "high": float(high)})  # fmt: skip
    return pd.DataFrame(rows)


def _ranked(x: np.ndarray, y: np.ndarray, levels: np.ndarray | None) -> float:
    """Spearman's correlation; with levels, of ranks less the mean rank of their level."""
    ranks = [rankdata(v) for v in (x, y)]
    if levels is not None:
        ranks = [r - np.array([r[levels == level].mean() for level in levels]) for r in ranks]
    a, b = (r - r.mean() for r in ranks)
    norm = np.linalg.norm(a) * np.linalg.norm(b)
    return float(a @ b / norm) if norm > 1e-12 else float("nan")


def _places(sample: dict[str, Tensor], voxels: int, rng: np.random.Generator) -> Tensor:
    label, brain = sample["label"][0].flatten().numpy(), sample["brain"][0].flatten().numpy() > 0
    drawn = []
    for tissue in np.unique(label):
        where = np.flatnonzero((label == tissue) & brain)
        drawn.append(rng.choice(where, min(voxels, where.size), replace=False))
    return torch.from_numpy(np.concatenate(drawn))


def _at(maps: Tensor, places: Tensor) -> Tensor:
    """[C, D, H, W] at flat places [v], as float32 [C, v]."""
    return maps.flatten(1)[:, places.to(maps.device)].float()


def _moved(found: Tensor, reference: Tensor) -> float:
    spread = ((reference - reference.mean(dim=-1, keepdim=True)) ** 2).sum().clamp_min(1e-12)
    return float(((found - reference) ** 2).sum() / spread)
