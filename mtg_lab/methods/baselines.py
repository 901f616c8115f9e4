"""What papers compare with: training on complete data, and modality dropout without a teacher."""

from collections.abc import Mapping

from torch import Tensor

from mtg_lab.data import subset_mask
from mtg_lab.methods.contract import Losses, Method, all_present


class Complete(Method):
    """Trains on every modality that a subject has, and never hides one.

    At test time with missing modalities this is the zero-filling baseline; it is also the teacher without alignment.
    """

    name = "complete"

    def forward(self, batch: Mapping[str, Tensor]) -> Losses:
        """Segmentation loss with all modalities."""
        loss = self.segmentation(self.backbone(batch["image"], all_present(batch)), batch["label"], together=True)
        return Losses(loss, {"segmentation": loss.detach()})


class Dropout(Method):
    """Modality dropout: for every sample a subset is drawn, uniform over the non-empty ones; no teacher."""

    name = "dropout"

    def forward(self, batch: Mapping[str, Tensor]) -> Losses:
        """Segmentation loss with a random subset of modalities a sample."""
        present = subset_mask(all_present(batch), batch["draw"])
        loss = self.segmentation(self.backbone(batch["image"], present), batch["label"], together=True)
        return Losses(loss, {"segmentation": loss.detach()})
