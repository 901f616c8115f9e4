"""One training in several processes, from the command line: the same run, one writer, and a clean end."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd

import mtg_lab
from mtg_lab.runs import load_run

SMALL = (
    "--preset",
    "smoke",
    "--set",
    "sampling.crop_voxels=16",
    "--set",
    "backbone.width=4",
    "--set",
    "precision=fp32",
)


def begin(cohort, *arguments) -> subprocess.Popen:
    """``mtg-lab train`` as a process of its own, as from a terminal."""
    environment = os.environ | {
        "PYTHONPATH": str(Path(mtg_lab.__file__).parents[1]), "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    command = [sys.executable, "-m", "mtg_lab", "train", "--manifest", cohort, *SMALL, *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(list(map(str, command)), env=environment, text=True, **pipes)


def train(cohort, *arguments) -> str:
    process = begin(cohort, *arguments)
    told, faults = process.communicate(timeout=200)
    assert process.returncode == 0, faults
    return told


def lines(faults: str) -> list[str]:
    return [line for line in faults.splitlines() if line.startswith("mtg-lab: ")]


def test_two_devices_compute_what_one_does(cohort, tmp_path):
    """PASSION, whose state moves by what all saw.

    Without its gate, which rounding may turn, and with a small rate, as rounding decides some signs of Adam's first
    steps.
    """
    steps = ("--set", "steps=6", "--set", "batch=4", "--method", "passion", "--seed", 8200)
    steps += ("--set", "method.gate=off", "--set", "learning_rate=1e-5")
    told = train(cohort, *steps, "--devices", 2, "--out", tmp_path / "two")
    assert told.startswith(f"{tmp_path / 'two'}: ")
    assert told.count("final loss") == 1, "one of them speaks"
    train(cohort, *steps, "--out", tmp_path / "one")
    two, one = (load_run(tmp_path / name) for name in ("two", "one"))
    assert [run.environment["processes"] for run in (two, one)] == [2, 1]
    assert {p.name for p in two.folder.iterdir()} == {p.name for p in one.folder.iterdir()}, "one of them writes"
    assert two.digest == one.digest
    pd.testing.assert_frame_equal(two.history, one.history, rtol=1e-2)
    exact = ["loss", "segmentation"]
    pd.testing.assert_frame_equal(two.history[exact], one.history[exact], rtol=1e-3)


def test_a_process_that_dies_ends_all_in_one_line_and_another_number_goes_on(cohort, tmp_path):
    out = tmp_path / "run"
    steps = ("--set", "steps=260", "--seed", 8201, "--out", out)
    process = begin(cohort, *steps, "--devices", 2)
    deadline = time.monotonic() + 150
    while not (out / "checkpoint.safetensors").is_file() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    second = next(pid for pid in started_by(process.pid) if variable(pid, "RANK") == "1")
    os.kill(second, signal.SIGKILL)
    told, faults = process.communicate(timeout=100)
    assert process.returncode == 1
    assert told == ""
    (line,) = lines(faults)
    assert "process 2 of 2 ended by signal SIGKILL" in line
    assert "Traceback" not in faults
    assert not (out / "weights.safetensors").is_file()

    train(cohort, *steps)
    assert "resumed at step " in (out / "log.txt").read_text()
    history = load_run(out).history
    assert history.index.tolist() == list(range(260))
    assert history["loss"].notna().all()


def test_what_is_refused_is_refused_once(cohort, tmp_path):
    process = begin(cohort, "--set", "batch=3", "--devices", 2, "--out", tmp_path / "run")
    told, faults = process.communicate(timeout=100)
    assert process.returncode == 1
    assert told == ""
    assert lines(faults) == ["mtg-lab: batch 3 does not divide over 2 processes; set batch to a multiple of 2"]
    assert "Traceback" not in faults
    assert not (tmp_path / "run" / "recipe.json").exists()


def test_an_interruption_keeps_a_checkpoint(cohort, tmp_path):
    out = tmp_path / "run"
    process = begin(cohort, "--set", "steps=100000", "--seed", 8202, "--devices", 2, "--out", out)
    deadline = time.monotonic() + 150
    while not (out / "log.txt").is_file() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(2)
    process.send_signal(signal.SIGINT)
    _, faults = process.communicate(timeout=100)
    assert process.returncode == 130, faults
    assert lines(faults) == ["mtg-lab: interrupted; the same command goes on from here"]
    assert "death signal" not in faults
    assert "Warning" not in faults
    assert "interrupted at step" in (out / "log.txt").read_text()
    shutil.rmtree(out)


def started_by(pid: int) -> list[int]:
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True)
    return [int(word) for word in found.stdout.split()]


def variable(pid: int, name: str) -> str:
    entries = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
    return dict(entry.partition("=")[::2] for entry in entries).get(name, "")
