"""A folder of scans as a manifest: BraTS 2018-2024 by the names of its files, anything else by patterns."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mtg_lab import vocabulary
from mtg_lab.errors import InputError
from mtg_lab.files import make_folder
from mtg_lab.manifest import SPLITS, write_manifest

# <case><separator><sequence>.nii[.gz]: an underscore up to 2021 and in FeTS, a hyphen since 2023.
_BRATS = re.compile(r"(?P<case>.+)[-_](?P<part>t1n|t1ce|t1c|t1|t2w|t2f|t2|flair|seg)\.nii(?:\.gz)?", re.IGNORECASE)


@dataclass(frozen=True)
class Indexed:
    """What was recognised in a folder: rows of a manifest with absolute paths, and why."""

    rows: Sequence[Mapping[str, str]]
    modalities: tuple[str, ...]
    reason: str

    def write(self, path: str | Path) -> Path:
        """Write the manifest; paths become relative to it.

        Raises:
            InputError: the folder cannot be written to.
        """
        path = Path(path).resolve()
        make_folder(path.parent)
        files = (*self.modalities, "label", "mask")
        rows = [{k: _relative(v, path.parent) if k in files and v else v for k, v in row.items()} for row in self.rows]
        return write_manifest(rows, self.modalities, path)

    def told(self) -> str:
        """One line: how many subjects, why the folder was read so, what is missing."""
        there = Counter(m for row in self.rows for m in self.modalities if row.get(m))
        counts = ", ".join(f"{m} {there[m]}" for m in self.modalities)
        labels = sum(bool(row.get("label")) for row in self.rows)
        return f"{len(self.rows)} subjects ({self.reason}): {counts}; {labels} with a label"


def index_folder(
    folder: str | Path,
    schema: str = "",
    patterns: Mapping[str, str] | None = None,
    label: str = "",
    mask: str = "",
    shares: str = "60:15:25",
    seed: int = 0,
) -> Indexed:
    """Find the subjects of a folder, one a subfolder or one a common beginning of file names.

    Args:
        folder: searched to any depth.
        schema: label schema; needed where names do not tell it.
        patterns: modality to glob pattern of a file's name, for folders that follow no known convention.
        label, mask: glob patterns, used with ``patterns``.
        shares: of train, val and test, such as ``60:15:25``; drawn over subjects.
        seed: of that draw.

    Raises:
        InputError: no such folder, nothing recognised, two files for one cell, or a schema is needed.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; name the one that holds the scans")
    if schema:
        vocabulary.schema(schema)
    if patterns:
        cells = _by_patterns(folder, patterns, label, mask)
        modalities = tuple(vocabulary.canonical_modality(m) for m in patterns)
        reason, known = "by the given patterns", schema
    else:
        cells, reason, known = _by_brats_names(folder)
        modalities, known = vocabulary.BRATS_MODALITIES, schema or known
    if not cells:
        raise InputError(
            f"{folder}: no scans recognised; give patterns, e.g. --modality t1c='*T1POST*' --label '*seg*'"
        )
    if not known and any("label" in files for files in cells.values()):
        raise InputError(
            f"{folder}: the names do not tell what the labels mean; give --schema ({', '.join(vocabulary.SCHEMAS)})"
        )
    splits = _splits(len(cells), shares, seed)
    rows = [
        {"subject": name, "split": split, "schema": known if "label" in files else ""}
        | {k: str(v) for k, v in files.items()}
        for (name, files), split in zip(sorted(cells.items()), splits, strict=True)
    ]
    return Indexed(rows, modalities, reason)


def _by_brats_names(folder: Path) -> tuple[dict[str, dict[str, Path]], str, str]:
    cells: dict[str, dict[str, Path]] = {}
    separators: Counter[str] = Counter()
    for path in _scans(folder):
        if found := _BRATS.fullmatch(path.name):
            part = found["part"].lower()
            column = "label" if part == "seg" else vocabulary.canonical_modality(part)
            _fill(cells.setdefault(found["case"], {}), column, path, found["case"])
            separators["t1n" if part in ("t1n", "t2f", "t2w") else "t1" if part in ("t1", "t2", "flair") else ""] += 1
    cells = {case: files for case, files in cells.items() if set(files) - {"label"}}
    if separators["t1n"]:
        # 2023 and 2024 share names, but 4 is a resection cavity in 2024, whose scans are numbered from 100.
        gliomas = [case for case in cells if "gli" in case.lower()]
        if gliomas and ("2024" in str(folder) or any(re.search(r"-1\d\d$", case) for case in gliomas)):
            return cells, "BraTS names since 2023, post-treatment gliomas of 2024", "brats2024"
        return cells, "BraTS names since 2023", "brats2023"
    return cells, "BraTS names up to 2021 and FeTS", "brats2021"


def _by_patterns(folder: Path, patterns: Mapping[str, str], label: str, mask: str) -> dict[str, dict[str, Path]]:
    wanted = {vocabulary.canonical_modality(m): p for m, p in patterns.items()}
    wanted |= {k: p for k, p in (("label", label), ("mask", mask)) if p}
    cells: dict[str, dict[str, Path]] = {}
    for path in _scans(folder):
        for column, pattern in wanted.items():
            if path.match(pattern):
                case = path.parent.relative_to(folder).as_posix().replace("/", "_") if path.parent != folder else ""
                case = case or re.split(r"[-_.]", path.name)[0]
                _fill(cells.setdefault(case, {}), column, path, case)
    return {case: files for case, files in cells.items() if set(files) - {"label", "mask"}}


def _fill(files: dict[str, Path], column: str, path: Path, case: str) -> None:
    if column in files:
        raise InputError(
            f"subject {case}: two files for {column}, {files[column].name} and {path.name}; narrow the pattern"
        )
    files[column] = path


def _scans(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.name.lower().endswith((".nii", ".nii.gz")) and p.is_file())


def _splits(subjects: int, shares: str, seed: int) -> list[str]:
    try:
        parts = np.array([float(p) for p in shares.split(":")])
    except ValueError:
        parts = np.array([])
    if parts.shape != (3,) or (parts < 0).any() or parts.sum() <= 0:
        raise InputError(f"--split {shares!r} is not TRAIN:VAL:TEST, e.g. 60:15:25")
    edges = np.round(np.cumsum(parts / parts.sum()) * subjects).astype(int)
    counts = np.diff([0, *edges])
    names = [s for s, n in zip(SPLITS, counts, strict=True) for _ in range(n)]
    return [names[i] for i in np.random.default_rng(seed).permutation(subjects)]


def _relative(path: str, folder: Path) -> str:
    resolved = Path(path).resolve()
    return resolved.relative_to(folder).as_posix() if resolved.is_relative_to(folder) else str(resolved)
