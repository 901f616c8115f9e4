"""Jupyter servers for the browser tests, each on a free port of this machine."""

import contextlib
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
START_S = 600  # a page trains two tiny networks, on a machine that others may be using
REPAINT_MS = 60_000


def absent(what: str):
    """Skip, or fail where a browser is required: continuous integration must not pass by having none."""
    if os.environ.get("MTG_LAB_REQUIRE_BROWSER") == "1":
        pytest.fail(f"{what}, and MTG_LAB_REQUIRE_BROWSER=1")
    pytest.skip(what)


def required(module: str) -> None:
    if importlib.util.find_spec(module) is None:
        absent(f"{module} is not installed (extras lab and dev)")


@contextlib.contextmanager
def server(command: list[str], folder: Path, cwd: Path | None = None):
    """Start a server on a free port (``{port}`` in the command), wait until it answers, and end it afterwards."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # The settings of whoever runs the tests must not decide what the page looks like.
    settings = {
        "JUPYTER_CONFIG_DIR": str(folder / "config"),
        "JUPYTER_RUNTIME_DIR": str(folder / "runtime"),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")])),
    }
    log = folder / f"server-{port}.log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [part.replace("{port}", str(port)) for part in command],
            cwd=cwd or folder,
            env={**os.environ, **settings},
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            wait_for(port, process, log)
            yield f"http://127.0.0.1:{port}"
        finally:
            end(process)


def end(process: subprocess.Popen) -> None:
    """End a server, and what it was started through and has started."""
    for sent in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, sent)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=15)
            return


def wait_for(port: int, process: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.2)
    pytest.fail(f"no answer within {START_S} s:\n{log.read_text()}")


def voila(notebook: Path) -> list[str]:
    return [
        sys.executable, "-m", "voila", str(notebook), "--template=offline", "--Voila.ip=127.0.0.1", "--no-browser",
        "--port={port}",
    ]  # fmt: skip
