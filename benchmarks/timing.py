"""What the benchmarks share: ways timed in turn, ratios within a round, and what machine it was."""

import os
import platform
import time
from collections.abc import Callable, Hashable, Mapping
from importlib.metadata import version
from typing import TypeVar

import pandas as pd
import torch

from mtg_lab.hardware import processor

Key = TypeVar("Key", bound=Hashable)


def seconds(way: Callable[[], object], at_least: float = 0.0) -> float:
    """Processor time of a call, on a GPU wall time until it is idle; repeated until ``at_least`` has passed."""
    cuda = torch.cuda.is_available()
    clock = time.perf_counter if cuda else time.process_time
    started, calls, taken = clock(), 0, 0.0
    while not calls or taken < at_least:
        way()
        if cuda:
            torch.cuda.synchronize()
        calls, taken = calls + 1, clock() - started
    return taken / calls


def in_turn(ways: Mapping[Key, Callable[[], object]], rounds: int, at_least: float = 0.0) -> pd.DataFrame:
    """Seconds of every way, a row a round, after one that warms up: a machine that slows down slows all of them."""
    for way in ways.values():
        way()
    return pd.DataFrame([[seconds(way, at_least) for way in ways.values()] for _ in range(rounds)], columns=_flat(ways))


def ratios(measured: pd.DataFrame, reference: Callable[[Key], Key], faster: bool = False) -> pd.DataFrame:
    """Median seconds, and median, least and greatest ratio to a reference of the same round.

    Args:
        measured: of :func:`in_turn`.
        reference: key to that of what it is held against.
        faster: reference over way, how many times faster it is; by default way over reference, what it costs.
    """
    rows = []
    for key in measured.columns:
        ours, theirs = measured[key], measured[reference(key)]
        ratio = theirs / ours if faster else ours / theirs
        rows.append((key, ours.median(), ratio.median(), ratio.min(), ratio.max()))
    return pd.DataFrame(rows, columns=["case", "seconds", "ratio", "least", "most"])


def environment() -> dict[str, str]:
    """Machine and versions, for the lines of a table that is kept."""
    packages = {p: version(p) for p in ("mtg-lab", "torch", "monai", "numpy")}
    return {"processor": processor(), "cores": str(os.cpu_count()), "threads": str(torch.get_num_threads()),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "",
            "python": platform.python_version(), **packages}  # fmt: skip


def _flat(ways: Mapping[Key, object]) -> pd.Index:
    """Keys as they are: pandas would make a table of several levels of tuples."""
    return pd.Index(list(ways), tupleize_cols=False)
