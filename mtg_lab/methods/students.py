"""What each modality alone says, from latents that are there already: students that share their teacher's weights.

Every pair of a sample and a modality that it has is one student. All of them are decoded in one batch, from the latents
of the step; nothing is encoded again. Where the fused prediction saw nothing but the student's modality, it is the
student's prediction, and nothing is decoded.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mtg_lab.backbones import Latents, ModalityBackbone, Prediction
from mtg_lab.errors import InputError
from mtg_lab.methods.contract import Fusion

Segmentation = Callable[[Prediction, Tensor], Tensor]


@dataclass(frozen=True)
class Students:
    """One-hot predictions of S pairs of sample and modality.

    Attributes:
        sample, modality: int64 [S].
        prediction: [S, ...].
        decoded: how many of them, the first ones, are not their teacher's own prediction.
        mask: bool [B, M], which pairs there are.
    """

    sample: Tensor
    modality: Tensor
    prediction: Prediction
    decoded: int
    mask: Tensor

    def spread(self, values: Tensor) -> Tensor:
        """[S] to [B, M], zero where there is no pair."""
        return values.new_zeros(self.mask.shape).index_put((self.sample, self.modality), values)

    def apart(self) -> "Students":
        """Those alone that were decoded: the others have nothing to learn from their teacher."""
        prediction = _rows(self.prediction, slice(self.decoded))
        return Students(self.sample[: self.decoded], self.modality[: self.decoded], prediction, self.decoded, self.mask)


def one_hot_students(backbone: ModalityBackbone, fusion: Fusion) -> Students:
    """A student for every modality that was encoded: ``decode`` under a one-hot mask, all pairs in one batch."""
    is_teacher = fusion.present & (fusion.present.sum(dim=1, keepdim=True) == 1)
    sample, modality = (fusion.encoded & ~is_teacher).nonzero(as_tuple=True)
    same_sample, same_modality = (fusion.encoded & is_teacher).nonzero(as_tuple=True)
    parts = []
    if len(sample):
        parts.append(backbone.decode_alone(fusion.latents, sample, modality))
    if len(same_sample):
        parts.append(_rows(fusion.prediction, same_sample))
    every_sample, every_modality = torch.cat([sample, same_sample]), torch.cat([modality, same_modality])
    return Students(every_sample, every_modality, _joined(parts), len(sample), fusion.encoded)


def student_losses(segmentation: Segmentation, students: Students, label: Tensor) -> Tensor:
    """Segmentation loss of every student, each taken within its sample: [S]."""
    return _per_sample(segmentation, students.prediction.logits, label[students.sample])


def uni_modal_losses(
    backbone: ModalityBackbone,
    segmentation: Segmentation,
    fusion: Fusion,
    students: Students,
    losses: Tensor,
    wanted: Tensor,
    label: Tensor,
) -> Tensor:
    """Uni-modal supervision: by the backbone's decoder of single modalities where it has one, else by the students.

    The papers' networks have such a decoder (``uni_decoder=true``); without it a student's own prediction is taught.

    Args:
        backbone: of the method.
        segmentation: the loss.
        fusion, students: of the step.
        losses: :func:`student_losses`, [S].
        wanted: bool [B, M], for whom; the rest is not computed.
        label: [B, 1, D, H, W].

    Returns:
        [B, M], zero where not wanted.
    """
    sample, modality = (wanted & fusion.encoded).nonzero(as_tuple=True)
    if not len(sample):
        return students.spread(torch.zeros_like(losses))
    # That decoder is shared, so one batch of single modalities serves them all.
    latents = Latents([z[sample, modality][:, None] for z in fusion.latents])
    try:
        prediction = backbone.uni_decode(latents, 0)
    except InputError:  # this backbone has none
        return torch.where(wanted, students.spread(losses), torch.zeros((), device=losses.device))
    found = _per_sample(segmentation, prediction.logits, label[sample])
    return found.new_zeros(wanted.shape).index_put((sample, modality), found)


def true_class_score(students: Students, label: Tensor) -> Tensor:
    """Mean probability of the true class over voxels, and over the classes that the sample has: [S].

    A mean over voxels alone would be that of the background.
    """
    probabilities = students.prediction.logits.float().softmax(dim=1)
    truth = label[students.sample]
    told = probabilities.gather(1, truth).flatten(1)  # [S, V]
    classes = torch.nn.functional.one_hot(truth.flatten(1), probabilities.shape[1]).to(told.dtype)  # [S, V, K]
    voxels = classes.sum(dim=1)
    means = torch.einsum("sv,svk->sk", told, classes) / voxels.clamp_min(1)
    return means.sum(dim=1) / (voxels > 0).sum(dim=1)


def _per_sample(segmentation: Segmentation, logits: Tensor, label: Tensor) -> Tensor:
    pairs = zip(logits, label, strict=True)
    return torch.stack([segmentation(Prediction(x[None], x[None]), y[None]) for x, y in pairs])


def _rows(prediction: Prediction, rows: Tensor | slice) -> Prediction:
    return Prediction(prediction.logits[rows], prediction.features[rows], tuple(a[rows] for a in prediction.aux))


def _joined(parts: list[Prediction]) -> Prediction:
    if len(parts) == 1:
        return parts[0]
    return Prediction(
        torch.cat([p.logits for p in parts]),
        torch.cat([p.features for p in parts]),
        tuple(torch.cat(maps) for maps in zip(*(p.aux for p in parts), strict=True)),
    )
