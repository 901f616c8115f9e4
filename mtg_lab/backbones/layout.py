"""Channels-last memory on the processor: one layout from the image to the logits.

oneDNN convolves with the channels of a voxel side by side. A map whose voxels lie side by side instead is turned round
on the way into every convolution, its gradient on the way out, and the latter costs more than the convolution. What
turns a map back without need, or gets slow on it, is here done otherwise; numbers are those of PyTorch's own modules.
"""

from typing import Any

import torch
from monai.networks.blocks.dynunet_block import UnetUpBlock
from monai.networks.layers.factories import Norm
from torch import Tensor, nn
from torch.nn import functional

_LAST = torch.channels_last_3d


def is_channels_last(x: Tensor) -> bool:
    """Whether the channels of a voxel of [B, C, D, H, W] lie side by side, and not its voxels as well (C = 1)."""
    return x.is_contiguous(memory_format=_LAST) and not x.is_contiguous()


def channels_last(image: Tensor) -> Tensor:
    """An image [B, 1, D, H, W] on the processor as one that is channels-last; on other devices as it is.

    With a single channel both layouts are the same memory, and only the stride of the channel tells which is meant.
    """
    return image[:, 0, ..., None].movedim(-1, 1) if image.device.type == "cpu" else image


def rows_of_zeros(x: Tensor, rows: int) -> Tensor:
    """Zeros [rows, C, D, H, W] laid out as ``x`` [b, C, D, H, W]."""
    if is_channels_last(x):
        return x.new_zeros(rows, *x.shape[2:], x.shape[1]).movedim(-1, 1)
    return x.new_zeros(rows, *x.shape[1:])


class InstanceNorm(nn.InstanceNorm3d):
    """``nn.InstanceNorm3d`` that leaves channels-last memory channels-last."""

    def forward(self, input: Tensor) -> Tensor:
        """[B, C, D, H, W] to the same."""
        if not is_channels_last(input):
            return super().forward(input)
        if input.element_size() * input.shape[1] <= 16:
            # Too few channels for vector instructions to run along: turning round twice takes less time.
            return super().forward(input).contiguous(memory_format=_LAST)
        each = [
            functional.batch_norm(x, None, None, self.weight, self.bias, training=True, eps=self.eps)
            for x in input.split(1)
        ]
        return torch.cat(each)


@Norm.factory_function("instance_any_layout")
def _norm(spatial_dims: int) -> type[nn.Module]:
    """How MONAI's blocks are asked for :class:`InstanceNorm`."""
    if spatial_dims != 3:
        raise ValueError(f"instance_any_layout is for volumes; spatial_dims is {spatial_dims}")
    return InstanceNorm


def side_by_side(*maps: Tensor) -> Tensor:
    """Maps [B, C, D, H, W] joined as channels; each gets its gradient in memory of its own."""
    return _SideBySide.apply(*maps)


class _SideBySide(torch.autograd.Function):
    """``torch.cat``, but its gradients would be views into the joined one, over which every later pass crawls."""

    @staticmethod
    def forward(ctx: Any, *maps: Tensor) -> Tensor:
        ctx.channels = [x.shape[1] for x in maps]
        return torch.cat(maps, dim=1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        kind = _LAST if is_channels_last(gradient) else torch.contiguous_format
        return tuple(part.contiguous(memory_format=kind) for part in gradient.split(ctx.channels, dim=1))


class UpBlock(UnetUpBlock):
    """MONAI's block of a U-Net's way up, joining maps with :func:`side_by_side`."""

    def forward(self, inp: Tensor, skip: Tensor) -> Tensor:
        """[B, 2 C, d, h, w] and the skip connection [B, C, 2 d, 2 h, 2 w] to [B, C, 2 d, 2 h, 2 w]."""
        return self.conv_block(side_by_side(self.transp_conv(inp), skip))
