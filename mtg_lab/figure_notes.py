"""Words in and around a figure: a title that is never cut off, names beside points, and below the protocol."""

import textwrap
from collections.abc import Iterable

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import LogLocator, NullFormatter
from matplotlib.transforms import Bbox

from mtg_lab.protocol import digests, protocol_line

_POINTS, _TITLE_POINTS = 6.5, 12
_WIDTH = 0.54  # of a letter, in its size, on average
_LINE_INCHES = 1.35 * _POINTS / 72
_PAD_INCHES = 0.04


def note_protocol(figure: Figure, tables: pd.DataFrame | Iterable[pd.DataFrame]) -> Figure:
    """Print under a finished figure how the scores in it came about; nothing where the tables do not know.

    Args:
        figure: of constrained layout, with all that it holds.
        tables: of :func:`mtg_lab.evaluate`, or what was computed from one; different protocols are all printed.
    """
    given = [tables] if isinstance(tables, pd.DataFrame) else list(tables)
    alike: dict[str, list[pd.DataFrame]] = {}
    for table in given:
        alike.setdefault(str(digests(table)), []).append(table)
    lines = [line for tables_alike in alike.values() if (line := protocol_line(*tables_alike))]
    return note(figure, "\n".join(dict.fromkeys(lines)))


def wrapped(text: str, inches: float, points: float) -> list[str]:
    """Lines that fit into a width, as far as letters of a size are of average width."""
    letters = max(20, int(72 * inches / (_WIDTH * points)))
    return [line for part in text.splitlines() for line in textwrap.wrap(part, letters)]


def note(figure: Figure, text: str) -> Figure:
    """Add small lines below all else, which keeps its size; legends of the figure hang on its lower edge.

    Args:
        figure: of constrained layout, with all that it holds.
        text: broken into lines as wide as the figure; an empty one changes nothing.
    """
    if not text:
        return figure
    engine = figure.get_layout_engine()
    if not isinstance(engine, ConstrainedLayoutEngine):
        raise TypeError(f"a note needs a figure of constrained layout, not of {type(engine).__name__}")
    figure.draw_without_rendering()
    width, height = figure.get_size_inches()
    # What hangs on the lower edge has its place once the figure is laid out; moved up, the layout no longer sees it.
    label = figure._supxlabel  # type: ignore[attr-defined]
    hanging = [*figure.legends, *([label] if figure.get_supxlabel() else [])]
    spans = [artist.get_window_extent() for artist in hanging]
    taken = max((span.y1 / figure.dpi + _PAD_INCHES for span in spans), default=0.0)
    lines = wrapped(text, width - 0.2, _POINTS)
    below = _LINE_INCHES * len(lines) + 2 * _PAD_INCHES
    whole = height + below
    figure.set_size_inches(width, whole)
    engine.set(rect=(0, (below + taken) / whole, 1, 1 - (below + taken) / whole))
    for legend in figure.legends:
        legend.set_bbox_to_anchor((0, below / whole, 1, height / whole), transform=figure.transFigure)
    if label in hanging:
        figure.supxlabel(label.get_text(), fontsize=label.get_fontsize(), y=(below + _PAD_INCHES) / whole)
    figure.text(0.1 / width, _PAD_INCHES / whole, "\n".join(lines), fontsize=_POINTS, color="#6b6b6b", va="bottom",
                linespacing=1.1, in_layout=False, gid="note")  # fmt: skip
    return figure


def titled(figure: Figure, text: str) -> None:
    """A title above all panels, in as many lines as the figure's width asks for."""
    letters = int(0.94 * figure.get_figwidth() * 72 / (_TITLE_POINTS * _WIDTH))  # some words are wider than others
    figure.suptitle(textwrap.fill(text, max(20, letters)), fontsize=_TITLE_POINTS)


def logarithmic(axes: Axes) -> None:
    """A logarithmic x-axis that says 20 and 5,000 where matplotlib would say powers of ten, or nothing."""
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}" if value > 1000 else f"{value:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())


def name_points(figure: Figure, axes: Axes, x: pd.Series, y: pd.Series) -> None:
    """Write each point's name beside it, in the nearest place where it covers neither a name nor a point.

    Args:
        figure: with all else that it holds, so that it is laid out.
        axes: of the figure, where the points are drawn.
        x, y: their places, indexed by their names.
    """
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw_without_rendering()
    room, pixel = axes.get_window_extent(renderer), figure.dpi / 72
    spots = axes.transData.transform(np.column_stack([x, y]))
    taken = [Bbox.from_bounds(u - 5 * pixel, v - 5 * pixel, 10 * pixel, 10 * pixel) for u, v in spots]
    for name, place, spot in zip(x.index, np.column_stack([x, y]), spots, strict=True):
        text = axes.text(place[0], place[1], str(name), fontsize=8)
        box = text.get_window_extent(renderer)
        text.remove()
        width, height = box.width / pixel, box.height / pixel
        shifts = [
            (reach * across + (across - 1) * width / 2, reach * up + (up - 1) * height / 2)
            for reach in (6, 14, 24, 36, 50)
            for across, up in ((1, 0), (1, 1), (1, -1), (-1, 0), (-1, 1), (-1, -1), (0, 1), (0, -1))
        ]
        corners = [spot + pixel * np.array(s) for s in shifts]
        boxes = [Bbox.from_bounds(u, v, box.width, box.height) for u, v in corners]
        covered = [sum(b.overlaps(t) for t in taken) + (b.x0 < room.x0 or b.x1 > room.x1) for b in boxes]
        best = int(np.argmin(covered))
        taken.append(boxes[best])
        line = {"arrowstyle": "-", "color": "#888888", "lw": 0.5} if best >= 8 else None
        axes.annotate(
            str(name), place, shifts[best], textcoords="offset points", fontsize=8, va="bottom", arrowprops=line
        )
