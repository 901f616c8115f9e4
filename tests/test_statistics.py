"""Tests, effect sizes and rankings against hand values and laws of probability."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as some
from hypothesis.extra.numpy import arrays
from scipy.stats import spearmanr
from score_tables import table_of

from mtg_lab.errors import InputError
from mtg_lab.statistics import (
    cohen_dz,
    holm,
    paired_tests,
    rank_biserial,
    rank_stability,
    seed_spread,
    selection_optimism,
    signed_rank_p,
    verdict,
)

MODALITIES = ("t1c", "t2f")


def method(level, rng, seeds=3, subjects=20, patient_sd=0.05, seed_sd=0.0):
    """Tables by seed: a level, patients that vary around it, trainings that vary around it."""
    own = rng.normal(0, patient_sd, subjects)
    shifts = rng.normal(0, seed_sd, seeds)
    return {s: table_of(lambda p, _, r, s=s: level + own[p] + shifts[s], MODALITIES, subjects) for s in range(seeds)}


# --- Holm -------------------------------------------------------------------------------------------------------------


def test_holm_worked_by_hand():
    """Four tests: 4 x .005, max(3 x .01, .02), max(2 x .03, .03), max(1 x .04, .06): Holm 1979."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_a_test_that_was_not_made_is_not_corrected_for():
    corrected = holm([0.02, np.nan, 0.5])
    assert corrected[[0, 2]] == pytest.approx([0.04, 0.5])
    assert np.isnan(corrected[1])


@given(some.lists(some.floats(0, 1), min_size=1, max_size=12))
def test_holm_keeps_the_order_and_lies_between_nothing_and_bonferroni(p):
    p, corrected = np.array(p), holm(p)
    assert (corrected >= p).all()
    assert (corrected <= np.minimum(len(p) * p, 1)).all()
    assert (np.diff(corrected[np.argsort(p, kind="stable")]) >= 0).all()
    for level in (0.01, 0.05, 0.2):  # as Holm states it: step through the sorted values until one is too large
        steps = np.sort(p) * np.arange(len(p), 0, -1) <= level
        assert (corrected <= level).sum() == (len(p) if steps.all() else np.argmin(steps))


# --- effect sizes -----------------------------------------------------------------------------------------------------


def test_rank_biserial_worked_by_hand():
    """Differences 1, -2, 3, 0: ranks 1, 2, 3 of what differs; (1 + 3 - 2) / 6 (Kerby's simple difference formula)."""
    assert rank_biserial(np.array([1.0, -2.0, 3.0, 0.0])) == pytest.approx(1 / 3)


def test_effect_sizes_at_their_ends():
    gains = np.array([0.1, 0.2, 0.4])
    assert rank_biserial(gains) == 1
    assert rank_biserial(-gains) == -1
    assert rank_biserial(np.zeros(3)) == 0
    assert cohen_dz(gains) == pytest.approx(gains.mean() / gains.std(ddof=1))
    assert np.isnan(cohen_dz(np.full(3, 0.1)))
    assert np.isnan(cohen_dz(np.array([0.1])))


@given(arrays(float, 8, elements=some.floats(-1, 1).map(lambda x: round(x, 3))))
def test_effect_sizes_turn_with_the_sign(differences):
    assert rank_biserial(-differences) == pytest.approx(-rank_biserial(differences))
    assert cohen_dz(-differences) == pytest.approx(-cohen_dz(differences), nan_ok=True)


def test_wilcoxons_exact_p_of_five_gains():
    """All of five patients gain: of 32 signs two are as extreme, p = 2 / 32."""
    assert signed_rank_p(np.array([0.1, 0.2, 0.3, 0.4, 0.5])) == pytest.approx(2 / 32)
    assert signed_rank_p(np.zeros(5)) == 1
    assert np.isnan(signed_rank_p(np.array([])))


def test_p_values_of_equal_methods_are_uniform():
    rng = np.random.default_rng(0)
    p = np.array([signed_rank_p(rng.normal(size=15)) for _ in range(800)])
    assert (p < 0.05).mean() == pytest.approx(0.05, abs=0.025)
    assert (p < 0.5).mean() == pytest.approx(0.5, abs=0.06)


# --- pairs of methods -------------------------------------------------------------------------------------------------


def test_a_shift_is_found_and_said():
    base = method(0.5, np.random.default_rng(0))
    rng = np.random.default_rng(1)
    gains = rng.normal(0.1, 0.02, 20)
    better = {s: t.assign(value=t["value"] + gains[t["subject"].str[1:].astype(int)]) for s, t in base.items()}
    table = paired_tests({"new": better, "old": base}, draws=500)
    assert list(table["region"]) == ["WT", "ET", "all"]
    row = table.iloc[0]
    assert row["difference"] == pytest.approx(gains.mean())
    assert row["low"] < gains.mean() < row["high"]
    assert row["high"] - row["low"] == pytest.approx(2 * 1.96 * gains.std() / np.sqrt(20), rel=0.15)
    assert row["p"] == pytest.approx(2 / 2**20)
    assert row["p_holm"] == pytest.approx(3 * row["p"])
    assert row["rank_biserial"] == 1
    assert row["cohen_dz"] == pytest.approx(cohen_dz(gains))
    assert (row["subjects"], row["seeds"]) == (20, 3)
    assert verdict(row).startswith("new is better than old on WT (dice +0.")
    assert verdict(table.iloc[2]).startswith("new is better than old over all regions")


def test_subsets_weigh_alike():
    """One of the three subsets is better by 0.3: the mean over subsets by 0.1."""
    base = table_of(lambda p, s, r: 0.5, MODALITIES)
    better = base.assign(value=base["value"] + 0.3 * (base["subset"] == "t1c"))
    assert paired_tests({"a": better, "b": base}, draws=50)["difference"].tolist() == pytest.approx([0.1] * 3)


def test_all_pairs_or_one_against_the_others():
    scores = {name: table_of(lambda p, s, r, i=i: 0.1 * i, MODALITIES) for i, name in enumerate("abc")}
    found = paired_tests(scores, draws=20)[["ours", "theirs"]].drop_duplicates()
    assert list(found.itertuples(index=False, name=None)) == [("a", "b"), ("a", "c"), ("b", "c")]
    assert set(paired_tests(scores, "c", draws=20)["theirs"]) == {"c"}
    with pytest.raises(InputError, match="no method 'd' among a, b, c"):
        paired_tests(scores, "d")
    with pytest.raises(InputError, match=r"seeds must pair: a has \[0\], b has \[1\]"):
        paired_tests({"a": {0: scores["a"]}, "b": {1: scores["b"]}})


def test_seeds_pair_by_their_number():
    low, high = (table_of(lambda p, s, r, v=v: v, MODALITIES) for v in (0.2, 0.8))
    table = paired_tests({"a": {0: low, 1: high}, "b": {1: high, 0: low}}, draws=50)
    assert (table[["difference", "low", "high"]] == 0).all(axis=None)
    assert verdict(table.iloc[0]).startswith("a and b cannot be told apart on WT")


def test_what_neither_reference_has_is_left_out():
    tables = [table_of(lambda p, s, r, d=d: np.nan if (p, r) == (0, "ET") else 0.5 + d, MODALITIES) for d in (0.1, 0)]
    table = paired_tests({"a": tables[0], "b": tables[1]}, draws=20).set_index("region")
    assert table["subjects"].to_dict() == {"WT": 4, "ET": 3, "all": 4}
    assert table["difference"].tolist() == pytest.approx([0.1] * 3)


@pytest.mark.parametrize(
    ("row", "metric", "words"),
    [
        ({}, "dice", "a is better than b on ET"),
        ({}, "hd95", "a is worse than b on ET"),
        ({"low": -0.1}, "dice", "in these trainings, but not beyond what seeds vary"),
        ({"p_holm": 0.2}, "dice", "not after correction for several tests"),
        ({"low": -0.1, "p_holm": 0.2}, "dice", "cannot be told apart"),
        ({"p_holm": np.nan, "low": np.nan, "high": np.nan}, "dice", "cannot be told apart"),
        ({"seeds": 1}, "dice", "another training may say otherwise"),
    ],
)
def test_a_verdict_claims_what_interval_and_test_carry(row, metric, words):
    sure = {"ours": "a", "theirs": "b", "region": "ET", "difference": 0.1, "low": 0.05, "high": 0.15, "p_holm": 0.01,
            "subjects": 9, "seeds": 3}  # fmt: skip
    assert words in verdict({**sure, **row}, metric)


# --- rankings ---------------------------------------------------------------------------------------------------------


def test_methods_far_apart_always_rank_alike():
    scores = {n: method(v, np.random.default_rng(0)) for n, v in (("good", 0.8), ("fair", 0.6), ("poor", 0.4))}
    table = rank_stability(scores, draws=100)
    assert set(table["region"]) == {"WT", "ET", "all"}
    for _, part in table.groupby("region"):
        assert part["rank"].tolist() == part["rank_low"].tolist() == part["rank_high"].tolist() == [1, 2, 3]
        assert part["case_rank"].tolist() == [1, 2, 3]
        assert part["first"].tolist() == [1, 0, 0]
        assert part["tau"].tolist() == part["tau_low"].tolist() == [1, 1, 1]


def test_methods_that_draw_lots_share_the_first_place():
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.1, (2, 60))
    noise -= noise.mean(axis=1, keepdims=True)  # equal means: the bootstrap decides by lot
    scores = {n: table_of(lambda p, s, r, n=n: 0.5 + noise[n, p], MODALITIES, 60, ("WT",)) for n in (0, 1)}
    table = rank_stability(scores, draws=2000)
    assert table["first"].sum() == pytest.approx(1)
    assert table["first"].to_numpy() == pytest.approx([0.5, 0.5], abs=0.06)


def test_of_a_distance_less_is_better():
    near, far = (table_of(lambda p, s, r, v=v: v, MODALITIES).assign(metric="hd95") for v in (3.0, 9.0))
    table = rank_stability({"far": far, "near": near}, metric="hd95", draws=20)
    assert table["rank"].tolist() == [2, 1] * 3


def test_a_table_sorted_otherwise_ranks_the_same():
    rng = np.random.default_rng(0)
    scores = {n: method(0.5, rng, seeds=1)[0] for n in "abc"}
    shuffled = {**scores, "b": scores["b"].sample(frac=1, random_state=1)}
    pd.testing.assert_frame_equal(rank_stability(scores, draws=50), rank_stability(shuffled, draws=50))


def test_average_ranks_go_with_means():
    rng = np.random.default_rng(0)
    table = rank_stability({n: method(0.5 + 0.02 * i, rng) for i, n in enumerate("abcdef")}, draws=50)
    part = table[table["region"] == "WT"]
    assert spearmanr(part["rank"], part["case_rank"]).statistic > 0.9


# --- spread between seeds ---------------------------------------------------------------------------------------------


def test_the_spread_between_seeds_is_pooled():
    """Means 0.1 and 0.3 have variance 0.02, 0.2 twice none; with one degree of freedom each, sd = sqrt(0.01)."""

    def at(*values):
        return {i: table_of(lambda p, s, r, v=v: v, MODALITIES) for i, v in enumerate(values)}

    table = seed_spread({"a": at(0.1, 0.3), "b": at(0.2, 0.2), "once": at(0.9)})
    assert table["sd"].tolist() == pytest.approx([0.1] * 3)
    assert table["chance"].tolist() == pytest.approx([0.277186] * 3, rel=1e-4)
    assert (table["methods"].iloc[0], table["seeds"].iloc[0]) == (2, 4)
    with pytest.raises(InputError, match="two seeds at least"):
        seed_spread({"once": at(0.9)})


def test_chance_is_what_two_trainings_differ_by_in_one_of_twenty_pairs():
    rng = np.random.default_rng(0)
    scores = {
        0: {i: table_of(lambda p, s, r, v=v: v, ("t1c",), 1, ("WT",)) for i, v in enumerate(rng.normal(size=300))}
    }
    chance = seed_spread(scores)["chance"].iloc[0]
    pairs = rng.normal(size=(20_000, 2))
    assert (np.abs(pairs[:, 0] - pairs[:, 1]) > chance).mean() == pytest.approx(0.05, abs=0.025)


# --- choosing the best ------------------------------------------------------------------------------------------------


def test_a_difference_that_all_patients_have_is_kept_whole():
    scores = {name: table_of(lambda p, s, r, v=v: v + 0.01 * p, MODALITIES, 6) for name, v in (("a", 0.5), ("b", 0.7))}
    found = selection_optimism(scores, draws=20)
    assert set(found["chosen"]) == {"b"}
    assert found[["promised", "kept"]].to_numpy() == pytest.approx(0.1), "over the mean of both"


def test_both_halves_make_up_the_whole_and_equal_methods_keep_nothing():
    """Of five equal methods the best of n patients leads by 1.163 sd / sqrt(n): the mean of the largest of five."""
    rng, promised, kept = np.random.default_rng(0), [], []
    for _ in range(60):
        values = rng.normal(0.5, 0.1, (5, 20))
        scores = {f"m{k}": table_of(lambda p, s, r, v=v: v[p], ("t1c",), 20) for k, v in enumerate(values)}
        found = selection_optimism(scores, draws=20)
        gain = values.mean(axis=1) - values.mean()
        of_chosen = np.array([gain[int(name[1:])] for name in found["chosen"]])
        assert (found["promised"] + found["kept"]).to_numpy() == pytest.approx(2 * of_chosen)
        promised.append(found["promised"].mean())
        kept.append(found["kept"].mean())
    assert np.mean(promised) == pytest.approx(1.163 * 0.1 / np.sqrt(10), rel=0.1)
    assert np.mean(kept) == pytest.approx(0, abs=0.004)


def test_there_must_be_something_to_choose_and_to_halve():
    one = table_of(lambda *_: 0.5, MODALITIES, 1)
    with pytest.raises(InputError, match="two at least; these scores have 1"):
        selection_optimism({"a": one, "b": one})
    with pytest.raises(InputError, match="1 method to compare"):
        selection_optimism({"a": one})
