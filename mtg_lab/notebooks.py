"""Run notebooks headless: find them, check their parameters, execute each in its own kernel, keep HTML and an index.

What a notebook must have is little: one cell tagged ``parameters`` that assigns literals, and, when it cannot run
without the results of others, ``{"mtg_lab": {"needs": ["06_students"]}}`` in its metadata.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import asdict, replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Any

from mtg_lab.errors import InputError
from mtg_lab.files import make_folder, write_text
from mtg_lab.manifest_files import find_manifest, shipped_manifests
from mtg_lab.notebook_parameters import NotebookError, Plan, parse_parameters, plan_runs
from mtg_lab.notebook_run import Outcome, PollingEngine, one_line, run_one
from mtg_lab.notebook_selection import default_folder, find_notebooks, read_sweep
from mtg_lab.progress import progress as _bar

__all__ = [
    "PRESETS",
    "NotebookError",
    "Outcome",
    "PollingEngine",
    "default_folder",
    "find_notebooks",
    "parse_parameters",
    "read_sweep",
    "run_grid",
    "run_notebooks",
    "write_index",
]

PRESETS = ("smoke", "lab", "paper")
# Smoke proves that everything runs: its cells take seconds, or a minute or two on a machine that does much else, so
# this long is a fault. Elsewhere training takes its time.
CELL_TIMEOUT_S = {"smoke": 300.0}
NO_PARAMETERS: Mapping[str, object] = MappingProxyType({})


def run_notebooks(
    notebooks: Sequence[Path],
    out: Path,
    *,
    preset: str = "lab",
    parameters: Mapping[str, object] = NO_PARAMETERS,
    manifest: Path | None = None,
    cell_timeout: float | None = None,
    html: bool = True,
    progress: bool = True,
) -> list[Outcome]:
    """Execute notebooks one after the other into ``out/<name>/``, then write ``out/index.html``.

    A failing notebook does not stop the others, except those that declare to need it. Each parameter goes to the
    notebooks that declare it. ``cell_timeout`` caps every cell in seconds; None means 300 in the smoke preset and no
    cap elsewhere. Raises :class:`NotebookError`, before anything runs, for a parameter that no notebook declares or a
    value of another type than the declared one, an unknown preset, a missing manifest, a file that is no notebook, or
    an output folder that cannot be written; and KeyboardInterrupt, after keeping what is done.
    """
    plans = _planned(notebooks, preset, parameters, manifest)
    out = _writable(Path(out))
    if cell_timeout is None:
        cell_timeout = CELL_TIMEOUT_S.get(str(parameters.get("preset", preset)))
    outcomes: list[Outcome] = []
    interrupt: KeyboardInterrupt | None = None
    for number, plan in enumerate(plans, start=1):
        missing = {o.notebook: o.status for o in outcomes if o.status != "done" and o.notebook in plan.needs}
        if missing:
            reason = "; ".join(f"needs {name}, which {_WAS[status]}" for name, status in missing.items())
            outcome = Outcome(plan.name, "skipped", message=reason)
        else:
            outcome, interrupt = run_one(plan, out / plan.name, cell_timeout, html, progress)
        outcomes.append(outcome)
        if progress:
            note = f"  {_place(outcome)}" if outcome.message else ""
            print(
                f"[{number}/{len(plans)}] {plan.name}: {outcome.status}, {outcome.seconds:.1f} s{note}", file=sys.stderr
            )
        if interrupt:
            break
    if html:
        write_index(outcomes, out)
    if interrupt:
        raise interrupt
    return outcomes


_WAS = {"failed": "failed", "skipped": "was skipped"}


def _place(outcome: Outcome) -> str:
    return f"cell {outcome.cell}: {outcome.message}" if outcome.cell else outcome.message


def _planned(
    notebooks: Sequence[Path], preset: str, parameters: Mapping[str, object], manifest: Path | None
) -> list[Plan]:
    absent = [name for name in ("papermill", "nbconvert", "ipykernel") if find_spec(name) is None]
    if absent:
        raise NotebookError(f"running notebooks needs {', '.join(absent)}: pip install 'mtg-lab[lab]'")
    given = dict(parameters)
    if preset != "lab":
        given.setdefault("preset", preset)
    if manifest is not None:
        given.setdefault("manifest", str(manifest))
    if given.get("preset", preset) not in PRESETS:
        raise NotebookError(f"preset {given.get('preset', preset)}: there are {', '.join(PRESETS)}")
    if given.get("manifest"):
        path = find_manifest(str(given["manifest"]))
        if not path.is_file():
            named = f"name one of the package ({', '.join(shipped_manifests())})"
            raise NotebookError(f"no manifest {path}; mend the path, {named}, or make one with 'mtg-lab index FOLDER'")
        # The kernel's folder is the notebook's, not the caller's.
        given["manifest"] = str(path.resolve())
    return plan_runs([Path(path) for path in notebooks], given, defaults={"preset": preset})


def _writable(out: Path) -> Path:
    try:
        return make_folder(out).resolve()
    except InputError as fault:
        raise NotebookError(str(fault)) from None


def write_index(outcomes: Iterable[Outcome], out: Path, title: str = "The notebooks of mtg_lab") -> Path:
    """Write ``out/index.html``: a card a notebook with its goal, result, links and pictures, and the Dice table.

    Raises :class:`NotebookError` when the file cannot be written.
    """
    from mtg_lab.notebook_pages import index_html

    try:
        return write_text(Path(out) / "index.html", index_html(list(outcomes), Path(out).resolve(), title))
    except InputError as fault:
        raise NotebookError(str(fault)) from None


def run_grid(
    notebook: Path,
    grid: Sequence[Mapping[str, object]],
    out: Path,
    executor: Executor | None = None,
    *,
    preset: str = "lab",
    manifest: Path | None = None,
    cell_timeout: float | None = None,
    html: bool = True,
) -> list[Outcome]:
    """Run one notebook once for each set of parameters, each in a folder of its own, and return outcomes in grid order.

    What ``out`` holds already, of the same notebook, point, manifest and version, is not run again; what fails is run
    once more. Any ``concurrent.futures`` executor will do whose workers share this file system; None is a thread pool
    with one slot for every two cores, as each run is a process of its own anyway. Raises what :func:`run_notebooks`
    raises, for any point of the grid, before the first one runs.
    """
    notebook, points = Path(notebook), [dict(point) for point in grid]
    for point in points:
        _planned([notebook], preset, point, manifest)
    out = _writable(Path(out))
    folders = [out / _label(number, point) for number, point in enumerate(points)]
    asked = [_asked(notebook, point, preset, manifest) for point in points]
    fixed = {"preset": preset, "manifest": manifest, "cell_timeout": cell_timeout, "html": html, "progress": False}
    outcomes = {n: kept for n, f in enumerate(folders) if (kept := _kept_outcome(f, asked[n]))}
    pool = executor or ThreadPoolExecutor(max_workers=max(1, (os.cpu_count() or 1) // 2))
    bar = _bar(total=len(points), desc=notebook.stem)
    bar.update(len(outcomes))
    elsewhere = notebook.resolve()  # for workers that have another working folder
    try:
        for attempt in (1, 2):
            left = [n for n in range(len(points)) if n not in outcomes or outcomes[n].status != "done"]
            futures = {n: pool.submit(_grid_point, elsewhere, folders[n], points[n], fixed, asked[n]) for n in left}
            for number, future in futures.items():
                outcomes[number] = _of(future, notebook, folders[number])
                bar.update(attempt == 1)
    finally:
        bar.close()
        if executor is None:
            pool.shutdown(cancel_futures=True)
        found = [outcomes[n] for n in sorted(outcomes)]
        if html:
            write_index(found, out, title=f"{notebook.stem}: {len(found)} of {len(points)} runs")
    return found


def _grid_point(notebook: Path, out: Path, point: dict[str, object], fixed: dict[str, Any], asked: str) -> Outcome:
    outcome = run_notebooks([notebook], out, parameters=point, **fixed)[0]
    if outcome.status == "done":
        plain = {k: str(v) if isinstance(v, Path) else v for k, v in asdict(outcome).items()}
        write_text(out / "done.json", json.dumps({"asked": asked, "outcome": plain}))
    return outcome


def _of(future: Future[Outcome], notebook: Path, folder: Path) -> Outcome:
    try:
        return future.result()
    except Exception as fault:
        return Outcome(notebook.stem, "failed", message=f"{folder.name}: {one_line(fault)}")


def _asked(notebook: Path, point: Mapping[str, object], preset: str, manifest: Path | None) -> str:
    """A digest of everything that a point of a grid is asked to do."""
    facts = [preset, sorted((k, repr(v)) for k, v in point.items()), version("mtg-lab")]
    digest = hashlib.sha256(json.dumps(facts).encode() + notebook.read_bytes())
    if manifest is not None:
        digest.update(find_manifest(manifest).read_bytes())
    return digest.hexdigest()


def _kept_outcome(folder: Path, asked: str) -> Outcome | None:
    try:
        kept = json.loads((folder / "done.json").read_text(encoding="utf-8"))
        found = Outcome(**kept["outcome"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    pages = {k: Path(v) for k in ("executed", "html") if (v := getattr(found, k))}
    whole = kept["asked"] == asked and all(page.is_file() for page in pages.values())
    return replace(found, **pages) if whole else None  # type: ignore[arg-type]


def _label(number: int, point: Mapping[str, object]) -> str:
    words = "_".join(f"{name}={value}" for name, value in point.items())
    return f"{number:03d}_{re.sub(r'[^A-Za-z0-9.=_+-]+', '-', words)}"[:80].rstrip("_-.")
