"""Single cases under several networks: what each drew from a subset of sequences, over the sequence that shows it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.figure import Figure

from mtg_lab import vocabulary
from mtg_lab.data import cached_dataset
from mtg_lab.errors import InputError
from mtg_lab.hardware import default_device
from mtg_lab.inference import choose_window, subset_classes
from mtg_lab.manifest import Manifest
from mtg_lab.progress import progress
from mtg_lab.runs import Run
from mtg_lab.schemas import LabelSchema, conversion
from mtg_lab.slices import predictions


@dataclass(frozen=True)
class Case:
    """One subject from one subset of sequences.

    Attributes:
        subject, subset: names.
        shown: the sequence that the masks are drawn over.
        image: [D, H, W] of that sequence, z-scores.
        masks: ``reference`` and a method's name to its class indices [D, H, W].
        labels: class index to what it is.
    """

    subject: str
    subset: str
    shown: str
    image: np.ndarray
    masks: Mapping[str, np.ndarray]
    labels: Mapping[int, str]

    def picture(self, title: str = "", index: int | None = None) -> Figure:
        """The slice with most of the reference, or the one that is asked for, a panel a mask."""
        words = title or f"{self.subject} from {self.subset}, over {self.shown}"
        return predictions(self.image, self.masks, self.labels, words, index=index)


@torch.inference_mode()
def predicted_cases(
    runs: Mapping[str, Run],
    cohort: Manifest,
    split: str,
    subsets: Sequence[str] | None = None,
    subjects: Sequence[str] | None = None,
) -> Iterator[Case]:
    """What each run draws for each subject from each subset; a subject that lacks a sequence of a subset is left out.

    Args:
        runs: method to a run; all of the same modalities, preprocessing and labels.
        cohort: with labels; those of another schema than the runs' become the runs' by what they mean.
        split: ``train``, ``val`` or ``test``.
        subsets: names such as ``t1c+t2f``; by default, of each subject, all sequences that it has.
        subjects: names; all of the split by default.

    Raises:
        InputError: runs that do not see the same thing, an unknown subject, subset or split, or labels that have no
            counterpart among those of the runs.
    """
    first = next(iter(runs.values()))
    for name, run in runs.items():
        if (run.modalities, run.recipe.preprocessing, run.schema) != (
            first.modalities, first.recipe.preprocessing, first.schema,
        ):  # fmt: skip
            raise InputError(
                f"{name} has other modalities, labels or preprocessing than {next(iter(runs))}; "
                "draw the cases of runs that see the same grid"
            )
    part = cohort.split(split)
    if unknown := set(subjects or ()) - {s.name for s in part}:
        raise InputError(f"split {split} has no subject {min(unknown)}; it has {', '.join(s.name for s in part)}")
    part.materialise()
    wanted = {name: vocabulary.parse_subset(name, first.modalities) for name in subsets or ()}
    device = default_device()
    networks = {name: run.backbone(device) for name, run in runs.items()}
    ours = _classes(cohort.schema, first.schema)
    samples = cached_dataset(part.subjects, first.modalities, first.recipe.preprocessing)
    labels = {i: first.schema.labels[v] for i, v in enumerate(first.schema.values, start=1)}
    for number, subject in enumerate(progress(list(part), total=len(part), desc="drawing cases")):
        if subjects is not None and subject.name not in subjects:
            continue
        there = frozenset(subject.images)
        possible = {n: s for n, s in wanted.items() if s <= there}
        if subsets is None:
            possible = {vocabulary.subset_name(there, first.modalities): there}
        if not possible:
            continue
        sample = samples[number]
        masks = [torch.tensor([m in s for m in first.modalities]) for s in possible.values()]
        image, brain = sample["image"], sample["brain"][0] > 0
        window = choose_window(first, image.shape[1:])
        drawn = {n: list(subset_classes(net, image, masks, window, brain=brain)) for n, net in networks.items()}
        truth = ours[sample["label"][0].numpy()]
        for place, (name, subset) in enumerate(possible.items()):
            shown = clearest(image, truth, first.modalities, subset)
            yield Case(
                subject.name, name, shown, image[first.modalities.index(shown)].numpy(),
                {"reference": truth, **{n: d[place].numpy() for n, d in drawn.items()}}, labels,
            )  # fmt: skip


def _classes(theirs: LabelSchema, ours: LabelSchema) -> np.ndarray:
    """Class index of ``theirs`` to that of ``ours``, as an array to look up."""
    meant = {v: v for v in theirs.values} if theirs == ours else conversion(theirs, ours)
    place = {v: k for k, v in enumerate(ours.values, start=1)}
    return np.array([0, *(place[meant[v]] for v in theirs.values)], dtype=np.uint8)


def clearest(
    image: torch.Tensor, truth: np.ndarray, modalities: Sequence[str], subset: frozenset[str] | set[str]
) -> str:
    """The sequence of a subset in which the lesion stands out most: mean inside less mean of the rest of the brain.

    Args:
        image: [M, D, H, W] z-scores, zero outside the brain.
        truth: class indices [D, H, W].
        modalities: of the M channels.
        subset: to choose from.
    """
    there = [m for m in modalities if m in subset]
    lesion = truth > 0
    if not lesion.any():
        return there[0]

    def contrast(name: str) -> float:
        volume = image[modalities.index(name)].numpy()
        rest = volume[(volume != 0) & ~lesion]
        return float(abs(volume[lesion].mean() - rest.mean())) if rest.size else 0.0

    return max(there, key=contrast)
