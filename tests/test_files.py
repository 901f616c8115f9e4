"""Files are whole or not there, and a fingerprint follows the content wherever it lies."""

import errno
import gzip
import os
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtg_lab import files
from mtg_lab.errors import InputError


def full_disk(*_args, **_kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_the_cache_is_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("MTG_LAB_CACHE", str(tmp_path / "here"))
    assert files.cache_folder("runs", "abc") == tmp_path / "here" / "runs" / "abc"
    monkeypatch.setenv("MTG_LAB_CACHE", "")  # as make exports a variable that is not set
    assert files.cache_folder().name == "mtg_lab"


def test_text_is_written_with_the_rights_of_other_new_files(tmp_path):
    target = files.write_text(tmp_path / "a" / "b" / "log.txt", "ä\n")
    assert target.read_bytes() == "ä\n".encode()
    plain = tmp_path / "plain"
    plain.touch()
    assert stat.S_IMODE(target.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)
    assert [p.name for p in target.parent.iterdir()] == ["log.txt"]


def test_the_file_aside_has_the_ending_that_libraries_choose_the_format_by(tmp_path):
    with files.written_aside(tmp_path / "patient.v2.nii.gz") as aside:
        assert aside.name.endswith(".nii.gz")
        aside.write_bytes(b"1")


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path):
    target = files.write_text(tmp_path / "scores.csv", "old")

    def write():
        with files.written_aside(target) as aside:
            aside.write_text("half")
            full_disk()

    with pytest.raises(InputError, match=r"cannot write .*scores.csv \(No space left on device\); free space"):
        write()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_rename_that_fails_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "replace", full_disk)
    with pytest.raises(InputError, match="No space left on device"):
        files.write_text(tmp_path / "scores.csv", "new")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, ZeroDivisionError])
def test_any_other_interruption_passes_and_leaves_nothing_behind(tmp_path, interruption):
    with pytest.raises(interruption), files.written_aside(tmp_path / "scores.csv"):
        raise interruption
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_is_refused_in_one_line(tmp_path):
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(InputError, match=r"cannot write to the folder .*file.*; choose another place"):
            files.make_folder(folder)
        with pytest.raises(InputError, match="cannot write to the folder"):
            files.write_text(folder / "scores.csv", "new")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_cache_that_cannot_be_is_mended_by_its_variable(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("MTG_LAB_CACHE", str(tmp_path / "file"))
    with pytest.raises(InputError, match="set MTG_LAB_CACHE to a folder that can be written to"):
        files.make_folder(files.cache_folder("runs"))


def zipped(content: bytes) -> bytes:
    return gzip.compress(content, mtime=0)


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_fingerprints_are_equal_exactly_where_contents_are(tmp_path_factory, one, two):
    folder = tmp_path_factory.mktemp("prints")
    for ending, packed in ((".nii.gz", zipped), (".nii", bytes)):
        a, b = folder / f"a{ending}", folder / f"another-name{ending}"
        a.write_bytes(packed(one))
        b.write_bytes(packed(two))
        assert (files.content_fingerprint(a) == files.content_fingerprint(b)) == (one == two)


def test_a_compressed_file_is_fingerprinted_without_being_read(tmp_path):
    path, content = tmp_path / "big.nii.gz", zipped(bytes(1000))
    path.write_bytes(content)
    before = files.content_fingerprint(path)
    damaged = bytearray(content)
    damaged[12] ^= 255  # in the stream, which is not looked at; its checksum at the end is
    path.write_bytes(damaged)
    assert files.content_fingerprint(path) == before


def test_a_compressed_file_in_blocks_is_fingerprinted_by_all_of_them(tmp_path):
    end = zipped(b"")  # bgzip ends with an empty block, whose checksum and length are zero
    prints = set()
    for content in (b"one", b"two"):
        path = tmp_path / "blocks.nii.gz"
        path.write_bytes(zipped(content) + end)
        prints.add(files.content_fingerprint(path))
    assert len(prints) == 2


def test_a_file_cut_to_nothing_has_a_fingerprint(tmp_path):
    (tmp_path / "empty.nii.gz").touch()
    (tmp_path / "short.nii.gz").write_bytes(b"\x1f\x8b")
    assert files.content_fingerprint(tmp_path / "empty.nii.gz") != files.content_fingerprint(tmp_path / "short.nii.gz")
