"""Operations on a trained network, without training: is it the gap between modalities that costs Dice?

A run that was operated on is a run: it is scored, predicts and shows its latents like any other, and its scores name
what was done to it. Operations are chained by operating again::

    moments = modality_moments(run, cohort)
    evaluate(refilled(without_offsets(run, moments), "uniform"), cohort)
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import pandas as pd
import torch
from torch import Tensor

from mtg_lab.backbones import Backbone, Latents, ModalityBackbone, Prediction, with_latents
from mtg_lab.backbones.imputation import MeanImages
from mtg_lab.backbones.presence import check_gate
from mtg_lab.errors import InputError
from mtg_lab.evaluation import paired_difference
from mtg_lab.latent_moments import (
    LatentMoments,
    at_centroids,
    matched,
    modality_moments,
    modality_offsets,
    moved,
    translated,
)
from mtg_lab.protocol import protocol_attrs
from mtg_lab.runs import Run

__all__ = [
    "ADAPTERS",
    "FILLS",
    "LatentMoments",
    "Operated",
    "OperatedRun",
    "at_centroids",
    "dice_change",
    "dice_changes",
    "interpolated",
    "matched",
    "modality_moments",
    "modality_offsets",
    "moved",
    "operated",
    "refilled",
    "translated",
    "with_adapters",
    "with_gate",
    "with_matched_moments",
    "with_mean_images",
    "without_offsets",
]

ADAPTERS = ("exchanged", "off")
FILLS = ("zeros", "learned", "uniform", "centroid", "translated")
_FILLED = "absent latents filled: "
_ALONE = 1e4  # a score beside which exp(0) is nothing in float32

Operation = Callable[[Latents, Tensor], Latents]  # of latents and bool [B, M], who is there


class Operated(ModalityBackbone):
    """A network with an operation after its encoders, or in place of its own way to fill what is absent.

    Args:
        inner: the network.
        encoded: applied to what the encoders give; what is absent it must leave as it is.
        filled: gives the decoder something for every modality; None leaves that to the network.
    """

    def __init__(self, inner: ModalityBackbone, encoded: Operation | None = None, filled: Operation | None = None):
        super().__init__()
        self.inner, self.encoded, self.filled = inner, encoded, filled
        self.modalities, self.mixture, self.gate = inner.modalities, inner.mixture, inner.gate

    def encode(self, images: Tensor, present: Tensor) -> Latents:
        """The inner network's latents, operated on."""
        latents = self.inner.encode(images, present)
        return self.encoded(latents, present) if self.encoded else latents

    def decode(self, latents: Latents, present: Tensor) -> Prediction:
        """What the inner network answers to the latents, filled."""
        if self.filled is None:
            return self.inner.decode(latents, present)
        return self.inner.decode(self.filled(latents, present), torch.ones_like(present))

    def decode_each(self, latents: Latents, masks: Tensor, together: int = 1) -> Iterator[Prediction]:
        """As the contract says."""
        if self.filled is None:
            return self.inner.decode_each(latents, masks, together)
        return super().decode_each(latents, masks, together)

    def uni_decode(self, latents: Latents, modality: int) -> Prediction:
        """As the inner network."""
        return self.inner.uni_decode(latents, modality)


@dataclass(frozen=True)
class OperatedRun(Run):
    """A run whose network is changed after it is loaded.

    Attributes:
        inner: the run before the operation; folder, recipe and digest are those of its training.
        done: what is done, in words.
        change: from the inner run's network to the new one.
    """

    inner: Run
    done: str
    change: Callable[[Backbone], Backbone]

    @property
    def operations(self) -> tuple[str, ...]:
        """What was done, first to last."""
        return (*self.inner.operations, self.done)

    def backbone(self, device: str | torch.device = "cpu") -> Backbone:
        """The network after all operations, in eval mode."""
        return self.change(self.inner.backbone(device)).eval()


def operated(run: Run, done: str, change: Callable[[ModalityBackbone], ModalityBackbone]) -> OperatedRun:
    """The run with a change of its network that ``done`` tells in words; see the functions below for what there is."""

    return _operated(run, done, lambda network: change(with_latents(network, "surgery")))


def _operated(run: Run, done: str, change: Callable[[Backbone], Backbone]) -> OperatedRun:
    """:func:`operated`, of any network."""
    return OperatedRun(run.folder, run.recipe, run.digest, run.modalities, run.schema, run, done, change)


def with_gate(run: Run, gate: str) -> OperatedRun:
    """The run with another gate at inference, see :func:`mtg_lab.backbones.presence.gated`.

    Args:
        run: of a network with a head that tells which classes there are: AdaMM, or any with the option ``gate``.
        gate: ``hard``, ``soft`` or ``off``.

    Raises:
        InputError: an unknown gate, or a network without such a head.
    """
    check_gate(gate)
    if run.recipe.backbone != "adamm" and "gate" not in run.recipe.backbone_options:
        raise InputError(
            f"the run {run.folder.name} ({_network(run)}) does not tell which classes there are; train it with "
            "--set backbone.gate=hard"
        )
    return _operated(run, f"gate {gate}", partial(_gated, gate=gate))


def with_adapters(run: Run, kind: str) -> OperatedRun:
    """The run of AdaMM with other adapters at inference: are they a subset's own, or would any do?

    Args:
        run: on the backbone ``adamm``, with adapters.
        kind: ``exchanged``, every subset goes through those of the next one that has as many sequences; ``off``,
            through none, as the whole set does.

    Raises:
        InputError: an unknown kind, or a network without adapters.
    """
    if kind not in ADAPTERS:
        raise InputError(f"adapters can be {' or '.join(ADAPTERS)}, not {kind!r}")
    if run.recipe.backbone != "adamm" or not run.recipe.backbone_options.get("adapters", True):
        raise InputError(
            f"the run {run.folder.name} ({_network(run)}) has no adapters; train one on the backbone adamm"
        )
    return _operated(run, f"adapters {kind}", partial(_with_adapters, kind=kind))


def without_offsets(run: Run, moments: Sequence[LatentMoments], amount: float = 1.0) -> OperatedRun:
    """The run with :func:`moved` latents."""
    offsets = [scale.offsets for scale in moments]
    return operated(
        run, f"{amount:g} of the centroids' offsets removed",
        partial(Operated, encoded=lambda z, present: moved(z, offsets, present, amount)),
    )  # fmt: skip


def with_matched_moments(run: Run, moments: Sequence[LatentMoments], amount: float = 1.0) -> OperatedRun:
    """The run with :func:`matched` latents."""
    return operated(
        run, f"moments matched, {amount:g} of the way",
        partial(Operated, encoded=lambda z, present: matched(z, moments, present, amount)),
    )  # fmt: skip


def with_mean_images(run: Run) -> OperatedRun:
    """The run of any network with the mean of the present images in place of an absent one."""
    return _operated(run, "absent images: mean of the others", MeanImages)


def refilled(run: Run, fill: str, moments: Sequence[LatentMoments] = ()) -> OperatedRun:
    """The run with something else in place of an absent modality's latent.

    Args:
        run: any, its latents perhaps operated on.
        fill: ``zeros``; the ``learned`` or ``uniform`` mixture of the present ones; ``modality:<name>``, the latent of
            that one, and where it is absent too the uniform mixture; ``centroid``, the absent modality's own, at every
            voxel; ``translated``, see :func:`translated`, from the uniform mixture.
        moments: of this very run; ``centroid`` and ``translated`` need them.

    Raises:
        InputError: an unknown ``fill``, moments that are needed and not given, or a run that was refilled already.
    """
    kind, _, name = fill.partition(":")
    if fill not in FILLS and (kind != "modality" or name not in run.modalities):
        some = ", ".join(f"modality:{m}" for m in run.modalities)
        raise InputError(f"an absent latent cannot be filled with {fill!r}; choose {', '.join(FILLS)}, {some}")
    if fill in ("centroid", "translated") and not moments:
        raise InputError(f"fill {fill!r} needs the moments of the latents; give modality_moments(run, cohort)")
    if any(done.startswith(_FILLED) for done in run.operations):
        raise InputError(f"{run.operations[-1]}: they can be filled once; refill the run as it was before")
    scores = [_ALONE * (m == name) for m in run.modalities]
    return operated(run, f"{_FILLED}{fill}", partial(_refill, fill=fill, scores=scores, moments=moments))


def interpolated(run: Run, other: Run, share: float) -> OperatedRun:
    """The run with weights (1 - share) times its own plus share times those of another.

    Between runs that started from the same seed a low middle is a barrier (Frankle et al. 2020); between others a
    barrier is to be expected, for their channels stand in another order. Shares below 0 and above 1 go beyond the ends.

    Raises:
        InputError: the two have networks of different architectures, or other channels or labels.
    """
    ours, theirs = (r.backbone().state_dict() for r in (run, other))
    shapes = [{name: tuple(w.shape) for name, w in weights.items()} for weights in (ours, theirs)]
    if shapes[0] != shapes[1] or (run.modalities, run.schema) != (other.modalities, other.schema):
        raise InputError(
            f"weights of {run.folder.name} ({_network(run)}) and {other.folder.name} ({_network(other)}) cannot be "
            "interpolated; choose two runs of one architecture with the same modalities and labels"
        )
    mixed = {name: torch.lerp(w, theirs[name], share) for name, w in ours.items()}
    done = f"weights {1 - share:g} of {run.folder.name} + {share:g} of {other.folder.name}"
    return operated(run, done, partial(_loaded, weights=mixed))


def dice_change(after: Mapping[str, pd.DataFrame], before: pd.DataFrame, draws: int = 4000) -> pd.DataFrame:
    """What operations did to the scores, paired over subjects, by number of missing modalities.

    Mean over regions. One training stands behind all of them, so that intervals know nothing of other trainings.

    Args:
        after: name of an operation to the table of :func:`mtg_lab.evaluate`.
        before: of the run that was operated on.
        draws: of the bootstrap.

    Returns:
        Columns operation, missing (a number, or "all": each number weighs the same), difference, low, high (95 %),
        detectable.

    Raises:
        InputError: as :func:`mtg_lab.evaluation.paired_difference`.
    """
    total, rows = int(before["modalities"].max()), []
    for name, table in after.items():
        found = paired_difference({0: table}, {0: before}, draws)
        of_all = found[found["region"] == "all"]
        missing = [m if m == "all" else total - m for m in of_all["modalities"]]
        rows.append(of_all.assign(operation=name, missing=missing))
    joined = pd.concat(rows, ignore_index=True)[["operation", "missing", "difference", "low", "high", "detectable"]]
    joined.attrs.update(protocol_attrs(before))
    return joined


def dice_changes(after: Mapping[str, pd.DataFrame], before: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """:func:`dice_change` of operations on several runs, each against the run that it was done to.

    Args:
        after: ``run: what was done`` to its scores.
        before: run to its scores.
    """
    runs = {run: {k: t for k, t in after.items() if k.startswith(f"{run}: ")} for run in before}
    return pd.concat([dice_change(t, before[run]) for run, t in runs.items() if t], ignore_index=True)


def _refill(
    network: ModalityBackbone, fill: str, scores: Sequence[float], moments: Sequence[LatentMoments]
) -> ModalityBackbone:
    network.mixture.fill = "zeros" if fill in ("zeros", "centroid", "translated") else "anchor"
    if fill != "learned":
        with torch.no_grad():
            network.mixture.theta.copy_(torch.tensor(scores))
    if fill == "centroid":
        return Operated(network, filled=lambda z, present: at_centroids(z, moments, present))
    if fill == "translated":
        weights = network.mixture.weights
        return Operated(network, filled=lambda z, present: translated(z, moments, present, weights(present)))
    return network


def _loaded(network: ModalityBackbone, weights: dict[str, Tensor]) -> ModalityBackbone:
    network.load_state_dict(weights)
    return network


def _gated(network: Backbone, gate: str) -> Backbone:
    network.gate = gate
    return network


def _with_adapters(network: Backbone, kind: str) -> Backbone:
    keys = network.get_submodule("bank").get_buffer("keys")  # sums of 2^m over a subset's members
    if kind == "off":
        keys.fill_(-1)
        return network
    sizes = ((keys[:, None] >> torch.arange(len(network.modalities), device=keys.device)) & 1).sum(dim=1)
    for size in sizes.unique():
        places = (sizes == size).nonzero()[:, 0]
        keys[places] = keys[places].roll(1)
    return network


def _network(run: Run) -> str:
    options = ", ".join(f"{k}={v}" for k, v in run.recipe.backbone_options.items())
    return f"{run.recipe.backbone} {options}".strip()
