"""Run notebooks headless: find them, check their parameters, execute each in its own kernel, keep HTML and an index.

What a notebook must have is little: one cell tagged ``parameters`` that assigns literals, and, when it cannot run
without the results of others, ``{"mtg_lab": {"needs": ["06_students"]}}`` in its metadata.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from mtg_lab.errors import InputError
from mtg_lab.files import make_folder, write_text
from mtg_lab.notebook_parameters import NotebookError, Plan, parse_parameters, plan_runs
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


@dataclass(frozen=True)
class Outcome:
    """How one notebook went: ``cell`` is the failing code cell, counted from 1 as in the stored notebook."""

    notebook: str
    status: Literal["done", "failed", "skipped"]
    seconds: float = 0.0
    cell: int | None = None
    message: str = ""
    executed: Path | None = None
    html: Path | None = None
    metrics: dict[str, Any] = field(default_factory=dict)


class PollingEngine:
    """The papermill engine named ``mtg_lab``: :class:`mtg_lab.notebook_engine.Engine`, imported at its first use.

    papermill loads its entry points while it is being imported itself; a class that derived from papermill's would meet
    a half-made module then.
    """

    @staticmethod
    def execute_notebook(notebook: Any, kernel_name: str, **options: Any) -> Any:
        """Execute an open notebook; the options are those of papermill's own engine."""
        from mtg_lab.notebook_engine import Engine

        return Engine.execute_notebook(notebook, kernel_name, **options)

    @staticmethod
    def nb_kernel_name(nb: Any, name: str | None = None) -> str:
        """Return the kernel's name, from the notebook unless given; raises ValueError when there is none."""
        from papermill.utils import nb_kernel_name

        return nb_kernel_name(nb, name)

    @staticmethod
    def nb_language(nb: Any, language: str | None = None) -> str:
        """Return the language, from the notebook unless given; raises ValueError when there is none."""
        from papermill.utils import nb_language

        return nb_language(nb, language)


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
            outcome, interrupt = _run_one(plan, out / plan.name, cell_timeout, html, progress)
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
        path = Path(str(given["manifest"]))
        if not path.is_file():
            raise NotebookError(f"no manifest {path}; mend the path, or make one with 'mtg-lab index FOLDER'")
        # The kernel's folder is the notebook's, not the caller's.
        given["manifest"] = str(path.resolve())
    return plan_runs([Path(path) for path in notebooks], given, defaults={"preset": preset})


def _writable(out: Path) -> Path:
    try:
        return make_folder(out).resolve()
    except InputError as fault:
        raise NotebookError(str(fault)) from None


def _run_one(
    plan: Plan, folder: Path, cell_timeout: float | None, html: bool, progress: bool
) -> tuple[Outcome, KeyboardInterrupt | None]:
    import papermill
    from papermill.engines import papermill_engines

    # By hand too, so that a checkout which is only on the path works without its entry point.
    papermill_engines.register("mtg_lab", PollingEngine)
    executed = folder / f"{plan.name}.ipynb"
    partial = folder / f".{plan.name}.partial.ipynb"
    log = folder / "kernel.log"
    fault: BaseException | None = None
    started = time.perf_counter()
    try:
        _clear(folder)
        # It warns of every comment that holds an equals sign, and of faults that the outcome reports anyway.
        logging.getLogger("papermill").setLevel(logging.CRITICAL)
        papermill.execute_notebook(
            str(plan.path.resolve()),
            str(partial),
            parameters={**plan.parameters, **({"out": str(folder)} if "out" in plan.declared else {})},
            engine_name="mtg_lab",
            kernel_name=plan.kernel,
            language="python",
            progress_bar={"desc": plan.name, "leave": False} if progress and sys.stderr.isatty() else False,
            execution_timeout=None if cell_timeout is None else max(1, round(cell_timeout)),
            kernel_cwd=str(plan.path.resolve().parent),
            kernel_log=str(log),
        )
    except (Exception, KeyboardInterrupt) as caught:
        fault = caught
    seconds = round(time.perf_counter() - started, 2)
    if log.exists() and not log.stat().st_size:
        log.unlink()
    if partial.exists():
        partial.replace(executed)
    notebook = _read(executed)
    page, trouble = None, ""
    if html and notebook is not None:
        page, trouble = _export(notebook, executed)
    outcome = Outcome(
        plan.name,
        "failed" if fault else "done",
        seconds,
        _failing_cell(notebook) if fault and notebook is not None else None,
        _one_line(fault) if fault else trouble,
        executed if notebook is not None else None,
        page,
        _metrics(folder),
    )
    return outcome, fault if isinstance(fault, KeyboardInterrupt) else None


def _clear(folder: Path) -> None:
    # What an earlier run left must not pass for the result of this one.
    folder.mkdir(parents=True, exist_ok=True)
    stale = ("*.ipynb", "*.html", "figures/*.png", "metrics.json", "dice_table.csv", "kernel.log")
    for path in (found for pattern in stale for found in folder.glob(pattern)):
        path.unlink()


def _read(path: Path) -> Any:
    import nbformat

    try:
        return nbformat.read(path, as_version=4)
    except (OSError, ValueError):
        return None


def _export(notebook: Any, executed: Path) -> tuple[Path | None, str]:
    from mtg_lab.notebook_pages import export_html

    try:
        return export_html(notebook, executed.with_suffix(".html")), ""
    except Exception as fault:
        # The notebook itself is executed and kept; a page that cannot be drawn is worth a word, not the result.
        return None, f"no HTML: {_one_line(fault)}"


def _failing_cell(notebook: Any) -> int | None:
    number = 0
    for cell in notebook.cells:
        if cell.cell_type != "code" or "injected-parameters" in cell.metadata.get("tags", []):
            continue
        number += 1
        broken = any(output.output_type == "error" for output in cell.outputs)
        if broken or cell.metadata.get("papermill", {}).get("exception"):
            return number
    return None


def _one_line(fault: BaseException) -> str:
    # papermill wraps the cell's own exception, whose name and words are what the reader wants.
    name = getattr(fault, "ename", type(fault).__name__)
    words = str(getattr(fault, "evalue", fault)).strip()
    line = re.sub(r"\x1b\[[0-9;]*m", "", words.splitlines()[0]) if words else ""
    return f"{name}: {line}" if line else name


def _metrics(folder: Path) -> dict[str, Any]:
    try:
        metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return metrics if isinstance(metrics, dict) else {}


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
    path, points = Path(notebook).resolve(), [dict(point) for point in grid]
    for point in points:
        _planned([path], preset, point, manifest)
    out = _writable(Path(out))
    folders = [out / _label(number, point) for number, point in enumerate(points)]
    asked = [_asked(Path(notebook), point, preset, manifest) for point in points]
    fixed = {"preset": preset, "manifest": manifest, "cell_timeout": cell_timeout, "html": html, "progress": False}
    outcomes = {n: kept for n, f in enumerate(folders) if (kept := _kept_outcome(f, asked[n]))}
    pool = executor or ThreadPoolExecutor(max_workers=max(1, (os.cpu_count() or 1) // 2))
    bar = _bar(total=len(points), desc=Path(notebook).stem)
    bar.update(len(outcomes))
    try:
        for attempt in (1, 2):
            left = [n for n in range(len(points)) if n not in outcomes or outcomes[n].status != "done"]
            futures = {n: pool.submit(_grid_point, path, folders[n], points[n], fixed, asked[n]) for n in left}
            for number, future in futures.items():
                outcomes[number] = _of(future, notebook, folders[number])
                bar.update(attempt == 1)
    finally:
        bar.close()
        if executor is None:
            pool.shutdown(cancel_futures=True)
        found = [outcomes[n] for n in sorted(outcomes)]
        if html:
            write_index(found, out, title=f"{Path(notebook).stem}: {len(found)} of {len(points)} runs")
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
        return Outcome(Path(notebook).stem, "failed", message=f"{folder.name}: {_one_line(fault)}")


def _asked(notebook: Path, point: Mapping[str, object], preset: str, manifest: Path | None) -> str:
    """A digest of everything that a point of a grid is asked to do."""
    facts = [preset, sorted((k, repr(v)) for k, v in point.items()), version("mtg-lab")]
    digest = hashlib.sha256(json.dumps(facts).encode() + Path(notebook).read_bytes())
    if manifest is not None:
        digest.update(Path(manifest).read_bytes())
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
