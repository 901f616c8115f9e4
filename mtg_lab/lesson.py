"""What every notebook does the same way: begin, show a picture with words, check an exercise, write its numbers."""

import base64
import io
import json
import math
import platform
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from IPython.display import HTML, display
from matplotlib.figure import Figure

from mtg_lab import __version__
from mtg_lab.errors import InputError
from mtg_lab.figures import save
from mtg_lab.files import cache_folder, make_folder, write_text, written_aside
from mtg_lab.hardware import default_device


@dataclass(frozen=True)
class Lesson:
    """A notebook at work: the folder that its pictures and numbers go to."""

    name: str
    folder: Path

    def show(self, figure: Figure, name: str, words: str) -> None:
        """Save ``figures/<name>.png`` and display it with ``words`` as caption and alternative text."""
        save(figure, self.folder / "figures", name, words)
        picture = io.BytesIO()
        figure.savefig(picture, format="png", dpi=110)
        source = base64.b64encode(picture.getvalue()).decode()
        display(
            HTML(
                f'<figure style="margin:0"><img style="max-width:100%" alt="{escape(words)}" '
                f'src="data:image/png;base64,{source}"><figcaption style="max-width:60em">{escape(words)}'
                "</figcaption></figure>"
            )
        )

    def table(self, table: pd.DataFrame, name: str) -> None:
        """Save ``<name>.csv``, index included."""
        with written_aside(self.folder / f"{name}.csv") as aside:
            table.to_csv(aside)

    def results(self, numbers: Mapping[str, Any]) -> None:
        """Write ``metrics.json``: flat names with their units, such as ``teacher_seconds``; null is no number."""
        plain = {k: v.item() if hasattr(v, "item") else v for k, v in numbers.items()}
        # JSON knows neither NaN nor infinity.
        plain = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in plain.items()}
        path = write_text(self.folder / "metrics.json", json.dumps(plain, indent=2, allow_nan=False))
        print(f"{len(plain)} numbers in {path.name}, pictures in figures/")


def begin(name: str, preset: str, out: str = "") -> Lesson:
    """Start a notebook: make its folder, say what it runs on.

    Args:
        name: of the notebook, such as ``03_modality_gap``.
        preset: printed.
        out: folder for pictures and numbers; empty puts them into the cache.

    Raises:
        InputError: the folder cannot be written to.
    """
    folder = make_folder(out or cache_folder("lessons", preset, name))
    print(
        f"mtg_lab {__version__}, torch {torch.__version__}, Python {platform.python_version()}, "
        f"device {default_device()}, preset {preset}"
    )
    return Lesson(name, folder)


def measured(study: str) -> tuple[dict[str, pd.DataFrame], dict[str, Any]]:
    """What a study that takes hours found, as it comes with the package: its tables by name, and how it was made.

    Args:
        study: a folder of ``mtg_lab/results``, such as ``alignment_study``.

    Raises:
        InputError: there is none of this name.
    """
    folder = files("mtg_lab") / "results" / study
    if not folder.is_dir():
        known = sorted(f.name for f in (files("mtg_lab") / "results").iterdir() if f.is_dir())
        raise InputError(f"no study {study!r} comes with the package; there are: {', '.join(known)}")
    tables = {f.name: io.StringIO(f.read_text()) for f in folder.iterdir() if f.name.endswith(".csv")}
    about = json.loads((folder / "about.json").read_text())
    return {name.removesuffix(".csv"): pd.read_csv(text) for name, text in tables.items()}, about


def tell(*sentences: str) -> None:
    """Print sentences, a line each, wrapped between words: a long line of output is cut anywhere."""
    for sentence in sentences:
        print(textwrap.fill(sentence, 100, subsequent_indent="  "))


def check(right: bool, praise: str, hint: str) -> None:
    """Say whether an exercise is solved, and if not, what to look at."""
    print(f"Right. {praise}" if right else f"Not yet. {hint}")


def most_telling(samples: Sequence[Mapping[str, torch.Tensor]]) -> int:
    """Index of the sample to show: most different labels first, then the largest lesion."""

    def richness(index: int) -> tuple[int, int]:
        label = samples[index]["label"]
        return len(torch.unique(label)), int((label > 0).sum())

    return max(range(len(samples)), key=richness)
