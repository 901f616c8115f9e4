"""The command ``mtg-lab``. Thin: each command parses, calls one function of the package and prints where things are.

Exit codes: 0 done, 1 the input is at fault (one line on standard error), 2 wrong usage, 130 interrupted. Heavy modules
are imported inside the commands, so that ``--help`` answers at once.
"""

import contextlib
import os
from pathlib import Path
from typing import Any

import click

from mtg_lab import __version__
from mtg_lab.cli_cache import cache
from mtg_lab.cli_cohort import convert, export, index
from mtg_lab.cli_cohort import pairs as _pairs
from mtg_lab.cli_doctor import doctor
from mtg_lab.cli_evaluate import evaluate
from mtg_lab.cli_gap import gap
from mtg_lab.cli_missing import missing
from mtg_lab.cli_predict import measure, predict
from mtg_lab.cli_report import report
from mtg_lab.cli_sweep import sweep, told
from mtg_lab.errors import InputError, LostProcess
from mtg_lab.launch import LINES


class _Commands(click.Group):
    """Turns an input error into one line and exit code 1, an interruption into 130."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except InputError as fault:
            line = " ".join(str(fault).splitlines())
            if folder := os.environ.get(LINES):  # one of several processes: who started them tells
                if not isinstance(fault, LostProcess):
                    Path(folder, f"{os.environ['RANK']}.txt").write_text(line, encoding="utf-8")
            else:
                click.echo(f"mtg-lab: {line}", err=True)
            ctx.exit(1)
        except KeyboardInterrupt:
            if LINES not in os.environ:
                click.echo("mtg-lab: interrupted; the same command goes on from here", err=True)
            ctx.exit(130)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.version_option(__version__, prog_name="mtg-lab")
def main() -> None:
    """Brain-tumour segmentation with missing MRI sequences: phantom, modality gap, alignment, Dice."""


for _command in (index, export, convert, doctor, missing, cache, evaluate, gap, report, predict, measure, sweep):
    main.add_command(_command)

_MANIFEST = click.option("--manifest", default="", metavar="M", help="cohort; empty for the committed phantom")
_PRESET = click.option("--preset", type=click.Choice(["smoke", "lab", "paper"]), default="lab")


@main.command()
@click.option("--out", type=click.Path(path_type=Path), help="folder of the cohort and its data_manifest.csv")
@click.option("--default", "default", is_flag=True, help="synthesise the committed cohort into the cache instead")
@click.option("--subjects", default=60, type=click.IntRange(1))
@click.option("--seed", default=0)
@click.option("--spacing", default=2.0, metavar="MM", help="voxel size in mm")
@click.option("--protocol", default="standard", type=click.Choice(["standard", "extended"]),
              help="extended adds adc and rcbv to the four sequences")  # fmt: skip
@click.option(
    "--with",
    "ingredients",
    default="",
    metavar="WORDS",
    help="beyond the plain phantom: all, all-artefacts, lesions+scanners; help lists them",
)
@click.option("--workers", default=None, type=click.IntRange(1), help="processes; by default one a core")
def phantom(out: Path | None, default: bool, subjects: int, seed: int, spacing: float, protocol: str,
            ingredients: str, workers: int | None) -> None:  # fmt: skip
    """Write a synthetic cohort: gliomas in four or six sequences, with labels and a manifest."""
    from mtg_lab import phantom as generator
    from mtg_lab.files import make_folder
    from mtg_lab.manifest import read_manifest, write_manifest
    from mtg_lab.progress import progress

    if ingredients == "help":
        for name, words in generator.INGREDIENTS.items():
            click.echo(f"{name:14}{words}{' (not part of all)' if name in generator.OPTIONAL else ''}")
        return
    try:
        generator.chosen_ingredients(ingredients)
    except ValueError as fault:
        raise InputError(str(fault)) from fault
    if default == (out is not None):
        raise click.UsageError("give either --out DIR or --default")
    if default and protocol != "standard":
        raise click.UsageError("the committed cohort has four sequences; give --out DIR with --protocol extended")
    if default and ingredients:
        raise click.UsageError("the committed cohort is the plain phantom; give --out DIR with --with")
    if out is None:
        cohort = read_manifest().materialise(workers)
        click.echo(f"{len(cohort)} subjects of {cohort.path}: {_root(cohort.subjects[0])}")
        return
    try:
        rows = generator.cohort_rows(subjects, seed, spacing, protocol, ingredients)
    except ValueError as fault:
        raise InputError(str(fault)) from fault
    _refuse_other_phantoms(out / "data_manifest.csv", rows)
    make_folder(out)
    try:
        generator.materialise(rows, out, spacing, workers=workers, progress=progress)
    except OSError as fault:
        raise InputError(f"cannot write the phantom to {out} ({fault.strerror or fault}); free space") from fault
    click.echo(str(write_manifest(rows, generator.PROTOCOLS[protocol], out / "data_manifest.csv")))


@main.command()
@_MANIFEST
@click.option("--method", default="dropout", help="dropout, student, passion, ...; an unknown name lists all")
@click.option("--backbone", default="", help="By default the method's usual one: unet for most.")
@_PRESET
@click.option("--teacher", default="", metavar="RUN", help="run folder of the teacher, for --method student")
@click.option(
    "--start", default="", metavar="RUN", help="run to begin with (fine-tuning): its network, voxel size and crops"
)
@click.option("--seed", default=0, type=click.IntRange(0))
@click.option("--set", "changes", multiple=True, metavar="KEY=VALUE", help="e.g. steps=500 or method.align_weight=1")
@click.option(
    "--missing",
    default="",
    metavar="RULE",
    help="who lacks what in the training split: a table (missing.csv) "
    "or a rule as in 'mtg-lab missing --help'; also --set missing.rule=uniform --set missing.seed=3",
)
@click.option("--workers", default=0, type=click.IntRange(0), help="processes that prepare samples")
@click.option("--devices", default=1, type=click.IntRange(1), help="processes that share each batch, one a GPU")
@click.option("--accumulate", default=1, type=click.IntRange(1), help="parts of a share, one after another")
@click.option("--out", required=True, type=click.Path(path_type=Path), metavar="RUN")
@click.pass_context
def train(ctx: click.Context, manifest: str, method: str, backbone: str, preset: str, teacher: str, start: str,
          seed: int, changes: tuple[str, ...], missing: str, workers: int, devices: int, accumulate: int,
          out: Path) -> None:  # fmt: skip
    """Train a network; an interrupted run is resumed by the same command, a finished one is not repeated."""
    if devices > 1:
        from mtg_lab.launch import launch

        return launch(["train", *_said(ctx, but="devices")], devices)

    from mtg_lab import training
    from mtg_lab.notebook_parameters import literal

    options: dict[str, Any] = {"teacher": _kept(training.load_run(teacher)).recipe} if teacher else {}
    if missing:
        from mtg_lab.missingness import Missingness

        options["missing"] = Missingness.parse(missing).to_json()
    settings = {name: literal(text) for name, text in _pairs(changes, "--set").items()}
    if start and backbone:
        raise click.UsageError("--start brings its own network; leave --backbone out")
    named = {"backbone": backbone} if backbone else {}
    recipe = training.preset(preset, method, manifest, seed, **named, **options)
    if start:
        recipe = training.begun_with(recipe, training.load_run(start))
    run = training.train(training.override(recipe, settings), out, workers=workers, accumulate=accumulate)
    training.leave_processes()
    click.echo(f"{run.folder}: {run.environment['seconds']:.0f} s on {run.environment['device']}, "
               f"final loss {run.history['loss'].tail(20).mean():.3f}")  # fmt: skip


@main.command()
@click.argument("notebooks", nargs=-1)
@_PRESET
@click.option("-p", "parameters", nargs=2, multiple=True, metavar="NAME VALUE", help="a notebook parameter; repeatable")
@click.option("--manifest", type=click.Path(path_type=Path), help="another cohort than the phantom")
@click.option("--out", required=True, type=click.Path(path_type=Path), metavar="DIR")
def run(notebooks: tuple[str, ...], preset: str, parameters: tuple[tuple[str, str], ...], manifest: Path | None,
        out: Path) -> None:  # fmt: skip
    """Execute notebooks headless (all, or those named: 03, 03_modality_gap), with HTML and an index page."""
    from mtg_lab import notebooks as runner

    given = [Path(n) for n in notebooks]
    paths = given if given and all(p.is_file() for p in given) else None
    outcomes = runner.run_notebooks(
        paths or runner.find_notebooks(notebooks, runner.default_folder()), out, preset=preset,
        parameters=runner.parse_parameters(parameters), manifest=manifest,
    )  # fmt: skip
    told(outcomes, out)


def _refuse_other_phantoms(manifest: Path, rows: list[dict[str, Any]]) -> None:
    """Files are not made again where they are, so they must be those of the same patients."""
    from mtg_lab.manifest import read_manifest

    if not manifest.is_file():
        return
    there = {s.name: (s.seed, s.site, "+".join(s.ingredients)) for s in read_manifest(manifest)}
    for row in rows:
        asked = (row["seed"], row["site"], row.get("ingredients", ""))
        if there.get(row["subject"], asked) != asked:
            raise InputError(
                f"{manifest.parent} holds another cohort ({row['subject']} of seed {there[row['subject']][0]}, with "
                f"{there[row['subject']][2] or 'no ingredients'}); choose another --out"
            )


def _said(ctx: click.Context, but: str) -> list[str]:
    """What was said on the command line, with one option left out."""
    words: list[str] = []
    for parameter in ctx.command.params:
        name, value = str(parameter.name), ctx.params.get(str(parameter.name))
        if name == but or ctx.get_parameter_source(name) is not click.core.ParameterSource.COMMANDLINE:
            continue
        for one in value if isinstance(value, tuple) else (value,):
            words += [parameter.opts[-1], str(one)]
    return words


def _kept(run: Any) -> Any:
    """``run``, with a copy of its folder where training looks for teachers: by its hash, in the cache."""
    import shutil
    import tempfile

    from mtg_lab.files import cache_folder, make_folder

    place = cache_folder("runs", run.digest)
    if run.recipe.digest() != run.digest:
        raise InputError(
            f"the run {run.folder} was trained on other data or by another version; train the teacher again"
        )
    if not (place / "weights.safetensors").is_file():
        with tempfile.TemporaryDirectory(dir=make_folder(place.parent), prefix=".aside-") as aside:
            try:
                copy = shutil.copytree(run.folder, Path(aside) / place.name)
            except OSError as fault:
                raise InputError(
                    f"cannot copy the teacher {run.folder} to {place}; mend the rights or free space"
                ) from fault
            with contextlib.suppress(OSError):  # another process was faster, or an interrupted training lies there
                copy.rename(place)
    return run


def _root(subject: Any) -> Path:
    return next(iter(subject.images.values())).parents[1]
