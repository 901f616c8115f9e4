"""The lab's first backbone: a small convolutional encoder per modality and a 3-D U-Net predictor (MONAI's blocks)."""

from collections.abc import Sequence
from itertools import pairwise

from monai.networks.blocks.dynunet_block import UnetBasicBlock
from torch import Tensor, nn

from mtg_lab.backbones.blocks import covering, padded_to
from mtg_lab.backbones.contract import (
    Latents,
    Mixture,
    ModalityBackbone,
    Prediction,
    check_images,
    encode_each,
)
from mtg_lab.backbones.layout import PointConv, UpBlock

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
        self.modalities, self.depth = tuple(modalities), depth
        self.mixture = Mixture(len(self.modalities), learned_mixture, fill)
        self.encoders = nn.ModuleList(_block(1, latent) for _ in self.modalities)
        widths = [width * 2**stage for stage in range(depth + 1)]
        self.stem = _block(latent * len(self.modalities), width)
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
        size = z.shape[-3:]
        joined = z.flatten(1, 2)  # [B, M*C, D, H, W]
        multiple = 2**self.depth
        # Two voxels at least at the coarsest stage, for its norm.
        padded = padded_to(joined, [max(-(-n // multiple), 2) * multiple for n in size])
        skips = [self.stem(padded)]
        for down in self.down:
            skips.append(down(skips[-1]))
        x, decoded = skips.pop(), []
        for up in self.up:
            x = up(x, skips.pop())
            decoded.append(x)
        features = covering(x, size, 1)
        coarse = [covering(d, size, 2**s) for s, d in enumerate(decoded[-2::-1], start=1)]  # 1/2, 1/4, ... resolution
        return Prediction(
            logits=self.head(features),
            features=features,
            aux=tuple(head(c) for head, c in zip(self.aux, coarse, strict=False)),
        )


def _block(channels_in: int, channels_out: int, stride: int = 1) -> nn.Module:
    return UnetBasicBlock(3, channels_in, channels_out, 3, stride, norm_name=_NORM, act_name=_ACT)
