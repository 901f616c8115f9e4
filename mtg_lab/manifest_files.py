"""What lies on disk of a manifest: the cells of its table, and the label schema beside it."""

import csv
from pathlib import Path

from mtg_lab.errors import InputError
from mtg_lab.schemas import SCHEMAS, LabelSchema, read_schema

_SHIPPED = Path(__file__).resolve().parent / "cohorts"


def default_manifest() -> Path:
    """The committed cohort, from the working folder or the repository that the package was installed from.

    Raises:
        InputError: there is none.
    """
    for folder in (Path.cwd(), *Path.cwd().parents, Path(__file__).resolve().parents[1]):
        if (folder / "data_manifest.csv").is_file():
            return folder / "data_manifest.csv"
    raise InputError("no data_manifest.csv here; make one with 'mtg-lab phantom --out DIR' or 'mtg-lab index FOLDER'")


def find_manifest(path: str | Path = "", folder: Path = Path()) -> Path:
    """The file that is meant: the committed cohort where nothing is named, one that comes with the package by its name.

    Args:
        path: of a manifest, a name, or empty.
        folder: that the path is relative to; a file there comes before a cohort of the package.

    Raises:
        InputError: nothing is named and there is no committed cohort.
    """
    if not str(path):
        return default_manifest()
    beside = folder / path
    return _SHIPPED / f"{path}.csv" if not beside.is_file() and str(path) in shipped_manifests() else beside


def shipped_manifests() -> list[str]:
    """Names of the cohorts that come with the package."""
    return sorted(p.stem for p in _SHIPPED.glob("*.csv"))


def schema_file(manifest: Path) -> Path:
    """Where a manifest's own label schema lies, if it has one: ``mine.csv`` has ``mine.schema.json`` beside it."""
    return manifest.with_name(f"{manifest.stem}.schema.json")


def own_schema(manifest: Path) -> LabelSchema | None:
    """The schema that lies beside a manifest, None without one.

    Raises:
        InputError: the file is no schema, or its name is taken.
    """
    path = schema_file(manifest)
    if not path.is_file():
        return None
    own = read_schema(path)
    if own.name in SCHEMAS:
        raise InputError(f"{path}: the name {own.name} is taken by a schema of the package; choose another")
    return own


def read_cells(path: Path) -> list[tuple[int, list[str]]]:
    """Line number and stripped cells of every line that is not blank, the header first.

    Raises:
        InputError: no such file, not CSV, or empty.
    """
    if not path.is_file():
        if path.is_dir():
            mend = f"write its manifest with 'mtg-lab index {path}', or name a .csv in it"
            raise InputError(f"the manifest {path} is a folder; {mend}")
        named = f"or name one of the package: {', '.join(shipped_manifests())}"
        raise InputError(
            f"the manifest {path} does not exist; make one with 'mtg-lab index FOLDER' or 'mtg-lab phantom', {named}"
        )
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:  # spreadsheets begin with a byte-order mark
            reader = csv.reader(stream)
            lines = [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader if any(cells)]
    except (csv.Error, ValueError, OSError) as error:  # a UnicodeDecodeError is a ValueError
        raise InputError(
            f"{path} is not a readable CSV file ({str(error).splitlines()[0]}); save it as CSV, UTF-8"
        ) from error
    if not lines:
        raise InputError(f"{path} is empty; its first line names the columns subject, split, schema, label, modalities")
    return lines
