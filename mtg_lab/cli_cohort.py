"""Commands that turn cohorts from one layout into another: index, export, convert; thin, see :mod:`mtg_lab.cli`."""

from pathlib import Path

import click

from mtg_lab.errors import InputError


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), default=Path("data_manifest.csv"))
@click.option("--schema", default="", help="label schema or its .json, where names do not tell it")
@click.option(
    "--modality",
    "patterns",
    multiple=True,
    metavar="NAME=PATTERN",
    help="e.g. t1c='*T1POST*'; NAME alone, in order, for a datalist without names; repeatable",
)
@click.option("--label", default="", metavar="PATTERN", help="label files, with --modality")
@click.option("--mask", default="", metavar="PATTERN", help="brain masks, with --modality")
@click.option(
    "--split",
    default="",
    metavar="TRAIN:VAL:TEST",
    show_default="the folder's own, else 60:15:25",
    help="shares of the subjects",
)
@click.option("--seed", default=0, help="of the split")
def index(folder: Path, out: Path, schema: str, patterns: tuple[str, ...], label: str, mask: str, split: str,
          seed: int) -> None:  # fmt: skip
    """Write a manifest for a folder of scans.

    Recognised: BraTS 2017-2024 of every kind, FeTS, the Decathlon's Task01, nnU-Net v2 raw folders, MONAI datalists
    (FOLDER may be the .json), ISLES 2022 and MyoPS 2020; anything else by patterns.
    """
    from mtg_lab.indexing import index_folder

    named = any("=" in p for p in patterns)
    found = index_folder(folder, schema=schema, patterns=pairs(patterns, "--modality") if named else None,
                         order=() if named else patterns, label=label, mask=mask, shares=split, seed=seed)  # fmt: skip
    found.write(out)
    click.echo(f"{found.told()}\n{out}; next: mtg-lab doctor {out}")


@click.command()
@click.argument("manifest")
@click.option("--to", "layout", required=True, type=click.Choice(["nnunet", "monai"]))
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path),
    help="nnunet: a new folder, nnUNet_raw/DatasetNNN_NAME; monai: a folder or a .json",
)
@click.option("--copy", is_flag=True, help="copy the scans instead of linking them (nnunet)")
@click.option("--fill-zeros", is_flag=True, help="write zeros for absent modalities, which are refused otherwise")
def export(manifest: str, layout: str, out: Path, copy: bool, fill_zeros: bool) -> None:
    """Write a cohort as an nnU-Net v2 raw folder or as a MONAI datalist; 'mtg-lab index' reads both back."""
    from mtg_lab import exporting
    from mtg_lab.manifest import read_manifest

    cohort = read_manifest(manifest)
    if layout == "monai":
        if copy:
            raise click.UsageError("--copy is for nnunet; a datalist names the scans where they are")
        written = exporting.export_monai(cohort, out, fill_zeros=fill_zeros)
    else:
        written = exporting.export_nnunet(cohort, out, copy=copy, fill_zeros=fill_zeros)
        if any(s.mask for s in cohort):
            click.echo("note: nnU-Net has no place for brain masks; they are left out", err=True)
    click.echo(str(written))


@click.command()
@click.argument("manifest")
@click.option("--schema", required=True, help="the labels' new schema, or 'consecutive' for 1, 2, ... n")
@click.option("--out", required=True, type=click.Path(path_type=Path), metavar="DIR", help="a new folder")
def convert(manifest: str, schema: str, out: Path) -> None:
    """Write a cohort's labels in another schema; its scans stay where they are."""
    from mtg_lab.exporting import convert_labels
    from mtg_lab.manifest import read_manifest

    click.echo(str(convert_labels(read_manifest(manifest), schema, out)))


def pairs(texts: tuple[str, ...], option: str) -> dict[str, str]:
    """NAME=VALUE of a repeated option as a mapping."""
    for text in texts:
        if "=" not in text:
            raise click.UsageError(f"{option} {text}: write it as NAME=VALUE")
    pairs = [text.split("=", 1) for text in texts]
    for name, _ in pairs:
        if [n for n, _ in pairs].count(name) > 1:
            raise InputError(f"{option} {name}: given twice; keep one of them")
    return dict(pairs)
