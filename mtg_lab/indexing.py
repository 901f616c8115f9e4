"""A folder of scans as a manifest: BraTS 2018-2024 by the names of its files, anything else by patterns."""

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mtg_lab import vocabulary
from mtg_lab.errors import InputError
from mtg_lab.files import make_folder
from mtg_lab.manifest import RESERVED, SPLITS, write_manifest

# <case><separator><sequence>.nii[.gz]: an underscore up to 2021 and in FeTS, a hyphen since 2023.
_BRATS = re.compile(r"(?P<case>.+)[-_](?P<part>t1n|t1ce|t1c|t1|t2w|t2f|t2|flair|seg)\.nii(?:\.gz)?", re.IGNORECASE)
# Since 2023 a case is a patient at one time: BraTS-GLI-02062-101.
_TIMEPOINT = re.compile(r"(?<=-\d{5})-\d{3}$")


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
        path = _plain(path)
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
        folder: searched to any depth; hidden files are passed over.
        schema: label schema; needed where names do not tell it.
        patterns: modality to glob pattern of a file's name, for folders that follow no known convention.
        label, mask: glob patterns, used with ``patterns``.
        shares: of train, val and test, such as ``60:15:25``; drawn over patients, whose times stay together.
        seed: of that draw.

    Raises:
        InputError: no such folder, nothing recognised, two files for one cell, patterns of no use, or a schema is
            needed.
    """
    folder = _plain(folder)
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; name the one that holds the scans")
    if schema:
        vocabulary.schema(schema)
    if patterns:
        cells = _by_patterns(folder, patterns, label, mask)
        modalities = tuple(vocabulary.canonical_modality(m) for m in patterns)
        reason, known = "by the given patterns", schema
    elif label or mask:
        raise InputError("--label and --mask are patterns beside those of --modality; name the modalities too")
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
    patients = sorted({_TIMEPOINT.sub("", name) for name in cells})
    splits = dict(zip(patients, _splits(len(patients), shares, seed), strict=True))
    rows = [
        {"subject": name, "split": splits[_TIMEPOINT.sub("", name)], "schema": known if "label" in files else ""}
        | {k: str(v) for k, v in files.items()}
        for name, files in sorted(cells.items())
    ]
    return Indexed(rows, modalities, reason)


def _by_brats_names(folder: Path) -> tuple[dict[str, dict[str, Path]], str, str]:
    cells: dict[str, dict[str, Path]] = {}
    years: Counter[str] = Counter()
    for path in _scans(folder):
        if found := _BRATS.fullmatch(path.name):
            part = found["part"].lower()
            column = "label" if part == "seg" else vocabulary.canonical_modality(part)
            _fill(cells.setdefault(found["case"], {}), column, path, found["case"])
            years["" if part == "seg" else "since 2023" if part in vocabulary.BRATS_MODALITIES else "up to 2021"] += 1
    cells = {case: files for case, files in cells.items() if set(files) - {"label"}}
    if years["since 2023"] and years["up to 2021"]:
        # Enhancing tumour is 4 in the older ones and 3 in the younger ones.
        return cells, "BraTS names of several years", ""
    if years["since 2023"]:
        # 2023 and 2024 share names, but 4 is a resection cavity in 2024, whose scans are numbered from 100.
        gliomas = [case for case in cells if "gli" in case.lower()]
        if gliomas and ("2024" in str(folder) or any(re.search(r"-1\d\d$", case) for case in gliomas)):
            return cells, "BraTS names since 2023, post-treatment gliomas of 2024", "brats2024"
        return cells, "BraTS names since 2023", "brats2023"
    return cells, "BraTS names up to 2021 and FeTS", "brats2021"


def _by_patterns(folder: Path, patterns: Mapping[str, str], label: str, mask: str) -> dict[str, dict[str, Path]]:
    names = [vocabulary.canonical_modality(m) for m in patterns]
    for name, pattern in zip(names, patterns.values(), strict=True):
        if not name or "+" in name or name in RESERVED:
            raise InputError(f"--modality {name}={pattern}: {name!r} is no name for a modality; name one, as in t1c")
        if names.count(name) > 1:
            raise InputError(f"--modality {name} is given twice (aliases count); keep one of them")
    wanted = dict(zip(names, patterns.values(), strict=True)) | {
        column: pattern for column, pattern in (("label", label), ("mask", mask)) if pattern
    }
    for column, pattern in wanted.items():
        if not pattern.strip("./"):
            raise InputError(f"{column}={pattern} is no pattern; give one for the names of its files, as in '*T1POST*'")
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
            f"subject {case}: two files for {column}, {files[column]} and {path}; move one away or narrow the pattern"
        )
    files[column] = path


def _scans(folder: Path) -> list[Path]:
    # Names with a leading dot are no scans: macOS leaves ._NAME.nii.gz beside every file on foreign disks.
    found = (p for p in folder.rglob("[!.]*") if p.name.lower().endswith((".nii", ".nii.gz")))
    return sorted(p for p in found if p.is_file())


def _splits(subjects: int, shares: str, seed: int) -> list[str]:
    try:
        parts = np.array([float(p) for p in shares.split(":")])
    except ValueError:
        parts = np.array([])
    if parts.shape != (3,) or not np.isfinite(parts).all() or (parts < 0).any() or parts.sum() <= 0:
        raise InputError(f"--split {shares!r} is not TRAIN:VAL:TEST, e.g. 60:15:25")
    if seed < 0:
        raise InputError(f"--seed {seed} is below 0; give a whole number from 0 on")
    edges = np.round(np.cumsum(parts / parts.sum()) * subjects).astype(int)
    counts = np.diff([0, *edges])
    names = [s for s, n in zip(SPLITS, counts, strict=True) for _ in range(n)]
    return [names[i] for i in np.random.default_rng(seed).permutation(subjects)]


def _relative(path: str, folder: Path) -> str:
    return Path(path).relative_to(folder).as_posix() if Path(path).is_relative_to(folder) else path


def _plain(path: str | Path) -> Path:
    """Absolute and without ``..``; links are kept, since their targets may bear other names (git-annex)."""
    return Path(os.path.abspath(path))
