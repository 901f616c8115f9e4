"""Balancing by prototypes, in the style of PMR (Fan et al., CVPR 2023, arXiv 2211.07089)."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from monai.networks import one_hot
from torch import Tensor

from mtg_lab.backbones import Backbone, map_sizes
from mtg_lab.distillation import prototypes
from mtg_lab.methods.contract import Losses, by_modality
from mtg_lab.methods.settings import Fused
from mtg_lab.methods.students import Students, one_hot_students


class PrototypeModulation(Fused):
    """A slow modality is pulled to its class prototypes, in the style of PMR (Fan et al., CVPR 2023, arXiv 2211.07089).

    Each modality has a prototype for every class: the mean of its features there. A voxel is told by its Euclidean
    distances to them (softmax of minus the distance); the cross-entropy of that is the prototypical loss, the mean
    probability of the true class is the modality's score. A modality gets the loss with the weight
    clip(rho - 1, 0, 1), rho the mean score of the others over its own, as the paper for two modalities.

    Choices: features are the last ones of the modality alone (one-hot decoding); scores are compared within a sample,
    whose other modalities are the ones it has; voxels are averaged within a class first, as background would rule;
    prototypes move by ``momentum`` in every step and not once an epoch. The paper's entropy term for the first epochs
    is left out.

    Options, beside the setting:
        modulation: alpha, weight of the prototypical losses.
        momentum: how much of a prototype stays in a step.

    History: ``score_<m>`` and ``modulation_<m>``, the mean weight, over samples that have the modality.
    """

    name = "prototype_modulation"
    defaults: ClassVar[Mapping[str, Any]] = {**Fused.defaults, "modulation": 1.0, "momentum": 0.9}

    def __init__(self, backbone: Backbone, **options: Any):
        super().__init__(backbone, **options)
        sizes, modalities = map_sizes(self.backbone), len(backbone.modalities)
        self.register_buffer("prototypes", torch.zeros(modalities, sizes["logits"], sizes["features"]))
        self.register_buffer("seen", torch.zeros(modalities, sizes["logits"]))  # 1 once there is a prototype

    def forward(self, batch: Mapping[str, Tensor]) -> Losses:
        """Fused segmentation and the prototypical losses of slow modalities."""
        base, label = super().forward(batch), batch["label"]
        assert base.fusion is not None
        students = one_hot_students(self.backbone, base.fusion)
        with torch.autocast(label.device.type, enabled=False):
            loss, score, sums, counts = self._told_by_prototypes(students, label)
        scores, encoded = students.spread(score), base.fusion.encoded
        with torch.no_grad():
            weight = (others_over_own(scores, encoded & (scores > 0)) - 1).clamp(0, 1)
        term = (weight * students.spread(loss)).sum(dim=1).mean()
        statistics = {
            "encoded": encoded.float().mean(dim=0),
            "score": scores.mean(dim=0),
            "modulation": weight.mean(dim=0),
            "sums": sums / len(label),
            "counts": counts / len(label),
        }
        parts = {**base.parts, "prototypical": term.detach()}
        return Losses(base.total + self.options["modulation"] * term, parts, statistics)

    def _told_by_prototypes(self, students: Students, label: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Loss and score [S]; sums of the samples' own prototypes [M, K, C] and how many there are [M, K]."""
        features = students.prediction.features.float()
        known, seen = self.get_buffer("prototypes"), self.get_buffer("seen")[students.modality]
        target = one_hot(label, known.shape[1], dtype=torch.float32)[students.sample]
        distances = torch.cdist(features.flatten(2).transpose(1, 2), known[students.modality])  # [S, V, K]
        told = (-distances).masked_fill(seen[:, None] == 0, float("-inf"))
        voxels = target.flatten(2).transpose(1, 2) * seen[:, None]  # [S, V, K], of classes with a prototype
        per_class = voxels.sum(dim=1)
        ready = (seen.sum(dim=1) >= 2)[:, None] & (per_class > 0)  # one class alone tells nothing

        def over_classes(values: Tensor) -> Tensor:
            means = (torch.where(voxels > 0, values, 0)).sum(dim=1) / per_class.clamp_min(1)
            return (means * ready).sum(dim=1) / ready.sum(dim=1).clamp_min(1)

        # A row without any prototype would be a softmax of nothing but minus infinity.
        told = torch.where(seen[:, None].any(dim=2, keepdim=True), told, torch.zeros_like(told))
        loss, score = over_classes(-told.log_softmax(dim=2)), over_classes(told.detach().softmax(dim=2))
        with torch.no_grad():
            there = target.flatten(2).any(dim=2).float()
            own = prototypes(features, target) * there[..., None]
            sums = torch.zeros_like(known).index_add(0, students.modality, own)
            counts = torch.zeros_like(known[..., 0]).index_add(0, students.modality, there)
        return loss, score, sums, counts

    @torch.no_grad()
    def after_backward(self, statistics: Mapping[str, Tensor], step: int, steps: int) -> Mapping[str, Tensor]:
        """Moves the prototypes, and tells the history of every modality."""
        known, seen = self.get_buffer("prototypes"), self.get_buffer("seen")
        there = statistics["counts"] > 0
        found = statistics["sums"] / statistics["counts"].clamp_min(1e-12)[..., None]
        stays = (self.options["momentum"] * seen)[..., None]  # a first prototype is taken as it is
        known.copy_(torch.where(there[..., None], stays * known + (1 - stays) * found, known))
        seen.copy_(torch.maximum(seen, there.float()))
        columns = {name: statistics[name] / statistics["encoded"] for name in ("score", "modulation")}
        return by_modality(self.backbone.modalities, columns)


def others_over_own(scores: Tensor, counted: Tensor) -> Tensor:
    """Mean score of the other modalities over the modality's own: [..., M]; 1 where there is nothing to compare."""
    inside = torch.where(counted, scores, torch.zeros_like(scores))
    others = counted.sum(dim=-1, keepdim=True) - 1
    mean = (inside.sum(dim=-1, keepdim=True) - inside) / others.clamp_min(1)
    return torch.where(counted & (others >= 1), mean / torch.where(counted, scores, 1), torch.ones_like(scores))
