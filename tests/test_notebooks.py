"""The runner: what it refuses, what it keeps, and that widgets cannot hang it."""

import concurrent.futures
import json
import os
import re
import signal
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from mtg_lab import notebooks as runner
from mtg_lab.manifest_files import find_manifest
from mtg_lab.notebooks import NotebookError, find_notebooks, parse_parameters, read_sweep, run_grid, run_notebooks
from mtg_lab.sweeps import recipes_of

PARAMETERS = (
    'preset: str = "lab"  # size\nseed: int = 0  # generator\nout: str = ""  # folder\nmanifest: str = ""  # cohort'
)

WRITES_RESULTS = """
import json
from pathlib import Path
import matplotlib.pyplot as plt
folder = Path(out)
(folder / "figures").mkdir(exist_ok=True)
figure, axes = plt.subplots()
axes.plot([seed, 1])
figure.savefig(folder / "figures" / "a_line.png", metadata={"Description": "A line that rises from the seed to one."})
(folder / "metrics.json").write_text(json.dumps({"dice_mean": 0.5, "preset": preset, "seed": seed}))
(folder / "dice_table.csv").write_text("subset,WT\\nt1c,0.71\\nt1c+t2f,0.84\\n")
"""


def write(folder: Path, name: str, *cells: str, parameters: str = PARAMETERS, needs: tuple[str, ...] = ()) -> Path:
    notebook = new_notebook(
        metadata={
            "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
            "language_info": {"name": "python"},
            "mtg_lab": {"needs": list(needs)},
        }
    )
    goal = f"# The title of {name}\n\n**You** will be *able* to `see` it: 2 * 3.\n\nMore text."
    notebook.cells = [new_markdown_cell(goal), new_code_cell(parameters, metadata={"tags": ["parameters"]})]
    notebook.cells += [new_code_cell(cell.strip()) for cell in cells]
    folder.mkdir(exist_ok=True, parents=True)
    path = folder / f"{name}.ipynb"
    nbformat.write(notebook, path)
    return path


def run(paths, out, **options):
    return run_notebooks(paths, out, progress=False, **options)


class Links(HTMLParser):
    def __init__(self):
        super().__init__()
        self.targets: list[str] = []
        self.alts: list[str] = []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.targets += [attrs[name] for name in ("href", "src") if name in attrs]
        if tag == "img":
            self.alts.append(attrs.get("alt", ""))


# --- what is refused before anything runs ------------------------------------------------------------------------


def test_a_misspelt_parameter_is_refused_with_the_close_match(tmp_path):
    path = write(tmp_path, "00_a", "open(out + '/ran', 'w')")
    with pytest.raises(
        NotebookError, match=r"parameter sede: not declared by 00_a\.ipynb.*did you mean seed\?"
    ) as caught:
        run([path], tmp_path / "out", parameters={"sede": 3})
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("value", "words"), [("three", "declares int"), (True, "declares int"), (2.5, "not float"), ([1], "not list")]
)
def test_a_value_of_another_type_than_the_declared_one_is_refused(tmp_path, value, words):
    path = write(tmp_path, "00_a")
    with pytest.raises(NotebookError, match=words):
        run([path], tmp_path / "out", parameters={"seed": value})
    assert not (tmp_path / "out").exists()


def test_an_int_will_do_for_a_float_and_anything_for_none():
    from mtg_lab.notebook_parameters import _fits

    assert _fits(3, 0.5)
    assert not _fits(True, 0.5)
    assert not _fits("3", 0.5)
    assert _fits((1, 2), [3])


def test_a_parameter_that_one_notebook_declares_is_handed_to_that_one_only(tmp_path):
    plain = write(tmp_path, "00_a")
    wide = write(tmp_path, "01_b", parameters=PARAMETERS + "\nweight: float = 0.1  # of the loss")
    plans = runner._planned([plain, wide], "lab", {"weight": 1}, None)
    assert [plan.parameters for plan in plans] == [{"preset": "lab"}, {"preset": "lab", "weight": 1}]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"preset": "tiny"}, "there are smoke, lab, paper"),
        ({"manifest": Path("nowhere.csv")}, "no manifest nowhere.csv"),
        ({"parameters": {"out": "x"}}, "the runner sets it"),
    ],
)
def test_a_wrong_preset_manifest_or_out_is_refused(tmp_path, options, words):
    with pytest.raises(NotebookError, match=words):
        run([write(tmp_path, "00_a")], tmp_path / "out", **options)


def test_an_output_folder_that_is_a_file_is_refused_and_left_alone(tmp_path):
    out = tmp_path / "out"
    out.write_text("mine")
    for target in (out, out / "below"):
        with pytest.raises(NotebookError, match="cannot write to") as caught:
            run([write(tmp_path, "00_a")], target)
        assert "\n" not in str(caught.value)
    assert out.read_text() == "mine"


def test_a_file_that_is_no_notebook_is_refused(tmp_path):
    path = tmp_path / "00_a.ipynb"
    path.write_text("{")
    with pytest.raises(NotebookError, match="not a notebook"):
        run([path], tmp_path / "out")
    with pytest.raises(NotebookError, match="no notebook"):
        run([tmp_path / "01_b.ipynb"], tmp_path / "out")


# --- names and command-line texts ----------------------------------------------------------------------------------


def test_notebooks_are_found_by_number_name_or_path_in_reading_order(tmp_path):
    folder = tmp_path / "notebooks"
    first, second = write(folder, "01_data"), write(folder, "03_modality_gap")
    elsewhere = write(tmp_path, "02_mine")
    assert find_notebooks([], folder) == [first, second]
    assert find_notebooks(["3", "01"], folder) == [first, second]
    for name in ("03", "03_modality_gap", "03_modality_gap.ipynb", "modality_gap", str(second)):
        assert find_notebooks([name], folder) == [second]
    assert find_notebooks(["03", str(elsewhere)], folder) == [elsewhere, second]
    with pytest.raises(NotebookError, match="no notebook 07; there are 01_data, 03_modality_gap"):
        find_notebooks(["07"], folder)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("1e-3", 1e-3),
        ("-0.5", -0.5),
        ("true", True),
        ("False", False),
        ("null", None),
        ("no", "no"),
        ("t1c+t2f", "t1c+t2f"),
        ("007", "007"),
        ("'3'", "3"),
        ("[1, 2]", [1, 2]),
        ("[t1c, t2f]", ["t1c", "t2f"]),
        ("{rate: 0.2}", {"rate": 0.2}),
        ("a: b", "a: b"),
        ("", ""),
    ],
)
def test_texts_of_the_command_line_become_typed_values(text, value):
    parsed = parse_parameters([("name", text)])["name"]
    assert parsed == value
    assert type(parsed) is type(value)


def test_a_parameter_given_twice_or_with_an_impossible_name_is_refused():
    with pytest.raises(NotebookError, match="given twice"):
        parse_parameters([("seed", "1"), ("seed", "2")])
    with pytest.raises(NotebookError, match="Python name"):
        parse_parameters([("seed=", "1")])


def test_a_sweep_is_every_combination_of_its_values(tmp_path):
    notebook = write(tmp_path / "notebooks", "05_training")
    sweep = tmp_path / "sweep.yaml"
    sweep.write_text(
        "notebook: '05'\npreset: smoke\nmanifest: data/m.csv\ngrid: {seed: [0, 1], weight: [1e-3, 0.1], rate: 0.2}"
    )
    found = read_sweep(sweep, tmp_path / "notebooks")
    assert (found.notebook, found.preset, found.manifest) == (notebook, "smoke", tmp_path / "data" / "m.csv")
    assert found.points == [{"seed": s, "weight": w, "rate": 0.2} for s in (0, 1) for w in (0.001, 0.1)]
    sweep.write_text("manifest: varied\ngrid: {seed: [0]}")
    assert read_sweep(sweep).manifest == find_manifest("varied"), "a cohort of the package"
    (tmp_path / "varied").touch()
    assert read_sweep(sweep).manifest == tmp_path / "varied", "a file beside the sweep comes first"


def test_a_cohort_of_the_package_reaches_notebooks_and_recipes_as_its_file(tmp_path):
    notebook = write(tmp_path, "00_a", parameters=PARAMETERS)
    (plan,) = runner._planned([notebook], "lab", {}, Path("varied"))
    assert plan.parameters["manifest"] == str(find_manifest("varied"))
    (recipe,) = recipes_of([{}], "lab", "varied").values()
    assert recipe.manifest == plan.parameters["manifest"]


def test_a_sweep_may_list_its_runs_and_name_a_notebook_beside_it(tmp_path):
    notebook = write(tmp_path, "mine")
    sweep = tmp_path / "sweep.yaml"
    sweep.write_text("notebook: mine.ipynb\ngrid:\n- {seed: 1, rate: 0.2}\n- {seed: 2, rate: 0.4}")
    points = [{"seed": 1, "rate": 0.2}, {"seed": 2, "rate": 0.4}]
    assert read_sweep(sweep, tmp_path / "notebooks") == (notebook, points, "lab", None, "test")
    sweep.write_text("split: val\ngrid: {seed: [1, 2]}")
    assert read_sweep(sweep) == (None, [{"seed": 1}, {"seed": 2}], "lab", None, "val"), "points are recipes"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("notebook: [", "not YAML, line 1"),
        ("- 1", "a sweep has a grid"),
        ("notebook: [a]\ngrid: {seed: [1]}", "a sweep has a grid"),
        ("notebook: 01_a\nsplit: val\ngrid: {seed: [1]}", "split is for recipes"),
        ("notebook: 01\nseeds: [1]\ngrid: {seed: [1]}", "it has seeds"),
        ("notebook: 01_a\ngrid: {seed: []}", "to values, as in"),
        ("notebook: 01_a\ngrid: {}", "to values, as in"),
        ("notebook: 01_a", "to values, as in"),
        ("notebook: 07\ngrid: {seed: [1]}", "no notebook 7; there are 01_a"),
    ],
)
def test_a_sweep_that_says_something_else_is_refused_in_one_line(tmp_path, text, words):
    write(tmp_path, "01_a")
    sweep = tmp_path / "sweep.yaml"
    sweep.write_text(text)
    with pytest.raises(NotebookError, match=words) as caught:
        read_sweep(sweep, tmp_path)
    assert "\n" not in str(caught.value)
    with pytest.raises(NotebookError, match="cannot read"):
        read_sweep(tmp_path / "nowhere.yaml", tmp_path)


def test_importing_the_runner_is_cheap():
    heavy = "{'papermill', 'nbconvert', 'nbformat', 'torch'}"
    code = f"import sys, mtg_lab.notebooks; print(*sorted({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "\n"


# --- what is run and kept ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    """Five notebooks in one run: fine, failing, needing the failing one, needing the skipped one, and fine again."""
    folder = tmp_path_factory.mktemp("suite")
    paths = [
        write(folder, "00_fine", WRITES_RESULTS),
        write(folder, "01_fails", "print('before')", "'3' + 3", "print('never')"),
        write(folder, "02_needs", "print('never')", needs=("01_fails",)),
        write(folder, "03_needs", "print('never')", needs=("02_needs",)),
        write(folder, "04_free", "print(preset, seed, manifest)", needs=("05_not_selected",)),
    ]
    out = folder / "out"
    stale = out / "00_fine" / "figures" / "old.png"
    stale.parent.mkdir(parents=True)
    stale.touch()
    return out, run(paths, out, preset="smoke", parameters={"seed": 7})


def test_a_failing_notebook_names_the_stored_cell_and_its_exception(suite):
    _, outcomes = suite
    failed = outcomes[1]
    assert (failed.status, failed.cell) == ("failed", 3)  # the parameters, the print, the sum
    assert failed.message == 'TypeError: can only concatenate str (not "int") to str'


def test_a_failing_notebook_keeps_its_partial_output(suite):
    _, outcomes = suite
    executed = nbformat.read(outcomes[1].executed, as_version=4)
    assert any(output.get("text") == "before\n" for cell in executed.cells for output in cell.get("outputs", []))
    page = outcomes[1].html.read_text()
    assert "before" in page
    assert "TypeError" in page


def test_dependent_notebooks_are_skipped_and_the_others_run(suite):
    _, outcomes = suite
    assert [outcome.status for outcome in outcomes] == ["done", "failed", "skipped", "skipped", "done"]
    assert outcomes[2].message == "needs 01_fails, which failed"
    assert outcomes[3].message == "needs 02_needs, which was skipped"


def test_a_notebook_gets_preset_seed_and_a_folder_of_its_own(suite):
    out, outcomes = suite
    assert outcomes[0].metrics == {"dice_mean": 0.5, "preset": "smoke", "seed": 7}
    assert (out / "00_fine" / "figures" / "a_line.png").is_file()
    assert "smoke 7" in outcomes[4].html.read_text()


def test_nothing_half_written_or_stale_is_left(suite):
    out, _ = suite
    names = {path.name for path in out.rglob("*") if path.is_file()}
    assert not [name for name in names if name.startswith(".") or "partial" in name]
    assert "old.png" not in names


def test_the_index_links_to_files_that_exist_and_says_what_its_pictures_show(suite):
    out, outcomes = suite
    page = (out / "index.html").read_text()
    links = Links()
    links.feed(page)
    assert len(links.targets) == 2 * 3 + 2  # page and notebook of the three that ran, one picture linked and shown
    assert all((out / unquote(target)).is_file() for target in links.targets)
    assert links.alts == ["A line that rises from the seed to one."]
    assert "http" not in page
    assert outcomes[1].message.split(":")[0] in page


def test_the_index_shows_goal_result_and_dice(suite):
    page = (suite[0] / "index.html").read_text()
    for words in ("The title of 00_fine", "You will be able to see it: 2 * 3.", "2 of 5 done", "t1c+t2f", "0.84"):
        assert words in page
    assert "prefers-color-scheme: dark" in page


def test_exported_pages_fetch_nothing_but_the_typesetting_of_formulas(suite):
    page = suite[1][0].html.read_text()
    fetched = re.findall(r"""(?:src|href)=["'](https?://[^"']+)""", page)
    assert all("mathjax" in url.lower() for url in fetched)
    assert "unpkg.com" not in page


def test_a_cell_over_its_time_is_a_failure_of_that_cell(tmp_path):
    slow = write(tmp_path, "00_slow", "print('before')", "import time; time.sleep(60)")
    started = time.monotonic()
    (outcome,) = run([slow], tmp_path / "out", cell_timeout=2, html=False)
    assert time.monotonic() - started < 20
    assert (outcome.status, outcome.cell) == ("failed", 3)
    assert "after 2 seconds" in outcome.message
    assert "before" in outcome.executed.read_text()


def test_a_dead_kernel_is_a_failure_of_its_cell(tmp_path):
    dead = write(tmp_path, "00_dead", "import os; os._exit(1)")
    (outcome,) = run([dead], tmp_path / "out", html=False)
    assert (outcome.status, outcome.cell) == ("failed", 2)
    assert "the kernel died" in outcome.message


def test_a_kernel_that_fails_to_start_once_is_started_again(tmp_path, monkeypatch):
    from mtg_lab import notebook_engine

    started = []
    start = notebook_engine.PollingNotebookClient.start_new_kernel_client

    def flaky(client):
        started.append(client)
        if len(started) == 1:
            client._cleanup_kernel()
            raise RuntimeError("Kernel died before replying to kernel_info")
        return start(client)

    monkeypatch.setattr(notebook_engine.PollingNotebookClient, "start_new_kernel_client", flaky)
    (outcome,) = run([write(tmp_path, "00_a", "print(1)")], tmp_path / "out", html=False)
    assert outcome.status == "done"
    assert len(started) == 2


def test_the_kernel_is_told_to_be_quiet_and_draws_inline(tmp_path, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "Agg")
    path = write(
        tmp_path,
        "00_a",
        "import os, sys\nprint(os.environ['MTG_LAB_BATCH'], os.getcwd())\nos.write(2, b'raw noise')",
        "import matplotlib.pyplot as plt\nplt.plot([1, 2]);",
    )
    (outcome,) = run([path], tmp_path / "out", html=False)
    assert outcome.status == "done"
    executed = nbformat.read(outcome.executed, as_version=4)
    assert executed.cells[3].outputs[0].text == f"1 {tmp_path}\n"
    assert "image/png" in executed.cells[4].outputs[0].data


def test_an_interrupt_keeps_what_is_done_and_writes_the_index(tmp_path):
    write(tmp_path, "00_fine", "print('kept')")
    write(tmp_path, "01_long", "print('so far', flush=True)", "import time; time.sleep(60)")
    write(tmp_path, "02_never", "print('never')")
    code = (
        # whoever was started in the background inherits that SIGINT is ignored
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "import sys; from pathlib import Path; from mtg_lab.notebooks import *\n"
        "try: run_notebooks(find_notebooks([], Path(sys.argv[1])), Path(sys.argv[2]), preset='smoke')\n"
        "except KeyboardInterrupt: print('interrupted')"
    )
    out = tmp_path / "out"
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path), str(out)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    partial = out / "01_long" / ".01_long.partial.ipynb"
    for _ in range(300):
        if partial.exists() and "so far\\n" in partial.read_text():
            break
        time.sleep(0.1)
    time.sleep(0.5)
    os.kill(process.pid, signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert stdout.strip() == "interrupted", stderr
    assert "so far" in (out / "01_long" / "01_long.html").read_text()
    page = (out / "index.html").read_text()
    assert "KeyboardInterrupt" in page
    assert "00_fine/00_fine.html" in page
    assert not (out / "02_never").exists()


def test_a_grid_runs_each_point_in_its_own_folder_and_order(tmp_path):
    path = write(tmp_path, "00_a", WRITES_RESULTS)
    grid = [{"seed": 1}, {"seed": 2, "preset": "smoke"}]
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        outcomes = run_grid(path, grid, tmp_path / "out", executor=pool)
    assert [outcome.metrics["seed"] for outcome in outcomes] == [1, 2]
    assert [outcome.metrics["preset"] for outcome in outcomes] == ["lab", "smoke"]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "000_seed=1",
        "001_seed=2_preset=smoke",
        "index.html",
    ]
    links = Links()
    links.feed((tmp_path / "out" / "index.html").read_text())
    assert links.targets
    assert all((tmp_path / "out" / unquote(target)).is_file() for target in links.targets)


def test_a_grid_goes_on_where_it_was_and_tries_once_more_what_failed(tmp_path):
    count = "from pathlib import Path\ntries = Path(out).parents[1] / f'tries_{seed}'\ntries.open('a').write('x')\n"
    path = write(tmp_path, "00_a", count + "assert seed != 2 or len(tries.read_text()) > 1\nassert seed != 3")
    tries = lambda: [len((tmp_path / "out" / f"tries_{s}").read_text()) for s in (1, 2, 3)]  # noqa: E731
    grid = [{"seed": s} for s in (1, 2, 3)]
    first = run_grid(path, grid, tmp_path / "out")
    assert [o.status for o in first] == ["done", "done", "failed"]
    assert tries() == [1, 2, 2]
    second = run_grid(path, grid, tmp_path / "out")
    assert second[:2] == first[:2], "as they were, with their pages"
    assert tries() == [1, 2, 4]
    path.write_text(path.read_text().replace("seed != 3", "True"))
    assert [o.status for o in run_grid(path, grid, tmp_path / "out")] == ["done"] * 3
    assert tries() == [2, 3, 5], "another notebook is another run"


def test_a_grid_with_one_wrong_point_runs_none(tmp_path):
    path = write(tmp_path, "00_a")
    with pytest.raises(NotebookError, match="declares int"):
        run_grid(path, [{"seed": 1}, {"seed": "x"}], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_grid_runs_in_another_process_too(tmp_path):
    path = write(tmp_path, "00_a", "open(out + '/metrics.json', 'w').write('{\"x\": 1}')")
    with concurrent.futures.ProcessPoolExecutor(1) as pool:
        (outcome,) = run_grid(path, [{"seed": 1}], tmp_path / "out", executor=pool, html=False)
    assert outcome.metrics == {"x": 1}


def test_papermill_itself_finds_the_engine_by_its_name(tmp_path):
    path = write(tmp_path, "00_a", "print(seed)")
    command = [sys.executable, "-m", "papermill", str(path), str(tmp_path / "o.ipynb"), "--engine", "mtg_lab"]
    done = subprocess.run([*command, "-p", "seed", "5", "--no-progress-bar"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert '"5\\n"' in (tmp_path / "o.ipynb").read_text()


# --- the regression that this engine is for --------------------------------------------------------------------------

WIDGETS = (
    "import ipywidgets as w\nfrom IPython.display import display",
    "@w.interact(x=(0, 5))\ndef show(x=2):\n    print(x)",
    "out_widget = w.Output()\ndisplay(out_widget)\nwith out_widget:\n    for i in range(30):\n        print(i)",
    "out_widget.clear_output()\nwith out_widget:\n    display(3)",
)


@pytest.mark.slow
def test_interact_and_output_widgets_do_not_hang_twenty_times_in_a_row(tmp_path):
    # Under the stock client about one run in ten never ends (nbclient #312); 20 good ones have a chance of 0.12 there.
    path = write(tmp_path, "00_widgets", *WIDGETS)
    for number in range(20):
        (outcome,) = run([path], tmp_path / "out", cell_timeout=20, html=False)
        assert outcome.status == "done", outcome.message
        # A lost wake-up costs one slice of half a second; a hang would cost the cap.
        assert outcome.seconds < 15, f"run {number} stalled"
    stored = json.loads(outcome.executed.read_text())
    assert "widgets" not in stored["metadata"]
