"""Folders of scans become manifests: by the names that BraTS gave its files over the years, or by patterns."""

import os

import pytest

from mtg_lab import vocabulary
from mtg_lab.errors import InputError
from mtg_lab.indexing import index_folder
from mtg_lab.manifest import read_manifest

OLD = ("t1", "t1ce", "t2", "flair", "seg")
NEW = ("t1n", "t1c", "t2w", "t2f", "seg")
COLUMN = dict(zip(OLD, ("t1n", "t1c", "t2w", "t2f", "label"), strict=True)) | dict(
    zip(NEW, ("t1n", "t1c", "t2w", "t2f", "label"), strict=True)
)


def touch(folder, *names):
    """Empty files: an index reads names only."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


def case(folder, name, separator="_", parts=OLD, ending=".nii.gz"):
    return touch(folder / name, *(f"{name}{separator}{part}{ending}" for part in parts))


def by_name(indexed):
    return {row["subject"]: row for row in indexed.rows}


def refused(told, folder, **options):
    with pytest.raises(InputError, match=told) as refusal:
        index_folder(folder, **options)
    assert "\n" not in str(refusal.value)


# --- BraTS by its names -----------------------------------------------------------------------------------------------

YEARS = {
    "2018": (("HGG/Brats18_2013_2_1", "HGG/Brats18_CBICA_AAB_1", "LGG/Brats18_TCIA09_141_1"), "_", "brats2021"),
    "2019": (("HGG/BraTS19_2013_2_1", "LGG/BraTS19_TCIA09_141_1"), "_", "brats2021"),
    "2020": (("BraTS20_Training_001", "BraTS20_Training_002"), "_", "brats2021"),
    "2021": (("BraTS2021_00000", "BraTS2021_00002"), "_", "brats2021"),
    "2023": (("BraTS-GLI-00000-000", "BraTS-GLI-00002-001"), "-", "brats2023"),
    "2024": (("BraTS-GLI-02062-100", "BraTS-GLI-02063-103"), "-", "brats2024"),
    "FeTS": (("FeTS2022_00000", "FeTS2022_01341"), "_", "brats2021"),
}


@pytest.mark.parametrize("ending", [".nii.gz", ".nii"])
@pytest.mark.parametrize("year", YEARS)
def test_brats_of_every_year_is_known_by_its_names(tmp_path, year, ending):
    cases, separator, schema = YEARS[year]
    for place in cases:
        parent, _, name = place.rpartition("/")
        case(tmp_path / "data" / parent, name, separator, OLD if separator == "_" else NEW, ending)
    indexed = index_folder(tmp_path / "data")
    assert indexed.modalities == ("t1n", "t1c", "t2w", "t2f")
    manifest = read_manifest(indexed.write(tmp_path / "data_manifest.csv"))
    assert [s.name for s in manifest] == sorted(place.rpartition("/")[2] for place in cases)
    assert {s.schema for s in manifest} == {schema}
    for subject in manifest:
        assert set(subject.files) == {"t1n", "t1c", "t2w", "t2f", "label"}
        for column, path in subject.files.items():
            assert path.is_file()
            part = path.name.removeprefix(subject.name)[1:].removesuffix(ending)
            assert COLUMN[part] == column
    assert f"{len(cases)} with a label" in indexed.told()


def test_four_is_a_resection_cavity_in_2024_and_no_tumour(tmp_path):
    """The trap that the schema exists for: 2023 and 2024 share their names."""
    case(tmp_path, "BraTS-GLI-02062-100", "-", NEW)
    (row,) = index_folder(tmp_path).rows
    assert vocabulary.schema(row["schema"]).ignored == (4,)
    young = case(tmp_path / "BraTS2024" / "val", "BraTS-GLI-00005-000", "-", NEW).parent
    assert index_folder(young).rows[0]["schema"] == "brats2024", "told by the folder's name"


def test_contrast_alone_tells_the_year_too(tmp_path):
    case(tmp_path / "new", "BraTS-GLI-00000-000", "-", ("t1c", "seg"))
    case(tmp_path / "old", "BraTS2021_00000", "_", ("t1ce", "seg"))
    assert index_folder(tmp_path / "new").rows[0]["schema"] == "brats2023"
    assert index_folder(tmp_path / "old").rows[0]["schema"] == "brats2021"


def test_names_of_two_conventions_need_a_schema(tmp_path):
    """Enhancing tumour is 4 in the one and 3 in the other; no single schema can be guessed."""
    case(tmp_path, "BraTS2021_00000")
    case(tmp_path, "BraTS-GLI-00002-000", "-", NEW)
    refused("the names do not tell what the labels mean; give --schema", tmp_path)
    assert {row["schema"] for row in index_folder(tmp_path, schema="brats2023").rows} == {"brats2023"}


def test_capital_letters_change_nothing(tmp_path):
    touch(tmp_path, "Pat01_T1.nii.gz", "Pat01_T1CE.NII.GZ", "Pat01_T2.nii", "Pat01_FLAIR.Nii.gz", "Pat01_Seg.nii.gz")
    (row,) = index_folder(tmp_path, schema="brats2021").rows
    assert {c: os.path.basename(row[c]) for c in ("t1n", "t1c", "t2w", "t2f", "label")} == {
        "t1n": "Pat01_T1.nii.gz", "t1c": "Pat01_T1CE.NII.GZ", "t2w": "Pat01_T2.nii", "t2f": "Pat01_FLAIR.Nii.gz",
        "label": "Pat01_Seg.nii.gz",
    }  # fmt: skip


def test_what_a_subject_lacks_is_left_empty_and_told(tmp_path):
    case(tmp_path, "BraTS2021_00000")
    case(tmp_path, "BraTS2021_00001", parts=("t1ce", "flair"))
    case(tmp_path, "BraTS2021_00002", parts=("seg",))  # a label alone is no subject
    indexed = index_folder(tmp_path)
    assert indexed.told().splitlines() == [
        "2 subjects (BraTS 2021: names such as BraTS2021_00000_flair.nii.gz): t1n 1, t1c 2, t2w 1, t2f 2; 1 with a "
        "label; 1 lacks a modality; 1 train, 1 in no split",
        "note: 1 without a label are in no split",
    ]
    manifest = read_manifest(indexed.write(tmp_path / "data_manifest.csv"))
    poor = manifest["BraTS2021_00001"]
    assert set(poor.images) == {"t1c", "t2f"}
    assert (poor.label, poor.schema) == (None, None)


def test_hidden_files_are_no_scans(tmp_path):
    """macOS leaves ._NAME beside every file on a foreign disk: they would be subjects of their own."""
    case(tmp_path, "BraTS2021_00000")
    touch(tmp_path / "BraTS2021_00000", *(f"._BraTS2021_00000_{part}.nii.gz" for part in OLD))
    assert list(by_name(index_folder(tmp_path))) == ["BraTS2021_00000"]


def test_the_same_scan_twice_is_refused_with_both_places(tmp_path):
    case(tmp_path, "BraTS2021_00000")
    touch(tmp_path, "BraTS2021_00000/BraTS2021_00000_t1.nii")
    refused(r"BraTS2021_00000: two files for t1n, .*_t1\.nii and .*_t1\.nii\.gz; move one away or narrow", tmp_path)


def test_nothing_recognised_is_told_with_the_mend(tmp_path):
    touch(tmp_path, "scan.nii.gz", "notes.txt", "a_t1.mha")
    refused(r"no scans recognised; give patterns, e\.g\. --modality", tmp_path)
    refused("is not a folder", tmp_path / "nowhere")
    refused("is not a folder", tmp_path / "notes.txt")


def test_the_given_schema_wins_and_must_exist(tmp_path):
    case(tmp_path, "BraTS2021_00000")
    assert index_folder(tmp_path, schema="brats2015").rows[0]["schema"] == "brats2015"
    refused("unknown label schema 'fets'.*its labels are those of 'brats2021'", tmp_path, schema="fets")


# --- anything else by patterns ----------------------------------------------------------------------------------------


@pytest.fixture
def hospital(tmp_path):
    for patient in ("p1", "p2"):
        touch(tmp_path / "scans" / patient, "T1POST_gd.nii.gz", "FLAIR_x.nii.gz", "GOLD.nii.gz", "brainmask.nii.gz")
    return tmp_path / "scans"


def test_patterns_fill_the_cells(hospital, tmp_path):
    indexed = index_folder(hospital, "lesion", {"T1ce": "T1POST*", "flair": "*FLAIR*"}, "GOLD*", "*brainmask*")
    assert indexed.modalities == ("t1c", "t2f"), "in the order given, under their written names"
    manifest = read_manifest(indexed.write(tmp_path / "m.csv"))
    assert manifest["p1"].files == {
        "t1c": tmp_path / "scans/p1/T1POST_gd.nii.gz",
        "t2f": tmp_path / "scans/p1/FLAIR_x.nii.gz",
        "label": tmp_path / "scans/p1/GOLD.nii.gz",
        "mask": tmp_path / "scans/p1/brainmask.nii.gz",
    }
    assert manifest.schema.name == "lesion"


def test_patterns_with_labels_need_a_schema_and_without_labels_none(hospital):
    refused("give --schema .*lesion", hospital, patterns={"t1c": "T1POST*"}, label="GOLD*")
    assert [row["schema"] for row in index_folder(hospital, patterns={"t1c": "T1POST*"}).rows] == ["", ""]


def test_a_pattern_that_fits_two_files_is_refused(hospital):
    refused(r"subject p1: two files for t1c, .*FLAIR.* and .*GOLD.*narrow", hospital, patterns={"t1c": "*"})


def test_subjects_without_folders_are_told_apart_by_how_their_names_begin(tmp_path):
    touch(tmp_path, "ann_pre.nii", "ann_post.nii", "bob-post.nii.gz")
    found = by_name(index_folder(tmp_path, patterns={"t1n": "*pre*", "t1c": "*post*"}))
    assert {name: "t1n" in row for name, row in found.items()} == {"ann": True, "bob": False}


def test_nested_folders_name_a_subject(tmp_path):
    touch(tmp_path, "sub-01/ses-1/x_post.nii.gz", "sub-01/ses-2/x_post.nii.gz")
    assert list(by_name(index_folder(tmp_path, patterns={"t1c": "*post*"}))) == ["sub-01_ses-1", "sub-01_ses-2"]


@pytest.mark.parametrize(
    ("patterns", "told"),
    [
        ({"t1": "*pre*", "t1n": "*post*"}, "t1n is given twice"),
        ({"label": "*seg*"}, "'label' is no name for a modality"),
        ({"": "*"}, "'' is no name for a modality"),
        ({"t1c+t2f": "*"}, "is no name for a modality"),
        ({"t1c": ""}, "t1c= is no pattern"),
        ({"t1c": "nowhere*"}, "no scans recognised"),
    ],
)
def test_patterns_of_no_use_are_told(hospital, patterns, told):
    refused(told, hospital, patterns=patterns)


def test_a_label_pattern_alone_is_not_passed_over(hospital):
    refused("name the modalities too", hospital, label="GOLD*")
    refused("name the modalities too", hospital, mask="brain*")


# --- splits -----------------------------------------------------------------------------------------------------------


def splits_of(folder, **options):
    return {row["subject"]: row["split"] for row in index_folder(folder, **options).rows}


@pytest.fixture
def twenty(tmp_path):
    for number in range(20):
        case(tmp_path, f"BraTS2021_{number:05d}", parts=("t1",))
    return tmp_path


def test_splits_have_their_shares_and_are_drawn_once(twenty):
    first = splits_of(twenty)
    assert [list(first.values()).count(s) for s in ("train", "val", "test")] == [12, 3, 5]
    assert first == splits_of(twenty)
    assert first != splits_of(twenty, seed=1)
    assert list(first.values()) != sorted(first.values(), reverse=True), "drawn, not in the order of names"
    assert set(splits_of(twenty, shares="0:0:1").values()) == {"test"}
    halves = list(splits_of(twenty, shares="0.5:0:0.5").values())
    assert halves.count("train") == halves.count("test") == 10


@pytest.mark.parametrize("shares", ["60:40", "a:b:c", "-1:1:1", "0:0:0", "inf:1:1", "nan:1:1", ":"])
def test_shares_of_no_use_are_told(twenty, shares):
    refused("is not TRAIN:VAL:TEST", twenty, shares=shares)


def test_a_seed_below_zero_is_told(twenty):
    refused("--seed -1 is below 0", twenty, seed=-1)


def test_one_patient_at_several_times_is_on_one_side(tmp_path):
    """A scan of the same patient in train and test makes every score wrong."""
    for patient in range(10):
        for time in range(100, 104):
            case(tmp_path, f"BraTS-GLI-{patient:05d}-{time}", "-", ("t1c",))
    splits = splits_of(tmp_path)
    assert len(splits) == 40
    sides = {}
    for name, split in splits.items():
        sides.setdefault(name[:15], set()).add(split)
    assert len(sides) == 10
    assert all(len(found) == 1 for found in sides.values())
    assert sorted(s for found in sides.values() for s in found).count("train") == 6


# --- where the paths lead ---------------------------------------------------------------------------------------------


def test_paths_are_relative_to_the_manifest_so_that_a_cohort_can_move(tmp_path, monkeypatch):
    case(tmp_path / "a" / "scans", "BraTS2021_00000")
    monkeypatch.chdir(tmp_path / "a")
    written = index_folder("scans").write("data_manifest.csv")
    assert "scans/BraTS2021_00000/BraTS2021_00000_t1ce.nii.gz" in written.read_text()
    assert str(tmp_path) not in written.read_text()
    (tmp_path / "a").rename(tmp_path / "b")
    (subject,) = read_manifest(tmp_path / "b" / "data_manifest.csv")
    assert all(path.is_file() for path in subject.files.values())


def test_scans_that_lie_elsewhere_keep_their_whole_path(tmp_path):
    case(tmp_path / "scans", "BraTS2021_00000")
    (subject,) = read_manifest(index_folder(tmp_path / "scans").write(tmp_path / "new" / "m.csv"))
    assert all(path.is_absolute() and path.is_file() for path in subject.files.values())


def test_linked_scans_keep_the_name_of_the_link(tmp_path):
    """git-annex and DataLad link every scan to a file whose name is its hash."""
    case(tmp_path / "store", "BraTS2021_00000", parts=("t1",))
    (tmp_path / "cohort").mkdir()
    link = tmp_path / "cohort" / "BraTS2021_00000_t1.nii.gz"
    link.symlink_to(tmp_path / "store" / "BraTS2021_00000" / "BraTS2021_00000_t1.nii.gz")
    written = index_folder(tmp_path / "cohort").write(tmp_path / "cohort" / "m.csv")
    assert ",BraTS2021_00000_t1.nii.gz," in written.read_text()


def test_a_manifest_that_cannot_be_written_is_told(tmp_path):
    case(tmp_path, "BraTS2021_00000")
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "file" / "m.csv", tmp_path / "BraTS2021_00000"):
        with pytest.raises(InputError, match="cannot write"):
            index_folder(tmp_path).write(out)
    assert not list(tmp_path.rglob(".aside*"))


# --- real scans -------------------------------------------------------------------------------------------------------

REAL = {
    "open_ms": ("lesion", {"t2f": "FLAIR_*", "t1n": "T1_*", "t1c": "T1POST_*", "t2w": "T2_*"}, "GOLD*", "", 3),
    "isles22": ("lesion", {"adc": "*_adc*", "dwi": "*0001_dwi*", "t2f": "*_flair_res*"}, "*_msk*", "", 1),
    "brats15": ("brats2015", {"t2f": "Flair_*", "t1c": "T1c_*"}, "OTMulti*", "brainmask*", 3),
}


@pytest.mark.real
@pytest.mark.parametrize("name", REAL)
def test_real_cohorts_by_patterns(real_data, tmp_path, name):
    schema, patterns, label, mask, subjects = REAL[name]
    indexed = index_folder(real_data / name, schema, patterns, label, mask, shares="1:1:1")
    manifest = read_manifest(indexed.write(tmp_path / "m.csv"))
    assert len(manifest) == subjects
    assert manifest.modalities == tuple(patterns)
    columns = {*patterns, "label"} | ({"mask"} if mask else set())
    for subject in manifest:
        assert set(subject.files) == columns
        assert all(path.is_file() for path in subject.files.values())
