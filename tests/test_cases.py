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
from mtg_lab.manifest import read_manifest
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
