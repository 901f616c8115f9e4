"""What must be settled before PyTorch and MONAI are imported; ``import mtg_lab`` does it."""

import os
import sys
from importlib.machinery import ModuleSpec


def prepare() -> None:
    """Let PyTorch's threads wait in peace, and MONAI come without a parser that nobody here asks for.

    PyTorch's threads wait for each other a millisecond long without giving up the core. Where something else computes
    as well, that multiplies the time of a step (benchmarks/README.md); so many rounds cost nothing where nothing does.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    if "monai" not in sys.modules:
        sys.meta_path.insert(0, _BeforeMonai())


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
