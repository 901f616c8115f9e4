"""Networks that put something in place of an absent sequence: an image, a latent, or what other patients show there.

Three of the six categories of strategies that AdaMM's authors tell apart (arXiv 2509.15017): data generation, feature
generation, sample retrieval. Each is here one small member around the same trunk, the lab's U-Net.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from monai.networks.nets.unet import UNet as PlainUNet
from torch import Tensor, nn
from torch.nn import functional

from mtg_lab.backbones.blocks import check_sizes, conv_block, covering, whole_cells
from mtg_lab.backbones.contract import (
    Backbone,
    Latents,
    Prediction,
    check_images,
    mask_latents,
)
from mtg_lab.backbones.layout import PointConv, as_channels, side_by_side
from mtg_lab.backbones.unet import UNet


class Synthesis(Backbone):
    """Data generation: a network paints the absent images, the U-Net segments as if nothing were missing.

    The painter is MONAI's U-Net, told by one plane a sequence which of them it sees; it has no norms, as they take away
    the very grey values that it is to hit. The trunk gets the true image wherever there is one. Painted images are
    ``inner["synthesised"]`` [B, M, D, H, W], also of the present ones.

    Args:
        modalities: names, in channel order.
        classes: K, background included.
        painter_width: channels of the painter's first stage; the next two have twice and four times as many.
        **trunk: options of :class:`~mtg_lab.backbones.UNet`.

    Raises:
        ValueError: a size out of range, or a ``fill``.
    """

    def __init__(self, modalities: Sequence[str], classes: int, painter_width: int = 16, **trunk: Any):
        super().__init__()
        check_sizes(painter_width=painter_width)
        self.trunk = UNet(modalities, classes, **_without_fill(trunk))
        self.modalities = self.trunk.modalities
        count = len(self.modalities)
        self.painter = PlainUNet(
            3, 2 * count, count, channels=[painter_width, 2 * painter_width, 4 * painter_width], strides=(2, 2),
            num_res_units=1, adn_ordering="A", act=("leakyrelu", {"negative_slope": 0.1}),
        )  # fmt: skip

    def forward(self, images: Tensor, present: Tensor) -> Prediction:
        """The trunk's prediction on completed images."""
        check_images(images, present, self.modalities)
        size, visible = images.shape[-3:], mask_latents(images, present)
        told = torch.cat([visible, _planes(present, visible)], dim=1)
        painted = covering(self.painter(whole_cells(told, 4)), size, 1).to(images.dtype)
        completed = torch.where(present[..., None, None, None], visible, painted)
        answer = self.trunk(completed, torch.ones_like(present))
        return self.told(replace(answer, inner={**answer.inner, "synthesised": painted}))


class MeanImages(Backbone):
    """Any trained network, given the mean of the present images in place of each absent one.

    With z-scored images zeros are the mean over the brain already; this is the mean over sequences at each voxel.

    Args:
        inner: the network.
    """

    def __init__(self, inner: Backbone):
        super().__init__()
        self.inner, self.modalities, self.gate = inner, inner.modalities, inner.gate

    def forward(self, images: Tensor, present: Tensor) -> Prediction:
        """What the network answers as if nothing were absent."""
        check_images(images, present, self.modalities)
        visible = mask_latents(images, present)
        mean = visible.sum(dim=1, keepdim=True) / present.sum(dim=1)[:, None, None, None, None]
        completed = torch.where(present[..., None, None, None], visible, mean.to(images.dtype))
        return self.inner(completed, torch.ones_like(present))


class FeatureGeneration(UNet):
    """Feature generation: a small network guesses the latents of absent sequences from those of the present ones.

    Guesses are ``inner["generated"]`` [B, M, C, D, H, W], also of the present ones.

    Args:
        modalities: names, in channel order.
        classes: K, background included.
        generator_width: channels inside the guessing network.
        **trunk: options of :class:`~mtg_lab.backbones.UNet`.

    Raises:
        ValueError: a size out of range, or a ``fill``.
    """

    def __init__(self, modalities: Sequence[str], classes: int, generator_width: int = 16, **trunk: Any):
        super().__init__(modalities, classes, **_without_fill(trunk))
        check_sizes(generator_width=generator_width)
        count = len(self.modalities)
        self.generator = nn.Sequential(
            conv_block(count * self.latent + count, generator_width),
            conv_block(generator_width, generator_width),
            PointConv(generator_width, count * self.latent),
        )

    def decode(self, latents: Latents, present: Tensor) -> Prediction:
        """The trunk's prediction with guesses where latents are absent."""
        (z,) = latents
        size, visible = z.shape[-3:], mask_latents(z, present)
        joined = self._padded(as_channels(visible))
        generated = self.generator(side_by_side(joined, _planes(present, joined)))
        generated = generated.unflatten(1, (len(self.modalities), -1))
        there = present[..., None, None, None, None]
        filled = torch.where(there, joined.unflatten(1, generated.shape[1:3]), generated)
        answer = self._u_net(self.stem(as_channels(filled)), size)
        return replace(answer, inner={**answer.inner, "generated": covering(generated, size, 1)})


class SampleRetrieval(UNet):
    """Sample retrieval: an absent latent is borrowed from the most similar voxels of patients who have everything.

    A memory keeps the latents of voxels of complete patients, of all sequences (:meth:`remember`). For every voxel, at
    half the resolution, the ``neighbours`` entries are found that are nearest in the latents of the present sequences;
    the mean of what they have of the absent ones, weighted by exp(-distance^2 / their mean distance^2), stands in.
    Nothing of the search is trained. An empty memory gives zeros.

    Args:
        modalities: names, in channel order.
        classes: K, background included.
        memory: how many voxels are remembered; the oldest are forgotten.
        neighbours: how many of them answer.
        **trunk: options of :class:`~mtg_lab.backbones.UNet`.

    Raises:
        ValueError: a size out of range, more neighbours than memories, or a ``fill``.
    """

    def __init__(self, modalities: Sequence[str], classes: int, memory: int = 512, neighbours: int = 8, **trunk: Any):
        super().__init__(modalities, classes, **_without_fill(trunk))
        check_sizes(memory=memory, neighbours=neighbours)
        if neighbours > memory:
            raise ValueError(f"neighbours is {neighbours}; the memory holds {memory}, give at most that")
        self.neighbours = neighbours
        self.register_buffer("memory", torch.zeros(memory, len(self.modalities), self.latent))
        self.register_buffer("remembered", torch.zeros((), dtype=torch.int64))  # voxels so far, forgotten ones too

    @torch.no_grad()
    def remember(self, voxels: Tensor) -> None:
        """Keep latents [n, M, C] of voxels of patients who have every sequence."""
        memory, count = self.get_buffer("memory"), self.get_buffer("remembered")
        voxels = voxels[-len(memory) :]
        places = (torch.arange(len(voxels), device=memory.device) + count) % len(memory)
        memory[places] = voxels.to(memory.dtype)
        count += len(voxels)

    def decode(self, latents: Latents, present: Tensor) -> Prediction:
        """The trunk's prediction with borrowed latents where they are absent."""
        (z,) = latents
        size, visible = z.shape[-3:], mask_latents(z, present)
        joined = self._padded(as_channels(visible))
        if not present.all() and int(self.get_buffer("remembered")) >= self.neighbours:
            there = present[..., None, None, None, None]
            own, borrowed = (x.unflatten(1, z.shape[1:3]) for x in (joined, self.borrowed(joined, present)))
            joined = as_channels(torch.where(there, own, borrowed))
        return self._u_net(self.stem(joined), size)

    @torch.no_grad()
    def borrowed(self, joined: Tensor, present: Tensor) -> Tensor:
        """What the memory says of every sequence, [B, M C, D, H, W] for latents of that shape; even sizes."""
        known = self.get_buffer("memory")[: int(self.get_buffer("remembered"))].flatten(1)  # [N, M C]
        coarse = functional.avg_pool3d(joined.float(), 2)
        seen = present.repeat_interleave(known.shape[1] // present.shape[1], dim=1).float()  # [B, M C]
        queries = coarse.flatten(2).transpose(1, 2) * seen[:, None]  # [B, V, M C]
        with torch.autocast(joined.device.type, enabled=False):
            squares = seen @ known.square().T  # [B, N]
            distance = queries.square().sum(dim=2, keepdim=True) - 2 * queries @ known.T + squares[:, None]
            distance = distance.clamp_min(0)
            nearest = distance.topk(self.neighbours, dim=2, largest=False)
            weight = (-nearest.values / nearest.values.mean(dim=2, keepdim=True).clamp_min(1e-12)).softmax(dim=2)
            shares = torch.zeros_like(distance).scatter_(2, nearest.indices, weight)
            found = (shares @ known).transpose(1, 2).unflatten(2, coarse.shape[2:])
        return functional.interpolate(found, joined.shape[2:], mode="trilinear", align_corners=False).to(joined.dtype)


def _without_fill(trunk: dict[str, Any]) -> dict[str, Any]:
    if "fill" in trunk:
        raise ValueError("fill is no option of a network that fills what is absent itself")
    return trunk


def _planes(present: Tensor, like: Tensor) -> Tensor:
    """One plane a sequence, one where it is there: [B, M] to [B, M, D, H, W]."""
    return present.to(like.dtype)[..., None, None, None].expand(-1, -1, *like.shape[2:])
