"""A laboratory for segmentation with missing MRI sequences.

The names below are the public interface that scripts call; each is imported when it is first used, so that
``import mtg_lab`` and ``mtg-lab --help`` answer at once although torch and MONAI take seconds to load.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mtg_lab.startup import prepare

__version__ = "0.1.0"

prepare()

_HOMES = {
    "read_manifest": "manifest",
    "Recipe": "training",
    "preset": "training",
    "train": "training",
    "load_run": "training",
    "evaluate": "evaluation",
    "compare": "comparison",
    "latents": "gap",
    "gap": "gap",
    "predict": "patients",
    "missingness": "missingness",
    "phantom": "phantom",
}
__all__ = [
    "Recipe",
    "__version__",
    "compare",
    "evaluate",
    "gap",
    "latents",
    "load_run",
    "missingness",
    "phantom",
    "predict",
    "preset",
    "read_manifest",
    "train",
]

if TYPE_CHECKING:
    from mtg_lab import missingness, phantom
    from mtg_lab.comparison import compare
    from mtg_lab.evaluation import evaluate
    from mtg_lab.gap import gap, latents
    from mtg_lab.manifest import read_manifest
    from mtg_lab.patients import predict
    from mtg_lab.training import Recipe, load_run, preset, train


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'mtg_lab' has no attribute {name!r}")
    module = import_module(f"mtg_lab.{_HOMES[name]}")
    return module if name in ("gap", "missingness", "phantom") else getattr(module, name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
