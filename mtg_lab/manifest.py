"""``data_manifest.csv``: one row a subject, one column a modality, and how its files are found or synthesised."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from mtg_lab import vocabulary
from mtg_lab.errors import InputError
from mtg_lab.files import content_fingerprint, is_there, written_aside
from mtg_lab.manifest_files import find_manifest, own_schema, read_cells
from mtg_lab.manifest_phantoms import (
    ingredients_of,
    phantom_fingerprint,
    remembered_files,
    seed_fault,
    synthesise_missing,
)
from mtg_lab.schemas import LabelSchema

RESERVED = ("subject", "split", "site", "seed", "ingredients", "schema", "label", "mask")
SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Subject:
    """One row: a subject's files, in one grid.

    Attributes:
        images: modality to file, absent modalities left out; ``a.nii.gz[2]`` is the third volume of a 4-D file.
        seed: seed of a synthetic subject, None for a real one.
        ingredients: what a synthetic subject has beyond the plain phantom, in the one form of
            :func:`mtg_lab.phantom.chosen_ingredients`.
        definition: the schema itself, where a file beside the manifest defines it.
    """

    name: str
    images: Mapping[str, Path]
    split: str | None = None
    schema: str | None = None
    label: Path | None = None
    mask: Path | None = None
    site: str | None = None
    seed: int | None = None
    ingredients: tuple[str, ...] = ()
    definition: LabelSchema | None = None

    @property
    def label_schema(self) -> LabelSchema:
        """What the integers of the label mean.

        Raises:
            InputError: the row names no schema, or none that exists.
        """
        return self.definition or vocabulary.schema(str(self.schema))

    @property
    def files(self) -> dict[str, Path]:
        """Every file of the row by its column."""
        extra = {"label": self.label, "mask": self.mask}
        return {**self.images, **{k: v for k, v in extra.items() if v is not None}}


@dataclass(frozen=True)
class Manifest:
    """A cohort: its subjects and the order of its modalities, which is the order of channels everywhere."""

    path: Path
    modalities: tuple[str, ...]
    subjects: tuple[Subject, ...]

    def __len__(self) -> int:
        return len(self.subjects)

    def __iter__(self) -> Iterator[Subject]:
        return iter(self.subjects)

    def __getitem__(self, name: str) -> Subject:
        for subject in self.subjects:
            if subject.name == name:
                return subject
        raise InputError(f"{self.path}: no subject {name!r}; the first are {', '.join(s.name for s in self)[:80]}")

    def split(self, name: str) -> "Manifest":
        """The subjects of one split.

        Raises:
            InputError: no row belongs to it.
        """
        chosen = tuple(s for s in self.subjects if s.split == name)
        if not chosen:
            there = sorted({s.split for s in self.subjects if s.split}) or ["none"]
            raise InputError(f"{self.path}: no subject in split {name!r}; splits here: {', '.join(there)}")
        return replace(self, subjects=chosen)

    def limit(self, train: int = 0, val: int = 0, test: int = 0) -> "Manifest":
        """The first few subjects of each split (0 = all): what the smoke preset works on."""
        left = {k: n or len(self) for k, n in (("train", train), ("val", val), ("test", test))}
        chosen = []
        for subject in self.subjects:
            if subject.split is None or left[subject.split] > 0:
                chosen.append(subject)
                if subject.split:
                    left[subject.split] -= 1
        return replace(self, subjects=tuple(chosen))

    @property
    def schema(self) -> LabelSchema:
        """The one label schema of the cohort.

        Raises:
            InputError: rows name none, or more than one.
        """
        schemas = {s.schema: s.label_schema for s in self.subjects if s.schema}
        names = set(schemas)
        if len(names) != 1:
            found = ", ".join(sorted(names)) or "none"
            mend = "split the manifest or convert labels" if names else "fill the column 'schema'"
            raise InputError(f"{self.path}: one label schema is needed, found {found}; {mend}")
        return schemas[names.pop()]

    def materialise(self, workers: int | None = None) -> "Manifest":
        """Synthesise the files of seeded rows that are not there yet; files of real rows are only checked.

        Raises:
            InputError: a file of a row without a seed does not exist, or one with a seed cannot be synthesised.
        """
        for subject in self.subjects:
            for column, path in subject.files.items():
                if subject.seed is None:
                    _check_file(subject, column, path)
        todo = [s for s in self.subjects if s.seed is not None and not all(map(is_there, s.files.values()))]
        if todo:
            synthesise_missing(todo, workers)
        return self

    def fingerprint(self) -> str:
        """A digest of what the cohort is: rows and contents of files, not where they lie."""
        digest = hashlib.sha256(repr(self.modalities).encode())
        for s in self.subjects:
            digest.update(repr((s.name, s.split, s.schema, s.site, sorted(s.files))).encode())
            if s.definition:
                digest.update(repr(s.definition.to_json()).encode())
            digest.update(subject_fingerprint(s).encode())
        return digest.hexdigest()[:16]

    def table(self) -> pd.DataFrame:
        """One row a subject: split, site, schema and which modalities are there."""
        rows = [
            {"subject": s.name, "split": s.split, "site": s.site, "schema": s.schema, "label": s.label is not None}
            | {m: m in s.images for m in self.modalities}
            for s in self.subjects
        ]
        return pd.DataFrame(rows).set_index("subject")

    def _repr_html_(self) -> str:
        counts = self.table().groupby(["split", "site"], dropna=False).size().unstack(fill_value=0)
        return f"<b>{len(self)} subjects</b>, {', '.join(self.modalities)} ({self.path.name}){counts.to_html()}"


def subject_fingerprint(subject: Subject) -> str:
    """A digest of a subject's content: seed and generator of a synthetic one, fingerprints of files otherwise.

    Raises:
        InputError: a file of a real subject does not exist.
    """
    if subject.seed is not None:
        return phantom_fingerprint(subject)
    for column, path in subject.files.items():
        _check_file(subject, column, path)
    return "-".join(content_fingerprint(p) for _, p in sorted(subject.files.items()))


def _check_file(subject: Subject, column: str, path: Path) -> None:
    if not is_there(path):
        mend = "mend the path" if column == "label" else "mend the path or leave the cell empty"
        raise InputError(f"subject {subject.name}: {column} does not exist: {path}; {mend}")


def read_manifest(path: str | Path = "") -> Manifest:
    """Read a manifest; an empty path means the committed phantom cohort.

    Beside it some cohorts come with the package and are read by name: ``varied``, phantoms with all ingredients,
    ``mixed``, whom ``varied`` and the committed cohort learn from, and ``sites``, plain ones by scanners that nobody
    has met.

    Raises:
        InputError: the file is missing or unreadable, or a row is at fault (the first fault is told; ``doctor`` lists
            all of them).
    """
    manifest, faults = parse_manifest(path)
    if faults:
        more = f" (and {len(faults) - 1} more; see mtg-lab doctor)" if len(faults) > 1 else ""
        raise InputError(faults[0] + more)
    return manifest


def parse_manifest(path: str | Path = "") -> tuple[Manifest, list[str]]:
    """Read a manifest and the one-line faults of its rows; rows at fault are left out of the result.

    Raises:
        InputError: the file itself is of no use: missing, not CSV, without subjects or without modalities.
    """
    path = find_manifest(path)
    (_, header), *lines = read_cells(path)
    own = own_schema(path)
    columns = [vocabulary.canonical_modality(c) for c in header]
    modalities = tuple(c for c in columns if c not in RESERVED)
    if fault := _header_fault(header, columns):
        raise InputError(f"{path}: {fault}")
    if not lines:
        raise InputError(f"{path}: no subjects; add one row a subject")
    subjects: list[Subject] = []
    faults: list[str] = []
    seen: set[str] = set()
    for number, cells in lines:
        row = dict(zip(columns, cells, strict=False))
        if len(cells) != len(columns):
            fault = f"{len(cells)} cells, the header has {len(columns)}; give every column its cell, empty if need be"
        else:
            fault = _row_fault(row, modalities, seen, own)
        seen.add(row.get("subject", ""))
        if fault:
            faults.append(f"{path}, line {number}: {fault}")
        else:
            subjects.append(_subject(row, modalities, path.parent, own))
    return Manifest(path, modalities, tuple(subjects)), faults


def write_manifest(rows: Sequence[Mapping[str, Any]], modalities: Sequence[str], path: str | Path) -> Path:
    """Write rows (column to cell) as a manifest, reserved columns first, whole or not at all."""
    used = [c for c in RESERVED if any(r.get(c) not in (None, "") for r in rows)]
    leading = [c for c in used if c not in ("label", "mask")]
    columns = [*leading, *modalities, *[c for c in used if c not in leading]]
    table = pd.DataFrame(rows, dtype=object).reindex(columns=columns)  # as objects: seeds stay whole numbers
    with written_aside(path) as aside:
        table.to_csv(aside, index=False, lineterminator="\n")
    return Path(path)


def _header_fault(header: Sequence[str], columns: Sequence[str]) -> str | None:
    if "subject" not in columns:
        hint = "separate cells by commas, not semicolons" if len(header) == 1 and ";" in header[0] else ""
        return f"no column 'subject'; {hint or 'the header must name subject, split, schema, label, modalities'}"
    for number, (written, column) in enumerate(zip(header, columns, strict=True), start=1):
        if not column:
            return f"column {number} has no name; name its modality or delete it"
        if columns.count(column) > 1:
            return f"the column {column!r} occurs twice (aliases count); keep one of them"
        if "+" in column:
            return f"the column {written!r} cannot name a modality, + joins the names of a subset; rename it"
    if all(c in RESERVED for c in columns):
        return f"no modality column; every column besides {', '.join(RESERVED)} is one, name one a sequence as in t1c"
    return None


def _row_fault(
    row: Mapping[str, str], modalities: Sequence[str], seen: set[str], own: LabelSchema | None
) -> str | None:
    name = row["subject"]
    if not name:
        return "the cell 'subject' is empty; give every row a name"
    if name in seen:
        return f"subject {name} occurs twice; names must be unique"
    if row.get("split") and row["split"] not in SPLITS:
        return f"subject {name}: split {row['split']!r} is none of {', '.join(SPLITS)}; name one or leave it empty"
    if fault := seed_fault(row):
        return f"subject {name}: {fault}"
    if not any(row[m] for m in modalities):
        return f"subject {name}: the row is empty, no modality has a file; fill one or drop it"
    if row.get("label") and not row.get("schema"):
        return f"subject {name}: a label needs a schema; fill 'schema' ({', '.join(vocabulary.SCHEMAS)})"
    if row.get("schema") and (own is None or row["schema"] != own.name):
        try:
            vocabulary.schema(row["schema"])
        except InputError as error:
            return f"subject {name}: {error}"
    return None


def _subject(row: Mapping[str, str], modalities: Sequence[str], folder: Path, own: LabelSchema | None) -> Subject:
    seed = int(row["seed"]) if row.get("seed") else None
    files = {c: folder / row[c] for c in (*modalities, "label", "mask") if row.get(c)}
    if seed is not None:
        files = remembered_files(row, files)
    return Subject(
        name=row["subject"],
        images={m: files[m] for m in modalities if m in files},
        split=row.get("split") or None,
        schema=row.get("schema") or None,
        label=files.get("label"),
        mask=files.get("mask"),
        site=row.get("site") or None,
        seed=seed,
        ingredients=ingredients_of(row),
        definition=own if own and row.get("schema") == own.name else None,
    )
