"""Single cases: what each network drew from a subset, over the sequence in which the lesion stands out."""

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from threshold import MODALITIES, Threshold

from mtg_lab import vocabulary
from mtg_lab.cases import clearest, predicted_cases
from mtg_lab.data import Preprocessing
from mtg_lab.errors import InputError
from mtg_lab.manifest import read_manifest, write_manifest
from mtg_lab.runs import Run


@pytest.fixture
def known(tiny_recipe, tmp_path, monkeypatch):
    """A run on the cohort's grid whose network is the threshold."""
    monkeypatch.setattr(Run, "backbone", lambda self, device="cpu": Threshold())
    return Run(tmp_path / "run", tiny_recipe(), "hash", MODALITIES, vocabulary.schema("brats2023"))


def test_each_subject_from_each_subset_is_what_the_network_draws(known, cohort):
    subsets = ["t2f", "t1c+t2f"]
    found = list(predicted_cases({"threshold": known}, read_manifest(cohort), "test", subsets))
    names = [s.name for s in read_manifest(cohort).split("test")]
    assert [(c.subject, c.subset) for c in found] == [(n, s) for n in names for s in subsets]
    for case in found:
        assert list(case.masks) == ["reference", "threshold"]
        assert case.masks["reference"].any()
        if case.subset == "t2f":
            assert case.shown == "t2f"
            assert np.array_equal(case.masks["threshold"] > 0, case.image > 1)
        assert case.labels == dict(enumerate(known.schema.labels.values(), start=1))


def test_labels_of_another_year_are_drawn_as_what_they_mean(known, cohort, tmp_path):
    """BraTS 2015 splits necrosis off what does not enhance: its enhancing tumour is 4, that of 2023 is 3."""
    import nibabel as nib

    (subject,) = read_manifest(cohort).split("val")
    label = nib.load(subject.label)
    voxels = np.asarray(label.dataobj).astype(np.uint8)
    core = np.flatnonzero(voxels == 1)
    older = np.where(voxels == 3, 4, voxels).astype(np.uint8)
    older.flat[core[::2]] = 3
    nib.save(nib.Nifti1Image(older, label.affine), tmp_path / "label.nii.gz")
    row = {"subject": subject.name, "split": "val", "schema": "brats2015", "label": str(tmp_path / "label.nii.gz")}
    row |= {m: str(path) for m, path in subject.images.items()}
    manifest = write_manifest([row], MODALITIES, tmp_path / "older.csv")
    (before,) = predicted_cases({"a": known}, read_manifest(cohort), "val", ["t1c"])
    (after,) = predicted_cases({"a": known}, read_manifest(manifest), "val", ["t1c"])
    assert after.labels == before.labels
    assert np.mean(after.masks["reference"] == before.masks["reference"]) > 0.99  # resampled as labels of their own
    assert set(np.unique(after.masks["reference"])) == {0, 1, 2, 3}
    other = Run(known.folder, known.recipe, "hash", MODALITIES, vocabulary.schema("lesion"))
    with pytest.raises(InputError, match="has no counterpart in lesion"):
        list(predicted_cases({"a": other}, read_manifest(manifest), "val", ["t1c"]))


def test_a_case_is_a_picture_with_a_panel_a_mask(known, cohort):
    (case,) = predicted_cases({"a": known, "b": known}, read_manifest(cohort), "val", ["t1c"])
    figure = case.picture()
    assert isinstance(figure, Figure)
    assert [axes.get_title().split("  ")[0] for axes in figure.axes] == ["reference", "a", "b"]
    assert figure.get_suptitle() == f"{case.subject} from t1c, over t1c"


def test_some_subjects_only(known, cohort):
    names = [s.name for s in read_manifest(cohort).split("test")]
    found = list(predicted_cases({"a": known}, read_manifest(cohort), "test", ["t1c"], names[1:2]))
    assert [c.subject for c in found] == names[1:2]


def test_an_unknown_subject_is_refused_with_those_there_are(known, cohort):
    with pytest.raises(InputError, match="split test has no subject nobody; it has phantom"):
        list(predicted_cases({"a": known}, read_manifest(cohort), "test", ["t1c"], ["nobody"]))


def test_runs_of_two_grids_are_not_drawn_side_by_side(known, cohort, tiny_recipe, tmp_path):
    other = Run(tmp_path, tiny_recipe(preprocessing=Preprocessing(2.0)), "other", MODALITIES, known.schema)
    with pytest.raises(InputError, match="b has other modalities, labels or preprocessing than a"):
        list(predicted_cases({"a": known, "b": other}, read_manifest(cohort), "test", ["t1c"]))


def test_the_lesion_is_shown_where_it_stands_out():
    image = torch.zeros(3, 4, 4, 4)
    image[:, 1:3] = 0.5
    truth = np.zeros((4, 4, 4), np.uint8)
    truth[1, 1:3, 1:3] = 2
    image[1, 1, 1:3, 1:3] = -1.5  # darker by 2
    image[2, 1, 1:3, 1:3] = 1.5  # brighter by 1
    names = ("a", "b", "c")
    assert clearest(image, truth, names, {"a", "b", "c"}) == "b"
    assert clearest(image, truth, names, {"a", "c"}) == "c"
    assert clearest(image, np.zeros_like(truth), names, {"b", "c"}) == "b"
