"""A cohort is one table: what is written is read, the header orders the channels, every fault has its line."""

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from mtg_lab import manifest as room
from mtg_lab import phantom
from mtg_lab.errors import InputError
from mtg_lab.manifest import parse_manifest, read_manifest, write_manifest
from mtg_lab.manifest_files import default_manifest

ROOT = Path(__file__).resolve().parent.parent
HEADER = "subject,split,schema,t1c,t2f,label\n"
GOOD = "P1,train,brats2023,P1-t1c.nii.gz,P1-t2f.nii.gz,P1-seg.nii.gz\n"


@pytest.fixture
def table(tmp_path):
    """Write a manifest from its text."""

    def write(text: str, encoding: str = "utf-8") -> Path:
        path = tmp_path / "data_manifest.csv"
        path.write_bytes(text.encode(encoding))
        return path

    return write


def refusal(path) -> str:
    with pytest.raises(InputError) as caught:
        read_manifest(path)
    line = str(caught.value)
    assert "\n" not in line
    return line


# What is written is read.


def test_a_cohort_survives_writing_and_reading(tmp_path):
    rows = [
        {"subject": "P1", "split": "train", "site": "A", "schema": "lesion", "adc": "a.nii", "dwi": "d.nii",
         "label": "l.nii", "mask": "m.nii"},
        {"subject": "P,2", "split": "test", "site": None, "schema": "lesion", "adc": "", "dwi": "sub/d 2.nii"},
    ]  # fmt: skip
    read = read_manifest(write_manifest(rows, ("dwi", "adc"), tmp_path / "new" / "m.csv"))
    assert read.modalities == ("dwi", "adc")
    first, second = read
    here = tmp_path / "new"
    assert (first.name, first.split, first.site, first.schema) == ("P1", "train", "A", "lesion")
    assert dict(first.images) == {"dwi": here / "d.nii", "adc": here / "a.nii"}
    assert (first.label, first.mask, first.seed) == (here / "l.nii", here / "m.nii", None)
    assert dict(second.images) == {"dwi": here / "sub" / "d 2.nii"}
    assert (second.name, second.site, second.label, second.mask) == ("P,2", None, None, None)
    assert list(first.files) == ["dwi", "adc", "label", "mask"]


def test_seeds_stay_whole_numbers_beside_real_rows(tmp_path):
    rows = [*phantom.cohort_rows(1, spacing_mm=4.0), {"subject": "real", "t1c": "a.nii"}]
    read = read_manifest(write_manifest(rows, phantom.MODALITIES, tmp_path / "m.csv"))
    assert [s.seed for s in read] == [0, None]


def test_the_order_of_columns_is_the_order_of_channels_and_aliases_count(table):
    read = read_manifest(table("FLAIR,Subject,T1ce,Split,adc\na.nii,P1,b.nii,val,\n"))
    assert read.modalities == ("t2f", "t1c", "adc")
    assert list(read["P1"].images) == ["t2f", "t1c"]
    assert read["P1"].split == "val"


def test_a_spreadsheet_s_byte_order_mark_and_blank_lines_do_not_matter(table):
    plain = read_manifest(table(HEADER + GOOD))
    assert read_manifest(table(HEADER + "\n,,,,,\n" + GOOD.replace(",", " , "), "utf-8-sig")) == plain


def test_absolute_paths_stay(table, tmp_path):
    elsewhere = tmp_path / "elsewhere" / "a.nii"
    assert read_manifest(table(f"subject,t1c\nP1,{elsewhere}\n"))["P1"].images["t1c"] == elsewhere


# Every fault has its line.

FAULTS = {
    "no name": (",train,brats2023,a,b,c", "the cell 'subject' is empty"),
    "a name twice": (GOOD.strip(), "subject P1 occurs twice"),
    "an unknown split": ("P2,trian,brats2023,a,b,c", "subject P2: split 'trian' is none of train, val, test"),
    "no modality": ("P2,train,brats2023,,,c", "subject P2: the row is empty, no modality has a file; fill one or drop"),
    "no schema": ("P2,train,,a,b,c", "subject P2: a label needs a schema; fill 'schema' (brats2023"),
    "an unknown schema": ("P2,train,brats2025,a,b,c", "subject P2: unknown label schema 'brats2025'; known: brats2023"),
    "too few cells": ("P2,train,brats2023,a", "4 cells, the header has 6"),
    "too many cells": ("P2,train,brats2023,a,b,c,d", "7 cells, the header has 6"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_told_with_the_number_of_its_line(table, fault):
    row, told = FAULTS[fault]
    path = table(HEADER + GOOD + "\n" + row + "\n")  # the blank line counts, as it does in an editor
    assert refusal(path).startswith(f"{path}, line 4: {told}")


@pytest.mark.parametrize(
    ("seed", "site", "told"),
    [("1.0", "A", "seed '1.0' is not a whole number"), ("²", "A", "seed '²' is not a whole number"),
     ("-1", "A", "seed '-1' is not"), ("7", "", "a row with a seed needs one of the sites A, B, C; found ''")],
)  # fmt: skip
def test_a_seed_that_is_none_is_told(table, seed, site, told):
    assert f"line 2: subject P1: {told}" in refusal(table(f"subject,seed,site,t1c\nP1,{seed},{site},2mm/P1/a.nii\n"))


def test_all_faults_are_listed_and_good_rows_kept(table):
    path = table(HEADER + "".join(row + "\n" for row, _ in FAULTS.values()) + GOOD.replace("P1", "P9"))
    manifest, faults = parse_manifest(path)
    assert len(faults) == len(FAULTS) - 1  # without the row before it, the name occurs once
    assert [s.name for s in manifest] == ["P1", "P9"]
    assert refusal(path).endswith(f"(and {len(faults) - 1} more; see mtg-lab doctor)")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "is empty; its first line names the columns"),
        (HEADER, "no subjects; add one row a subject"),
        ("name,t1c\nP1,a\n", "no column 'subject'"),
        ("subject;t1c\nP1;a\n", "no column 'subject'; separate cells by commas, not semicolons"),
        ("subject,split,label\nP1,train,a\n", "no modality column; every column besides subject, split"),
        ("subject,t1c,t1c\nP1,a,b\n", "the column 't1c' occurs twice"),
        ("subject,T1ce,t1gd\nP1,a,b\n", "the column 't1c' occurs twice (aliases count); keep one of them"),
        (",subject,t1c\n0,P1,a\n", "column 1 has no name; name its modality or delete it"),
        ("subject,dwi+adc\nP1,a\n", "the column 'dwi+adc' cannot name a modality"),
    ],
)
def test_a_table_of_no_use_is_refused(table, text, told):
    path = table(text)
    line = refusal(path)
    assert str(path) in line
    assert told in line


def test_a_table_that_is_not_there_is_refused(tmp_path):
    assert "does not exist; make one with 'mtg-lab index FOLDER'" in refusal(tmp_path / "none.csv")
    assert f"is a folder; write its manifest with 'mtg-lab index {tmp_path}'" in refusal(tmp_path)


def test_a_table_that_is_no_text_is_refused(tmp_path):
    path = tmp_path / "m.csv"
    for content in (b"\x1f\x8b\x08\x00\xff\xfe", HEADER.encode("utf-16")):
        path.write_bytes(content)
        assert f"{path} is not a readable CSV file" in refusal(path)


# The cohort that is read.


def test_splits_and_limits(cohort):
    manifest = read_manifest(cohort)
    assert [len(manifest.split(s)) for s in ("train", "val", "test")] == [6, 1, 2]
    assert [s.name for s in manifest.limit(train=2, test=1)] == [f"phantom-00{i}" for i in (1, 2, 7, 8)]
    assert manifest.limit() == manifest
    assert manifest["phantom-003"].site == "C"


def test_an_unknown_split_and_an_unknown_subject_are_refused(cohort):
    manifest = read_manifest(cohort)
    with pytest.raises(InputError, match="no subject in split 'dev'; splits here: test, train, val"):
        manifest.split("dev")
    with pytest.raises(InputError, match="no subject 'P1'; the first are phantom-001, phantom-002"):
        manifest["P1"]


def test_rows_without_a_split_are_never_cut_off(table):
    manifest = read_manifest(table("subject,split,t1c\nP1,,a\nP2,train,a\nP3,train,a\n"))
    assert [s.name for s in manifest.limit(train=1)] == ["P1", "P2"]
    with pytest.raises(InputError, match="splits here: train"):
        manifest.split("val")


def test_a_cohort_has_one_schema(table):
    assert read_manifest(table(HEADER + GOOD)).schema.name == "brats2023"
    two = read_manifest(table(HEADER + GOOD + GOOD.replace("P1", "P2").replace("brats2023", "lesion")))
    with pytest.raises(InputError, match="one label schema is needed, found brats2023, lesion"):
        _ = two.schema
    with pytest.raises(InputError, match="found none; fill the column 'schema'"):
        _ = read_manifest(table("subject,t1c\nP1,a\n")).schema


def test_a_cohort_shows_itself(cohort):
    manifest = read_manifest(cohort)
    assert manifest.table()["t1n"].all()
    assert manifest._repr_html_().startswith("<b>9 subjects</b>, t1n, t1c, t2w, t2f (data_manifest.csv)")


def real_twin(cohort, folder, names=("phantom-001", "phantom-002")) -> Path:
    """The same files as rows without a seed, in another folder."""
    manifest = read_manifest(cohort)
    rows = []
    for name in names:
        row = {"subject": name, "split": "train", "schema": "brats2023"}
        for column, path in manifest[name].files.items():
            folder.mkdir(parents=True, exist_ok=True)
            row[column] = shutil.copy(path, folder / path.name).name
        rows.append(row)
    return write_manifest(rows, manifest.modalities, folder / "m.csv")


def test_a_fingerprint_follows_the_content_and_not_the_folder(cohort, tmp_path):
    here, there = (read_manifest(real_twin(cohort, tmp_path / f)) for f in ("here", "there"))
    assert here.fingerprint() == there.fingerprint()
    shutil.copy(there["phantom-002"].images["t1n"], there["phantom-001"].images["t1n"])
    assert here.fingerprint() != there.fingerprint()
    assert here.limit(train=1).fingerprint() != here.fingerprint()


def test_a_fingerprint_knows_the_order_of_channels(cohort, tmp_path):
    rows = phantom.cohort_rows(2, spacing_mm=4.0)
    one, two = (
        read_manifest(write_manifest(rows, order, cohort.parent / f"order-{i}.csv")).fingerprint()
        for i, order in enumerate((phantom.MODALITIES, phantom.MODALITIES[::-1]))
    )
    assert one != two


def test_a_missing_file_is_told_before_it_is_needed(cohort, tmp_path):
    manifest = read_manifest(real_twin(cohort, tmp_path))
    assert manifest.materialise() is manifest
    manifest["phantom-002"].images["t2w"].unlink()
    for use in (manifest.materialise, manifest.fingerprint):
        with pytest.raises(InputError, match=r"subject phantom-002: t2w does not exist: .*; mend the path or leave"):
            use()


# Rows with a seed are synthesised on first use.


def test_a_seed_becomes_files_in_the_cache_the_same_bytes_every_time(table, session_cache, monkeypatch, cohort):
    rows = phantom.cohort_rows(1, spacing_mm=4.0)
    path = write_manifest(rows, phantom.MODALITIES, table(HEADER))
    monkeypatch.setenv("MTG_LAB_CACHE", str(path.parent / "cache"))
    manifest = read_manifest(path)
    (subject,) = manifest
    assert not any(p.exists() for p in subject.files.values())
    before = manifest.fingerprint()
    manifest.materialise(workers=1)
    assert manifest.fingerprint() == before == read_manifest(path).fingerprint()
    for column, made in subject.files.items():
        assert made.is_relative_to(path.parent / "cache" / "phantom")
        # Another cohort of the same seed at the same spacing holds the same patient.
        assert made.read_bytes() == read_manifest(cohort)["phantom-001"].files[column].read_bytes()
    monkeypatch.setattr(phantom, "materialise", lambda *_, **__: pytest.fail("synthesised again"))
    read_manifest(path).materialise()


def test_a_patient_of_the_same_name_with_another_seed_or_site_is_another_one(tmp_path, monkeypatch):
    monkeypatch.setenv("MTG_LAB_CACHE", str(tmp_path / "cache"))
    (row,) = phantom.cohort_rows(1, spacing_mm=6.0)
    made = []
    for number, change in enumerate(({}, {"seed": 5}, {"site": "C"}, {})):
        path = write_manifest([row | change], phantom.MODALITIES, tmp_path / f"{number}.csv")
        (subject,) = read_manifest(path).materialise(workers=1)
        made.append(subject.images["t1c"].read_bytes())
    assert len(set(made)) == 3
    assert made[0] == made[3]


def test_a_synthetic_subject_may_lack_sequences(tmp_path, monkeypatch):
    monkeypatch.setenv("MTG_LAB_CACHE", str(tmp_path / "cache"))
    (row,) = phantom.cohort_rows(1, spacing_mm=6.0)
    row |= {"t1n": "", "t2w": ""}
    (subject,) = read_manifest(write_manifest([row], phantom.MODALITIES, tmp_path / "m.csv")).materialise(workers=1)
    assert list(subject.images) == ["t1c", "t2f"]
    assert all(p.is_file() for p in subject.files.values())


def test_files_beside_the_manifest_are_used_if_all_are_there(cohort, tmp_path):
    folder = tmp_path / "copy"
    source = cohort.parent / "4mm" / "phantom-001"
    shutil.copytree(source, folder / "4mm" / "phantom-001")
    path = write_manifest(phantom.cohort_rows(1, spacing_mm=4.0), phantom.MODALITIES, folder / "m.csv")
    (subject,) = read_manifest(path)
    assert all(p.is_relative_to(folder) for p in subject.files.values())
    subject.images["t1c"].unlink()
    (subject,) = read_manifest(path)
    assert not any(p.is_relative_to(folder) for p in subject.files.values())


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"t1c": "phantom-001/phantom-001-t1c.nii.gz"}, "keeps its files below a folder such as 2mm/"),
        ({"t2w": "4mm/phantom-001/other.nii.gz"}, "no phantom has the t2w .*; name its file phantom-001-t2w.nii"),
        ({"mask": "4mm/phantom-001/mask.nii.gz"}, "no phantom has the mask .*; leave its cell empty"),
    ],
)
def test_a_synthetic_row_that_no_generator_can_fill_is_refused(tmp_path, monkeypatch, change, told):
    monkeypatch.setenv("MTG_LAB_CACHE", str(tmp_path / "cache"))
    (row,) = phantom.cohort_rows(1, spacing_mm=4.0)
    order = ("t1c", "t1n", "t2w", "t2f")
    manifest = read_manifest(write_manifest([row | change], order, tmp_path / "m.csv"))
    with pytest.raises(InputError, match=f"subject phantom-001: .*{told}"):
        manifest.materialise(workers=1)


def test_a_spacing_that_the_generator_refuses_is_the_manifest_s_fault(tmp_path, monkeypatch):
    monkeypatch.setenv("MTG_LAB_CACHE", str(tmp_path / "cache"))
    (row,) = phantom.cohort_rows(1, spacing_mm=4.0)
    row = {k: v.replace("4mm", "9mm") if isinstance(v, str) else v for k, v in row.items()}
    with pytest.raises(InputError, match=r"subject phantom-001: spacing 9\.0 mm is outside 0\.8 to 6 mm"):
        read_manifest(write_manifest([row], phantom.MODALITIES, tmp_path / "m.csv")).materialise(workers=1)


# The committed cohort.


def test_the_committed_cohort_is_60_phantoms_of_three_sites():
    manifest = read_manifest(ROOT / "data_manifest.csv")
    assert manifest.modalities == ("t1n", "t1c", "t2w", "t2f")
    assert [len(manifest.split(s)) for s in room.SPLITS] == [36, 8, 16]
    assert len({s.seed for s in manifest}) == len({s.name for s in manifest}) == 60
    assert {s.schema for s in manifest} == {"brats2023"}
    for split in room.SPLITS:
        counts = manifest.split(split).table()["site"].value_counts()
        assert set(counts.index) == {"A", "B", "C"}
        assert np.ptp(counts.to_numpy()) <= 1


def test_the_committed_cohort_is_what_an_empty_path_means(monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT / "tests")
    assert read_manifest() == read_manifest(ROOT / "data_manifest.csv")
    monkeypatch.chdir(tmp_path)
    assert default_manifest() == ROOT / "data_manifest.csv"


def test_the_committed_cohort_is_what_the_generator_writes(tmp_path):
    written = write_manifest(phantom.cohort_rows(), phantom.MODALITIES, tmp_path / "m.csv")
    assert written.read_text() == (ROOT / "data_manifest.csv").read_text()


@pytest.mark.parametrize(
    ("name", "splits"), [("varied", {"train": 60, "val": 13, "test": 27}), ("sites", {"test": 18})]
)
def test_cohorts_of_the_package_are_read_by_name_wherever_one_stands(name, splits, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cohort = read_manifest(name)
    assert Counter(s.split for s in cohort) == splits
    assert all(s.seed is not None and "scanners" in s.ingredients for s in cohort)
    assert not {s.seed for s in cohort} & {s.seed for s in read_manifest(ROOT / "data_manifest.csv")}
    write_manifest(phantom.cohort_rows(1), phantom.MODALITIES, tmp_path / name)
    assert len(read_manifest(name)) == 1, "a file of that name comes first"


def test_the_cohorts_of_the_package_are_those_that_the_generator_lists(tmp_path):
    made = {
        "varied": phantom.cohort_rows(100, 1, ingredients="all"),
        "sites": [row | {"split": "test"} for row in phantom.cohort_rows(18, 2, ingredients="scanners")],
    }
    for name, rows in made.items():
        written = write_manifest(rows, phantom.MODALITIES, tmp_path / name)
        assert written.read_text() == read_manifest(name).path.read_text()


def test_the_mixed_cohort_is_whom_the_other_two_learn_from():
    mixed = read_manifest("mixed")
    both = [s for name in (ROOT / "data_manifest.csv", "varied") for s in read_manifest(name) if s.split != "test"]
    assert Counter((s.split, s.seed, s.site, s.ingredients) for s in mixed) == Counter(
        (s.split, s.seed, s.site, s.ingredients) for s in both
    )
    assert Counter(s.split for s in mixed) == {"train": 96, "val": 21}


def test_who_names_no_cohort_is_told_those_of_the_package(tmp_path):
    with pytest.raises(InputError, match="or name one of the package: mixed, sites, varied"):
        read_manifest(tmp_path / "nowhere.csv")
