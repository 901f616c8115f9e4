"""Balancing by rarity alone: uni-modal supervision with PASSION's static weights (arXiv 2407.14796), and without."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from mtg_lab.backbones import Backbone
from mtg_lab.balancing import inverse_frequency
from mtg_lab.methods.contract import Losses, by_modality
from mtg_lab.methods.settings import Fused
from mtg_lab.methods.students import one_hot_students, student_losses, uni_modal_losses


class InverseFrequency(Fused):
    """Uni-modal supervision, that of a rare modality weighted up: omega = 1 / (share of samples that have it).

    PASSION's baseline and its static weights (release, ``train.py``), without distillation, gate and coefficients.

    Options, beside the setting:
        uni_weight: of uni-modal supervision.
        power: of omega; 0 is uni-modal supervision without weights, the plain baseline of PASSION's release.

    History: ``student_<m>``, segmentation loss of each modality alone.
    """

    name = "inverse_frequency"
    defaults: ClassVar[Mapping[str, Any]] = {**Fused.defaults, "uni_weight": 1.0, "power": 1.0}

    def __init__(self, backbone: Backbone, **options: Any):
        super().__init__(backbone, **options)
        self.register_buffer("weights", torch.ones(len(backbone.modalities)))

    def prepare(self, available: Tensor) -> None:
        """Takes omega from who has what."""
        weights = inverse_frequency(self.setting.shares(available)) ** self.options["power"]
        self.get_buffer("weights").copy_(weights)

    def forward(self, batch: Mapping[str, Tensor]) -> Losses:
        """Fused segmentation and weighted uni-modal supervision."""
        base, label = super().forward(batch), batch["label"]
        assert base.fusion is not None
        students = one_hot_students(self.backbone, base.fusion)
        losses = student_losses(self.segmentation, students, label)
        encoded = base.fusion.encoded
        uni = uni_modal_losses(self.backbone, self.segmentation, base.fusion, students, losses, encoded, label)
        term = (self.get_buffer("weights") * uni).sum(dim=1).mean()
        parts = {**base.parts, "uni_modal": term.detach()}
        statistics = {"encoded": encoded.float().mean(dim=0), "student": students.spread(losses.detach()).mean(dim=0)}
        return Losses(base.total + self.options["uni_weight"] * term, parts, statistics)

    def after_backward(self, statistics: Mapping[str, Tensor], step: int, steps: int) -> Mapping[str, Tensor]:
        """Tells the history of every modality."""
        return by_modality(self.backbone.modalities, {"student": statistics["student"] / statistics["encoded"]})
