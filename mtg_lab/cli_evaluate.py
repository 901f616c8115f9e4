"""``mtg-lab evaluate``: a run's scores on every subset of modalities, with the protocol they were made under."""

import json
import sys
from pathlib import Path
from typing import Any

import click

from mtg_lab.cli_cohort import pairs
from mtg_lab.errors import InputError


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--manifest", default="", metavar="M", help="cohort; empty for the committed phantom")
@click.option("--split", default="test")
@click.option("--metrics", default="dice", metavar="NAME,...", help="e.g. dice,hd95,nsd,lesion_dice; all for every one")
@click.option(
    "--set",
    "changes",
    multiple=True,
    metavar="KEY=VALUE",
    help="what a metric leaves open: hd95=max_of_directed|pooled|surface_weighted, "
    "hd95_empty=zero|one|diagonal|374|nan, nsd_mm=1, nsd=voxels|surface_weighted, lesions=GLI|SSA|PED|MEN|MET, "
    "ece_bins=15",
)
@click.option("--remove", "removals", multiple=True, metavar="REGION:MM3",
              help="score the region once more without smaller components: ET:500 adds ETpp; repeatable")  # fmt: skip
@click.option("--subset", "named", multiple=True, help="e.g. t1c+t2f; repeatable; by default see --subsets")
@click.option(
    "--subsets", default="63", metavar="N|all", help="score all where there are N at most, else a sample of N"
)
@click.option("--window", type=click.IntRange(0), help="edge in voxels, best a multiple of 8; 0 the whole volume")
@click.option("--empty", default="one", help="overlap where the reference is empty: one or nan")
@click.option("--out", required=True, type=click.Path(path_type=Path), metavar="scores.csv")
@click.option("--json", "as_json", is_flag=True, help="print JSON instead of text")
def evaluate(run: Path, manifest: str, split: str, metrics: str, changes: tuple[str, ...], removals: tuple[str, ...],
             named: tuple[str, ...], subsets: str, window: int | None, empty: str, out: Path,
             as_json: bool) -> None:  # fmt: skip
    """Score a run on every subset of modalities; a tidy CSV with its protocol beside it."""
    from mtg_lab import evaluation
    from mtg_lab.manifest import read_manifest
    from mtg_lab.metrics import METRICS, choose_metrics
    from mtg_lab.runs import load_run

    if not (subsets == "all" or subsets.isdecimal()):
        raise click.UsageError(f"--subsets {subsets}: give a number, or all")
    most = sys.maxsize if subsets == "all" else int(subsets)
    chosen = METRICS if metrics == "all" else choose_metrics([name.strip() for name in metrics.split(",")])
    table = evaluation.evaluate(
        load_run(run), read_manifest(manifest), split, chosen, settings=_settings(pairs(changes, "--set")),
        removals=removals, subsets=named or None, most_subsets=most, window=window, empty=empty, out=out,
    )  # fmt: skip
    means = table.pivot_table(index="subset", columns=["metric", "region"], values="value", sort=False)
    # A mean that does not exist is null, JSON knows no NaN.
    plain = {m: json.loads(means[m].to_json(orient="index")) for m in chosen if m in means}
    if as_json:
        mean = plain[chosen[0]] if len(chosen) == 1 else plain
        click.echo(json.dumps({"protocol": table.attrs["protocol"], "mean": mean}, indent=2))
        return
    for metric in plain:
        if len(chosen) > 1:
            click.echo(metric)
        click.echo(means[metric].round(3).to_string())
    click.echo(str(evaluation.Protocol.from_json(table.attrs["protocol"])))
    click.echo(str(out))


def _settings(changes: dict[str, str]) -> Any:
    """Settings of the metrics from the words of the command line."""
    from dataclasses import asdict

    from mtg_lab.metrics import MetricSettings

    kinds: dict[str, type] = {name: type(usual) for name, usual in asdict(MetricSettings()).items()}
    values: dict[str, Any] = {}
    for name, text in changes.items():
        if name not in kinds:
            raise InputError(f"no metric has the setting {name!r}; there are: {', '.join(kinds)}")
        try:
            values[name] = kinds[name](text)
        except ValueError as fault:
            raise InputError(f"--set {name}={text}: give a number") from fault
    return MetricSettings(**values)
