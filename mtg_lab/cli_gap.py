"""``mtg-lab gap``: the gap between the modalities of a run, or of several side by side, as a table and as pictures."""

from pathlib import Path
from typing import Any

import click


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN...", type=click.Path(path_type=Path))
@click.option("--manifest", default="", metavar="M", help="cohort; empty for the committed phantom")
@click.option("--split", default="test")
@click.option("--voxels", default=60, type=click.IntRange(2), help="per subject and tissue")
@click.option("--scale", default=0, type=click.IntRange(0), help="of the encoders, 0 the finest")
@click.option("--stage", type=click.Choice(["encoder", "decoder"]), help="before or after fusion; by default before")
@click.option("--layer", default="", metavar="NAME", help="a submodule's output to each modality alone instead")
@click.option("--nulls", default=200, type=click.IntRange(0), help="permutations within subjects; 0 for no p-values")
@click.option("--map", "method", default="pca", type=click.Choice(["pca", "umap"]), help="of the latents, one for all")
@click.option("--pictures/--no-pictures", default=True, help="PNG files beside the table")
@click.option("--latents", "kept", type=click.Path(path_type=Path), metavar="FILE", help="keep those of one run there")
@click.option("--out", required=True, type=click.Path(path_type=Path), metavar="gap.csv")
@click.option("--json", "as_json", is_flag=True, help="print JSON instead of text")
def gap(runs: tuple[Path, ...], manifest: str, split: str, voxels: int, scale: int, stage: str | None, layer: str,
        nulls: int, method: str, pictures: bool, kept: Path | None, out: Path, as_json: bool) -> None:  # fmt: skip
    """Measure the gap between the modalities' latents: every measure with interval, null and p-value.

    Several runs, such as ``teacher aligned_teacher``, are measured on the same voxels and drawn on one map.
    """
    import pandas as pd

    from mtg_lab.errors import InputError
    from mtg_lab.files import written_aside
    from mtg_lab.gap import gap as measured
    from mtg_lab.gap import latents, save_latents
    from mtg_lab.manifest import read_manifest
    from mtg_lab.runs import load_run

    if kept and len(runs) > 1:
        raise InputError("--latents keeps the latents of one run; ask for each run by itself")
    if twice := [run for number, run in enumerate(runs) if run in runs[:number]]:
        raise InputError(f"the run {twice[0]} is named twice; name each run once")
    names = [run.name for run in runs]
    if len(set(names)) < len(names):
        names = [str(run) for run in runs]
    cohort = read_manifest(manifest)
    drawn = {
        name: latents(load_run(run), cohort, split, voxels, scale=scale, stage=stage or "", layer=layer)
        for name, run in zip(names, runs, strict=True)
    }
    tables = {name: measured(table, nulls=nulls) for name, table in drawn.items()}
    table = tables[names[0]]
    if len(runs) > 1:
        table = pd.concat([t.assign(run=name)[["run", *t.columns]] for name, t in tables.items()], ignore_index=True)
    shown = _pictures(drawn, tables, method) if pictures else {}
    with written_aside(out) as aside:
        table.to_csv(aside, index=False)
    written = [out]
    if kept:
        written.append(save_latents(drawn[names[0]], kept))
    written += _saved(shown, out)
    click.echo(table.to_json(orient="records", indent=2) if as_json else table.round(3).to_string(index=False))
    for path in written:
        click.echo(str(path), err=as_json)


def _pictures(drawn: dict[str, Any], tables: dict[str, Any], method: str) -> dict[str, tuple[Any, str]]:
    import pandas as pd

    from mtg_lab import figures, figures_gap
    from mtg_lab.errors import InputError
    from mtg_lab.gap import Embedding, complete_pairs, gap_by, gap_matrix, of_unit_spread
    from mtg_lab.latent_tables import z_columns

    sizes = {name: len(z_columns(table)) for name, table in drawn.items()}
    if len(set(sizes.values())) > 1:
        told = ", ".join(f"{name} has {size}" for name, size in sizes.items())
        raise InputError(f"latents of different numbers of channels share no map: {told}; give --no-pictures")
    paired = {name: of_unit_spread(complete_pairs(table)) for name, table in drawn.items()}
    fitted = Embedding(method).fit(pd.concat(paired.values()))
    placed = {name: fitted.transform(table) for name, table in paired.items()}
    measures = ["relative_gap", "centroid_gap"]
    by_tissue = {name: gap_by(table, "tissue", nulls=0, measures=measures) for name, table in drawn.items()}
    matrices = {name: gap_matrix(table, "centroid_gap") for name, table in drawn.items()}
    words = f"Latents on two components ({method.upper()})"
    return {
        "chance": (figures_gap.gap_against_chance(tables), "Each measure of the gap against chance."),
        "tissues": (figures_gap.gap_by_part(by_tissue, "tissue", measures), "The gap tissue by tissue."),
        "pairs": (
            figures_gap.gap_matrices(matrices, measure="centroid gap"), "Centroid gap between every two sequences.",
        ),
        "modality": (figures.embedding(placed, "modality", f"{words}, by sequence"), f"{words}, by sequence."),
        "tissue": (figures.embedding(placed, "tissue", f"{words}, by tissue"), f"{words}, by tissue."),
    }  # fmt: skip


def _saved(shown: dict[str, tuple[Any, str]], out: Path) -> list[Path]:
    from mtg_lab import figures

    return [figures.save(figure, out.parent, f"{out.stem}_{k}", words) for k, (figure, words) in shown.items()]
