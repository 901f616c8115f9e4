"""Mind the Gap (arXiv 2409.19366): a teacher whose latents are aligned to P_mix, and students that it guides.

The authors state the teacher's alignment (mean squared error to P_mix, weights a softmax of learned numbers) and that
a student learns from the frozen teacher; how it learns they leave open. Here: temperature KL on logits, the squared
distance between the student's fused latent and the teacher's anchor, and, off by default, the distances of last
features and of maps of similarity to class prototypes; each with a weight that can be zero.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from mtg_lab import vocabulary
from mtg_lab.alignment import ON_SAMPLES, align, anchor_is_learned, anchor_weights, find_loss
from mtg_lab.backbones import Backbone, Latents, ModalityBackbone, Prediction, with_latents
from mtg_lab.data import subset_mask
from mtg_lab.distillation import (
    feature_distillation,
    frozen,
    latent_distillation,
    logit_distillation,
    prototype_distillation,
)
from mtg_lab.errors import InputError
from mtg_lab.methods.contract import (
    Fusion,
    Losses,
    Method,
    all_present,
    check_same_modalities,
    check_weights,
)
from mtg_lab.moments import effective_rank, moments, relative_gap, variance

_START, _WATCHED = 5, 20  # steps over which what is logged is averaged, at the start and now


class AlignedTeacher(Method):
    """All modalities, segmentation plus ``align_weight`` times the distance of each latent to P_mix.

    Options:
        align_weight: weight of the alignment term; 0 is the teacher without alignment.
        align_loss: ``mse``, ``kl``, ``coral``, ``mmd`` or ``sliced_wasserstein``, see :mod:`mtg_lab.alignment`.
        anchor: ``learned`` trains the weights of the mixture (P*_mix), ``uniform`` keeps them at 1/M,
            ``modality:t1c`` takes one modality, ``normal`` N(0, I).
        align_scales: ``first`` (the finest latents, as in the authors' fragment), ``all``, numbers such as ``0+2``, or
            ``fused``: after fusion, the last features that each modality alone leads to (one more decoding a modality).
        align_schedule: ``constant``, ``warmup`` (rising linearly over the first fifth of the steps) or ``decay`` (half
            a cosine down to zero).
        normalise: measure the distance in units of the latents' spread, so that shrinking does not help. The published
            form is ``False``; with it the small networks of this lab lowered the loss by shrinking their latents and
            left the relative gap where it was, which notebook 04 shows. Hence the default.
        dropout: draw a subset a sample instead of training on all modalities (a generalist without a teacher whose
            latents are aligned).
    """

    name = "aligned_teacher"
    needs_latents = True
    backbone: ModalityBackbone
    defaults: ClassVar[Mapping[str, Any]] = {
        "align_weight": 0.1,
        "align_loss": "mse",
        "anchor": "learned",
        "align_scales": "first",
        "align_schedule": "constant",
        "normalise": True,
        "dropout": False,
    }

    def __init__(self, backbone: Backbone, **options: Any):
        super().__init__(backbone, **options)
        # Refuse now, not at the first step.
        find_loss(self.options["align_loss"], self.options["anchor"], self.options["normalise"])
        schedule_factor(self.options["align_schedule"], 0.0)
        chosen_scales(self.options["align_scales"], None)
        if not anchor_is_learned(self.options["anchor"], backbone.modalities):
            self.backbone.mixture.theta.requires_grad_(False)  # it starts at zero, which is uniform

    def forward(self, batch: Mapping[str, Tensor]) -> Losses:
        """Segmentation and alignment losses."""
        present, options = all_present(batch), self.options
        latents = self.backbone.encode(batch["image"], present)
        scales = self._aligned_scales(latents, present)
        weights = anchor_weights(options["anchor"], self.backbone.mixture, present, self.backbone.modalities)
        # Of the samples' own numbers, so that a resumed run draws the same voxels.
        seed = int(batch["draw"].sum()) % 2**31 if options["align_loss"] in ON_SAMPLES else 0
        term = align(scales, weights, present, options["align_loss"], options["normalise"], seed)
        factor = schedule_factor(options["align_schedule"], float(batch.get("progress", 0.0)))
        mask = subset_mask(present, batch["draw"]) if options["dropout"] else present
        prediction = self.backbone.decode(latents, mask)
        segmentation = self.segmentation(prediction, batch["label"], together=True)
        with torch.no_grad():
            # An eighth of the voxels will do to keep an eye on them.
            found = moments(latents[0].detach()[..., ::2, ::2, ::2], present)
            parts = {
                "segmentation": segmentation.detach(),
                "alignment": term.detach(),
                "relative_gap": relative_gap(found),
                "latent_scale": variance(found).mean().sqrt(),
                "effective_rank": term.new_tensor(effective_rank(latents[0], present, int(batch["draw"][0]) % 2**31)),
            }
        total = segmentation + options["align_weight"] * factor * term
        return Losses(total, parts, fusion=Fusion(latents, present, mask, prediction))

    def warning(self, history: Sequence[Mapping[str, float]]) -> str | None:
        """Tells a collapse: latents with hardly a direction beyond the first, or hardly a scale, against the start.

        The authors name mode collapse as the signature of an alignment that is too strong; the loss then looks perfect.
        It can be over within twenty steps, hence the comparison with the very first. Learning alone takes directions
        away as well (of seven at the start a network without alignment kept three to five), so the bounds are low.
        """
        if len(history) < _START + _WATCHED:
            return None
        first, last = history[:_START], history[-_WATCHED:]
        for column, floor, share, words in (
            ("effective_rank", 1.0, 0.15, "effective rank"),  # a rank is never below one
            ("latent_scale", 0.0, 0.1, "scale"),
        ):
            before, now = (sum(row[column] for row in rows) / len(rows) for rows in (first, last))
            if now - floor < share * (before - floor):
                return f"latents collapse: their {words} fell from {before:.2g} to {now:.2g}; lower method.align_weight"
        return None

    def _aligned_scales(self, latents: Latents, present: Tensor) -> list[Tensor]:
        if self.options["align_scales"] != "fused":
            return [latents[i] for i in chosen_scales(self.options["align_scales"], len(latents))]
        modalities = present.shape[1]
        alone = torch.eye(modalities, dtype=torch.bool, device=present.device)
        # A sample that lacks a modality is decoded from what it has, and its features are not looked at.
        masks = [torch.where(present[:, m, None], alone[m], present) for m in range(modalities)]
        return [torch.stack([self.backbone.decode(latents, mask).features for mask in masks], dim=1)]


def schedule_factor(schedule: str, progress: float) -> float:
    """By what the weight of alignment is multiplied when the share ``progress`` of the steps is done.

    Raises:
        InputError: an unknown schedule.
    """
    factors = {
        "constant": 1.0,
        "warmup": min(1.0, 5 * progress),
        "decay": 0.5 * (1 + math.cos(math.pi * min(progress, 1.0))),
    }
    if schedule not in factors:
        raise InputError(f"unknown align_schedule {schedule!r}; there are: {', '.join(factors)}")
    return factors[schedule]


def chosen_scales(text: str, scales: int | None) -> list[int]:
    """Numbers of the scales that ``align_scales`` names, 0 the finest; ``scales`` None checks the words alone.

    Raises:
        InputError: no such scale.
    """
    if text == "fused":
        return []
    if text in ("first", "all"):
        return list(range(scales or 1)) if text == "all" else [0]
    parts = text.split("+")
    if not all(p.isdecimal() for p in parts):
        raise InputError(f"align_scales is {text!r}; it can be first, all, fused, or numbers such as 0+2")
    numbers = sorted({int(p) for p in parts})
    if scales is not None and numbers[-1] >= scales:
        raise InputError(f"align_scales is {text!r}; this backbone has {scales} scale(s), the finest is 0")
    return numbers


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
        feature_weight: weight of the distance between the two networks' last features.
        prototype_weight: weight of the difference between the two networks' maps of similarity to class prototypes.
        from_teacher: start from the teacher's weights instead of from scratch.
    """

    name = "student"
    needs_teacher = True
    needs_latents = True
    backbone: ModalityBackbone
    defaults: ClassVar[Mapping[str, Any]] = {
        "subset": "any",
        "logit_weight": 0.05,
        "latent_weight": 0.1,
        "temperature": 4.0,
        "feature_weight": 0.0,
        "prototype_weight": 0.0,
        "from_teacher": False,
    }

    def __init__(self, backbone: Backbone, teacher: Backbone, **options: Any):
        super().__init__(backbone, **options)
        check_same_modalities(teacher, backbone)
        check_weights(self, ("logit_weight", "latent_weight", "feature_weight", "prototype_weight"))
        self.teacher = with_latents(teacher, "a teacher")
        frozen(self.teacher)
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
        segmentation, parts = self.segmentation(prediction, batch["label"], together=True), {}
        total, parts["segmentation"] = segmentation, segmentation.detach()
        for name, term in self._handed_on(prediction, latents, present, target, anchor, batch["label"]).items():
            total = total + self.options[f"{name}_weight"] * term
            parts[f"{name}_distillation"] = term.detach()
        return Losses(total, parts, fusion=Fusion(latents, present, present, prediction))

    def _handed_on(
        self, own: Prediction, latents: Latents, present: Tensor, target: Prediction, anchor: Tensor, label: Tensor
    ) -> dict[str, Tensor]:
        """The terms that have a weight, by the name of their weight."""
        compute = {
            "logit": lambda: logit_distillation(own.logits, target.logits, self.options["temperature"]),
            "latent": lambda: latent_distillation(
                self.backbone.mixture.barycentre(latents[0], present), anchor, together=True
            ),
            "feature": lambda: feature_distillation(own.features, target.features, together=True),
            "prototype": lambda: prototype_distillation(own.features, target.features, label, own.logits.shape[1]),
        }
        return {name: term() for name, term in compute.items() if self.options[f"{name}_weight"] > 0}
