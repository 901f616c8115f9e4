"""The cache folder: what lies in it, how it is kept below its limit, how it is cleared.

Four kinds, each with names of its own, so that a foreign file that lies there is never counted or removed:
``preprocessed`` samples, ``phantom`` subjects, ``runs`` (trained networks) and ``lessons`` (what notebooks write).
"""

import os
import re
import shutil
import time
import warnings
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from mtg_lab.errors import InputError
from mtg_lab.files import cache_folder

# Below the kind's folder: names of an entry and of the folders above it.
KINDS: dict[str, tuple[str, ...]] = {
    "preprocessed": (r"(\.aside-)?[0-9a-f]{32}\.(safetensors|pt)",),
    "phantom": (r"v\d+", r"[\d.]+mm", r"[^.].*"),
    "runs": (r"[0-9a-f]{12}",),
    "lessons": (r"smoke|lab|paper", r"\d\d_\w+"),
}
DEFAULT_LIMIT = "100GB"
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_ABANDONED_S = 3600.0  # a file aside that is older was left by a process that was killed
_STARTED = time.time()


@dataclass(frozen=True)
class Entry:
    """One thing that is kept or dropped as a whole.

    Attributes:
        size: bytes, of everything below a folder.
        used: when it was last written or, a preprocessed sample, read; seconds since 1970.
    """

    kind: str
    path: Path
    size: int
    used: float


def entries(kind: str) -> list[Entry]:
    """What the cache holds of a kind, the least recently used first.

    Links are not followed: one that leads out of the cache holds nothing of it.
    """
    root = cache_folder(kind)
    if not _within(root):
        return []
    found = [Entry(kind, path, *_measured(path)) for path in _matching(root, KINDS[kind])]
    abandoned = time.time() - _ABANDONED_S
    found = [e for e in found if not e.path.name.startswith(".aside-") or e.used < abandoned]
    return sorted(found, key=lambda entry: (entry.used, entry.path))


def _within(folder: Path) -> bool:
    return folder.is_dir() and folder.resolve().is_relative_to(cache_folder().resolve())


def _matching(folder: Path, names: tuple[str, ...]) -> Iterator[Path]:
    name, *below = names
    with suppress(OSError):  # gone since, or not ours to read
        for path in folder.iterdir():
            if re.fullmatch(name, path.name) and not path.is_symlink():
                if not below:
                    yield path
                elif path.is_dir():
                    yield from _matching(path, tuple(below))


def _measured(path: Path) -> tuple[int, float]:
    """Bytes and latest change of a file, or of all files below a folder."""
    size, used = 0, 0.0
    inside = [path]
    if path.is_dir():
        inside = [Path(folder) / name for folder, _, names in os.walk(path) for name in names]
    for file in inside:
        with suppress(OSError):
            state = file.lstat()
            size, used = size + state.st_size, max(used, state.st_mtime)
    return size, used


def limit_bytes() -> int:
    """The most that the cache may hold: ``$MTG_LAB_CACHE_LIMIT`` such as ``20GB``, else 100 GB.

    Raises:
        InputError: the variable is no size.
    """
    text = os.environ.get("MTG_LAB_CACHE_LIMIT") or DEFAULT_LIMIT
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)B?", text.strip(), re.IGNORECASE)
    if not found:
        raise InputError(f"MTG_LAB_CACHE_LIMIT is {text!r}; give a size such as 20GB or 500MB")
    return int(float(found[1]) * _UNITS[found[2].upper()])


def size_text(size: int) -> str:
    """Bytes for people, in powers of a thousand: ``3.1 GB``."""
    for unit in ("TB", "GB", "MB", "kB"):
        scale = _UNITS[unit[0].upper()]
        if size >= scale:
            return f"{size / scale:.3g} {unit}"
    return f"{size} B"


def trim(newest: Path) -> list[Path]:
    """Drop preprocessed samples, the least recently used first, until the whole cache is below its limit.

    Phantoms and runs count, and are never dropped here; ``newest``, just written, stays as well.

    Returns:
        what was dropped.

    Raises:
        InputError: the limit is no size.
    """
    limit = limit_bytes()
    stored = {kind: entries(kind) for kind in KINDS}
    total = sum(entry.size for found in stored.values() for entry in found)
    dropped = []
    for entry in stored["preprocessed"]:
        if total <= limit:
            break
        if entry.path != newest and _remove(entry.path):
            total -= entry.size
            dropped.append(entry)
    if total > limit or any(entry.used > _STARTED for entry in dropped):
        warnings.warn(
            f"the cache limit of {size_text(limit)} is less than what is in use, so that samples are computed again "
            "and again; raise MTG_LAB_CACHE_LIMIT or clear something ('mtg-lab cache')",
            stacklevel=2,
        )
    return [entry.path for entry in dropped]


def clear(chosen: list[Entry]) -> list[Entry]:
    """Remove entries; returns those that are gone. A run in training stays, and so does what cannot be removed.

    Raises:
        InputError: an entry does not lie in the cache folder.
    """
    for entry in chosen:
        if not _within(entry.path.parent) or entry.path.is_symlink():
            raise InputError(f"{entry.path} does not lie in the cache folder {cache_folder()}; nothing was removed")
    gone = [entry for entry in chosen if _remove(entry.path)]
    for parent in sorted({e.path.parent for e in gone}, key=lambda folder: -len(folder.parts)):
        while parent != cache_folder() and parent.is_relative_to(cache_folder()):
            with suppress(OSError):  # not empty
                parent.rmdir()
            parent = parent.parent
    return gone


def _remove(path: Path) -> bool:
    try:
        if not path.is_dir():
            path.unlink()
        elif (path / ".lock").is_file():
            with FileLock(path / ".lock", timeout=0):
                shutil.rmtree(path)
        else:
            shutil.rmtree(path)
    except (OSError, Timeout):
        return not path.exists()
    return True
