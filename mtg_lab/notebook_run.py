"""One notebook executed headless in a kernel of its own, and how it went."""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from mtg_lab.notebook_parameters import Plan


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


def run_one(
    plan: Plan, folder: Path, cell_timeout: float | None, html: bool, progress: bool
) -> tuple[Outcome, KeyboardInterrupt | None]:
    """Execute one notebook into ``folder``; what an interruption leaves is kept, and the interruption handed back."""
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
        one_line(fault) if fault else trouble,
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
        return None, f"no HTML: {one_line(fault)}"


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


def one_line(fault: BaseException) -> str:
    """Name and words of a fault, those of the cell where papermill wraps them."""
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
