"""What a notebook declares in its parameters cell, and whether what the user gives fits; before anything runs."""

from __future__ import annotations

import ast
import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mtg_lab.errors import InputError

WORDS = {"true": True, "false": False, "null": None, "none": None}
UNKNOWN = object()  # a declared value that is no literal: any type may replace it


class NotebookError(InputError):
    """The notebooks or what was asked of them are at fault; the message is one line."""


@dataclass(frozen=True)
class Plan:
    """One notebook that is going to run, and what it will be given."""

    path: Path
    kernel: str
    declared: dict[str, Any]
    needs: tuple[str, ...]
    parameters: dict[str, object]

    @property
    def name(self) -> str:
        """The file's name without its suffix: the name of its folder in the output."""
        return self.path.stem


def parse_parameters(pairs: Iterable[tuple[str, str]]) -> dict[str, object]:
    """Return typed values for the texts of a command line: ``3``, ``1e-3``, ``true``, ``null``, ``[1, 2]``, ``'3'``.

    Anything else is text. Unlike YAML 1.1, ``no`` stays a word and ``1e-3`` is a number. Raises :class:`NotebookError`
    for a name that is no Python name or is given twice.
    """
    parsed: dict[str, object] = {}
    for name, text in pairs:
        if not name.isidentifier():
            raise NotebookError(f"parameter {name!r}: a parameter's name is a Python name, such as seed")
        if name in parsed:
            raise NotebookError(f"parameter {name}: given twice")
        parsed[name] = literal(text)
    return parsed


def literal(text: str) -> object:
    """The value that a text of the command line stands for; see :func:`parse_parameters`."""
    plain = text.strip()
    if plain.lower() in WORDS:
        return WORDS[plain.lower()]
    try:
        return ast.literal_eval(plain)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        pass
    if plain[:1] in ("[", "{"):
        # [t1c, t2f] without quotes, which a shell would eat anyway
        import yaml

        try:
            return yaml.safe_load(plain)
        except yaml.YAMLError:
            pass
    return text


def plan_runs(
    notebooks: Sequence[Path], given: Mapping[str, object], defaults: Mapping[str, object] | None = None
) -> list[Plan]:
    """Read the notebooks and hand each the given parameters that it declares; ``defaults`` are handed where declared.

    Raises :class:`NotebookError` for an unreadable notebook, two of one name, a parameter that none declares, or a
    value whose type is not the declared one.
    """
    if not notebooks:
        raise NotebookError("no notebooks to run")
    if "out" in given:
        raise NotebookError(
            "parameter out: the runner sets it, to a folder a notebook; choose the output folder instead"
        )
    plans: list[Plan] = []
    for path in notebooks:
        if any(path.stem == plan.name for plan in plans):
            raise NotebookError(f"two notebooks are called {path.stem}; run them into different output folders")
        notebook = _open(path)
        declared = declared_parameters(notebook, path)
        wanted = {**(defaults or {}), **given}
        plans.append(
            Plan(
                path,
                notebook.metadata.get("kernelspec", {}).get("name", "python3"),
                declared,
                tuple(notebook.metadata.get("mtg_lab", {}).get("needs", ())),
                {name: _plain(value) for name, value in wanted.items() if name in declared},
            )
        )
    for name, value in given.items():
        takers = [plan for plan in plans if name in plan.declared]
        if not takers:
            raise NotebookError(_unknown(name, plans))
        for plan in takers:
            _check_type(name, value, plan)
    return plans


def _open(path: Path) -> Any:
    import nbformat

    try:
        return nbformat.read(path, as_version=4)
    except FileNotFoundError:
        raise NotebookError(f"no notebook {path}") from None
    except Exception as fault:
        # nbformat answers a broken file with exceptions of half a dozen libraries, some of them pages long.
        raise NotebookError(f"{path}: not a notebook ({type(fault).__name__})") from None


def declared_parameters(notebook: Any, path: Path) -> dict[str, Any]:
    """Return name and default of all that the cell tagged ``parameters`` assigns, in its order.

    Raises :class:`NotebookError` when that cell is no Python.
    """
    declared: dict[str, Any] = {}
    for cell in notebook.cells:
        if cell.cell_type != "code" or "parameters" not in cell.metadata.get("tags", []):
            continue
        try:
            body = ast.parse(cell.source).body
        except SyntaxError as fault:
            raise NotebookError(f"{path}: line {fault.lineno} of its parameters cell is no Python") from None
        for statement in body:
            if isinstance(statement, ast.AnnAssign) and statement.value is not None:
                targets: list[ast.expr] = [statement.target]
            elif isinstance(statement, ast.Assign):
                targets = statement.targets
            else:
                continue
            for target in targets:
                if isinstance(target, ast.Name):
                    declared[target.id] = _default(statement.value)
        break
    return declared


def _default(node: ast.expr | None) -> Any:
    try:
        return ast.literal_eval(node) if node is not None else UNKNOWN
    except ValueError:
        return UNKNOWN


def _plain(value: object) -> object:
    return str(value) if isinstance(value, Path) else value


def _unknown(name: str, plans: Sequence[Plan]) -> str:
    declared = list(dict.fromkeys(known for plan in plans for known in plan.declared if known != "out"))
    close = difflib.get_close_matches(name, declared, n=1)
    hint = f"; did you mean {close[0]}?" if close else ""
    where = ", ".join(plan.path.name for plan in plans)
    return f"parameter {name}: not declared by {where}, which has {', '.join(declared) or 'no parameters'}{hint}"


def _check_type(name: str, value: object, plan: Plan) -> None:
    default = plan.declared[name]
    if default is UNKNOWN or default is None or _fits(value, default):
        return
    hint = f"for the text write '\"{value}\"'" if isinstance(default, str) else f"give one, as {default!r}"
    raise NotebookError(
        f"parameter {name}: {plan.path.name} declares {type(default).__name__} ({default!r}), "
        f"not {type(value).__name__} ({value!r}); {hint}"
    )


def _fits(value: object, default: object) -> bool:
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(default, bool) and isinstance(value, bool)
    wider: dict[type, tuple[type, ...]] = {
        float: (int, float),
        str: (str, Path),
        list: (list, tuple),
        tuple: (list, tuple),
    }
    return isinstance(value, wider.get(type(default), (type(default),)))
