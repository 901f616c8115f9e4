"""What scores say, section by section: means, verdicts, missing sequences, their worth, single cases; and as one page.

:func:`sections` computes, :func:`write_report` lays out: ``index.html`` (self-contained, no script), every picture as
PNG and PDF, every table as CSV, the summary as LaTeX, and the scores with their protocol.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from mtg_lab.cases import Case
from mtg_lab.errors import InputError
from mtg_lab.evaluation import Protocol, save_scores, select_metric
from mtg_lab.figures import missingness_lines, save, subset_heatmap
from mtg_lab.figures_scores import case_scatter, rank_plot, shapley_bars
from mtg_lab.files import make_folder, write_text, written_aside
from mtg_lab.protocol import protocol_attrs
from mtg_lab.report_page import page
from mtg_lab.score_cube import Scores
from mtg_lab.score_summary import latex, summary, wide
from mtg_lab.shapley import SCORES, pair_interactions, worth
from mtg_lab.statistics import paired_tests, rank_stability, seed_spread, verdicts
from mtg_lab.subset_statistics import added_sequences, missingness_area, monotonicity_violations, worst_subset

_PAIRS_DRAWN = 6  # scatters against the first method; more would be a wall of points


@dataclass(frozen=True)
class Section:
    """One heading of the report.

    Attributes:
        title: of the section.
        words: paragraphs.
        figures: file name to a figure and what it shows in words.
        tables: file name to a table.
    """

    title: str
    words: tuple[str, ...] = ()
    figures: Mapping[str, tuple[Figure, str]] = field(default_factory=dict)
    tables: Mapping[str, pd.DataFrame] = field(default_factory=dict)


def sections(
    scores: Mapping[str, Scores], metric: str = "dice", links: Mapping[str, str] | None = None
) -> Iterator[Section]:
    """The report on scores of one or several methods, one section after the other.

    Args:
        scores: method to a table of :func:`mtg_lab.evaluate`, or to tables by seed; the first is what the others are
            compared with.
        metric: the score that the report is about.
        links: subject to the address that its point leads to.

    Raises:
        InputError: tables of different protocols, or of other seeds.
    """
    protocol = _protocol(scores)
    pairs = paired_tests(scores, metric=metric) if len(scores) > 1 else None
    yield _means(scores, metric, pairs, protocol)
    if pairs is not None:
        yield _verdicts(scores, metric, pairs)
    yield _missing(scores, metric)
    yield _worth(scores, metric)
    if pairs is not None:
        yield _cases(scores, metric, links)
    if others := [m for m in protocol.metric.split(",") if m != metric]:
        tables = [wide(summary(scores, m)).reset_index().assign(metric=m) for m in others]
        columns = ["metric", *[c for c in tables[0] if c != "metric"]]
        yield Section("Other metrics", tables={"other_metrics": pd.concat(tables, ignore_index=True)[columns]})


def write_report(
    scores: Mapping[str, Scores],
    out: str | Path,
    metric: str = "dice",
    cases: Iterable[Case] = (),
    about: Mapping[str, str] | None = None,
    title: str = "Scores over all subsets of sequences",
) -> Path:
    """Write the report into a folder; returns its ``index.html``.

    Args:
        scores: as for :func:`sections`.
        out: folder, made if needed; files of an earlier report are replaced, each whole or not at all.
        metric: the score that the report is about.
        cases: of :func:`mtg_lab.cases.predicted_cases`; points of the scatter lead to them.
        about: what else the reader should know, such as a method's run: name to words.
        title: of the page.

    Raises:
        InputError: as for :func:`sections`; the folder cannot be written to.
    """
    out, protocol = make_folder(out), _protocol(scores)
    drawn: dict[str, list[tuple[str, bytes]]] = {}
    for case in cases:
        words = f"{case.subject} from {case.subset}: reference and what {_listed([*case.masks][1:])} drew"
        drawn.setdefault(case.subject, []).append((words, _webp(case.picture())))
    links = {subject: f"#case-{subject}" for subject in drawn}
    told: list[Section] = []
    tables: dict[str, pd.DataFrame] = {}
    for section in sections(scores, metric, links):
        for name, (figure, words) in section.figures.items():
            save(figure, out / "figures", name, words)
            with written_aside(out / "figures" / f"{name}.pdf") as aside:
                figure.savefig(aside, format="pdf", metadata={"Subject": words, "CreationDate": None})
        for name, table in section.tables.items():
            with written_aside(out / "tables" / f"{name}.csv") as aside:
                table.to_csv(aside, index=False)
        told.append(section)
        tables |= section.tables
    caption = f"Mean {metric} over subsets with 95 % intervals over patients and seeds. {protocol}."
    source = latex(tables["summary"], caption, f"tab:{metric}", tables.get("verdicts"), metric)
    write_text(out / "tables" / "summary.tex", source)
    save_scores(_long(scores), out / "scores.csv")
    return write_text(
        out / "index.html", page(title, str(protocol), told, _case_rows(scores, metric, drawn), about or {})
    )


def _means(scores: Mapping[str, Scores], metric: str, pairs: pd.DataFrame | None, protocol: Protocol) -> Section:
    table = summary(scores, metric)
    words = [
        f"Mean {metric} over {len(protocol.subsets)} subsets and {len(protocol.cases)} {protocol.split} cases, with "
        "95 % intervals from patients and seeds drawn anew."
    ]
    if (table["seeds"] == 1).any():
        words.append("One training a method: the intervals know nothing of how much another seed would change.")
    tables = {"means": wide(table).reset_index(), "summary": table}
    if (table["seeds"] > 1).any():
        seeded = {m: s for m, s in scores.items() if not isinstance(s, pd.DataFrame)}
        tables["seed_spread"] = seed_spread(seeded, metric)
    figures = {}
    if pairs is not None:
        stability = rank_stability(scores, metric)
        figures["ranks"] = (rank_plot(stability, pairs), _ranks_in_words(stability))
        tables["ranks"] = stability
    return Section("Means", tuple(words), figures, tables)


def _verdicts(scores: Mapping[str, Scores], metric: str, pairs: pd.DataFrame) -> Section:
    """Sentences for the pairs over all regions, the table for every region."""
    note = (
        "A difference is claimed only where the paired interval excludes zero and Wilcoxon's signed-rank test, with "
        "Holm's correction over all rows of the table, is below 0.05."
    )
    return Section("Verdicts", (note, *(f"{v}." for v in verdicts(pairs, metric))), tables={"verdicts": pairs})


def _missing(scores: Mapping[str, Scores], metric: str) -> Section:
    figures: dict[str, tuple[Figure, str]] = {}
    pooled = {m: select_metric(_pooled(s), metric) for m, s in scores.items()}
    if metric in SCORES and len(set(next(iter(pooled.values()))["modalities"])) > 1:
        title = f"{metric.capitalize()} falls as sequences go missing (bands: 95 % over subjects)"
        figures["missingness"] = (
            missingness_lines(pooled, title),
            f"Mean {metric} by number of missing sequences, a panel a region, a line a method.",
        )
    for number, (method, table) in enumerate(pooled.items()):
        figures[f"subsets_{number}"] = (
            subset_heatmap(table, f"{method}: mean {metric}"),
            f"Heat map of mean {metric} by subset and region for {method}: "
            + ", ".join(f"{r} {v:.2f}" for r, v in table.groupby("region", sort=False)["value"].mean().items()),
        )
    words, tables = [], {}
    for name, compute in (("area", missingness_area), ("worst_subset", worst_subset)):
        found, refusal = _by_method(scores, compute, metric)
        if refusal:
            words.append(f"No {name.replace('_', ' ')}: {refusal}.")
        else:
            tables[name] = found
    steps, refusal = _by_method(scores, added_sequences, metric)
    if refusal:
        words.append(f"No count of where a further sequence hurts: {refusal}.")
    else:
        counts = {str(m): monotonicity_violations(part) for m, part in steps.groupby("method", sort=False)}
        tables["hurts"] = pd.concat([t.assign(method=m) for m, t in counts.items()])[
            ["method", *next(iter(counts.values())).columns]
        ]
        tables["steps"] = steps
        for method, count in counts.items():
            whole = count.iloc[-1]
            words.append(
                f"{method}: of {whole['steps']} steps that add a sequence, {whole['falls']} lower the mean {metric}, "
                f"{whole['clearly']} of them with an interval below zero; worst: {whole['worst_added']} added to "
                f"{whole['worst_subset']} ({whole['worst_change']:+.3f})."
            )
    return Section("As sequences go missing", tuple(words), figures, tables)


def _worth(scores: Mapping[str, Scores], metric: str) -> Section:
    title = "What each sequence is worth"
    values, refusal = _by_method(scores, worth, metric)
    if refusal:
        return Section(title, (f"Not told: {refusal}.",))
    figures = {}
    for number, (method, table) in enumerate(values.groupby("method", sort=False)):
        leading = table.loc[table.groupby("region", sort=False)["value"].idxmax()]
        told = ", ".join(f"{m} for {r} ({v:.2f})" for r, m, v in leading[["region", "modality", "value"]].to_numpy())
        figures[f"worth_{number}"] = (shapley_bars(table, f"{method}: what each sequence is worth"),
                                      f"Shapley values for {method}; worth most: {told}.")  # fmt: skip
    words = (
        "Shapley values: what a sequence adds, averaged over all orders in which sequences may arrive; they sum to the "
        "score with all sequences. They describe the network as much as the sequence."
    )
    interactions, refusal = _by_method(scores, pair_interactions, metric)
    return Section(title, (words,), figures, {"worth": values} | ({} if refusal else {"pairs": interactions}))


def _cases(scores: Mapping[str, Scores], metric: str, links: Mapping[str, str] | None) -> Section:
    first, *others = scores
    figures = {}
    for number, method in enumerate(others[:_PAIRS_DRAWN]):
        figure = case_scatter(scores[method], scores[first], (method, first), metric, links=links)
        figures[f"cases_{number}"] = (figure, f"{metric.capitalize()} of every subject under {method} against {first}; "
                                      + "; ".join(a.get_title() for a in figure.axes) + ".")  # fmt: skip
    words = ["A point is a subject, its score the mean over subsets and seeds."]
    words += ["A click on a point shows the case below."] if links else []
    if len(others) > _PAIRS_DRAWN:
        words.append(f"Drawn: the first {_PAIRS_DRAWN} of {len(others)} methods; the table below has all of them.")
    return Section("Case by case", tuple(words), figures)


def _by_method(scores: Mapping[str, Scores], compute: Any, metric: str) -> tuple[pd.DataFrame, str]:
    """A table of each method, one below the other; or why there is none."""
    try:
        found = [compute(s, metric).assign(method=m) for m, s in scores.items()]
    except InputError as refusal:
        return pd.DataFrame(), str(refusal)
    table = pd.concat(found, ignore_index=True)
    return table[["method", *[c for c in table if c != "method"]]], ""


def _case_rows(
    scores: Mapping[str, Scores], metric: str, drawn: Mapping[str, list[tuple[str, bytes]]]
) -> list[tuple[str, pd.DataFrame, list[tuple[str, bytes]]]]:
    """Each case, worst first: its name, its means by method and region, and its pictures."""
    pooled = pd.concat([select_metric(_pooled(s), metric).assign(method=m) for m, s in scores.items()])
    means = pooled.groupby(["subject", "method", "region"], sort=False)["value"].mean().unstack("region")
    means = means[list(dict.fromkeys(pooled["region"]))]
    order = means.mean(axis=1).groupby("subject", sort=False).mean().sort_values().index
    return [(str(s), means.loc[s].round(3).reset_index(), drawn.get(str(s), [])) for s in order]


def _protocol(scores: Mapping[str, Scores]) -> Protocol:
    if not scores:
        raise InputError("there are no scores to report; give a run or a table of 'mtg-lab evaluate'")
    stored = protocol_attrs(*(t for s in scores.values() for t in _tables(s))).get("protocol")
    if not stored:
        raise InputError(
            "these scores carry no protocol; take those of mtg_lab.evaluate, or read them with read_scores"
        )
    return Protocol.from_json(stored)


def _tables(scores: Scores) -> list[pd.DataFrame]:
    return [scores] if isinstance(scores, pd.DataFrame) else list(scores.values())


def _pooled(scores: Scores) -> pd.DataFrame:
    tables = _tables(scores)
    pooled = pd.concat(tables, ignore_index=True)
    pooled.attrs.update(tables[0].attrs)
    return pooled


def _long(scores: Mapping[str, Scores]) -> pd.DataFrame:
    """Every row of every method and seed, with columns arm and seed."""
    parts = [
        table.assign(arm=method, seed=seed)
        for method, tables in scores.items()
        for seed, table in ({0: tables} if isinstance(tables, pd.DataFrame) else tables).items()
    ]
    long = pd.concat(parts, ignore_index=True)
    long.attrs.update(protocol_attrs(*parts))
    return long


def _ranks_in_words(stability: pd.DataFrame) -> str:
    whole = stability[stability["region"] == stability["region"].iloc[-1]].sort_values("rank")
    return "Ranks over all regions: " + ", ".join(
        f"{r.method} {r.rank:g} [{r.rank_low:g}, {r.rank_high:g}]" for r in whole.itertuples(index=False)
    )


def _webp(figure: Figure) -> bytes:
    import io

    stream = io.BytesIO()
    figure.savefig(stream, format="webp", dpi=75, pil_kwargs={"quality": 80})
    return stream.getvalue()


def _listed(names: list[str]) -> str:
    return ", ".join(names)
