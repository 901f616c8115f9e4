"""Sums over the processes that share a batch, for losses that are no means over samples."""

from typing import Any

import torch
from torch import Tensor


def over_processes(*sums: Tensor) -> tuple[Tensor, ...]:
    """Each sum over the samples of one process, as the sum over those of all; as it is where there is one process.

    The gradient flows back into every process's samples, so that a loss made of such sums, the same in all processes,
    has the gradient that one process would find for the whole batch when gradients are averaged over processes, as
    DistributedDataParallel does. Every process must call this as often and with the same shapes, whatever its samples.

    Args:
        sums: tensors of any shape; whole numbers become float32.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return sums
    if torch.distributed.get_world_size() == 1:
        return sums
    parts = _Sum.apply(torch.cat([s.float().flatten() for s in sums])).split([s.numel() for s in sums])
    return tuple(part.reshape(s.shape) for part, s in zip(parts, sums, strict=True))


class _Sum(torch.autograd.Function):
    """Over processes; what each makes of the sum is a loss of its own, so that their gradients are summed as well."""

    @staticmethod
    def forward(ctx: Any, own: Tensor) -> Tensor:
        together = own.clone()
        torch.distributed.all_reduce(together)
        return together

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        together = gradient.contiguous().clone()
        torch.distributed.all_reduce(together)
        return together
