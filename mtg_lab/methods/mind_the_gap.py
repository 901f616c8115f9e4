"""Mind the Gap (arXiv 2409.19366): a teacher whose latents are aligned to P_mix, and students that it guides.

The authors state the teacher's alignment (mean squared error to P_mix, weights a softmax of learned numbers) and that
a student learns from the frozen teacher; how it learns they leave open. Here: temperature KL on logits and the squared
distance between the student's fused latent and the teacher's anchor, each with a weight that can be zero.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from mtg_lab import vocabulary
from mtg_lab.alignment import align, anchor_is_learned, find_loss, moments, relative_gap, variance
from mtg_lab.backbones import ModalityBackbone
from mtg_lab.data import subset_mask
from mtg_lab.distillation import frozen, latent_distillation, logit_distillation
from mtg_lab.errors import InputError
from mtg_lab.methods.contract import Losses, Method, all_present


class AlignedTeacher(Method):
    """All modalities, segmentation plus ``align_weight`` times the distance of each latent to P_mix.

    Options:
        align_weight: weight of the alignment term; 0 is the teacher without alignment.
        align_loss: ``mse``.
        anchor: ``learned`` trains the weights of the mixture (P*_mix), ``uniform`` keeps them at 1/M.
        normalise: measure the distance in units of the latents' spread, so that shrinking does not help. The published
            form is ``False``; with it the small networks of this lab lowered the loss by shrinking their latents and
            left the relative gap where it was, which notebook 04 shows. Hence the default.
        dropout: draw a subset a sample instead of training on all modalities (a generalist without a teacher whose
            latents are aligned).
    """

    name = "aligned_teacher"
    defaults: ClassVar[Mapping[str, Any]] = {
        "align_weight": 0.1,
        "align_loss": "mse",
        "anchor": "learned",
        "normalise": True,
        "dropout": False,
    }

    def __init__(self, backbone: ModalityBackbone, **options: Any):
        super().__init__(backbone, **options)
        find_loss(self.options["align_loss"])  # refuse now, not at the first step
        if not anchor_is_learned(self.options["anchor"]):
            backbone.mixture.theta.requires_grad_(False)  # it starts at zero, which is uniform

    def forward(self, batch: Mapping[str, Tensor]) -> Losses:
        """Segmentation and alignment losses."""
        present = all_present(batch)
        latents = self.backbone.encode(batch["image"], present)
        found = [moments(scale, present) for scale in latents]
        term = align(found, self.backbone.mixture, self.options["normalise"], self.options["align_loss"])
        mask = subset_mask(present, batch["draw"]) if self.options["dropout"] else present
        segmentation = self.segmentation(self.backbone.decode(latents, mask), batch["label"])
        parts = {
            "segmentation": segmentation.detach(),
            "alignment": term.detach(),
            "relative_gap": relative_gap(found[0]).detach(),
            "latent_scale": variance(found[0]).mean().sqrt().detach(),
        }
        return Losses(segmentation + self.options["align_weight"] * term, parts)


class Student(Method):
    """Learns with missing modalities from a frozen teacher that sees everything the subject has.

    Options:
        subset: ``"any"`` for a generalist (a subset drawn per sample), or one subset such as ``"t1n+t2w"`` for a
            specialist, as a hospital without contrast agent would train it.
        logit_weight: weight of the temperature KL between teacher's and student's logits. The KL carries a factor T^2;
            at 0.5 it kept students of the phantom from learning the enhancing rim within 600 steps, at 0.05 it did not
            (validation split, one seed).
        latent_weight: weight of the distance between the student's fused latent (the barycentre of those present)
            and the teacher's anchor.
        temperature: of the KL.
        from_teacher: start from the teacher's weights instead of from scratch.
    """

    name = "student"
    needs_teacher = True
    defaults: ClassVar[Mapping[str, Any]] = {
        "subset": "any",
        "logit_weight": 0.05,
        "latent_weight": 0.1,
        "temperature": 4.0,
        "from_teacher": False,
    }

    def __init__(self, backbone: ModalityBackbone, teacher: ModalityBackbone, **options: Any):
        super().__init__(backbone, **options)
        if teacher.modalities != backbone.modalities:
            raise InputError(
                f"the teacher knows {', '.join(teacher.modalities)}, the student {', '.join(backbone.modalities)}; "
                "train both on manifests with the same modality columns"
            )
        frozen(teacher)
        self.teacher: ModalityBackbone = teacher
        subset = self.options["subset"]
        self.fixed = None if subset == "any" else vocabulary.parse_subset(subset, backbone.modalities)
        if self.options["from_teacher"]:
            try:
                backbone.load_state_dict(teacher.state_dict())
            except RuntimeError as error:
                raise InputError(
                    "from_teacher: the student's network is not the teacher's; give both the same backbone options"
                ) from error

    def train(self, mode: bool = True) -> "Student":
        """The teacher stays in eval mode."""
        super().train(mode)
        self.teacher.eval()
        return self

    def forward(self, batch: Mapping[str, Tensor]) -> Losses:
        """Segmentation and distillation losses of a student that sees a subset."""
        available = all_present(batch)
        if self.fixed is None:
            present = subset_mask(available, batch["draw"])
        else:
            members = torch.tensor([m in self.fixed for m in self.backbone.modalities], device=available.device)
            present = available & members
            if not bool(present.any(dim=1).all()):
                raise InputError(f"a training subject has nothing of {self.options['subset']}; drop it or its row")
        with torch.no_grad():
            taught = self.teacher.encode(batch["image"], available)
            target = self.teacher.decode(taught, available)
            anchor = self.teacher.mixture.barycentre(taught[0], available)
        latents = self.backbone.encode(batch["image"], present)
        prediction = self.backbone.decode(latents, present)
        segmentation = self.segmentation(prediction, batch["label"])
        logit = logit_distillation(prediction.logits, target.logits, self.options["temperature"])
        latent = latent_distillation(self.backbone.mixture.barycentre(latents[0], present), anchor)
        parts = {
            "segmentation": segmentation.detach(),
            "logit_distillation": logit.detach(),
            "latent_distillation": latent.detach(),
        }
        total = segmentation + self.options["logit_weight"] * logit + self.options["latent_weight"] * latent
        return Losses(total, parts)
