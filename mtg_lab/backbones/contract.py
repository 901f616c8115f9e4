"""What every network of the lab promises: it takes all modalities with a mask of those present, and returns logits.

Shapes: B samples, M modalities, C channels, K classes, D, H, W voxels.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NewType

import torch
from torch import Tensor, nn

from mtg_lab.backbones.layout import (
    as_channels,
    channels_last,
    mixed_modalities,
    rows_of_zeros,
    side_by_side,
)
from mtg_lab.backbones.presence import gated
from mtg_lab.errors import InputError

FILLS = ("zeros", "anchor")

Latents = NewType("Latents", list[Tensor])  # over scales, fine to coarse: [B, M, C_s, d_s, h_s, w_s]


@dataclass(frozen=True)
class Prediction:
    """What a network answers.

    Attributes:
        logits: [B, K, D, H, W].
        aux: auxiliary logits for deep supervision, fine to coarse, each [B, K, d, h, w] at a resolution of its own.
        features: the last feature map before the head, [B, C, D, H, W].
        presence: logits [B, K - 1] of whether the images show each class but background, where a head tells.
        inner: maps around the bottleneck, [B, C, d, h, w] by name: ``bottleneck`` is what the way up starts from,
            ``encoder`` what the way down ends with; AdaMM has ``style`` and ``content`` between them.
    """

    logits: Tensor
    features: Tensor
    aux: tuple[Tensor, ...] = field(default=())
    presence: Tensor | None = None
    inner: Mapping[str, Tensor] = field(default_factory=dict)


class Backbone(nn.Module):
    """Any network that can miss a modality.

    Voxels of an absent modality never influence a result, whatever they hold, NaN included.

    Attributes:
        modalities: names, in channel order.
        gate: what inference does with the presence of classes, see :func:`mtg_lab.backbones.presence.gated`.
        presence: the head that tells it from the last features, if there is one.
    """

    modalities: tuple[str, ...]

    def __init__(self) -> None:
        super().__init__()
        self.gate = "off"
        self.presence: nn.Module | None = None

    def forward(self, images: Tensor, present: Tensor) -> Prediction:
        """Logits of ``images`` [B, M, D, H, W], of which only those with ``present`` bool [B, M] are looked at."""
        raise TypeError(f"{type(self).__name__} must define forward(images, present)")

    def told(self, prediction: Prediction) -> Prediction:
        """The prediction with the presence of classes, where this network has a head for it; what it answers with."""
        return replace(prediction, presence=self.presence(prediction.features)) if self.presence else prediction

    def final_logits(self, prediction: Prediction) -> Tensor:
        """Logits as a mask is made of them, after the gate; training takes those before it."""
        return gated(prediction.logits, prediction.presence, self.gate)


class ModalityBackbone(Backbone):
    """A network with one encoder a modality, so that latents have a room of their own.

    Attributes:
        mixture: weights over modalities; absent latents are replaced by their mixture, and an aligning method uses
            the same weights for its anchor.
    """

    mixture: "Mixture"

    def encode(self, images: Tensor, present: Tensor) -> Latents:
        """Latents of every modality; those of an absent one are zero."""
        raise TypeError(f"{type(self).__name__} must define encode(images, present)")

    def decode(self, latents: Latents, present: Tensor) -> Prediction:
        """Logits from latents, looking only at those with ``present``; may be called again with other masks."""
        raise TypeError(f"{type(self).__name__} must define decode(latents, present)")

    def decode_each(self, latents: Latents, masks: Tensor, together: int = 1) -> Iterator[Prediction]:
        """What :meth:`decode` answers to one sample under each of several masks, ``together`` of them in a batch.

        A network may work out once what these answers have in common; then they agree to rounding.

        Args:
            latents: of one sample, [1, M, C_s, d_s, h_s, w_s].
            masks: bool [S, M].
            together: how many masks at once.
        """
        for some in masks.split(together):
            yield self.decode(Latents([z.expand(len(some), *z.shape[1:]) for z in latents]), some)

    def decode_alone(self, latents: Latents, sample: Tensor, modality: Tensor) -> Prediction:
        """What :meth:`decode` answers to a modality of a sample by itself, several such pairs in one batch.

        A network may leave out what it knows of the others, that they are not there; then they agree to rounding.

        Args:
            latents: [B, M, C_s, d_s, h_s, w_s].
            sample, modality: int64 [S], the pairs; their latents mean something.
        """
        alone = torch.eye(len(self.modalities), dtype=torch.bool, device=sample.device)
        return self.decode(Latents([_one_modality_a_row(z, sample, modality) for z in latents]), alone[modality])

    def uni_decode(self, latents: Latents, modality: int) -> Prediction:
        """Logits from the latents of one modality alone, by a small decoder that all modalities share.

        Only some networks have one, where built with ``uni_decoder=True``; samples that lack the modality are answered
        from zeros.

        Raises:
            InputError: this network has none.
        """
        raise InputError(
            f"this {type(self).__name__} has no uni-modal decoder; take rfnet, mmformer or m2ftrans with the backbone "
            "option uni_decoder=true"
        )

    def forward(self, images: Tensor, present: Tensor) -> Prediction:
        """``decode(encode(images, present), present)``."""
        return self.decode(self.encode(images, present), present)


class Mixture(nn.Module):
    """Weights over modalities: w = softmax(theta), theta = 0 at the start (Mind the Gap, released fragment).

    Args:
        modalities: M.
        learned: whether theta is trained; otherwise the weights stay uniform, 1/M.
        fill: what stands for an absent latent, in training and at test alike: ``zeros``, or the ``anchor``, the mixture
            of the present ones with weights renormalised over them.

    Raises:
        ValueError: an unknown ``fill``.
    """

    def __init__(self, modalities: int, learned: bool = True, fill: str = "zeros"):
        super().__init__()
        if fill not in FILLS:
            raise ValueError(f"fill is {fill!r}; it can be {' or '.join(FILLS)}")
        self.theta = nn.Parameter(torch.zeros(modalities), requires_grad=learned)
        self.fill = fill

    def weights(self, present: Tensor) -> Tensor:
        """[B, M] float32, zero for absent modalities, renormalised to one over the present ones."""
        scores = self.theta.float().expand(present.shape).masked_fill(~present, float("-inf"))
        return torch.softmax(scores, dim=1)

    def barycentre(self, latents: Tensor, present: Tensor) -> Tensor:
        """sum_m w_m z_m over the present modalities: [B, M, C, ...] to [B, C, ...].

        This is the anchor of the ``mse`` alignment (Mind the Gap section 3 in the words of its fragment). It is a
        weighted mean of paired latents, not a draw from the mixture distribution sum_m w_m q_m.
        """
        return mixed_modalities(mask_latents(latents, present), self.weights(present)[:, None])[:, 0]

    def fill_absent(self, latents: Latents, present: Tensor) -> list[Tensor]:
        """Latents of every scale with ``fill`` where a modality is absent; what stood there is not looked at."""
        visible = [mask_latents(z, present) for z in latents]
        if self.fill == "zeros":
            return visible
        anchors = [self.barycentre(z, present) for z in visible]
        return [
            torch.where(present.reshape(present.shape + (1,) * (z.ndim - 2)), z, anchor[:, None])
            for z, anchor in zip(visible, anchors, strict=True)
        ]

    def seen(self, present: Tensor) -> Tensor:
        """Bool [B, M]: whose latents mean something after :meth:`fill_absent`; with the anchor all of them do."""
        return present if self.fill == "zeros" else torch.ones_like(present)


def mask_latents(latents: Tensor, present: Tensor) -> Tensor:
    """Zero the latents of absent modalities; a choice of values, not a product, so that NaN cannot pass."""
    if bool(present.all()):
        return latents
    joined = as_channels(latents)  # one mask value a channel: in channels-last memory twice as fast as one a modality
    there = present.repeat_interleave(latents.shape[2], dim=1).reshape(joined.shape[:2] + (1,) * (joined.ndim - 2))
    zero = torch.zeros((), dtype=latents.dtype, device=latents.device)
    return torch.where(there, joined, zero).unflatten(1, latents.shape[1:3])


def _one_modality_a_row(z: Tensor, sample: Tensor, modality: Tensor) -> Tensor:
    """[B, M, C, d, h, w] to [S, M, C, d, h, w], laid out alike; back through the copy goes one modality, not M."""
    rows = torch.arange(len(sample), device=z.device)
    nothing = rows_of_zeros(as_channels(z), len(rows)).unflatten(1, z.shape[1:3])
    return nothing.index_put((rows, modality), z[sample, modality])


Encoder = Callable[[Tensor], Tensor | Sequence[Tensor]]  # [b, 1, D, H, W] to one or several scales [b, C_s, d, h, w]


def encode_each(encoders: Sequence[Encoder], images: Tensor, present: Tensor) -> Latents:
    """Latents of every modality from an encoder of its own; absent images are not looked at, and cost nothing.

    Args:
        encoders: M, each to the same number of scales; they normalise within a sample, never over the batch.
        images: [B, M, D, H, W].
        present: bool [B, M], at least one a sample.
    """
    encoded = [encode_present(encoder, images[:, m : m + 1], present[:, m]) for m, encoder in enumerate(encoders)]
    like = next(scales for scales in encoded if scales is not None)
    joined = [
        side_by_side(*(torch.zeros_like(z) if scales is None else scales[s] for scales in encoded))
        for s, z in enumerate(like)
    ]
    return Latents([z.unflatten(1, (len(encoded), -1)) for z in joined])


def encode_present(encoder: Encoder, images: Tensor, there: Tensor) -> list[Tensor] | None:
    """Scales of one modality for the samples that have it, zero for the others; None if nobody has it.

    Args:
        encoder: of this modality.
        images: [B, 1, D, H, W].
        there: bool [B].
    """
    rows = there.nonzero()[:, 0]
    if not len(rows):
        return None
    everybody = len(rows) == len(there)
    if not everybody:
        images = images[rows]
    encoded = encoder(channels_last(images))
    scales = [encoded] if isinstance(encoded, Tensor) else list(encoded)
    if everybody:
        return scales
    return [rows_of_zeros(z, len(there)).index_copy_(0, rows, z) for z in scales]


def check_images(images: Tensor, present: Tensor, modalities: tuple[str, ...]) -> None:
    """Refuse shapes that cannot be meant.

    Raises:
        ValueError: images are not [B, M, D, H, W], the mask is not bool [B, M], or a sample has no modality.
    """
    expected = f"[B, {len(modalities)}, D, H, W] for {', '.join(modalities)}"
    if images.ndim != 5 or images.shape[1] != len(modalities):
        raise ValueError(f"images have shape {list(images.shape)}; expected {expected}")
    if present.dtype != torch.bool or present.shape != images.shape[:2]:
        raise ValueError(
            f"present is {present.dtype} {list(present.shape)}; expected bool {list(images.shape[:2])}, true = there"
        )
    if not bool(present.any(dim=1).all()):
        raise ValueError("a sample has no modality present; every sample needs at least one")


def with_latents(backbone: Backbone, who: str) -> ModalityBackbone:
    """The same backbone, if it has latents.

    Args:
        backbone: any.
        who: needs them, for the message.

    Raises:
        InputError: it has none.
    """
    if isinstance(backbone, ModalityBackbone):
        return backbone
    raise InputError(
        f"{who} needs latents, one a modality, and this backbone ({type(backbone).__name__}) has none; choose unet, "
        "rfnet, mmformer or m2ftrans"
    )


def map_sizes(backbone: Backbone, edge: int = 8) -> dict[str, int]:
    """Channels of ``logits``, ``features`` and of each of the inner maps, asked of the network itself."""
    training, parameter = backbone.training, next(backbone.parameters())
    images = torch.zeros(1, len(backbone.modalities), edge, edge, edge, device=parameter.device)
    with torch.no_grad():
        found = backbone.eval()(images, torch.ones(images.shape[:2], dtype=torch.bool, device=images.device))
    backbone.train(training)
    return {k: z.shape[1] for k, z in {"logits": found.logits, "features": found.features, **found.inner}.items()}
