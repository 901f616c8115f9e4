"""Files and tables of a cohort."""

import os
from collections import Counter

import nibabel as nib
import numpy as np
import pytest

from mtg_lab import phantom
from mtg_lab.phantom import cohort


def test_sixty_subjects_are_split_36_8_16_with_balanced_sites():
    rows = phantom.cohort_rows(60)
    assert Counter(row["split"] for row in rows) == {"train": 36, "val": 8, "test": 16}
    for split in ("train", "val", "test"):
        sites = Counter(row["site"] for row in rows if row["split"] == split)
        assert set(sites) == set("ABC")
        assert max(sites.values()) - min(sites.values()) <= 1
    assert len({row["seed"] for row in rows}) == len({row["subject"] for row in rows}) == 60
    assert rows == phantom.cohort_rows(60)


@pytest.mark.parametrize("subjects", [1, 2, 3, 4, 7, 10, 61])
def test_small_cohorts_have_every_split_from_three_subjects_on(subjects):
    counts = Counter(row["split"] for row in phantom.cohort_rows(subjects))
    assert sum(counts.values()) == subjects
    assert len(counts) == (3 if subjects >= 3 else 1)


def test_rows_name_files_below_a_folder_of_the_spacing():
    row = phantom.cohort_rows(1, spacing_mm=1.5)[0]
    assert row["t1n"] == "1.5mm/phantom-001/phantom-001-t1n.nii.gz"
    assert row["label"] == "1.5mm/phantom-001/phantom-001-seg.nii.gz"
    assert row["schema"] == "brats2023"


def test_files_hold_the_case(tmp_path, make_case):
    case = make_case(2)
    names = phantom.write_case(case, tmp_path / "new" / "folder", "p")
    assert sorted(os.listdir(tmp_path / "new" / "folder")) == sorted(names.values())
    for column, name in names.items():
        image = nib.load(tmp_path / "new" / "folder" / name)
        expected = case.label if column == "label" else case.images[column]
        assert image.get_data_dtype() == expected.dtype
        assert np.array_equal(np.asanyarray(image.dataobj), expected)
        assert np.allclose(image.affine, case.affine)
        assert nib.aff2axcodes(image.affine) == ("R", "A", "S")


def test_an_interrupted_write_leaves_nothing_half_written(tmp_path, make_case, monkeypatch):
    moved = []

    def replace(source, target):
        if len(moved) == 2:
            raise OSError("disk full")
        moved.append(target)
        os.rename(source, target)

    monkeypatch.setattr(cohort.os, "replace", replace)
    with pytest.raises(OSError, match="disk full"):
        phantom.write_case(make_case(2), tmp_path, "p")
    assert sorted(os.listdir(tmp_path)) == sorted(path.name for path in moved)
    for path in moved:
        nib.load(path).get_fdata()


def test_a_file_in_place_of_the_folder_is_an_error(tmp_path, make_case):
    (tmp_path / "taken").write_text("")
    with pytest.raises(OSError, match="taken"):
        phantom.write_case(make_case(2), tmp_path / "taken", "p")
    assert os.listdir(tmp_path) == ["taken"]


def test_materialise_writes_what_is_missing_and_only_that(tmp_path):
    rows = phantom.cohort_rows(2, spacing_mm=6.0)
    seen = []

    def progress(iterable, total, desc):
        seen.append(total)
        return iterable

    phantom.materialise(rows, tmp_path, 6.0, workers=1, progress=progress)
    files = [tmp_path / row[c] for row in rows for c in (*phantom.MODALITIES, "label")]
    before = {path: path.stat().st_mtime_ns for path in files}
    content = files[3].read_bytes()
    files[3].unlink()
    phantom.materialise(rows, tmp_path, 6.0, workers=1, progress=progress)
    phantom.materialise(rows, tmp_path, 6.0, workers=1, progress=progress)
    assert seen == [2, 1]
    assert files[3].read_bytes() == content
    assert all(path.stat().st_mtime_ns == before[path] for path in files[5:])


def test_other_processes_write_the_same_bytes_in_any_order(tmp_path):
    rows = phantom.cohort_rows(2, spacing_mm=6.0)
    phantom.materialise(rows, tmp_path / "one", 6.0, workers=1)
    phantom.materialise(rows[::-1], tmp_path / "two", 6.0, workers=2)
    for row in rows:
        for column in (*phantom.MODALITIES, "label"):
            assert (tmp_path / "one" / row[column]).read_bytes() == (tmp_path / "two" / row[column]).read_bytes()


def test_bad_cohorts_are_refused(tmp_path):
    with pytest.raises(ValueError, match="0 subjects"):
        phantom.cohort_rows(0)
    with pytest.raises(ValueError, match="site"):
        phantom.materialise([phantom.cohort_rows(1)[0] | {"site": "Q"}], tmp_path, 6.0)
