"""The command ``mtg-lab predict``: one patient from any sequences, or every subject of a cohort."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from mtg_lab.runs import Run


@click.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--mask", default="", help="brain mask, where the background is not zero")
@click.option("--manifest", type=click.Path(path_type=Path), help="instead of one patient: every subject of a cohort")
@click.option("--split", default="", help="of the manifest: train, val or test; all without it")
@click.option("--probabilities", is_flag=True, help="also NAME.probabilities.nii.gz, a volume a region")
@click.option("--overlay", is_flag=True, help="also NAME.png, the outlines over the sequences")
@click.option("--remove", "removals", multiple=True, metavar="REGION:MM3",
              help="take components smaller than that out of a region: ET:500; repeatable")  # fmt: skip
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), metavar="mask.nii.gz", help="DIR with --manifest"
)
@click.pass_context
def predict(ctx: click.Context, run: Path, mask: str, manifest: Path | None, split: str, probabilities: bool,
            overlay: bool, removals: tuple[str, ...], out: Path) -> None:  # fmt: skip
    """Segment one patient from any sequences: --t1c a.nii.gz --t2f b.nii.gz; the mask is in the input's own grid.

    RUN is a run's folder, or the name of a network that comes with mtg_lab: nobody, student. Beside the mask lies
    NAME.json: subset, volumes in ml, protocol, warnings.
    """
    from mtg_lab.patients import nifti_stem, segment, write_segmented
    from mtg_lab.runs import load_run
    from mtg_lab.vocabulary import canonical_modality

    words = [part for word in ctx.args for part in (word.split("=", 1) if word.startswith("--") else [word])]
    if len(words) % 2 or not all(name.startswith("--") for name in words[::2]):
        raise click.UsageError("give each sequence as --NAME FILE, for example --t1c a.nii.gz")
    names = [name.removeprefix("--") for name in words[::2]]
    images: dict[str, Any] = dict(zip(names, words[1::2], strict=True))
    if len(images) < len(names):
        raise click.UsageError("a sequence is given twice; keep one file of each")
    if manifest is not None and (images or mask):
        raise click.UsageError("give either the files of one patient or --manifest")
    if split and manifest is None:
        raise click.UsageError("--split goes with --manifest")
    trained = load_run(run)
    if manifest is not None:
        _predict_cohort(trained, manifest, split, out, probabilities, overlay, removals)
        return
    trained.check_modalities(tuple(map(canonical_modality, names)), "the patient")
    nifti_stem(out)  # refused before anything is computed
    found = segment(trained, mask=mask or None, removals=removals, **images)
    for path in write_segmented(found, out, trained.schema.labels, probabilities, overlay):
        click.echo(str(path))
    for warning in found.report["warnings"]:
        click.echo(f"warning: {warning}", err=True)


@click.command("reliability")
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--manifest", default="", help="cohort with a split that the training has not seen; the phantom without it"
)
@click.option("--split", default="val", help="val or test")
@click.option("--least-dice", default=0.5, help="below this mean Dice a region is not to be trusted")
@click.option("--most-drop", default=0.1, help="nor where it surely loses this much against all sequences")
def measure(run: Path, manifest: str, split: str, least_dice: float, most_drop: float) -> None:
    """Measure which region is not to be trusted without which sequence, and keep it beside the run for predict."""
    from mtg_lab import reliability
    from mtg_lab.manifest import read_manifest
    from mtg_lab.runs import load_run

    trained = load_run(run)
    rule = reliability.TrustRule(least_dice=least_dice, most_drop=most_drop)
    found = reliability.measure_reliability(trained, read_manifest(manifest), split, rule)
    distrusted = found.table[found.table["trusted"].eq(False)]
    click.echo(f"{len(distrusted)} of {len(found.table)} pairs of subset and region are not to be trusted")
    click.echo(str(reliability.save(found, trained)))


def _predict_cohort(trained: "Run", manifest: Path, split: str, out: Path, probabilities: bool, overlay: bool,
                    removals: tuple[str, ...]) -> None:  # fmt: skip
    import pandas as pd

    from mtg_lab.files import written_aside
    from mtg_lab.manifest import read_manifest
    from mtg_lab.patients import segment_cohort

    cohort = read_manifest(manifest)
    rows, again = [], 0
    for subject, report, computed in segment_cohort(
        trained, cohort.split(split) if split else cohort, out, probabilities, overlay, removals
    ):
        again += not computed
        volumes = {f"{region}_ml": value for region, value in report["volumes_ml"].items()}
        rows.append(
            {"subject": subject, "subset": report["subset"], **volumes, "warnings": "; ".join(report["warnings"])}
        )
    with written_aside(out / "volumes.csv") as aside:
        pd.DataFrame(rows).to_csv(aside, index=False)
    click.echo(f"{len(rows)} subjects ({again} were there already), volumes in {out / 'volumes.csv'}")
