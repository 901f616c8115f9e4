"""Doctor names every fault in one line: what was found, where, and how to mend it."""

import gzip
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mtg_lab import scans
from mtg_lab.doctor import check, doctor
from mtg_lab.errors import InputError
from mtg_lab.findings import CODES
from mtg_lab.manifest import write_manifest

MODALITIES = ("t1c", "t2f", "t2w")
SHAPE = (8, 10, 6)


class Cohort:
    """Nine small subjects on disk, three in each split, and the means to spoil them one cell at a time."""

    def __init__(self, folder, nifti, seed=0):
        self.folder, self.nifti = folder, nifti
        self.rows = {}
        rng = np.random.default_rng(seed)
        for number in range(1, 10):
            name, split = f"P{number}", ("test", "train", "val")[number % 3]
            self.rows[name] = {"subject": name, "split": split, "schema": "brats2023"}
            for column in (*MODALITIES, "label"):
                voxels = np.zeros(SHAPE, np.int16)
                inner = voxels[2:-2, 2:-2, 2:-2]
                inner[:] = rng.integers(1, 4, inner.shape) if column == "label" else rng.integers(1, 99, inner.shape)
                self.put(name, column, voxels)

    def path(self, name, column):
        return self.folder / self.rows[name][column]

    def put(self, name, column, voxels, affine=None):
        self.rows[name][column] = f"{name}-{column}.nii.gz"
        return self.nifti(self.path(name, column), voxels, affine)

    def voxels(self, name, column):
        return np.asarray(scans.load_image(self.path(name, column)).dataobj)

    def findings(self):
        return check(self.manifest()).findings

    def manifest(self):
        return write_manifest(list(self.rows.values()), MODALITIES, self.folder / "data_manifest.csv")


@pytest.fixture
def patients(tmp_path, nifti):
    return Cohort(tmp_path, nifti)


def background(cohort):
    cohort.put("P2", "t2w", cohort.voxels("P2", "t2w") + 3)


def other_shape(cohort):
    cohort.put("P2", "t1c", np.pad(cohort.voxels("P2", "t1c"), 1))


def other_spacing(cohort):
    # 0.02 mm a voxel is 0.18 mm at the far end of ten voxels.
    cohort.put("P2", "t2f", cohort.voxels("P2", "t2f"), np.diag([2.0, 2.02, 2.0, 1]))


def mirrored(cohort):
    cohort.put("P2", "label", cohort.voxels("P2", "label"), np.diag([-2.0, 2, 2, 1]))


def missing(cohort):
    cohort.path("P2", "t2w").unlink()


def four_channels(cohort):
    cohort.put("P2", "t2w", np.ones((*SHAPE, 4), np.int16))


def no_nifti(cohort):
    cohort.path("P2", "t2w").write_bytes(b"this is a text about a scan" * 40)


def empty_file(cohort):
    cohort.path("P2", "t2w").write_bytes(b"")


def cut_short(cohort):
    content = cohort.path("P2", "t2w").read_bytes()
    cohort.path("P2", "t2w").write_bytes(content[: len(content) * 2 // 3])


def flipped_byte(cohort):
    content = bytearray(cohort.path("P2", "t2w").read_bytes())
    content[-60] ^= 0xFF
    cohort.path("P2", "t2w").write_bytes(content)


def colours(cohort):
    cohort.put("P2", "t2w", np.zeros(SHAPE, [("R", "u1"), ("G", "u1"), ("B", "u1")]))


def not_a_number(cohort):
    voxels = cohort.voxels("P2", "t2w").astype(np.float32)
    voxels[3, 3, 3:5] = np.nan, np.inf
    cohort.put("P2", "t2w", voxels)


def constant(cohort):
    cohort.put("P2", "t2w", np.zeros(SHAPE, np.int16))


def label_of_another_year(cohort):
    voxels = cohort.voxels("P2", "label")
    voxels[voxels == 3] = 4
    cohort.put("P2", "label", voxels)


def interpolated_label(cohort):
    cohort.put("P2", "label", cohort.voxels("P2", "label") * np.float32(0.4))


def label_not_a_number(cohort):
    voxels = cohort.voxels("P2", "label").astype(np.float32)
    voxels[0, 0, 0] = np.nan
    cohort.put("P2", "label", voxels)


def unknown_schema(cohort):
    cohort.rows["P2"]["schema"] = "brats2032"


def empty_row(cohort):
    cohort.rows["P2"] |= dict.fromkeys(MODALITIES, "")


def same_patient_twice(cohort):
    shutil.copy(cohort.path("P1", "t2w"), cohort.path("P2", "t2w"))


def same_cell_twice(cohort):
    cohort.rows["P2"]["t2w"] = cohort.rows["P2"]["t2f"]


def two_schemas(cohort):
    cohort.rows["P2"]["schema"] = "brats2024"


def no_foreground(cohort):
    cohort.put("P2", "label", np.zeros(SHAPE, np.uint8))


def no_label(cohort):
    cohort.rows["P2"]["label"] = ""


def float_label(cohort):
    cohort.put("P2", "label", cohort.voxels("P2", "label").astype(np.float32))


def saturated(cohort):
    voxels = cohort.voxels("P2", "t2w")
    voxels[voxels > 50] = 4095
    cohort.put("P2", "t2w", voxels)


def negative(cohort):
    voxels = cohort.voxels("P2", "t2w")
    voxels[2:4, 2, 2:4] = -7
    cohort.put("P2", "t2w", voxels)


def skull_left_on(cohort):
    voxels = cohort.voxels("P2", "t2w")
    voxels[1:-1, 1:-1, 1:-1] += 1
    cohort.put("P2", "t2w", voxels)


def tumour_outside(cohort):
    voxels = cohort.voxels("P2", "label")
    voxels[0, :3, 0] = 1  # 3 of 51 voxels
    cohort.put("P2", "label", voxels)


def tumour_elsewhere(cohort):
    cohort.put("P2", "label", np.roll(cohort.voxels("P2", "label"), (4, 5, 3), (0, 1, 2)))


def cavity_outside(cohort):
    """What is cut out is black in every sequence and no tumour; the other labels fit a schema of that year."""
    for row in cohort.rows.values():
        row["schema"] = "brats2024"
    voxels = cohort.voxels("P2", "label")
    voxels[0, :3, 0] = 4
    cohort.put("P2", "label", voxels)


def nowhere_in_space(cohort):
    for name in cohort.rows:  # what nibabel makes of a header that says nothing
        for column in (*MODALITIES, "label"):
            cohort.put(name, column, cohort.voxels(name, column), np.diag([-2.0, 2, 2, 1]))
    for column in (*MODALITIES, "label"):
        image = nib.load(cohort.path("P2", column))
        image.header["sform_code"] = image.header["qform_code"] = 0
        nib.Nifti1Image(np.asarray(image.dataobj), None, image.header).to_filename(cohort.path("P2", column))


def thick_slices(cohort):
    for name in cohort.rows:
        for column in (*MODALITIES, "label"):
            cohort.put(name, column, cohort.voxels(name, column), np.diag([1.0, 1, 5, 1]))


def one_in_another_orientation(cohort):
    for column in (*MODALITIES, "label"):
        cohort.put("P2", column, cohort.voxels("P2", column), np.diag([-2.0, -2, 2, 1]))


def one_in_another_spacing(cohort):
    for column in (*MODALITIES, "label"):
        cohort.put("P2", column, cohort.voxels("P2", column), np.diag([1.0, 1, 1, 1]))


def copied_across_the_split(cohort):
    rng = np.random.default_rng(1)
    voxels = cohort.voxels("P1", "t1c")
    cohort.put("P2", "t1c", (3.5 * voxels + (voxels > 0) * rng.normal(10, 3, SHAPE)).astype(np.float32))


def copied_within_the_split(cohort):
    cohort.put("P5", "t1c", 3 * cohort.voxels("P2", "t1c"))


def rarely_a_sequence(cohort):
    for name in ("P1", "P2"):
        cohort.rows[name]["t2w"] = ""


def never_a_sequence_in_val(cohort):
    for name in ("P2", "P5", "P8"):
        cohort.rows[name]["t2w"] = ""


def no_enhancement_in_val(cohort):
    for name in ("P2", "P5", "P8"):
        voxels = cohort.voxels(name, "label")
        cohort.put(name, "label", np.where(voxels == 3, 1, voxels))


def no_val(cohort):
    for name in ("P2", "P5", "P8"):
        cohort.rows[name]["split"] = "train"


def small_val(cohort):
    cohort.rows["P2"]["split"] = "train"


def two_without_split(cohort):
    for name in ("P2", "P3"):
        cohort.rows[name]["split"] = ""
    for name in ("P1", "P4"):
        cohort.rows[name + "b"] = {**cohort.rows[name], "subject": name + "b"}
        for column in (*MODALITIES, "label"):
            voxels = np.random.default_rng(len(name + column)).permuted(cohort.voxels(name, column)[2:-2, 2:-2, 2:-2])
            cohort.put(name + "b", column, np.pad(voxels, 2))
        cohort.rows[name + "b"]["split"] = {"P1": "val", "P4": "test"}[name]


# What is spoilt, the code and the severity of what doctor tells of it, and the line.
FAULTS = [
    (missing, "file-unreadable", "error", "subject P2: t2w: no such file: {}; mend the path or leave the cell empty"),
    (other_shape, "grid-shape", "error", "subject P2: t1c is 10x12x8, t2f is 8x10x6; resample t1c to t2f's grid or "
                                         "leave its cell empty; file {P2-t1c}"),
    (other_spacing, "grid-affine", "error", "subject P2: t2f and t1c share the shape but not the affine (corners lie "
                                            "0.18 mm apart); resample t2f to t1c's grid or leave its cell empty"),
    (mirrored, "grid-orientation", "error", "subject P2: label is stored as LAS, t1c as RAS (corners lie 28 mm apart); "
                                            "resample label"),
    (four_channels, "file-unreadable", "error", "subject P2: t2w: {} has shape 8x10x6x4, 4 volumes; three dimensions"),
    (no_nifti, "file-unreadable", "error", "subject P2: t2w: {} is not a readable NIfTI file"),
    (empty_file, "file-unreadable", "error", "subject P2: t2w: {} is not a readable NIfTI file"),
    (cut_short, "file-unreadable", "error", "subject P2: t2w: {} is cut short or damaged"),
    (flipped_byte, "file-unreadable", "error", "subject P2: t2w: {} is cut short or damaged"),
    (colours, "file-unreadable", "error", "subject P2: t2w: {} holds [('R', 'u1'), ('G', 'u1'), ('B', 'u1')] voxels; "
                                          "one real number"),
    (not_a_number, "not-finite", "error", "subject P2: t2w has 2 voxels that are NaN or infinite; replace them in {}"),
    (constant, "constant", "error", "subject P2: t2w is constant (0); replace {} or leave its cell empty"),
    (label_of_another_year, "label-value", "error", "subject P2: the label holds 4, schema brats2023 knows 0, 1, 2, 3; "
        "name the right schema (its values fit brats2021, brats2024, brats2015 and others) or convert {P2-label}"),
    (interpolated_label, "label-fraction", "error", "subject P2: the label holds 0.4, 0.8, 1.2, schema brats2023 knows "
        "0, 1, 2, 3; interpolate labels by nearest neighbour only and convert {P2-label}"),
    (label_not_a_number, "label-fraction", "error", "subject P2: the label holds nan, schema brats2023 knows"),
    (unknown_schema, "row", "error", "line 3: subject P2: unknown label schema 'brats2032'; known: brats2023"),
    (empty_row, "row", "error", "line 3: subject P2: the row is empty, no modality has a file; fill one or drop it"),
    (same_patient_twice, "same-content", "error", "the same content stands in 2 places: P1/t2w, P2/t2w; keep one"),
    (same_cell_twice, "same-content", "error", "the same content stands in 2 places: P2/t2f, P2/t2w; keep one"),
    (two_schemas, "schemas", "error", "the rows name the schemas brats2023, brats2024; a cohort has one"),
    (background, "background", "warning", "subject P2: t2w has a background of 3, not zero; name a brain mask in the "
                                          "column 'mask' ({})"),
    (no_foreground, "label-empty", "warning", "subject P2: the label has no foreground; check {P2-label}"),
    (no_label, "label-missing", "warning", "subject P2: it has no label; training and scoring need one, fill the cell "
                                           "or empty 'split'"),
    (float_label, "label-float", "note", "subject P2: the label is stored as float32, all values are whole; nothing"),
    (saturated, "saturated", "warning", "at 4095, the ceiling of an integer type; brighter tissue is cut off"),
    (negative, "negative-values", "note", "subject P2: t2w is negative in 8.3 % of the brain, down to -7; no fault"),
    (skull_left_on, "brain-differs", "warning", "subject P2: t2w covers another brain than the other sequences (Dice "
                                                "0.40); strip all sequences with one brain mask"),
    (tumour_outside, "label-outside", "warning", "subject P2: 6 % of the tumour lie outside the brain; check that"),
    (tumour_elsewhere, "label-outside", "error", "subject P2: 100 % of the tumour lie outside the brain; check that"),
    (nowhere_in_space, "affine-unset", "warning", "subject P2: the header of t1c, t2f, t2w, label does not say where"),
    (copied_across_the_split, "near-identical", "error", "P1 (train), P2 (val) look like one scan in t1c (correlation"),
    (copied_within_the_split, "near-identical", "warning", "P2 (val), P5 (val) look like one scan in t1c (correlation"),
    (one_in_another_orientation, "orientation-differs", "note", "2 orientations: RAS (8 subjects, as P1), LPS (1"),
    (one_in_another_spacing, "spacing-differs", "note", "2 spacings: 2x2x2 mm (8 subjects, as P1), 1x1x1 mm (1 subjec"),
    (rarely_a_sequence, "modality-missing", "note", "t2w is missing in train 1 of 3, val 1 of 3, test 0 of 3 subjects"),
    (never_a_sequence_in_val, "modality-missing", "warning", "t2w is missing in train 0 of 3, val 3 of 3, test 0 of 3"),
    (no_enhancement_in_val, "region-absent", "warning", "no subject of split val has ET (3 with a label); scores"),
    (no_val, "split-absent", "note", "no row is in split val; move some subjects to val"),
    (small_val, "split-tiny", "note", "splits of fewer than 3 subjects: val 2; a mean over them says little"),
    (two_without_split, "split-absent", "note", "2 of 11 rows have no split and are never used; fill 'split'"),
]  # fmt: skip


def test_a_clean_cohort_has_no_findings(patients, cohort):
    assert patients.findings() == ()
    # Nine phantoms are few: two of them need not have every region, nor every site a subject in each split.
    assert {f.code for f in doctor(cohort) if f.severity != "note"} <= {"region-absent", "site-one-split"}
    assert not [f for f in doctor(cohort) if f.severity == "error"]


@pytest.mark.parametrize(("spoil", "code", "severity", "told"), FAULTS, ids=lambda f: getattr(f, "__name__", ""))
def test_a_fault_is_one_line(patients, spoil, code, severity, told):
    spoil(patients)
    # A row that is left out makes its split a small one.
    (finding,) = [f for f in patients.findings() if f.code != "split-tiny" or code == "split-tiny"]
    for name in ("P2-t1c", "P2-t2f", "P2-label"):
        told = told.replace(f"{{{name}}}", str(patients.folder / f"{name}.nii.gz"))
    line = str(finding)
    assert told.replace("{}", str(patients.folder / "P2-t2w.nii.gz")) in line
    assert (finding.severity, finding.code) == (severity, code)
    assert line == f"{severity}: {finding.line}; {finding.mend}"
    assert line.count("\n") == 0
    assert finding.line
    assert finding.mend
    assert (finding.subject == "") == (code in COHORT_CODES)
    assert not finding.file or Path(finding.file).name in line or Path(finding.file).is_file() or spoil is missing


COHORT_CODES = {"row", "schemas", "orientation-differs", "spacing-differs", "modality-missing", "region-absent",
                "split-absent", "split-tiny", "site-one-split", "site-imbalance"}  # fmt: skip


def test_every_code_is_explained_and_provoked():
    provoked = {code for _, code, _, _ in FAULTS} | {"site-one-split", "site-imbalance", "spacing-anisotropic"}
    assert provoked == set(CODES)


def test_faults_of_one_manifest_are_all_told(patients):
    codes = {}
    for number, (spoil, code, _, _) in enumerate(FAULTS):
        if spoil in (same_patient_twice, two_schemas, empty_file, colours, missing) or code in COHORT_CODES - {"row"}:
            continue
        if code == "near-identical":
            continue
        fresh = Cohort(patients.folder / str(number), patients.nifti, seed=100 + number)
        spoil(fresh)
        row = {**fresh.rows["P2"], "subject": f"S{number}"}
        row |= {c: f"{number}/{row[c]}" for c in (*MODALITIES, "label") if row[c]}
        patients.rows[f"S{number}"] = row
        codes[f"S{number}"] = code
    findings = [f for f in patients.findings() if f.code != "orientation-differs"]  # of the one that lies nowhere
    told = {name: [f.code for f in findings if f"subject {name}:" in f.line or f"{name}/" in f.line] for name in codes}
    assert told == {name: [code] for name, code in codes.items()}
    assert len(findings) == len(codes)


def test_thick_slices_are_warned_of(patients):
    thick_slices(patients)
    findings = patients.findings()
    assert {(f.severity, f.code) for f in findings} == {("warning", "spacing-anisotropic")}
    assert "voxels of 1x1x5 mm are 5.0 times as long as wide" in findings[0].line
    assert len(findings) == 9


def test_the_odd_grid_is_blamed_even_if_it_comes_first(patients):
    patients.put("P1", "t1c", np.ones((20, 20, 4), np.int16) * np.arange(4, dtype=np.int16))
    (finding,) = [f for f in patients.findings() if f.severity == "error"]
    assert "t1c is 20x20x4, t2f is 8x10x6; resample t1c to t2f's grid" in str(finding)


def test_the_last_digits_of_an_affine_do_not_matter(patients):
    patients.put("P2", "t2f", patients.voxels("P2", "t2f"), np.diag([2.0, 2.0001, 2.0, 1]))
    assert patients.findings() == ()


def test_a_mask_mends_a_background_that_is_not_zero(patients):
    background(patients)
    patients.put("P2", "mask", (patients.voxels("P2", "label") > 0).astype(np.uint8))
    (finding,) = patients.findings()
    assert (finding.severity, finding.code) == ("note", "background")
    assert "nothing to do" in finding.mend


def test_inside_a_mask_another_field_of_view_does_not_matter(patients):
    skull_left_on(patients)
    patients.put("P2", "mask", (patients.voxels("P2", "label") > 0).astype(np.uint8))
    assert patients.findings() == ()


def test_four_is_no_fault_where_it_is_a_cavity_or_enhances(patients):
    label_of_another_year(patients)
    for schema in ("brats2024", "brats2015"):
        for row in patients.rows.values():
            row["schema"] = schema
        assert [f for f in patients.findings() if f.code != "region-absent"] == []


def test_a_cavity_outside_the_brain_is_no_tumour(patients):
    cavity_outside(patients)
    assert patients.findings() == ()


def test_two_healthy_subjects_may_share_an_empty_label(patients):
    for name in ("P1", "P2"):
        patients.put(name, "label", np.zeros(SHAPE, np.uint8))
    assert {f.severity for f in patients.findings()} == {"warning"}


def test_a_cohort_without_splits_is_warned_of(patients):
    for row in patients.rows.values():
        del row["split"]
    (finding,) = patients.findings()
    assert (finding.severity, finding.code, finding.subject) == ("warning", "split-absent", "")
    assert "no row has a split; fill 'split' with train, val or test" in str(finding)


def test_volumes_of_regions_are_measured(patients):
    """Two millimetres of edge are 8 cubic millimetres a voxel."""
    (first, *_) = check(patients.manifest()).examinations
    label = patients.voxels("P1", "label")
    assert first.region_ml == pytest.approx({"WT": 0.008 * 48, "TC": 0.008 * np.isin(label, (1, 3)).sum(),
                                             "ET": 0.008 * (label == 3).sum()})  # fmt: skip
    assert (first.shape, first.spacing, first.orientation) == (SHAPE, (2, 2, 2), "RAS")


def test_a_file_is_decoded_once(patients, monkeypatch):
    """Reading is what takes the time."""
    from mtg_lab import examination

    read = []
    monkeypatch.setattr(examination, "read_voxels", lambda i: read.append(i.get_filename()) or scans.read_voxels(i))
    patients.findings()
    assert len(read) == len(set(read)) == 9 * 4


def test_a_table_of_faulty_rows_alone_is_examined(patients):
    for row in patients.rows.values():
        row["split"] = "dev"
    assert [f.code for f in patients.findings()] == ["row"] * 9


def test_a_manifest_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        doctor(tmp_path / "none.csv")


@settings(max_examples=40)
@given(st.data())
def test_damage_anywhere_is_a_line_or_harmless_but_never_a_traceback(tmp_path_factory, nifti, data):
    folder = tmp_path_factory.mktemp("damage")
    ending = data.draw(st.sampled_from([".nii", ".nii.gz"]))
    path = nifti(folder / f"a{ending}", np.arange(60, dtype=np.int16).reshape(3, 4, 5))
    content = bytearray(gzip.decompress(path.read_bytes()) if data.draw(st.booleans()) and ending == ".nii.gz"
                        else path.read_bytes())  # fmt: skip
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=3)):
        content[place] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    line = ""
    try:
        scans.read_voxels(scans.load_image(path))
    except InputError as refusal:
        line = str(refusal)
    assert line == "" or (str(path) in line and "\n" not in line)
