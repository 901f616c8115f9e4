"""Can probabilities be believed, subset by subset: reliability, Brier score, calibration error, risk and coverage."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from mtg_lab import vocabulary
from mtg_lab.calibration_metrics import BINS, ReliabilityTally
from mtg_lab.data import cached_dataset
from mtg_lab.errors import InputError
from mtg_lab.hardware import default_device
from mtg_lab.inference import OVERLAP, choose_window, subset_logits
from mtg_lab.manifest import Manifest, read_manifest
from mtg_lab.progress import progress
from mtg_lab.runs import Run
from mtg_lab.scoring import dice, region_masks
from mtg_lab.subset_choice import MOST_SUBSETS, choose_subsets


def case_confidence(probability: np.ndarray, predicted: np.ndarray) -> float:
    """How sure the network is of its mask of a region, 0 to 1.

    The mean probability of the voxels that it predicts; where it predicts none, one less the largest probability:
    how sure it is that there is nothing.

    Args:
        probability: of the region, any shape; predicted: bool, the same shape.
    """
    if predicted.any():
        return float(probability[predicted].mean())
    return 1.0 - float(probability.max()) if probability.size else float("nan")


def risk_coverage(confidence: np.ndarray, risk: np.ndarray) -> pd.DataFrame:
    """Mean risk of the most confident cases, the others referred to a human (El-Yaniv and Wiener 2010).

    Args:
        confidence, risk: [cases]; equal confidences share the mean of their risks, so that no order is invented.

    Returns:
        Columns coverage (share of cases kept), risk, optimum (of an order that knew the risks), one row a number of
        cases kept.
    """
    cases = pd.DataFrame({"confidence": confidence, "risk": risk}).dropna().sort_values("confidence", ascending=False)
    kept = np.arange(1, len(cases) + 1)
    shared = cases.groupby("confidence")["risk"].transform("mean").to_numpy()
    return pd.DataFrame({"coverage": kept / len(cases) if len(cases) else kept, "risk": shared.cumsum() / kept,
                         "optimum": np.sort(cases["risk"].to_numpy()).cumsum() / kept})  # fmt: skip


def risk_coverage_area(confidence: np.ndarray, risk: np.ndarray) -> tuple[float, float]:
    """Area under :func:`risk_coverage` (AURC) and what of it the confidence is to blame for (excess: less the optimum).

    Means over the numbers of cases kept (Geifman, Uziel and El-Yaniv 2019, equations 2 and 3). The mean risk is the
    AURC of a confidence that says nothing. NaN without a case.
    """
    curve = risk_coverage(confidence, risk)
    if curve.empty:
        return float("nan"), float("nan")
    return float(curve["risk"].mean()), float((curve["risk"] - curve["optimum"]).mean())


@dataclass(frozen=True)
class Calibration:
    """What :func:`calibrate` found; each table has the settings in ``.attrs["settings"]``.

    Attributes:
        bins: subset, modalities, region and the columns of :meth:`ReliabilityTally.table`.
        cases: subject, subset, modalities, region, confidence (see :func:`case_confidence`), dice.
        summary: subset, modalities, region, cases, voxels, brier, ece, risk (mean 1 − Dice), aurc, excess_aurc.
        settings: run, cohort, split, cases, grid, window, precision and what was counted.
    """

    bins: pd.DataFrame
    cases: pd.DataFrame
    summary: pd.DataFrame
    settings: dict


def calibrate(
    run: Run,
    manifest: Manifest | str | Path,
    split: str = "val",
    *,
    subsets: Sequence[str] | None = None,
    most_subsets: int = MOST_SUBSETS,
    subset_seed: int = 0,
    window: int | None = None,
    overlap: float = OVERLAP,
    bins: int = BINS,
) -> Calibration:
    """Reliability of a run's probabilities for every subset and region.

    The probability of a region is the sum of its classes' softmax; voxels of the brain are counted (outside it nothing
    can be wrong, and a calibration error over whole volumes says mostly how large the background is). A case's mask
    and Dice are those of :func:`mtg_lab.evaluate`.

    Args:
        run: a trained run.
        manifest: cohort or its path.
        split: ``train``, ``val`` or ``test``.
        subsets, most_subsets, subset_seed, window, overlap: as for :func:`mtg_lab.evaluate`.
        bins: of the reliability tables.

    Raises:
        InputError: unknown split, subset or modality; regions that the run does not know; no subject to score.
    """
    cohort = (manifest if isinstance(manifest, Manifest) else read_manifest(manifest)).split(split)
    run.check_modalities(cohort.modalities, str(cohort.path))
    regions = cohort.schema.region_classes
    if unknown := [r for r in regions if r not in run.schema.regions]:
        raise InputError(
            f"the run does not know the cohort's region {unknown[0]}; calibrate on a cohort with its regions"
        )
    there = [m for m in run.modalities if m in cohort.modalities]
    if subsets is None:
        wanted = list(choose_subsets(there, most_subsets, subset_seed).subsets)
    else:
        wanted = list(dict.fromkeys(vocabulary.parse_subset(s, there) for s in subsets))
    names = {s: vocabulary.subset_name(s, run.modalities) for s in wanted}
    cohort.materialise()
    samples = cached_dataset(cohort.subjects, run.modalities, run.recipe.preprocessing)
    backbone = run.backbone(default_device())
    size = max(choose_window(run, s["image"].shape[1:]) for s in samples) if window is None else window
    tallies = {(s, r): ReliabilityTally(bins) for s in wanted for r in regions}
    rows = []
    for subject, sample in progress(zip(cohort, samples, strict=True), total=len(cohort), desc="calibrating"):
        possible = [s for s in wanted if s <= set(subject.images)]
        if not possible:
            continue
        masks = [torch.tensor([m in s for m in run.modalities]) for s in possible]
        truth, brain = region_masks(sample["label"][0], regions), sample["brain"][0] > 0
        logits_of = subset_logits(backbone, sample["image"], masks, size, overlap, brain=brain)
        for subset, logits in zip(possible, logits_of, strict=True):
            own = {r: run.schema.region_classes[r] for r in regions}
            predicted = region_masks(logits.max(dim=0).indices.cpu(), own)
            softmax = logits.softmax(dim=0).cpu()
            scores = dice(predicted, truth)
            for number, region in enumerate(regions):
                probability = softmax[list(own[region])].sum(dim=0)
                tallies[subset, region].add(probability[brain].numpy(), truth[number][brain].numpy())
                sure = case_confidence(probability.numpy(), predicted[number].numpy())
                rows.append({"subject": subject.name, "subset": names[subset], "modalities": len(subset),
                             "region": region, "confidence": sure, "dice": scores[number]})  # fmt: skip
    if not rows:
        raise InputError(f"{cohort.path}: no subject of split {split} has all modalities of a wanted subset")
    settings = {"run": run.digest, "cohort": cohort.fingerprint(), "split": split, "cases": [s.name for s in cohort],
                "spacing_mm": run.recipe.preprocessing.spacing_mm, "window": size, "overlap": overlap if size else 0.0,
                "bins": bins, "voxels": "brain", "empty": "one"}  # fmt: skip
    return _gathered(tallies, names, pd.DataFrame(rows), settings)


def _gathered(
    tallies: dict[tuple[frozenset[str], str], ReliabilityTally],
    names: dict[frozenset[str], str],
    cases: pd.DataFrame,
    settings: dict,
) -> Calibration:
    tables, summary = [], []
    for (subset, region), tally in tallies.items():
        key: dict[str, Any] = {"subset": names[subset], "modalities": len(subset), "region": region}
        part = cases[(cases["subset"] == names[subset]) & (cases["region"] == region)]
        if part.empty:
            continue
        tables.append(tally.table().assign(**key))
        risk = 1 - part["dice"].to_numpy()
        area, excess = risk_coverage_area(part["confidence"].to_numpy(), risk)
        summary.append({**key, "cases": len(part), "voxels": int(tally.count.sum()), "brier": tally.brier,
                        "ece": tally.expected_error, "risk": risk.mean(), "aurc": area,
                        "excess_aurc": excess})  # fmt: skip
    bins = pd.concat(tables, ignore_index=True)
    found = Calibration(bins[[*key, *(c for c in bins if c not in key)]], cases, pd.DataFrame(summary), settings)
    for table in (found.bins, found.cases, found.summary):
        table.attrs["settings"] = settings
    return found
