"""``mtg-lab report``: scores of one or several runs as one page, with pictures, tables and single cases."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mtg_lab.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

    from mtg_lab.cases import Case
    from mtg_lab.manifest import Manifest
    from mtg_lab.runs import Run

_Scores = dict[str, dict[int, "pd.DataFrame"]]


@click.command()
@click.argument("sources", nargs=-1, required=True, metavar="[NAME=]RUN...")
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), metavar="DIR", help="of index.html and its files"
)
@click.option("--manifest", default="", metavar="M", help="cohort; empty for the committed phantom")
@click.option("--split", default="test")
@click.option(
    "--metrics", default="dice", metavar="NAME,...", help="the report is about the first; all others in a table"
)
@click.option("--case", "subsets", multiple=True, metavar="SUBSET",
              help="draw cases from it; repeatable; by default all sequences and the worst subset")  # fmt: skip
@click.option("--cases/--no-cases", default=True, help="draw every case; the points of the scatter lead to it")
def report(sources: tuple[str, ...], out: Path, manifest: str, split: str, metrics: str, subsets: tuple[str, ...],
           cases: bool) -> None:  # fmt: skip
    """Score runs on every subset, compare them, and write one HTML page that needs no network.

    RUN is a run's folder, the name of a network that comes with mtg_lab (nobody), or a scores.csv of 'mtg-lab
    evaluate'. Runs of one NAME are trainings of one method that differ in their seed. The others are compared with the
    first. What is scored already under DIR is not scored again.
    """
    from mtg_lab.manifest import read_manifest
    from mtg_lab.metrics import choose_metrics
    from mtg_lab.report import write_report
    from mtg_lab.statistics import paired_tests, verdicts

    cohort = read_manifest(manifest)
    names = [name.strip() for name in metrics.split(",")]
    wanted, metric = choose_metrics(names), names[0]
    scores, trained = _gathered(sources, cohort, split, wanted, out)
    drawn: Iterable[Case] = ()
    if cases and list(trained) == list(scores):
        drawn = _drawn(scores, trained, cohort, split, metric, subsets)
    elif subsets:
        raise click.UsageError("--case needs runs that can be run again: no --no-cases, and no scores.csv among them")
    about = {
        name: "; ".join(f"{r.recipe.method} on {r.recipe.backbone}, seed {r.recipe.seed}, run {r.digest}" for r in runs)
        for name, runs in trained.items()
    }
    page = write_report(scores, out, metric, drawn, about)
    if len(scores) > 1:
        for line in verdicts(paired_tests(scores, metric=metric), metric):
            click.echo(line)
    click.echo(str(page))


def _gathered(
    sources: Sequence[str], cohort: "Manifest", split: str, metrics: Sequence[str], out: Path
) -> tuple[_Scores, "dict[str, list[Run]]"]:
    """Scores by method and seed, and the runs of those methods that were given as runs."""
    from mtg_lab.evaluation import evaluate, read_scores
    from mtg_lab.runs import load_run

    scores: _Scores = {}
    trained: dict[str, list[Run]] = {}
    for word in sources:  # all of them before the first is scored: a mistake in the last should not cost minutes
        name, source = _named(word)
        if source.endswith(".csv"):
            tables = scores.setdefault(name, {})
            tables[len(tables)] = read_scores(source)
            continue
        run = load_run(source)
        if run.recipe.seed in [r.recipe.seed for r in trained.get(name, ())]:
            raise InputError(
                f"{name} has two runs of seed {run.recipe.seed}; give the second another name: OTHER={source}"
            )
        scores.setdefault(name, {})
        trained.setdefault(name, []).append(run)
    for name, runs in trained.items():
        for run in runs:
            kept = out / "scores" / f"{run.digest}.csv"
            table = _scored(kept, cohort, split, metrics)
            if table is None:
                table = evaluate(run, cohort, split, metrics, out=kept)
            scores[name][run.recipe.seed] = table
    return scores, trained


def _named(word: str) -> tuple[str, str]:
    """NAME and RUN; without a NAME that of the folder or file."""
    name, sign, source = word.partition("=")
    if sign and name and not Path(word).exists():
        return name, source
    path = Path(word)
    return (path.resolve().name if path.is_dir() else path.stem), word


def _scored(kept: Path, cohort: "Manifest", split: str, metrics: Sequence[str]) -> "pd.DataFrame | None":
    """What an earlier call has scored, if it is of the same patients; a damaged file is scored again."""
    from mtg_lab.evaluation import Protocol, read_scores

    try:
        table = read_scores(kept)
    except InputError:
        return None
    protocol = Protocol.from_json(table.attrs["protocol"])
    same = (protocol.cohort, protocol.split) == (cohort.split(split).fingerprint(), split)
    return table if same and protocol.metric == ",".join(metrics) else None


def _drawn(
    scores: _Scores, trained: "Mapping[str, Sequence[Run]]", cohort: "Manifest", split: str, metric: str,
    subsets: Sequence[str],
) -> "Iterable[Case]":  # fmt: skip
    from mtg_lab.cases import predicted_cases
    from mtg_lab.subset_statistics import worst_subset

    first = next(iter(scores.values()))
    if not subsets:
        largest = max(dict.fromkeys(next(iter(first.values()))["subset"]), key=lambda name: name.count("+"))
        worst = str(worst_subset(first, metric)["subset"].iloc[-1])
        subsets = list(dict.fromkeys([largest, worst]))
    return predicted_cases({name: runs[0] for name, runs in trained.items()}, cohort, split, subsets)
