"""``mtg-lab gap``: the gap between a run's modalities as a table and as pictures."""

from pathlib import Path
from typing import Any

import click


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--manifest", default="", metavar="M", help="cohort; empty for the committed phantom")
@click.option("--split", default="test")
@click.option("--voxels", default=60, type=click.IntRange(2), help="per subject and tissue")
@click.option("--scale", default=0, type=click.IntRange(0), help="of the encoders, 0 the finest")
@click.option("--stage", type=click.Choice(["encoder", "decoder"]), help="before or after fusion; by default before")
@click.option("--layer", default="", metavar="NAME", help="a submodule's output to each modality alone instead")
@click.option("--nulls", default=200, type=click.IntRange(0), help="permutations within subjects; 0 for no p-values")
@click.option("--pictures/--no-pictures", default=True, help="PNG files beside the table")
@click.option("--latents", "kept", type=click.Path(path_type=Path), metavar="FILE", help="keep the latents there too")
@click.option("--out", required=True, type=click.Path(path_type=Path), metavar="gap.csv")
@click.option("--json", "as_json", is_flag=True, help="print JSON instead of text")
def gap(run: Path, manifest: str, split: str, voxels: int, scale: int, stage: str | None, layer: str, nulls: int,
        pictures: bool, kept: Path | None, out: Path, as_json: bool) -> None:  # fmt: skip
    """Measure the gap between the modalities' latents: every measure with interval, null and p-value."""
    from mtg_lab.files import written_aside
    from mtg_lab.gap import gap as measured
    from mtg_lab.gap import latents, save_latents
    from mtg_lab.manifest import read_manifest
    from mtg_lab.runs import load_run

    found = load_run(run)
    drawn = latents(found, read_manifest(manifest), split, voxels, scale=scale, stage=stage or "", layer=layer)
    table = measured(drawn, nulls=nulls)
    with written_aside(out) as aside:
        table.to_csv(aside, index=False)
    written = [out]
    if kept:
        written.append(save_latents(drawn, kept))
    if pictures:
        written += _pictures(drawn, table, found.recipe.method, out)
    click.echo(table.to_json(orient="records", indent=2) if as_json else table.round(3).to_string(index=False))
    for path in written:
        click.echo(str(path), err=as_json)


def _pictures(drawn: Any, table: Any, name: str, out: Path) -> list[Path]:
    from mtg_lab import figures, figures_gap
    from mtg_lab.gap import Embedding, complete_pairs, gap_by, gap_matrix

    paired = complete_pairs(drawn)
    placed = Embedding("pca").fit(paired).transform(paired)
    by_tissue = gap_by(drawn, "tissue", nulls=0, measures=["relative_gap", "centroid_gap"])
    matrix = gap_matrix(drawn, "centroid_gap")
    shown = {
        "chance": (figures_gap.gap_against_chance({name: table}), "Each measure of the gap against chance."),
        "tissues": (
            figures_gap.gap_by_part({name: by_tissue}, "tissue", ["relative_gap", "centroid_gap"]),
            "The gap tissue by tissue.",
        ),
        "pairs": (
            figures_gap.gap_matrices({name: matrix}, measure="centroid gap"),
            "Centroid gap between every two sequences.",
        ),
        "modality": (figures.embedding({"PCA": placed}, "modality"), "Latents on two components, by sequence."),
        "tissue": (figures.embedding({"PCA": placed}, "tissue"), "The same latents, by tissue."),
    }
    return [figures.save(figure, out.parent, f"{out.stem}_{k}", words) for k, (figure, words) in shown.items()]
