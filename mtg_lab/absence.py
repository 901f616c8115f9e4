"""Three meanings of "missing" in one table: zeros at the input, masked at the features, never opened.

Papers mean different things by a missing modality, and readers ask whether they are the same (M2FTrans issue 7, RFNet
issue 2). A run is scored here on the same subjects and subsets under each of them.
"""

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import pandas as pd
import torch

from mtg_lab import vocabulary
from mtg_lab.data import cached_dataset
from mtg_lab.errors import InputError
from mtg_lab.hardware import default_device, use_bf16
from mtg_lab.inference import OVERLAP, choose_window, subset_classes
from mtg_lab.manifest import Manifest, read_manifest
from mtg_lab.missingness import Missingness
from mtg_lab.progress import progress
from mtg_lab.protocol import NAMED, Protocol
from mtg_lab.runs import Run
from mtg_lab.scoring import dice, region_masks

MODES = ("input", "features", "absent")


def absence(
    run: Run, manifest: Manifest | str | Path, subsets: Sequence[str], split: str = "test", *, empty: str = "one"
) -> pd.DataFrame:
    """Dice of each subset under each mode of absence.

    * ``input``: the other modalities are zeros that go through their encoders like any image, and count as present
      (the AdaMM family; the network is not told). After z-scores zero is the brain's mean, not black.
    * ``features``: they are loaded and encoded, and masked before the decoder (the RFNet family).
    * ``absent``: their files are never opened; preprocessing, brain box included, knows only what is there.

    A subject is scored on the subsets of which it has everything. The reference of ``absent`` lies on a grid of its
    own where the brain box differs.

    Args:
        run: a trained run.
        manifest: cohort or its path.
        subsets: names such as ``"t1c+t2f"``.
        split: ``train``, ``val`` or ``test``.
        empty: Dice where the reference lacks a region, see :class:`mtg_lab.evaluation.Protocol`.

    Returns:
        Columns subject, subset, mode, region, value; the protocol is in ``.attrs["protocol"]``.

    Raises:
        InputError: an unknown split, subset or modality, or no subject that has one of the subsets.
    """
    cohort = (manifest if isinstance(manifest, Manifest) else read_manifest(manifest)).split(split)
    run.check_modalities(cohort.modalities, str(cohort.path))
    known = [m for m in run.modalities if m in cohort.modalities]
    wanted = list(dict.fromkeys(vocabulary.parse_subset(s, known) for s in subsets))
    cohort.materialise()
    backbone = run.backbone(default_device())
    regions = {r: run.schema.region_classes[r] for r in cohort.schema.region_classes}
    rows, windows = [], set()
    for members in progress(wanted, total=len(wanted), desc="modes of absence"):
        having = replace(cohort, subjects=tuple(s for s in cohort if members <= set(s.images)))
        name = vocabulary.subset_name(members, run.modalities)
        without = Missingness("subset", {"subset": name}).apply(having)
        mask = torch.tensor([m in members for m in run.modalities])
        whole, lacking = (
            cached_dataset(c.subjects, run.modalities, run.recipe.preprocessing) for c in (having, without)
        )
        for subject, full, absent in zip(having, whole, lacking, strict=True):
            zeroed = torch.where(mask[:, None, None, None], full["image"], 0.0)
            cases = {
                "input": (zeroed, [full["present"]], full["label"], full["brain"]),
                # The second mask is there to encode everything.
                "features": (full["image"], [mask, full["present"]], full["label"], full["brain"]),
                "absent": (absent["image"], [absent["present"]], absent["label"], absent["brain"]),
            }
            for mode, (image, masks, label, brain) in cases.items():
                window = choose_window(run, image.shape[1:])
                windows.add(window)
                classes = next(subset_classes(backbone, image, masks, window, brain=brain[0] > 0))
                truth = region_masks(label[0], cohort.schema.region_classes)
                for region, value in zip(regions, dice(region_masks(classes, regions), truth, empty), strict=True):
                    rows.append(
                        {"subject": subject.name, "subset": name, "mode": mode, "region": region, "value": value}
                    )
    if not rows:
        raise InputError(f"{cohort.path}: no subject of split {split} has all modalities of a wanted subset")
    table, window = pd.DataFrame(rows), max(windows)
    names = [vocabulary.subset_name(members, run.modalities) for members in wanted]
    protocol = Protocol(
        cohort.fingerprint(), split, tuple(s.name for s in cohort), tuple(names), tuple(regions),
        run.recipe.preprocessing.spacing_mm, window, OVERLAP if window else 0.0, empty,
        "bf16" if use_bf16("auto") else "fp32", subset_choice=NAMED, operations=run.operations,
    )  # fmt: skip
    table.attrs["protocol"] = asdict(protocol)
    return table
