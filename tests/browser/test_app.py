"""``make app`` serves the lab by hand: the notebook as it is, but on tiny networks and a tiny cohort."""

import shutil
import sys
from pathlib import Path

import nbformat
import pytest
from driving import settled, slide
from serving import ROOT, START_S, absent, required, server

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(1500)]
NOTEBOOK = ROOT / "notebooks" / "15_explore.ipynb"


def smoke_copy(cohort: Path, folder: Path) -> Path:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    (parameters,) = [c for c in notebook.cells if "parameters" in c.metadata.get("tags", [])]
    parameters.source += f"\npreset, manifest, out, patients = 'smoke', {str(cohort)!r}, {str(folder / 'out')!r}, 2"
    # Classes by which a test finds the widgets: a notebook has no use for them.
    for name, start in (("niivue", "niivue_viewer("), ("gap", "gap_decoder("), ("points", "point_explorer(")):
        (cell,) = [c for c in notebook.cells if c.cell_type == "code" and c.source.splitlines()[-1].startswith(start)]
        *above, last = cell.source.splitlines()
        cell.source = "\n".join([*above, f"{name}_box = {last}", f"{name}_box.add_class('{name}')", f"{name}_box"])
    nbformat.write(notebook, folder / "app.ipynb")
    return folder / "app.ipynb"


def test_the_app_opens_without_code_and_answers(browser, open_page, cohort, tmp_path, screenshot):
    required("voila")
    if shutil.which("make") is None:
        absent("make is not installed")
    notebook = smoke_copy(cohort, tmp_path)
    # With a kernel in reserve two of them would train the same tiny networks at once.
    command = [
        "make", "--old-file=install", "--old-file=phantom", "app", f"BIN={Path(sys.executable).parent}", "PORT={port}",
        f"APP={notebook}", "PREHEAT=False", "APP_ARGS=--Voila.ip=127.0.0.1 --no-browser",
    ]  # fmt: skip
    with server(command, tmp_path, ROOT) as address:
        page = open_page(browser)
        page.goto(address, timeout=START_S * 1000)
        page.wait_for_selector(".points canvas", timeout=START_S * 1000)
        assert page.locator("text=import numpy").count() == 0, "readers of the app see no code"
        assert page.locator("h1").inner_text().startswith("15 · The lab by hand")
        canvas = page.locator(".niivue canvas").first
        canvas.scroll_into_view_if_needed()
        settled(page, canvas)
        assert "pulled to the mean: 0.1" in slide(page, "gap", 1)
        screenshot(page, "app")
