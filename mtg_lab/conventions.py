"""Conventions by which challenges name their files; each recogniser says what it knew and why, or None.

Recognisers read names only. They are given the folder and its scans, sorted, and return a :class:`Layout`.
"""

import csv
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mtg_lab import vocabulary
from mtg_lab.errors import InputError
from mtg_lab.schemas import LabelSchema

Cells = dict[str, dict[str, str]]  # subject to column to cell


@dataclass(frozen=True)
class Layout:
    """A cohort as a convention lays it out.

    Attributes:
        cells: subject to column to cell; paths are whole, ``split`` and ``site`` are there where the layout knows them.
        modalities: in the order of the channels.
        reason: what was recognised, and by what.
        schema: name of the label schema, empty where the names do not tell it.
        choices: schemas that come into question then; empty for any.
        definition: the schema itself, where the layout brings its own.
        splits: ``given`` by the layout, ``partly`` (test alone is set aside), or to be ``drawn``.
        notes: what the user should know, one sentence each.
    """

    cells: Mapping[str, Mapping[str, str]]
    modalities: tuple[str, ...]
    reason: str
    schema: str = ""
    choices: tuple[str, ...] = ()
    definition: LabelSchema | None = None
    splits: str = "drawn"
    notes: tuple[str, ...] = ()


def fill(files: dict[str, str], column: str, path: Path, case: str) -> None:
    """Put a path into an empty cell.

    Raises:
        InputError: the cell is filled.
    """
    if column in files:
        raise InputError(
            f"subject {case}: two files for {column}, {files[column]} and {path}; move one away or narrow the pattern"
        )
    files[column] = str(path)


def with_images(cells: Cells) -> Cells:
    """Subjects that have more than a label or a mask."""
    return {case: files for case, files in cells.items() if set(files) - {"label", "mask", "split", "site"}}


# <case><separator><sequence>.nii[.gz]: an underscore up to 2021 and in FeTS, a hyphen since 2023, and an underscore
# again in the radiotherapy cases of 2024, whose label is the gross tumour volume.
_BRATS = re.compile(r"(?P<case>.+)[-_](?P<part>t1n|t1ce|t1c|t1|t2w|t2f|t2|flair|seg|gtv)\.nii(?:\.gz)?", re.IGNORECASE)
_OLD_CASE = re.compile(r"(?P<series>brats|fets)_?(?:20)?(?P<year>1[7-9]|2\d)_", re.IGNORECASE)
_NEW_CASE = re.compile(r"brats-(?P<kind>gli|met|men-rt|men|ped|ssa|goat)-", re.IGNORECASE)
_YEAR = re.compile(r"brats[^/]*?(20[12]\d)", re.IGNORECASE)  # ASNR-MICCAI-BraTS2023-GLI-..., BraTS-PEDs2024_Training
_POST_TREATMENT = re.compile(r"-1\d\d$")  # scans of 2024 are numbered from 100
_CASE_355 = re.compile(r".+_Segm\.nii(?:\.gz)?", re.IGNORECASE)  # BraTS20_Training_355: W39_1998.09.19_Segm.nii


def brats(folder: Path, scans: Sequence[Path]) -> Layout | None:
    """BraTS 2017-2024 of every kind and FeTS, by the names of the files; the kind and the year tell the labels."""
    cells: Cells = {}
    places: dict[str, Path] = {}
    for path in scans:
        if found := _BRATS.fullmatch(path.name):
            part = found["part"].lower()
            column = "label" if part in ("seg", "gtv") else vocabulary.canonical_modality(part)
            fill(cells.setdefault(found["case"], {}), column, path, found["case"])
            places[found["case"]] = path.parent
    notes = list(_odd_labels(cells, scans))
    cells = with_images(cells)
    if not cells:
        return None
    kinds = Counter(_kind(case, places[case]) for case in cells)
    schemas = {schema for _, schema, _ in kinds}
    if schemas == {"brats2023", "brats2024"}:
        schemas = {"brats2024"}  # of 2025 on, scans before and after treatment together; no label means two things
    known = sorted(schemas)
    if "" not in schemas and len(known) > 1 and len({_meaning(s) for s in known}) == 1:
        notes.append(f"the kinds share their labels, so all rows name {known[0]}")
        known = known[:1]
    told = ", ".join(f"{kind} {count}" if len(kinds) > 1 else kind for (kind, _, _), count in sorted(kinds.items()))
    grades = Counter(g for case in cells for g in ("HGG", "LGG") if g in places[case].parts)
    if grades:
        told += " (" + ", ".join(f"{g} {n}" for g, n in sorted(grades.items())) + ")"
    example = next(Path(c) for files in cells.values() for m, c in files.items() if m != "label").name
    sites = _fets_sites(folder)
    for case in cells:
        if case in sites:
            cells[case]["site"] = sites[case]
    if any(case in sites for case in cells):
        notes.append("sites are those of the partitioning table")
    choices = tuple(sorted({c for _, _, options in kinds for c in options}))
    return Layout(
        cells,
        _modalities_of(cells),
        f"{told}: names such as {example}",
        known[0] if len(known) == 1 else "",
        choices if len(known) == 1 else (),
        notes=tuple(notes),
    )


def _kind(case: str, place: Path) -> tuple[str, str, tuple[str, ...]]:
    """What a case is, its schema (empty if it cannot be told), and the schemas that come into question."""
    if old := _OLD_CASE.match(case):
        series = "FeTS" if old["series"].lower() == "fets" else "BraTS"
        return f"{series} 20{old['year']}", "brats2021", ()
    if case.startswith("phantom-"):
        return "the phantom", "brats2023", ()
    if not (new := _NEW_CASE.match(case)):
        return "BraTS names of no known year", "", ()
    kind, years = new["kind"].upper(), _YEAR.findall(place.as_posix())
    year = int(years[-1]) if years else 0
    told = f"BraTS {year or 'since 2023'} {kind}"
    if kind == "GLI":
        if year >= 2024 or _POST_TREATMENT.search(case):
            return f"BraTS {year or 2024} GLI, after treatment", "brats2024", ()
        return told, "brats2023", ()
    if kind == "PED":
        schema = {0: "", 2023: "brats2023_ped"}.get(year, "brats2024_ped")
        return told, schema, () if schema else ("brats2023_ped", "brats2024_ped")
    if kind == "MET" and year >= 2025:  # 4 is a resection cavity from then on
        return told, "brats2024", ()
    return told, {"MET": "brats2023_met", "MEN": "brats2023_men", "SSA": "brats2023_ssa",
                  "MEN-RT": "brats2024_men_rt", "GOAT": "brats2023"}[kind], ()  # fmt: skip


def _meaning(schema: str) -> str:
    """Equal for schemas that can stand for each other voxel by voxel."""
    s = vocabulary.schema(schema)
    try:
        same = vocabulary.conversion(s, "brats2023")
    except InputError:
        return schema
    return str((sorted(same.items()), list(s.regions.items()), s.ignored))


def _odd_labels(cells: Cells, scans: Sequence[Path]) -> Iterator[str]:
    for path in scans:
        case = path.parent.name
        if _CASE_355.fullmatch(path.name) and case in cells and "label" not in cells[case]:
            fill(cells[case], "label", path, case)
            yield f"the label of {case} is called {path.name}"


def _modalities_of(cells: Cells) -> tuple[str, ...]:
    """The four of BraTS, or t1c alone: the radiotherapy cases have no other."""
    only_contrast = all("-MEN-RT-" in case.upper() for case in cells)
    return ("t1c",) if only_contrast else vocabulary.BRATS_MODALITIES


def _fets_sites(folder: Path) -> dict[str, str]:
    """Subject to institution from FeTS' partitioning_1.csv (the natural partition), empty without such a table."""
    for path in sorted(folder.rglob("partitioning*.csv")):
        with path.open(encoding="utf-8-sig", newline="") as stream:
            try:
                rows = list(csv.DictReader(stream))
            except (csv.Error, ValueError) as fault:
                raise InputError(f"{path} is not a readable CSV file ({fault}); mend it or move it away") from fault
        header = list(rows[0]) if rows else []
        subject = next((c for c in header if c and "subject" in c.lower()), None)
        site = next((c for c in header if c and re.search("partition|institution|site", c.lower())), None)
        if subject and site:
            return {r[subject].strip(): r[site].strip() for r in rows if r[subject] and r[site]}
    return {}


_ISLES = re.compile(
    r"(?P<case>sub-strokecase\d+)_(?P<session>ses-\d+)_(?P<part>dwi|adc|flair|flair_resampled_to_dwi|msk)\.nii(?:\.gz)?",
    re.IGNORECASE,
)


def isles(_folder: Path, scans: Sequence[Path]) -> Layout | None:
    """ISLES 2022: BIDS names below ses-0001, the mask in derivatives; FLAIR lies on a grid of its own."""
    cells: Cells = {}
    resampled: Cells = {}
    for path in scans:
        if found := _ISLES.fullmatch(path.name):
            case, part = found["case"], found["part"].lower()
            case += "" if found["session"].lower() == "ses-0001" else f"_{found['session']}"
            column = {"msk": "label", "flair_resampled_to_dwi": "t2f"}.get(part) or vocabulary.canonical_modality(part)
            target = resampled if part == "flair_resampled_to_dwi" else cells
            fill(target.setdefault(case, {}), column, path, case)
    for case, files in resampled.items():
        cells[case] = {**cells.get(case, {}), **files}
    raw = sum("t2f" in files and case not in resampled for case, files in cells.items())
    notes = []
    if resampled:
        notes.append(f"FLAIR resampled to the DWI grid is preferred to the raw one in {len(resampled)}")
    if raw:
        notes.append(
            f"the FLAIR of {raw} is raw and lies on another grid than DWI, which doctor refuses; put a "
            "*_flair_resampled_to_dwi.nii.gz beside it, or empty the column t2f"
        )
    if not with_images(cells):
        return None
    return Layout(
        with_images(cells), ("dwi", "adc", "t2f"), "ISLES 2022: BIDS names such as sub-strokecase0001_ses-0001_dwi",
        "isles2022", notes=tuple(notes),
    )  # fmt: skip


_MYOPS = re.compile(r"(?P<case>myops_(?P<side>training|test)_\d+)_(?P<part>c0|de|t2|gd)\.nii(?:\.gz)?", re.IGNORECASE)


def myops(_folder: Path, scans: Sequence[Path]) -> Layout | None:
    """MyoPS 2020: bSSFP (C0), late gadolinium (DE) and T2 of the heart; the test cases have no label."""
    cells: Cells = {}
    for path in scans:
        if found := _MYOPS.fullmatch(path.name):
            part, case = found["part"].lower(), found["case"]
            files = cells.setdefault(case, {})
            fill(files, "label" if part == "gd" else vocabulary.canonical_modality(part), path, case)
            if found["side"].lower() == "test":
                files["split"] = "test"
    cells = with_images(cells)
    if not cells:
        return None
    splits = "partly" if any("split" in files for files in cells.values()) else "drawn"
    return Layout(
        cells, ("c0", "de", "t2w"), "MyoPS 2020: names such as myops_training_101_C0", "myops2020", splits=splits
    )


BY_NAMES = (isles, myops, brats)
