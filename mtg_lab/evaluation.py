"""Scores of every subset of modalities, in a tidy table that carries the protocol it was made under."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from nibabel.affines import voxel_sizes
from torch import Tensor

from mtg_lab import vocabulary
from mtg_lab.data import cached_dataset
from mtg_lab.errors import InputError
from mtg_lab.hardware import default_device, use_bf16
from mtg_lab.inference import OVERLAP, choose_window, subset_classes, subset_logits
from mtg_lab.manifest import Manifest, Subject, read_manifest
from mtg_lab.metrics import EMPTY_RULES, MetricSettings, choose_metrics
from mtg_lab.postprocessing import Removal, choose_removals, derived_regions
from mtg_lab.progress import progress
from mtg_lab.protocol import (
    NAMED,
    Protocol,
    check_comparable,
    check_one_metric,
    protocol_attrs,
    read_scores,
    save_scores,
    select_metric,
)
from mtg_lab.resampling import resampled_means
from mtg_lab.runs import Run
from mtg_lab.scans import load_image
from mtg_lab.score_stream import ScoreStream
from mtg_lab.scoring import Scoring, dice, region_masks
from mtg_lab.subset_choice import MOST_SUBSETS, choose_subsets
from mtg_lab.surface_metrics import check_choice, diagonal

__all__ = [
    "Protocol",
    "check_comparable",
    "dice",
    "evaluate",
    "missingness_curve",
    "paired_difference",
    "read_scores",
    "region_masks",
    "save_scores",
    "select_metric",
]


def evaluate(
    run: Run,
    manifest: Manifest | str | Path,
    split: str = "test",
    metrics: Sequence[str] = ("dice",),
    *,
    settings: MetricSettings | None = None,
    removals: Sequence[Removal | str] = (),
    subsets: Sequence[str] | None = None,
    most_subsets: int = MOST_SUBSETS,
    subset_seed: int = 0,
    window: int | None = None,
    overlap: float = OVERLAP,
    empty: str = "one",
    out: str | Path | None = None,
) -> pd.DataFrame:
    """Scores per subject, subset of modalities and region.

    A subset is scored for a subject only if the subject has all of it. Each subject is encoded once and decoded once
    per subset; a network without latents runs once per subset. Labels of another schema than the run's are
    compared by region name.

    Args:
        run: a trained run.
        manifest: cohort or its path.
        split: ``train``, ``val`` or ``test``.
        metrics: names, see :data:`mtg_lab.metrics.METRICS`.
        settings: of the metrics.
        removals: regions that are scored once more without their small parts, such as ``"ET:500"``; the region that
            results, ``ETpp``, has rows of its own, for all metrics but those of probabilities.
        subsets: names such as ``"t1c+t2f"``; by default all non-empty ones of the modalities the cohort has.
        most_subsets: where there are more of them (beyond six modalities), a sample of so many is scored.
        subset_seed: of that sample.
        window: edge of the sliding window in voxels; 0 whole volume, None that of the training's crops where the volume
            is larger. Best a multiple of 8: to that a U-Net fills up with zeros, whose statistics cost 0.08 of Dice in
            windows of 44 (``nobody``, 13 varied phantoms).
        overlap: of neighbouring windows.
        empty: see :class:`~mtg_lab.protocol.Protocol`.
        out: a file for the scores, as :func:`save_scores` writes it. Each subject's rows are on disk as soon as they
            are known, and a scoring that was interrupted goes on with the next subject.

    Returns:
        Columns subject, site, subset, modalities (how many), region, metric, value, protocol. The protocol itself
        is in ``.attrs["protocol"]``.

    Raises:
        InputError: unknown split, metric, subset, modality, region or rule; regions that the run does not know; no
            subject to score; ``out`` cannot be written.
    """
    cohort = (manifest if isinstance(manifest, Manifest) else read_manifest(manifest)).split(split)
    wanted_metrics, settings = choose_metrics(metrics), settings or MetricSettings()
    check_choice("rule for empty regions", empty, EMPTY_RULES)
    if window is not None and window < 0:
        raise InputError(f"window is {window}; give voxels, or 0 for the whole volume at once")
    if not 0 <= overlap < 1:
        raise InputError(f"overlap is {overlap}; it is a share from 0 to below 1")
    run.check_modalities(cohort.modalities, str(cohort.path))
    truth_regions = cohort.schema.region_classes
    if unknown := [r for r in truth_regions if r not in run.schema.regions]:
        raise InputError(
            f"the cohort's schema {cohort.schema.name} has the regions {', '.join(truth_regions)}; the run knows "
            f"{', '.join(run.schema.regions)}, not {unknown[0]}; evaluate on a cohort with the run's regions"
        )
    removed = choose_removals(removals, tuple(truth_regions))
    scored = [m for m in run.modalities if m in cohort.modalities]
    if subsets is None:
        choice = choose_subsets(scored, most_subsets, subset_seed)
        chosen_by, wanted = choice.name, list(choice.subsets)
    else:
        chosen_by, wanted = NAMED, list(dict.fromkeys(vocabulary.parse_subset(s, scored) for s in subsets))
    if not wanted:
        raise InputError(f"no subset to score; name some of {', '.join(scored)}, as in t1c+t2f, or leave them out")
    if not any(s <= set(subject.images) for subject in cohort for s in wanted):
        raise InputError(f"{cohort.path}: no subject of split {split} has all modalities of a wanted subset")
    names = [vocabulary.subset_name(s, run.modalities) for s in wanted]
    cohort.materialise()
    samples = cached_dataset(cohort.subjects, run.modalities, run.recipe.preprocessing)
    device = default_device()
    backbone = run.backbone(device)
    chosen = _largest_window(run, samples) if window is None else window
    spacing = run.recipe.preprocessing.spacing_mm
    protocol = Protocol(
        cohort.fingerprint(), split, tuple(s.name for s in cohort), tuple(names),
        (*truth_regions, *(r.name for r in removed)), spacing, chosen, overlap if chosen else 0.0, empty,
        "bf16" if use_bf16("auto") else "fp32", ",".join(wanted_metrics), chosen_by, settings.of(wanted_metrics),
        tuple(map(str, removed)), versions={p: version(p) for p in ("mtg-lab", "torch", "monai")},
        seeds={"training": run.recipe.seed, "subsets": subset_seed}, operations=run.operations,
    )  # fmt: skip
    scoring = Scoring(wanted_metrics, settings, removed, empty, spacing)
    decode = subset_logits if scoring.needs_probabilities else subset_classes
    members = {r: run.schema.region_classes[r] for r in truth_regions}
    stream = ScoreStream(out, backbone, protocol) if out is not None else None
    rows = []
    for number, subject in enumerate(progress(cohort, total=len(cohort), desc=f"scoring {run.recipe.method}")):
        if stream and subject.name in stream.kept:
            rows += stream.kept[subject.name]
            continue
        possible = [(n, s) for n, s in zip(names, wanted, strict=True) if s <= set(subject.images)]
        if not possible:
            continue
        sample, length = samples[number], _diagonal(subject, settings)
        brain, truth = sample["brain"][0] > 0, region_masks(sample["label"][0], truth_regions)
        masks = [torch.tensor([m in s for m in run.modalities]) for _, s in possible]
        decoded = decode(backbone, sample["image"], masks, chosen, overlap, brain=brain)
        mine = [
            {"subject": subject.name, "site": subject.site, "subset": name, "modalities": len(subset),
             "region": region, "metric": metric, "value": value}
            for (name, subset), answer in zip(possible, decoded, strict=True)
            for region, metric, value in scoring(answer, truth, members, brain, length)
        ]  # fmt: skip
        rows += mine
        if stream:
            stream.add(subject.name, mine)
    table = pd.DataFrame(rows).assign(protocol=protocol.digest())
    table.attrs["protocol"] = asdict(protocol)
    if stream:
        stream.close(table)
    return table


def missingness_curve(table: pd.DataFrame) -> pd.DataFrame:
    """Mean over subsets of one size, per subject and region: how a score falls as modalities go missing.

    Returns:
        Columns subject, region, modalities, missing, value.

    Raises:
        InputError: the table holds several metrics.
    """
    check_one_metric(table)
    total = table["modalities"].max()
    curve = table.groupby(["subject", "region", "modalities"], as_index=False, sort=False)["value"].mean()
    curve = curve.assign(missing=total - curve["modalities"])
    curve.attrs.update(protocol_attrs(table))
    return curve


def paired_difference(
    ours: Mapping[int, pd.DataFrame],
    theirs: Mapping[int, pd.DataFrame],
    draws: int = 4000,
    seed: int = 0,
) -> pd.DataFrame:
    """Difference of mean scores, paired over subjects and seeds, by region and number of modalities.

    The interval comes from a bootstrap that draws seeds and subjects anew, both with replacement, because a score
    varies with the training as much as with the patient. ``detectable`` is half the interval's width: differences
    smaller than that cannot be told from nothing by this design.

    Args:
        ours, theirs: seed to the table of :func:`evaluate`.
        draws: bootstrap repetitions.
        seed: of the bootstrap.

    Returns:
        Columns region ("all" is the mean of the regions, without those like ``ETpp`` that stand beside their own),
        modalities (a number, or "all": each number weighs the same), difference, low, high (95 %), detectable.

    Raises:
        InputError: seeds differ, the tables were scored under different protocols, or they hold several metrics.
    """
    if set(ours) != set(theirs) or not ours:
        raise InputError(f"seeds must pair: {sorted(ours)} against {sorted(theirs)}")
    check_comparable([*ours.values(), *theirs.values()])
    check_one_metric(next(iter(ours.values())))
    frames = [
        _cube(theirs[s]).rename("theirs").to_frame().assign(ours=_cube(ours[s]), seed=s).reset_index() for s in ours
    ]
    joined = pd.concat(frames)
    joined["difference"] = joined["ours"] - joined["theirs"]
    rng, rows = np.random.default_rng(seed), []
    counted = joined[~joined["region"].isin(derived_regions(list(joined["region"].unique())))]
    everything = counted.groupby(["seed", "subject"], as_index=False)[["difference"]].mean()
    groups: list[tuple[tuple[Any, Any], pd.DataFrame]] = [(("all", "all"), everything)]
    for region, part in joined.groupby("region", sort=False):
        groups.append(((region, "all"), part.groupby(["seed", "subject"], as_index=False)[["difference"]].mean()))
        groups += [((region, count), cells) for count, cells in part.groupby("modalities", sort=False)]
    means = counted.groupby(["seed", "subject", "modalities"], as_index=False, sort=False)[["difference"]].mean()
    groups += [(("all", count), cells) for count, cells in means.groupby("modalities", sort=False)]
    for (region, count), group in groups:
        cells = group.pivot_table(index="seed", columns="subject", values="difference").to_numpy()
        low, high = np.nanquantile(resampled_means(cells, draws, rng), [0.025, 0.975])
        rows.append({"region": region, "modalities": count, "difference": float(np.nanmean(cells)),
                     "low": low, "high": high, "detectable": (high - low) / 2})  # fmt: skip
    found = pd.DataFrame(rows)
    found.attrs.update(protocol_attrs(*ours.values(), *theirs.values()))
    return found


def _cube(table: pd.DataFrame) -> pd.Series:
    return table.groupby(["subject", "region", "modalities"], sort=False)["value"].mean()


def _diagonal(subject: Subject, settings: MetricSettings) -> float | None:
    """Of the subject's own image, before the brain's box was cut out; read only where the rule asks for it."""
    if settings.hd95_empty != "diagonal":
        return None
    image = load_image(next(iter(subject.images.values())))
    return diagonal(image.shape, voxel_sizes(image.affine))


def _largest_window(run: Run, samples: Sequence[Mapping[str, Tensor]]) -> int:
    return max(choose_window(run, sample["image"].shape[1:]) for sample in samples)
