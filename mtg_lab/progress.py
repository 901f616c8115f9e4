"""One progress bar for the whole project: text on a terminal and in Jupyter, silence in batch."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm


def progress(iterable: Iterable[Any] | None = None, total: int | None = None, desc: str = "") -> tqdm:
    """Return ``iterable`` with a text progress bar, or a bar to ``update`` by hand when there is only a ``total``.

    Silent with ``MTG_LAB_BATCH=1`` (the notebook runner sets it in its kernels) and wherever standard error is neither
    a terminal nor an interactive notebook, so that logs hold no half-drawn bars.
    """
    # Plain tqdm: the widget of tqdm.auto cannot be silenced by TQDM_DISABLE, and is blank in exported HTML.
    return tqdm(iterable, total=total, desc=desc or None, disable=silent(), file=sys.stderr, mininterval=0.5)


def silent() -> bool:
    """Tell whether progress would be noise here."""
    if os.environ.get("MTG_LAB_BATCH", "") not in ("", "0"):
        return True
    return not (_in_notebook() or _is_terminal())


def _is_terminal() -> bool:
    try:
        return sys.stderr.isatty()
    except (AttributeError, ValueError):
        return False


def _in_notebook() -> bool:
    # Asked of IPython only if somebody else has imported it: a command line need not pay for it.
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell is not None and getattr(shell, "kernel", None) is not None
