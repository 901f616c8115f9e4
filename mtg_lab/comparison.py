"""A set of recipes, trained and scored under one protocol: one tidy table, in one process or in several."""

import multiprocessing
import time
from collections import Counter
from collections.abc import Callable, Generator, Hashable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd

from mtg_lab.errors import InputError
from mtg_lab.evaluation import check_comparable, evaluate
from mtg_lab.manifest import Manifest, read_manifest
from mtg_lab.protocol import protocol_attrs
from mtg_lab.recipes import Recipe
from mtg_lab.training import is_trained, train

Key = TypeVar("Key", bound=Hashable)
Found = TypeVar("Found")


def compare(
    recipes: Mapping[str, Recipe | Sequence[Recipe]],
    split: str = "test",
    *,
    manifest: Manifest | str | Path | None = None,
    jobs: int = 1,
    threads: int = 1,
    **protocol: Any,
) -> pd.DataFrame:
    """Train every recipe, or load what is trained already, and score all of them on the same subjects.

    A teacher that several students share is trained once. What was interrupted goes on where it was.

    Args:
        recipes: arm to its recipe, or to several that differ in their seed.
        split: ``train``, ``val`` or ``test``.
        manifest: scored cohort; by default that of each recipe.
        jobs: runs at a time, each in a process of its own; 1 stays in this one.
        threads: processor threads of such a process.
        **protocol: further arguments of :func:`mtg_lab.evaluate`, such as ``subsets`` or ``window``.

    Returns:
        The rows of :func:`mtg_lab.evaluate` behind the columns arm, seed and run (its hash); the protocol is in
        ``.attrs["protocol"]``.

    Raises:
        InputError: no recipe, two recipes of one arm with the same seed, or whatever training and scoring refuse.
    """
    tasks: dict[tuple[str, int], Recipe] = {}
    for arm, chosen in recipes.items():
        for recipe in [chosen] if isinstance(chosen, Recipe) else chosen:
            if (arm, recipe.seed) in tasks:
                raise InputError(
                    f"arm {arm} has two recipes with seed {recipe.seed}; give the second a name of its own"
                )
            tasks[arm, recipe.seed] = recipe
    if not tasks:
        raise InputError("nothing to compare; give at least one recipe")
    if jobs > 1:
        for path in {r.manifest for r in tasks.values()}:
            read_manifest(path).materialise(jobs)
    work = partial(_scored, split=split, manifest=manifest, threads=threads if jobs > 1 else 0, protocol=protocol)
    found = {key: job.result() for key, job in conduct(tasks, work, jobs)}
    cohorts: dict[str, str] = {}
    tables = [found[key].assign(arm=key[0], seed=key[1], run=tasks[key].digest(cohorts)) for key in tasks]
    check_comparable(tables)
    table = pd.concat(tables, ignore_index=True)
    first = ["arm", "seed", "run"]
    table = table[first + [c for c in table.columns if c not in first]]
    table.attrs.update(protocol_attrs(*tables))
    return table


def conduct(
    recipes: Mapping[Key, Recipe],
    work: Callable[[Recipe], Found],
    jobs: int = 1,
    minutes: float = float("inf"),
    executor: Executor | None = None,
) -> Generator[tuple[Key, "Future[Found]"], None, None]:
    """Work on recipes in their order, several at a time, and hand over each as it ends.

    A student whose teacher is among them, or being trained, lets others pass until the teacher's run is whole.

    Args:
        recipes: what to work on, by any key.
        work: is called with a recipe; with several jobs it must be importable, as processes are spawned.
        jobs: how many at a time; 1 works in this process.
        minutes: nothing is started after so many.
        executor: where to work instead; it gets all that is ready at once. What it has not begun is cancelled when the
            caller stops early.

    Yields:
        A key and its finished future, which holds the result or the error. Keys for which no time was left are missing.
    """
    deadline = time.monotonic() + 60 * minutes
    waiting = dict.fromkeys(recipes)
    cohorts: dict[str, str] = {}
    teachers = {key: [t for t in _teachers(recipe) if not is_trained(t, cohorts)] for key, recipe in recipes.items()}
    needs = {key: {t.digest(cohorts) for t in teachers[key]} for key in recipes}
    own = {key: recipe.digest(cohorts) for key, recipe in recipes.items()}
    makes = {key: {own[key]} | needs[key] for key in recipes}
    running: dict[Future[Found], Key] = {}
    with ExitStack() as stack:
        pool: Executor = executor or _Here()
        if executor is not None:
            jobs = len(recipes)
            stack.callback(lambda: [job.cancel() for job in running])
        elif jobs > 1:
            pool = stack.enter_context(ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")))
        while waiting or running:
            # A teacher that is no task of its own is trained by the first of its students; the others wait.
            in_the_making = set().union(*(makes[k] for k in running.values()))
            awaited = Counter(own[k] for k in waiting)
            for key in list(waiting):
                if len(running) >= jobs or time.monotonic() >= deadline:
                    break
                if any(need in in_the_making or awaited[need] for need in needs[key]):
                    continue
                del waiting[key]
                awaited[own[key]] -= 1
                in_the_making |= makes[key]
                running[pool.submit(work, recipes[key])] = key
            if not running:
                return
            ended = wait(running, return_when=FIRST_COMPLETED).done
            for job in [job for job in running if job in ended]:
                key = running.pop(job)
                needs = {k: unmet - makes[key] for k, unmet in needs.items()}
                yield key, job


def _teachers(recipe: Recipe) -> list[Recipe]:
    return [recipe.teacher, *_teachers(recipe.teacher)] if recipe.teacher else []


class _Here(Executor):
    """Works in this process, one after another."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        job: Future[Any] = Future()
        try:
            job.set_result(fn(*args, **kwargs))
        except Exception as error:
            job.set_exception(error)
        return job


def _scored(
    recipe: Recipe, split: str, manifest: Manifest | str | Path | None, threads: int, protocol: Mapping[str, Any]
) -> pd.DataFrame:
    if threads:
        import torch

        torch.set_num_threads(threads)
    return evaluate(train(recipe), recipe.cohort() if manifest is None else manifest, split, **protocol)
