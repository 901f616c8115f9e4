"""The lab's first backbone: a small convolutional encoder per modality and a 3-D U-Net predictor (MONAI's blocks)."""

from collections.abc import Iterator, Sequence
from functools import partial, reduce
from itertools import pairwise

import torch
from monai.networks.blocks.dynunet_block import UnetBasicBlock
from torch import Tensor, nn

from mtg_lab.backbones.blocks import covering, whole_cells
from mtg_lab.backbones.contract import (
    Latents,
    Mixture,
    ModalityBackbone,
    Prediction,
    check_images,
    encode_each,
)
from mtg_lab.backbones.layout import PointConv, UpBlock, apart, as_channels, convolved, taken

_NORM = ("instance_any_layout", {"affine": True})
_ACT = ("leakyrelu", {"inplace": True, "negative_slope": 0.01})


class UNet(ModalityBackbone):
    """Encoders E_m at full resolution, latents side by side, a U-Net G on top (Mind the Gap section 1: z_m, G).

    ::

        images [B, M, D, H, W] -> E_m -> latents [B, M, C, D, H, W] -> fill absent -> [B, M*C, D, H, W] -> U-Net

    Args:
        modalities: names, in channel order.
        classes: K, background included.
        width: channels of the U-Net's first stage; they double at each of the ``depth`` halvings.
        latent: C, channels of a modality's latent.
        depth: how often the grid is halved.
        fill: what stands for an absent latent, ``zeros`` or ``anchor``, see :class:`~mtg_lab.backbones.Mixture`.
        learned_mixture: whether the mixture's weights are trained.
        aux_heads: auxiliary logits at 1/2, 1/4, ... resolution for deep supervision.

    Raises:
        ValueError: an unknown ``fill``, sizes below one, or more auxiliary heads than there are decoder stages.
    """

    def __init__(
        self,
        modalities: Sequence[str],
        classes: int,
        width: int = 12,
        latent: int = 8,
        depth: int = 3,
        fill: str = "zeros",
        learned_mixture: bool = True,
        aux_heads: int = 0,
    ):
        super().__init__()
        if min(width, latent, depth) < 1:
            raise ValueError(f"width {width}, latent {latent} and depth {depth} must be at least 1")
        if not 0 <= aux_heads < depth:
            raise ValueError(f"aux_heads is {aux_heads}; with depth {depth} it can be 0 to {depth - 1}")
        self.modalities, self.depth, self.latent = tuple(modalities), depth, latent
        self.mixture = Mixture(len(self.modalities), learned_mixture, fill)
        self.encoders = nn.ModuleList(_block(1, latent) for _ in self.modalities)
        widths = [width * 2**stage for stage in range(depth + 1)]
        self.stem = _Stem(3, latent * len(self.modalities), width, 3, stride=1, norm_name=_NORM, act_name=_ACT)
        self.down = nn.ModuleList(_block(a, b, stride=2) for a, b in pairwise(widths))
        self.up = nn.ModuleList(
            UpBlock(3, b, a, kernel_size=3, stride=1, upsample_kernel_size=2, norm_name=_NORM, act_name=_ACT)
            for a, b in reversed(list(pairwise(widths)))
        )
        self.head = PointConv(width, classes)
        self.aux = nn.ModuleList(PointConv(w, classes) for w in widths[1 : 1 + aux_heads])

    def encode(self, images: Tensor, present: Tensor) -> Latents:
        """One scale, full resolution: [B, M, C, D, H, W]; zero where a modality is absent."""
        check_images(images, present, self.modalities)
        return encode_each(list(self.encoders), images, present)

    def decode(self, latents: Latents, present: Tensor) -> Prediction:
        """Fill absent latents, join modalities as channels, run the U-Net; any grid size (padded inside)."""
        (z,) = self.mixture.fill_absent(latents, present)
        return self._u_net(self.stem(self._padded(as_channels(z))), z.shape[-3:])

    def decode_each(self, latents: Latents, masks: Tensor, together: int = 1) -> Iterator[Prediction]:
        """As the contract says; the U-Net's first convolution, its largest, is done once for all masks.

        It is linear, hence the sum of one share a modality, and of one of the anchor where that fills gaps.
        """
        if self._fills_otherwise():
            yield from super().decode_each(latents, masks, together)
            return
        (z,), first = latents, self.stem.conv1.conv
        count, size = len(self.modalities), z.shape[-3:]
        padded = self._padded(as_channels(z))
        weights = self._first_weights()
        convolve = partial(convolved, padding=first.padding)
        shares = apart(convolve(padded, weights.flatten(0, 1), groups=count), [first.out_channels] * count)

        def entered(mask: Tensor) -> Tensor:
            parts = [shares[m] for m in mask.nonzero()[:, 0]]
            if self.mixture.fill == "anchor" and not mask.all():
                anchor = self.mixture.barycentre(padded.unflatten(1, (count, -1)), mask[None])
                parts.append(convolve(anchor, weights[~mask].sum(dim=0)))
            return reduce(torch.add, parts)

        for some in masks.split(together):
            yield self._u_net(self.stem.after(torch.cat([entered(mask) for mask in some])), size)

    def decode_alone(self, latents: Latents, sample: Tensor, modality: Tensor) -> Prediction:
        """As the contract says; the first convolution takes the channels of the one modality, not zeros beside them."""
        if self._fills_otherwise():
            return super().decode_alone(latents, sample, modality)
        (z,), first = latents, self.stem.conv1.conv
        weights = self._first_weights()
        # The anchor, which may stand for the others, is the mixture of what is there: the one modality again.
        chosen = weights.sum(dim=0).expand_as(weights) if self.mixture.fill == "anchor" else weights
        asked = [(modality == m).nonzero()[:, 0] for m in range(len(self.modalities))]
        maps = apart(self._padded(as_channels(z)), [z.shape[2]] * len(asked))
        entered = torch.cat([
            convolved(taken(maps[m], sample[pairs]), chosen[m], padding=first.padding)
            for m, pairs in enumerate(asked) if len(pairs)
        ])  # fmt: skip
        entered = taken(entered, torch.cat(asked).argsort())
        return self._u_net(self.stem.after(entered), z.shape[-3:])

    def _first_weights(self) -> Tensor:
        """Those of the first convolution by modality: [M, width, C, 3, 3, 3]."""
        return self.stem.conv1.conv.weight.unflatten(1, (len(self.modalities), -1)).transpose(0, 1)

    def _fills_otherwise(self) -> bool:
        """Whether a network made from this one has a way of its own to decode, of which the shortcuts know nothing."""
        return type(self).decode is not UNet.decode

    def _padded(self, z: Tensor) -> Tensor:
        """Zeros behind [..., D, H, W], to a grid that halves ``depth`` times and leaves two voxels, for the norm."""
        return whole_cells(z, 2**self.depth, least=2)

    def _u_net(self, stem: Tensor, size: Sequence[int]) -> Prediction:
        """From the first stage's map [B, width, ...], padded, to the prediction on a grid of ``size``."""
        skips = [stem]
        for down in self.down:
            skips.append(down(skips[-1]))
        inner = {"encoder": skips[-2], "bottleneck": skips[-1]}
        x, decoded = skips.pop(), []
        for up in self.up:
            x = up(x, skips.pop())
            decoded.append(x)
        features = covering(x, size, 1)
        coarse = [covering(d, size, 2**s) for s, d in enumerate(decoded[-2::-1], start=1)]  # 1/2, 1/4, ... resolution
        aux = tuple(head(c) for head, c in zip(self.aux, coarse, strict=False))
        return self.told(Prediction(self.head(features), features, aux, inner=inner))


class _Stem(UnetBasicBlock):
    """MONAI's block, which can be entered after its first convolution."""

    def forward(self, inp: Tensor) -> Tensor:
        """[B, C_in, D, H, W] to [B, C_out, D, H, W]."""
        return self.after(self.conv1(inp))

    def after(self, convolved: Tensor) -> Tensor:
        """What follows the first convolution: [B, C_out, D, H, W] to the same."""
        out = self.lrelu(self.norm1(convolved))
        return self.lrelu(self.norm2(self.conv2(out)))


def _block(channels_in: int, channels_out: int, stride: int = 1) -> nn.Module:
    return UnetBasicBlock(3, channels_in, channels_out, 3, stride, norm_name=_NORM, act_name=_ACT)
