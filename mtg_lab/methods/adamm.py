"""AdaMM (arXiv 2509.15017): a network for any subset learns beside one that sees everything.

The paper's text was not at hand when this was written; what it says is known from its figures, its readme and the
release at f2e1733, which differ in a dozen places. Each difference is an option; the defaults follow the paper.
"""

import copy
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from mtg_lab.backbones import Backbone, Prediction, map_sizes
from mtg_lab.data import subset_mask
from mtg_lab.distillation import Critic, content_distillation, frozen, released_style_matching, style_matching
from mtg_lab.errors import InputError
from mtg_lab.methods.contract import Losses, Method, all_present, check_same_modalities, check_weights
from mtg_lab.methods.presence import dice_by_class, doubted_dice, presence_loss, voxel_distance

_CHOICES = {
    "guide": ("detached", "joint", "frozen", "none"),
    "base_loss": ("lab", "dice"),
    "voxel_target": ("label", "teacher"),
    "style": ("cross_layer", "released", "off"),
    "adversary_at": ("bottleneck", "style"),
}
_RAMP = 0.1  # 20 of 200 epochs


class AdaMM(Method):
    """A student that sees a drawn subset, taught by a network of the same kind that sees all a subject has.

    ::

        total = 0.6 seg(student) + 0.4 seg(teacher)                          seg = base_loss + doubt (presence_weights)
              + presence_weight (bce(student) + bce(teacher))
              + voxel_weight ramp (distance of the student's, or of both networks', probabilities to voxel_target)
              + content_weight |content_s - content_t|^2 + style_weight style(student, teacher)
              + adversary_weight bce(critic(student), "teacher") + bce(critic)

    It runs on any backbone. Presence terms need a head for it (AdaMM has one; elsewhere the backbone option ``gate``)
    and are left out without; content, style and adversary need maps around the bottleneck, which wrapped networks
    do not have.

    The release's constants stand; magnitudes were noted there for one crop. Its total has no cross-entropy and Dice
    over sigmoids; here the base loss is by default that of all methods of the lab, so that methods can be compared.

    Options:
        guide: ``detached``, a second network trained beside the student by its own segmentation, to which no other
            gradient comes (the paper's one-way guidance); ``joint``, distillation pulls at both (the release);
            ``frozen``, a trained run; ``none``, the student alone: modality dropout with presence terms.
            A teacher beside the student starts from the same weights.
        teacher_share: of the two segmentation losses.
        base_loss: ``lab``, :class:`~mtg_lab.methods.contract.SegmentationLoss`; ``dice``, the release's Dice, summed
            over classes and alone.
        presence_weight: of the head's binary cross-entropy.
        presence_weights: whether Dice is weighted by the head's doubt, 1 + |q - y|.
        voxel_weight: at the end of the ramp 10 exp(-5 (1 - t)^2), t the share done of the first tenth of the steps.
        voxel_target: ``label``, both networks' probabilities are drawn to the reference (figure 4); ``teacher``, the
            student's to the teacher's (the release).
        content_weight: of the last block's map before the bottleneck is joined (the bottleneck of other backbones).
        style: ``cross_layer`` (the paper's), ``released`` or ``off``.
        style_weight: the paper's is unknown.
        relative: content and style across layers in units of the teacher's own; otherwise plain squared differences
            (the release's content is), which grow with the features and may drown what else a network learns.
        adversary_weight: of the student's part.
        adversary_at: ``bottleneck``, after the graph refinement (figure 1); ``style``, before it (the release).

    The release's form as one dictionary is :data:`RELEASED`.
    """

    name = "adamm"
    usual_backbone = "adamm"
    takes_teacher = True
    defaults: ClassVar[Mapping[str, Any]] = {
        "guide": "detached",
        "teacher_share": 0.4,
        "base_loss": "lab",
        "presence_weight": 1.0,
        "presence_weights": True,
        "voxel_weight": 10.0,
        "voxel_target": "label",
        "content_weight": 0.2,
        "style": "cross_layer",
        "style_weight": 1.0,
        "relative": True,
        "adversary_weight": 2e-4,
        "adversary_at": "bottleneck",
    }

    def __init__(self, backbone: Backbone, teacher: Backbone | None = None, **options: Any):
        super().__init__(backbone, **options)
        for name, known in _CHOICES.items():
            if self.options[name] not in known:
                raise InputError(f"method {self.name}: {name} is {self.options[name]!r}; it can be {', '.join(known)}")
        check_weights(self, [name for name in self.defaults if name.endswith("_weight")])
        if not 0 <= self.options["teacher_share"] < 1:
            raise InputError(f"method {self.name}: teacher_share is {self.options['teacher_share']}; give 0 to below 1")
        kind = self.options["guide"]
        if (kind == "frozen") != (teacher is not None):
            told = "needs a trained teacher: give --teacher RUN, or" if teacher is None else "takes no trained teacher:"
            raise InputError(
                f"method {self.name}: guide={kind} {told} set method.guide={'frozen' if teacher else 'joint'}"
            )
        self.teacher = teacher
        if teacher is not None:
            check_same_modalities(teacher, backbone)
            frozen(teacher)
        self.guide = copy.deepcopy(backbone) if kind in ("detached", "joint") else None
        maps = self._compared_maps()
        adversary = self.options["adversary_weight"] > 0 and maps
        self.critic = Critic(maps[self.options["adversary_at"]]) if adversary else None

    def train(self, mode: bool = True) -> "AdaMM":
        """A frozen teacher stays in eval mode."""
        super().train(mode)
        if self.teacher is not None:
            self.teacher.eval()
        return self

    def forward(self, batch: Mapping[str, Tensor]) -> Losses:
        """Losses of the student, of the teacher beside it, and of what passes between them."""
        options, label, available = self.options, batch["label"], all_present(batch)
        student = self.backbone(batch["image"], subset_mask(available, batch["draw"]))
        teacher = self._taught(batch["image"], available)
        own = self._own(student, label)
        total, parts = own["segmentation"] + own["doubt"], dict(own)
        if self.guide is not None and teacher is not None:
            theirs, share = self._own(teacher, label), options["teacher_share"]
            total = (1 - share) * total + share * (theirs["segmentation"] + theirs["doubt"])
            parts |= {"presence": own["presence"] + theirs["presence"], "teacher_segmentation": theirs["segmentation"]}
        total = total + options["presence_weight"] * parts["presence"]
        ramp = ramp_factor(float(batch.get("progress", 0.0)))
        for name, (weight, term) in self._passed(student, teacher, label).items():
            total = total + (ramp if name == "voxel" else 1.0) * weight * term
            parts[name] = term
        return Losses(total, {name: term.detach() for name, term in parts.items()})

    def _taught(self, images: Tensor, available: Tensor) -> Prediction | None:
        if self.guide is not None:
            return self.guide(images, available)
        if self.teacher is None:
            return None
        with torch.no_grad():
            return self.teacher(images, available)

    def _own(self, prediction: Prediction, label: Tensor) -> dict[str, Tensor]:
        """What one network is taught by the reference: segmentation, doubt and presence."""
        if self.options["base_loss"] == "lab":
            segmentation = self.segmentation(prediction, label, together=True)
        else:
            segmentation = dice_by_class(prediction, label).sum(dim=1).mean()
        zero = torch.zeros_like(segmentation)
        if prediction.presence is None:
            return {"segmentation": segmentation, "doubt": zero, "presence": zero}
        doubt = doubted_dice(prediction, label) if self.options["presence_weights"] else zero
        return {"segmentation": segmentation, "doubt": doubt, "presence": presence_loss(prediction, label)}

    def _passed(
        self, student: Prediction, teacher: Prediction | None, label: Tensor
    ) -> dict[str, tuple[float, Tensor]]:
        """Weight and value of the other terms, by name; what has no weight is not computed."""
        options, terms = self.options, {}
        if options["voxel_weight"] and options["voxel_target"] == "label":
            learners = [student, *([teacher] if self.guide is not None and teacher is not None else [])]
            terms["voxel"] = options["voxel_weight"], sum((voxel_distance(p, label) for p in learners), torch.zeros(()))
        if teacher is None:
            return terms
        told = teacher if options["guide"] == "joint" else _detached(teacher)
        if options["voxel_weight"] and options["voxel_target"] == "teacher":
            aim = told.logits.float().softmax(dim=1)
            terms["voxel"] = options["voxel_weight"], voxel_distance(student, aim)
        if options["content_weight"]:
            ours, theirs = (p.inner.get("content", p.inner["bottleneck"]) for p in (student, told))
            terms["content"] = options["content_weight"], content_distillation(ours, theirs, options["relative"])
        if options["style_weight"] and options["style"] == "cross_layer":
            terms["style"] = options["style_weight"], style_matching(student.inner, told.inner, options["relative"])
        if options["style_weight"] and options["style"] == "released":
            terms["style"] = options["style_weight"], released_style_matching(student.inner, told.inner)
        if self.critic is not None:
            place = options["adversary_at"]
            fooled, critic = self.critic.losses(student.inner[place], teacher.inner[place])
            terms |= {"adversary": (options["adversary_weight"], fooled), "critic": (1.0, critic)}
        return terms

    def _compared_maps(self) -> dict[str, int]:
        """Channels of the maps that student and teacher compare; empty if they compare none.

        Raises:
            InputError: there is no such map, or the two networks' maps differ.
        """
        options = self.options
        wanted = options["content_weight"] or options["adversary_weight"]
        wanted = wanted or (options["style"] != "off" and options["style_weight"])
        if options["guide"] == "none" or not wanted:
            return {}
        ours = map_sizes(self.backbone)
        place = options["adversary_at"] if options["adversary_weight"] else "bottleneck"
        if place not in ours:
            raise InputError(
                f"method {self.name}: this backbone ({type(self.backbone).__name__}) has no map called {place!r}; "
                + ("set adversary_at=bottleneck" if "bottleneck" in ours else
                   "set content_weight=0, style=off and adversary_weight=0")
            )  # fmt: skip
        if self.teacher is not None and (theirs := map_sizes(self.teacher)) != ours:
            told = ", ".join(
                f"{m} {ours.get(m, 'none')} and {theirs.get(m, 'none')}"
                for m in dict.fromkeys([*ours, *theirs]) if ours.get(m) != theirs.get(m)
            )  # fmt: skip
            raise InputError(
                f"method {self.name}: the student's maps have other channels than the teacher's ({told}); "
                "give both the same backbone options"
            )
        return ours


def _detached(prediction: Prediction) -> Prediction:
    maps = {name: z.detach() for name, z in prediction.inner.items()}
    return Prediction(prediction.logits.detach(), prediction.features.detach(), inner=maps)


def ramp_factor(progress: float) -> float:
    """exp(-5 (1 - t)^2), t the share done of the first tenth of the steps (the release's ramp over 20 epochs)."""
    return math.exp(-5 * (1 - min(progress / _RAMP, 1.0)) ** 2)


# The release's forms, for the backbone and for the method; it further has sigmoids and whole-batch masks.
RELEASED_NETWORK: Mapping[str, Any] = {"adjacency": "ignored", "node_layout": "reshaped", "norm": "batch"}
RELEASED: Mapping[str, Any] = {
    "guide": "joint",
    "base_loss": "dice",
    "voxel_target": "teacher",
    "style": "released",
    "relative": False,
    "adversary_at": "style",
}
