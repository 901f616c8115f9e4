"""Measures of pairs: on clouds with a known answer, against definitions written out, and what must always hold."""

import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pytest
import torch
from clouds import cloud
from hypothesis import given, settings

from mtg_lab import pairing_measures
from mtg_lab.gap import gap
from mtg_lab.moments import moments
from mtg_lab.moments import relative_gap as of_moments
from mtg_lab.paired import Paired, own_pairing, random_pairing
from mtg_lab.pairing_measures import rank_of

ALL = [pairing_measures.relative_gap, pairing_measures.matched_cosine, pairing_measures.linear_cka,
       pairing_measures.retrieval, pairing_measures.shape]  # fmt: skip


def value(measure, table, weights=None):
    paired = Paired.of(table)
    weights = np.ones(paired.subjects) if weights is None else np.asarray(weights, dtype=float)
    return measure(paired)(weights, own_pairing(paired))


def test_an_offset_parts_pairs():
    """Half the squared offset lies between the pair, so relative gap (6^2/4 + 4/2) / (4 + 6^2/4) = 11/13."""
    found = value(pairing_measures.relative_gap, cloud(offset=6.0, subjects=20, voxels=100))
    assert found["relative_gap"] == pytest.approx(11 / 13, rel=0.02)


@pytest.mark.parametrize("shared", [0.0, 0.5, 0.9])
def test_what_a_pair_shares(shared):
    """Variance between m of a pair's 2 members over the total: (1 - rho) / 2. Cosine in many dimensions: rho. CKA of
    Gaussians with covariance I and cross-covariance rho I: |rho I|^2 / (|I| |I|) = rho^2.
    """
    table = cloud(shared=shared, subjects=20, voxels=100)
    assert value(pairing_measures.relative_gap, table)["relative_gap"] == pytest.approx((1 - shared) / 2, rel=0.07)
    assert value(pairing_measures.linear_cka, table)["linear_cka"] == pytest.approx(shared**2, abs=0.03)
    wide = cloud(shared=shared, channels=200, voxels=20)
    assert value(pairing_measures.matched_cosine, wide)["matched_cosine"] == pytest.approx(shared, abs=0.02)


def test_cka_is_blind_to_offset_rotation_and_scale_and_says_so():
    plain = cloud(shared=1.0)
    turned = plain.copy()
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(4, 4)))[0]
    second = turned["modality"] == "t1c"
    columns = ["z0", "z1", "z2", "z3"]
    turned.loc[second, columns] = 7 + 3 * turned.loc[second, columns].to_numpy() @ rotation
    for table in (plain, turned):
        assert value(pairing_measures.linear_cka, table)["linear_cka"] == pytest.approx(1, abs=1e-6)
    assert value(pairing_measures.relative_gap, turned)["relative_gap"] > 0.5
    assert value(pairing_measures.retrieval, turned)["retrieval"] < 0.2
    assert value(pairing_measures.retrieval, plain)["retrieval"] == 1


def test_cka_is_song_and_others_estimator_written_out():
    table = cloud(shared=0.5, subjects=2, voxels=15)
    z = Paired.of(table).z
    n, ones = len(z), np.ones(len(z))
    kernels = []
    for m in range(2):
        kernel = z[:, m] @ z[:, m].T
        np.fill_diagonal(kernel, 0)
        kernels.append(kernel)

    def hsic(k, l):  # noqa: E741
        mixed = np.trace(k @ l) + (ones @ k @ ones) * (ones @ l @ ones) / ((n - 1) * (n - 2))
        return mixed - 2 / (n - 2) * (ones @ k @ l @ ones)

    a, b = kernels
    expected = hsic(a, b) / np.sqrt(hsic(a, a) * hsic(b, b))
    assert value(pairing_measures.linear_cka, table)["linear_cka"] == pytest.approx(expected, rel=1e-9)


def test_cka_is_unbiased_where_the_plain_one_is_not():
    """Independent clouds with more channels than voxels: the plain estimator would say that they agree."""
    found = [
        value(pairing_measures.linear_cka, cloud(subjects=2, voxels=10, channels=60, seed=s))["linear_cka"]
        for s in range(10)
    ]
    assert abs(np.mean(found)) < 0.1


def test_retrieval_by_chance_is_one_over_the_voxels_of_a_subject():
    paired = Paired.of(cloud(shared=0.9, subjects=20, voxels=25))
    measure = pairing_measures.retrieval(paired)
    once, rng = np.ones(20), np.random.default_rng(0)
    chance = [measure(once, random_pairing(paired, rng))["retrieval"] for _ in range(50)]
    assert np.mean(chance) == pytest.approx(1 / 25, rel=0.15)
    assert measure(once, own_pairing(paired))["retrieval"] > 10 / 25


def test_a_random_pairing_stays_within_the_subject():
    paired = Paired.of(cloud(subjects=5, voxels=7, modalities=3))
    order = random_pairing(paired, np.random.default_rng(0))
    assert order.shape == (3, 35)
    assert (np.sort(order, axis=1) == np.arange(35)).all()
    assert (paired.subject[order] == paired.subject).all()
    assert not np.array_equal(order[0], order[1])


def test_independent_pairs_are_not_taken_for_pairs():
    names = ["relative_gap", "matched_cosine", "linear_cka", "retrieval"]
    alone = gap(cloud(), draws=0, nulls=99, measures=names).set_index("metric")
    assert (alone["p"] > 0.01).all()
    together = gap(cloud(shared=0.5), draws=0, nulls=99, measures=names).set_index("metric")
    assert together["p"].tolist() == pytest.approx([0.01] * 4)


@pytest.mark.parametrize("measure", ALL)
def test_weights_are_copies_of_subjects(measure):
    table = cloud(offset=1.0, shared=0.5, subjects=4, voxels=60)
    twice = pd.concat([table, table[table["subject"] == "P1"].assign(subject="P1b")], ignore_index=True)
    expected = value(measure, twice)
    for name, number in value(measure, table, weights=[1, 2, 1, 1]).items():
        assert number == pytest.approx(expected[name], rel=0.03, abs=0.002), name


@settings(deadline=None, max_examples=20)
@given(st.floats(0.01, 100), st.floats(-50, 50), st.integers(0, 2**20))
def test_a_common_scale_or_shift_changes_no_gap_and_no_rank(scale, shift, seed):
    table = cloud(offset=1.0, shared=0.5, subjects=2, voxels=12, seed=seed)
    moved = table.copy()
    moved[["z0", "z1", "z2", "z3"]] = scale * table[["z0", "z1", "z2", "z3"]] + shift
    for measure, name in ((ALL[0], "relative_gap"), (ALL[2], "linear_cka"), (ALL[3], "retrieval")):
        assert value(measure, moved)[name] == pytest.approx(value(measure, table)[name], rel=1e-5, abs=1e-6)
    ranks = [value(pairing_measures.shape, t)["effective_rank"] for t in (table, moved)]
    assert ranks[1] == pytest.approx(ranks[0], rel=1e-5)


def test_numpy_and_torch_agree_on_the_relative_gap():
    table = cloud(offset=1.0, shared=0.3, modalities=3, subjects=1, voxels=30)
    z = Paired.of(table).z  # voxels, modalities, channels
    tensor = torch.tensor(z).permute(1, 2, 0).reshape(1, 3, 4, 30, 1, 1)
    expected = float(of_moments(moments(tensor, torch.ones(1, 3, dtype=torch.bool))))
    assert value(pairing_measures.relative_gap, table)["relative_gap"] == pytest.approx(expected)


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_an_isotropic_cloud_has_full_rank(channels):
    assert rank_of(np.eye(channels) * 3) == pytest.approx(channels)


def test_a_line_has_rank_one_and_two_unequal_axes_lie_between():
    assert rank_of(np.outer([1, 2, 3], [1, 2, 3])) == pytest.approx(1)
    assert rank_of(np.diag([9.0, 1.0])) == pytest.approx(np.exp(-(0.9 * np.log(0.9) + 0.1 * np.log(0.1))))
    assert rank_of(np.zeros((3, 3))) == 1


def test_unit_clouds_have_unit_scale():
    assert value(pairing_measures.shape, cloud(subjects=20, voxels=100))["latent_scale"] == pytest.approx(1, rel=0.05)
