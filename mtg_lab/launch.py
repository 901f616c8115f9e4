"""``mtg-lab`` in several processes of one machine: torchrun's own agent, with one line where something fails."""

import logging
import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from uuid import uuid4

from mtg_lab.errors import InputError

LINES = "MTG_LAB_LINES"  # names a folder: there, each process leaves the line with which it refuses its input


def launch(arguments: Sequence[str], devices: int) -> None:
    """Run ``mtg-lab`` with ``arguments`` in as many processes as devices, which share each batch.

    The first process speaks and writes; when one ends before its time, all are ended. On several machines start
    ``torchrun ... -m mtg_lab`` on each instead.

    Args:
        arguments: of the command line, without ``--devices``.
        devices: GPUs, or processes where there is none; the processor's cores are then shared out.

    Raises:
        InputError: a process ended with an error: its own line, or what became of it.
        KeyboardInterrupt: interrupted; the processes are gone.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException, Std
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // devices)))
    for name in [n for n in logging.root.manager.loggerDict if n.startswith("torch.distributed.elastic")]:
        logging.getLogger(name).setLevel(logging.CRITICAL)  # each has set a level of its own
    with tempfile.TemporaryDirectory() as logs:
        silent = dict.fromkeys(range(1, devices), Std.ALL) | {0: Std.NONE}
        config = LaunchConfig(
            1, 1, devices, run_id=uuid4().hex, rdzv_backend="c10d", rdzv_endpoint="localhost:0", max_restarts=0,
            logs_specs=DefaultLogsSpecs(log_dir=logs, redirects=silent),
        )  # fmt: skip
        os.environ[LINES] = logs
        try:
            elastic_launch(config, sys.executable)("-u", "-m", "mtg_lab", *arguments)
        except ChildFailedError as fault:
            rank, failure = fault.get_first_failure()
            raise InputError(_why(rank, devices, failure.exitcode, Path(logs))) from None
        except SignalException:
            raise KeyboardInterrupt from None
        finally:
            del os.environ[LINES]


def _why(rank: int, devices: int, exitcode: int, logs: Path) -> str:
    """What the input was refused for, else how the first process ended; a traceback is printed."""
    if told := sorted(logs.glob("*.txt")):
        return told[0].read_text(encoding="utf-8")
    for log in logs.rglob(f"{rank}/stderr.log"):  # of the first process it is on the terminal
        sys.stderr.write(log.read_text(errors="replace"))
    how = f"by signal {signal.Signals(-exitcode).name}" if exitcode < 0 else f"with exit code {exitcode}"
    return (
        f"process {rank + 1} of {devices} ended {how}, the others were stopped; the same command goes on from the last "
        "checkpoint, with --devices as many as there are"
    )
