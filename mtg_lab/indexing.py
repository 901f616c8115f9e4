"""A folder of scans as a manifest: by a convention that is recognised, or by patterns of the user."""

import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mtg_lab import datalists, vocabulary
from mtg_lab.conventions import BY_NAMES, Cells, Layout, fill, with_images
from mtg_lab.errors import InputError
from mtg_lab.files import make_folder, write_text
from mtg_lab.manifest import RESERVED, SPLITS, write_manifest
from mtg_lab.manifest_files import schema_file
from mtg_lab.schemas import LabelSchema, read_schema

# Since 2023 a case is a patient at one time: BraTS-GLI-02062-101, BraTS-MEN-RT-0308-1.
_TIMEPOINT = re.compile(r"(?<=-\d{5})-\d{3}$|(?<=-\d{4})-\d$")
DEFAULT_SHARES = "60:15:25"


@dataclass(frozen=True)
class Indexed:
    """What was recognised in a folder: rows of a manifest with absolute paths, and why.

    Attributes:
        definition: the label schema itself, where the folder brings its own; written beside the manifest.
        notes: what the user should know, one sentence each.
    """

    rows: Sequence[Mapping[str, str]]
    modalities: tuple[str, ...]
    reason: str
    definition: LabelSchema | None = None
    notes: tuple[str, ...] = ()

    def write(self, path: str | Path) -> Path:
        """Write the manifest; paths become relative to it.

        Raises:
            InputError: the folder cannot be written to.
        """
        path = _plain(path)
        make_folder(path.parent)
        files = (*self.modalities, "label", "mask")
        rows = [{k: _relative(v, path.parent) if k in files and v else v for k, v in row.items()} for row in self.rows]
        if self.definition:
            write_text(schema_file(path), json.dumps(self.definition.to_json(), indent=2) + "\n")
        return write_manifest(rows, self.modalities, path)

    def told(self) -> str:
        """How many subjects, why the folder was read so, what is there and what is missing; then the notes."""
        there = Counter(m for row in self.rows for m in self.modalities if row.get(m))
        counts = ", ".join(f"{m} {there[m]}" for m in self.modalities)
        labels = sum(bool(row.get("label")) for row in self.rows)
        lacking = sum(not all(row.get(m) for m in self.modalities) for row in self.rows)
        splits = Counter(row["split"] for row in self.rows)
        parts = ", ".join(f"{splits[s]} {s or 'in no split'}" for s in (*SPLITS, "") if splits[s])
        first = (
            f"{len(self.rows)} subjects ({self.reason}): {counts}; {labels} with a label; "
            f"{lacking or 'none'} {'lacks' if lacking == 1 else 'lack'} a modality; {parts}"
        )
        return "\n".join([first, *(f"note: {note}" for note in self.notes)])


def index_folder(
    folder: str | Path,
    schema: str = "",
    patterns: Mapping[str, str] | None = None,
    label: str = "",
    mask: str = "",
    shares: str = "",
    seed: int = 0,
    order: Sequence[str] = (),
) -> Indexed:
    """Find the subjects of a folder, one a subfolder or one a common beginning of file names.

    Args:
        folder: searched to any depth; hidden files are passed over. Or a MONAI datalist (``.json``).
        schema: label schema, or a JSON file that defines one; needed where names do not tell it.
        patterns: modality to glob pattern of a file's name, for folders that follow no known convention.
        label, mask: glob patterns, used with ``patterns``.
        shares: of train, val and test, such as ``60:15:25``; drawn over patients, whose times stay together. Empty:
            the splits of the layout where it has some, else 60:15:25.
        seed: of that draw.
        order: names of the channels of a datalist that does not tell them.

    Raises:
        InputError: no such folder, nothing recognised, two files for one cell, patterns of no use, a file that
            describes the cohort is at fault, or a schema is needed.
    """
    folder = _plain(folder)
    if not folder.is_dir() and not (folder.is_file() and folder.suffix.lower() == ".json"):
        raise InputError(f"{folder} is not a folder; name the one that holds the scans, or a datalist (.json)")
    given = read_schema(schema) if schema.endswith(".json") else vocabulary.schema(schema) if schema else None
    names = [vocabulary.canonical_modality(m) for m in (patterns or order)]
    _check_names(names)
    if patterns and folder.is_file():
        raise InputError("--modality NAME=PATTERN is for folders; of a datalist give the names alone, in order")
    if (label or mask) and not patterns:
        raise InputError("--label and --mask are patterns beside those of --modality; name the modalities too")
    if patterns:
        cells = _by_patterns(folder, dict(zip(names, patterns.values(), strict=True)), label, mask)
        layout = Layout(cells, tuple(names), "by the given patterns")
    else:
        layout = _recognised(folder, names)
    if not layout.cells:
        deeper = sorted(folder.rglob("dataset.json"))[:1] if folder.is_dir() else []
        hint = f"; {deeper[0]} lies deeper, name its folder" if deeper else ""
        raise InputError(
            f"{folder}: no scans recognised{hint}; give patterns, e.g. --modality t1c='*T1POST*' --label '*seg*'"
        )
    known, definition = layout.schema, layout.definition
    if given:
        known, definition = given.name, None if given.name in vocabulary.SCHEMAS else given
    if not known and any(files.get("label") for files in layout.cells.values()):
        choices = ", ".join(layout.choices or vocabulary.SCHEMAS)
        raise InputError(
            f"{folder} ({layout.reason}): the names do not tell what the labels mean; give --schema ({choices})"
        )
    splits, notes = _splits(layout, shares, seed)
    rows = [
        dict(files) | {"subject": name, "split": splits[name], "schema": known if files.get("label") else ""}
        for name, files in sorted(layout.cells.items())
    ]
    return Indexed(rows, layout.modalities, layout.reason, definition, (*layout.notes, *notes))


def _recognised(folder: Path, order: Sequence[str]) -> Layout:
    """The layout of the first convention that fits; what a file describes goes before what names tell."""
    if layout := datalists.described(folder, order):
        return layout
    if order:
        raise InputError(f"--modality {order[0]}: give it a pattern, as in {order[0]}='*T1POST*'; there is no datalist")
    scans = _scans(folder)
    return next(filter(None, (recognise(folder, scans) for recognise in BY_NAMES)), Layout({}, (), ""))


def _check_names(names: Sequence[str]) -> None:
    for name in names:
        if not name or "+" in name or name in RESERVED:
            raise InputError(f"--modality {name}: {name!r} is no name for a modality; name one, as in t1c")
        if names.count(name) > 1:
            raise InputError(f"--modality {name} is given twice (aliases count); keep one of them")


def _by_patterns(folder: Path, patterns: Mapping[str, str], label: str, mask: str) -> Cells:
    wanted = dict(patterns) | {column: pattern for column, pattern in (("label", label), ("mask", mask)) if pattern}
    for column, pattern in wanted.items():
        if not pattern.strip("./"):
            raise InputError(f"{column}={pattern} is no pattern; give one for the names of its files, as in '*T1POST*'")
    cells: Cells = {}
    for path in _scans(folder):
        for column, pattern in wanted.items():
            if path.match(pattern):
                case = path.parent.relative_to(folder).as_posix().replace("/", "_") if path.parent != folder else ""
                case = case or re.split(r"[-_.]", path.name)[0]
                fill(cells.setdefault(case, {}), column, path, case)
    return with_images(cells)


def _scans(folder: Path) -> list[Path]:
    # Names with a leading dot are no scans: macOS leaves ._NAME.nii.gz beside every file on foreign disks.
    found = (p for p in folder.rglob("[!.]*") if p.name.lower().endswith((".nii", ".nii.gz")))
    return sorted(p for p in found if p.is_file())


def _splits(layout: Layout, shares: str, seed: int) -> tuple[dict[str, str], list[str]]:
    """The split of every subject, and what to tell about it.

    Where some subjects have labels, those without are in no drawn split: training and scoring need a label.
    """
    labelled = {name for name, files in layout.cells.items() if files.get("label")} or set(layout.cells)
    bare = len(layout.cells) - len(labelled)
    if shares or layout.splits == "drawn":
        splits = dict.fromkeys(layout.cells, "") | _drawn(labelled, shares or DEFAULT_SHARES, seed)
        return splits, [f"{bare} without a label are in no split"] if bare else []
    splits = {name: files.get("split", "train") for name, files in layout.cells.items()}
    if layout.splits == "partly" and not any(splits[name] in ("val", "test") for name in labelled):
        train, val, _ = DEFAULT_SHARES.split(":")
        splits |= _drawn(labelled, f"{train}:{val}:0", seed)
        return splits, ["the test cases have no label, so val is drawn from the others; score with --split val"]
    return splits, []


def _drawn(subjects: Iterable[str], shares: str, seed: int) -> dict[str, str]:
    try:
        parts = np.array([float(p) for p in shares.split(":")])
    except ValueError:
        parts = np.array([])
    if parts.shape != (3,) or not np.isfinite(parts).all() or (parts < 0).any() or parts.sum() <= 0:
        raise InputError(f"--split {shares!r} is not TRAIN:VAL:TEST, e.g. {DEFAULT_SHARES}")
    if seed < 0:
        raise InputError(f"--seed {seed} is below 0; give a whole number from 0 on")
    patients = sorted({_TIMEPOINT.sub("", name) for name in subjects})
    edges = np.round(np.cumsum(parts / parts.sum()) * len(patients)).astype(int)
    counts = np.diff([0, *edges])
    names = [s for s, n in zip(SPLITS, counts, strict=True) for _ in range(n)]
    order = np.random.default_rng(seed).permutation(len(patients))
    of_patient = {patient: names[i] for patient, i in zip(patients, order, strict=True)}
    return {name: of_patient[_TIMEPOINT.sub("", name)] for name in subjects}


def _relative(path: str, folder: Path) -> str:
    return Path(path).relative_to(folder).as_posix() if Path(path).is_relative_to(folder) else path


def _plain(path: str | Path) -> Path:
    """Absolute and without ``..``; links are kept, since their targets may bear other names (git-annex)."""
    return Path(os.path.abspath(path))
