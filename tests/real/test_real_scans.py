"""Three real cohorts from doctor to a mask: foreign orientations, float labels, brain masks, two to four modalities."""

import json
from collections import Counter

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from real_cohorts import STROKE_RAW_FLAIR, isles22, real_manifests

from mtg_lab import evaluate, predict, read_manifest, train, vocabulary
from mtg_lab.data import Preprocessing, preprocessing_transform
from mtg_lab.doctor import doctor
from mtg_lab.errors import InputError
from mtg_lab.manifest import write_manifest
from mtg_lab.patients import segment, write_segmented
from mtg_lab.runs import load_run

pytestmark = pytest.mark.real

COHORTS = ("open_ms", "isles22", "brats15")
SCORED = {"open_ms": "test", "isles22": "train", "brats15": "test"}
ORIENTATION = {"open_ms": "LAS", "brats15": "LPS"}
# Millilitres of the whole lesion, measured on the files when they were chosen (the README of the scans).
LESION_ML = {"patient07": 1.3, "patient19": 49.8, "patient26": 8.2, "sub-strokecase0009": 4.2}


@pytest.fixture(scope="module")
def manifests(real_data, tmp_path_factory):
    return real_manifests(tmp_path_factory.mktemp("real"), real_data)


@pytest.fixture(scope="module")
def runs():
    """Runs of this module by cohort, trained by the first test that asks."""
    return {}


@pytest.fixture
def run_of(manifests, runs, tiny_recipe):
    def run(name):
        if name not in runs:
            runs[name] = train(tiny_recipe(manifest=str(manifests[name])))
        return runs[name]

    return run


# What doctor tells of each cohort: severity, code and how often. None is an error: all three can be trained on.
FOUND = {
    "open_ms": {("note", "negative-values"): 12, ("note", "split-tiny"): 1},
    "isles22": {
        ("note", "negative-values"): 2, ("warning", "split-absent"): 1, ("note", "split-absent"): 1,
        ("note", "split-tiny"): 1,
    },
    "brats15": {
        ("note", "background"): 6, ("note", "label-float"): 3, ("note", "negative-values"): 6,
        ("note", "split-tiny"): 1,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", COHORTS)
def test_doctor_knows_the_traits_of_each_cohort(manifests, name):
    findings = doctor(manifests[name])
    assert Counter((f.severity, f.code) for f in findings) == FOUND[name]
    lines = [str(f) for f in findings]
    if name == "open_ms":
        assert "note: subject patient07: t2f is negative in 0.42 % of the brain, down to -19.7; " in lines[0]
    if name == "brats15":
        assert "t2f has a background of -3.62, not zero; nothing to do, the mask tells what is brain" in lines[0]
        assert any("the label is stored as float32, all values are whole" in line for line in lines)


def test_without_its_mask_a_z_scored_scan_is_warned_of(manifests):
    bare = manifests["brats15"].with_name("bare.csv")
    rows = [
        {"subject": s.name, "split": s.split, "schema": s.schema} | {c: str(p) for c, p in s.files.items()}
        for s in read_manifest(manifests["brats15"]).split("train")
    ]
    findings = doctor(write_manifest([{**r, "mask": ""} for r in rows], ("t2f", "t1c"), bare))
    backgrounds = [f for f in findings if f.code == "background"]
    assert [f.severity for f in backgrounds] == ["warning", "warning"]
    assert all("name a brain mask in the column 'mask'" in f.mend for f in backgrounds)


def test_patients_registered_to_one_atlas_are_told_apart_and_a_copy_is_not(manifests, tmp_path):
    """The sclerosis patients lie in one space, where brains resemble each other most."""
    subjects = list(read_manifest(manifests["open_ms"]))
    image = nib.load(subjects[0].images["t1n"])
    voxels = np.clip(np.asarray(image.dataobj) / 4, 0, 255).astype(np.uint8)[5:-5, 5:-5, 5:-5]
    affine = image.affine.copy()
    affine[:3, 3] = nib.affines.apply_affine(affine, (5, 5, 5))
    nib.save(nib.Nifti1Image(voxels, affine), tmp_path / "copy.nii.gz")
    rows = [{"subject": s.name, "split": s.split, "t1n": str(s.images["t1n"])} for s in subjects]
    rows.append({"subject": "again", "split": "test", "t1n": str(tmp_path / "copy.nii.gz")})
    findings = doctor(write_manifest(rows, ("t1n",), tmp_path / "copies.csv"))
    (finding,) = [f for f in findings if f.code == "near-identical"]
    assert finding.severity == "error"
    assert "patient07 (train), again (test) look like one scan in t1n" in finding.line


def test_the_raw_flair_of_the_stroke_case_is_refused_with_file_both_shapes_and_the_mend(
    real_data, tmp_path, tiny_recipe
):
    rows, modalities = isles22(real_data, STROKE_RAW_FLAIR)
    told = "t2f is 512x512x29, adc is 112x112x73; resample t2f to adc's grid or leave its cell empty"
    for order in (modalities, modalities[::-1]):  # whichever comes first, the odd one out is blamed
        manifest = write_manifest(rows, order, tmp_path / "raw.csv")
        (finding,) = [f for f in doctor(manifest) if f.severity == "error"]
        assert finding.code == "grid-shape"
        assert told.replace("adc", order[0] if order[0] != "t2f" else "dwi") in str(finding)
        assert finding.file.endswith("sub-strokecase0009_ses-0001_flair.nii.gz")
    with pytest.raises(InputError, match=r"sub-strokecase0009: t2f is 512x512x29, dwi is 112x112x73; resample .*flair"):
        train(tiny_recipe(manifest=str(manifest)), tmp_path / "run")


@pytest.mark.parametrize("name", COHORTS)
def test_every_orientation_is_brought_to_right_anterior_superior(manifests, name):
    manifest = read_manifest(manifests[name])
    subject = next(iter(manifest))
    stored = "".join(nib.aff2axcodes(nib.load(subject.label).affine))
    assert stored == ORIENTATION.get(name, stored)
    sample = preprocessing_transform(manifest.modalities, Preprocessing(4.0), True)({"subject": subject})
    assert nib.aff2axcodes(sample["affine"].numpy()) == ("R", "A", "S")
    inside = sample["brain"][0] > 0
    assert sample["image"].shape[0] == len(manifest.modalities)
    for channel in sample["image"]:
        assert abs(float(channel[inside].mean())) < 1e-4
        assert abs(float(channel[inside].std()) - 1) < 1e-4
    brain_ml = float(inside.sum()) * 0.064
    assert 900 < brain_ml < 2500


@pytest.mark.parametrize("name", COHORTS)
def test_lesions_keep_their_volume(manifests, name):
    manifest = read_manifest(manifests[name])
    transform = preprocessing_transform(manifest.modalities, Preprocessing(2.0), True)
    subject = next(iter(manifest))
    ml = float((transform({"subject": subject})["label"] > 0).sum()) * 0.008
    image = nib.load(subject.label)
    native = np.count_nonzero(image.get_fdata() > 0) * abs(np.linalg.det(image.affine)) / 1000
    assert native == pytest.approx(LESION_ML.get(subject.name, native), abs=0.06)
    assert ml == pytest.approx(native, rel=0.15)


@pytest.mark.parametrize("name", COHORTS)
def test_all_subsets_are_scored(manifests, run_of, name):
    manifest = read_manifest(manifests[name])
    scores = evaluate(run_of(name), manifest, SCORED[name])
    expected = {vocabulary.subset_name(s, manifest.modalities) for s in vocabulary.subsets(manifest.modalities)}
    assert set(scores["subset"]) == expected
    assert set(scores["region"]) == set(manifest.schema.regions)
    assert len(scores) == len(expected) * len(manifest.schema.regions)
    assert scores["value"].between(0, 1).all()


@pytest.mark.parametrize("name", COHORTS)
def test_one_modality_gives_a_mask_in_the_patient_s_own_grid(manifests, run_of, name):
    manifest = read_manifest(manifests[name])
    subject = manifest.split(SCORED[name]).subjects[0]
    modality = manifest.modalities[-1]
    mask = predict(run_of(name), mask=subject.mask, **{modality: subject.images[modality]})
    native = nib.load(subject.images[modality])
    assert mask.shape == native.shape
    np.testing.assert_array_equal(mask.affine, native.affine)
    assert mask.get_data_dtype() == np.uint8
    assert set(np.unique(mask.dataobj)) <= {0, *manifest.schema.values}


@pytest.mark.parametrize("name", COHORTS)
def test_every_case_is_segmented_from_one_two_and_all_modalities_and_drawn(manifests, run_of, name, tmp_path):
    cohort, run = read_manifest(manifests[name]), run_of(name)
    for subject in cohort:
        for count in sorted({1, 2, len(cohort.modalities)}):
            chosen = dict(list(subject.images.items())[-count:])
            found = segment(run, mask=subject.mask, **chosen)
            out = tmp_path / f"{subject.name}_{count}.nii.gz"
            written = write_segmented(found, out, run.schema.labels, picture=True)
            stored, native = nib.load(out), nib.load(next(iter(chosen.values())))
            assert stored.shape == native.shape
            np.testing.assert_array_equal(stored.affine, native.affine)
            report = json.loads(out.with_name(f"{subject.name}_{count}.json").read_text())
            assert report["subset"] == vocabulary.subset_name(chosen, run.modalities)
            voxel_ml = abs(np.linalg.det(native.affine[:3, :3])) / 1000
            for region, members in run.schema.regions.items():
                ml = np.isin(np.asarray(stored.dataobj), members).sum() * voxel_ml
                assert report["volumes_ml"][region] == pytest.approx(ml, abs=1e-3)
            with Image.open(written[-1]) as picture:
                assert picture.format == "PNG"
                assert picture.size[0] > 200 * count


def test_the_network_in_the_box_finds_real_gliomas(manifests):
    """Trained on phantoms alone; three patients of 2013, two of its four sequences. A floor, not a promise."""
    scores = evaluate(load_run("student"), manifests["brats15"], "train", subsets=["t1c+t2f"])
    assert scores.query("region == 'WT'")["value"].item() > 0.5
