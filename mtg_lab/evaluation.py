"""Dice of every subset of modalities, in a tidy table that carries the protocol it was scored under."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from monai.metrics import compute_dice
from torch import Tensor

from mtg_lab import vocabulary
from mtg_lab.data import cached_dataset
from mtg_lab.errors import InputError
from mtg_lab.files import write_text, written_aside
from mtg_lab.hardware import default_device, use_bf16
from mtg_lab.inference import choose_window, subset_classes
from mtg_lab.manifest import Manifest, read_manifest
from mtg_lab.progress import progress
from mtg_lab.resampling import resampled_means
from mtg_lab.runs import Run
from mtg_lab.subset_choice import ALL, MOST_SUBSETS, choose_subsets

EMPTY_RULES = ("one", "nan")
NAMED = "named"


@dataclass(frozen=True)
class Protocol:
    """How scores came about; two tables can be compared only if theirs are equal.

    Attributes:
        cohort: fingerprint of the subjects' rows and files.
        cases: names of the subjects.
        subsets: as names, in order.
        regions: in order.
        spacing_mm: of the grid on which masks are compared.
        window: voxels, 0 = whole volume at once; overlap: of neighbouring windows.
        empty: Dice of a region that the reference lacks: ``one`` (1 if the prediction is empty as well, else 0: the
            rule of BraTS) or ``nan`` (left out).
        precision: of the network's arithmetic.
        metric: what is computed.
        subset_choice: ``all``, ``named``, or how a sample was drawn, see :func:`mtg_lab.subset_choice.choose_subsets`.
    """

    cohort: str
    split: str
    cases: tuple[str, ...]
    subsets: tuple[str, ...]
    regions: tuple[str, ...]
    spacing_mm: float
    window: int
    overlap: float
    empty: str
    precision: str
    metric: str = "dice"
    subset_choice: str = ALL

    def digest(self) -> str:
        """Eight hexadecimal digits; equal digests mean comparable scores."""
        settings = asdict(self)
        if self.subset_choice in (ALL, NAMED):  # the subsets themselves say it, and older scores stay comparable
            del settings["subset_choice"]
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]

    def __str__(self) -> str:
        where = f"windows of {self.window}^3, overlap {self.overlap:g}" if self.window else "whole volume"
        sample = "" if self.subset_choice in (ALL, NAMED) else f" ({self.subset_choice}, by size)"
        return (
            f"protocol {self.digest()}: {self.metric}, {len(self.cases)} {self.split} cases, {len(self.subsets)} "
            f"subsets{sample}, {'/'.join(self.regions)}, {self.spacing_mm:g} mm grid, {where}, "
            f"empty reference: {self.empty}, {self.precision}"
        )


def evaluate(
    run: Run,
    manifest: Manifest | str | Path,
    split: str = "test",
    *,
    subsets: Sequence[str] | None = None,
    most_subsets: int = MOST_SUBSETS,
    subset_seed: int = 0,
    window: int | None = None,
    overlap: float = 0.5,
    empty: str = "one",
) -> pd.DataFrame:
    """Dice per subject, subset of modalities and region.

    A subset is scored for a subject only if the subject has all of it. Each subject is encoded once and decoded once
    per subset; a network without latents runs once per subset. Labels of another schema than the run's are
    compared by region name.

    Args:
        run: a trained run.
        manifest: cohort or its path.
        split: ``train``, ``val`` or ``test``.
        subsets: names such as ``"t1c+t2f"``; by default all non-empty ones of the modalities the cohort has.
        most_subsets: where there are more of them (beyond six modalities), a sample of so many is scored.
        subset_seed: of that sample.
        window: edge of the sliding window in voxels; 0 whole volume, None chooses.
        overlap: of neighbouring windows.
        empty: see :class:`Protocol`.

    Returns:
        Columns subject, site, subset, modalities (how many), region, metric, value, protocol. The protocol itself
        is in ``.attrs["protocol"]``.

    Raises:
        InputError: unknown split, subset, modality or rule; regions that the run does not know; no subject to score.
    """
    cohort = (manifest if isinstance(manifest, Manifest) else read_manifest(manifest)).split(split)
    if empty not in EMPTY_RULES:
        raise InputError(f"unknown rule for empty regions {empty!r}; there are: {', '.join(EMPTY_RULES)}")
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
    scored = [m for m in run.modalities if m in cohort.modalities]
    if subsets is None:
        choice = choose_subsets(scored, most_subsets, subset_seed)
        chosen_by, wanted = choice.name, list(choice.subsets)
    else:
        chosen_by, wanted = NAMED, list(dict.fromkeys(vocabulary.parse_subset(s, scored) for s in subsets))
    if not wanted:
        raise InputError(f"no subset to score; name some of {', '.join(scored)}, as in t1c+t2f, or leave them out")
    names = [vocabulary.subset_name(s, run.modalities) for s in wanted]
    cohort.materialise()
    samples = cached_dataset(cohort.subjects, run.modalities, run.recipe.preprocessing)
    device = default_device()
    backbone = run.backbone(device)
    chosen = _largest_window(run, samples) if window is None else window
    protocol = Protocol(
        cohort.fingerprint(), split, tuple(s.name for s in cohort), tuple(names), tuple(truth_regions),
        run.recipe.preprocessing.spacing_mm, chosen, overlap if chosen else 0.0, empty,
        "bf16" if use_bf16("auto") else "fp32", subset_choice=chosen_by,
    )  # fmt: skip
    rows = []
    for subject, sample in progress(
        zip(cohort, samples, strict=True), total=len(cohort), desc=f"scoring {run.recipe.method}"
    ):
        possible = [(n, s) for n, s in zip(names, wanted, strict=True) if s <= set(subject.images)]
        if not possible:
            continue
        masks = [torch.tensor([m in s for m in run.modalities]) for _, s in possible]
        truth = region_masks(sample["label"][0], truth_regions)
        decoded = subset_classes(backbone, sample["image"], masks, chosen, overlap)
        for (name, members), classes in zip(possible, decoded, strict=True):
            predicted = region_masks(classes, {r: run.schema.region_classes[r] for r in truth_regions})
            for region, value in zip(truth_regions, dice(predicted, truth, empty), strict=True):
                rows.append(
                    {"subject": subject.name, "site": subject.site, "subset": name, "modalities": len(members),
                     "region": region, "metric": "dice", "value": value}
                )  # fmt: skip
    if not rows:
        raise InputError(f"{cohort.path}: no subject of split {split} has all modalities of a wanted subset")
    table = pd.DataFrame(rows).assign(protocol=protocol.digest())
    table.attrs["protocol"] = asdict(protocol)
    return table


def region_masks(classes: Tensor, regions: Mapping[str, tuple[int, ...]]) -> Tensor:
    """Class indices [D, H, W] as one mask a region: bool [R, D, H, W]."""
    return torch.stack(
        [torch.isin(classes, torch.tensor(members, dtype=classes.dtype)) for members in regions.values()]
    )


def dice(predicted: Tensor, truth: Tensor, empty: str = "one") -> list[float]:
    """2 |A and B| / (|A| + |B|) for each region (MONAI), with the named rule where the reference is empty.

    Args:
        predicted, truth: bool [R, D, H, W].
        empty: ``one`` or ``nan``, see :class:`Protocol`.
    """
    scores = compute_dice(
        predicted[None].float(), truth[None].float(), include_background=True, ignore_empty=empty == "nan"
    )
    return [float(v) for v in scores[0]]


def missingness_curve(table: pd.DataFrame) -> pd.DataFrame:
    """Mean over subsets of one size, per subject and region: how a score falls as modalities go missing.

    Returns:
        Columns subject, region, modalities, missing, value.
    """
    total = table["modalities"].max()
    curve = table.groupby(["subject", "region", "modalities"], as_index=False, sort=False)["value"].mean()
    return curve.assign(missing=total - curve["modalities"])


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
        Columns region, modalities ("all" or a number), difference, low, high (95 %), detectable.

    Raises:
        InputError: seeds differ, or the tables were scored under different protocols.
    """
    if set(ours) != set(theirs) or not ours:
        raise InputError(f"seeds must pair: {sorted(ours)} against {sorted(theirs)}")
    check_comparable([*ours.values(), *theirs.values()])
    frames = [
        _cube(theirs[s]).rename("theirs").to_frame().assign(ours=_cube(ours[s]), seed=s).reset_index() for s in ours
    ]
    joined = pd.concat(frames)
    joined["difference"] = joined["ours"] - joined["theirs"]
    rng, rows = np.random.default_rng(seed), []
    everything = joined.groupby(["seed", "subject"], as_index=False)[["difference"]].mean()
    groups: list[tuple[tuple[Any, Any], pd.DataFrame]] = [(("all", "all"), everything)]
    for region, part in joined.groupby("region", sort=False):
        groups.append(((region, "all"), part.groupby(["seed", "subject"], as_index=False)[["difference"]].mean()))
        groups += [((region, count), cells) for count, cells in part.groupby("modalities", sort=False)]
    for (region, count), group in groups:
        cells = group.pivot_table(index="seed", columns="subject", values="difference").to_numpy()
        low, high = np.nanquantile(resampled_means(cells, draws, rng), [0.025, 0.975])
        rows.append({"region": region, "modalities": count, "difference": float(np.nanmean(cells)),
                     "low": low, "high": high, "detectable": (high - low) / 2})  # fmt: skip
    return pd.DataFrame(rows)


def check_comparable(tables: Sequence[pd.DataFrame]) -> None:
    """Refuse to compare scores of different protocols, and say in what they differ.

    Raises:
        InputError: the protocols differ.
    """
    first = tables[0]
    for other in tables[1:]:
        if set(first["protocol"]) != set(other["protocol"]):
            a, b = first.attrs.get("protocol", {}), other.attrs.get("protocol", {})
            differ = [k for k in a if a.get(k) != b.get(k)] or ["protocol"]
            raise InputError(f"these scores cannot be compared: they differ in {', '.join(differ)}")


def save_scores(table: pd.DataFrame, path: str | Path) -> Path:
    """Write scores as CSV and, beside it, ``<name>.protocol.json`` with the protocol and versions."""
    path = Path(path)
    with written_aside(path) as aside:
        table.to_csv(aside, index=False)
    versions = {p: version(p) for p in ("mtg-lab", "torch", "monai")}
    write_text(
        path.with_suffix(".protocol.json"),
        json.dumps({**table.attrs.get("protocol", {}), "versions": versions}, indent=2),
    )
    return path


def _cube(table: pd.DataFrame) -> pd.Series:
    return table.groupby(["subject", "region", "modalities"], sort=False)["value"].mean()


def _largest_window(run: Run, samples: Sequence[Mapping[str, Tensor]]) -> int:
    return max(choose_window(run, sample["image"].shape[1:]) for sample in samples)
