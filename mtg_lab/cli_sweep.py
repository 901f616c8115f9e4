"""``mtg-lab sweep``: many notebooks or many recipes, on this machine, a Dask cluster or SLURM."""

import sys
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import click

from mtg_lab.cli_cohort import pairs
from mtg_lab.errors import InputError


@click.command()
@click.argument("sweep_file", metavar="SWEEP.yaml", type=click.Path(path_type=Path))
@click.option("--workers", default=0, type=click.IntRange(0), help="runs at a time here; 0: one a GPU or two cores")
@click.option("--threads", default=1, type=click.IntRange(1), help="processor threads of a run")
@click.option("--scheduler", default="", metavar="ADDRESS", help="of a running Dask cluster instead, tcp://...")
@click.option(
    "--slurm",
    multiple=True,
    metavar="KEY=VALUE",
    help="a SLURM job a run instead, by submitit: slurm_partition=gpu, gpus_per_node=1, timeout_min=240",
)
@click.option("--out", required=True, type=click.Path(path_type=Path), metavar="DIR")
def sweep(sweep_file: Path, workers: int, threads: int, scheduler: str, slurm: tuple[str, ...], out: Path) -> None:
    """Train and score recipes, or execute one notebook, over a grid.

    The file has `grid`: lists of values by name, or a list of points; perhaps `preset`, `manifest`, and `split`. With
    `notebook` the names are its parameters. Without, they are method, backbone, seed, teacher, missing and the
    settings of `mtg-lab train --set`. The same command goes on with what is not done; 13_report shows the results.
    """
    from mtg_lab import clusters, sweeps
    from mtg_lab import notebooks as runner
    from mtg_lab.notebook_parameters import literal

    if bool(scheduler) and bool(slurm):
        raise click.UsageError("give --scheduler or --slurm, not both")
    asked = runner.read_sweep(sweep_file)
    options = {name: literal(text) for name, text in pairs(slurm, "--slurm").items()}
    place: AbstractContextManager[Any] = clusters.workers_here(workers, threads)
    if scheduler:
        place = clusters.dask_cluster(scheduler)
    elif slurm:
        place = clusters.slurm_jobs(out / "slurm", options)
    if asked.notebook:
        with place as executor:
            told(runner.run_grid(asked.notebook, asked.points, out, executor, preset=asked.preset,
                                 manifest=asked.manifest), out)  # fmt: skip
        return
    try:
        recipes = sweeps.recipes_of(asked.points, asked.preset, asked.manifest or "")
    except InputError as fault:
        raise InputError(f"{sweep_file}: {fault}") from fault
    with place as executor:
        table = sweeps.sweep(recipes, out, executor, split=asked.split, threads=threads)
    shown = [c for c in table.columns if str(c).startswith("dice")]
    click.echo(table.set_index(["arm", "seed"])[[*shown, "seconds_per_step"]].round(3).to_string() if shown else "")
    failed = table[table["status"] != "done"]
    for line in failed.itertuples():
        click.echo(f"mtg-lab: {line.arm}, seed {line.seed} failed: {line.error}", err=True)
    click.echo(f"{out / 'runs.csv'}: {len(table) - len(failed)} of {len(recipes)} runs done")
    sys.exit(1 if len(failed) or len(table) < len(recipes) else 0)


def told(outcomes: Any, out: Path) -> None:
    """Say where the pages are and what failed, and leave with 0 or 1."""
    click.echo(f"open {(out / 'index.html').resolve().as_uri()}")
    failed = [o for o in outcomes if o.status != "done"]
    for outcome in failed:
        where = f", cell {outcome.cell}" if outcome.cell else ""
        click.echo(f"mtg-lab: {outcome.notebook}{where} {outcome.status}: {outcome.message}", err=True)
    sys.exit(1 if failed else 0)
