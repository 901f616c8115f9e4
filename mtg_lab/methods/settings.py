"""The three settings of PASSION: perfect data, imperfect data, and modality dropout within imperfect data."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from mtg_lab.backbones import Backbone, ModalityBackbone
from mtg_lab.balancing import drawn_shares
from mtg_lab.data import subset_mask
from mtg_lab.errors import InputError
from mtg_lab.methods.contract import Fusion, Losses, Method, all_present


@dataclass(frozen=True)
class Setting:
    """What of a subject's files a step encodes, and what the fused prediction looks at.

    Which files a subject has is not decided here but by the recipe's ``missing``
    (``--missing imbalanced:mr2468``): what it takes away is never opened, nor used to normalise.

    Attributes:
        name: ``pdt``, ``idt`` or ``idt_drop``.
        draws: whether the fused prediction sees a subset that is drawn per sample.
        encodes_all: whether what was not drawn is encoded all the same.
    """

    name: str
    draws: bool
    encodes_all: bool

    def masks(self, available: Tensor, draw: Tensor) -> tuple[Tensor, Tensor]:
        """Encoded and present, bool [B, M] each, of what the samples have; ``draw`` int64 [B]."""
        present = subset_mask(available, draw) if self.draws else available
        return available if self.encodes_all else present, present

    def shares(self, available: Tensor) -> Tensor:
        """Expected share of samples in which each modality is encoded, [M]; ``available`` bool [subjects, M].

        Under dropout the draws are counted in, which the release forgets.
        """
        if self.draws and not self.encodes_all:
            return drawn_shares(available)
        return available.float().mean(dim=0)


SETTINGS = {
    s.name: s
    for s in (
        Setting("pdt", draws=True, encodes_all=True),
        Setting("idt", draws=False, encodes_all=True),
        Setting("idt_drop", draws=True, encodes_all=False),
    )
}


class Fused(Method):
    """Segmentation from several modalities at once in one of the settings; what the balancing methods start from."""

    needs_latents = True
    backbone: ModalityBackbone
    defaults: ClassVar[Mapping[str, Any]] = {"setting": "idt"}

    def __init__(self, backbone: Backbone, **options: Any):
        super().__init__(backbone, **options)
        if self.options["setting"] not in SETTINGS:
            raise InputError(f"setting is {self.options['setting']!r}; it can be {', '.join(SETTINGS)}")
        self.setting = SETTINGS[self.options["setting"]]

    def forward(self, batch: Mapping[str, Tensor]) -> Losses:
        """Segmentation loss of the fused prediction."""
        encoded, present = self.setting.masks(all_present(batch), batch["draw"])
        latents = self.backbone.encode(batch["image"], encoded)
        prediction = self.backbone.decode(latents, present)
        loss = self.segmentation(prediction, batch["label"], together=True)
        return Losses(loss, {"segmentation": loss.detach()}, fusion=Fusion(latents, encoded, present, prediction))
