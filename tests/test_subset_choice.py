"""Which subsets are scored: all up to six modalities, beyond that a named sample that every curve can rest on."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtg_lab import vocabulary
from mtg_lab.errors import InputError
from mtg_lab.subset_choice import choose_subsets

NAMES = ("t1n", "t1c", "t2w", "t2f", "adc", "rcbv", "dwi", "swi")


@pytest.mark.parametrize("count", range(1, 7))
def test_up_to_six_modalities_all_are_chosen(count):
    choice = choose_subsets(NAMES[:count])
    assert choice.name == "all"
    assert choice.subsets == vocabulary.subsets(NAMES[:count])


@pytest.mark.parametrize("count", [7, 8])
def test_beyond_six_63_are_sampled_and_the_sample_is_named(count):
    names = NAMES[:count]
    choice = choose_subsets(names)
    assert choice.name == f"63 of {2**count - 1}, seed 0"
    assert len(set(choice.subsets)) == len(choice.subsets) == 63
    fixed = {frozenset({m}) for m in names} | {frozenset(names) - {m} for m in names} | {frozenset(names)}
    assert fixed <= set(choice.subsets)
    sizes = Counter(map(len, choice.subsets))
    between = [sizes[s] for s in range(2, count - 1)]
    assert max(between) - min(between) <= 1, "sizes are equally many"
    assert list(choice.subsets) == [s for s in vocabulary.subsets(names) if s in set(choice.subsets)], "in their order"


@given(st.integers(2, 8), st.integers(0, 300), st.integers(0, 2**32), st.data())
def test_a_sample_is_as_large_as_asked_and_knows_no_order(count, limit, seed, data):
    names = NAMES[:count]
    if limit < min(2 * count + 1, 2**count - 1):
        with pytest.raises(InputError, match=f"at most {limit} subsets of {count} modalities"):
            choose_subsets(names, limit, seed)
        return
    choice = choose_subsets(names, limit, seed)
    assert len(choice.subsets) == min(limit, 2**count - 1)
    moved = choose_subsets(data.draw(st.permutations(names)), limit, seed)
    assert set(moved.subsets) == set(choice.subsets)
    assert moved.name == choice.name


def test_another_seed_is_another_sample_under_another_name():
    first, second = choose_subsets(NAMES, seed=0), choose_subsets(NAMES, seed=1)
    assert set(first.subsets) != set(second.subsets)
    assert first.name != second.name


def test_no_modality_has_no_subset():
    with pytest.raises(InputError, match="no modality"):
        choose_subsets(())
