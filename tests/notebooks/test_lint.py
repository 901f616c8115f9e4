"""The shape that every notebook of the suite has, and proof that each rule would notice its breach."""

import ast
import copy
import re
import subprocess
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "notebooks"
FIRST_PARAMETERS = ("preset", "seed", "out", "manifest")
MOST_LINES = 15
# A slash or a drive at the start of a path; not after a letter, dot or bracket, which is the tail of something else.
ABSOLUTE = re.compile(
    r"(?<![\w.~$)}\]*:/-])/(?:home|Users|root|work|tmp|mnt|opt|private|scratch|data)/|\b[A-Z]:\\\\?\w"
)


def stored() -> list[Path]:
    return sorted(path for path in FOLDER.rglob("*.ipynb") if ".ipynb_checkpoints" not in path.parts)


def tagged(notebook, tag: str) -> list:
    return [cell for cell in notebook.cells if tag in cell.metadata.get("tags", [])]


def faults(notebook) -> list[str]:
    """Every rule that a notebook breaks, one line each; cells are counted from 1 over all cells."""
    found = []
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    prose = [cell for cell in notebook.cells if cell.cell_type == "markdown"]
    for number, cell in enumerate(notebook.cells, start=1):
        where = f"cell {number}"
        if cell.cell_type == "code":
            if cell.outputs or cell.execution_count is not None:
                found.append(f"{where} holds outputs or an execution count; strip it")
            lines = len(cell.source.strip().splitlines())
            if lines > MOST_LINES and "parameters" not in cell.metadata.get("tags", []):
                found.append(f"{where} has {lines} lines of code, more than {MOST_LINES}")
        if ABSOLUTE.search(cell.source):
            found.append(f"{where} names an absolute path")
    if notebook.metadata.get("kernelspec", {}).get("name") != "python3":
        found.append("the kernel is not python3")
    if "widgets" in notebook.metadata:
        found.append("the state of widgets is stored")
    if 2 * len(prose) < len(code):
        found.append(f"{len(prose)} text cells for {len(code)} code cells; at least half as many")
    if len([cell for cell in tagged(notebook, "results") if cell.cell_type == "code"]) != 1:
        found.append("not exactly one code cell is tagged results")
    return found + opening_faults(prose, notebook) + parameter_faults(tagged(notebook, "parameters"))


def opening_faults(prose: list, notebook) -> list[str]:
    first = notebook.cells[0] if notebook.cells else None
    if first is None or first.cell_type != "markdown" or not first.source.startswith("# "):
        return ["the first cell is not text under a heading of the first level"]
    found = [
        f"the first cell does not say {word}"
        for word in ("minute", "read", "write")
        if word not in first.source.lower()
    ]
    if sum(bool(re.search(r"(?m)^##+ ", cell.source)) for cell in prose) < 2:
        found.append("fewer than two headings after the title")
    return found


def parameter_faults(cells: list) -> list[str]:
    if len(cells) != 1 or cells[0].cell_type != "code":
        return [f"{len(cells)} cells are tagged parameters, not one code cell"]
    source = cells[0].source
    names, found = [], []
    for statement in ast.parse(source).body:
        line = source.splitlines()[statement.end_lineno - 1]
        if not isinstance(statement, ast.AnnAssign) or statement.value is None:
            found.append(f"a line of the parameters cell is no typed assignment: {line}")
            continue
        names.append(statement.target.id)
        try:
            ast.literal_eval(statement.value)
        except ValueError:
            found.append(f"the parameter {names[-1]} is no literal")
        if "#" not in line:
            found.append(f"the parameter {names[-1]} has no comment")
    if tuple(names[:4]) != FIRST_PARAMETERS:
        found.append(f"the first parameters are {', '.join(names[:4])}, not {', '.join(FIRST_PARAMETERS)}")
    return found


# --- the suite -----------------------------------------------------------------------------------------------------


def test_every_notebook_has_the_shape_of_the_suite():
    broken = {}
    for path in stored():
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
        broken[path.name] = faults(notebook)
    assert not {name: lines for name, lines in broken.items() if lines}


def test_no_notebook_of_the_repository_escapes_the_lint():
    # So that a renamed folder cannot make the test above pass over nothing.
    try:
        listing = subprocess.run(["git", "ls-files", "*.ipynb"], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no git, or not a checkout")
    tracked = {ROOT / name for name in listing.stdout.splitlines() if (ROOT / name).is_file()}
    assert tracked <= set(stored())


def test_notebooks_have_numbers_of_their_own_and_need_only_earlier_ones():
    names = [path.stem for path in stored()]
    assert all(re.match(r"\d\d_[a-z]", name) for name in names)
    assert len({name[:2] for name in names}) == len(names)
    for number, path in enumerate(stored()):
        needs = nbformat.read(path, as_version=4).metadata.get("mtg_lab", {}).get("needs", [])
        assert set(needs) <= set(names[:number]), path.name


# --- the lint itself -----------------------------------------------------------------------------------------------


def good():
    opening = "# A question?\n\nFive minutes on a CPU. It reads the cohort and writes metrics.json."
    parameters = "\n".join(
        [
            'preset: str = "lab"  # size',
            "seed: int = 0  # generator",
            'out: str = ""  # folder',
            'manifest: str = ""  # cohort',
        ]
    )
    return new_notebook(
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
        cells=[
            new_markdown_cell(opening),
            new_code_cell(parameters, metadata={"tags": ["parameters"]}),
            new_markdown_cell("## Look"),
            new_code_cell("print(1)"),
            new_markdown_cell("## What we saw"),
            new_code_cell("write()", metadata={"tags": ["results"]}),
        ],
    )


def test_a_good_notebook_has_no_fault():
    assert faults(good()) == []


def outputs(notebook):
    notebook.cells[3].outputs = [new_output("stream", text="1")]


def count(notebook):
    notebook.cells[3].execution_count = 4


def long(notebook):
    notebook.cells[3].source = "\n".join(["print(1)"] * 16)


def absolute(notebook):
    notebook.cells[3].source = "open('" + "/" + "data/x.csv')"


def windows(notebook):
    notebook.cells[3].source = r"open('C:\x.csv')"


def kernel(notebook):
    notebook.metadata.kernelspec.name = "my-env"


def state(notebook):
    notebook.metadata["widgets"] = {}


def wordless(notebook):
    notebook.cells += [new_code_cell("print(1)") for _ in range(4)]


def no_results(notebook):
    notebook.cells[5].metadata.tags = []


def no_title(notebook):
    notebook.cells[0].source = "## " + notebook.cells[0].source


def no_minutes(notebook):
    notebook.cells[0].source = notebook.cells[0].source.replace("minute", "hour")


def no_headings(notebook):
    notebook.cells[2].source = "Look"


def two_parameter_cells(notebook):
    notebook.cells[3].metadata["tags"] = ["parameters"]


def other_order(notebook):
    lines = notebook.cells[1].source.splitlines()
    notebook.cells[1].source = "\n".join(reversed(lines))


def untyped(notebook):
    notebook.cells[1].source += "\nweight = 0.1  # of the loss"


def computed(notebook):
    notebook.cells[1].source += "\nweight: float = 1 / 10 ** 2  # of the loss"


def uncommented(notebook):
    notebook.cells[1].source += "\nweight: float = 0.1"


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (outputs, "holds outputs"),
        (count, "execution count"),
        (long, "16 lines"),
        (absolute, "absolute path"),
        (windows, "absolute path"),
        (kernel, "kernel"),
        (state, "widgets"),
        (wordless, "text cells"),
        (no_results, "tagged results"),
        (no_title, "first level"),
        (no_minutes, "minute"),
        (no_headings, "headings"),
        (two_parameter_cells, "tagged parameters"),
        (other_order, "first parameters"),
        (untyped, "typed assignment"),
        (computed, "no literal"),
        (uncommented, "no comment"),
    ],
)
def test_each_rule_notices_its_breach(spoil, words):
    notebook = copy.deepcopy(good())
    spoil(notebook)
    found = faults(notebook)
    assert len(found) == 1, found
    assert words in found[0]
