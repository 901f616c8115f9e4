"""The report as one HTML file: figures as SVG whose points are links, tables, cases that open on a click, no script."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import matplotlib
import pandas as pd
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from mtg_lab.report import Section

_CaseRow = tuple[str, pd.DataFrame, Sequence[tuple[str, bytes]]]
_OPEN = ("means", "verdicts", "other_metrics")  # other tables are folded away
_NARROW = 7.5  # inches; two figures narrower than that share a row


def page(
    title: str, protocol: str, sections: Sequence[Section], cases: Sequence[_CaseRow], about: Mapping[str, str]
) -> str:
    """The whole page.

    Args:
        title: heading.
        protocol: printed at the top and at the foot, so that a printed page has it.
        sections: in order.
        cases: name, table, and pictures (words and WebP).
        about: name to words, a line each.
    """
    body = [f"<h1>{escape(title)}</h1>", f'<p class="protocol">{escape(protocol)}.</p>']
    if about:
        rows = "".join(f"<dt>{escape(name)}</dt><dd>{escape(words)}</dd>" for name, words in about.items())
        body.append(f"<dl>{rows}</dl>")
    body.append("<main>")
    for section in sections:
        body += _section(section)
    if any(pictures for _, _, pictures in cases):
        body += _cases(cases)
    body.append(f'</main><footer class="protocol">{escape(protocol)}.</footer>')
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{escape(title)}</title>'
    start = f'<!DOCTYPE html>\n<html lang="en"><head>{head}<style>{_STYLE}</style></head>\n<body>'
    return "\n".join([start, *body, "</body></html>\n"])


def svg(figure: Figure, words: str, name: str) -> str:
    """A figure as inline SVG with its words as alternative text; ids are made unlike those of other figures."""
    stream = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(stream, format="svg", metadata={"Date": None})
    drawn = stream.getvalue()
    drawn = drawn[drawn.index("<svg") :]
    # Ids of glyphs and clip paths recur in every figure; a page has one name space for all.
    known = set(re.findall(r'\bid="([^"]+)"', drawn))
    drawn = re.sub(r'\bid="([^"]+)"', lambda m: f'id="{name}-{m[1]}"', drawn)
    drawn = re.sub(r"url\(#([^)]+)\)", lambda m: f"url(#{name}-{m[1]})", drawn)
    drawn = re.sub(r'(xlink:href)="#([^"]+)"', lambda m: f'{m[1]}="#{name}-{m[2]}"' if m[2] in known else m[0], drawn)
    return drawn.replace("<svg ", f'<svg role="img" aria-label="{escape(words)}" ', 1)


def _section(section: Section) -> Iterator[str]:
    yield f"<section><h2>{escape(section.title)}</h2>"
    yield from (f"<p>{escape(words)}</p>" for words in section.words)
    yield '<div class="figures">'
    for name, (figure, words) in section.figures.items():
        files = " · ".join(f'<a href="figures/{name}.{kind}">{kind.upper()}</a>' for kind in ("png", "pdf"))
        wide = "" if figure.get_figwidth() < _NARROW else ' class="row"'
        yield f"<figure{wide}>{svg(figure, words, name)}<figcaption>{escape(words)} {files}</figcaption></figure>"
    yield "</div>"
    for name, table in section.tables.items():
        yield _table(table, name)
    yield "</section>"


def _table(table: pd.DataFrame, name: str) -> str:
    caption = name.replace("_", " ").capitalize()
    link = f'<a href="tables/{name}.csv">CSV</a>' + (
        ' · <a href="tables/summary.tex">LaTeX</a>' if name == "means" else ""
    )
    shown = _html_table(table)
    label = f"{caption} ({len(table)} rows) {link}"
    if name == "means":
        return f"<p>{caption} {link}</p>{shown}"
    return f"<details{' open' if name in _OPEN else ''}><summary>{label}</summary>{shown}</details>"


def _html_table(table: pd.DataFrame) -> str:
    head = "".join(f'<th scope="col">{escape(str(c).replace("_", " "))}</th>' for c in table)
    rows = "".join(
        "<tr>" + "".join(f"<td>{_cell(v)}</td>" for v in row) + "</tr>" for row in table.itertuples(index=False)
    )
    return f'<div class="wide" tabindex="0"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'


def _cell(value: Any) -> str:
    if isinstance(value, float):  # NumPy's double among them
        return "" if pd.isna(value) else f"{value:.2g}" if 0 < abs(value) < 0.001 else f"{value:.3f}"
    return escape(str(value))


def _cases(cases: Sequence[_CaseRow]) -> Iterator[str]:
    yield '<section id="cases"><h2>The cases, worst first</h2><p>'
    yield " · ".join(f'<a href="#case-{quote(name)}">{escape(name)}</a>' for name, *_ in cases)
    yield ' · <a href="#cases">show all</a></p>'
    for name, table, pictures in cases:
        yield f'<article class="case" id="case-{quote(name)}"><h3>{escape(name)}</h3>{_html_table(table)}'
        for words, data in pictures:
            source = base64.b64encode(data).decode()
            image = f'<img loading="lazy" alt="{escape(words)}" src="data:image/webp;base64,{source}">'
            yield f"<figure>{image}<figcaption>{escape(words)}</figcaption></figure>"
        yield "</article>"
    yield "</section>"


_STYLE = """
:root { color-scheme: light dark; --text: #1b1f24; --page: #ffffff; --card: #f4f5f7; --line: #d5d9df; --quiet: #59636e;
  --link: #0b5c9e; }
@media (prefers-color-scheme: dark) { :root { --text: #e6e8eb; --page: #14171a; --card: #1e2226; --line: #3a4048;
  --quiet: #a3acb6; --link: #8cc4f5; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--text); background: var(--page); max-width: 1080px;
  margin: 0 auto; padding: 1.5rem; }
a { color: var(--link); } h1 { font-size: 1.6rem; margin: 0 0 .3rem; }
h2 { font-size: 1.25rem; margin: 2.2rem 0 .6rem; }
p { max-width: 75ch; margin: .4rem 0; } .protocol, figcaption, dd { color: var(--quiet); font-size: .9rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; }
dd { margin: 0; overflow-wrap: anywhere; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(330px, 100%), 1fr)); gap: 0 1rem; }
.row { grid-column: 1 / -1; } figure { margin: 1rem 0; }
figure svg, figure img { display: block; max-width: 100%; height: auto; background: #fff;
  border-radius: .25rem; }
svg a:hover, svg a:focus { opacity: .6; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; }
th, td { text-align: left; padding: .15rem .9rem .15rem 0; border-bottom: 1px solid var(--line);
  white-space: nowrap; }
th { font-weight: 600; } details { margin: .5rem 0; } summary { cursor: pointer; }
.case { display: none; background: var(--card); border: 1px solid var(--line); border-radius: .5rem;
  padding: .8rem 1rem; margin: .8rem 0; }
.case:target, #cases:target .case { display: block; } .case h3 { margin: 0 0 .4rem; }
footer { margin-top: 2rem; border-top: 1px solid var(--line); padding-top: .5rem; }
@media print { .case { display: block; break-inside: avoid; } }
"""
