"""Channels-last memory on the processor: one layout from the image to the logits.

oneDNN convolves with the channels of a voxel side by side. A map whose voxels lie side by side instead is turned round
on the way into every convolution, its gradient on the way out, and the latter costs more than the convolution. What
turns a map back without need, or gets slow on it, is here done otherwise; numbers are those of PyTorch's own modules.
"""

from collections.abc import Sequence
from typing import Any

import torch
from monai.networks.blocks.dynunet_block import UnetUpBlock
from monai.networks.layers.factories import Norm
from torch import Tensor, nn
from torch.nn import functional

_LAST = torch.channels_last_3d
_NOTHING = torch.empty(0)  # where a norm by given statistics would write its own
_with_statistics = torch.ops.aten.native_batch_norm.out


def is_channels_last(x: Tensor) -> bool:
    """Whether these are volumes [B, C, D, H, W], the channels of a voxel side by side, but not the voxels (C = 1)."""
    return x.ndim == 5 and x.is_contiguous(memory_format=_LAST) and not x.is_contiguous()


def channels_last(image: Tensor) -> Tensor:
    """Images [B, M, D, H, W] on the processor as ones that are channels-last; on other devices as they are.

    With a single channel both layouts are the same memory, and only the stride of the channel tells which is meant.
    """
    if image.device.type != "cpu":
        return image
    return image[:, 0, ..., None].movedim(-1, 1) if image.shape[1] == 1 else image.contiguous(memory_format=_LAST)


def rows_of_zeros(x: Tensor, rows: int) -> Tensor:
    """Zeros [rows, C, D, H, W] laid out as ``x`` [b, C, D, H, W]."""
    if is_channels_last(x):
        return x.new_zeros(rows, *x.shape[2:], x.shape[1]).movedim(-1, 1)
    return x.new_zeros(rows, *x.shape[1:])


def taken(x: Tensor, rows: Tensor) -> Tensor:
    """``x[rows]`` of volumes [B, C, D, H, W], laid out alike; indexing alone puts voxels side by side."""
    return x[rows].contiguous(memory_format=_LAST if is_channels_last(x) else torch.contiguous_format)


def as_channels(latents: Tensor) -> Tensor:
    """Latents [B, M, C, D, H, W] as a map [B, M C, D, H, W], without a copy, that convolutions take as channels-last.

    Of a single sample ``flatten`` leaves a stride along the batch that no index uses, but by which PyTorch takes the
    map for one whose voxels lie side by side; a U-Net then decodes it a third slower.
    """
    joined = latents.flatten(1, 2)
    if len(joined) > 1 or not is_channels_last(joined):
        return joined
    voxels_first = joined.movedim(1, -1)
    return voxels_first.reshape(-1).view(voxels_first.shape).movedim(-1, 1)


def apart(joined: Tensor, channels: Sequence[int]) -> list[Tensor]:
    """A map [B, sum of ``channels``, D, H, W] as maps of so many channels, each in its own memory, laid out alike."""
    kind = _LAST if is_channels_last(joined) else torch.contiguous_format
    return [part.contiguous(memory_format=kind) for part in joined.split(list(channels), dim=1)]


def mixed_modalities(latents: Tensor, weights: Tensor) -> Tensor:
    """sum_m w_km z_m for several k, laid out as the latents: [B, M, C, D, H, W] and [B, K, M] to [B, K, C, D, H, W]."""
    joined, weights = as_channels(latents), weights.to(latents.dtype)
    if not is_channels_last(joined):
        return torch.einsum("bkm,bm...->bk...", weights, latents)
    # As one dense product, zeros between different channels, nothing is turned round.
    channels = torch.eye(latents.shape[2], dtype=latents.dtype, device=latents.device)
    by_channel = weights.transpose(1, 2)[:, :, None, :, None] * channels[:, None]  # [B, M, C, K, C]
    mixed = joined.flatten(2).transpose(1, 2) @ by_channel.flatten(3).flatten(1, 2)  # [B, voxels, K C]
    return mixed.unflatten(1, latents.shape[3:]).unflatten(-1, by_channel.shape[3:]).movedim((-2, -1), (1, 2))


class InstanceNorm(nn.InstanceNorm3d):
    """``nn.InstanceNorm3d`` that leaves channels-last memory channels-last."""

    def forward(self, input: Tensor) -> Tensor:
        """[B, C, D, H, W] to the same."""
        if input.device.type != "cpu" or not is_channels_last(input):
            return super().forward(input)
        size = input.shape[1]
        weight = input.new_ones(size, dtype=torch.float32) if self.weight is None else self.weight
        bias = input.new_zeros(size, dtype=torch.float32) if self.bias is None else self.bias
        return _Normalised.apply(input, weight.float(), bias.float(), self.eps)


class _Normalised(torch.autograd.Function):
    """Instance norm of channels-last memory, by batch norms of rows of several voxels.

    Few channels leave vector instructions nothing to run along. So a sample is read as [rows, voxels a row x channels];
    statistics of these columns make those of the channels (Chan, Golub, LeVeque 1983). Maps are gone through sample by
    sample; what is small is done for all samples at once, as it takes longer to call than to compute.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        answer, fold = torch.empty_like(x), _voxels_a_row(x)
        samples, moments = _rows(x, fold), list[Tensor]()
        # Running statistics nobody uses: being float32, they keep those of the batch from being rounded to bf16.
        unused = torch.zeros(2, samples.shape[2])
        for rows in samples:
            moments += torch.batch_norm_update_stats(rows, unused[0], unused[1], 0.0)
        means, variances = torch.stack(moments).view(len(x), 2, fold, x.shape[1]).unbind(dim=1)
        between, mean = torch.var_mean(means, dim=1, correction=0)
        own = torch.stack([mean, variances.mean(dim=1) + between], dim=1)  # [B, 2, C]
        columns = torch.cat([torch.stack([weight, bias]).expand_as(own), own], dim=1).repeat(1, 1, fold)
        for rows, target, given in zip(samples, _rows(answer, fold), columns, strict=True):
            _with_statistics(rows, *given, False, 0.0, eps, out=target, save_mean=_NOTHING, save_invstd=_NOTHING)
        ctx.save_for_backward(x, weight, columns[:, 2:])
        ctx.eps = eps
        return answer

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, weight, moments = ctx.saved_tensors
        answer, fold, voxels = torch.empty_like(x), _voxels_a_row(x), x[0, 0].numel()
        gradients, samples = (_rows(t, fold) for t in (gradient.contiguous(memory_format=_LAST), x))
        found = []
        for g, rows, (mean, variance) in zip(gradients, samples, moments, strict=True):
            found += torch.ops.aten.native_batch_norm_backward(
                g, rows, variance, mean, variance, None, None, False, ctx.eps, [False, True, True]
            )[1:]
        sums = torch.stack(found).view(len(x), 2, fold, x.shape[1]).sum(dim=2)  # of g z and g, z the normalised x
        # scale (g - mean of g - z mean of g z); the same rounded scale throughout, or the terms do not cancel
        scale = (weight * (moments[:, 1, : len(weight)] + ctx.eps).rsqrt()).to(gradient.dtype)[:, None]
        columns = torch.cat([(-scale / voxels * sums).repeat(1, 1, fold), moments], dim=1)
        ways = zip(_rows(answer, fold), gradients, samples, columns, scale.repeat(1, 1, fold), strict=True)
        for target, g, rows, given, factor in ways:
            _with_statistics(rows, *given, False, 0.0, ctx.eps, out=target, save_mean=_NOTHING, save_invstd=_NOTHING)
            target.addcmul_(g, factor)
        return answer, *sums.sum(dim=0), None


def _voxels_a_row(x: Tensor) -> int:
    """The largest power of two that divides the voxels and keeps a row within 512 numbers."""
    fold, voxels = 1, x[0, 0].numel()
    while voxels % (2 * fold) == 0 and 2 * fold * x.shape[1] <= 512:
        fold *= 2
    return fold


def _rows(x: Tensor, fold: int) -> Tensor:
    """Channels-last [B, C, D, H, W] as [B, voxels / fold, fold C], without a copy."""
    return x.movedim(1, -1).view(len(x), -1, fold * x.shape[1])


@Norm.factory_function("instance_any_layout")
def _norm(spatial_dims: int) -> type[nn.Module]:
    """How MONAI's blocks are asked for :class:`InstanceNorm`."""
    if spatial_dims != 3:
        raise ValueError(f"instance_any_layout is for volumes; spatial_dims is {spatial_dims}")
    return InstanceNorm


def convolved(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Sequence[int] = (1, 1, 1),
    padding: Sequence[int] = (0, 0, 0),
    groups: int = 1,
) -> Tensor:
    """``conv3d`` of [B, C, D, H, W] that is not slow on a single small sample in float32.

    Such a one PyTorch keeps from oneDNN and convolves itself, up to thirteen times as slowly, voxels side by side. Two
    samples do go there: here they are the two halves of the volume, each with the slices that both need.
    """
    if not kept_from_onednn(x, weight, groups):
        return functional.conv3d(x, weight, bias, tuple(stride), tuple(padding), groups=groups)
    kernel, step, border = weight.shape[2], stride[0], padding[0]
    depth = (x.shape[2] + 2 * border - kernel) // step + 1
    half = (depth + 1) // 2
    window = step * (half - 1) + kernel
    behind = step * half + window - x.shape[2] - border  # odd depths have one slice too many, cut away below
    padded = functional.pad(x, (0, 0, 0, 0, border, max(0, behind)))
    halves = torch.cat([padded[:, :, start : start + window] for start in (0, step * half)])
    found = functional.conv3d(halves, weight, bias, tuple(stride), (0, *padding[1:]))
    voxels_first = found.movedim(1, -1).flatten(0, 1)[:depth][None]
    return voxels_first.movedim(-1, 1)


def kept_from_onednn(x: Tensor, weight: Tensor, groups: int) -> bool:
    """Whether PyTorch convolves this itself although oneDNN is faster: ``use_mkldnn`` of its Convolution.cpp."""
    if len(x) > 1 or groups > 1 or x.device.type != "cpu" or x.dtype != torch.float32:
        return False
    if torch.is_autocast_enabled("cpu") or not torch.backends.mkldnn.is_available():
        return False
    return min(weight.shape[-2:]) <= 3 and x.shape[1:4].numel() <= 20480


class Conv(nn.Conv3d):
    """``nn.Conv3d`` by :func:`convolved`."""

    def forward(self, input: Tensor) -> Tensor:
        """[B, C_in, D, H, W] to [B, C_out, D, H, W]."""
        if set(self.dilation) != {1} or isinstance(self.padding, str):
            return super().forward(input)
        border = self.padding
        if self.padding_mode != "zeros":
            input = functional.pad(input, [p for p in reversed(border) for _ in range(2)], mode=self.padding_mode)
            border = (0, 0, 0)
        return convolved(input, self.weight, self.bias, self.stride, border, self.groups)


def with_fast_convolutions(network: nn.Module) -> None:
    """Let every ``nn.Conv3d`` in a network that others wrote convolve as :class:`Conv` does; weights stay."""
    for module in network.modules():
        if type(module) is nn.Conv3d and max(module.kernel_size) > 1:
            module.__class__ = Conv


class PointConv(nn.Conv3d):
    """A convolution of single voxels, which in float32 on one thread PyTorch turns round instead of using oneDNN."""

    def __init__(self, channels_in: int, channels_out: int, bias: bool = True):
        super().__init__(channels_in, channels_out, kernel_size=1, bias=bias)

    def forward(self, input: Tensor) -> Tensor:
        """[B, C_in, D, H, W] to [B, C_out, D, H, W]."""
        if not is_channels_last(input) or input.dtype != torch.float32 or torch.is_autocast_enabled("cpu"):
            return super().forward(input)
        return functional.linear(input.movedim(1, -1), self.weight.flatten(1), self.bias).movedim(-1, 1)


def side_by_side(*maps: Tensor) -> Tensor:
    """Maps [B, C, D, H, W] joined as channels; each gets its gradient in memory of its own.

    If one of them is channels-last, all are made so: what follows is worth it.
    """
    if any(is_channels_last(x) for x in maps):
        maps = tuple(x.contiguous(memory_format=_LAST) for x in maps)
    return _SideBySide.apply(*maps)


class _SideBySide(torch.autograd.Function):
    """``torch.cat``, but its gradients would be views into the joined one, over which every later pass crawls."""

    @staticmethod
    def forward(ctx: Any, *maps: Tensor) -> Tensor:
        ctx.channels = [x.shape[1] for x in maps]
        return torch.cat(maps, dim=1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        return tuple(apart(gradient, ctx.channels))


class UpBlock(UnetUpBlock):
    """MONAI's block of a U-Net's way up, joining maps with :func:`side_by_side`."""

    def forward(self, inp: Tensor, skip: Tensor) -> Tensor:
        """[B, 2 C, d, h, w] and the skip connection [B, C, 2 d, 2 h, 2 w] to [B, C, 2 d, 2 h, 2 w]."""
        return self.conv_block(side_by_side(self.transp_conv(inp), skip))
