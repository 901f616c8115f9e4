"""What is exported is read back as the same cohort; nnU-Net can paint the labels from the regions that it is told."""

import json
from pathlib import Path

import layouts
import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from monai.data import load_decathlon_datalist

from mtg_lab import vocabulary
from mtg_lab.errors import InputError
from mtg_lab.exporting import convert_labels, export_monai, export_nnunet, region_labels
from mtg_lab.files import content_fingerprint
from mtg_lab.indexing import index_folder
from mtg_lab.manifest import read_manifest, write_manifest
from mtg_lab.schemas import SCHEMAS, consecutive

COUNTED = [consecutive(s) for s in SCHEMAS.values()]


def cohort_of(folder: Path, rows, modalities=("t1c", "t2f"), ending=".nii.gz", schema="brats2023", values=(1, 2, 3)):
    """A manifest of miniature scans: each row is (name, split, site, modalities that are there, has a label)."""
    written = []
    for name, split, site, there, labelled in rows:
        row = {"subject": name, "split": split, "site": site}
        row |= {m: str(layouts.scan(folder / name / f"{name}-{m}{ending}", len(written))) for m in there}
        if labelled:
            row |= {"schema": schema, "label": str(layouts.label(folder / name / f"{name}-seg{ending}", values))}
        written.append(row)
    return read_manifest(write_manifest(written, modalities, folder / "m.csv"))


ROWS = [
    ("P1", "train", "A", ("t1c", "t2f"), True),
    ("P2.b", "val", "B", ("t1c", "t2f"), True),
    ("P-3", "test", "", ("t1c", "t2f"), True),
    ("P4", "", "", ("t1c", "t2f"), True),
    ("P5", "test", "A", ("t1c", "t2f"), False),
    ("P6", "", "", ("t1c", "t2f"), False),
]


def same(one, other):
    """Two manifests hold one cohort in any order of rows: splits, sites, schema, channels, contents."""
    assert one.modalities == other.modalities
    for a, b in zip(*(sorted(m, key=lambda s: s.name) for m in (one, other)), strict=True):
        assert (a.name, a.split, a.site, a.label is None) == (b.name, b.split, b.site, b.label is None)
        assert a.label is None or a.schema == b.schema
        ours, theirs = ({c: content_fingerprint(p) for c, p in s.files.items()} for s in (a, b))
        assert ours == theirs
    if any(s.label for s in one):
        assert one.schema == other.schema
        assert list(one.schema.regions) == list(other.schema.regions)


def back(folder, path):
    return read_manifest(index_folder(folder).write(path))


@pytest.mark.parametrize("ending", [".nii.gz", ".nii"])
@pytest.mark.parametrize("copy", [False, True])
def test_what_nnunet_gets_is_read_back(tmp_path, ending, copy):
    cohort = cohort_of(tmp_path / "scans", ROWS, ending=ending)
    folder = export_nnunet(cohort, tmp_path / "Dataset001_Mine", copy=copy)
    same(cohort, back(folder, tmp_path / "back.csv"))
    assert (folder / "imagesTr" / f"P1_0000{ending}").is_symlink() != copy
    facts = json.loads((folder / "dataset.json").read_text())
    assert facts["channel_names"] == {"0": "t1c", "1": "t2f"}
    assert facts["labels"] == {"background": 0, "WT": [1, 2, 3], "TC": [1, 3], "ET": [3]}
    assert (facts["regions_class_order"], facts["numTraining"], facts["file_ending"]) == ([2, 1, 3], 3, ending)
    assert json.loads((folder / "splits_final.json").read_text()) == [{"train": ["P1"], "val": ["P2.b"]}]
    assert sorted(p.name for p in (folder / "labelsTs").iterdir()) == [f"P-3{ending}"]


def test_what_monai_gets_is_read_back_and_monai_reads_it(tmp_path):
    cohort = cohort_of(tmp_path / "scans", ROWS)
    path = export_monai(cohort, tmp_path / "list.json")
    same(cohort, back(path, tmp_path / "back.csv"))
    (first, *_) = load_decathlon_datalist(str(path), True, "training")
    assert [Path(p).name for p in first["image"]] == ["P1-t1c.nii.gz", "P1-t2f.nii.gz"]
    assert all(Path(p).is_file() for p in [*first["image"], first["label"]])
    assert len(load_decathlon_datalist(str(path), True, "validation")) == 1
    assert str(tmp_path) not in path.read_text(), "relative, so that the folder can move"


rows = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", "c", "d"]), st.sampled_from(["train", "val", "test", ""]),
        st.sampled_from(["", "A", "B"]), st.just(("t1c", "t2f")), st.booleans(),
    ),
    min_size=1, max_size=4, unique_by=lambda r: r[0],
)  # fmt: skip


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows, st.booleans())
def test_any_cohort_comes_back(tmp_path_factory, drawn, monai):
    folder = tmp_path_factory.mktemp("round")
    cohort = cohort_of(folder / "scans", drawn)
    out = export_monai(cohort, folder / "list.json") if monai else export_nnunet(cohort, folder / "d")
    same(cohort, back(out, folder / "back.csv"))


@pytest.mark.parametrize("export", [export_nnunet, export_monai])
def test_absent_modalities_are_refused_or_filled_and_come_back_absent(tmp_path, export):
    cohort = cohort_of(tmp_path / "scans", [ROWS[0], ("Q", "train", "", ("t2f",), True)])
    with pytest.raises(InputError, match=r"subject Q has no t1c; the format needs every channel.*--fill-zeros"):
        export(cohort, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    out = export(cohort, tmp_path / "out", fill_zeros=True)
    restored = back(out, tmp_path / "back.csv")
    assert list(restored["Q"].images) == ["t2f"]
    same(cohort, restored)
    zeros = [p for p in (tmp_path / "out").rglob("*Q*.nii.gz") if not np.asarray(nib.load(p).dataobj).any()]
    assert len(zeros) == 1
    assert nib.load(zeros[0]).shape == layouts.SHAPE


def test_the_decathlon_s_volumes_are_files_for_nnunet_and_whole_for_monai(tmp_path):
    source = layouts.decathlon(tmp_path / "Task01_BrainTumour", training=2, test=1)
    cohort = back(source, tmp_path / "m.csv")
    folder = export_nnunet(cohort, tmp_path / "d")
    whole = nib.load(source / "imagesTr" / "BRATS_001.nii.gz").get_fdata()
    for channel in range(4):
        image = nib.load(folder / "imagesTr" / f"BRATS_001_{channel:04d}.nii.gz")
        np.testing.assert_array_equal(image.get_fdata(), whole[..., channel])
    path = export_monai(cohort, tmp_path / "list.json")
    entries = load_decathlon_datalist(str(path), True, "training")
    assert all(e["image"] == str(source / "imagesTr" / f"{e['subject']}.nii.gz") for e in entries)
    same(cohort, back(path, tmp_path / "back.csv"))


@pytest.mark.parametrize("schema", COUNTED, ids=lambda s: s.name)
def test_nnunet_paints_the_labels_from_the_regions(schema):
    """nnU-Net writes its regions one over the other in ``regions_class_order`` (its documentation of regions)."""
    labels, order = region_labels(schema)
    assert labels.pop("background") == 0
    truth = np.array([0, *schema.values])
    if order is None:
        members = {n: v if isinstance(v, list) else [v] for n, v in labels.items()}
        assert sorted(v for group in members.values() for v in group) == list(schema.values)
        return
    painted = np.zeros_like(truth)
    for (_, members), value in zip(labels.items(), order, strict=True):
        painted[np.isin(truth, members)] = value
    np.testing.assert_array_equal(painted, truth)
    assert {n: tuple(v) for n, v in labels.items()} == dict(schema.regions)


def test_regions_that_cannot_be_painted_are_written_label_by_label():
    assert region_labels(consecutive(SCHEMAS["brats2015"])) == (
        {"background": 0, "NCR": 1, "ED": 2, "NET": 3, "ET": 4}, None
    )  # fmt: skip


def test_labels_that_do_not_count_up_must_be_converted_first(tmp_path):
    cohort = cohort_of(tmp_path / "s", ROWS[:2], schema="brats2021", values=(1, 2, 4))
    with pytest.raises(InputError, match=r"brats2021 has 1, 2, 4; .* --schema brats2023 --out DIR"):
        export_nnunet(cohort, tmp_path / "d")
    heart = cohort_of(tmp_path / "h", ROWS[:2], schema="myops2020", values=(200, 500, 600, 1220, 2221))
    with pytest.raises(InputError, match="--schema consecutive"):
        export_nnunet(heart, tmp_path / "d")
    dense = read_manifest(convert_labels(heart, "consecutive", tmp_path / "dense"))
    same(dense, back(export_nnunet(dense, tmp_path / "d"), tmp_path / "back.csv"))
    assert dense.schema.name == "myops2020_consecutive"


def test_a_place_that_is_taken_is_left_alone(tmp_path):
    cohort = cohort_of(tmp_path / "s", ROWS[:1])
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "mine").write_text("mine")
    (tmp_path / "d" / "datalist.json").write_text("mine")
    for act in (export_nnunet, export_monai, lambda m, out: convert_labels(m, "brats2021", out)):
        with pytest.raises(InputError, match="is there already"):
            act(cohort, tmp_path / "d")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["d", "s"]


def test_a_name_that_is_no_file_s_is_told(tmp_path):
    cohort = cohort_of(tmp_path / "s", ROWS[:1])
    cohort.path.write_text(cohort.path.read_text().replace("P1,", "../P1,", 1))
    for act in (export_nnunet, export_monai, lambda m, out: convert_labels(m, "brats2021", out)):
        with pytest.raises(InputError, match=r"subject '\.\./P1' cannot name a file"):
            act(read_manifest(cohort.path), tmp_path / "d")


# --- conversion -------------------------------------------------------------------------------------------------------


def test_converted_labels_keep_their_regions_and_their_grid(tmp_path):
    cohort = cohort_of(tmp_path / "s", ROWS[:5], schema="brats2024", values=(1, 2, 3, 4))
    moved = read_manifest(convert_labels(cohort, "brats2021", tmp_path / "out"))
    assert moved.schema is vocabulary.schema("brats2021")
    for before, after in zip(cohort, moved, strict=True):
        assert (before.name, before.split, before.site) == (after.name, after.split, after.site)
        assert dict(before.images) == dict(after.images), "scans stay where they are"
        if before.label is None:
            assert after.label is None
            continue
        one, other = nib.load(before.label), nib.load(after.label)
        np.testing.assert_array_equal(one.affine, other.affine)
        assert other.get_data_dtype() == np.uint8
        for region in ("WT", "TC", "ET"):
            np.testing.assert_array_equal(
                np.isin(one.dataobj, cohort.schema.regions[region]),
                np.isin(other.dataobj, moved.schema.regions[region]),
            )
        assert not np.asarray(other.dataobj)[np.asarray(one.dataobj) == 4].any(), "the cavity is no tumour"


def test_a_label_outside_its_schema_is_not_converted(tmp_path):
    cohort = cohort_of(tmp_path / "s", ROWS[:1], values=(1, 2, 3, 4))
    with pytest.raises(InputError, match=r"subject P1: the label holds 4, schema brats2023 knows 0, 1, 2, 3"):
        convert_labels(cohort, "brats2021", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.real
def test_real_float_labels_are_converted(real_data, tmp_path):
    found = index_folder(
        real_data / "brats15", "brats2015", {"t2f": "Flair_*", "t1c": "T1c_*"}, "OTMulti*", "brainmask*"
    )
    cohort = read_manifest(found.write(tmp_path / "m.csv")).limit(train=1)
    one = cohort.__class__(cohort.path, cohort.modalities, cohort.subjects[:1])
    moved = read_manifest(convert_labels(one, "brats2023", tmp_path / "out"))
    before, after = (np.rint(nib.load(m.subjects[0].label).get_fdata()) for m in (one, moved))
    for region in ("WT", "TC", "ET"):
        truth = np.isin(before, one.schema.regions[region])
        np.testing.assert_array_equal(truth, np.isin(after, moved.schema.regions[region]))
        assert truth.any()
