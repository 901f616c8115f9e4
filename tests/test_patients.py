"""A patient from any sequences: masks where the lesion lies, in the patient's own grid; volumes, pictures, warnings."""

import json

import nibabel as nib
import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt
from threshold import MODALITIES, Threshold

from mtg_lab import vocabulary
from mtg_lab.data import Preprocessing
from mtg_lab.errors import InputError
from mtg_lab.manifest import read_manifest
from mtg_lab.patients import predict, segment, segment_cohort, write_segmented
from mtg_lab.runs import Run

# --- in the patient's own grid ----------------------------------------------------------------------------------------


@pytest.fixture
def known(tiny_recipe, tmp_path, monkeypatch):
    """A run on a 2 mm grid whose network is the threshold."""
    recipe = tiny_recipe(preprocessing=Preprocessing(2.0))
    monkeypatch.setattr(Run, "backbone", lambda self, device="cpu": Threshold())
    return Run(tmp_path / "run", recipe, "hash", MODALITIES, vocabulary.schema("brats2021"))


def rotation(degrees, axis):
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    i, j = (k for k in range(3) if k != axis)
    matrix = np.eye(3)
    matrix[[i, i, j, j], [i, j, i, j]] = c, -s, s, c
    return matrix


AFFINES = {
    "RAS, 1.5 mm": np.diag([1.5, 1.5, 1.5]),
    "LPS, 2 mm": np.diag([-2.0, -2.0, 2.0]),
    "anisotropic": np.diag([1.0, -1.2, 4.0]),
    "axes exchanged": np.array([[0, 0, 2.0], [-2.0, 0, 0], [0, 2.0, 0]]),
    "oblique": rotation(20, 0) @ rotation(10, 2) @ np.diag([-1.5, 1.5, 2.5]),
}


def patient(name):
    """A brain of 100 with a block of 300 in it, off the centre on every axis, in the named grid."""
    linear = AFFINES[name]
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = linear, (-30, 12, 7)
    sizes = np.sqrt((linear**2).sum(axis=0))
    shape = np.round(64 / sizes).astype(int) + np.array([0, 3, 1])
    voxels = np.moveaxis(np.indices(shape), 0, -1) * sizes  # distances in mm along the axes of the grid
    brain = (np.abs(voxels - 32) < 26).all(axis=-1)
    block = (np.abs(voxels - [24, 40, 30]) < [8, 6, 10]).all(axis=-1)
    noise = np.random.default_rng(0).normal(0, 3, shape)
    data = np.where(brain, 100 + noise + 200 * block, 0).astype(np.float32)
    return nib.Nifti1Image(data, affine), block, sizes


@pytest.mark.parametrize("name", AFFINES)
def test_the_mask_lies_where_the_lesion_lies(known, name):
    image, block, sizes = patient(name)
    found = predict(known, t1c=image)
    assert found.shape == image.shape
    np.testing.assert_array_equal(found.affine, image.affine)
    assert found.get_data_dtype() == np.uint8
    integers = np.asarray(found.dataobj)
    assert set(np.unique(integers)) == {0, 4}, "class 3 of this schema is the integer 4"
    border = max(2.0, *sizes) + 0.1  # one voxel of the coarser of the two grids
    inside, outside = (distance_transform_edt(b, sampling=sizes) for b in (block, ~block))
    assert (integers[inside > border] == 4).all()
    assert (integers[outside > border] == 0).all()


def test_every_subset_of_sequences_gives_a_mask(known):
    image, block, _ = patient("LPS, 2 mm")
    for subset in vocabulary.subsets(MODALITIES):
        found = np.asarray(predict(known, **dict.fromkeys(subset, image)).dataobj)
        assert 2 * (found.astype(bool) & block).sum() / (found.astype(bool).sum() + block.sum()) > 0.8


def test_files_images_and_aliases_are_understood(known, tmp_path):
    image, _, _ = patient("LPS, 2 mm")
    nib.save(image, tmp_path / "t1ce.nii.gz")
    expected = np.asarray(predict(known, t1c=image, t2f=image).dataobj)
    for source in (tmp_path / "t1ce.nii.gz", str(tmp_path / "t1ce.nii.gz")):
        np.testing.assert_array_equal(np.asarray(predict(known, t1ce=source, flair=image).dataobj), expected)


def test_a_background_that_is_not_zero_needs_the_brain_mask(known):
    image, block, _ = patient("LPS, 2 mm")
    data = np.asarray(image.dataobj)
    brain = nib.Nifti1Image((data != 0).astype(np.uint8), image.affine)
    shifted = nib.Nifti1Image(data - 500, image.affine)
    found = np.asarray(predict(known, mask=brain, t1c=shifted).dataobj).astype(bool)
    assert 2 * (found & block).sum() / (found.sum() + block.sum()) > 0.8
    assert not found[~np.asarray(brain.dataobj).astype(bool)].any()


def test_windows_of_the_working_grid_change_nothing_for_a_local_network(known):
    image, _, _ = patient("anisotropic")
    whole, cut = (np.asarray(predict(known, window=w, t2w=image).dataobj) for w in (0, 12))
    np.testing.assert_array_equal(whole, cut)


def test_a_trained_run_predicts(tiny_recipe):
    from mtg_lab.training import train

    image, _, _ = patient("oblique")
    found = predict(train(tiny_recipe(steps=1)), t1c=image)
    assert found.shape == image.shape
    assert set(np.unique(np.asarray(found.dataobj))) <= {0, 1, 2, 3}


def test_arrays_with_their_affine_are_understood(known):
    image, _, _ = patient("oblique")
    expected = np.asarray(predict(known, t1c=image).dataobj)
    found = predict(known, t1c=(np.asarray(image.dataobj), image.affine))
    np.testing.assert_array_equal(np.asarray(found.dataobj), expected)
    np.testing.assert_array_equal(found.affine, image.affine)


@pytest.mark.parametrize(("stored", "expected"), [(np.int16, np.int16), (np.uint16, np.uint16), (np.float64, np.uint8)])
def test_the_mask_has_the_inputs_integer_type_where_it_has_one(known, stored, expected):
    image, _, _ = patient("LPS, 2 mm")
    own = nib.Nifti1Image(np.asarray(image.dataobj).astype(stored), image.affine)
    assert predict(known, t1c=own).get_data_dtype() == expected


# --- volumes, probabilities, pictures ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["anisotropic", "oblique"])
def test_volumes_are_voxels_times_their_size(known, name):
    image, block, sizes = patient(name)
    found = segment(known, t1c=image, t2f=image)
    labels = np.asarray(found.labels.dataobj)
    for region, members in known.schema.regions.items():
        expected = np.isin(labels, members).sum() * np.prod(sizes) / 1000
        assert found.report["volumes_ml"][region] == pytest.approx(expected, abs=1e-3)
    assert found.report["volumes_ml"]["ET"] == pytest.approx(block.sum() * np.prod(sizes) / 1000, rel=0.3)
    assert found.report["subset"] == "t1c+t2f"
    assert found.report["missing"] == ["t1n", "t2w"]
    assert found.report["grid"]["shape"] == list(image.shape)
    assert json.loads(json.dumps(found.report)) == found.report


def test_probabilities_are_those_of_the_regions(known):
    """The threshold knows one class; all regions that hold it have its probability, nested ones are never below."""
    image, block, _ = patient("RAS, 1.5 mm")
    found = segment(known, t1c=image)
    volumes = np.asarray(found.probabilities.dataobj)
    assert volumes.shape == (*image.shape, 3)
    assert (volumes >= -1e-6).all()
    assert (volumes <= 1 + 1e-6).all()
    whole, core, enhancing = np.moveaxis(volumes, -1, 0)
    assert (whole >= core - 1e-6).all()
    assert (core >= enhancing - 1e-6).all()
    inside = distance_transform_edt(block) > 2
    assert (enhancing[inside] > 0.9).all()
    assert (enhancing[np.asarray(image.dataobj) == 0] < 0.5).all()


def test_a_small_part_goes_and_is_told(known):
    """A speck beside the block: without it ET (4) is the block, and what is lost is the volume of the speck."""
    image, block, sizes = patient("anisotropic")
    speck = np.zeros(block.shape, bool)
    speck[38:45, 15:21, 5:8] = True
    data = np.asarray(image.dataobj) + 200 * speck
    seen = nib.Nifti1Image(data.astype(np.float32), image.affine)
    limit = 0.5 * block.sum() * sizes.prod()
    plain, cut = segment(known, t1c=seen), segment(known, t1c=seen, removals=[f"ET:{limit}"])
    before, after = np.asarray(plain.labels.dataobj), np.asarray(cut.labels.dataobj)
    assert (before[speck & ~block] == 4).mean() > 0.4
    np.testing.assert_array_equal(after == 4, (before == 4) & (distance_transform_edt(~block) < 6))
    np.testing.assert_array_equal(before > 0, after > 0)  # the rest of the tumour takes it
    lost = plain.report["volumes_ml"]["ET"] - cut.report["volumes_ml"]["ET"]
    assert cut.report["removed_ml"] == {"ET": pytest.approx(lost, abs=1e-3)}
    assert lost == pytest.approx(speck.sum() * sizes.prod() / 1000, rel=0.5)
    assert cut.report["removals"] == [f"ET without its components below {limit:g} mm3"]
    assert (plain.report["removals"], plain.report["warnings"], cut.report["warnings"]) == ([], [], [])
    np.testing.assert_array_equal(plain.probabilities.dataobj, cut.probabilities.dataobj)


def test_nothing_found_is_said(known, monkeypatch):
    image, _, _ = patient("LPS, 2 mm")
    assert segment(known, t1c=image).report["warnings"] == []
    blind = Threshold()
    blind.threshold.data.fill_(99)
    monkeypatch.setattr(Run, "backbone", lambda self, device="cpu": blind)
    found = segment(known, t1c=image).report
    assert found["warnings"] == ["no voxel was labelled; look at the input before believing it"]
    assert set(found["volumes_ml"].values()) == {0}


def test_files_appear_together_or_not_at_all(known, tmp_path, monkeypatch):
    found = segment(known, t1c=patient("LPS, 2 mm")[0])
    out = tmp_path / "mask.nii.gz"
    written = write_segmented(found, out, known.schema.labels, probabilities=True, picture=True)
    names = ["mask.nii.gz", "mask.json", "mask.probabilities.nii.gz", "mask.png"]
    assert [p.name for p in written] == names
    assert {p.name for p in tmp_path.iterdir()} == set(names)
    np.testing.assert_array_equal(np.asarray(nib.load(out).dataobj), np.asarray(found.labels.dataobj))
    assert json.loads((tmp_path / "mask.json").read_text())["subset"] == "t1c"
    assert (tmp_path / "mask.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    monkeypatch.setattr("mtg_lab.patients.overlay", lambda *_: 1 / 0)
    (tmp_path / "other").mkdir()
    with pytest.raises(ZeroDivisionError):
        write_segmented(found, tmp_path / "other" / "mask.nii", known.schema.labels, picture=True)
    assert list((tmp_path / "other").iterdir()) == []


def test_a_name_that_is_no_nifti_is_refused(known, tmp_path):
    found = segment(known, t1c=patient("LPS, 2 mm")[0])
    for name in ("mask.png", ".nii.gz"):
        with pytest.raises(InputError, match=r"must end in \.nii or \.nii\.gz"):
            write_segmented(found, tmp_path / name, known.schema.labels)


# --- a cohort ---------------------------------------------------------------------------------------------------------


def test_a_cohort_is_segmented_once_and_goes_on_after_an_interruption(known, cohort, tmp_path):
    subjects = read_manifest(cohort).split("test")
    first = next(iter(segment_cohort(known, subjects, tmp_path)))  # then the power fails
    rest = list(segment_cohort(known, subjects, tmp_path))
    assert [computed for _, _, computed in rest] == [False, True]
    assert rest[0][:2] == first[:2]
    for subject, report, _ in rest:
        mask = nib.load(tmp_path / f"{subject}.nii.gz")
        assert mask.shape == tuple(report["grid"]["shape"])
        assert report["subset"] == "+".join(MODALITIES)
    # A picture that was not asked for before makes everything of the subject anew.
    assert all(computed for *_, computed in segment_cohort(known, subjects, tmp_path, picture=True))
    object.__setattr__(known, "digest", "another run")
    assert all(computed for *_, computed in segment_cohort(known, subjects, tmp_path))


def test_a_subject_that_cannot_be_read_is_named(known, cohort, tmp_path, nifti):
    subjects = read_manifest(cohort).split("test")
    subjects.materialise()
    broken = subjects.subjects[1]
    nifti(tmp_path / "zeros.nii.gz", np.zeros((8, 8, 8), np.float32))
    object.__setattr__(broken, "images", {"t1c": tmp_path / "zeros.nii.gz"})
    with pytest.raises(InputError, match=f"subject {broken.name}: no brain voxel"):
        list(segment_cohort(known, subjects, tmp_path / "out"))


# --- bad input --------------------------------------------------------------------------------------------------------


def refused(run, told, **images):
    with pytest.raises(InputError, match=told) as refusal:
        predict(run, **images)
    assert "\n" not in str(refusal.value)


def test_an_array_without_a_grid_is_told(known):
    refused(known, "give \\[D, H, W\\] and \\[4, 4\\]", t1c=(np.zeros((4, 4)), np.eye(4)))
    refused(known, "give \\[D, H, W\\] and \\[4, 4\\]", t1c=(np.zeros((4, 4, 4)), np.eye(3)))


def test_no_image_is_told(known):
    refused(known, "nothing to predict from; give at least one of t1n, t1c, t2w, t2f")


def test_an_unknown_modality_is_told(known):
    refused(known, "the patient has the modality 'dwi'", dwi=patient("LPS, 2 mm")[0])


def test_one_modality_under_two_names_is_told(known):
    image, _, _ = patient("LPS, 2 mm")
    refused(known, "t1ce and t1c are one modality and both are given", t1c=image, t1ce=image)


def test_grids_that_differ_are_told(known):
    image, _, _ = patient("LPS, 2 mm")
    other = nib.Nifti1Image(np.asarray(image.dataobj)[:-1], image.affine)
    refused(known, "resample t2f to t1c's grid", t1c=image, t2f=other)


def test_a_file_that_is_not_there_or_no_image_is_told(known, tmp_path):
    refused(known, "no such file", t1c=tmp_path / "nothing.nii.gz")
    (tmp_path / "text.nii.gz").write_text("no image")
    refused(known, "not a readable NIfTI file", t1c=tmp_path / "text.nii.gz")


def test_an_image_of_zeros_is_told(known):
    image, _, _ = patient("LPS, 2 mm")
    refused(known, "no brain voxel", t1c=nib.Nifti1Image(np.zeros(image.shape, np.float32), image.affine))
