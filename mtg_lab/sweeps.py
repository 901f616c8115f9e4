"""Many recipes, wherever they are computed: each trained and scored once, faults told, results in one tidy folder."""

import json
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import closing
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import pandas as pd

from mtg_lab.comparison import conduct
from mtg_lab.errors import InputError
from mtg_lab.files import cache_folder, make_folder, write_text, written_aside
from mtg_lab.manifest import Manifest, read_manifest
from mtg_lab.manifest_files import find_manifest
from mtg_lab.missingness import Missingness
from mtg_lab.progress import progress
from mtg_lab.protocol import check_comparable, protocol_attrs, read_scores, save_scores
from mtg_lab.recipes import Recipe, override, preset
from mtg_lab.runs import Run
from mtg_lab.score_stream import stream_file

_OWN = ("method", "backbone", "seed", "missing", "teacher")
_FACTS = ("seconds", "seconds_per_step", "peak_memory_mb", "processes", "device_name")

RunKey = tuple[str, int]  # arm, seed


def recipes_of(
    points: Sequence[Mapping[str, object]], scale: str = "lab", manifest: str | Path = ""
) -> dict[RunKey, Recipe]:
    """The recipes of a sweep's points.

    Args:
        points: each names ``method``, ``backbone``, ``seed``, ``missing`` (a rule in words), ``teacher`` (the method
            that trains one, with the same seed and settings) and any setting of ``mtg-lab train --set``, or nothing of
            that; what it does not name is the preset's.
        scale: the preset.
        manifest: of the cohort; empty for the committed phantom.

    Returns:
        Recipes by arm and seed. An arm is called by its method and by what else differs between the points.

    Raises:
        InputError: an unknown name or value, or the same arm and seed twice.
    """
    path = str(find_manifest(manifest).resolve()) if str(manifest) else ""  # workers have folders of their own
    recipes: dict[RunKey, Recipe] = {}
    names = dict.fromkeys(name for point in points for name in point)
    differing = [n for n in names if n not in ("method", "seed") and len({repr(p.get(n)) for p in points}) > 1]
    for point in points:
        recipe = _recipe(point, scale, path)
        words = [f"{n.rpartition('.')[2]}={point[n]}" for n in differing if n in point]
        key = (" ".join([recipe.method, *words]), recipe.seed)
        if key in recipes:
            raise InputError(f"the sweep has {key[0]} with seed {key[1]} twice; leave one out")
        recipes[key] = recipe
    return recipes


def _recipe(point: Mapping[str, object], scale: str, manifest: str) -> Recipe:
    seed = point.get("seed", 0)
    if type(seed) is not int:
        raise InputError(f"seed is {seed!r}; it is a whole number")
    settings = {k: v for k, v in point.items() if k not in _OWN}
    fixed: dict[str, Any] = {"backbone": str(point["backbone"])} if "backbone" in point else {}
    if "teacher" in point:
        whole = {k: v for k, v in settings.items() if not k.startswith("method.")}
        fixed["teacher"] = override(preset(scale, str(point["teacher"]), manifest, seed, **fixed), whole)
    if "missing" in point:  # for the student alone
        fixed["missing"] = Missingness.parse(str(point["missing"])).to_json()
    return override(preset(scale, str(point.get("method", "dropout")), manifest, seed, **fixed), settings)


def sweep(
    recipes: Mapping[RunKey, Recipe],
    out: str | Path,
    executor: Executor | None = None,
    *,
    split: str = "test",
    threads: int = 0,
) -> pd.DataFrame:
    """Train and score every recipe; what is done already is not done again, what fails is tried once more.

    A worker that is lost costs its own run, which another worker takes up at its last checkpoint. No run is trained by
    two at a time: a lock lies in its folder. ``out`` holds, whenever this is stopped, what has ended: ``runs.csv``, a
    line a run; ``scores/RUN.csv``; at the end ``scores.csv``, all of them; and ``sweep.json``, the recipes.

    Args:
        recipes: by arm and seed.
        out: folder of the results, on a file system that workers share, as is the cache.
        executor: see :mod:`mtg_lab.clusters`; None works in this process, one run after another.
        split: ``train``, ``val`` or ``test``.
        threads: of PyTorch in a worker; 0 leaves them.

    Returns:
        What is in ``runs.csv``: arm, seed, run (its hash), status (``done`` or ``failed``), attempts, dice (mean), dice
        by number of missing sequences, parameters, seconds (of training), seconds_per_step, scoring_seconds (not known
        where a scoring was interrupted), peak_memory_mb, processes, device_name, error.

    Raises:
        InputError: no recipe, an unknown split, or ``out`` cannot be written to.
        KeyboardInterrupt: after keeping what has ended.
    """
    if not recipes:
        raise InputError("nothing to sweep; give at least one point")
    out = make_folder(Path(out).resolve())
    plan = [{"arm": arm, "seed": seed, "recipe": r.to_json()} for (arm, seed), r in recipes.items()]
    write_text(out / "sweep.json", json.dumps({"split": split, "runs": plan}, indent=1))
    for recipe in {(r.manifest, r.limit): r for r in recipes.values()}.values():
        cohort = read_manifest(recipe.manifest).limit(*recipe.limit)
        cohort.split(split)  # refuses one that is not there
        cohort.materialise()  # once here, not by every worker
    work = partial(_trained_and_scored, split=split, out=str(out), cache=str(cache_folder()), threads=threads)
    lines: dict[RunKey, dict[str, Any]] = {}
    left, table = dict(recipes), pd.DataFrame()
    bar = progress(total=len(recipes), desc="runs")
    try:
        for attempt in (1, 2):
            again = {}
            for key, facts, fault in _ended(left, work, executor):
                # The same input is refused again; anything else may have been the machine.
                if fault and not isinstance(fault, InputError):
                    again[key] = left[key]
                lines[key] = {"arm": key[0], "seed": key[1], "run": facts["run"], "attempts": attempt} | facts
                bar.update(attempt == 1)
                bar.set_postfix_str(f"{key[0]}, seed {key[1]}: {facts.get('dice', facts['status'])}")
                table = _write_runs(lines, recipes, out)
            left = again
    finally:
        bar.close()
        _gather(table, out, split)
    return table


def read_sweep_folder(folder: str | Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The two tables that a sweep leaves: ``runs.csv``, and ``scores.csv`` with its protocol.

    Raises:
        InputError: they are not there or damaged, or no run is done.
    """
    folder = Path(folder)
    if not (folder / "runs.csv").is_file():
        raise InputError(
            f"{folder} holds no sweep (no runs.csv); make one with 'mtg-lab sweep SWEEP.yaml --out {folder}'"
        )
    try:
        runs = pd.read_csv(folder / "runs.csv")
        runs = runs.assign(error=runs["error"].fillna(""))
        there = set(runs["status"])
    except (KeyError, ValueError, pd.errors.ParserError) as fault:
        raise InputError(
            f"{folder / 'runs.csv'} is damaged ({str(fault).splitlines()[0]}); run the sweep again"
        ) from fault
    if "done" not in there:
        raise InputError(f"no run of the sweep {folder} is done; runs.csv has the errors")
    if not (folder / "scores.csv").is_file():
        raise InputError(
            f"{folder} has no scores.csv: its runs were not scored alike, or the sweep was cut off; run it again, the "
            "same cohort and regions for all, and read the warning at its end"
        )
    return runs, read_scores(folder / "scores.csv")


def _ended(
    recipes: Mapping[RunKey, Recipe], work: Any, executor: Executor | None
) -> Iterator[tuple[RunKey, dict[str, Any], Exception | None]]:
    """Each run's facts as it ends, and its error if it failed."""
    with closing(conduct(recipes, work, executor=executor)) as ending:
        for key, job in ending:
            try:
                yield key, {"status": "done", "error": "", **job.result()}, None
            except Exception as fault:
                words = " ".join(str(fault).split()) or type(fault).__name__
                told = words if isinstance(fault, InputError) else f"{type(fault).__name__}: {words}"
                yield key, {"run": recipes[key].digest(), "status": "failed", "error": told}, fault


def _trained_and_scored(recipe: Recipe, split: str, out: str, cache: str, threads: int) -> dict[str, Any]:
    """In a worker: facts of a run, whose scores lie in ``out`` afterwards; small, as they travel."""
    import torch

    from mtg_lab.training import train

    os.environ["MTG_LAB_CACHE"] = cache
    if threads:
        torch.set_num_threads(threads)
    run = train(recipe)
    path, started = _scores_of(Path(out), run.digest, split), perf_counter()
    whole = not (path.is_file() or stream_file(path).is_file())
    scores = kept_scores(run, recipe.cohort(), split, Path(out))
    beside = path.with_suffix(".facts.json")
    if not beside.is_file():
        # Of a scoring that was interrupted the rest alone was timed, which tells nothing.
        facts = {"parameters": sum(p.numel() for p in run.backbone().parameters()),
                 "scoring_seconds": round(perf_counter() - started, 2) if whole else None}  # fmt: skip
        write_text(beside, json.dumps(facts))
    facts = json.loads(beside.read_text())
    lacking = scores["modalities"].max() - scores["modalities"]
    by_number = {f"dice_{n}_missing": part.mean() for n, part in scores["value"].groupby(lacking)}
    return {
        "run": run.digest,
        "dice": scores["value"].mean(),
        **by_number,
        **facts,
        **{k: run.environment[k] for k in _FACTS},
    }


def kept_scores(run: Run, cohort: Manifest, split: str, out: Path, **asked: Any) -> pd.DataFrame:
    """Scores from ``out/scores`` where they are, else made and kept there.

    Args:
        run, cohort, split: who is scored on whom.
        out: a folder of its own for each cohort and each way of asking: files are named by run and split alone.
        **asked: of :func:`mtg_lab.evaluation.evaluate`; by default all subsets.
    """
    from mtg_lab.evaluation import evaluate

    path = _scores_of(out, run.digest, split)
    return read_scores(path) if path.is_file() else evaluate(run, cohort, split, out=path, **asked)


def _scores_of(out: Path, digest: str, split: str) -> Path:
    return out / "scores" / f"{digest}-{split}.csv"


def _write_runs(lines: Mapping[RunKey, Mapping[str, Any]], recipes: Mapping[RunKey, Recipe], out: Path) -> pd.DataFrame:
    table = pd.DataFrame([lines[key] for key in recipes if key in lines])
    with written_aside(out / "runs.csv") as aside:
        table.to_csv(aside, index=False)
    return table


def _gather(runs: pd.DataFrame, out: Path, split: str) -> None:
    """All scores of a sweep in ``scores.csv``, behind the columns arm, seed and run."""
    if not len(runs) or not (done := runs[runs["status"] == "done"]).size:
        return
    tables = [read_scores(_scores_of(out, digest, split)) for digest in done["run"]]
    try:
        check_comparable(tables)
    except InputError as fault:
        warnings.warn(f"{out / 'scores.csv'} is not written: {fault}", stacklevel=3)
        return
    for table, (arm, seed, digest) in zip(tables, done[["arm", "seed", "run"]].itertuples(index=False), strict=True):
        for place, (name, value) in enumerate({"arm": arm, "seed": seed, "run": digest}.items()):
            table.insert(place, name, value)
    joined = pd.concat(tables, ignore_index=True)
    joined.attrs.update(protocol_attrs(*tables))
    save_scores(joined, out / "scores.csv")
