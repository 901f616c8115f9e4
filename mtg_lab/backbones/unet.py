"""The lab's first backbone: a small convolutional encoder per modality and a 3-D U-Net predictor (MONAI's blocks)."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from monai.networks.blocks.dynunet_block import UnetBasicBlock, UnetUpBlock
from torch import Tensor, nn
from torch.nn import functional

from mtg_lab.backbones.contract import (
    Latents,
    Mixture,
    ModalityBackbone,
    Prediction,
    check_images,
    encode_present,
    mask_latents,
)

FILLS = ("zeros", "anchor")
_NORM = ("INSTANCE", {"affine": True})
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
        fill: what stands for an absent latent: ``zeros``, or the ``anchor``, the mixture of the present ones with
            weights renormalised over them, in training and at test alike.
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
        if fill not in FILLS:
            raise ValueError(f"fill is {fill!r}; it can be {' or '.join(FILLS)}")
        if min(width, latent, depth) < 1:
            raise ValueError(f"width {width}, latent {latent} and depth {depth} must be at least 1")
        if not 0 <= aux_heads < depth:
            raise ValueError(f"aux_heads is {aux_heads}; with depth {depth} it can be 0 to {depth - 1}")
        self.modalities, self.fill, self.depth = tuple(modalities), fill, depth
        self.mixture = Mixture(len(self.modalities), learned_mixture)
        self.encoders = nn.ModuleList(_block(1, latent) for _ in self.modalities)
        widths = [width * 2**stage for stage in range(depth + 1)]
        self.stem = _block(latent * len(self.modalities), width)
        self.down = nn.ModuleList(_block(a, b, stride=2) for a, b in pairwise(widths))
        self.up = nn.ModuleList(
            UnetUpBlock(3, b, a, kernel_size=3, stride=1, upsample_kernel_size=2, norm_name=_NORM, act_name=_ACT)
            for a, b in reversed(list(pairwise(widths)))
        )
        self.head = nn.Conv3d(width, classes, kernel_size=1)
        self.aux = nn.ModuleList(nn.Conv3d(w, classes, kernel_size=1) for w in widths[1 : 1 + aux_heads])

    def encode(self, images: Tensor, present: Tensor) -> Latents:
        """One scale, full resolution: [B, M, C, D, H, W]; zero where a modality is absent."""
        check_images(images, present, self.modalities)
        encoded = [
            encode_present(encoder, images[:, m : m + 1], present[:, m]) for m, encoder in enumerate(self.encoders)
        ]
        like = next(z for z in encoded if z is not None)  # every sample has one at least
        return Latents([torch.stack([torch.zeros_like(like) if z is None else z for z in encoded], dim=1)])

    def decode(self, latents: Latents, present: Tensor) -> Prediction:
        """Fill absent latents, join modalities as channels, run the U-Net; any grid size (padded inside)."""
        (z,) = latents
        if self.fill == "anchor":
            z = mask_latents(z, present)
            anchor = self.mixture.barycentre(z, present)  # [B, C, D, H, W]
            z = torch.where(present.reshape(*present.shape, 1, 1, 1, 1), z, anchor[:, None])
            visible = list(z.unbind(dim=1))
        else:
            visible = [_visible(z_m, there) for z_m, there in zip(z.unbind(dim=1), present.unbind(dim=1), strict=True)]
        size = z.shape[-3:]
        joined = torch.cat(visible, dim=1)  # [B, M*C, D, H, W]
        padding = _padding(size, 2**self.depth)
        padded = functional.pad(joined, padding) if any(padding) else joined
        skips = [self.stem(padded)]
        for down in self.down:
            skips.append(down(skips[-1]))
        x, decoded = skips.pop(), []
        for up in self.up:
            x = up(x, skips.pop())
            decoded.append(x)
        features = _unpadded(x, size, 1)
        coarse = [_unpadded(d, size, 2**s) for s, d in enumerate(decoded[-2::-1], start=1)]  # 1/2, 1/4, ... resolution
        return Prediction(
            logits=self.head(features),
            features=features,
            aux=tuple(head(c) for head, c in zip(self.aux, coarse, strict=False)),
        )


def _block(channels_in: int, channels_out: int, stride: int = 1) -> nn.Module:
    return UnetBasicBlock(3, channels_in, channels_out, 3, stride, norm_name=_NORM, act_name=_ACT)


def _visible(latent: Tensor, there: Tensor) -> Tensor:
    """One modality's latent [B, C, ...], zero for the samples that lack it; no copy where all have it."""
    if bool(there.all()):
        return latent
    return mask_latents(latent[:, None], there[:, None])[:, 0] if bool(there.any()) else torch.zeros_like(latent)


def _unpadded(x: Tensor, size: Sequence[int], shrink: int) -> Tensor:
    """The part of a feature map at 1/``shrink`` resolution that covers a grid of ``size``, without its padding."""
    d, h, w = (-(-n // shrink) for n in size)
    return x[..., :d, :h, :w]


def _padding(size: Sequence[int], multiple: int) -> list[int]:
    """Zeros behind each axis that bring it to a multiple, and to two voxels at least at the coarsest stage."""
    target = [max(-(-n // multiple), 2) * multiple for n in size]
    return [pad for n, t in zip(reversed(size), reversed(target), strict=True) for pad in (0, t - n)]
