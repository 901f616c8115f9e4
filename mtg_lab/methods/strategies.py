"""One member each of the categories of strategies against missing sequences that have no file of their own.

AdaMM's authors tell six apart (arXiv 2509.15017): data generation, feature generation and sample retrieval put
something in place of what is missing; robustness (``dropout``), multi-task learning and distillation (``student``,
``adamm``) do not. All of them draw a subset a sample, as ``dropout`` does.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.distributed import get_rank, get_world_size, is_initialized

from mtg_lab.backbones import Backbone, Prediction, map_sizes
from mtg_lab.backbones.imputation import SampleRetrieval as RetrievalNetwork
from mtg_lab.backbones.layout import PointConv
from mtg_lab.data import subset_mask
from mtg_lab.distillation import latent_distillation
from mtg_lab.errors import InputError
from mtg_lab.methods.contract import Losses, Method, all_present, check_weights


class _Drawn(Method):
    """A subset a sample; segmentation and a term of the method's own."""

    weight: ClassVar[str]

    def __init__(self, backbone: Backbone, **options: Any):
        super().__init__(backbone, **options)
        check_weights(self, [self.weight])

    def _losses(self, prediction: Prediction, label: Tensor, name: str, term: Tensor) -> Losses:
        segmentation = self.segmentation(prediction, label, together=True)
        parts = {"segmentation": segmentation.detach(), name: term.detach()}
        return Losses(segmentation + self.options[self.weight] * term, parts)


class DataGeneration(_Drawn):
    """Absent images are painted (backbone ``synthesis``), and segmented as if they were there.

    Options:
        painting_weight: of the mean absolute difference between painted and true images, over what was hidden and the
            subject has. The segmentation loss reaches the painter as well.
    """

    name = "data_generation"
    usual_backbone = "synthesis"
    weight = "painting_weight"
    defaults: ClassVar[Mapping[str, Any]] = {"painting_weight": 1.0}

    def __init__(self, backbone: Backbone, **options: Any):
        super().__init__(backbone, **options)
        _check_map(self, "synthesised")

    def forward(self, batch: Mapping[str, Tensor]) -> Losses:
        """Segmentation of completed images, and how far painted ones are from the truth."""
        available, images = all_present(batch), batch["image"]
        present = subset_mask(available, batch["draw"])
        prediction = self.backbone(images, present)
        hidden = available & ~present
        painted, truth = (x[hidden].float() for x in (prediction.inner["synthesised"], images))
        term = (painted - truth).abs().mean() if len(truth) else painted.sum()  # nothing hidden: zero, of no images
        return self._losses(prediction, batch["label"], "painting", term)


class FeatureGeneration(_Drawn):
    """Absent latents are guessed from present ones (backbone ``feature_generation``).

    Options:
        guess_weight: of the squared distance between guessed and true latents, in units of the latter's spread, over
            what was hidden and the subject has; the true ones get no gradient from it.
    """

    name = "feature_generation"
    usual_backbone = "feature_generation"
    needs_latents = True
    weight = "guess_weight"
    defaults: ClassVar[Mapping[str, Any]] = {"guess_weight": 0.1}

    def __init__(self, backbone: Backbone, **options: Any):
        super().__init__(backbone, **options)
        _check_map(self, "generated")

    def forward(self, batch: Mapping[str, Tensor]) -> Losses:
        """Segmentation with guesses, and how far they are from the truth."""
        available = all_present(batch)
        present = subset_mask(available, batch["draw"])
        latents = self.backbone.encode(batch["image"], available)  # type: ignore[operator]
        prediction = self.backbone.decode(latents, present)  # type: ignore[operator]
        hidden = available & ~present
        guessed, truth = prediction.inner["generated"][hidden], latents[0][hidden]
        term = latent_distillation(guessed, truth) if len(truth) else guessed.sum()
        return self._losses(prediction, batch["label"], "guess", term)


class SampleRetrieval(Method):
    """Absent latents are borrowed from patients who have everything (backbone ``sample_retrieval``).

    Options:
        voxels: how many voxels of every step's complete samples are remembered.
    """

    name = "sample_retrieval"
    usual_backbone = "sample_retrieval"
    needs_latents = True
    defaults: ClassVar[Mapping[str, Any]] = {"voxels": 16}
    backbone: RetrievalNetwork

    def __init__(self, backbone: Backbone, **options: Any):
        super().__init__(backbone, **options)
        if not isinstance(backbone, RetrievalNetwork):
            raise InputError(f"method {self.name} needs a memory; give --backbone sample_retrieval")
        if self.options["voxels"] < 1:
            raise InputError(f"method {self.name}: voxels is {self.options['voxels']}; it must be at least 1")

    def forward(self, batch: Mapping[str, Tensor]) -> Losses:
        """Segmentation with what is borrowed; voxels to be remembered are among the statistics."""
        available = all_present(batch)
        latents = self.backbone.encode(batch["image"], available)
        prediction = self.backbone.decode(latents, subset_mask(available, batch["draw"]))
        loss = self.segmentation(prediction, batch["label"], together=True)
        return Losses(loss, {"segmentation": loss.detach()}, self._drawn(latents[0].detach(), available, batch["draw"]))

    @torch.no_grad()
    def _drawn(self, z: Tensor, available: Tensor, draw: Tensor) -> dict[str, Tensor]:
        """Latents of voxels of complete samples, each process in rows of its own, as statistics are means over them."""
        count, rank, world = self.options["voxels"], *_processes()
        voxels = z.new_zeros(world, count, *z.shape[1:3], dtype=torch.float32)
        there = z.new_zeros(world, count, dtype=torch.float32)
        complete = available.all(dim=1).nonzero()[:, 0]
        if len(complete):
            chance = torch.Generator().manual_seed(int(draw.sum()) % 2**31)
            pool = z[complete].flatten(3).permute(0, 3, 1, 2).flatten(0, 1)  # [b V, M, C]
            rows = torch.randint(len(pool), (count,), generator=chance).to(z.device)
            voxels[rank], there[rank] = pool[rows].float() * world, float(world)
        return {"voxels": voxels.flatten(0, 1), "there": there.flatten()}

    @torch.no_grad()
    def after_backward(self, statistics: Mapping[str, Tensor], step: int, steps: int) -> Mapping[str, Tensor]:
        """Remembers the step's voxels."""
        self.backbone.remember(statistics["voxels"][statistics["there"] > 0])
        return {}


class MultiTask(_Drawn):
    """Segments and, from the same last features, reconstructs the images of all sequences that the subject has.

    On any backbone; what reconstructs is left behind after training.

    Options:
        reconstruction_weight: of the mean absolute difference between reconstructed and true images.
    """

    name = "multi_task"
    weight = "reconstruction_weight"
    defaults: ClassVar[Mapping[str, Any]] = {"reconstruction_weight": 0.1}

    def __init__(self, backbone: Backbone, **options: Any):
        super().__init__(backbone, **options)
        features, count = map_sizes(backbone)["features"], len(backbone.modalities)
        self.reconstruct = nn.Sequential(
            nn.Conv3d(features, features, 3, padding=1), nn.LeakyReLU(0.2), PointConv(features, count)
        )

    def forward(self, batch: Mapping[str, Tensor]) -> Losses:
        """Segmentation and reconstruction."""
        available = all_present(batch)
        prediction = self.backbone(batch["image"], subset_mask(available, batch["draw"]))
        found = self.reconstruct(prediction.features)[available]
        term = (found.float() - batch["image"][available]).abs().mean()
        return self._losses(prediction, batch["label"], "reconstruction", term)


def _check_map(method: Method, name: str) -> None:
    if name not in map_sizes(method.backbone):
        raise InputError(
            f"method {method.name} needs a network that fills what is absent; give --backbone {method.usual_backbone}"
        )


def _processes() -> tuple[int, int]:
    return (get_rank(), get_world_size()) if is_initialized() else (0, 1)
