"""Zeros at the input, masks at the features, files never opened: which of them are the same."""

import pandas as pd
import pytest
import torch

from mtg_lab.absence import MODES, absence
from mtg_lab.data import cached_dataset
from mtg_lab.errors import InputError
from mtg_lab.evaluation import evaluate
from mtg_lab.hardware import precision_context
from mtg_lab.manifest import read_manifest
from mtg_lab.missingness import Missingness
from mtg_lab.training import train


@pytest.fixture
def run(tiny_recipe):
    """The cache keeps it for the whole session."""
    return train(tiny_recipe(steps=2))


@pytest.fixture
def table(run, cohort):
    return absence(run, cohort, ["t1c+flair", "t1n", "t1n+t1c+t2w+t2f"])


def of(table, mode):
    return table[table["mode"] == mode].drop(columns="mode").reset_index(drop=True)


def test_every_mode_scores_every_subject_subset_and_region(table):
    assert list(table) == ["subject", "subset", "mode", "region", "value"]
    assert len(table) == 2 * 3 * 3 * 3
    assert set(table["mode"]) == set(MODES)
    assert set(table["subset"]) == {"t1c+t2f", "t1n", "t1n+t1c+t2w+t2f"}
    assert table["value"].between(0, 1).all()


def test_masked_at_the_features_is_never_opened(table, run, cohort):
    # Subsets are decoded together, absent files alone: bf16 rounds batches of two sizes differently.
    pd.testing.assert_frame_equal(of(table, "features"), of(table, "absent"), rtol=0, atol=1e-3)
    scored = evaluate(run, cohort, subsets=["t1n", "t1c+t2f"])
    scores, scores_protocol = scored.set_index(["subject", "subset", "region"])["value"], scored.attrs["protocol"]
    assert scores_protocol["window"] == table.attrs["protocol"]["window"] > 0
    assert scores_protocol["overlap"] == table.attrs["protocol"]["overlap"]
    masked = of(table, "features").set_index(["subject", "subset", "region"])["value"]
    pd.testing.assert_series_equal(scores, masked.loc[scores.index], rtol=0, atol=1e-3)


def test_logits_of_masked_features_and_of_absent_files_are_the_same_bits(run, cohort):
    test = read_manifest(cohort).split("test")
    without = Missingness("subset", {"subset": "t1c"}).apply(test)
    whole, lacking = (cached_dataset(c.subjects, run.modalities, run.recipe.preprocessing)[0] for c in (test, without))
    network = run.backbone()
    with torch.inference_mode(), precision_context(torch.device("cpu"), "fp32"):
        everything = network.encode(whole["image"][None], whole["present"][None])
        masked = network.decode(everything, lacking["present"][None]).logits
        absent = network(lacking["image"][None], lacking["present"][None]).logits
        zeros = network(lacking["image"][None], whole["present"][None]).logits
    assert torch.equal(masked, absent)
    assert not torch.equal(zeros, absent), "an encoder has biases and norms: zeros do not become zero latents"


def test_with_everything_there_the_modes_are_one(table):
    full = table[table["subset"] == "t1n+t1c+t2w+t2f"]
    for mode in ("features", "absent"):
        assert of(full, mode)["value"].tolist() == of(full, "input")["value"].tolist()


def test_nobody_to_score_is_told(run, cohort):
    with pytest.raises(InputError, match="names 'dwi'"):
        absence(run, cohort, ["dwi"])
    lonely = Missingness("subset", {"subset": "t1n"}).apply(read_manifest(cohort))
    with pytest.raises(InputError, match="no subject of split test has all modalities"):
        absence(run, lonely, ["t1c"])
