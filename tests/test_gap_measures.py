"""Measures of laws: on clouds with a known answer, and against other libraries' numbers."""

from itertools import combinations

import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pytest
import scipy.linalg
import scipy.stats
from clouds import cloud
from hypothesis import given, settings
from sklearn.metrics import silhouette_score

from mtg_lab import gap_measures
from mtg_lab.gap import MEASURES, gap
from mtg_lab.paired import Paired, label_permutation, own_labels

LAWS = [name for name, m in MEASURES.items() if m.null == "labels"]


def value(measure, table, weights=None, labels=None):
    paired = Paired.of(table)
    weights = np.ones(paired.subjects) if weights is None else np.asarray(weights, dtype=float)
    return measure(paired)(weights, own_labels(paired) if labels is None else labels)


# --- against other implementations ------------------------------------------------------------------------------------


def test_frechet_is_that_of_scipys_matrix_root():
    table = cloud(offset=1.0, scale=1.5, turn=True, modalities=3)
    z = Paired.of(table).z
    means = z.mean(axis=0)
    covariances = [np.cov(z[:, m], rowvar=False, ddof=0) for m in range(3)]
    expected = np.mean([
        ((means[a] - means[b]) ** 2).sum()
        + np.trace(covariances[a] + covariances[b] - 2 * scipy.linalg.sqrtm(covariances[a] @ covariances[b]).real)
        for a, b in combinations(range(3), 2)
    ]) / np.mean([np.trace(c) for c in covariances])  # fmt: skip
    assert value(gap_measures.frechet, table)["frechet"] == pytest.approx(expected, rel=1e-6)


def test_silhouette_is_that_of_scikit_learn():
    table = cloud(offset=1.0, modalities=3, subjects=3)
    paired = Paired.of(table)
    names = np.tile(np.arange(3), len(paired.z))
    expected = silhouette_score(paired.z.reshape(-1, 4), names)
    assert value(gap_measures.distances, table)["silhouette"] == pytest.approx(expected, abs=1e-4)


def test_mmd_is_the_mean_kernel_over_pairs_of_different_subjects():
    table = cloud(offset=1.0, subjects=4, voxels=10)
    paired = Paired.of(table)
    z, s = (paired.z - paired.z.mean(axis=(0, 1))) / paired.scale, paired.subject
    d = ((z[:, :, None, None] - z[None, None]) ** 2).sum(-1)  # [n, M, n, M]
    flat = z.reshape(-1, 4)  # fewer than 1000 latents: the median is over all pairs
    median = np.median([((a - b) ** 2).sum() for a, b in combinations(flat, 2)])
    kernel, apart = np.exp(-d / median), s[:, None] != s[None]
    mean = [[kernel[:, a, :, b][apart].mean() for b in range(2)] for a in range(2)]
    expected = mean[0][0] + mean[1][1] - 2 * mean[0][1]
    assert value(gap_measures.distances, table)["mmd"] == pytest.approx(expected, rel=0.01)


def test_sliced_wasserstein_is_scipys_on_every_line():
    table = cloud(offset=1.0, scale=2.0)
    paired = Paired.of(table)
    lines = np.random.default_rng(0).normal(size=(4, 48))
    lines /= np.linalg.norm(lines, axis=0)
    along = paired.z @ lines / paired.scale
    expected = np.mean([scipy.stats.wasserstein_distance(along[:, 0, p], along[:, 1, p]) for p in range(48)])
    assert value(gap_measures.sliced_wasserstein, table)["sliced_wasserstein"] == pytest.approx(expected, rel=0.01)


def test_an_offset_is_measured_in_units_of_the_spread():
    """Root mean square distance to the centroid of a unit Gaussian in 4 dimensions is 2: an offset of 6 is a gap of 3.
    Frechet: 36 over the variance 4. MMD and others have no such number, but see it all the same.
    """
    table = cloud(offset=6.0, subjects=20, voxels=100)
    assert value(gap_measures.centroid_gap, table)["centroid_gap"] == pytest.approx(3, rel=0.03)
    assert value(gap_measures.frechet, table)["frechet"] == pytest.approx(9, rel=0.03)
    told = value(gap_measures.classifier, table)
    assert told["modality_accuracy"] > 0.99
    assert told["proxy_a_distance"] > 1.97
    assert 0.97 < told["js_share"] <= 1


def test_the_classifier_proves_almost_all_of_a_known_divergence():
    """Two unit Gaussians 2 apart: their Jensen-Shannon divergence by quadrature, of log 2 at most."""
    grid = np.linspace(-8, 10, 20001)
    p, q = scipy.stats.norm.pdf(grid), scipy.stats.norm.pdf(grid, 2)
    m = (p + q) / 2
    js = np.trapezoid(0.5 * p * np.log(np.maximum(p, 1e-300) / m) + 0.5 * q * np.log(np.maximum(q, 1e-300) / m), grid)
    found = value(gap_measures.classifier, cloud(offset=2.0, subjects=20, voxels=100))["js_share"]
    assert found == pytest.approx(js / np.log(2), abs=0.03)
    assert found <= js / np.log(2) + 0.02


def test_a_scale_is_seen_by_all_but_the_centroids():
    """Unit Gaussian against twice it: |1 - 2|^2 tr I over the mean variance (4 + 16) / 2 is 0.4."""
    table = cloud(scale=2.0, subjects=20, voxels=100)
    assert value(gap_measures.frechet, table)["frechet"] == pytest.approx(0.4, rel=0.05)
    assert value(gap_measures.centroid_gap, table)["centroid_gap"] < 0.1


# --- which difference is seen by which measure ------------------------------------------------------------------------

SEEN = {  # of: offset, scale, turn
    "centroid_gap": (True, False, False),
    "frechet": (True, True, True),
    "sliced_wasserstein": (True, True, True),
    "mmd": (True, True, True),
    "modality_accuracy": (True, True, True),
    "proxy_a_distance": (True, True, True),
    "js_share": (True, True, True),
}


@pytest.fixture(scope="module")
def clouds():
    kinds = {"offset": {"offset": 2.0}, "scale": {"scale": 2.0}, "turn": {"turn": True}, "same": {}}
    return {
        k: gap(cloud(shared=0.5, subjects=12, **o), draws=0, nulls=99, measures=LAWS).set_index("metric")
        for k, o in kinds.items()
    }


@pytest.mark.parametrize("name", SEEN)
def test_each_measure_sees_what_it_says(clouds, name):
    for kind, seen in zip(("offset", "scale", "turn"), SEEN[name], strict=True):
        row = clouds[kind].loc[name]
        if seen:
            assert row["p"] <= 0.03, f"{name} does not see {kind}"
            assert row["value"] > row["null_mean"] + 0.05
        else:
            assert row["value"] < 0.25 * clouds["offset"].loc[name, "value"], f"{name} sees {kind}"


def test_one_law_is_no_gap_for_any(clouds):
    assert (clouds["same"]["p"] > 0.03).all()
    assert clouds["same"].loc["modality_accuracy", "value"] == pytest.approx(0.5, abs=0.06)
    assert clouds["same"].loc["js_share", "value"] < 0.02
    assert abs(clouds["same"].loc["mmd", "value"]) < 0.01
    assert abs(clouds["same"].loc["proxy_a_distance", "value"]) < 0.25


def test_p_values_are_uniform_where_there_is_no_gap():
    """60 cohorts without a gap, but with patients who differ: small p-values must be as rare as they say."""
    ps = []
    for seed in range(60):
        table = cloud(subjects=6, voxels=12, seed=seed)
        rng = np.random.default_rng(seed)
        for subject in table["subject"].unique():  # each patient's own shift of each modality
            for m in table["modality"].unique():
                here = (table["subject"] == subject) & (table["modality"] == m)
                table.loc[here, ["z0", "z1", "z2", "z3"]] += rng.normal(size=4)
        ps.append(gap(table, draws=0, nulls=39, measures=["centroid_gap", "mmd"])["p"].to_numpy())
    small = (np.array(ps) <= 0.1).sum(axis=0)
    assert scipy.stats.binomtest(int(small[0]), 60, 0.1).pvalue > 0.001
    assert scipy.stats.binomtest(int(small[1]), 60, 0.1).pvalue > 0.001


# --- what must always hold --------------------------------------------------------------------------------------------

ALL = [gap_measures.centroid_gap, gap_measures.frechet, gap_measures.sliced_wasserstein, gap_measures.distances,
       gap_measures.classifier]  # fmt: skip


@pytest.mark.parametrize("measure", ALL)
@settings(deadline=None, max_examples=5)
@given(st.floats(0.01, 100), st.floats(-50, 50), st.integers(0, 2**20))
def test_a_common_scale_or_shift_changes_nothing(measure, scale, shift, seed):
    table = cloud(offset=1.0, subjects=3, voxels=15, seed=seed)
    moved = table.copy()
    moved[["z0", "z1", "z2", "z3"]] = scale * table[["z0", "z1", "z2", "z3"]] + shift
    for name, number in value(measure, moved).items():
        assert number == pytest.approx(value(measure, table)[name], rel=0.02, abs=0.005), name


@pytest.mark.parametrize("measure", ALL)
def test_weights_are_copies_of_subjects(measure):
    """A subject that a bootstrap draws twice is a subject that is there twice."""
    table = cloud(offset=1.0, subjects=4, voxels=30)
    again = table[table["subject"] == "P1"].assign(subject="P1b")
    twice = pd.concat([table, again], ignore_index=True)
    for name, number in value(measure, table, weights=[1, 2, 1, 1]).items():
        if name in ("modality_accuracy", "proxy_a_distance", "js_share", "mmd"):
            continue  # folds change with the copy; copies of one subject are kept apart
        expected = value(measure, twice)[name]
        assert number == pytest.approx(expected, rel=0.03, abs=0.004), name


@pytest.mark.parametrize("measure", ALL)
def test_renaming_all_modalities_alike_changes_nothing(measure):
    table = cloud(offset=1.0, modalities=3, subjects=4)
    renamed = (own_labels(Paired.of(table)) + 1) % 3
    assert value(measure, table, labels=renamed) == pytest.approx(value(measure, table), rel=0.02, abs=0.005)


def test_names_are_permuted_once_a_subject():
    paired = Paired.of(cloud(modalities=3, subjects=50))
    labels = label_permutation(paired, np.random.default_rng(0))
    assert labels.shape == (50, 3)
    assert (np.sort(labels, axis=1) == np.arange(3)).all()
    assert len({tuple(row) for row in labels}) == 6


def test_one_subject_alone_cannot_be_cross_validated():
    table = cloud(subjects=1)
    assert np.isnan(list(value(gap_measures.classifier, table).values())).all()
    assert np.isnan(value(gap_measures.distances, table)["mmd"])


def test_collapsed_latents_have_no_gap_and_no_crash():
    table = cloud(subjects=4)
    table[["z0", "z1", "z2", "z3"]] = 0.0
    for measure in ALL:
        for name, number in value(measure, table).items():
            # A classifier of nothing answers one name always: right for one modality in two.
            assert number == pytest.approx(0.5 if name == "modality_accuracy" else 0.0, abs=1e-6), name
