"""Predict a number before the result: set a slider, press the button, see by how much the guess was off."""

from __future__ import annotations

from html import escape
from typing import Any

import ipywidgets
from matplotlib.figure import Figure

from mtg_lab.errors import InputError
from mtg_lab.figures import COLOURS
from mtg_lab.widgets import _png, _slider


def guess(
    question: str,
    truth: float,
    explanation: str,
    *,
    low: float = 0.0,
    high: float = 1.0,
    step: float = 0.01,
    close: float = 0.05,
    unit: str = "",
) -> ipywidgets.VBox:
    """Ask for a number; the truth is shown beside it once the reader has committed.

    Args:
        question: ends in a question mark; says what is measured.
        truth: measured.
        explanation: why it is so, told after the guess.
        low, high, step: of the slider.
        close: how far off a guess still counts as right.
        unit: of the number, such as ``Dice`` or ``mm``.

    Raises:
        InputError: the truth is not on the slider.
    """
    _check(truth, low, high)
    middle = low + round((high - low) / 2 / step) * step
    slider = _slider(middle, low, high, step, "your guess")
    button = ipywidgets.Button(description="Show the truth")
    image = ipywidgets.Image(format="png", layout={"max_width": "100%", "align_self": "flex-start"})
    words = ipywidgets.HTML('<p role="status"></p>')
    revealed = False

    def redraw(_change: Any = None) -> None:
        image.value = _png(guess_picture(slider.value, truth if revealed else None, low, high, unit))

    def reveal(_button: Any) -> None:
        nonlocal revealed
        revealed = True
        words.value = f'<p role="status">{escape(verdict(slider.value, truth, close, unit))} {escape(explanation)}</p>'
        redraw()

    slider.observe(redraw, names="value")
    button.on_click(reveal)
    redraw()
    asked = ipywidgets.HTML(f"<p><strong>{escape(question)}</strong></p>")
    return ipywidgets.VBox([asked, slider, button, image, words])


def verdict(guessed: float, truth: float, close: float = 0.05, unit: str = "") -> str:
    """How far off a guess was, and to which side."""
    off = guessed - truth
    number = f"{truth:.2f} {unit}".strip()
    if abs(off) <= close:
        return f"✓ Close: it is {number}, and your guess of {guessed:.2f} is {abs(off):.2f} off."
    side = "too high" if off > 0 else "too low"
    return f"✗ It is {number}; your guess of {guessed:.2f} is {abs(off):.2f} {side}."


def guess_picture(
    guessed: float | None, truth: float | None, low: float = 0.0, high: float = 1.0, unit: str = ""
) -> Figure:
    """A number line with the guess, the truth, or both and the distance between them; the static twin has the truth."""
    figure = Figure(figsize=(7, 1.5))
    axes = figure.add_axes((0.05, 0.4, 0.9, 0.5))
    axes.set(xlim=(low - 0.02 * (high - low), high + 0.02 * (high - low)), ylim=(-1, 1.6), yticks=[])
    axes.set_xlabel(unit)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.axhline(0, color="#cccccc", lw=2, zorder=0)
    if guessed is not None and truth is not None:
        axes.plot([guessed, truth], [0, 0], color=COLOURS[3], lw=3)
    for value, name, colour, marker in ((guessed, "guess", COLOURS[4], "o"), (truth, "truth", "black", "D")):
        if value is not None:
            axes.plot(value, 0, marker, color=colour, ms=10)
            above = name == "guess"
            axes.annotate(f"{name} {value:.2f}", (value, 0.75 if above else -0.8), ha="center", va="center", fontsize=9)
    return figure


def _check(truth: float, low: float, high: float) -> None:
    if not low <= truth <= high:
        raise InputError(f"the truth {truth} is not between {low} and {high}; widen the slider")
