"""Which notebooks are meant: by number, name or path, or by a sweep's file."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mtg_lab.manifest_files import find_manifest
from mtg_lab.notebook_parameters import NotebookError

SWEEP_KEYS = ("notebook", "preset", "manifest", "split", "grid")


def default_folder() -> Path:
    """Return ./notebooks, or the notebooks of the repository that this package is installed from in place.

    Raises :class:`NotebookError` when neither holds a notebook.
    """
    for folder in (Path.cwd() / "notebooks", Path(__file__).resolve().parents[1] / "notebooks"):
        if any(folder.glob("*.ipynb")):
            return folder
    raise NotebookError(
        f"no notebooks here: {Path.cwd() / 'notebooks'} holds none; run from a clone of the repository or name files"
    )


def find_notebooks(names: Sequence[str], folder: Path) -> list[Path]:
    """Return the notebooks meant by ``names`` in reading order; no names means all of ``folder``.

    A name is a number (``03``), a file's name with or without its number or suffix, or a path. Raises
    :class:`NotebookError` for a name that fits nothing.
    """
    known = sorted(Path(folder).glob("*.ipynb"))
    if not names:
        if not known:
            raise NotebookError(f"no notebooks in {folder}")
        return known
    chosen: dict[Path, None] = {}
    for name in map(str, names):
        fitting = [path for path in known if name in _names(path)]
        if not fitting and Path(name).suffix == ".ipynb" and Path(name).is_file():
            fitting = [Path(name)]
        if not fitting:
            raise NotebookError(f"no notebook {name}; there are {', '.join(path.stem for path in known) or 'none'}")
        chosen.update(dict.fromkeys(fitting))
    return sorted(chosen, key=lambda path: path.name)


def _names(path: Path) -> set[str]:
    number, _, rest = path.stem.partition("_")
    names = {path.name, path.stem, str(path), number, rest}
    return (names | {str(int(number))} if number.isdigit() else names) - {""}


class SweepFile(NamedTuple):
    """What a sweep's file asks for; without a notebook its points are recipes."""

    notebook: Path | None
    points: list[dict[str, object]]
    preset: str
    manifest: Path | None
    split: str


def read_sweep(path: Path, folder: Path | None = None) -> SweepFile:
    """Read a sweep's YAML file.

    ``grid`` maps a parameter to its values (or to one value), and every combination is one run; or it is a list of
    parameter sets, for those runs only. They are parameters of ``notebook``, or, where none is named, settings of
    recipes, which are scored on ``split``. A notebook's path and the manifest's are relative to the file. Raises
    :class:`NotebookError` when the file cannot be read or says something else.
    """
    import yaml

    try:
        sweep = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as fault:
        raise NotebookError(f"cannot read {path} ({fault.strerror or fault}); mend the path") from None
    except (yaml.YAMLError, UnicodeDecodeError) as fault:
        mark = getattr(fault, "problem_mark", None)
        raise NotebookError(f"{path}: not YAML{f', line {mark.line + 1}' if mark else ''}; mend it there") from None
    unknown = set(sweep) - set(SWEEP_KEYS) if isinstance(sweep, dict) else set()
    if not isinstance(sweep, dict) or unknown or not isinstance(sweep.get("notebook", ""), (str, int)):
        extra = f"; it has {', '.join(sorted(map(str, unknown)))}" if unknown else ""
        raise NotebookError(
            f"{path}: a sweep has a grid, of a notebook's parameters where it names one, else of recipes, and perhaps "
            f"preset, manifest and split{extra}"
        )
    found = None
    if name := str(sweep.get("notebook", "")):
        if "split" in sweep:
            raise NotebookError(f"{path}: split is for recipes; a notebook scores what it says itself, leave one out")
        beside = Path(path).parent / name
        (found,) = [beside] if beside.is_file() else find_notebooks([name], folder or default_folder())
    points, manifest = _points(sweep.get("grid"), path), _beside(sweep.get("manifest"), path)
    return SweepFile(found, points, str(sweep.get("preset", "lab")), manifest, str(sweep.get("split", "test")))


def _beside(manifest: object, path: Path) -> Path | None:
    return find_manifest(str(manifest), Path(path).parent) if manifest else None


def _points(grid: Any, path: Path) -> list[dict[str, object]]:
    if isinstance(grid, list) and grid and all(isinstance(point, dict) for point in grid):
        return [{str(name): _number(value) for name, value in point.items()} for point in grid]
    if not isinstance(grid, dict) or not grid or [] in grid.values():
        raise NotebookError(
            f"{path}: no grid; grid maps each parameter to values, as in seed: [0, 1], or lists parameter sets"
        )
    columns = [[_number(value) for value in _listed(values)] for values in grid.values()]
    return [dict(zip(map(str, grid), values)) for values in itertools.product(*columns)]


def _listed(values: Any) -> list[Any]:
    return values if isinstance(values, list) else [values]


def _number(value: object) -> object:
    # YAML 1.1 reads 1e-3 as a word, since it lacks a point.
    return float(value) if isinstance(value, str) and re.fullmatch(r"[+-]?\d+[eE][+-]?\d+", value) else value
