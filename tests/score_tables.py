"""Tables of scores whose every cell is known."""

from itertools import chain, combinations

import pandas as pd

MODALITIES = ("t1n", "t1c", "t2w", "t2f")


def all_subsets(modalities=MODALITIES):
    return [*chain.from_iterable(combinations(modalities, n) for n in range(1, len(modalities) + 1))]


def table_of(value, modalities=MODALITIES, subjects=4, regions=("WT", "ET"), protocol="abc"):
    """A table whose cells are ``value(subject number, subset, region)``."""
    rows = [
        {"subject": f"P{p}", "subset": "+".join(s), "modalities": len(s), "region": r, "metric": "dice",
         "value": value(p, frozenset(s), r)}
        for p in range(subjects) for s in all_subsets(modalities) for r in regions
    ]  # fmt: skip
    return pd.DataFrame(rows).assign(protocol=protocol)
