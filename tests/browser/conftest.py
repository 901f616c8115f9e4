"""One headless Chromium for all tests, with and without WebGL 2, that can reach nothing but this machine."""

import os
import re
import shutil
from pathlib import Path

import pytest
from serving import ROOT, absent

CHROMIUMS = ("chromium", "chromium-headless-shell", "chromium-browser", "google-chrome", "chrome")
FLAGS = [
    "--no-sandbox",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    # Whatever would come from a CDN is absent for readers behind a hospital's firewall too.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]
# WebGL on the processor.
DRAWING = ["--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist"]
LOCAL = re.compile(r"(http|ws)://127\.0\.0\.1:|data:|blob:|about:")


@pytest.fixture(scope="session", autouse=True)
def _offline_template():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_PATH", str(ROOT / "tools" / "jupyter"), prepend=os.pathsep)
        yield


@pytest.fixture(scope="session")
def playwright():
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        absent("playwright is not installed (extra dev)")
    with sync_playwright() as found:
        yield found


def launched(playwright, flags):
    path = os.environ.get("MTG_LAB_CHROMIUM") or next(filter(None, map(shutil.which, CHROMIUMS)), None)
    if path is None:
        absent(f"no Chromium: none of {', '.join(CHROMIUMS)} is on the path, and MTG_LAB_CHROMIUM is not set")
    return playwright.chromium.launch(executable_path=path, headless=True, args=[*FLAGS, *flags])


@pytest.fixture(scope="session")
def browser(playwright):
    chromium = launched(playwright, DRAWING)
    yield chromium
    chromium.close()


@pytest.fixture(scope="session")
def browser_without_webgl(playwright):
    chromium = launched(playwright, ["--disable-gpu", "--disable-3d-apis"])
    yield chromium
    chromium.close()


@pytest.fixture(scope="module")
def open_page():
    """Open a tab; none of them may ask another machine for anything, or have an error in its scripts."""
    asked, contexts, faults = [], [], []

    def make(browser):
        context = browser.new_context(viewport={"width": 1200, "height": 1000})
        contexts.append(context)
        page = context.new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.on("websocket", lambda socket: asked.append(socket.url))
        page.on("pageerror", lambda error: faults.append(str(error)))
        return page

    yield make
    for context in contexts:
        context.close()
    assert asked
    assert [url for url in asked if not LOCAL.match(url)] == []
    assert faults == []


@pytest.fixture(scope="session")
def screenshot():
    """Keep what a test saw in the folder that MTG_LAB_SCREENSHOTS names, if it names one."""
    folder = os.environ.get("MTG_LAB_SCREENSHOTS")

    def keep(what, name: str) -> None:
        if folder:
            Path(folder).mkdir(parents=True, exist_ok=True)
            what.screenshot(path=Path(folder) / f"{name}.png")

    return keep
