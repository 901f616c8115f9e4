"""The papermill engine that runs our notebooks: a client that cannot hang on widgets, and faults that stay readable.

This module imports papermill; reach it through :class:`mtg_lab.notebook_run.PollingEngine`, whose import costs nothing.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from queue import Empty
from time import monotonic
from typing import Any

from jupyter_client.asynchronous.client import AsyncKernelClient
from jupyter_client.channels import AsyncZMQSocketChannel
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from nbformat.v4 import new_output
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import NBClientEngine
from papermill.log import logger
from traitlets import Type

SLICE_S = 0.5


class SlicedShellChannel(AsyncZMQSocketChannel):
    """A shell channel that looks at its socket again every half second instead of waiting once for ever.

    An Output widget makes nbclient *send* on this channel while it also *waits* on it for the cell's reply. ZeroMQ's
    file descriptor is edge-triggered, and the send goes through a synchronous shadow of the socket which may swallow
    the edge that announced the reply: the reply lies in the queue, and nothing wakes the waiting coroutine (nbclient
    #312, open).
    Each fresh poll asks the queue itself first, so a lost edge costs at most one slice.
    """

    async def get_msg(self, timeout: float | None = None) -> dict[str, Any]:  # type: ignore[override]
        """Return the next message; raises :class:`queue.Empty` after ``timeout`` seconds, never when it is None."""
        deadline = None if timeout is None else monotonic() + timeout
        while True:
            left = SLICE_S if deadline is None else min(SLICE_S, max(0.0, deadline - monotonic()))
            try:
                return await super().get_msg(timeout=left)
            except Empty:
                if deadline is not None and monotonic() >= deadline:
                    raise


class PollingKernelClient(AsyncKernelClient):
    """The usual asynchronous kernel client with a sliced shell channel."""

    shell_channel_class = Type(SlicedShellChannel)  # type: ignore[assignment]


class CellStopped(Exception):
    """A cell ran out of time or lost its kernel; the fault is already written into the notebook."""


class PollingNotebookClient(PapermillNotebookClient):
    """papermill's client on the sliced channel, which records time-outs and dead kernels as errors of their cell."""

    def create_kernel_manager(self) -> Any:
        """Return the kernel manager, told to hand out our client."""
        manager = super().create_kernel_manager()
        manager.client_factory = PollingKernelClient
        return manager

    def set_widgets_metadata(self) -> None:
        """Keep widget state out of the executed notebook.

        It takes megabytes for one volume, and GitHub refuses notebooks whose state it cannot read. Not
        ``store_widget_state=False``: nbclient's stand-in for the Output widget then dies of a KeyError.
        """

    def execute_cell(self, cell: Any, cell_index: int, **options: Any) -> Any:
        """Run one cell; raises :class:`CellStopped` where nothing more can be asked of the kernel."""
        try:
            return super().execute_cell(cell, cell_index, **options)
        except (CellTimeoutError, DeadKernelError) as fault:
            name, what = type(fault).__name__, str(fault).partition("\n")[0]
            if isinstance(fault, DeadKernelError):
                what = "the kernel died; out of memory, or a crash of native code"
            cell.outputs.append(new_output("error", ename=name, evalue=what, traceback=[f"{name}: {what}"]))
            self.nb_man.cell_exception(cell, cell_index=cell_index)
            # A busy or dead kernel would answer neither papermill's last question nor a polite request to leave.
            self.shutdown_kernel = "immediate"
            raise CellStopped(what) from fault


class Engine(NBClientEngine):
    """papermill engine on :class:`PollingNotebookClient`; use it by its entry point name, ``mtg_lab``."""

    @classmethod
    def execute_managed_notebook(  # type: ignore[override]
        cls,
        nb_man: Any,
        kernel_name: str,
        start_timeout: int = 60,
        execution_timeout: int | None = None,
        kernel_cwd: str | None = None,
        kernel_log: str | None = None,
        **options: Any,
    ) -> None:
        """Run all cells, ``execution_timeout`` seconds each, in ``kernel_cwd``, with raw stderr into ``kernel_log``."""
        ours = {
            "kernel_name": kernel_name,
            "startup_timeout": start_timeout,
            "timeout": execution_timeout,
            "log": logger,
            # The default of 4 s fails a finished cell whose pictures are slow to arrive from a busy machine.
            "iopub_timeout": 60,
        }
        options = {key: value for key, value in options.items() if key not in {"input_path", *ours}}
        with ExitStack() as stack:
            start: dict[str, Any] = {"env": batch_environment()}
            if kernel_cwd:
                start["cwd"] = kernel_cwd
            if kernel_log:
                # Kernels print a transport warning at each start; kept beside the notebook, it alarms nobody.
                start["stderr"] = stack.enter_context(Path(kernel_log).open("wb"))
            for last_attempt in (False, True):
                client = PollingNotebookClient(nb_man, **options, **ours)
                try:
                    client.execute(**start)
                    return
                except CellStopped:
                    return
                except RuntimeError:
                    # A kernel that fails to start on a loaded machine mostly starts the second time.
                    if last_attempt or client.code_cells_executed:
                        raise


def batch_environment() -> dict[str, str]:
    """Return this process's environment with what keeps a batch kernel quiet and its figures inline."""
    quiet = {"MTG_LAB_BATCH": "1", "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
    # A scheduler's MPLBACKEND=Agg would switch off the inline backend, and the executed notebook would show no figure.
    return {name: value for name, value in os.environ.items() if name != "MPLBACKEND"} | quiet
