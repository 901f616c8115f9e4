"""What must be settled before PyTorch and MONAI are imported; ``import mtg_lab`` does it."""

import ctypes
import os
import sys
from importlib.machinery import ModuleSpec

# Of glibc's mallopt. Blocks above 32 MB are given back at once, as by default; of the rest up to 1 GB is kept.
_KEPT = {-1: 2**30, -3: 2**25}  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD


def prepare() -> None:
    """Let PyTorch's threads wait in peace, keep freed memory, and MONAI come without a parser that nobody asks for.

    PyTorch's threads wait for each other a millisecond long without giving up the core. Where something else computes
    as well, that multiplies the time of a step (benchmarks/README.md); so many rounds cost nothing where nothing does.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    _keep_freed_memory()
    if "monai" not in sys.modules:
        sys.meta_path.insert(0, _BeforeMonai())


def _keep_freed_memory() -> None:
    """Have glibc keep what a training step frees, as the next one asks for it again; else page by page it is cleared.

    Does nothing where there is another allocator, or where the environment has a word on it.
    """
    mallopt = None if os.name == "nt" else getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None and not {"MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"} & set(os.environ):
        for option, value in _KEPT.items():
            mallopt(option, value)


class _BeforeMonai:
    """Imports jsonschema, as MONAI would, without its check of international addresses.

    That check builds a parser when it is imported, a third of the time that all of MONAI takes, wherever JupyterLab
    brought it along; jsonschema does without it where it is not installed. Whoever asks for the parser itself gets it.
    """

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if name == "monai":
            sys.meta_path.remove(self)
            if not {"jsonschema", "rfc3987_syntax"} & set(sys.modules):
                sys.modules["rfc3987_syntax"] = None  # type: ignore[assignment]
                try:
                    import jsonschema  # noqa: F401
                except ImportError:
                    pass
                finally:
                    del sys.modules["rfc3987_syntax"]
        return None
