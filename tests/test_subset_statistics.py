"""The missingness curve's area, the worst subset, and steps that should not go down."""

import numpy as np
import pytest
from score_tables import MODALITIES, table_of

from mtg_lab.errors import InputError
from mtg_lab.evaluation import missingness_curve
from mtg_lab.subset_statistics import added_sequences, missingness_area, monotonicity_violations, worst_subset


def test_a_score_that_never_falls_is_its_own_area():
    table = missingness_area(table_of(lambda p, s, r: 0.7), draws=20)
    assert list(table["region"]) == ["WT", "ET", "all"]
    assert table[["value", "low", "high"]].to_numpy() == pytest.approx(0.7)
    assert (table["subjects"] == 4).all()


def test_the_area_of_a_straight_line_is_its_middle():
    """Dice 0.2 a sequence, 0.2 to 0.8: the area is 0.5, though the mean over the 15 subsets is 32/15 x 0.2."""
    scores = table_of(lambda p, s, r: 0.2 * len(s))
    assert missingness_area(scores, draws=20)["value"].to_numpy() == pytest.approx(0.5)
    assert scores["value"].mean() == pytest.approx(0.2 * 32 / 15)


def test_the_area_is_that_under_the_curve():
    scores = table_of(lambda p, s, r: 0.1 * p + 0.03 * len(s) ** 2 + 0.05 * ("t1c" in s) * (r == "ET"))
    curve = missingness_curve(scores).groupby(["region", "missing"])["value"].mean().unstack()
    expected = np.trapezoid(curve.to_numpy(), axis=1) / 3
    found = missingness_area(scores, draws=20).set_index("region")["value"]
    assert found[curve.index].to_numpy() == pytest.approx(expected)


def test_an_area_needs_every_size():
    scores = table_of(lambda p, s, r: 0.5)
    with pytest.raises(InputError, match="no subset of 2 of 4 sequences was scored"):
        missingness_area(scores[scores["modalities"] != 2])
    with pytest.raises(InputError, match="one sequence only"):
        missingness_area(table_of(lambda p, s, r: 0.5, ("t1c",)))


def test_subjects_that_lack_a_size_do_not_count():
    scores = table_of(lambda p, s, r: 0.5 + p)
    scores = scores[~((scores["subject"] == "P3") & (scores["modalities"] == 4))]
    table = missingness_area(scores, draws=20)
    assert (table["subjects"] == 3).all()
    assert table["value"].to_numpy() == pytest.approx(1.5)


def test_the_worst_subset_is_named_with_its_cost():
    table = worst_subset(table_of(lambda p, s, r: 0.1 if s == {"t2w"} and r == "ET" else 0.2 * len(s)), draws=50)
    row = table.set_index("region").loc["ET"]
    assert (row["subset"], row["value"], row["full"], row["share"]) == (
        "t2w",
        pytest.approx(0.1),
        pytest.approx(0.8),
        1,
    )


def test_of_a_distance_the_worst_is_the_largest():
    distances = table_of(lambda p, s, r: 50.0 if s == {"t1n"} else 5.0).assign(metric="hd95")
    assert set(worst_subset(distances, "hd95", draws=20)["subset"]) == {"t1n"}


def test_two_subsets_that_draw_lots_are_the_worst_about_equally_often():
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.1, (2, 40))
    noise -= noise.mean(axis=1, keepdims=True)
    table = worst_subset(table_of(
        lambda p, s, r: 0.3 + noise[int("t1n" in s), p] if len(s) == 1 and s & {"t1n", "t1c"} else 0.9,
        subjects=40, regions=("WT",)), draws=2000)  # fmt: skip
    assert table["share"].iloc[0] == pytest.approx(0.5, abs=0.05)


def test_there_are_28_steps_between_15_subsets_and_none_hurts_where_more_is_more():
    steps = added_sequences(table_of(lambda p, s, r: 0.2 * len(s)), draws=20)
    assert len(steps) == 3 * 28
    assert steps["change"].to_numpy() == pytest.approx(0.2)
    violations = monotonicity_violations(steps)
    assert violations[["steps", "falls", "clearly", "patient_steps", "patients_hurt"]].iloc[0].tolist() == [
        28,
        0,
        0,
        112,
        0,
    ]


def test_a_sequence_that_hurts_is_counted_where_it_does():
    """t1n costs 0.05 beside t2f, for all but one patient: 4 of 28 steps fall, for three of four patients each."""

    def value(p, s, r):
        return 0.1 * len(s - {"t1n"}) - 0.05 * (p > 0) * ({"t1n", "t2f"} <= s)

    steps = added_sequences(table_of(value, regions=("WT",)), draws=100)
    hurting = steps[steps["falls"]]
    assert {(s, a) for s, a in zip(hurting["subset"], hurting["added"], strict=True)} == {
        ("t2f", "t1n"), ("t1c+t2f", "t1n"), ("t2w+t2f", "t1n"), ("t1c+t2w+t2f", "t1n")}  # fmt: skip
    assert (hurting["patients_hurt"] == 3).all()
    row = monotonicity_violations(steps).iloc[0]
    assert (row["falls"], row["patients_hurt"], row["worst_added"]) == (4, 12, "t1n")
    assert row["worst_change"] == pytest.approx(-0.0375)
    tolerant = monotonicity_violations(added_sequences(table_of(value, regions=("WT",)), tolerance=0.06, draws=20))
    assert tolerant["patients_hurt"].iloc[0] == 0
    assert tolerant["falls"].iloc[0] == 4, "the tolerance is about patients"


def test_a_distance_that_shrinks_is_a_gain():
    distances = table_of(lambda p, s, r: 20.0 - len(s)).assign(metric="hd95")
    assert added_sequences(distances, "hd95", draws=20)["change"].to_numpy() == pytest.approx(1)


def test_steps_need_subsets_that_differ_by_one():
    scores = table_of(lambda p, s, r: 0.5)
    with pytest.raises(InputError, match="no two of these subsets differ by one"):
        added_sequences(scores[scores["modalities"].isin([1, 3]) & ~scores["subset"].str.contains("t1n")
                               | (scores["subset"] == "t1n")].query("modalities == 1"))  # fmt: skip
    with pytest.raises(InputError, match="tolerance is -1"):
        added_sequences(scores, tolerance=-1)


def test_regions_that_nobody_has_are_left_out():
    scores = table_of(lambda p, s, r: np.nan if r == "ET" else 0.2 * len(s), modalities=MODALITIES)
    assert "ET" not in set(worst_subset(scores, draws=20)["region"])
    assert "ET" not in set(monotonicity_violations(added_sequences(scores, draws=20))["region"])
    assert missingness_area(scores, draws=20).set_index("region")["subjects"].to_dict() == {"WT": 4, "ET": 0, "all": 4}
