"""Make .venv and put into it exactly what requirements/ pins; do nothing when that has been done.

Needs only a Python 3.11+ with its standard library. The steps are a venv, the hashed lock, torch, this package
(editable) and ``pip check``; a stamp with a digest of all that was asked for closes them. Without a stamp, or with
another digest, all steps are taken again, and pip skips what is there: half an install is completed, never trusted.

torch is not in the lock, because the right build depends on the machine: see ``install_torch``.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

OLDEST = (3, 11)
ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
VENV_PYTHON = VENV / "bin" / "python"
STAMP = VENV / ".mtg-lab-stamp"
LOCK = ROOT / "requirements" / "lock.txt"
TORCH = ROOT / "requirements" / "torch.txt"
INPUTS = (LOCK, TORCH, ROOT / "pyproject.toml", Path(__file__).resolve())
GPU_PACKAGES = ("nvidia-", "cuda-", "triton", "pytorch-triton")


class InstallError(Exception):
    """A fault that the reader can mend; its text is the one line that is printed."""


def main() -> int:
    """Bring .venv up to date; 0 when it is, 1 with one line on stderr when it cannot be."""
    try:
        check_interpreter()
        wanted = digest()
        if STAMP.is_file() and STAMP.read_text(encoding="utf-8").strip() == wanted and venv_is_usable():
            return 0
        install(wanted)
    except InstallError as fault:
        print(f"install: {fault}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("install: interrupted; the same command continues where this one stopped", file=sys.stderr)
        return 1
    return 0


def check_interpreter() -> None:
    """Refuse an interpreter that is too old, or that Debian ships without the venv module."""
    if sys.version_info < OLDEST:
        newer = [name for name in ("python3.13", "python3.12", "python3.11") if shutil.which(name)]
        cure = f"try PYTHON={newer[0]}" if newer else "install a newer one and name it with PYTHON=..."
        raise InstallError(f"{sys.executable} is Python {platform.python_version()}, 3.11 or newer is needed; {cure}")
    if importlib.util.find_spec("venv") is None or importlib.util.find_spec("ensurepip") is None:
        raise InstallError(f"{sys.executable} has no venv module; on Debian and Ubuntu: apt install python3-venv")


def digest() -> str:
    """Sum up what decides on the contents of .venv: pins, this file, the interpreter, whether there is a GPU driver."""
    seen = hashlib.sha256()
    for path in INPUTS:
        seen.update(path.read_bytes())
    # Only whether the driver's tool is there: asking it would cost each `make` half a second.
    seen.update(repr((sys.version, platform.machine(), shutil.which("nvidia-smi") is not None)).encode())
    return seen.hexdigest()


def venv_is_usable() -> bool:
    """Whether .venv was made here by this very Python; scripts of a moved or copied one point to the old place."""
    try:
        text = (VENV / "pyvenv.cfg").read_text(encoding="utf-8")
    except OSError:
        return False
    config = dict(re.findall(r"^(\w+) = (.*)$", text, flags=re.MULTILINE))
    same_place = config.get("command", "").endswith(f" {VENV}")
    same_python = config.get("version") == ".".join(str(part) for part in sys.version_info[:3])
    return same_place and same_python and VENV_PYTHON.exists()


def install(wanted: str) -> None:
    """Take all steps, each said in one line with its time, and stamp the result."""
    STAMP.unlink(missing_ok=True)
    started = time.monotonic()
    if not venv_is_usable():
        step("environment", [sys.executable, "-m", "venv", "--clear", str(VENV)])
    forget_half_installed(VENV)
    step("packages", pip("install", "--require-hashes", "--no-deps", "-r", str(LOCK)))
    install_torch(TORCH.read_text(encoding="utf-8").strip())
    step("mtg_lab", pip("install", "--no-deps", "--no-build-isolation", "--editable", str(ROOT)))
    step("check", pip("check"))
    STAMP.write_text(wanted + "\n", encoding="utf-8")
    print(f"install: .venv is complete ({time.monotonic() - started:.0f} s)")


def forget_half_installed(venv: Path) -> None:
    """Drop the metadata of packages whose installation was cut short, so that pip installs them again.

    The note of who installed a package is among the last files that pip writes, and never part of the download.
    """
    for metadata in venv.glob("lib/python*/site-packages/*.dist-info"):
        if not (metadata / "INSTALLER").is_file():
            shutil.rmtree(metadata)


def install_torch(pin: str) -> None:
    """Install the pinned torch in the build that fits the machine.

    With a GPU, or on macOS (one build for all), pip's choice is right. Otherwise pip is asked which file it would take,
    and gets its way when that is a CPU build. If it is a GPU build, uv is asked, which knows where PyTorch keeps its
    CPU builds; where uv cannot reach them, pip's choice runs on a CPU too, it is only large.
    """
    version = pin.partition("==")[2]
    gpu = has_gpu()
    present = installed_torch()
    if present.partition("+")[0] == version and not (gpu and present.endswith("+cpu")):
        return
    if gpu or sys.platform == "darwin":
        # A CPU build satisfies the pin as well, so pip would leave it where a GPU has been added since.
        replace = ["--force-reinstall"] if present.endswith("+cpu") else []
        step("torch", pip("install", *replace, pin))
        return
    report = subprocess.run(
        pip("install", "--quiet", "--dry-run", "--no-deps", "--ignore-installed", "--report", "-", pin),
        capture_output=True,
        text=True,
        env=environment(),
    )
    if report.returncode == 0 and is_cpu_build(json.loads(report.stdout)):
        step("torch (CPU)", pip("install", "--no-deps", pin))
        return
    uv = [str(VENV / "bin" / "uv"), "pip", "install", "--python", str(VENV_PYTHON), "--no-deps"]
    try:
        step("torch (CPU)", [*uv, "--torch-backend", "cpu", pin])
    except InstallError:
        if report.returncode != 0:
            raise InstallError(f"torch: {last_complaint(report.stderr)}") from None
        print("install: no CPU build of torch within reach; taking the one for GPUs, which downloads several GB")
        step("torch (GPU)", pip("install", pin))


def is_cpu_build(report: dict) -> bool:
    """Whether the one file in pip's report does without GPU packages, by its version or else by its requirements."""
    metadata = report["install"][0]["metadata"]
    if "+" in metadata["version"]:
        return metadata["version"].endswith("+cpu")
    requirements = (line for line in metadata.get("requires_dist", []) if "extra ==" not in line)
    return not any(line.lower().startswith(GPU_PACKAGES) for line in requirements)


def has_gpu() -> bool:
    """Whether the NVIDIA driver answers and lists a device."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return False
    try:
        answer = subprocess.run([tool, "-L"], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return answer.returncode == 0 and "GPU" in answer.stdout


def installed_torch() -> str:
    """Return the version of torch in .venv, or an empty string; read from its metadata, importing it takes seconds."""
    code = "from importlib.metadata import version; print(version('torch'))"
    return subprocess.run([str(VENV_PYTHON), "-c", code], capture_output=True, text=True).stdout.strip()


def pip(*arguments: str) -> list[str]:
    """Return the command line of pip in .venv."""
    return [str(VENV_PYTHON), "-m", "pip", *arguments]


def environment() -> dict[str, str]:
    """Return our environment without what would make pip miss .venv: per-user installs and a foreign PYTHONPATH."""
    kept = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")}
    return {**kept, "PIP_USER": "0", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}


def step(name: str, command: list[str]) -> None:
    """Run one command; say its name and time, or raise its last line of complaint."""
    terminal = sys.stdout.isatty()
    started = time.monotonic()
    print(f"install: {name} ...", end="\n" if terminal else " ", flush=True)
    # On a terminal pip may draw its progress; elsewhere its two lines a package would drown everything else.
    result = subprocess.run(
        command,
        stdout=None if terminal else subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    if result.returncode != 0:
        print("" if terminal else "failed", flush=True)
        raise InstallError(f"{name}: {last_complaint(result.stderr or '', result.stdout or '')}")
    print(f"install: {name} took " if terminal else "", f"{time.monotonic() - started:.0f} s", sep="")


def last_complaint(stderr: str, stdout: str = "") -> str:
    """Boil a failed command's output down to one line, with a hint where the network was the cause."""
    lines = [line.strip() for line in (stdout + "\n" + stderr).splitlines() if line.strip()]
    errors = [line.partition("ERROR:")[2].strip() for line in lines if line.startswith("ERROR:")]
    complaint = (errors or lines or ["failed without a word"])[-1]
    unreachable = ("Retrying (", "NewConnectionError", "Temporary failure in name resolution", "Network is unreachable")
    if any(sign in stderr for sign in unreachable):
        complaint += " (the package index was not reachable: is there a network?)"
    return complaint


if __name__ == "__main__":
    raise SystemExit(main())
