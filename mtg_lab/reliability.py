"""Which region is not to be trusted without which sequence: measured on a validation split, kept beside the run."""

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mtg_lab import vocabulary
from mtg_lab.errors import InputError
from mtg_lab.evaluation import evaluate
from mtg_lab.files import write_text
from mtg_lab.manifest import Manifest
from mtg_lab.resampling import interval, resampled_means
from mtg_lab.runs import Run
from mtg_lab.score_cube import nanmean, score_cube

FILE = "reliability.json"
_FORMAT = 1
_COLUMNS = ("subset", "region", "dice", "low", "high", "full", "drop", "drop_low", "drop_high", "subjects")


@dataclass(frozen=True)
class TrustRule:
    """When a region is not to be trusted from a subset of sequences; one reason is enough.

    Attributes:
        least_dice: its mean Dice is below this.
        most_drop: against all sequences it loses this much or more, and the 95 % interval of the loss, paired over
            subjects, excludes zero.
        fewest_subjects: with fewer nothing is decided.
    """

    least_dice: float = 0.5
    most_drop: float = 0.1
    fewest_subjects: int = 5


@dataclass(frozen=True)
class MeasuredReliability:
    """What was measured of one run.

    Attributes:
        run: its hash.
        modalities: in the run's order.
        protocol: that of the scores.
        rule: what is not to be trusted.
        table: a row a subset and region: subset, region, dice, low, high (95 % over subjects), full (Dice with all
            sequences), drop (full less dice, over subjects with both), drop_low, drop_high, subjects, trusted (True,
            False, or None where there are too few subjects).
    """

    run: str
    modalities: tuple[str, ...]
    protocol: dict
    rule: TrustRule
    table: pd.DataFrame


def measure_reliability(
    run: Run,
    manifest: Manifest | str | Path,
    split: str = "val",
    rule: TrustRule | None = None,
    **protocol: Any,
) -> MeasuredReliability:
    """Score every subset on a split that the training has not seen, and judge.

    Args:
        run: a trained run.
        manifest: cohort or its path.
        split: ``val`` unless there is none; ``train`` is refused.
        rule: see :class:`TrustRule`.
        **protocol: further arguments of :func:`mtg_lab.evaluate`, such as ``window``.

    Raises:
        InputError: the training's own subjects, or whatever the evaluation refuses.
    """
    if split == "train":
        raise InputError("reliability is not measured on the subjects of the training; give split val or test")
    scores = evaluate(run, manifest, split, **protocol)
    table = judge(scores, rule or TrustRule())
    return MeasuredReliability(run.digest, run.modalities, dict(scores.attrs["protocol"]), rule or TrustRule(), table)


def judge(scores: pd.DataFrame, rule: TrustRule, draws: int = 2000, seed: int = 0) -> pd.DataFrame:
    """Apply a rule to a table of scores; the columns are those of :attr:`MeasuredReliability.table`."""
    cube = score_cube(scores)
    full = frozenset(cube.modalities)
    values = cube.values  # [1, subjects, subsets, regions]
    complete = values[:, :, [cube.full]] if full in cube.subsets else np.full_like(values[:, :, :1], np.nan)
    rng = np.random.default_rng(seed)
    low, high = interval(resampled_means(values, draws, rng))
    losses = complete - values
    drop_low, drop_high = interval(resampled_means(losses, draws, rng))
    means, drops, reference = (nanmean(v, axis=(0, 1)) for v in (values, losses, complete))
    subjects = np.isfinite(values).sum(axis=(0, 1))
    rows = []
    for u, name in enumerate(cube.subset_names):
        for r, region in enumerate(cube.regions):
            drop, surely = drops[u, r], drop_low[u, r] > 0
            trusted = not (means[u, r] < rule.least_dice or (drop >= rule.most_drop and surely))
            facts = (name, region, means[u, r], low[u, r], high[u, r], reference[0, r], drop, drop_low[u, r],
                     drop_high[u, r], int(subjects[u, r]))  # fmt: skip
            known = subjects[u, r] >= max(rule.fewest_subjects, 1)
            rows.append({**dict(zip(_COLUMNS, facts, strict=True)), "trusted": trusted if known else None})
    return pd.DataFrame(rows).astype({"trusted": object})


def warnings_for(reliability: MeasuredReliability, subset: str | Iterable[str]) -> list[str]:
    """What to say beside a mask that was predicted from ``subset``: a line a region that is not to be trusted.

    Such as "ET without t1c: Dice 0.13 [0.05, 0.22] on 8 val subjects against 0.48 with all; not to be trusted".

    Args:
        reliability: of the run.
        subset: as ``t1c+t2f`` or names.

    Raises:
        InputError: the subset is empty or names a sequence that the run does not know.
    """
    chosen = vocabulary.parse_subset(subset, reliability.modalities)
    name = vocabulary.subset_name(chosen, reliability.modalities)
    rows = reliability.table[reliability.table["subset"] == name]
    if rows.empty:
        return [f"how far masks from {name} can be trusted was not measured for this run"]
    return [_line(row, reliability, chosen) for row in rows.to_dict("records") if row["trusted"] is not True]


def _line(row: dict, reliability: MeasuredReliability, chosen: frozenset[str]) -> str:
    missing = [m for m in reliability.modalities if m not in chosen]
    where = f"{row['region']} " + (f"without {', '.join(missing)}" if missing else "with all sequences")
    count, split = row["subjects"], reliability.protocol["split"]
    subjects = f"{count} {split} subject" + ("" if count == 1 else "s")
    if row["trusted"] is None:
        return f"{where}: measured on {subjects} only; whether to trust it is not known"
    measured = f"Dice {row['dice']:.2f} [{row['low']:.2f}, {row['high']:.2f}] on {subjects}"
    if missing and math.isfinite(row["full"]):
        return f"{where}: {measured} against {row['full']:.2f} with all; not to be trusted"
    return f"{where}: {measured}, below {reliability.rule.least_dice:g}; not to be trusted"


def save(reliability: MeasuredReliability, run: Run) -> Path:
    """Write ``reliability.json`` into the run's folder, whole or not at all.

    Raises:
        InputError: it was measured of another run, or the folder cannot be written to.
    """
    _check_run(reliability.run, run)
    records = [{k: _plain(v) for k, v in row.items()} for row in reliability.table.to_dict("records")]
    facts = {"format": _FORMAT, "run": reliability.run, "modalities": list(reliability.modalities),
             "protocol": reliability.protocol, "rule": asdict(reliability.rule), "table": records}  # fmt: skip
    return write_text(run.folder / FILE, json.dumps(facts, indent=1, allow_nan=False))


def load(run: Run) -> MeasuredReliability | None:
    """Read what lies beside a run; None where nothing was measured.

    Raises:
        InputError: the file is damaged, of another format, or of another run.
    """
    path = run.folder / FILE
    if not path.is_file():
        return None
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        if facts["format"] != _FORMAT:
            raise ValueError(f"format {facts['format']}, this version reads {_FORMAT}")
        table = pd.DataFrame(facts["table"], columns=[*_COLUMNS, "trusted"]).astype({"trusted": object})
        numbers = [c for c in _COLUMNS if c not in ("subset", "region", "subjects")]
        table[numbers] = table[numbers].astype(float)
        found = MeasuredReliability(
            facts["run"], tuple(facts["modalities"]), facts["protocol"], TrustRule(**facts["rule"]), table
        )
        _ = found.protocol["split"]
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise InputError(f"{path} is damaged ({error}); delete it and measure again") from error
    _check_run(found.run, run)
    return found


def _check_run(measured: str, run: Run) -> None:
    if measured != run.digest:
        raise InputError(
            f"this reliability was measured of the run {measured}, not of {run.digest} in {run.folder}; measure again"
        )


def _plain(value: Any) -> Any:
    """A value that JSON knows; NaN is null."""
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and not math.isfinite(value) else value
