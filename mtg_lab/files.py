"""Files at the edge: where caches lie, writing aside and renaming into place, cheap fingerprints of contents."""

import hashlib
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from platformdirs import user_cache_dir

from mtg_lab.errors import InputError


def cache_folder(*parts: str) -> Path:
    """The folder of everything that can be made again: ``$MTG_LAB_CACHE``, else the user's cache folder."""
    root = os.environ.get("MTG_LAB_CACHE") or user_cache_dir("mtg_lab")
    return Path(root).expanduser().joinpath(*parts)


def make_folder(folder: str | Path) -> Path:
    """Create ``folder`` and prove that it can be written to.

    Raises:
        InputError: it is a file, or it cannot be made or written.
    """
    path = Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        mend = "choose another with --out"
        if path.is_relative_to(cache_folder()):
            mend = "set MTG_LAB_CACHE to a folder that can be written to"
        raise InputError(f"cannot write to the folder {path} ({error.strerror or error}); {mend}") from error
    return path


@contextmanager
def written_aside(target: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``target``; rename it into place on success, remove it on failure.

    Raises:
        InputError: the folder cannot be written to (also a full disk).
    """
    target = Path(target)
    make_folder(target.parent)
    suffix = "".join(target.suffixes[-2:])  # libraries choose the format (.nii.gz) by the ending
    aside = target.parent / f".aside-{uuid.uuid4().hex}{suffix}"
    try:
        aside.touch(exist_ok=False)
        yield aside
        os.replace(aside, target)
    except OSError as error:
        raise InputError(
            f"cannot write {target} ({error.strerror or error}); free space or choose another place"
        ) from error
    finally:
        aside.unlink(missing_ok=True)


@contextmanager
def folder_aside(target: str | Path) -> Iterator[Path]:
    """Yield a temporary folder beside ``target``; rename it into place on success, remove it on failure.

    Raises:
        InputError: ``target`` holds something already, or the folder cannot be written to (also a full disk).
    """
    target = Path(os.path.abspath(target))
    if target.is_file() or (target.is_dir() and any(target.iterdir())):
        raise InputError(f"{target} is there already; name a new folder with --out, or move this one away")
    make_folder(target.parent)
    aside = target.parent / f".aside-{uuid.uuid4().hex}"
    try:
        aside.mkdir()
        yield aside
        if target.is_dir():
            target.rmdir()
        aside.rename(target)
    except OSError as error:
        raise InputError(
            f"cannot write {target} ({error.strerror or error}); free space or choose another place"
        ) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def write_text(target: str | Path, text: str) -> Path:
    """Write ``text`` to ``target``, whole or not at all."""
    with written_aside(target) as aside:
        aside.write_text(text, encoding="utf-8")
    return Path(target)


# A cell such as imagesTr/BRATS_001.nii.gz[2]: the third volume of a file that holds several.
_VOLUME = re.compile(r"(?P<file>.+\.nii(?:\.gz)?)\[(?P<index>\d{1,6})\]", re.IGNORECASE)


def file_and_volume(path: str | Path) -> tuple[Path, int | None]:
    """The file that a manifest's cell means, and which of its volumes: ``a.nii[2]`` is ``(a.nii, 2)``, else None."""
    found = _VOLUME.fullmatch(str(path))
    return (Path(found["file"]), int(found["index"])) if found else (Path(path), None)


def is_there(path: str | Path) -> bool:
    """Whether the file that a manifest's cell means exists."""
    return file_and_volume(path)[0].is_file()


_GZIP_SMALLEST = 18  # header of 10 bytes, trailer of 8


def content_fingerprint(path: str | Path) -> str:
    """A short digest that changes when a file's content does.

    A gzip file carries the CRC-32 and the length of its content in its last eight bytes, so a ``.nii.gz`` is
    fingerprinted without being read; other files are hashed whole, and so are those in blocks (bgzip), whose last
    block is empty. A volume of a 4-D file has the fingerprint of the file and its number.
    """
    file, volume = file_and_volume(path)
    state = file.stat()
    digest = _fingerprint(file, state.st_size, state.st_mtime_ns)
    return digest if volume is None else f"{digest}[{volume}]"


@lru_cache(maxsize=100_000)  # asked at every access to a cached sample
def _fingerprint(path: Path, size: int, _modified_ns: int) -> str:
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as stream:
        if path.suffix == ".gz" and size >= _GZIP_SMALLEST:
            stream.seek(-8, os.SEEK_END)
            trailer = stream.read()
            if any(trailer):
                digest.update(trailer)
                return digest.hexdigest()[:16]
            stream.seek(0)
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()[:16]
