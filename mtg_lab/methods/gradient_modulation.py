"""Balancing by gradients, in the style of OGM-GE (Peng et al., CVPR 2022, arXiv 2203.15332)."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from mtg_lab.backbones import Backbone, ModalityBackbone
from mtg_lab.methods.contract import Losses, by_modality
from mtg_lab.methods.settings import Fused
from mtg_lab.methods.students import one_hot_students, true_class_score


class GradientModulation(Fused):
    """The encoder of a leading modality is slowed down, in the style of OGM-GE (Peng et al., CVPR 2022, 2203.15332).

    rho is the score of a modality (probability of the true class from it alone) over the mean of the others; where it
    is above one, the gradients of its encoder are multiplied by 1 - tanh(alpha rho), and all encoders get Gaussian
    noise with the standard deviation of their gradient ("generalisation enhancement").

    Choices: a modality alone is one-hot decoding, without gradient; scores are averaged within a class first and
    compared among the modalities that a sample has; rho is the ratio of their means over the samples of a step. Which
    parameters belong to an encoder is asked of the network: those that its latents alone depend on. The paper uses SGD;
    AdamW takes a factor that stays the same out again, so that here its changes act, and the noise.

    Options, beside the setting:
        alpha: strength.
        noise: whether noise is added (OGM-GE) or not (OGM).
        ends: share of the training after which gradients are left alone.

    History: ``score_<m>`` over samples that have the modality, ``gradient_<m>``, the factor of the step.
    """

    name = "gradient_modulation"
    defaults: ClassVar[Mapping[str, Any]] = {**Fused.defaults, "alpha": 0.5, "noise": True, "ends": 1.0}

    def __init__(self, backbone: Backbone, **options: Any):
        super().__init__(backbone, **options)
        self.owned = encoder_parameters(self.backbone)

    def forward(self, batch: Mapping[str, Tensor]) -> Losses:
        """Fused segmentation; scores for :meth:`after_backward`."""
        base = super().forward(batch)
        assert base.fusion is not None
        encoded = base.fusion.encoded
        with torch.no_grad():
            students = one_hot_students(self.backbone, base.fusion)
            scores = students.spread(true_class_score(students, batch["label"]))
            several = encoded & (encoded.sum(dim=1, keepdim=True) >= 2)
            others = (scores.sum(dim=1, keepdim=True) - scores) / (encoded.sum(dim=1, keepdim=True) - 1).clamp_min(1)
        statistics = {
            "encoded": encoded.float().mean(dim=0),
            "score": scores.mean(dim=0),
            "own": (scores * several).mean(dim=0),
            "others": (others * several).mean(dim=0),
        }
        # Noise is drawn from the samples' own numbers, so that a resumed run draws the same; the mean over processes is
        # one number in all of them.
        statistics["draw"] = (batch["draw"] % 2**20).float().mean()
        return Losses(base.total, base.parts, statistics)

    @torch.no_grad()
    def after_backward(self, statistics: Mapping[str, Tensor], step: int, steps: int) -> Mapping[str, Tensor]:
        """Changes the encoders' gradients, and tells the history of every modality."""
        factors = torch.ones_like(statistics["own"])
        if step < self.options["ends"] * steps:
            factors = modulation_factors(statistics["own"], statistics["others"], self.options["alpha"])
            generator = torch.Generator(factors.device).manual_seed(int(statistics["draw"]))
            for parameters, factor in zip(self.owned, factors, strict=True):
                for parameter in parameters:
                    if parameter.grad is not None:
                        noise = self._noise(parameter.grad, generator)
                        parameter.grad.mul_(factor).add_(noise)
        columns = {"score": statistics["score"] / statistics["encoded"], "gradient": factors}
        return by_modality(self.backbone.modalities, columns)

    def _noise(self, gradient: Tensor, generator: torch.Generator) -> Tensor:
        if not self.options["noise"] or gradient.numel() < 2:
            return torch.zeros_like(gradient)
        drawn = torch.randn(gradient.shape, generator=generator, dtype=gradient.dtype, device=gradient.device)
        return drawn * gradient.std()


def modulation_factors(own: Tensor, others: Tensor, alpha: float) -> Tensor:
    """k = 1 - tanh(alpha rho) where rho = own / others is above one, else 1 (OGM-GE, equation 10): [M]."""
    leading = (own > others) & (others > 0)
    ratio = torch.where(leading, own / torch.where(leading, others, 1), torch.zeros_like(own))
    return 1 - torch.tanh(alpha * ratio)


def encoder_parameters(backbone: ModalityBackbone, edge: int = 8) -> list[list[nn.Parameter]]:
    """For each modality the parameters that its latents depend on and no other's; asked of the network by gradients.

    Args:
        backbone: any with latents.
        edge: of the empty images that are encoded for it, in voxels.
    """
    training = backbone.training
    backbone.eval()  # no dropout, which would draw from the process's generator
    parameters = [p for p in backbone.parameters() if p.requires_grad]
    modalities = len(backbone.modalities)
    images = torch.zeros(1, modalities, edge, edge, edge, device=parameters[0].device)
    used = []
    for alone in torch.eye(modalities, dtype=torch.bool, device=images.device):
        latents = backbone.encode(images, alone[None])
        together = torch.stack([z.sum() for z in latents]).sum()
        found = torch.autograd.grad(together, parameters, allow_unused=True)
        used.append([g is not None for g in found])
    backbone.train(training)
    owners = torch.tensor(used).sum(dim=0)
    return [[p for p, mine, n in zip(parameters, row, owners, strict=True) if mine and n == 1] for row in used]
