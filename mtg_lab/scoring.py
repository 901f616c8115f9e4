"""From what a network answers to scores by region and metric."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from monai.metrics import compute_dice
from torch import Tensor

from mtg_lab.metrics import CALIBRATION, MetricSettings, region_scores
from mtg_lab.postprocessing import Removal


@dataclass(frozen=True)
class Scoring:
    """What is scored, and how; attributes as of :func:`mtg_lab.evaluation.evaluate`."""

    metrics: tuple[str, ...]
    settings: MetricSettings
    removals: tuple[Removal, ...]
    empty: str
    spacing_mm: float

    @property
    def needs_probabilities(self) -> bool:
        """Whether the logits are needed, or the classes will do."""
        return bool(set(CALIBRATION) & set(self.metrics))

    def __call__(
        self,
        answer: Tensor,
        truth: Tensor,
        members: Mapping[str, tuple[int, ...]],
        brain: Tensor,
        diagonal_mm: float | None = None,
    ) -> Iterator[tuple[str, str, float]]:
        """Region, metric and value, one after the other.

        Args:
            answer: logits [K, D, H, W] where probabilities are needed, else class indices [D, H, W].
            truth: bool [R, D, H, W].
            members: classes of each of the R regions.
            brain: bool [D, H, W], the voxels whose probabilities are scored.
            diagonal_mm: of the image before it was cropped.
        """
        classes = answer.max(dim=0).indices.to(torch.uint8).cpu() if self.needs_probabilities else answer
        predicted, names = region_masks(classes, members), list(members)
        for removal in self.removals:
            source = names.index(removal.region)
            kept = removal.apply(predicted[source].numpy(), self.spacing_mm**3)
            predicted = torch.cat([predicted, torch.from_numpy(kept)[None]])
            truth = torch.cat([truth, truth[source : source + 1]])
            names.append(removal.name)
        overlaps = dice(predicted, truth, self.empty) if "dice" in self.metrics else [float("nan")] * len(names)
        probabilities = answer.float().softmax(dim=0).cpu() if self.needs_probabilities else None
        for number, (name, overlap) in enumerate(zip(names, overlaps, strict=True)):
            wanted = [m for m in self.metrics if name in members or m not in CALIBRATION]
            others = [m for m in wanted if m != "dice"]
            scores = {"dice": overlap}
            if others:
                probability = None
                if probabilities is not None and name in members:
                    probability = probabilities[list(members[name])].sum(dim=0).numpy()
                scores |= region_scores(
                    predicted[number].numpy(), truth[number].numpy(), (self.spacing_mm,) * 3, others, self.settings,
                    empty=self.empty, diagonal_mm=diagonal_mm, probability=probability, brain=np.asarray(brain),
                )  # fmt: skip
            for metric in wanted:
                yield name, metric, scores[metric]


def region_masks(classes: Tensor, regions: Mapping[str, tuple[int, ...]]) -> Tensor:
    """Class indices [D, H, W] as one mask a region: bool [R, D, H, W]."""
    return torch.stack(
        [torch.isin(classes, torch.tensor(members, dtype=classes.dtype)) for members in regions.values()]
    )


def dice(predicted: Tensor, truth: Tensor, empty: str = "one") -> list[float]:
    """2 |A and B| / (|A| + |B|) for each region (MONAI), with the named rule where the reference is empty.

    Args:
        predicted, truth: bool [R, D, H, W].
        empty: ``one`` or ``nan``, see :class:`~mtg_lab.protocol.Protocol`.
    """
    scores = compute_dice(
        predicted[None].float(), truth[None].float(), include_background=True, ignore_empty=empty == "nan"
    )
    return [float(v) for v in scores[0]]
