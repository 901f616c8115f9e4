"""Doctor names every fault in one line: what was found, where, and how to mend it."""

import gzip
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mtg_lab import doctor as room
from mtg_lab.doctor import doctor
from mtg_lab.errors import InputError
from mtg_lab.manifest import write_manifest

MODALITIES = ("t1c", "t2f", "t2w")
SHAPE = (8, 10, 6)


class Cohort:
    """Three small healthy subjects on disk, and the means to spoil them one cell at a time."""

    def __init__(self, folder, nifti):
        self.folder, self.nifti = folder, nifti
        self.rows = {}
        rng = np.random.default_rng(0)
        for name, split in (("P1", "train"), ("P2", "val"), ("P3", "test")):
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
        return np.asarray(room.load_image(self.path(name, column)).dataobj)

    def findings(self):
        return doctor(write_manifest(list(self.rows.values()), MODALITIES, self.folder / "data_manifest.csv"))


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


FAULTS = [
    (missing, "error", "subject P2: t2w: no such file: {}; mend the path or leave the cell empty"),
    (other_shape, "error", "subject P2: t1c is 10x12x8, t2f is 8x10x6; resample t1c to t2f's grid or leave its cell "
                           "empty; file {P2-t1c}"),
    (other_spacing, "error", "subject P2: t2f and t1c share the shape but not the affine (corners lie 0.18 mm apart); "
                             "resample t2f to t1c's grid or leave its cell empty; file {P2-t2f}"),
    (mirrored, "error", "label and t1c share the shape but not the affine (corners lie 28 mm apart); resample label"),
    (four_channels, "error", "subject P2: t2w: {} has shape 8x10x6x4, 4 volumes; three dimensions are needed"),
    (no_nifti, "error", "subject P2: t2w: {} is not a readable NIfTI file"),
    (empty_file, "error", "subject P2: t2w: {} is not a readable NIfTI file"),
    (cut_short, "error", "subject P2: t2w: {} is cut short or damaged"),
    (flipped_byte, "error", "subject P2: t2w: {} is cut short or damaged"),
    (colours, "error", "subject P2: t2w: {} holds [('R', 'u1'), ('G', 'u1'), ('B', 'u1')] voxels; one real number"),
    (not_a_number, "error", "subject P2: t2w has 2 voxels that are NaN or infinite; replace them in {}"),
    (constant, "error", "subject P2: t2w is constant (0); replace {} or leave its cell empty"),
    (label_of_another_year, "error", "subject P2: the label holds 4, schema brats2023 knows 0, 1, 2, 3; name the right "
                                     "schema or convert {P2-label}"),
    (interpolated_label, "error", "subject P2: the label holds 0.4, 0.8, 1.2, schema brats2023 knows 0, 1, 2, 3;"),
    (label_not_a_number, "error", "subject P2: the label holds nan, schema brats2023 knows"),
    (unknown_schema, "error", "line 3: subject P2: unknown label schema 'brats2032'; known: brats2023"),
    (empty_row, "error", "line 3: subject P2: the row is empty, no modality has a file; fill one or drop it"),
    (same_patient_twice, "error", "the same content stands in 2 places: P1/t2w, P2/t2w; keep one"),
    (same_cell_twice, "error", "the same content stands in 2 places: P2/t2f, P2/t2w; keep one"),
    (two_schemas, "error", "the rows name the schemas brats2023, brats2024; a cohort has one"),
    (background, "warning", "subject P2: t2w has a background that is not zero; name a brain mask in the column 'mask' "
                            "({})"),
    (no_foreground, "warning", "subject P2: the label has no foreground; check {P2-label}"),
    (no_label, "warning", "subject P2: it has no label; training and scoring need one, fill the cell or empty 'split'"),
]  # fmt: skip


def test_a_clean_cohort_has_no_findings(patients, cohort):
    assert patients.findings() == []
    assert doctor(cohort) == []


@pytest.mark.parametrize(("spoil", "severity", "told"), FAULTS, ids=lambda f: getattr(f, "__name__", ""))
def test_a_fault_is_one_line(patients, spoil, severity, told):
    spoil(patients)
    (finding,) = patients.findings()
    for name in ("P2-t1c", "P2-t2f", "P2-label"):
        told = told.replace(f"{{{name}}}", str(patients.folder / f"{name}.nii.gz"))
    assert told.replace("{}", str(patients.folder / "P2-t2w.nii.gz")) in finding.line
    assert finding.severity == severity
    assert finding.line.count("\n") == 0
    assert "; " in finding.line  # what it is; how to mend it
    assert str(finding) == f"{severity}: {finding.line}"
    if "line 3" not in told and spoil is not two_schemas:
        assert finding.subject in ("P2", "P1")


def test_faults_of_one_manifest_are_all_told(patients):
    names = {}
    for number, (spoil, _, _) in enumerate(FAULTS):
        if spoil in (same_patient_twice, two_schemas, empty_file, colours):
            continue
        fresh = Cohort(patients.folder / str(number), patients.nifti)
        for column in MODALITIES:  # so that no two of these subjects are one patient
            voxels = fresh.voxels("P2", column)
            voxels[4, 4, 3] = 100 + number
            fresh.put("P2", column, voxels)
        voxels = fresh.voxels("P2", "label")
        voxels[2:6, 2, 2] = [1 + number // 3**i % 3 for i in range(4)]
        fresh.put("P2", "label", voxels)
        spoil(fresh)
        row = {**fresh.rows["P2"], "subject": f"S{number}"}
        row |= {c: f"{number}/{row[c]}" for c in (*MODALITIES, "label") if row[c]}
        patients.rows[f"S{number}"] = row
        names[f"S{number}"] = spoil.__name__
    findings = patients.findings()
    told = {name: [f.line for f in findings if f"subject {name}:" in f.line or f"{name}/" in f.line] for name in names}
    assert {names[n]: len(lines) for n, lines in told.items()} == dict.fromkeys(names.values(), 1)
    assert len(findings) == len(names)


def test_the_odd_grid_is_blamed_even_if_it_comes_first(patients):
    patients.put("P1", "t1c", np.ones((20, 20, 4), np.int16) * np.arange(4, dtype=np.int16))
    (finding,) = patients.findings()
    assert "t1c is 20x20x4, t2f is 8x10x6; resample t1c to t2f's grid" in finding.line


def test_the_last_digits_of_an_affine_do_not_matter(patients):
    patients.put("P2", "t2f", patients.voxels("P2", "t2f"), np.diag([2.0, 2.0001, 2.0, 1]))
    assert patients.findings() == []


def test_a_mask_mends_a_background_that_is_not_zero(patients):
    background(patients)
    patients.put("P2", "mask", (patients.voxels("P2", "label") > 0).astype(np.uint8))
    assert patients.findings() == []


def test_four_is_no_fault_where_it_is_a_cavity_or_enhances(patients):
    label_of_another_year(patients)
    for schema in ("brats2024", "brats2015"):
        for row in patients.rows.values():
            row["schema"] = schema
        assert patients.findings() == []


def test_two_healthy_subjects_may_share_an_empty_label(patients):
    for name in ("P1", "P2"):
        patients.put(name, "label", np.zeros(SHAPE, np.uint8))
    assert {f.severity for f in patients.findings()} == {"warning"}


def test_a_cohort_without_splits_is_warned_of(patients):
    for row in patients.rows.values():
        del row["split"]
    (finding,) = patients.findings()
    assert (finding.severity, finding.subject) == ("warning", "")
    assert "no row has a split; fill 'split' with train, val or test" in finding.line


def test_a_table_of_faulty_rows_alone_is_examined(patients):
    for row in patients.rows.values():
        row["split"] = "dev"
    assert len(patients.findings()) == 3


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
        room.read_voxels(room.load_image(path))
    except InputError as refusal:
        line = str(refusal)
    assert line == "" or (str(path) in line and "\n" not in line)
