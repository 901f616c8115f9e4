"""What is not to be trusted: the rule on tables whose answer is known, the lines, and the file beside a run."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from score_tables import MODALITIES, table_of

from mtg_lab.errors import InputError
from mtg_lab.reliability import (
    FILE,
    MeasuredReliability,
    TrustRule,
    judge,
    load,
    measure_reliability,
    save,
    warnings_for,
)
from mtg_lab.training import train

RULE = TrustRule()


def measured(value, subjects=8, rule=RULE, digest="abc"):
    table = judge(table_of(value, subjects=subjects), rule)
    return MeasuredReliability(digest, MODALITIES, {"split": "val", "cohort": "c"}, rule, table)


def contrast(p, s, r):
    """Enhancing tumour is seen with t1c alone; whole tumour always."""
    return 0.8 if r == "WT" or "t1c" in s else 0.13


def test_enhancing_tumour_without_contrast_is_not_to_be_trusted():
    found = measured(contrast)
    assert warnings_for(found, "t1n+t2w+t2f") == [
        "ET without t1c: Dice 0.13 [0.13, 0.13] on 8 val subjects against 0.80 with all; not to be trusted"
    ]
    assert warnings_for(found, ["flair"])[0].startswith("ET without t1n, t1c, t2w: Dice 0.13")
    assert warnings_for(found, "t1c+t2f") == []
    assert warnings_for(found, "t1n+t1c+t2w+t2f") == []
    for subset, region, trusted in found.table[["subset", "region", "trusted"]].itertuples(index=False):
        assert trusted is (region == "WT" or "t1c" in subset)


def test_a_region_below_the_threshold_is_not_trusted_with_all_sequences_either():
    assert warnings_for(measured(lambda p, s, r: 0.4), "t1n+t1c+t2w+t2f") == [
        f"{r} with all sequences: Dice 0.40 [0.40, 0.40] on 8 val subjects, below 0.5; not to be trusted"
        for r in ("WT", "ET")
    ]


def judged(loss, sd, subjects=8):
    """Is a subset trusted that loses so much of 0.9, with so much noise between subjects?"""
    noise = np.linspace(-1, 1, subjects)
    noise *= sd / noise.std()
    table = judge(table_of(lambda p, s, r: 0.9 - (loss + noise[p]) * ("t1c" not in s), subjects=subjects), RULE)
    return table.set_index(["subset", "region"]).loc["t2f", "WT"]


@pytest.mark.parametrize(
    ("loss", "sd", "trusted"),
    [(0.2, 0.05, False), (0.05, 0.01, True), (0.12, 0.4, True), (0.1001, 0.0, False), (0.0999, 0.0, True)],
)
def test_a_loss_counts_when_it_is_large_and_sure(loss, sd, trusted):
    row = judged(loss, sd)
    assert row["trusted"] is trusted
    assert row["drop"] == pytest.approx(loss)
    assert (row["drop_low"] > 0) == (loss - 1.96 * sd / np.sqrt(8) > 0)


def test_the_interval_of_the_loss_is_paired():
    """Subjects differ by far more than the loss; each loses 0.2: the loss is certain all the same."""
    table = judge(table_of(lambda p, s, r: 0.99 - 0.05 * p - 0.2 * ("t1c" not in s), subjects=8), RULE)
    row = table.set_index(["subset", "region"]).loc["t2f", "WT"]
    assert row[["drop_low", "drop_high"]].tolist() == pytest.approx([0.2, 0.2])
    assert row["high"] - row["low"] > 0.1


def test_with_few_subjects_nothing_is_decided():
    found = measured(contrast, subjects=2)
    assert warnings_for(found, "t1c+t2f") == [
        f"{r} without t1n, t2w: measured on 2 val subjects only; whether to trust it is not known" for r in ("WT", "ET")
    ]
    assert "measured on 1 val subject only" in warnings_for(measured(contrast, subjects=1), "t1c")[0]


def test_without_a_subject_that_has_everything_the_threshold_remains():
    scores = table_of(contrast, subjects=8)
    table = judge(scores[scores["modalities"] < 4], RULE)
    assert table["drop"].isna().all()
    assert not table.set_index(["subset", "region"]).loc[("t2f", "ET"), "trusted"]
    assert table.set_index(["subset", "region"]).loc[("t2f", "WT"), "trusted"]
    found = MeasuredReliability("abc", MODALITIES, {"split": "val"}, RULE, table)
    assert warnings_for(found, "t2f") == [
        "ET without t1n, t1c, t2w: Dice 0.13 [0.13, 0.13] on 8 val subjects, below 0.5; not to be trusted"
    ]


def test_what_was_not_measured_is_said():
    found = measured(contrast)
    partial = replace(found, table=found.table[found.table["subset"] != "t1c"])
    assert warnings_for(partial, "t1c") == ["how far masks from t1c can be trusted was not measured for this run"]
    with pytest.raises(InputError, match="known here"):
        warnings_for(found, "adc")
    with pytest.raises(InputError, match="is empty"):
        warnings_for(found, [])


# --- the file ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def place(tmp_path):
    """All of a run that matters here."""
    return SimpleNamespace(folder=tmp_path, digest="abc")


def test_what_is_saved_comes_back(place):
    scores = table_of(contrast, subjects=8)
    for table in (judge(scores, RULE), judge(scores[scores["modalities"] < 4], TrustRule(fewest_subjects=9))):
        found = MeasuredReliability("abc", MODALITIES, {"split": "val", "cases": ["P1"]}, RULE, table)
        assert save(found, place) == place.folder / FILE
        back = load(place)
        pd.testing.assert_frame_equal(back.table, found.table, check_exact=True)
        assert replace(back, table=found.table) == found
        assert warnings_for(back, "t2f") == warnings_for(found, "t2f")
    assert [p.name for p in place.folder.iterdir()] == [FILE]
    json.loads((place.folder / FILE).read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def test_nothing_measured_is_none(place):
    assert load(place) is None


def test_another_runs_file_is_refused(place):
    with pytest.raises(InputError, match="measured of the run other, not of abc"):
        save(measured(contrast, digest="other"), place)
    assert load(place) is None
    save(measured(contrast), place)
    with pytest.raises(InputError, match="measured of the run abc, not of new"):
        load(SimpleNamespace(folder=place.folder, digest="new"))


@pytest.mark.parametrize(
    "damage",
    [lambda t: t[: len(t) // 2], lambda t: t.replace('"format": 1', '"format": 99'), lambda t: "[]",
     lambda t: t.replace('"least_dice"', '"no_such_rule"'), lambda t: t.replace('"split"', '"spilt"'),
     lambda t: t.replace('"dice": ', '"dice": "high", "was": ', 1)],
)  # fmt: skip
def test_a_damaged_file_is_one_line(place, damage):
    path = save(measured(contrast), place)
    text = path.read_text()
    assert damage(text) != text
    path.write_text(damage(text))
    with pytest.raises(InputError, match=r"reliability.json is damaged \(.*\); delete it and measure again"):
        load(place)


def test_a_run_measures_itself(tiny_recipe, cohort):
    run = train(tiny_recipe(steps=2))
    found = measure_reliability(run, cohort, rule=TrustRule(fewest_subjects=1))
    assert found.run == run.digest
    assert found.protocol["split"] == "val"
    assert len(found.table) == 15 * 3
    assert found.table["subjects"].tolist() == [1] * 45
    assert len(warnings_for(found, "t1n")) == 3, "two steps do not segment"
    with pytest.raises(InputError, match="not measured on the subjects of the training"):
        measure_reliability(run, cohort, "train")
