"""What this machine computes on, and in which precision."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import numpy as np
import torch


def default_device() -> torch.device:
    """A GPU when there is one, else the processor."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def use_bf16(precision: str) -> bool:
    """Whether to multiply in bf16: as told, or for ``auto`` where the processor does so in hardware."""
    if precision != "auto":
        return precision == "bf16"
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def precision_context(device: torch.device, precision: str) -> AbstractContextManager:
    """Autocast to bf16 where ``precision`` asks for it (``auto``: where the hardware multiplies it)."""
    return torch.autocast(device.type, torch.bfloat16) if use_bf16(precision) else nullcontext()


@contextmanager
def seeded(device: torch.device, *numbers: int) -> Iterator[None]:
    """Within the block, PyTorch's own generators (dropout draws from them) depend on ``numbers`` alone."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(int(np.random.SeedSequence(numbers).generate_state(1)[0]))
        yield
