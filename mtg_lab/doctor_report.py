"""Doctor's page: one self-contained HTML file with pictures of every subject beside what was found in it."""

import base64
import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path

import matplotlib.image
import nibabel as nib
import numpy as np
from matplotlib.colors import to_rgb
from scipy.ndimage import binary_dilation, zoom

from mtg_lab.doctor import Checkup
from mtg_lab.examination import Examination
from mtg_lab.files import write_text
from mtg_lab.findings import SEVERITIES, Finding, counted
from mtg_lab.manifest import SPLITS, Subject
from mtg_lab.palette import COLOURS
from mtg_lab.scans import size_told
from mtg_lab.slices import fullest_slice, intensity_window

_HEIGHT = 150  # pixels of a slice
_VIEWS = {2: "axial", 1: "coronal", 0: "sagittal"}


def draw(subject: Subject, affine: np.ndarray, volumes: Mapping[str, np.ndarray]) -> dict[str, bytes]:
    """Modality to a WebP picture: an axial, a coronal and a sagittal slice in grey, the label's border in colour.

    The slices are those that show most of the label; right-anterior-superior order, right of the patient on the right.
    """
    steps = nib.io_orientation(affine)
    turned = {c: nib.orientations.apply_orientation(v, steps) for c, v in volumes.items() if c != "mask"}
    label = turned.pop("label", None)
    if not turned:
        return {}
    edges = nib.affines.voxel_sizes(affine)[np.argsort(steps[:, 0])]
    schema = subject.label_schema if subject.schema else None
    whole = np.zeros(next(iter(turned.values())).shape, np.int16) if label is None else np.rint(label).astype(np.int16)
    chosen = {axis: fullest_slice(whole, axis) for axis in _VIEWS}
    marks = {axis: _upright(np.take(whole, chosen[axis], axis), edges, axis, order=0) for axis in _VIEWS}
    pictures = {}
    for modality, volume in turned.items():
        low, high = intensity_window(volume)
        strip = []
        for axis in _VIEWS:
            grey = np.clip((np.take(volume, chosen[axis], axis).astype(np.float32) - low) / (high - low), 0, 1)
            pixels = np.repeat(_upright(grey, edges, axis, order=1)[..., None], 3, axis=2)
            for number, value in enumerate(schema.values if schema else ()):
                inside = marks[axis] == value
                pixels[binary_dilation(inside) & ~inside] = to_rgb(COLOURS[number % len(COLOURS)])
            strip.append(pixels)
        stream = io.BytesIO()
        joined = np.concatenate(strip, axis=1)
        matplotlib.image.imsave(stream, joined, format="webp", pil_kwargs={"quality": 75})
        pictures[modality] = stream.getvalue()
    return pictures


def _upright(pixels: np.ndarray, edges: np.ndarray, axis: int, order: int) -> np.ndarray:
    """A slice [A, B] as an image of ``_HEIGHT`` rows, superior (or anterior) on top, with square pixels."""
    across, up = (edges[a] for a in range(3) if a != axis)
    scale = _HEIGHT / pixels.shape[1]
    return zoom(pixels, (scale * across / up, scale), order=order).T[::-1]


def write(checkup: Checkup, path: str | Path) -> Path:
    """Write the page; everything that it shows is in the one file.

    Raises:
        InputError: the folder cannot be written to.
    """
    manifest = checkup.manifest
    general = [f for f in checkup.findings if f.subject not in {s.name for s in manifest}]
    body = [
        f"<h1>Doctor: {escape(manifest.path.name)}</h1>",
        f"<p>{len(manifest)} subjects, {escape(', '.join(manifest.modalities))}; {counted(checkup.findings)}.</p>",
        *_filter(checkup.findings),
        "<main>",
        "<section><h2>The cohort</h2>",
        *(_list(general) if general else ["<p>Nothing found in the cohort as a whole.</p>"]),
        '<div class="tables">',
        *_tables(checkup),
        "</div></section><section><h2>The subjects</h2>",
        _legend(checkup),
        *(line for e in checkup.examinations for line in _subject(e, checkup.findings)),
        "</section></main>",
    ]
    title = f"Doctor: {escape(manifest.path.name)}"
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title>'
    page = f'<!DOCTYPE html>\n<html lang="en"><head>{head}<style>{_STYLE}</style></head>\n<body>'
    return write_text(path, "\n".join([page, *body, "</body></html>\n"]))


def _filter(findings: Sequence[Finding]) -> Iterator[str]:
    """Radio buttons that hide findings by style alone: no script."""
    counts = Counter(f.severity for f in findings)
    offered = {"all": f"everything ({len(findings)})"}
    offered |= {s: f"{s}s only ({counts[s]})" for s in SEVERITIES if counts[s]}
    for name, told in offered.items():
        checked = " checked" if name == "all" else ""
        yield f'<input type="radio" name="show" id="show-{name}"{checked}><label for="show-{name}">{told}</label>'


def _list(findings: Sequence[Finding]) -> Iterator[str]:
    yield '<ul class="findings">'
    for f in sorted(findings, key=lambda f: SEVERITIES.index(f.severity)):
        badge = f'<span class="badge">{f.severity}</span> <code>{f.code}</code>'
        line = f.line.removeprefix(f"subject {f.subject}: ").removeprefix(f"{f.file}: ")  # the page says where
        yield f'<li class="{f.severity}">{badge} {escape(line)}. <em>Mend: {escape(f.mend)}.</em></li>'
    yield "</ul>"


def _tables(checkup: Checkup) -> Iterator[str]:
    manifest, read = checkup.manifest, [e for e in checkup.examinations if e.shape]
    splits = [s for s in SPLITS if any(x.split == s for x in manifest)]
    splits += [""] if any(not x.split for x in manifest) else []
    columns = [s or "no split" for s in splits]
    grids = Counter((size_told(e.shape), f"{size_told(e.spacing)} mm", e.orientation) for e in read)
    rows = [[*grid, str(n)] for grid, n in grids.most_common(12)]
    rows += [["others", "", "", str(sum(n for _, n in grids.most_common()[12:]))]] if len(grids) > 12 else []
    yield _table("Grids", ["voxels", "spacing", "orientation", "subjects"], rows)
    sites = sorted({s.site or "" for s in manifest})
    counts = Counter((s.site or "", s.split or "") for s in manifest)
    rows = [[site or "no site", *(str(counts[site, split]) for split in splits)] for site in sites]
    yield _table("Sites and splits, in subjects", ["site", *columns], rows)
    rows = []
    for modality in manifest.modalities:
        of = [[modality in s.images for s in manifest if (s.split or "") == split] for split in splits]
        rows.append([modality, *(f"{sum(there)} of {len(there)}" for there in of)])
    yield _table("Sequences, in subjects that have them", ["sequence", *columns], rows)
    rows = []
    for region in dict.fromkeys(r for e in read for r in e.region_ml):
        for split, column in zip(splits, columns, strict=True):
            of_split = [e.region_ml[region] for e in read if region in e.region_ml and (e.subject.split or "") == split]
            if of_split:
                low, middle, high = np.quantile(of_split, (0, 0.5, 1))
                having = f"{sum(v > 0 for v in of_split)} of {len(of_split)}"
                rows.append([region, column, having, f"{low:.1f}", f"{middle:.1f}", f"{high:.1f}"])
    yield _table(
        "Volumes of regions in ml", ["region", "split", "subjects that have it", "least", "median", "most"], rows
    )


def _table(caption: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><caption>{escape(caption)}</caption><tr>{head}</tr>{body}</table>" if rows else ""


def _legend(checkup: Checkup) -> str:
    """The colours of each label of the schemas that occur."""
    lines = []
    for name, schema in {s.schema: s.label_schema for s in checkup.manifest if s.schema}.items():
        entries = " ".join(
            f'<span class="key" style="border-color:{COLOURS[n % len(COLOURS)]}">{escape(schema.labels[v])}</span>'
            for n, v in enumerate(schema.values)
        )
        lines.append(f"<p>Outlines, {escape(name)}: {entries}</p>")
    views = ", ".join(_VIEWS.values())
    return "".join(lines) + f"<p>Slices ({views}) through the most of the label; right of the patient on the right.</p>"


def _subject(examination: Examination, findings: Sequence[Finding]) -> Iterator[str]:
    s = examination.subject
    own = [f for f in findings if f.subject == s.name]
    kinds = " ".join(f"has-{k}" for k in dict.fromkeys(f.severity for f in own))
    facts = [s.split or "no split", *([f"site {s.site}"] if s.site else []), *([s.schema] if s.schema else [])]
    if examination.shape:
        facts += [
            f"{size_told(examination.shape)} voxels of {size_told(examination.spacing)} mm",
            examination.orientation,
        ]
    facts += [f"{region} {ml:.1f} ml" for region, ml in examination.region_ml.items()]
    yield f'<article class="{kinds}"><h3>{escape(s.name)}</h3><p class="facts">{escape(" · ".join(facts))}</p>'
    if own:
        yield from _list(own)
    yield '<div class="pictures">'
    outlined = ", the label outlined" if s.label is not None else ""
    for modality, picture in (examination.picture or {}).items():
        alt = escape(f"{modality} of {s.name}: {', '.join(_VIEWS.values())} slice{outlined}")
        data = base64.b64encode(picture).decode()
        image = f'<img loading="lazy" alt="{alt}" src="data:image/webp;base64,{data}">'
        yield f"<figure>{image}<figcaption>{escape(modality)}</figcaption></figure>"
    yield "</div></article>"


_STYLE = """
:root { color-scheme: light dark; --text: #1b1f24; --page: #ffffff; --card: #f4f5f7; --line: #d5d9df; --quiet: #59636e;
  --error: #b3261e; --warning: #8a5300; --note: #0b5c9e; }
@media (prefers-color-scheme: dark) { :root { --text: #e6e8eb; --page: #14171a; --card: #1e2226; --line: #3a4048;
  --quiet: #a3acb6; --error: #ff9a92; --warning: #f5b759; --note: #8cc4f5; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--text); background: var(--page); max-width: 1180px;
  margin: 0 auto; padding: 1.5rem; }
h1 { font-size: 1.5rem; margin: 0 0 .3rem; overflow-wrap: anywhere; } h2 { font-size: 1.2rem; margin: 2rem 0 .6rem; }
h3 { font-size: 1rem; margin: 0; overflow-wrap: anywhere; }
input[name=show] { position: absolute; opacity: 0; }
input[name=show] + label { display: inline-block; padding: .2rem .7rem; margin: 0 .3rem .3rem 0; cursor: pointer;
  border: 1px solid var(--line); border-radius: 1rem; }
input[name=show]:checked + label { background: var(--text); color: var(--page); }
input[name=show]:focus-visible + label { outline: 2px solid var(--note); outline-offset: 2px; }
article { background: var(--card); border: 1px solid var(--line); border-radius: .5rem; padding: .8rem 1rem;
  margin: 0 0 1rem; }
.facts { color: var(--quiet); margin: .1rem 0 .5rem; }
.findings { list-style: none; padding: 0; margin: 0 0 .6rem; }
.findings li { padding: .15rem 0 .15rem .7rem; margin: .2rem 0; border-left: 3px solid; overflow-wrap: anywhere; }
.findings em { color: var(--quiet); font-style: normal; }
code { color: var(--quiet); } .badge { font-weight: 600; }
.error { border-color: var(--error) !important; } .error .badge { color: var(--error); }
.warning { border-color: var(--warning) !important; } .warning .badge { color: var(--warning); }
.note { border-color: var(--note) !important; } .note .badge { color: var(--note); }
.pictures { display: grid; gap: .6rem; grid-template-columns: repeat(auto-fill, minmax(min(440px, 100%), 1fr)); }
figure { margin: 0; }
figure img { display: block; width: 100%; height: auto; background: #000; border-radius: .25rem; }
figcaption { color: var(--quiet); font-size: .85rem; }
.tables { display: flex; flex-wrap: wrap; gap: 1.2rem 2rem; align-items: flex-start; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; } caption { text-align: left; font-weight: 600;
  white-space: nowrap; }
th, td { text-align: left; padding: .15rem .9rem .15rem 0; border-bottom: 1px solid var(--line); }
th { font-weight: 500; color: var(--quiet); }
.key { border-bottom: 3px solid; margin-right: .6rem; }
#show-error:checked ~ main li:not(.error), #show-warning:checked ~ main li:not(.warning),
#show-note:checked ~ main li:not(.note), #show-error:checked ~ main article:not(.has-error),
#show-warning:checked ~ main article:not(.has-warning), #show-note:checked ~ main article:not(.has-note)
  { display: none; }
"""
