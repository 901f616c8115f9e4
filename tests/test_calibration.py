"""Calibration against hand values and laws of probability; a run's tables against its own scores."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some

from mtg_lab.calibration import ReliabilityTally, calibrate, case_confidence, risk_coverage, risk_coverage_area
from mtg_lab.data import cached_dataset
from mtg_lab.errors import InputError
from mtg_lab.evaluation import evaluate
from mtg_lab.manifest import read_manifest
from mtg_lab.training import train

# --- risk and coverage ------------------------------------------------------------------------------------------------


def test_a_case_is_as_sure_as_its_predicted_voxels():
    p = np.array([0.9, 0.7, 0.1])
    assert case_confidence(p, p > 0.5) == pytest.approx(0.8)
    assert case_confidence(p, p > 0.95) == pytest.approx(0.1), "sure of nothing as far as no voxel is likely"


def test_risk_and_coverage_worked_by_hand():
    """Most sure first: risks 0.1, 0.5, 0.3; means of one, two and three of them."""
    curve = risk_coverage(np.array([0.5, 0.9, 0.4]), np.array([0.5, 0.1, 0.3]))
    assert curve["coverage"].tolist() == pytest.approx([1 / 3, 2 / 3, 1])
    assert curve["risk"].tolist() == pytest.approx([0.1, 0.3, 0.3])
    assert curve["optimum"].tolist() == pytest.approx([0.1, 0.2, 0.3])
    area, excess = risk_coverage_area(np.array([0.5, 0.9, 0.4]), np.array([0.5, 0.1, 0.3]))
    assert (area, excess) == pytest.approx((0.7 / 3, 0.1 / 3))


def test_a_confidence_that_says_nothing_has_the_mean_risk_as_area():
    risk = np.random.default_rng(0).random(9)
    area, excess = risk_coverage_area(np.full(9, 0.7), risk)
    assert area == pytest.approx(risk.mean())
    assert excess > 0


@given(some.lists(some.tuples(some.floats(0, 1), some.floats(0, 1)), min_size=1, max_size=20))
def test_no_order_beats_the_one_that_knows(cases):
    confidence, risk = map(np.array, zip(*cases, strict=True))
    area, excess = risk_coverage_area(confidence, risk)
    assert excess >= -1e-12
    assert risk_coverage_area(-risk, risk) == pytest.approx((area - excess, 0))
    shuffled = np.random.default_rng(0).permutation(len(risk))
    assert risk_coverage_area(confidence[shuffled], risk[shuffled])[0] == pytest.approx(area), "ties have no order"


def test_without_a_case_there_is_no_area():
    assert np.isnan(risk_coverage_area(np.array([]), np.array([]))).all()


# --- a run ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def run(tiny_recipe):
    return train(tiny_recipe(steps=2))


def test_a_runs_calibration_is_that_of_its_probabilities(run, cohort):
    found = calibrate(run, cohort, "test", subsets=["t1c+t2f", "t1n"], bins=5)
    assert set(found.summary["subset"]) == {"t1c+t2f", "t1n"}
    assert len(found.bins) == 2 * 3 * 5
    test = read_manifest(cohort).split("test")
    samples = cached_dataset(test.subjects, run.modalities, run.recipe.preprocessing)
    tally = ReliabilityTally(5)
    for sample in samples:
        with torch.inference_mode():
            logits = run.backbone()(sample["image"][None], torch.tensor([[False, True, False, True]])).logits[0]
        brain = sample["brain"][0] > 0
        tumour = logits.float().softmax(0)[1:].sum(0)
        tally.add(tumour[brain].numpy(), (sample["label"][0] > 0)[brain].numpy())
    row = found.summary.set_index(["subset", "region"]).loc["t1c+t2f", "WT"]
    assert row["voxels"] == tally.count.sum() == sum(int((s["brain"] > 0).sum()) for s in samples)
    # bf16 arithmetic on some processors
    assert row["brier"] == pytest.approx(tally.brier, rel=0.02)
    assert row["ece"] == pytest.approx(tally.expected_error, rel=0.02)


def test_the_cases_have_the_dice_of_the_evaluation(run, cohort):
    found = calibrate(run, cohort, "test")
    keys = ["subject", "subset", "region"]
    scores = evaluate(run, cohort)
    if "metric" in scores:
        scores = scores[scores["metric"] == "dice"]
    expected = scores.set_index(keys)["value"]
    assert found.cases.set_index(keys)["dice"].to_dict() == pytest.approx(expected.to_dict(), abs=1e-6)
    assert found.cases["confidence"].between(0, 1 + 1e-5).all()
    risk = 1 - expected.groupby(level=["subset", "region"]).mean()
    assert found.summary.set_index(["subset", "region"])["risk"].to_dict() == pytest.approx(risk.to_dict(), abs=1e-6)
    assert found.bins.attrs["settings"] == found.settings
    assert (found.settings["split"], found.settings["voxels"], found.settings["run"]) == ("test", "brain", run.digest)


def test_windows_change_little_and_are_said(run, cohort):
    whole, windows = (calibrate(run, cohort, "val", subsets=["t1c"], window=w) for w in (0, 16))
    assert (whole.settings["window"], windows.settings["window"]) == (0, 16)
    assert whole.summary["voxels"].tolist() == windows.summary["voxels"].tolist()


def test_a_split_without_subjects_is_refused(run, cohort):
    with pytest.raises(InputError):
        calibrate(run, cohort, "holdout")
    with pytest.raises(InputError, match="known here"):
        calibrate(run, cohort, subsets=["adc"])
