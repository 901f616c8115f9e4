"""The three kinds of widget (picture, NiiVue, points) in JupyterLab."""

import sys

import numpy as np
import pytest
from driving import press, redrawn, settled, slide
from gallery import write_gallery
from serving import REPAINT_MS, START_S, required, server

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(900)]


def test_widgets_answer_in_jupyterlab(browser, open_page, tmp_path, screenshot):
    required("jupyterlab")
    notebook = write_gallery(tmp_path / "lab.ipynb", ["volume", "niivue", "points"])
    command = [
        sys.executable, "-m", "jupyterlab", "--allow-root", "--ip=127.0.0.1", "--no-browser", "--port={port}",
        "--IdentityProvider.token=", f"--ServerApp.root_dir={tmp_path}", "--LabApp.news_url=",
        # Makes the application's commands callable from the page.
        "--LabApp.expose_app_in_browser=True",
    ]  # fmt: skip
    with server(command, tmp_path) as address:
        page = open_page(browser)
        page.goto(f"{address}/lab/tree/{notebook.name}?reset", timeout=START_S * 1000)
        page.wait_for_selector(".jp-NotebookPanel .jp-CodeCell", timeout=START_S * 1000)
        page.wait_for_function("window.jupyterapp !== undefined", timeout=REPAINT_MS)
        # Cells that are run while the kernel is still initialising are silently dropped.
        page.wait_for_selector("text=| Idle", timeout=START_S * 1000)
        # Not awaited: a page that never runs its cells fails by the limits below, not by that of the whole test.
        page.evaluate("void window.jupyterapp.commands.execute('notebook:run-all-cells')")
        page.wait_for_selector(".volume", timeout=START_S * 1000)
        assert slide(page, "volume").startswith("Axial slice 7 of 19")
        canvas = page.locator(".niivue canvas").first
        canvas.wait_for(timeout=START_S * 1000)
        canvas.scroll_into_view_if_needed()
        before = settled(page, canvas)
        assert np.ptp(before, axis=2).max() > 30, "the label in colour"
        press(page, "niivue", ".noUi-handle", "Home", 1)()
        settled(page, canvas, before)
        screenshot(page, "jupyterlab_niivue")
        page.locator(".points canvas").wait_for(timeout=START_S * 1000)
        assert "Point" in redrawn(page, "points", press(page, "points", "canvas", "ArrowRight"))
        screenshot(page, "jupyterlab_points")
