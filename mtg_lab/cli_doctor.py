"""``mtg-lab doctor``: findings as lines, as JSON, or as a page with pictures."""

import json
import sys
from pathlib import Path

import click


@click.command()
@click.argument("manifest", default="")
@click.option("--json", "as_json", is_flag=True, help="print JSON instead of text")
@click.option("--html", type=click.Path(path_type=Path), metavar="report.html", help="also a page with pictures")
@click.option("--strict", is_flag=True, help="warnings fail as well")
@click.option("--workers", default=None, type=click.IntRange(1), help="threads; by default one a core")
def doctor(manifest: str, as_json: bool, html: Path | None, strict: bool, workers: int | None) -> None:
    """Examine a manifest and its files: one line a finding; exit code 1 if any is an error."""
    from dataclasses import asdict

    from mtg_lab.doctor import check
    from mtg_lab.findings import counted, told

    if html is not None:
        from mtg_lab import doctor_report
        from mtg_lab.files import make_folder

        make_folder(html.parent)  # before the files are read
        checkup = check(manifest, workers, doctor_report.draw)
        doctor_report.write(checkup, html)
    else:
        checkup = check(manifest, workers)
    cohort, findings = checkup.manifest, checkup.findings
    if as_json:
        click.echo(json.dumps([asdict(f) for f in findings], indent=2))
    else:
        for line in told(findings):
            click.echo(line)
        faulty = any(f.severity != "note" for f in findings)
        click.echo(f"{cohort.path}: {len(cohort)} subjects, {', '.join(cohort.modalities)}; "
                   f"{'' if faulty else 'nothing to mend; '}{counted(findings)}")  # fmt: skip
    if html is not None:
        click.echo(f"open {html.resolve().as_uri()}", err=as_json)
    failing = ("error", "warning") if strict else ("error",)
    sys.exit(1 if any(f.severity in failing for f in findings) else 0)
