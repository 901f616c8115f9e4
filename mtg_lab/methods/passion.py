"""PASSION: balance between modalities that are missing at different rates (Shi et al., ACM MM 2024, arXiv 2407.14796).

The prediction from all modalities of a sample teaches predictions from each of them alone, by the same weights; how far
each is behind tells which modality lags, and a laggard is taught more. Read from the release, without its defects.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from monai.networks import one_hot
from torch import Tensor

from mtg_lab.backbones import Backbone, ModalityBackbone
from mtg_lab.balancing import coefficient_rate, inverse_frequency, relative_preference, task_gate, updated_coefficients
from mtg_lab.distillation import similarity_maps
from mtg_lab.errors import InputError
from mtg_lab.methods.contract import Fusion, Losses, Method, by_modality
from mtg_lab.methods.mind_the_gap import AlignedTeacher, Student
from mtg_lab.methods.passion_terms import (
    PublishedLoss,
    pixel_distillation,
    semantic_distance,
    semantic_distillation,
    softened,
)
from mtg_lab.methods.settings import SETTINGS, Fused, Setting
from mtg_lab.methods.students import Students, one_hot_students, student_losses, uni_modal_losses

BALANCING: Mapping[str, Any] = {
    "uni_weight": 1.0,
    "pixel_weight": 0.5,
    "semantic_weight": 0.1,
    "pixel_temperature": 4.0,
    "gate": "lagging",
    "gate_supervision": True,
    "coefficients": True,
    "weigh_supervision": True,
    "inverse_frequency": True,
    "distance": "l1",
    "rate": 0.01,
    "growth": 1.5,
    "updates": 300,
    "fusion_start": 0.0,
}
_WEIGHTS = {"uni_modal": "uni_weight", "pixel": "pixel_weight", "semantic": "semantic_weight"}


class Balanced(Method):
    """PASSION's terms on top of the losses of another method: ``class Mine(Balanced, Other)``.

    The other method must return its :class:`~mtg_lab.methods.contract.Fusion`: latents, who was encoded, the fused
    prediction. From these alone the terms follow, through ``decode`` and ``uni_decode`` of the contract, so that the
    other method needs no line for it and nothing is encoded twice. A mixin and not a method that holds another one,
    because options, the frozen teacher, warnings and what is kept of a run are then the other method's own, unchanged.
    The loss of a batch is the mean over samples of

        other + uni_weight h beta omega L_uni + pixel_weight beta omega L_pixel + semantic_weight h omega L_semantic

    summed over the modalities m that were encoded, with the gate h, the coefficients beta and the weights omega of
    :mod:`mtg_lab.balancing`. The release sums over samples instead, so that the batch would scale the step.

    In a sample with one modality the student is its teacher: nothing to distil, and no gate.

    Options:
        uni_weight, pixel_weight, semantic_weight: of uni-modal supervision, pixel-wise and semantic-wise
            self-distillation; 0 takes a term away (1, 0.5 and 0.1 in the release). With all three at 0 the history
            tells of every modality in the training of the other method, unchanged.
        pixel_temperature: T of the pixel-wise term.
        gate: who gets the gated terms in a step, ``lagging`` (abstract, figure and release), ``leading`` (the
            authors' follow-up flips the sign in places) or ``off``, which is everybody.
        gate_supervision: the gate holds for uni-modal supervision too. So in the release, whose numbers are the
            published ones; the figure has it on the semantic term only, which is ``False``.
        coefficients: whether beta moves; otherwise it stays 1.
        weigh_supervision: beta multiplies uni-modal supervision too, as in the release; the figure has it on the
            pixel-wise term only.
        inverse_frequency: omega is one over the share of samples with the modality (release); without it 1 (the figure
            has no omega). Where all modalities are there it is 1 in any case.
        distance: ``l1`` as in the release, or ``l2`` as the figure says. Both rank modalities; the mean absolute
            difference is not ruled by the few voxels of a small tumour.
        rate, growth: of the coefficients, see :func:`mtg_lab.balancing.coefficient_rate`.
        updates: of the coefficients, evenly over the training. The release makes one an epoch in 300 epochs; shares of
            the training let them travel as far in a run of any number of steps.
        fusion_start: share of the training with uni-modal supervision alone and without gate, the release's
            ``region_fusion_start_epoch``; 0 as in its scripts.

    History: for each modality ``student_<m>`` (segmentation loss of the modality alone), ``pixel_<m>``,
    ``semantic_<m>`` and ``gate_<m>``, means over samples of the step that have it, undefined where none has;
    ``distance_<m>``, over those that have another one as well; ``preference_<m>``, of the time before the last update,
    and ``coefficient_<m>``.
    """

    needs_latents = True
    backbone: ModalityBackbone
    setting: Setting = SETTINGS["idt"]
    defaults: ClassVar[Mapping[str, Any]] = BALANCING

    def __init__(self, backbone: Backbone, **options: Any):
        super().__init__(backbone, **options)
        modalities = len(backbone.modalities)
        nobody = torch.zeros(1, modalities, dtype=torch.bool)  # refuse words now, not at the first step
        task_gate(torch.zeros(1, modalities), nobody, self.options["gate"])
        blank = torch.zeros(1, 1, 1)
        semantic_distance(blank, blank, blank, self.options["distance"])
        if self.options["updates"] < 1:
            raise InputError(f"updates is {self.options['updates']}; it must be at least 1")
        for name in ("weights", "coefficient", "preference", "distances", "counts"):
            start = torch.ones if name in ("weights", "coefficient") else torch.zeros
            self.register_buffer(name, start(modalities))

    def prepare(self, available: Tensor) -> None:
        """Takes omega from who has what."""
        super().prepare(available)
        if self.options["inverse_frequency"]:
            self.get_buffer("weights").copy_(inverse_frequency(self.setting.shares(available)))

    def forward(self, batch: Mapping[str, Tensor]) -> Losses:
        """The other method's losses and PASSION's."""
        base = super().forward(batch)
        if base.fusion is None:
            raise TypeError(f"method {self.name} returns no fusion; Balanced needs it")
        starting = self.options["fusion_start"]
        warming = starting > 0 and float(batch.get("progress", 1.0)) < starting
        used = warming or any(self.options[weight] for weight in _WEIGHTS.values())
        with torch.set_grad_enabled(torch.is_grad_enabled() and used):
            students = one_hot_students(self.backbone, base.fusion)
            terms, statistics = self._terms(base.fusion, students, batch["label"], warming)
        total = terms["uni_modal"] if warming else base.total + sum(self._scaled(terms))
        parts = {**base.parts, **{k: v.detach() for k, v in terms.items()}}
        return Losses(total, parts, {k: v.detach() for k, v in statistics.items()})

    def _scaled(self, terms: Mapping[str, Tensor]) -> list[Tensor]:
        return [self.options[_WEIGHTS[term]] * value for term, value in terms.items()]

    def _terms(
        self, fusion: Fusion, students: Students, label: Tensor, warming: bool
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Means over samples of the weighted terms, and statistics [M]."""
        options, compared = self.options, fusion.encoded & (fusion.encoded.sum(dim=1, keepdim=True) >= 2)
        with torch.autocast(label.device.type, enabled=False):  # products of normalised features, in float32
            pixel, semantic, distance = self._distilled(fusion, students.apart(), label)
        preference = relative_preference(distance, compared)
        gate = task_gate(preference, fusion.encoded, options["gate"])
        beta, omega = self.get_buffer("coefficient"), self.get_buffer("weights")
        supervised = omega * fusion.encoded
        if options["weigh_supervision"]:
            supervised = supervised * beta
        if options["gate_supervision"] and not warming:
            supervised = supervised * gate
        losses = student_losses(self.segmentation, students, label)
        uni = uni_modal_losses(self.backbone, self.segmentation, fusion, students, losses, supervised > 0, label)
        weighted = {"uni_modal": supervised * uni, "pixel": beta * omega * pixel, "semantic": gate * omega * semantic}
        statistics = {
            "encoded": fusion.encoded.float(),
            "compared": compared.float() * (not warming),
            "distance": distance * compared * (not warming),
            "gate": gate,
            "student": students.spread(losses),
            "pixel": pixel,
            "semantic": semantic,
        }
        return (
            {k: v.sum(dim=1).mean() for k, v in weighted.items()},
            {k: v.mean(dim=0) for k, v in statistics.items()},
        )

    def _distilled(self, fusion: Fusion, students: Students, label: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Pixel-wise and semantic-wise distillation, and the distance, of every student: [B, M] each."""
        if not students.decoded:
            return (torch.zeros(fusion.encoded.shape, device=label.device),) * 3
        temperature, teacher, sample = self.options["pixel_temperature"], fusion.prediction, students.sample
        target = one_hot(label, teacher.logits.shape[1], dtype=torch.float32)
        with torch.no_grad():  # once a sample, not once a student
            soft = [q[sample] for q in softened(teacher, temperature)]
            maps = similarity_maps(teacher.features.float(), target)[sample]
        pixel = pixel_distillation(softened(students.prediction, temperature), soft, temperature)
        target = target[sample]
        own = similarity_maps(students.prediction.features.float(), target)
        distance = semantic_distance(own, maps, target, self.options["distance"])
        semantic = semantic_distillation(own, maps, target)
        return students.spread(pixel), students.spread(semantic), students.spread(distance)

    @torch.no_grad()
    def after_backward(self, statistics: Mapping[str, Tensor], step: int, steps: int) -> Mapping[str, Tensor]:
        """Adds up distances, updates the coefficients where one is due, and tells the history of every modality."""
        row = dict(super().after_backward(statistics, step, steps))
        distances, counts = self.get_buffer("distances"), self.get_buffer("counts")
        distances += statistics["distance"]
        counts += statistics["compared"]
        updates = self.options["updates"]
        first = round(self.options["fusion_start"] * updates)
        due = range(max(first, step * updates // steps), (step + 1) * updates // steps)
        if due:
            self._update(due, first)
        columns = {
            **{k: statistics[k] / statistics["encoded"] for k in ("student", "pixel", "semantic", "gate")},
            "distance": statistics["distance"] / statistics["compared"],
            **{k: self.get_buffer(k).clone() for k in ("preference", "coefficient")},
        }
        return row | by_modality(self.backbone.modalities, columns)

    def _update(self, due: range, first: int) -> None:
        """Preference of the time since the last update, and the coefficients that follow."""
        distances, counts, preference = (self.get_buffer(n) for n in ("distances", "counts", "preference"))
        preference.copy_(relative_preference(distances / counts.clamp_min(1e-12), counts > 0))
        beta, options = self.get_buffer("coefficient"), self.options
        if options["coefficients"]:
            for update in due:
                rate = coefficient_rate(update, options["updates"], first, options["rate"], options["growth"])
                beta.copy_(updated_coefficients(beta, preference, rate))
        distances.zero_()
        counts.zero_()


class Passion(Balanced, Fused):
    """PASSION as published, on any backbone with latents, the U-Net included, which the paper does not have.

    Options, beside those of :class:`Balanced`:
        setting: ``idt`` each subject's own modalities (imperfect data), ``idt_drop`` a subset drawn of them, ``pdt``
            a subset drawn for the fused prediction while everything is encoded and every modality has its student
            (perfect data).
        published_loss: the release's segmentation loss in every place, see
            :class:`~mtg_lab.methods.passion_terms.PublishedLoss`. By default the lab's, the same as in all other
            methods, so that a comparison tells of the balance and not of the loss.
    """

    name = "passion"
    defaults: ClassVar[Mapping[str, Any]] = {**Fused.defaults, "published_loss": False, **BALANCING}

    def __init__(self, backbone: Backbone, **options: Any):
        super().__init__(backbone, **options)
        if self.options["published_loss"]:
            self.segmentation = PublishedLoss()


class BalancedTeacher(Balanced, AlignedTeacher):
    """Mind the Gap's aligned teacher, balanced by PASSION: options of both."""

    name = "balanced_teacher"
    defaults: ClassVar[Mapping[str, Any]] = {**AlignedTeacher.defaults, **BALANCING}


class BalancedStudent(Balanced, Student):
    """A student of a frozen teacher, balanced by PASSION among the modalities that it sees: options of both."""

    name = "balanced_student"
    defaults: ClassVar[Mapping[str, Any]] = {**Student.defaults, **BALANCING}

    def __init__(self, backbone: Backbone, **options: Any):
        super().__init__(backbone, **options)
        self.setting = SETTINGS["idt_drop" if self.fixed is None else "idt"]
