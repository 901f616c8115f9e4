"""Where the runs of a sweep are computed: workers on this machine, a Dask cluster, or the jobs of a SLURM site.

Each is a ``concurrent.futures.Executor`` for as long as a ``with`` block lasts, so that who hands out work need not
know which.
"""

import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mtg_lab.errors import InputError
from mtg_lab.files import make_folder

if TYPE_CHECKING:
    from distributed import Client

_BEFORE_SPAWN = "distributed.nanny.pre-spawn-environ"
_NEEDS = "{} needs more than the package itself: pip install 'mtg-lab[cluster]'"


def usual_workers() -> int:
    """How many runs this machine can compute at a time: one a GPU, else one a pair of cores."""
    return torch.cuda.device_count() or max(1, (os.cpu_count() or 1) // 2)


@contextmanager
def workers_here(workers: int = 0, threads: int = 1) -> Iterator[Executor]:
    """A Dask cluster inside this program; a worker that dies is started again, its run handed to the next.

    Args:
        workers: processes; 0 is :func:`usual_workers`. With GPUs each sees one of them, in turn.
        threads: of the processor, for each.

    Raises:
        InputError: Dask is not installed.
    """
    try:
        import dask
        from distributed import Client, Nanny, Scheduler, SpecCluster
    except ImportError as fault:
        raise InputError(_NEEDS.format("a sweep")) from fault
    quiet = {"MTG_LAB_BATCH": "1", "OMP_NUM_THREADS": str(threads)}
    gpus = torch.cuda.device_count()
    specification = {}
    for number in range(workers or usual_workers()):
        visible = {"CUDA_VISIBLE_DEVICES": str(number % gpus)} if gpus else {}
        options = {"nthreads": 1, "memory_limit": 0, "env": quiet | visible, "silence_logs": logging.CRITICAL}
        specification[number] = {"cls": Nanny, "options": options}
    local = {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0", "dashboard": True}
    settings = {
        _BEFORE_SPAWN + ".MALLOC_TRIM_THRESHOLD_": None,  # Dask's would undo what startup.py has kept
        "distributed.worker.daemon": False,  # else a run could have no processes of its own that prepare samples
        "distributed.comm.timeouts.connect": "60s",  # a worker imports PyTorch while others compute
        "distributed.scheduler.worker-ttl": None,  # a step in C++ may hold the interpreter for long
    }
    with dask.config.set(settings), _quiet(), _environment_restored(*dask.config.get(_BEFORE_SPAWN)):
        scheduler = {"cls": Scheduler, "options": local}
        with SpecCluster(specification, scheduler, silence_logs=logging.CRITICAL) as cluster, Client(cluster) as client:
            yield _told(client)


@contextmanager
def dask_cluster(address: str) -> Iterator[Executor]:
    """A running Dask cluster, whose workers share this file system and have this package.

    Raises:
        InputError: Dask is not installed, or no scheduler answers.
    """
    try:
        from distributed import Client
    except ImportError as fault:
        raise InputError(_NEEDS.format("--scheduler")) from fault
    with _quiet():
        try:
            client = Client(address, timeout="10s")
        except (OSError, ValueError) as fault:
            raise InputError(
                f"--scheduler {address}: no Dask scheduler answers there; start one with 'dask scheduler', and workers "
                "with 'dask worker ADDRESS --nthreads 1 --memory-limit 0', or mend the address"
            ) from fault
        with client:
            yield _told(client)


@contextmanager
def slurm_jobs(folder: Path, options: Mapping[str, Any], cluster: str | None = None) -> Iterator[Executor]:
    """A job of its own for each run, by submitit: for sites with SLURM where no scheduler of ours may stay alive.

    Args:
        folder: for the jobs' scripts and logs, on a file system that the nodes share.
        options: of submitit, such as ``{"slurm_partition": "gpu", "gpus_per_node": 1, "timeout_min": 240}``.
        cluster: ``slurm`` where there is ``srun``, ``local`` for processes of this machine; None chooses.

    Raises:
        InputError: submitit is not installed, or it does not take an option.
    """
    try:
        import submitit
    except ImportError as fault:
        raise InputError(_NEEDS.format("--slurm")) from fault
    executor = submitit.AutoExecutor(folder=str(make_folder(folder)), cluster=cluster)
    try:
        executor.update_parameters(**options)
    except (NameError, TypeError, ValueError) as fault:
        raise InputError(
            f"--slurm: submitit refuses {dict(options)} ({str(fault).splitlines()[0]}); "
            "give options of its AutoExecutor, e.g. slurm_partition=gpu"
        ) from fault
    with _Submitted(executor) as pool:
        yield pool


class _Submitted(Executor):
    """submitit's executor as one of the standard library's: a thread a job waits for its end."""

    def __init__(self, submitting: Any):
        self._submitting, self._jobs = submitting, []  # type: ignore[var-annotated]
        self._waiting = ThreadPoolExecutor(max_workers=512, thread_name_prefix="job")

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        """Hand a call to the site; the future holds its result or its error."""
        job = self._submitting.submit(fn, *args, **kwargs)
        self._jobs.append(job)
        return self._waiting.submit(job.result)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take back what has not ended; jobs must not outlive the program that waits for them."""
        for job in self._jobs:
            if not job.done():
                job.cancel(check=False)
        self._waiting.shutdown(wait=wait, cancel_futures=True)


def _told(client: "Client") -> Executor:
    """The client's executor; where to watch is said on the terminal."""
    if sys.stderr.isatty() and client.dashboard_link:
        print(f"watch the workers at {client.dashboard_link}", file=sys.stderr)
    executor: Executor = client.get_executor(retries=0, pure=False)
    return executor


@contextmanager
def _environment_restored(*names: str) -> Iterator[None]:
    """Dask gives its workers variables by setting them here; what the program starts later must not have them."""
    before = {name: os.environ.get(name) for name in (*names, "PYTHONHASHSEED", "__DASK_PARENT_PID")}
    try:
        yield
    finally:
        for name, value in before.items():
            if value is not None:
                os.environ[name] = value
            else:
                os.environ.pop(name, None)


@contextmanager
def _quiet() -> Iterator[None]:
    """Dask tells of every worker that comes and goes; here that is part of the work."""
    logger = logging.getLogger("distributed")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)
