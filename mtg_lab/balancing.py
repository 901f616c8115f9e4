"""Which modality lags, and what is done about it: preference, gate, coefficients and weights of PASSION.

Shi et al., "PASSION: Towards Effective Incomplete Multi-Modal Medical Image Segmentation with Imbalanced Missing
Rates", ACM MM 2024 (arXiv 2407.14796), and its release. Everything here is a function of small tensors; M modalities.
"""

import torch
from torch import Tensor

from mtg_lab.errors import InputError

GATES = ("lagging", "leading", "off")


def relative_preference(distance: Tensor, counted: Tensor) -> Tensor:
    """RP_m = 1 - D_m / (mean of D over those counted): below zero a modality lags behind the others.

    With fewer than two modalities there is nothing to compare, and where nobody is away from the teacher nobody lags:
    zero. The release divides zero by zero there.

    Args:
        distance: [..., M], of each modality's prediction to that of all together.
        counted: bool [..., M].

    Returns:
        [..., M]; zero where not counted.
    """
    number = counted.sum(dim=-1, keepdim=True)
    counted = counted & (number >= 2)
    inside = torch.where(counted, distance, torch.zeros_like(distance))
    mean = inside.sum(dim=-1, keepdim=True) / number.clamp_min(1)
    apart = counted & (mean > 0)
    return torch.where(apart, 1 - inside / torch.where(mean > 0, mean, 1), torch.zeros_like(distance))


def task_gate(preference: Tensor, counted: Tensor, direction: str = "lagging") -> Tensor:
    """Who gets the gated terms in this step: 1 or 0 for each modality.

    Args:
        preference: [..., M], see :func:`relative_preference`.
        counted: bool [..., M].
        direction: ``lagging`` those with a preference below zero, ``leading`` those above, ``off`` all that count.

    Returns:
        Like ``preference``; zero where not counted. A sample with one modality has no preference, hence no gate.

    Raises:
        InputError: an unknown direction.
    """
    if direction not in GATES:
        raise InputError(f"gate is {direction!r}; it can be {', '.join(GATES)}")
    opened = {"lagging": preference < 0, "leading": preference > 0, "off": torch.ones_like(counted)}[direction]
    return (opened & counted).to(preference.dtype)


def updated_coefficients(
    coefficients: Tensor, preference: Tensor, rate: float, low: float = 0.1, high: float = 4.0
) -> Tensor:
    """beta - rate * RP, clipped, and brought back to the norm sqrt(M): the coefficient of a laggard grows.

    Args:
        coefficients: beta, [M].
        preference: RP over the time since the last update, [M].
        rate: eta, see :func:`coefficient_rate`.
        low, high: clip, before the norm.
    """
    moved = (coefficients - rate * preference).clamp(low, high)
    return moved * (moved.numel() ** 0.5 / torch.linalg.vector_norm(moved))


def coefficient_rate(update: int, updates: int, first: int = 0, rate: float = 0.01, growth: float = 1.5) -> float:
    """The rate eta of one update: it grows by ``growth`` at the start of each third of the training.

    The release trains 300 epochs with one update an epoch and multiplies at epochs 0, 100 and 200, so that it starts at
    0.015; multiples before the first update are passed over.

    Args:
        update: number of the update, from 0.
        updates: of the whole training.
        first: the first one that is made.
    """
    third = max(1, updates // 3)
    return rate * growth ** (update // third - (first - 1) // third)


def inverse_frequency(shares: Tensor) -> Tensor:
    """omega_m = 1 / (share of samples that have the modality), [M] to [M]; 1 for one that nobody has."""
    return torch.where(shares > 0, 1 / shares.clamp_min(1e-12), torch.ones_like(shares))


def drawn_shares(available: Tensor) -> Tensor:
    """Share of draws with each modality if a non-empty subset is drawn uniformly of what a subject has.

    With n modalities available, 2^(n-1) of 2^n - 1 subsets hold a given one.

    Args:
        available: bool [subjects, M].

    Returns:
        float32 [M].
    """
    number = available.sum(dim=1, keepdim=True).to(torch.float64)
    return (available * 2 ** (number - 1) / (2**number - 1)).mean(dim=0).float()
