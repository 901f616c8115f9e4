"""Which classes a crop shows at all: a head that tells, and a gate that closes those held absent (AdaMM's LGRM)."""

import torch
from torch import Tensor, nn

from mtg_lab.backbones.layout import InstanceNorm, PointConv
from mtg_lab.errors import InputError

GATES = ("hard", "soft", "off")
NORMS = ("group", "instance", "batch", "none")

_GROUPS = 8
_CLOSED = 20.0  # by how much a closed class stands below the lowest; windows that overlap average logits


class PresenceHead(nn.Module):
    """Logits of the presence of every class but background, from a map at full resolution.

    AdaMM (arXiv 2509.15017), lesion-presence-guided reliability: convolution, norm, ReLU, one channel a class, mean
    over the crop. The mean makes a class that fills few voxels hard to see, and a norm of single channels over the crop
    (``instance``; ``batch`` with one sample; ``group`` with eight channels or fewer) takes away how strongly a channel
    answers, which is what the mean could tell: the head is left with the shape of its distribution.

    Args:
        channels: of the map.
        classes: K, background included.
        norm: see :func:`small_norm`.
    """

    def __init__(self, channels: int, classes: int, norm: str = "group"):
        super().__init__()
        self.look = nn.Sequential(nn.Conv3d(channels, channels, 3, padding=1), small_norm(norm, channels), nn.ReLU())
        self.tell = PointConv(channels, classes - 1)

    def forward(self, features: Tensor) -> Tensor:
        """[B, C, D, H, W] to [B, K - 1]; the sigmoid of which is the probability that the crop shows the class."""
        return self.tell(self.look(features)).mean(dim=(2, 3, 4))


def gated(logits: Tensor, presence: Tensor | None, gate: str) -> Tensor:
    """Logits of voxels after the gate.

    ``hard`` closes a class whose presence is at most one half: no voxel is called that, and what the others had among
    themselves stays (AdaMM's form). ``soft`` multiplies the class's probability by that of its presence and
    normalises again. ``off`` leaves everything.

    Args:
        logits: [B, K, D, H, W], background first.
        presence: logits [B, K - 1], or None of a network that does not tell.
        gate: one of :data:`GATES`.
    """
    if presence is None or gate == "off":
        return logits
    told = presence.to(logits.dtype)[..., None, None, None]
    classes = logits[:, 1:]
    if gate == "hard":
        classes = torch.where(told > 0, classes, logits.amin(dim=1, keepdim=True) - _CLOSED)
    else:
        classes = classes + nn.functional.logsigmoid(told)
    return torch.cat([logits[:, :1], classes], dim=1)


def small_norm(kind: str, channels: int, dimensions: int = 3) -> nn.Module:
    """Norm of the modules that AdaMM adds to its trunk: ``group`` (eight groups), ``instance``, ``batch`` or ``none``.

    The release has batch norm. With one sample a step that is an instance norm in training and something else in eval
    mode, where the release therefore never goes.

    Args:
        kind: one of :data:`NORMS`.
        channels: of the map.
        dimensions: 3 for maps [B, C, D, H, W], 1 for nodes [B, C, N].

    Raises:
        ValueError: an unknown kind.
    """
    if kind not in NORMS:
        raise ValueError(f"norm is {kind!r}; it can be {', '.join(NORMS)}")
    if kind == "none":
        return nn.Identity()
    if kind == "group":
        return nn.GroupNorm(groups_of(channels), channels)
    if kind == "instance":
        return InstanceNorm(channels, affine=True) if dimensions == 3 else nn.InstanceNorm1d(channels, affine=True)
    return nn.BatchNorm3d(channels) if dimensions == 3 else nn.BatchNorm1d(channels)


def check_gate(gate: str) -> None:
    """Refuse an unknown gate.

    Raises:
        InputError: it is none of :data:`GATES`.
    """
    if gate not in GATES:
        raise InputError(f"gate is {gate!r}; it can be {', '.join(GATES)}")


def groups_of(channels: int) -> int:
    """Eight groups, or the largest smaller number that divides the channels."""
    return next(n for n in range(min(_GROUPS, channels), 0, -1) if channels % n == 0)
