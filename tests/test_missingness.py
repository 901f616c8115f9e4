"""Who misses what: subsets are drawn uniformly, and the published patterns of PASSION come out again."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from mtg_lab import missingness
from mtg_lab.errors import InputError

masks = st.lists(st.booleans(), min_size=1, max_size=8).filter(any).map(np.array)


@given(masks, st.integers(0, 2**32))
def test_a_drawn_subset_is_never_empty_and_never_more_than_there_is(available, seed):
    drawn = missingness.draw_subset(available, np.random.default_rng(seed))
    assert drawn.dtype == bool
    assert drawn.any()
    assert not (drawn & ~available).any()


@pytest.mark.parametrize("available", [(1, 1, 1, 1), (1, 0, 1, 1), (0, 1, 0, 0)])
def test_every_subset_is_drawn_equally_often(available):
    rng, available = np.random.default_rng(3), np.array(available, dtype=bool)
    drawn = [tuple(missingness.draw_subset(available, rng)) for _ in range(3000)]
    possible = [s for s in product([False, True], repeat=4) if any(s) and not (np.array(s) & ~available).any()]
    counts = [drawn.count(s) for s in possible]
    assert sum(counts) == 3000
    if len(counts) > 1:
        assert stats.chisquare(counts).pvalue > 0.01


def test_a_draw_is_fixed_by_its_generator():
    first, second = (
        [missingness.draw_subset(np.ones(4, bool), rng).tolist() for _ in range(20)]
        for rng in (np.random.default_rng(5), np.random.default_rng(5))
    )
    assert first == second


def test_nothing_can_be_drawn_from_nothing():
    with pytest.raises(InputError, match="without any modality"):
        missingness.draw_subset(np.zeros(4, bool), np.random.default_rng(0))


# PASSION's released files for the 219 training patients of BraTS 2020 (arXiv 2407.14796): rates of t1n, t1c, t2f, t2w
# as in the file's name, how many patients have each of them, and how many have 1, 2, 3, 4 modalities.
PUBLISHED = {
    "mr2468": ((0.2, 0.4, 0.6, 0.8), (184, 135, 90, 43), (58, 98, 54, 9)),
    "mr1379": ((0.1, 0.3, 0.7, 0.9), (200, 156, 68, 23), (49, 116, 50, 4)),
    "mr5528": ((0.5, 0.5, 0.2, 0.8), (113, 111, 185, 42), (61, 92, 58, 8)),
    "mr8825": ((0.8, 0.8, 0.2, 0.5), (46, 44, 189, 118), (83, 98, 34, 4)),
}
ORDER = ("t1n", "t1c", "t2f", "t2w")


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_split_files_come_out_again(name):
    rates, available, sizes = PUBLISHED[name]
    there = missingness.imbalanced(219, dict(zip(ORDER, rates)))
    assert tuple(there.sum(axis=0)) == available
    assert tuple(np.bincount(there.sum(axis=1), minlength=5)) == (0, *sizes)


def test_realised_rates_lie_a_little_below_the_nominal_ones():
    # .160/.384/.589/.804 are the published rates of mr2468; the last is above, from patterns that get one row at least.
    rates = 1 - missingness.imbalanced(219, dict(zip(ORDER, (0.2, 0.4, 0.6, 0.8)))).mean(axis=0)
    np.testing.assert_allclose(rates, (0.160, 0.384, 0.589, 0.804), atol=5e-4)


def test_subjects_may_be_named_and_the_seed_decides():
    rates = {"dwi": 0.3, "adc": 0.5}
    names = missingness.imbalanced([f"P{i}" for i in range(40)], rates)
    np.testing.assert_array_equal(names, missingness.imbalanced(40, rates))
    np.testing.assert_array_equal(names, missingness.imbalanced(np.int64(40), rates))
    assert (names != missingness.imbalanced(40, rates, seed=1)).any()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 0.95), min_size=1, max_size=5), st.integers(0, 200), st.integers(0, 2**32 - 1))
def test_nobody_is_left_with_nothing(rates, extra, seed):
    count = 2 ** len(rates) - 1 + extra
    there = missingness.imbalanced(count, {f"m{i}": r for i, r in enumerate(rates)}, seed)
    assert there.shape == (count, len(rates))
    assert there.any(axis=1).all()


def test_the_global_generator_is_left_alone():
    np.random.seed(1)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    missingness.imbalanced(30, {"a": 0.5})
    np.testing.assert_array_equal(before, np.random.get_state()[1])  # noqa: NPY002


@pytest.mark.parametrize("rates", [{}, {"t1n": 1.0}, {"t1n": -0.1}, {"t1n": float("nan")}])
def test_rates_outside_0_to_1_are_refused(rates):
    with pytest.raises(InputError, match=r"missing rates must lie in \[0, 1\)"):
        missingness.imbalanced(100, rates)


def test_fewer_subjects_than_patterns_are_refused():
    with pytest.raises(InputError, match="14 subjects cannot show all 15 patterns of 4 modalities; give at least 15"):
        missingness.imbalanced(14, dict.fromkeys(ORDER, 0.5))
