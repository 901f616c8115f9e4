"""Score tables as arrays: nothing moves, nothing of two protocols meets."""

from dataclasses import asdict, replace

import numpy as np
import pandas as pd
import pytest
from score_tables import MODALITIES, table_of

from mtg_lab.errors import InputError
from mtg_lab.evaluation import paired_difference
from mtg_lab.figures_scores import shapley_bars
from mtg_lab.protocol import Protocol
from mtg_lab.resampling import interval, resampled_means, weighted_means
from mtg_lab.score_cube import by_arm, comparable_cubes, more_is_better, nanmean, score_cube
from mtg_lab.shapley import worth
from mtg_lab.statistics import rank_stability
from mtg_lab.subset_statistics import missingness_area, worst_subset


def test_every_cell_finds_its_place():
    def value(p, s, r):
        return p + 10 * len(s) + 100 * (r == "ET") + 0.5 * ("t1c" in s)

    tables = {7: table_of(value), 8: table_of(value).sample(frac=1, random_state=0).assign(value=lambda t: -t["value"])}
    cube = score_cube(tables)
    assert (cube.seeds, cube.modalities, cube.regions) == ((7, 8), MODALITIES, ("WT", "ET"))
    assert cube.subsets[cube.full] == frozenset(MODALITIES)
    for p in range(4):
        for u, subset in enumerate(cube.subsets):
            for r, region in enumerate(cube.regions):
                expected = value(p, subset, region)
                assert cube.values[:, p, u, r].tolist() == [expected, -expected]
    mean = cube.mean_over_regions()
    assert mean.regions == ("WT", "ET", "all")
    np.testing.assert_allclose(mean.values[..., 2], cube.values.mean(axis=3))


def test_what_was_not_scored_is_nan():
    table = table_of(lambda p, s, r: 0.5)
    cube = score_cube(table[~((table["subject"] == "P2") & (table["subset"] == "t1c"))])
    assert np.isnan(cube.values).sum() == 2, "two regions of one subset"
    assert np.isnan(cube.values[0, 2, cube.subset_names.index("t1c")]).all()


def test_a_metric_is_chosen_among_several():
    table = table_of(lambda p, s, r: 0.5)
    both = pd.concat([table, table.assign(metric="hd95", value=9.0)])
    assert (score_cube(both, "hd95").values == 9).all()
    with pytest.raises(InputError, match=r"these scores have no metric 'nsd'; they have dice, hd95"):
        score_cube(both, "nsd")


def test_a_region_without_its_small_parts_does_not_count_twice():
    """WT 0.2, ET 0.4, ETpp 0.9: the mean over regions is 0.3, whatever is computed from it."""
    of = {"WT": 0.2, "ET": 0.4, "ETpp": 0.9}
    table = table_of(lambda p, s, r: of[r] + 0.01 * p, regions=tuple(of))
    without = table[table["region"] != "ETpp"]
    cube = score_cube(table).mean_over_regions()
    assert cube.regions == ("WT", "ET", "ETpp", "all")
    assert cube.values[0, 0, 0].tolist() == pytest.approx([0.2, 0.4, 0.9, 0.3])

    def whole(found):
        return found[found["region"] == "all"].reset_index(drop=True)

    worse, worse_without = (t.assign(value=t["value"] - 0.1) for t in (table, without))
    for compute in (worth, missingness_area, worst_subset):
        pd.testing.assert_frame_equal(whole(compute(table, draws=20)), whole(compute(without, draws=20)))
    pd.testing.assert_frame_equal(
        whole(rank_stability({"a": table, "b": worse}, draws=20)),
        whole(rank_stability({"a": without, "b": worse_without}, draws=20)),
    )
    first = paired_difference({0: table}, {0: worse}, 20)
    second = paired_difference({0: without}, {0: worse_without}, 20)
    pd.testing.assert_frame_equal(whole(first), whole(second))
    assert set(first["region"]) == {"all", "WT", "ET", "ETpp"}
    assert "ETpp" not in shapley_bars(worth(table, draws=20)).get_suptitle()


def test_methods_are_compared_by_one_metric_though_their_tables_hold_others(tmp_path):
    """The protocol of the metric alone decides."""
    plain = table_of(lambda p, s, r: 0.5)
    settings = {"hd95": "pooled", "hd95_empty": "374"}
    one = Protocol("c", "test", ("P0",), ("t1c",), ("WT", "ET"), 1.0, 0, 0.0, "one", "fp32")
    both = replace(one, metric="dice,hd95", metric_settings=settings)
    alone = plain.assign(protocol=one.digest())
    alone.attrs["protocol"] = asdict(one)
    several = pd.concat([plain, plain.assign(metric="hd95")]).assign(protocol=both.digest())
    several.attrs["protocol"] = asdict(both)
    cubes = comparable_cubes({"a": alone, "b": several})
    assert Protocol.from_json(cubes["b"].table([]).attrs["protocol"]) == one
    with pytest.raises(InputError, match="these scores have no metric 'hd95'"):
        comparable_cubes({"a": alone, "b": several}, "hd95")


def test_each_metric_has_its_better_end_or_none():
    assert more_is_better("dice")
    assert not more_is_better("hd95")
    with pytest.raises(InputError, match="volume_error_ml is best at 0"):
        more_is_better("volume_error_ml")


def test_methods_stand_on_one_axis_though_their_files_are_sorted_otherwise():
    table = table_of(lambda p, s, r: p + len(s) + (r == "ET"))
    cubes = comparable_cubes({"a": table, "b": table.iloc[::-1]})
    np.testing.assert_array_equal(cubes["a"].values, cubes["b"].values)
    with pytest.raises(InputError, match="b has not the same subjects as the others: P3"):
        comparable_cubes({"a": table, "b": table[table["subject"] != "P3"]})


def test_what_cannot_be_read_is_said():
    table = table_of(lambda p, s, r: 0.5)
    for scores, words in (
        ({}, "there are no scores"),
        (pd.concat([table, table]), "subject P0, subset t1n, region WT is scored twice"),
        (table.drop(columns="region"), "lacks the column region"),
        ({0: table, 1: table.assign(protocol="other")}, "cannot be compared"),
    ):
        with pytest.raises(InputError, match=words):
            score_cube(scores)
    with pytest.raises(InputError, match="two at least"):
        comparable_cubes({"a": table})
    with pytest.raises(InputError, match="cannot be compared"):
        comparable_cubes({"a": table, "b": table.assign(protocol="other")})


def test_a_long_table_falls_into_arms_and_seeds():
    table = table_of(lambda p, s, r: 0.5)
    long = pd.concat(
        [table.assign(arm=a, seed=s, value=v) for a, s, v in (("x", 0, 0.1), ("x", 1, 0.2), ("y", 0, 0.3))]
    )
    long.attrs["protocol"] = {"window": 0}
    found = by_arm(long)
    assert {a: list(seeds) for a, seeds in found.items()} == {"x": [0, 1], "y": [0]}
    assert (found["x"][1]["value"] == 0.2).all()
    assert found["y"][0].attrs["protocol"] == {"window": 0}
    with pytest.raises(InputError, match="no column 'seed'"):
        by_arm(long.drop(columns="seed"))


# --- the bootstrap ----------------------------------------------------------------------------------------------------


def test_weights_count_rows_and_columns():
    """Rows drawn 2 and 0 times, columns 1, 0 and 3: (1 + 3 x 3) / 4 of the first row; the NaN does not count."""
    cells = np.array([[1.0, 2, 3], [4, 5, 6]])
    rows, columns = np.array([[2, 0]]), np.array([[1, 0, 3]])
    assert weighted_means(cells, rows, columns).tolist() == [2.5]
    cells[0, 0] = np.nan
    assert weighted_means(cells, rows, columns).tolist() == [3.0]
    assert np.isnan(weighted_means(np.full((2, 3), np.nan), rows, columns)).all()


def test_trailing_axes_are_resampled_alike():
    rng = np.random.default_rng(0)
    cells = rng.normal(size=(3, 5, 2, 4))
    together = resampled_means(cells, 20, np.random.default_rng(1))
    assert together.shape == (20, 2, 4)
    np.testing.assert_allclose(together[:, 1, 2], resampled_means(cells[:, :, 1, 2], 20, np.random.default_rng(1)))


def test_intervals_cover_a_known_mean_about_as_often_as_they_say():
    """Forty patients, N(0.3, 1), one seed: 95 % of intervals hold 0.3, give or take the error of 400 trials (1.1 %) and
    the bootstrap's own narrowness at n = 40 (about a point)."""
    rng = np.random.default_rng(0)
    cells = rng.normal(0.3, 1.0, (1, 40, 400))
    low, high = interval(resampled_means(cells, 1000, rng))
    assert 0.90 <= ((low < 0.3) & (high > 0.3)).mean() <= 0.98


def test_intervals_of_several_seeds_hold_the_variation_of_trainings():
    """Ten seeds with an effect of sd 1 each and noiseless patients: the interval's width is that of the seeds' mean."""
    rng = np.random.default_rng(0)
    cells = np.broadcast_to(rng.normal(0, 1, (10, 1, 200)), (10, 30, 200))
    low, high = interval(resampled_means(cells, 500, rng))
    assert np.mean(high - low) == pytest.approx(2 * 1.96 / np.sqrt(10), rel=0.15)


def test_the_mean_of_nothing_is_nan_without_a_warning(recwarn):
    assert np.isnan(nanmean(np.array([[np.nan, np.nan]]), axis=1)).all()
    assert nanmean(np.array([[1.0, np.nan, 3.0]]), axis=1).tolist() == [2.0]
    assert np.isnan(interval(np.full((5, 2), np.nan))).all()
    assert not recwarn.list
