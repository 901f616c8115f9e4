"""The command ``mtg-lab missing``: a rule of missingness written down as a table, counted and drawn."""

from pathlib import Path
from typing import Any

import click


@click.command()
@click.argument("manifest", default="")
@click.option("--rule", required=True, metavar="RULE", help="see above, or a table: missing.csv")
@click.option(
    "--rates",
    default="",
    show_default=False,
    metavar="LIST",
    help="e.g. t1n=.2,t1c=.4: the same as behind the rule's colon",
)
@click.option("--seed", default=1037, type=click.IntRange(0))
@click.option(
    "--split",
    default="",
    show_default=False,
    help="train, val, test or all; by default train, all where no row has a split",
)
@click.option("--out", required=True, type=click.Path(path_type=Path), metavar="missing.csv")
@click.option("--png", is_flag=True, help="draw it as well: OUT with .png, and -subjects.png")
def missing(manifest: str, rule: str, rates: str, seed: int, split: str, out: Path, png: bool) -> None:
    """Write down who lacks what under a rule, and count it.

    \b
    Rules:
      complete                                  nobody lacks anything
      subset:t1n+t2w                            everybody has this subset
      uniform                                   a subset each, all equally likely
      independent:t1n=.2,t1c=.4                 each missing at its rate, never all
      imbalanced:t1n=.2,t1c=.4,t2f=.6,t2w=.8    PASSION's published files
      imbalanced:mr2468                         the same by the file's name
      site:B=-t1c,C=t1n+t2w                     B lacks t1c, C has two
      case:modality=t1c,rate=.5,slope=2         large tumours have t1c more often
    """
    from mtg_lab import missingness
    from mtg_lab.manifest import read_manifest

    chosen = missingness.Missingness.parse(f"{rule}:{rates}" if rates else rule, seed)
    cohort = read_manifest(manifest)
    part = split or ("train" if any(s.split for s in cohort) else "all")
    pattern = chosen.pattern(cohort, "" if part == "all" else part)
    missingness.save_pattern(pattern, out, chosen.to_json())
    modalities, sizes = missingness.counts(pattern)
    click.echo(f"{chosen}: {len(pattern)} subjects ({part})")
    click.echo(modalities.round(3).to_string())
    click.echo("subjects with " + ", ".join(f"{n}: {count}" for n, count in sizes.items()) + " modalities")
    click.echo(str(out))
    if png:
        _draw_missing(cohort, pattern, str(chosen), out)


def _draw_missing(cohort: Any, pattern: Any, title: str, out: Path) -> None:
    from mtg_lab.figures import save
    from mtg_lab.figures_missingness import subject_matrix, upset

    sites = [cohort[name].site for name in pattern.index]
    pictures = {
        out.stem: (upset(pattern, title), "How many subjects have which combination of modalities."),
        f"{out.stem}-subjects": (subject_matrix(pattern, sites, title=title), "Which subject has which modality."),
    }
    for name, (figure, words) in pictures.items():
        click.echo(str(save(figure, out.parent, name, words)))
