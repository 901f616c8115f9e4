"""A slider moved by the keyboard in a real browser changes the picture: the whole way through kernel, comm and page."""

import contextlib
import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

pytestmark = [pytest.mark.browser, pytest.mark.slow]

CHROMIUMS = ("chromium", "chromium-headless-shell", "chromium-browser", "google-chrome", "chrome")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    # Whatever would come from a CDN is absent for readers behind a hospital's firewall too.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]
START_S = 60
REPAINT_MS = 30_000


def absent(what: str):
    """Skip, or fail where a browser is required: continuous integration must not pass by having none."""
    if os.environ.get("MTG_LAB_REQUIRE_BROWSER") == "1":
        pytest.fail(f"{what}, and MTG_LAB_REQUIRE_BROWSER=1")
    pytest.skip(what)


def required(module: str) -> None:
    if importlib.util.find_spec(module) is None:
        absent(f"{module} is not installed (extras lab and dev)")


@pytest.fixture(scope="module")
def browser():
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        absent("playwright is not installed (extra dev)")
    path = os.environ.get("MTG_LAB_CHROMIUM") or next(filter(None, map(shutil.which, CHROMIUMS)), None)
    if path is None:
        absent(f"no Chromium: none of {', '.join(CHROMIUMS)} is on the path, and MTG_LAB_CHROMIUM is not set")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, headless=True, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser):
    context = browser.new_context()
    yield context.new_page()
    context.close()


@pytest.fixture(scope="module")
def notebook(tmp_path_factory) -> Path:
    cells = [
        new_markdown_cell("# A volume to move"),
        new_code_cell(
            "import numpy as np\n"
            "from mtg_lab.widgets import volume_viewer\n"
            "z = np.linspace(1, 9, 12)[None, None] * np.linspace(1, 2, 24)[:, None, None]\n"
            "images = {'t1c': np.broadcast_to(z, (24, 20, 12)), 't2f': np.broadcast_to(10 - z, (24, 20, 12))}\n"
            "volume_viewer(images)"
        ),
    ]
    return written(tmp_path_factory.mktemp("browser") / "viewer.ipynb", cells)


@pytest.fixture(scope="module")
def patients(tmp_path_factory) -> Path:
    cells = [
        new_code_cell(
            "import pandas as pd\n"
            "from matplotlib.figure import Figure\n"
            "from mtg_lab.widgets_cases import case_explorer\n"
            "def table(gain):\n"
            "    subsets = ('t1c', 't2f', 't1c+t2f')\n"
            "    rows = [(f'P{p}', s, 'WT', 'dice', 0.5 + gain * p, 'x') for p in range(4) for s in subsets]\n"
            "    return pd.DataFrame(rows, columns=['subject', 'subset', 'region', 'metric', 'value', 'protocol'])\n"
            "def picture(name):\n"
            "    figure = Figure(figsize=(2, 2))\n"
            "    figure.suptitle(name)\n"
            "    return figure\n"
            "case_explorer(table(0.1), table(0.0), ('ours', 'theirs'), picture)"
        ),
    ]
    return written(tmp_path_factory.mktemp("browser") / "patients.ipynb", cells)


def written(path: Path, cells: list) -> Path:
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(new_notebook(cells=cells, metadata=kernel), path)
    return path


@contextlib.contextmanager
def server(arguments: list[str], folder: Path):
    """Start a Jupyter server on a free port of this machine, wait until it answers, and end it afterwards."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    # The settings of whoever runs the tests must not decide what the page looks like.
    settings = {"JUPYTER_CONFIG_DIR": str(folder / "config"), "JUPYTER_RUNTIME_DIR": str(folder / "runtime")}
    log = folder / f"server-{port}.log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", *arguments, f"--port={port}", "--no-browser"],
            cwd=folder,
            env={**os.environ, **settings},
            stdout=stream,
            stderr=subprocess.STDOUT,
        )
        try:
            wait_for(address, process, log)
            yield address
        finally:
            process.terminate()
            try:
                process.wait(timeout=15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def wait_for(address: str, process: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        try:
            socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2])), timeout=1).close()
            return
        except OSError:
            time.sleep(0.2)
    pytest.fail(f"no answer within {START_S} s:\n{log.read_text()}")


def press_and_see(page) -> None:
    """Focus the slider's handle, press the right arrow, and wait for another picture and another caption."""
    page.wait_for_selector("img.widget-image[src]", timeout=REPAINT_MS)
    before = page.get_attribute("img.widget-image", "src")
    said = page.inner_text("p[aria-live]")
    page.focus(".noUi-handle")
    page.keyboard.press("ArrowRight")
    page.wait_for_function(
        "before => document.querySelector('img.widget-image').src !== before", arg=before, timeout=REPAINT_MS
    )
    page.wait_for_function("said => document.querySelector('p[aria-live]').innerText !== said", arg=said)
    assert said.startswith("Axial slice 6 of 11")
    assert page.inner_text("p[aria-live]").startswith("Axial slice 7 of 11")


def test_an_arrow_key_moves_the_slice_in_voila(page, notebook):
    required("voila")
    with server(["voila", str(notebook), "--Voila.ip=127.0.0.1"], notebook.parent) as address:
        page.goto(address, timeout=START_S * 1000)
        press_and_see(page)


def test_a_checkbox_takes_a_sequence_away_by_keyboard_in_voila(page, notebook):
    required("voila")
    with server(["voila", str(notebook), "--Voila.ip=127.0.0.1"], notebook.parent) as address:
        page.goto(address, timeout=START_S * 1000)
        page.wait_for_selector("img.widget-image[src]", timeout=REPAINT_MS)
        page.get_by_label("t2f").focus()
        page.keyboard.press("Space")
        page.wait_for_selector("text=taken away: t2f", timeout=REPAINT_MS)


def test_a_click_on_a_patient_shows_that_patient_in_voila(page, patients):
    required("voila")
    with server(["voila", str(patients), "--Voila.ip=127.0.0.1"], patients.parent) as address:
        page.goto(address, timeout=START_S * 1000)
        page.wait_for_selector("text=P3: mean dice 0.800 under ours", timeout=REPAINT_MS)
        before = [image.get_attribute("src") for image in page.query_selector_all("img.widget-image")]
        assert len(before) == 2
        page.get_by_role("listbox").select_option(index=2)
        page.wait_for_selector("text=P1: mean dice 0.600 under ours", timeout=REPAINT_MS)
        page.wait_for_selector("text=What was drawn for P1", timeout=REPAINT_MS)
        page.wait_for_function(
            "before => [...document.querySelectorAll('img.widget-image')].every((image, i) => image.src !== before[i])",
            arg=before,
            timeout=REPAINT_MS,
        )


def test_an_arrow_key_moves_the_slice_in_jupyterlab(page, notebook):
    required("jupyterlab")
    arguments = [
        "jupyterlab",
        "--allow-root",
        "--ip=127.0.0.1",
        "--IdentityProvider.token=",
        f"--ServerApp.root_dir={notebook.parent}",
        # Makes the application's commands callable from the page.
        "--LabApp.expose_app_in_browser=True",
        "--LabApp.news_url=",
    ]
    with server(arguments, notebook.parent) as address:
        page.goto(f"{address}/lab/tree/{notebook.name}?reset", timeout=START_S * 1000)
        page.wait_for_selector(".jp-NotebookPanel .jp-CodeCell", timeout=START_S * 1000)
        page.wait_for_function("window.jupyterapp !== undefined", timeout=REPAINT_MS)
        # Cells that are run while the kernel is still initialising are silently dropped.
        page.wait_for_selector("text=| Idle", timeout=START_S * 1000)
        # Not awaited: a page that never runs its cells fails by the limit below, not by that of the whole test.
        page.evaluate("void window.jupyterapp.commands.execute('notebook:run-all-cells')")
        press_and_see(page)
