"""What this machine computes on, and in which precision."""

import platform
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from accelerate import Accelerator


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


def environment(accelerator: "Accelerator") -> dict[str, Any]:
    """Versions, device, precision and peak memory of this process, as a run folder keeps them."""
    packages = ("mtg-lab", "torch", "monai", "accelerate", "numpy", "nibabel", "nilearn")
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {p: version(p) for p in packages},
        "device": str(accelerator.device),
        "device_name": torch.cuda.get_device_name() if torch.cuda.is_available() else processor(),
        "processes": accelerator.num_processes,
        "precision": accelerator.mixed_precision,
        "threads": torch.get_num_threads(),
        "peak_memory_mb": _peak_memory_mb(),
    }


def processor() -> str:
    """Model, and of the instructions that decide here the widest: amx_bf16, avx512_bf16, avx512f or avx2."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    told = {k.strip(): v.strip() for k, _, v in (line.partition(":") for line in lines)}
    flags = told.get("flags", "").split()
    widest = next((f for f in ("amx_bf16", "avx512_bf16", "avx512f", "avx2") if f in flags), "")
    return " ".join(w for w in (told.get("model name", platform.machine()), widest) if w)


def _peak_memory_mb() -> int | None:
    try:
        import resource
    except ImportError:  # Windows has no such module
        return None
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10))


@contextmanager
def seeded(device: torch.device, *numbers: int) -> Iterator[None]:
    """Within the block, PyTorch's own generators (dropout draws from them) depend on ``numbers`` alone."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(int(np.random.SeedSequence(numbers).generate_state(1)[0]))
        yield
