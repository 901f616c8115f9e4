"""HTML of executed notebooks, and the index page over them; readable without a network, in light and in dark."""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from mtg_lab.files import write_text

if TYPE_CHECKING:
    from nbconvert import HTMLExporter

    from mtg_lab.notebook_run import Outcome

Table = list[dict[str, Any]]
_TEMPLATE = "page.html.j2"
# Formulas are MathML already; lines of output break between words, and a wide table scrolls instead of being cut.
_PAGE_OF_A_NOTEBOOK = """{% extends 'lab/index.html.j2' %}{% block html_head_js_mathjax %}<style>
.jp-OutputArea-output pre { word-break: normal; overflow-wrap: anywhere; }
.jp-RenderedHTML { overflow-x: auto; }
</style>{% endblock %}"""


def export_html(notebook: Any, path: Path) -> Path:
    """Write an executed notebook as one HTML file with its images inside; raises what nbconvert raises."""
    from jinja2 import DictLoader

    # RequireJS, jQuery and the widget manager would be fetched from a CDN to draw what every notebook also shows as a
    # static figure; MathJax to set formulas, which are MathML here.
    exporter = _exporter()(
        require_js_url="", jquery_url="", mermaid_js_url="", mermaid_layout_elk_js_url="", embed_images=True,
        extra_loaders=[DictLoader({_TEMPLATE: _PAGE_OF_A_NOTEBOOK})], template_file=_TEMPLATE,
    )  # fmt: skip
    resources = {"metadata": {"name": goal(notebook)[0] or path.stem, "path": str(path.parent)}}
    page, _ = exporter.from_notebook_node(without_widget_views(notebook), resources=resources)
    return write_text(path, page)


def _exporter() -> type[HTMLExporter]:
    """nbconvert's exporter to HTML with formulas as MathML, made on first use: nbconvert takes long to import."""
    from jinja2 import pass_context
    from latex2mathml.converter import convert
    from nbconvert import HTMLExporter
    from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

    class Renderer(IPythonRenderer):  # type: ignore[misc]
        def block_math(self, body: str) -> str:
            return self.formula(body, "block") or super().block_math(body)

        def inline_math(self, body: str) -> str:
            return self.formula(body, "inline") or super().inline_math(body)

        def formula(self, body: str, display: str) -> str:
            try:
                return convert(body, display=display)
            except Exception:  # its errors share no base; TeX that it cannot read stays as it is written
                return ""

    class Exporter(HTMLExporter):  # type: ignore[misc]
        @pass_context
        def markdown2html(self, context: Mapping[str, Any], source: str) -> str:
            cell = context.get("cell", {})
            renderer = Renderer(
                escape=False, attachments=cell.get("attachments", {}), embed_images=self.embed_images,
                path=context.get("resources", {}).get("metadata", {}).get("path", ""),
            )  # fmt: skip
            return MarkdownWithMath(renderer=renderer).render(source)

    return Exporter


def without_widget_views(notebook: Any) -> Any:
    """Return a copy whose widgets are a line of text: their state is not stored, so no script could draw them."""
    import copy

    shown = copy.deepcopy(notebook)
    shown.metadata.pop("widgets", None)
    for cell in shown.cells:
        for output in cell.get("outputs", []):
            if output.get("data", {}).pop("application/vnd.jupyter.widget-view+json", None) is not None:
                output["data"]["text/html"] = "<p><em>Interactive: open the notebook to move this widget.</em></p>"
    return shown


def goal(notebook: Any) -> tuple[str, str]:
    """Return a notebook's first heading and the first paragraph after it, as plain text."""
    title, paragraph = "", ""
    for cell in notebook.cells:
        if cell.cell_type != "markdown":
            continue
        for block in re.split(r"\n\s*\n", re.sub(r"(?m)^(#+ .*)$", r"\n\1\n", cell.source)):
            block = block.strip()
            if block.startswith("#"):
                title = title or block.lstrip("# ").strip()
            elif block and title and not paragraph and not block.startswith(("<", "|", "!", "- ", "* ", "$")):
                paragraph = " ".join(block.split())
        if title and paragraph:
            break
    return _plain(title), _plain(paragraph)


def _plain(markdown: str) -> str:
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", markdown)
    return re.sub(r"\*\*|__|`|(?<!\w)\*(?=\w)|(?<=\w)\*(?!\w)", "", text)


def dice_table(folder: Path, metrics: Mapping[str, Any]) -> Table:
    """Return the rows of a notebook's ``dice_table.csv``, or else of the ``dice_table`` in its metrics.

    There it is a list of rows, or a mapping from a row's name to its columns.
    """
    try:
        with (folder / "dice_table.csv").open(encoding="utf-8", newline="") as file:
            rows: Table = list(csv.DictReader(file))
    except (OSError, csv.Error, UnicodeDecodeError):
        rows = []
    stored = metrics.get("dice_table")
    if not rows and isinstance(stored, Mapping):
        rows = [{"": name, **row} for name, row in stored.items() if isinstance(row, Mapping)]
    if not rows and isinstance(stored, list):
        rows = [dict(row) for row in stored if isinstance(row, Mapping)]
    return rows


def picture_text(path: Path, title: str) -> str:
    """Return the words that stand for a picture: the PNG's own Description or Title, or else its file name."""
    from PIL import Image

    try:
        with Image.open(path) as picture:
            # The text chunks may follow the pixels.
            picture.load()
            words = picture.info.get("Description") or picture.info.get("Title")
    except OSError:
        words = None
    return str(words or f"{title}: {path.stem.replace('_', ' ')}")


def index_html(outcomes: Sequence[Outcome], out: Path, title: str) -> str:
    """Return the index page; links are relative to ``out``."""
    cards, tables = [], []
    for outcome in outcomes:
        folder = outcome.executed.parent if outcome.executed else out / outcome.notebook
        notebook = _executed(outcome.executed)
        heading, paragraph = goal(notebook) if notebook is not None else ("", "")
        name = _relative(folder, out)
        rows = dice_table(folder, outcome.metrics) if outcome.status != "skipped" else []
        if rows:
            tables.append(f"<h3>{escape(heading or name)}</h3>\n{_table(rows, 'Dice, from ' + name)}")
        cards.append(_card(outcome, out, folder, name, heading or outcome.notebook, paragraph))
    done = sum(outcome.status == "done" for outcome in outcomes)
    seconds = sum(outcome.seconds for outcome in outcomes)
    dice = "\n".join(["<section><h2>Dice</h2>", *tables, "</section>"]) if tables else ""
    return _PAGE.format(
        title=escape(title),
        style=_STYLE,
        summary=f"{done} of {len(outcomes)} done in {seconds / 60:.1f} minutes.",
        dice=dice,
        cards="\n".join(cards),
    )


def _executed(path: Path | None) -> Any:
    import nbformat

    try:
        return nbformat.read(path, as_version=4) if path else None
    except (OSError, ValueError):
        return None


def _relative(path: Path, out: Path) -> str:
    return Path(os.path.relpath(path, out)).as_posix()


def _link(path: Path, out: Path) -> str:
    return quote(_relative(path, out))


def _card(outcome: Outcome, out: Path, folder: Path, name: str, heading: str, paragraph: str) -> str:
    links = [f'<a href="{_link(path, out)}">{word}</a>' for path, word in _files(outcome)]
    pictures = list((folder / "figures").glob("*.png")) if outcome.status != "skipped" else []
    # In the order of the story, which is that in which they were saved.
    pictures.sort(key=lambda path: (path.stat().st_mtime, path.name))
    shown = [
        f'<figure><a href="{_link(path, out)}"><img src="{_link(path, out)}" alt="{escape(words)}" loading="lazy"></a>'
        f"<figcaption>{escape(words)}</figcaption></figure>"
        for path, words in ((path, picture_text(path, heading)) for path in pictures)
    ]
    where = f"code cell {outcome.cell}: " if outcome.cell else ""
    scalars = {k: v for k, v in outcome.metrics.items() if isinstance(v, (str, int, float)) or v is None}
    lines = [
        f'<article class="{outcome.status}">',
        f"<h2>{escape(heading)}</h2>",
        f'<p class="status"><strong>{outcome.status}</strong> · {outcome.seconds:.1f} s · {escape(name)}</p>',
        f"<p>{escape(paragraph)}</p>" if paragraph else "",
        f'<p class="message">{escape(where + outcome.message)}</p>' if outcome.message else "",
        f"<p>{' · '.join(links)}</p>" if links else "",
        *shown,
        _metrics(scalars),
        "</article>",
    ]
    return "\n".join(line for line in lines if line)


def _files(outcome: Outcome) -> Iterable[tuple[Path, str]]:
    if outcome.html:
        yield outcome.html, "read it"
    if outcome.executed:
        yield outcome.executed, "executed notebook"


def _metrics(scalars: Mapping[str, Any]) -> str:
    if not scalars:
        return ""
    rows: Table = [{"metric": name, "value": value} for name, value in scalars.items()]
    return f"<details><summary>{len(rows)} numbers</summary>{_table(rows, 'Numbers of this notebook')}</details>"


def _table(rows: Table, caption: str) -> str:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    head = "".join(f'<th scope="col">{escape(str(name))}</th>' for name in columns)
    body = "\n".join("<tr>" + "".join(f"<td>{_cell(row.get(name))}</td>" for name in columns) + "</tr>" for row in rows)
    # A wide table scrolls by itself, and by keyboard, instead of widening the page.
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="{escape(caption)}"><table>'
        f"<caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table></div>"
    )


def _cell(value: Any) -> str:
    if value is None or isinstance(value, (dict, list)):
        return escape(json.dumps(value)) if value is not None else ""
    text = str(value)
    try:
        number = float(text)
    except ValueError:
        return escape(text)
    return text if re.fullmatch(r"[+-]?\d+", text) else f"{number:.4g}"


_STYLE = """
:root { color-scheme: light dark; --ink: #1b1b1b; --paper: #fff; --line: #c8c8c8;
  --done: #00664b; --failed: #a33c00; --link: #005a94; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #ececec; --paper: #16181c; --line: #4a4d55; --done: #4fd6ac; --failed: #ff9d5c; --link: #7cc4f5; }
}
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 62rem; font: 1rem/1.5 system-ui, sans-serif;
  color: var(--ink); background: var(--paper); }
a { color: var(--link); }
article { border-top: 1px solid var(--line); padding: .5rem 0 1rem; }
.status strong::before { content: "○ "; }
.done .status strong { color: var(--done); } .done .status strong::before { content: "✓ "; }
.failed .status strong { color: var(--failed); } .failed .status strong::before { content: "✗ "; }
.message { font-family: ui-monospace, monospace; overflow-wrap: anywhere; }
figure { display: inline-block; vertical-align: top; margin: .5rem .5rem .5rem 0; max-width: 29rem; }
img { max-width: 100%; background: #fff; }
figcaption, caption { font-size: .9rem; text-align: left; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { border: 1px solid var(--line); padding: .2rem .6rem; text-align: left; }
"""

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<header><h1>{title}</h1>
<p>{summary}</p></header>
<main>
{cards}
{dice}
</main>
</body>
</html>
"""
