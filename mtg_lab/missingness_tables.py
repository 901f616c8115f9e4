"""Patterns of missingness as tables: what a manifest has, how much is there, to a CSV and back."""

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mtg_lab import vocabulary
from mtg_lab.errors import InputError
from mtg_lab.files import write_text, written_aside
from mtg_lab.manifest import Manifest


def availability(manifest: Manifest) -> pd.DataFrame:
    """Who has what by the manifest: bool, subjects x modalities."""
    rows = [[m in s.images for m in manifest.modalities] for s in manifest]
    index = pd.Index([s.name for s in manifest], name="subject")
    return pd.DataFrame(rows, index=index, columns=list(manifest.modalities), dtype=bool)


def save_pattern(pattern: pd.DataFrame, path: str | Path, rule: Mapping[str, Any] | None = None) -> Path:
    """Write a pattern as CSV (subject, then 0 or 1 a modality) and, beside it, ``<name>.rule.json`` with its rule.

    The rule stands in a file of its own, as the protocol does beside scores, so that the table holds nothing but the
    table: a spreadsheet edits it, and what is read back are its cells.

    Args:
        pattern: bool, subjects x modalities.
        path: of the CSV.
        rule: as plain values, ``Missingness.to_json()``; None where there is none.
    """
    path = Path(path)
    with written_aside(path) as aside:
        pattern.astype(int).to_csv(aside, lineterminator="\n")
    if rule is not None:
        write_text(path.with_suffix(".rule.json"), json.dumps(rule, indent=2))
    return path


def read_pattern(path: str | Path) -> pd.DataFrame:
    """A table that :func:`save_pattern` or a spreadsheet wrote; aliases of modalities are understood.

    Raises:
        InputError: no such file, no column ``subject``, a cell that is not 0 or 1, a subject twice or with nothing.
    """
    path = Path(path)
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:  # spreadsheets begin with a byte-order mark
            header, *rows = [[cell.strip() for cell in cells] for cells in csv.reader(stream) if any(cells)] or [[]]
    except (OSError, ValueError, csv.Error) as error:  # a UnicodeDecodeError is a ValueError
        told = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise InputError(
            f"cannot read the table of missingness {path} ({told}); make one with 'mtg-lab missing'"
        ) from error
    for cells in rows:
        if len(cells) != len(header):
            raise InputError(f"{path}: {len(cells)} cells in the row of {cells[0]}, the header has {len(header)}")
    table = pd.DataFrame(rows, columns=[vocabulary.canonical_modality(c) for c in header])
    modalities = [c for c in table.columns if c != "subject"]
    if "subject" not in table or not modalities or not rows or len(set(table.columns)) < len(table.columns):
        raise InputError(
            f"{path}: the header is {', '.join(table.columns)}; give subject and each modality once, and rows"
        )
    table = table.set_index("subject")
    if not table.index.is_unique:
        raise InputError(f"{path}: subject {table.index[table.index.duplicated()][0]} occurs twice; keep one row")
    for column in modalities:
        for name, cell in table.loc[~table[column].isin(["0", "1"]), column].items():
            raise InputError(f"{path}: subject {name}, {column} is {cell!r}; write 1 (there) or 0 (missing)")
        table[column] = table[column] == "1"
    for name in table.index[~table.any(axis=1)]:
        raise InputError(f"{path}: subject {name} has nothing; give it a modality or drop its row")
    return table.astype(bool)


def counts(pattern: pd.DataFrame) -> tuple[pd.DataFrame, pd.Series]:
    """How often each modality is there (columns there, missing, rate), and how many subjects have 1, 2, ... of them."""
    there = pattern.sum()
    table = pd.DataFrame({"there": there, "missing": len(pattern) - there, "rate": 1 - pattern.mean()})
    sizes = np.bincount(pattern.sum(axis=1), minlength=pattern.shape[1] + 1)[1:]
    index = pd.RangeIndex(1, pattern.shape[1] + 1, name="modalities")
    return table.rename_axis("modality"), pd.Series(sizes, index=index, name="subjects")
