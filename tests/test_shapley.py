"""Shapley values and interactions of games whose answers are known."""

from itertools import combinations, permutations
from math import factorial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from score_tables import MODALITIES, all_subsets, table_of

from mtg_lab.errors import InputError
from mtg_lab.shapley import interaction_weights, pair_interactions, shapley_weights, worth

SUBSETS = tuple(map(frozenset, all_subsets()))
games = some.lists(some.floats(0, 1), min_size=15, max_size=15).map(np.array)


def values_of(game, modalities=MODALITIES):
    """Shapley values from the definition by orders: the mean over M! orders of what each adds on its arrival."""
    gains = dict.fromkeys(modalities, 0.0)
    for order in permutations(modalities):
        for place, m in enumerate(order):
            before = frozenset(order[:place])
            gains[m] += (game[before | {m}] - (game[before] if before else 0)) / factorial(len(modalities))
    return gains


def test_an_additive_game_pays_each_its_own():
    own = {"t1n": 0.05, "t1c": 0.4, "t2w": 0.15, "t2f": 0.2}
    table = worth(table_of(lambda p, s, r: sum(own[m] for m in s)), draws=20).set_index(["region", "modality"])
    for region in ("WT", "ET", "all"):
        for m, value in own.items():
            row = table.loc[region, m]
            assert row[["value", "low", "high"]].to_numpy(dtype=float) == pytest.approx(value)
            assert row["share"] == pytest.approx(value / 0.8)


def test_a_unanimity_game_is_shared_by_those_it_needs():
    """v(S) = 1 where S holds T: 1 / |T| each for T, nothing for the others (Shapley 1953)."""
    for needed in map(frozenset, all_subsets()):
        table = worth(table_of(lambda p, s, r, t=needed: float(t <= s), regions=("WT",)), draws=5)
        for m, value in zip(table["modality"], table["value"], strict=True):
            assert value == pytest.approx(1 / len(needed) if m in needed else 0)


@given(games)
def test_weights_are_those_of_the_orders_of_arrival(game):
    found = shapley_weights(MODALITIES, SUBSETS) @ game
    expected = values_of(dict(zip(SUBSETS, game, strict=True)))
    assert found == pytest.approx([expected[m] for m in MODALITIES])


@given(games)
def test_values_sum_to_the_full_score(game):
    assert (shapley_weights(MODALITIES, SUBSETS) @ game).sum() == pytest.approx(game[-1])


@given(games)
def test_symmetric_players_are_worth_the_same(game):
    table = dict(zip(SUBSETS, game, strict=True))
    swap = {"t1n": "t1c", "t1c": "t1n"}
    symmetric = np.array([(table[s] + table[frozenset(swap.get(m, m) for m in s)]) / 2 for s in SUBSETS])
    values = shapley_weights(MODALITIES, SUBSETS) @ symmetric
    assert values[0] == pytest.approx(values[1])


@given(games)
def test_a_dummy_is_worth_nothing(game):
    table = dict(zip(SUBSETS, game, strict=True))
    blind = np.array([table[s - {"t2w"}] if s - {"t2w"} else 0.0 for s in SUBSETS])
    assert (shapley_weights(MODALITIES, SUBSETS) @ blind)[2] == pytest.approx(0)
    interactions = interaction_weights(MODALITIES, SUBSETS, "shapley") @ blind
    pairs = list(combinations(MODALITIES, 2))
    assert [v for pair, v in zip(pairs, interactions, strict=True) if "t2w" in pair] == pytest.approx([0] * 3)


@settings(max_examples=20)
@given(some.integers(0, 2**32 - 1))
def test_a_tables_values_sum_to_its_score_with_all_sequences(seed):
    rng = np.random.default_rng(seed)
    cells = rng.random((3, 15, 2))
    places = {s: i for i, s in enumerate(SUBSETS)}
    scores = {
        n: table_of(lambda p, s, r, n=n: cells[p, places[s], int(r == "ET")] ** (n + 1), subjects=3) for n in (0, 1)
    }
    table = worth(scores, draws=20)
    full = np.mean([t[t["modalities"] == 4].groupby("region")["value"].mean() for t in scores.values()], axis=0)
    sums = table.groupby("region")["value"].sum()
    assert sums[["ET", "WT"]].to_numpy() == pytest.approx(full)
    assert sums["all"] == pytest.approx(full.mean())
    assert table.groupby("region")["share"].sum().to_numpy() == pytest.approx(1)


def test_eight_sequences_are_exact_too():
    names = tuple(f"m{i}" for i in range(8))
    scores = table_of(lambda p, s, r: len(s) ** 2 / 64, names, subjects=2, regions=("WT",))
    table = worth(scores, draws=20)
    assert table["value"].to_numpy() == pytest.approx(1 / 8), "symmetric: the full score in equal parts"


def test_partial_subsets_are_refused():
    scores = table_of(lambda p, s, r: 0.5)
    with pytest.raises(InputError, match=r"4 sequences need all 15 subsets, and 14 were scored; .* most_subsets=15"):
        worth(scores[scores["subset"] != "t1c+t2f"])
    with pytest.raises(InputError, match="in hd95 is not defined"):
        worth(scores.assign(metric="hd95"), "hd95")
    no_pair = scores[~((scores["subject"] == "P0") & (scores["modalities"] == 4))]
    assert (worth(no_pair, draws=5)["subjects"] == 3).all()
    nobody = scores[(scores["subject"] == "P0") == (scores["modalities"] < 4)]
    with pytest.raises(InputError, match="no subject was scored on every subset"):
        worth(nobody)


def test_intervals_are_those_of_the_patients():
    """An additive game with patient noise on one sequence: the interval of its worth is that of a mean."""
    rng = np.random.default_rng(0)
    noise = rng.normal(0.3, 0.1, 50)
    table = worth(table_of(lambda p, s, r: noise[p] * ("t1c" in s), subjects=50, regions=("WT",)), draws=4000)
    row = table.set_index("modality").loc["t1c"]
    assert row["high"] - row["low"] == pytest.approx(2 * 1.96 * noise.std() / np.sqrt(50), rel=0.1)
    assert table.set_index("modality").loc["t2f", ["low", "high"]].tolist() == pytest.approx([0, 0])


# --- pairs ------------------------------------------------------------------------------------------------------------


def interactions(value, modalities=MODALITIES):
    table = pair_interactions(table_of(value, modalities, regions=("WT",)), draws=5)
    return table.set_index(["index", "first", "second"])["value"]


def test_the_interaction_of_a_unanimity_game():
    """1 / (|T| - 1) for pairs within T, nothing for others (Grabisch and Roubens 1999)."""
    for needed in (s for s in SUBSETS if len(s) > 1):
        found = interactions(lambda p, s, r, t=needed: float(t <= s))["shapley"]
        for pair, value in found.items():
            assert value == pytest.approx(1 / (len(needed) - 1) if set(pair) <= needed else 0)


def test_two_that_say_the_same_are_redundant_and_strangers_are_not():
    found = interactions(lambda p, s, r: 0.6 * bool(s & {"t2w", "t2f"}) + 0.3 * ("t1c" in s))
    for index in ("shapley", "alone", "given_others"):
        assert found[index, "t2w", "t2f"] == pytest.approx(-0.6)
        assert found[index, "t1c", "t2f"] == pytest.approx(0)


def test_given_others_leaves_the_start_from_nothing_out():
    """A lesion that any sequence finds: from nothing, everything is redundant; given others, nothing is left to say."""
    found = interactions(lambda p, s, r: 0.8)
    assert found["alone"].to_numpy() == pytest.approx(-0.8)
    assert found["shapley"].to_numpy() == pytest.approx(-0.8 / 3)
    assert found["given_others"].to_numpy() == pytest.approx(0)


def test_the_index_is_the_mean_difference_of_shapley_values():
    """I_ij = φ_j of the game with i there − φ_j of the game without i (the recursion that defines the index)."""
    rng = np.random.default_rng(0)
    game = dict(zip(SUBSETS, rng.random(15), strict=True))
    found = interactions(lambda p, s, r: game[s])["shapley"]
    rest = ("t1c", "t2w", "t2f")
    there = {frozenset(s): game[frozenset({"t1n", *s})] - game[frozenset({"t1n"})] for s in all_subsets(rest)}
    gone = {frozenset(s): game[frozenset(s)] for s in all_subsets(rest)}
    for m in rest:
        assert found["t1n", m] == pytest.approx(values_of(there, rest)[m] - values_of(gone, rest)[m])


def test_two_sequences_have_no_others():
    found = interactions(lambda p, s, r: 0.3 * len(s), ("t1c", "t2f"))
    assert found["shapley"].iloc[0] == pytest.approx(0)
    assert np.isnan(found["given_others"].iloc[0])
    with pytest.raises(InputError, match="have t1c only"):
        pair_interactions(table_of(lambda p, s, r: 0.5, ("t1c",)))
