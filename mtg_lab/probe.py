"""A look at the network while it trains: gap and Dice on the same few crops, once an epoch."""

import math
from dataclasses import replace

import torch
from torch import Tensor

from mtg_lab.backbones import Backbone, Latents, ModalityBackbone, Prediction
from mtg_lab.data import cached_dataset
from mtg_lab.hardware import precision_context
from mtg_lab.manifest import Manifest
from mtg_lab.moments import moments, relative_gap
from mtg_lab.recipes import Recipe

_SUBJECTS, _MOST = 2, 60  # looks a run at most, so that they cost little beside its steps


class Probe:
    """Crops around the lesions of two validation subjects, the first ones with the most modalities.

    The gap is the relative gap of the finest latents over all voxels of these crops; Dice is the mean over the regions
    that they show, from all modalities and from each alone. A thermometer, not a score: two crops, and the weights of
    this step, not their average. Where a cohort has no validation split, subjects of the training split stand in.

    Args:
        cohort: whole.
        recipe: of the run.

    :meth:`look` raises InputError where a subject's files are at fault.
    """

    def __init__(self, cohort: Manifest, recipe: Recipe):
        splits = {subject.split for subject in cohort}
        labelled = [s for s in cohort.split("val" if "val" in splits else "train") if s.label is not None]
        subjects = sorted(labelled, key=lambda s: -len(s.images))[:_SUBJECTS]
        self.cohort, self.recipe = replace(cohort, subjects=tuple(subjects)), recipe
        training = sum(subject.split == "train" for subject in cohort)
        self.every = max(1, math.ceil(training / recipe.batch), math.ceil(recipe.steps / _MOST))
        self.crops: list[dict[str, Tensor]] = []

    def due(self, step: int) -> bool:
        """Whether to look after so many steps: at the end of an epoch, sixty times a run at most, and at the end."""
        return step % self.every == 0 or step == self.recipe.steps

    @torch.no_grad()
    def look(self, backbone: Backbone) -> dict[str, float]:
        """``probe_gap``, ``probe_dice`` and ``probe_dice_<modality>``; the backbone is left in the mode it was in."""
        was_training, device = backbone.training, next(backbone.parameters()).device
        backbone.eval()
        modalities, found = len(backbone.modalities), []
        alone = torch.eye(modalities, dtype=torch.bool, device=device)
        for crop in self._loaded(backbone.modalities):
            image, present = crop["image"][None].to(device), crop["present"][None].to(device)
            masks = torch.cat([present, alone[present[0]]])
            with precision_context(device, self.recipe.precision):
                row, classes = self._answers(backbone, image, present, masks)
            scores = [self._dice(c.cpu(), crop["label"][0]) for c in classes]
            names = [m for m, there in zip(backbone.modalities, present[0].tolist(), strict=True) if there]
            row |= {"probe_dice": scores[0]}
            row |= {f"probe_dice_{m}": score for m, score in zip(names, scores[1:], strict=True)}
            found.append(row)
        backbone.train(was_training)
        columns = dict.fromkeys(name for row in found for name in row)
        return {c: _mean([row[c] for row in found if c in row]) for c in columns}

    def _answers(
        self, backbone: Backbone, image: Tensor, present: Tensor, masks: Tensor
    ) -> tuple[dict[str, float], list[Tensor]]:
        if not isinstance(backbone, ModalityBackbone):
            return {}, [_classes(backbone, backbone(image, mask[None])) for mask in masks]
        latents = backbone.encode(image, present)
        answers = backbone.decode_each(Latents(latents), masks)
        classes = [_classes(backbone, answer) for answer in answers]
        gap = float(relative_gap(moments(latents[0].float(), present))) if int(present.sum()) > 1 else float("nan")
        return {"probe_gap": gap}, classes

    def _dice(self, classes: Tensor, label: Tensor) -> float:
        scores = []
        for members in self.cohort.schema.region_classes.values():
            ours, truth = (torch.isin(x, torch.tensor(list(members), dtype=x.dtype)) for x in (classes, label))
            if truth.any():
                scores.append(2 * int((ours & truth).sum()) / int(ours.sum() + truth.sum()))
        return _mean(scores)

    def _loaded(self, modalities: tuple[str, ...]) -> list[dict[str, Tensor]]:
        if not self.crops:
            self.cohort.materialise()
            samples = cached_dataset(self.cohort.subjects, modalities, self.recipe.preprocessing)
            self.crops = [_around_lesion(samples[i], self.recipe.sampling.crop_voxels) for i in range(len(samples))]
        return self.crops


def _around_lesion(sample: dict[str, Tensor], edge: int) -> dict[str, Tensor]:
    """A crop of at most ``edge`` voxels a side around the middle of the lesion; of the volume where there is none."""
    label = sample["label"][0]
    places = (label > 0).nonzero().float()
    middle = places.mean(dim=0) if len(places) else torch.tensor([n / 2 for n in label.shape])
    inside = []
    for centre, size in zip(middle.round().int().tolist(), label.shape, strict=True):
        start = min(max(centre - edge // 2, 0), max(size - edge, 0))
        inside.append(slice(start, start + edge))
    where = (slice(None), *inside)
    return {"image": sample["image"][where], "label": sample["label"][where], "present": sample["present"]}


def _classes(backbone: Backbone, answer: Prediction) -> Tensor:
    """Class indices [D, H, W] of a batch of one."""
    return backbone.final_logits(answer)[0].max(dim=0).indices


def _mean(values: list[float]) -> float:
    known = [v for v in values if not math.isnan(v)]
    return sum(known) / len(known) if known else float("nan")
