"""What a reader does to a widget, and what must follow."""

import io

import numpy as np
from PIL import Image
from serving import REPAINT_MS

PICTURE = "selector => document.querySelector(selector)?.src"


def redrawn(page, widget: str, act) -> str:
    """Act on a widget of this class; wait for another picture and another caption, and return the caption."""
    picture, said = f".{widget} img.widget-image", f".{widget} p[aria-live]"
    page.wait_for_selector(f"{picture}[src]", timeout=REPAINT_MS)
    before, words = page.evaluate(PICTURE, picture), page.inner_text(said)
    act()
    page.wait_for_function(
        "([selector, before]) => document.querySelector(selector).src !== before",
        arg=[picture, before], timeout=REPAINT_MS,
    )  # fmt: skip
    page.wait_for_function(
        "([selector, words]) => document.querySelector(selector).innerText !== words",
        arg=[said, words], timeout=REPAINT_MS,
    )  # fmt: skip
    return page.inner_text(said)


def press(page, widget: str, control: str, key: str, number: int = 0):
    """What presses a key on a control of a widget, once it has the keyboard's focus."""

    def act() -> None:
        page.locator(f".{widget} {control}").nth(number).focus()
        page.keyboard.press(key)

    return act


def slide(page, widget: str, number: int = 0, key: str = "ArrowRight") -> str:
    return redrawn(page, widget, press(page, widget, ".noUi-handle", key, number))


def tick(page, widget: str, name: str) -> str:
    return redrawn(page, widget, press(page, widget, f"label:has-text('{name}') input", "Space"))


def drawn(canvas) -> np.ndarray:
    """What a canvas shows, [height, width, 3]."""
    return np.asarray(Image.open(io.BytesIO(canvas.screenshot())).convert("RGB")).astype(int)


def settled(page, canvas, before=None) -> np.ndarray:
    """Wait until a canvas shows something (else than ``before``) and no longer changes."""
    last = drawn(canvas)
    for _ in range(60):
        page.wait_for_timeout(300)
        now = drawn(canvas)
        something = now.std() > 5 and (before is None or now.shape != before.shape or np.abs(now - before).max() > 30)
        if something and now.shape == last.shape and np.abs(now - last).max() == 0:
            return now
        last = now
    raise AssertionError("the canvas shows nothing new" if before is not None else "the canvas stays empty")
