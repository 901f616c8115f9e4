"""Refresh requirements/lock.txt from pyproject.toml: exact versions and hashes, Linux and macOS, Python 3.11 and later.

torch and the GPU packages that its default build drags along are taken out again: which build is right depends on the
machine, so tools/install.py chooses it. Options are handed to uv: ``make lock LOCK_ARGS=--upgrade`` moves every pin,
without it only what pyproject.toml demands is moved.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements" / "lock.txt"


def without_torch(lock: str) -> str:
    """Drop the entries of torch and its GPU packages; an entry is an unindented line and what is indented below it."""
    kept = []
    dropping = False
    for line in lock.splitlines(keepends=True):
        if not line.startswith((" ", "#")):
            name = line.split("==")[0]
            dropping = name in ("torch", "triton") or name.startswith(("nvidia-", "cuda-"))
        if not dropping:
            kept.append(line)
    return "".join(kept)


def main() -> int:
    """Run uv, then filter its answer in place."""
    uv = Path(sys.executable).with_name("uv")
    inputs = ["pyproject.toml", "requirements/tools.in", "--constraints", "requirements/torch.txt", "--all-extras"]
    reach = ["--universal", "--python-version", "3.11", "--generate-hashes", "--no-config"]
    output = ["--quiet", "--custom-compile-command", "make lock", "--output-file", str(LOCK)]
    result = subprocess.run([str(uv), "pip", "compile", *inputs, *reach, *output, *sys.argv[1:]], cwd=ROOT)
    if result.returncode == 0:
        LOCK.write_text(without_torch(LOCK.read_text(encoding="utf-8")), encoding="utf-8")
    return result.returncode


if __name__ == "__main__":
    raise SystemExit(main())
