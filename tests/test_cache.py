"""The cache is counted by kind, kept below its limit, filled by two processes at once, cleared within its folder."""

import os
import subprocess
import sys
import time

import numpy as np
import pytest
from click.testing import CliRunner
from filelock import FileLock

from mtg_lab import cache
from mtg_lab.cli import main
from mtg_lab.data import Preprocessing, cached_dataset
from mtg_lab.errors import InputError
from mtg_lab.manifest import Subject, read_manifest, write_manifest

DAY = 86400


@pytest.fixture
def folder(monkeypatch, tmp_path):
    """An empty cache of the test's own."""
    monkeypatch.setenv("MTG_LAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MTG_LAB_CACHE_LIMIT", raising=False)
    return tmp_path / "cache"


def put(path, size=1000, age_s=0.0):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(size))
    os.utime(path, (time.time() - age_s,) * 2)
    return path


def sample(folder, number, **how):
    return put(folder / "preprocessed" / f"{number:032x}.safetensors", **how)


@pytest.fixture
def full(folder):
    """One entry of each kind, and things that are none."""
    sample(folder, 1, age_s=3 * DAY)
    sample(folder, 2, size=500)
    put(folder / "phantom" / "v3" / "2mm" / "phantom-001" / "phantom-001-t1n.nii.gz", 70)
    put(folder / "phantom" / "v3" / "2mm" / "phantom-001" / "phantom-001-seg.nii.gz", 30)
    put(folder / "runs" / "0123456789ab" / "weights.safetensors", 40)
    put(folder / "lessons" / "smoke" / "01_data" / "metrics.json", 20)
    for foreign in ("preprocessed/notes.txt", "runs/my-best-run/weights.safetensors", "thesis.tex", "phantom/v3/x"):
        put(folder / foreign, 7)
    return folder


def run(*arguments, **how):
    return CliRunner().invoke(main, ["cache", *arguments], **how)


def files(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file() or p.is_symlink())


# What is there.


def test_entries_are_counted_by_kind_and_foreign_files_are_not(full):
    counts = {kind: (len(found := cache.entries(kind)), sum(e.size for e in found)) for kind in cache.KINDS}
    assert counts == {"preprocessed": (2, 1500), "phantom": (1, 100), "runs": (1, 40), "lessons": (1, 20)}
    assert [e.path.name[-13] for e in cache.entries("preprocessed")] == ["1", "2"]  # the least recently used first


def test_the_command_shows_kinds_sizes_counts_and_the_folder(full):
    told = run()
    assert told.exit_code == 0
    lines = told.output.splitlines()
    assert lines[0] == str(full)
    assert lines[2].split() == ["preprocessed", "2", "1.5", "kB", "today"]
    assert lines[4].split() == ["runs", "1", "40", "B", "today"]
    assert lines[-1].startswith("1.66 kB of 100 GB (MTG_LAB_CACHE_LIMIT;")


def test_an_empty_cache_is_shown_as_such(folder):
    assert run().output.splitlines()[2].split() == ["preprocessed", "0", "0", "B"]
    assert "nothing to remove" in run("clear", "all", "--yes").output
    assert not folder.exists()


@pytest.mark.parametrize(("text", "size"), [("20GB", 20 * 10**9), ("500 mb", 5 * 10**8), ("1.5T", 1.5e12), ("7", 7)])
def test_a_limit_is_read(monkeypatch, text, size):
    monkeypatch.setenv("MTG_LAB_CACHE_LIMIT", text)
    assert cache.limit_bytes() == size


@pytest.mark.parametrize("text", ["much", "-3GB", "20 GiBs", "GB"])
def test_a_limit_of_no_use_is_one_line(folder, monkeypatch, text):
    monkeypatch.setenv("MTG_LAB_CACHE_LIMIT", text)
    told = run()
    assert told.exit_code == 1
    assert told.stderr == f"mtg-lab: MTG_LAB_CACHE_LIMIT is {text!r}; give a size such as 20GB or 500MB\n"


# Its limit.


def test_what_was_not_used_for_longest_is_dropped_first_and_nothing_else_than_samples(full, monkeypatch):
    newest = sample(full, 3, age_s=9 * DAY)  # however old its date says
    monkeypatch.setattr(cache, "_STARTED", time.time() + 10)
    before = files(full)
    assert cache.trim(newest) == []
    monkeypatch.setenv("MTG_LAB_CACHE_LIMIT", "1700")  # of 2660 bytes
    assert [p.name[-13] for p in cache.trim(newest)] == ["1"]
    monkeypatch.setenv("MTG_LAB_CACHE_LIMIT", "10")
    with pytest.warns(UserWarning, match="the cache limit of 10 B is less than what is in use.*MTG_LAB_CACHE_LIMIT"):
        assert [p.name[-13] for p in cache.trim(newest)] == ["2"]
    left = [name for name in before if not name.endswith(("1.safetensors", "2.safetensors"))]
    assert files(full) == left
    assert newest.exists()


def cohort(folder, nifti, count):
    rng = np.random.default_rng(0)
    rows = []
    for number in range(count):
        voxels = np.zeros((20, 22, 18), np.int16)
        voxels[2:18, 2:20, 2:16] = rng.integers(1, 900, (16, 18, 14))
        label = np.zeros(voxels.shape, np.uint8)
        label[6:9, 6:9, 6:9] = 1
        nifti(folder / f"{number}-t1c.nii.gz", voxels)
        nifti(folder / f"{number}-seg.nii.gz", label)
        rows.append({"subject": f"P{number}", "split": "train", "schema": "lesion", "t1c": f"{number}-t1c.nii.gz",
                     "label": f"{number}-seg.nii.gz"})  # fmt: skip
    return write_manifest(rows, ("t1c",), folder / "data_manifest.csv")


def test_reading_keeps_an_entry_young(folder, tmp_path, nifti, monkeypatch):
    manifest = read_manifest(cohort(tmp_path / "scans", nifti, 3))
    samples = cached_dataset(manifest.subjects, manifest.modalities, Preprocessing(2.0))
    first = samples[0]
    (oldest,) = cache.entries("preprocessed")
    os.utime(oldest.path, (1, 1))
    samples[1]
    os.utime(next(e.path for e in cache.entries("preprocessed") if e.path != oldest.path), (2, 2))
    assert samples[0]["image"].equal(first["image"])  # read: now the second is the oldest
    monkeypatch.setenv("MTG_LAB_CACHE_LIMIT", str(2 * oldest.size + 100))
    samples[2]
    assert len(cache.entries("preprocessed")) == 2
    assert oldest.path.exists()


def test_an_entry_is_mapped_and_changing_its_tensors_changes_no_file(folder, tmp_path, nifti):
    manifest = read_manifest(cohort(tmp_path / "scans", nifti, 1))
    samples = cached_dataset(manifest.subjects, manifest.modalities, Preprocessing(2.0))
    samples[0]
    read = samples[0]
    read["image"] += 5
    assert not samples[0]["image"].equal(read["image"])


def test_a_changed_file_of_a_synthetic_subject_is_prepared_anew(folder, tmp_path, nifti):
    scans = tmp_path / "2mm" / "p"
    cohort(scans, nifti, 1)
    subject = Subject(
        "P0", {"t1c": scans / "0-t1c.nii.gz"}, "train", "lesion", scans / "0-seg.nii.gz", site="A", seed=0
    )
    samples = cached_dataset([subject], ("t1c",), Preprocessing(2.0))
    before = samples[0]["image"].clone()
    voxels = np.zeros((20, 22, 18), np.int16)
    voxels[2:18, 2:20, 2:16] = np.random.default_rng(8).integers(1, 900, (16, 18, 14))
    nifti(scans / "0-t1c.nii.gz", voxels)
    assert not samples[0]["image"].equal(before)
    assert len(cache.entries("preprocessed")) == 2


# Two processes.

FILL = """
import hashlib, pathlib, sys, time
from mtg_lab.data import Preprocessing, cached_dataset
from mtg_lab.manifest import read_manifest
manifest = read_manifest(sys.argv[1])
samples = cached_dataset(manifest.subjects, manifest.modalities, Preprocessing(2.0))
ready = pathlib.Path(sys.argv[2])
(ready / sys.argv[3]).touch()
while len(list(ready.iterdir())) < 2:  # both begin at one moment
    time.sleep(0.001)
digest = hashlib.sha256()
for _ in range(3):
    for number in range(len(manifest)):
        for name, tensor in sorted(samples[number].items()):
            digest.update(tensor.numpy().tobytes())
print(digest.hexdigest())
"""


@pytest.mark.parametrize("limit", ["", "60kB"])
def test_two_processes_fill_one_cache_at_once_and_read_the_same(folder, tmp_path, nifti, limit):
    """With a limit that holds two of six entries, each also drops what the other is reading."""
    path = cohort(tmp_path / "scans", nifti, 6)
    (tmp_path / "ready").mkdir()
    environment = {**os.environ, "MTG_LAB_CACHE_LIMIT": limit}
    command = [sys.executable, "-W", "error:computing a damaged", "-c", FILL, str(path), str(tmp_path / "ready")]
    both = [
        subprocess.Popen([*command, name], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for name in ("one", "two")
    ]
    results = [process.communicate(timeout=200) for process in both]
    assert [process.returncode for process in both] == [0, 0], results
    assert results[0][0] == results[1][0]
    kept = cache.entries("preprocessed")
    assert len(kept) == 6 if not limit else 1 <= len(kept) <= 3
    assert all(entry.path.suffix == ".safetensors" for entry in kept)
    assert len(files(folder)) == len(kept)  # nothing aside


# Clearing.


def test_clear_removes_one_kind_and_leaves_the_rest(full):
    before = files(full)
    told = run("clear", "--yes")
    assert told.exit_code == 0
    assert told.output == "removed 2 entries, 1.5 kB\n"
    assert files(full) == [name for name in before if not name.endswith(".safetensors") or name.startswith("runs")]
    assert run("clear", "phantom", "--yes").exit_code == 0
    assert not (full / "phantom" / "v3" / "2mm").exists()
    assert (full / "phantom" / "v3" / "x").exists()


def test_clear_all_leaves_what_is_not_ours(full):
    assert run("clear", "all", "--yes").exit_code == 0
    assert files(full) == ["phantom/v3/x", "preprocessed/notes.txt", "runs/my-best-run/weights.safetensors",
                           "thesis.tex"]  # fmt: skip


def test_clear_removes_only_what_is_older(full):
    assert run("clear", "all", "--older", "2", "--yes").output.startswith("removed 1 entries, 1 kB")
    assert [e.path.name[-13] for e in cache.entries("preprocessed")] == ["2"]


@pytest.mark.parametrize("answer", ["n\n", ""])
def test_clear_asks_first(full, answer):
    before = files(full)
    told = run("clear", "runs", input=answer)
    assert told.exit_code == 1
    assert "remove 1 runs (40 B)" in told.stdout
    assert told.stderr.startswith("mtg-lab: nothing was removed")
    assert told.stderr.count("\n") == 1
    assert files(full) == before
    assert run("clear", "runs", input="y\n").exit_code == 0
    assert cache.entries("runs") == []


def test_clear_never_leaves_the_cache_through_a_link(full, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    number = f"{9:032x}.safetensors"
    for kind in ("2mm/phantom-001/a.nii.gz", "run/weights.safetensors", number):
        put(elsewhere / kind)
    (full / "preprocessed" / number).symlink_to(elsewhere / number)
    (full / "phantom" / "v9").symlink_to(elsewhere)
    (full / "runs" / "aaaaaaaaaaaa").symlink_to(elsewhere / "run")
    (full / "phantom" / "v3" / "2mm" / "phantom-001" / "link").symlink_to(elsewhere / "run")
    before = files(elsewhere)
    assert run("clear", "all", "--yes").exit_code == 0
    assert files(elsewhere) == before
    assert not (full / "phantom" / "v3" / "2mm").exists()


def test_a_kind_that_is_a_link_out_of_the_cache_is_left_alone(folder, tmp_path):
    sample(tmp_path / "elsewhere", 1)
    folder.mkdir()
    (folder / "preprocessed").symlink_to(tmp_path / "elsewhere" / "preprocessed")
    assert cache.entries("preprocessed") == []
    assert "nothing to remove" in run("clear", "all", "--yes").output


def test_an_entry_from_elsewhere_is_refused(full, tmp_path):
    foreign = put(tmp_path / "elsewhere" / "a")
    with pytest.raises(InputError, match="does not lie in the cache folder"):
        cache.clear([cache.Entry("runs", foreign, 1, 0.0)])
    assert foreign.exists()


def test_a_run_in_training_stays(full):
    lock = full / "runs" / "0123456789ab" / ".lock"
    with FileLock(lock):
        told = run("clear", "runs", "--yes")
    assert told.exit_code == 1
    assert "a run in training" in told.stderr
    assert (lock.parent / "weights.safetensors").exists()
    assert run("clear", "runs", "--yes").exit_code == 0
    assert not lock.parent.exists()


def test_files_that_a_killed_process_left_aside_are_cleared_and_young_ones_are_not(folder):
    old = put(folder / "preprocessed" / f".aside-{1:032x}.safetensors", age_s=2 * DAY)
    young = put(folder / "preprocessed" / f".aside-{2:032x}.safetensors")
    run("clear", "--yes")
    assert not old.exists()
    assert young.exists()
