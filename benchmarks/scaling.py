"""What a sweep adds to its runs on 1 and 2 workers, and how many workers one scheduler keeps busy.

    python benchmarks/scaling.py --out out/scaling.csv --picture out/scaling.png

*Overhead*: a sweep hands out recipes whose work is to sleep, to real worker processes of this machine; what a run takes
of a worker's time beyond its sleep. *Simulation*: the same scheduler, the same code that hands out, and workers that
share a few processes, each with a connection and a thread of its own, so that there can be more of them than this
machine has cores. Efficiency is the time slept over workers times wall time. Runs sleep shorter than trainings take,
while overhead does not get shorter; so several lengths are tried, and where efficiency bends is the limit of scheduler
and machine in runs a second. Lengths are spread around their median as those of a study (a lognormal with a standard
deviation of 0.3).
"""

import argparse
import asyncio
import heapq
import logging
import multiprocessing
import time
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from timing import environment

from mtg_lab.clusters import workers_here
from mtg_lab.comparison import conduct
from mtg_lab.files import make_folder, written_aside
from mtg_lab.palette import COLOURS, MARKERS
from mtg_lab.recipes import Recipe, preset

_TO_A_PROCESS = 32
# With all on a few cores an answer may take longer than Dask waits before it holds a process for dead.
_PATIENT = {"distributed.comm.timeouts.connect": "300s", "distributed.comm.timeouts.tcp": "300s",
            "distributed.scheduler.worker-ttl": None}  # fmt: skip


def slept(recipe: Recipe, median: float) -> float:
    """Sleep as long as this run takes; decided by its seed."""
    seconds = length(recipe.seed, median)
    time.sleep(seconds)
    return seconds


def length(seed: int, median: float) -> float:
    """Seconds of a run."""
    return float(median * np.exp(np.random.default_rng(seed).normal(0, 0.3)))


@contextmanager
def many(workers: int) -> Iterator[Executor]:
    """So many Dask workers, each with its own connection to the scheduler and one thread, a few dozen to a process."""
    import dask
    from distributed import Client, LocalCluster

    dask.config.set(_PATIENT)
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    with (
        LocalCluster(n_workers=0, silence_logs=logging.CRITICAL, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        shares = np.diff(np.linspace(0, workers, -(-workers // _TO_A_PROCESS) + 1).round().astype(int))
        context = multiprocessing.get_context("spawn")
        hosts = [context.Process(target=_host, args=(cluster.scheduler_address, int(n)), daemon=True) for n in shares]
        for host in hosts:
            host.start()
        try:
            client.wait_for_workers(workers, timeout=600)
            yield client.get_executor(retries=0, pure=False)
        finally:
            for host in hosts:
                host.terminate()
                host.join()


def _host(scheduler: str, workers: int) -> None:
    """Serve as so many workers until terminated."""
    import dask
    from distributed import Worker

    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    # What a worker watches of itself is as dear for a sleeping one; here dozens share a process.
    unwatched = {"distributed.worker.profile.enabled": False, "distributed.admin.system-monitor.interval": "60s"}
    dask.config.set(_PATIENT | unwatched)

    async def serve() -> None:
        served = [Worker(scheduler, nthreads=1, memory_limit=0, dashboard=False) for _ in range(workers)]
        await asyncio.gather(*served)
        await asyncio.Event().wait()

    asyncio.run(serve())


def measured(executor: Executor, workers: int, runs: int, median: float) -> dict[str, float]:
    """One line: wall seconds, efficiency, seconds of a worker's time that a run costs beyond its own."""
    recipe = preset("smoke", steps=1)
    recipes = {("sleep", seed): replace(recipe, seed=seed) for seed in range(runs)}
    list(executor.map(time.sleep, [0.0] * workers))  # workers import what they need
    planned = time.perf_counter()
    ending = conduct(recipes, partial(slept, median=median), executor=executor)
    first = next(ending)[1].result()
    begun, total = time.perf_counter(), first + sum(job.result() for _, job in ending)
    wall = time.perf_counter() - planned
    return {"workers": workers, "runs": runs, "median_s": median, "wall_s": wall, "slept_s": total,
            "efficiency": total / (workers * wall), "overhead_s": (workers * wall - total) / runs,
            "first_s": begun - planned, "runs_a_second": runs / wall}  # fmt: skip


def best_possible(workers: int, runs: int) -> float:
    """Efficiency of a scheduler that takes no time: all that is lost is waiting for the last runs."""
    free = [0.0] * workers
    for seed in range(runs):
        heapq.heapreplace(free, free[0] + length(seed, 1.0))
    return sum(length(seed, 1.0) for seed in range(runs)) / (workers * max(free))


def picture(table: pd.DataFrame) -> Figure:
    """Efficiency against a run's length, a line a number of workers; dotted: what waiting for the last leaves."""
    figure = Figure(figsize=(7, 3.8), layout="constrained")
    axes = figure.subplots()
    for number, (workers, part) in enumerate(table.groupby("workers")):
        ordered = part.sort_values("median_s")
        axes.plot(ordered["median_s"], ordered["efficiency"], marker=MARKERS[number], color=COLOURS[number],
                  label=f"{workers} workers")  # fmt: skip
        axes.axhline(best_possible(int(str(workers)), int(part["runs"].max())), color=COLOURS[number], linestyle=":")
    axes.set(xscale="log", ylim=(0, 1.02), xlabel="seconds a run", ylabel="share of workers' time slept")
    axes.set_xticks(sorted(table["median_s"].unique()))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.grid(color="#e5e5e5")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    axes.set_title(f"One scheduler, {int(table['runs'].max())} runs: efficiency by length of a run", fontsize=11)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, nargs="+", default=[8, 64, 256])
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--medians", type=float, nargs="+", default=[0.5, 2.0, 8.0], help="seconds a simulated run")
    parser.add_argument(
        "--most", type=float, default=240, help="leave out what would sleep longer than so many seconds"
    )
    parser.add_argument("--out", type=Path, default=Path("out/scaling.csv"))
    parser.add_argument("--picture", type=Path, default=Path("out/scaling.png"))
    options = parser.parse_args()
    make_folder(options.out.parent)
    rows = []
    for workers in (1, 2):
        with workers_here(workers) as executor:
            rows.append({"kind": "processes", **measured(executor, workers, 20 * workers, 0.5)})
        print(pd.DataFrame(rows).round(3).tail(1).to_string(index=False), flush=True)
    for workers in options.workers:
        for median in options.medians:
            if options.runs * median / workers > options.most:
                continue
            with many(workers) as executor:
                rows.append({"kind": "simulated", **measured(executor, workers, options.runs, median)})
            print(pd.DataFrame(rows).round(3).tail(1).to_string(index=False, header=False), flush=True)
    table = pd.DataFrame(rows).assign(**environment())
    with written_aside(options.out) as aside:
        table.round(4).to_csv(aside, index=False)
    simulated = table[table["kind"] == "simulated"]
    if len(simulated):
        with written_aside(options.picture) as aside:
            picture(simulated).savefig(aside, dpi=120)


if __name__ == "__main__":
    main()
