"""What every training method promises: losses and schedule around a backbone, never inside it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from mtg_lab.backbones import Backbone, Latents, Prediction, with_latents
from mtg_lab.errors import InputError
from mtg_lab.shares import over_processes


@dataclass(frozen=True)
class Fusion:
    """What a step has encoded and decoded of a batch.

    Attributes:
        latents: of the modalities in ``encoded``.
        encoded: bool [B, M].
        present: bool [B, M], the mask under which ``prediction`` was decoded.
        prediction: from all of ``present`` together.
    """

    latents: Latents
    encoded: Tensor
    present: Tensor
    prediction: Prediction


@dataclass(frozen=True)
class Losses:
    """What a method answers to a batch.

    Attributes:
        total: the scalar that is minimised.
        parts: scalars for the history.
        statistics: means over samples, of any shape, for :meth:`Method.after_backward`.
        fusion: what was computed on the way, for a method that builds on this one.
    """

    total: Tensor
    parts: Mapping[str, Tensor]
    statistics: Mapping[str, Tensor] = field(default_factory=dict)
    fusion: Fusion | None = None


class Method(nn.Module):
    """A way to train a backbone: forward takes a batch and returns its losses.

    The method holds the backbone as ``self.backbone`` so that one module can be handed to a data-parallel wrapper.
    Networks of the method's own (a frozen teacher, a discriminator) are further attributes.

    Args:
        backbone: what is trained.
        regions: class indices of each region that is scored, for :class:`SegmentationLoss`.
        **options: see ``defaults``.

    Class attributes:
        name: how recipes and the command line call it.
        needs_teacher: whether a trained run must be given.
        takes_teacher: whether one may be given.
        needs_latents: whether the backbone must have latents, one a modality.
        usual_backbone: which one a preset takes where none is named.
        defaults: options and their default values.
    """

    name: ClassVar[str]
    needs_teacher: ClassVar[bool] = False
    takes_teacher: ClassVar[bool] = False
    needs_latents: ClassVar[bool] = False
    usual_backbone: ClassVar[str] = "unet"
    defaults: ClassVar[Mapping[str, Any]] = {}
    segmentation: nn.Module  # (Prediction, label) to a scalar

    def __init__(self, backbone: Backbone, regions: Mapping[str, Sequence[int]] | None = None, **options: Any):
        super().__init__()
        self.backbone = with_latents(backbone, f"method {self.name}") if self.needs_latents else backbone
        self.options = {**self.defaults, **options}
        self.segmentation = SegmentationLoss(regions)

    def forward(self, batch: Mapping[str, Tensor]) -> Losses:
        """Losses of a batch: image [B, M, D, H, W], label [B, 1, D, H, W], present bool [B, M], draw int64 [B].

        ``progress``, where it is there, is the share of the steps that are done, a scalar.
        """
        raise TypeError(f"{type(self).__name__} must define forward(batch)")

    def prepare(self, available: Tensor) -> None:
        """Told once, before training: who has what, bool [training subjects, M]."""

    def after_backward(self, statistics: Mapping[str, Tensor], step: int, steps: int) -> Mapping[str, Tensor]:
        """Called when gradients are there, before they are clipped: the one place where a method changes its state.

        Gradients may be changed here too. :meth:`forward` changes no state, so that what a step computes does not
        depend on how often it was asked; state lies in registered buffers, so that checkpoints carry it. What decides
        must be the same in every process: ``statistics`` and gradients are means over all of them by now.

        Args:
            statistics: those of :class:`Losses`, over all samples of the step.
            step: number of the step, from 0.
            steps: of the whole training.

        Returns:
            Further scalars for the history.
        """
        return {}

    def warning(self, history: Sequence[Mapping[str, float]]) -> str | None:
        """One line if the rows of the history so far tell that training goes wrong; asked at every checkpoint."""
        return None

    def trained(self) -> Mapping[str, Tensor]:
        """The state that is kept when training ends: the backbone's."""
        return self.backbone.state_dict()


_SMOOTH = 1e-5  # MONAI's


class SegmentationLoss(nn.Module):
    """Soft Dice of the regions that are scored plus cross-entropy of the labels, with deep supervision.

    The probability of a region is the sum of its labels' (as Wang et al. 2017, arXiv 1709.00382, argue for nested
    regions), and Dice is defined as MONAI's. With Dice per label, small networks gave up the enhancing tumour in 6 of
    15 runs of 1000 steps: they called the whole core necrosis, which that Dice half rewards, and a softmax has no
    gradient towards a label whose probability is near zero. As regions, whole tumour and core are right whatever the
    labels inside are.

    Auxiliary logits l = 1, 2, ..., fine to coarse, where a backbone has them, are enlarged to the label's grid and
    weighted 2^-l, whatever their resolution (RFNet and M2FTrans have one more at full resolution); the weights of all
    terms sum to one (nnU-Net's rule, Isensee et al. 2021).

    Args:
        regions: class indices of each region, as :attr:`mtg_lab.schemas.LabelSchema.region_classes`; by default every
            class but background is a region of its own.
    """

    def __init__(self, regions: Mapping[str, Sequence[int]] | None = None) -> None:
        super().__init__()
        self.regions = [list(classes) for classes in regions.values()] if regions else None

    def forward(self, prediction: Prediction, label: Tensor, together: bool = False) -> Tensor:
        """Scalar float32 for logits [B, K, D, H, W] and class indices [B, 1, D, H, W].

        Dice is taken over the batch, not per crop, so that a crop without a region does not dominate the gradient.

        Args:
            prediction: of a backbone.
            label: the reference.
            together: over the batch of all processes, each of which must then ask at the same time
                (:func:`mtg_lab.shares.over_processes`).
        """
        shares = [2.0**-s for s in range(1 + len(prediction.aux))]
        total = shares[0] * self._one(prediction.logits.float(), label, together)
        for share, aux in zip(shares[1:], prediction.aux, strict=True):
            enlarged = nn.functional.interpolate(
                aux.float(), size=label.shape[2:], mode="trilinear", align_corners=False
            )
            total = total + share * self._one(enlarged, label, together)
        return total / sum(shares)

    def _one(self, logits: Tensor, label: Tensor, together: bool) -> Tensor:
        logs = nn.functional.log_softmax(logits, dim=1)
        regions = self.regions or [[k] for k in range(1, logits.shape[1])]
        probabilities = logs.exp()
        inside = torch.stack([probabilities[:, members].sum(dim=1) for members in regions], dim=1)
        truth = torch.cat([torch.isin(label, label.new_tensor(members)) for members in regions], dim=1)
        return _dice_loss(inside, truth.to(inside.dtype), together) + nn.functional.nll_loss(logs, label[:, 0])


def _dice_loss(inside: Tensor, truth: Tensor, together: bool) -> Tensor:
    """1 - soft Dice over samples and space, mean over regions [B, R, D, H, W]; MONAI's ``DiceLoss(batch=True)``.

    MONAI's cannot sum over the samples of other processes.
    """
    axes = [0, *range(2, inside.ndim)]
    sums = (inside * truth).sum(dim=axes), inside.sum(dim=axes) + truth.sum(dim=axes)
    common, both = over_processes(*sums) if together else sums
    return (1 - (2 * common + _SMOOTH) / (both + _SMOOTH)).mean()


def checked_options(method: type[Method], options: Mapping[str, Any]) -> dict[str, Any]:
    """The method's defaults overlaid with ``options``.

    Raises:
        InputError: an option that the method does not take, or of another type.
    """
    for key, value in options.items():
        if key not in method.defaults:
            known = ", ".join(method.defaults) or "none"
            raise InputError(f"method {method.name} takes no option {key!r}; it takes: {known}")
        default = method.defaults[key]
        same = isinstance(value, bool) == isinstance(default, bool)
        if not same or not isinstance(value, float | int if isinstance(default, float | int) else type(default)):
            raise InputError(f"method {method.name}: {key} is {value!r}; its default is {default!r}, give that type")
    return {**method.defaults, **options}


def check_weights(method: Method, names: Iterable[str]) -> None:
    """Refuse options below zero.

    Raises:
        InputError: the first of them.
    """
    for name in names:
        if method.options[name] < 0:
            raise InputError(f"method {method.name}: {name} is {method.options[name]}; it must be 0 or more")


def check_same_modalities(teacher: Backbone, student: Backbone) -> None:
    """Refuse a teacher of other channels than its student's.

    Raises:
        InputError: it knows other modalities, or in another order.
    """
    if teacher.modalities != student.modalities:
        raise InputError(
            f"the teacher knows {', '.join(teacher.modalities)}, the student {', '.join(student.modalities)}; "
            "train both on manifests with the same modality columns"
        )


def all_present(batch: Mapping[str, Tensor]) -> Tensor:
    """The mask bool [B, M] of what the subjects have."""
    return batch["present"].to(torch.bool)


def by_modality(modalities: Sequence[str], values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Vectors [M] as columns of the history, ``<name>_<modality>``."""
    return {f"{name}_{m}": v for name, x in values.items() for m, v in zip(modalities, x.unbind(), strict=True)}
