"""The modality gap on clouds whose gap is known, and latents that are drawn in pairs."""

import subprocess
import sys

import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings

import mtg_lab
from mtg_lab.data import cached_dataset
from mtg_lab.errors import InputError
from mtg_lab.gap import (
    Embedding,
    centroid_gap,
    complete_pairs,
    effective_rank,
    gap,
    latents,
    modality_accuracy,
    neighbourhood_kept,
    relative_gap,
)
from mtg_lab.hardware import precision_context
from mtg_lab.manifest import read_manifest
from mtg_lab.runs import Run
from mtg_lab.training import train

MODALITIES = ("t1n", "t1c", "t2w", "t2f")


def cloud(offset=0.0, shared=0.0, modalities=2, subjects=8, voxels=40, channels=4, seed=0):
    """Latents of Gaussian modalities: ``shared`` is the correlation of a voxel's modalities, ``offset`` moves modality
    m by m offsets along the first channel. Unit variance within a modality.
    """
    rng, frames = np.random.default_rng(seed), []
    for s in range(subjects):
        common = rng.normal(size=(voxels, channels))
        for m in range(modalities):
            z = np.sqrt(shared) * common + np.sqrt(1 - shared) * rng.normal(size=(voxels, channels))
            z[:, 0] += m * offset
            keys = {"subject": f"P{s}", "site": "A", "tissue": "brain", "voxel": range(voxels)}
            keys["modality"] = MODALITIES[m]
            frames.append(pd.DataFrame(keys).join(pd.DataFrame(z, columns=[f"z{i}" for i in range(channels)])))
    return pd.concat(frames, ignore_index=True)


def numbers(table, **options):
    return gap(table, draws=0, **options).set_index("metric")["value"]


# --- clouds whose gap is known ----------------------------------------------------------------------------------------


def test_an_offset_is_measured_in_units_of_the_spread():
    """Root mean square distance to the centroid of a unit Gaussian in 4 dimensions is 2: an offset of 6 is a gap of 3.
    Half the squared offset lies between the pair, so relative gap (6^2/4 + 4/2) / (4 + 6^2/4) = 11/13.
    """
    found = numbers(cloud(offset=6.0, subjects=20, voxels=100))
    assert found["centroid_gap"] == pytest.approx(3, rel=0.03)
    assert found["relative_gap"] == pytest.approx(11 / 13, rel=0.02)
    assert found["modality_accuracy"] > 0.99


def test_one_law_cannot_be_told_apart():
    found = numbers(cloud(subjects=20, voxels=100))
    assert found["modality_accuracy"] == pytest.approx(0.5, abs=0.05)
    assert found["centroid_gap"] < 0.1
    assert found["relative_gap"] == pytest.approx(0.5, rel=0.05), "independent pairs share nothing but their mean"
    assert found["latent_scale"] == pytest.approx(1, rel=0.05)


@pytest.mark.parametrize("shared", [0.0, 0.5, 0.9])
def test_what_a_pair_shares_closes_the_relative_gap(shared):
    """Variance between m of a pair's 2 members over the total: (1 - rho) / 2."""
    found = numbers(cloud(shared=shared, subjects=20, voxels=100))
    assert found["relative_gap"] == pytest.approx((1 - shared) / 2, rel=0.07)


@settings(deadline=None, max_examples=20)
@given(st.floats(0.01, 100), st.floats(-50, 50), st.integers(0, 2**20))
def test_a_common_scale_or_shift_changes_no_gap(scale, shift, seed):
    table = cloud(offset=1.0, subjects=2, voxels=10, seed=seed)
    z = table[["z0", "z1", "z2", "z3"]].to_numpy()
    modality = pd.factorize(table["modality"])[0]
    pairs = z.reshape(2, 2, 10, 4).swapaxes(1, 2).reshape(-1, 4)  # a voxel's modalities side by side
    assert centroid_gap(scale * z + shift, modality) == pytest.approx(centroid_gap(z, modality), rel=1e-6)
    assert relative_gap(scale * pairs + shift, 2) == pytest.approx(relative_gap(pairs, 2), rel=1e-6)
    assert effective_rank(scale * z + shift) == pytest.approx(effective_rank(z), rel=1e-6)


def test_numpy_and_torch_agree_on_the_relative_gap():
    from mtg_lab.moments import moments
    from mtg_lab.moments import relative_gap as of_moments

    z = np.random.default_rng(0).normal(size=(30, 3, 5))  # voxels, modalities, channels
    tensor = torch.from_numpy(z).permute(1, 2, 0)[None].reshape(1, 3, 5, 30, 1, 1)
    expected = float(of_moments(moments(tensor, torch.ones(1, 3, dtype=torch.bool))))
    ours = ((z - z.mean(1, keepdims=True)) ** 2).sum() / ((z - z.mean((0, 1))) ** 2).sum()
    assert relative_gap(z.reshape(-1, 5), 3) == pytest.approx(ours)
    assert expected == pytest.approx(ours)


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_an_isotropic_cloud_has_full_rank(channels):
    z = np.concatenate([np.eye(channels), -np.eye(channels)])
    assert effective_rank(z) == pytest.approx(channels)


def test_a_line_has_rank_one_and_two_unequal_axes_lie_between():
    assert effective_rank(np.outer(np.arange(9.0), [1, 2, 3])) == pytest.approx(1)
    z = np.array([[3, 0], [-3, 0], [0, 1], [0, -1.0]])  # eigenvalues 9 : 1
    assert effective_rank(z) == pytest.approx(np.exp(-(0.9 * np.log(0.9) + 0.1 * np.log(0.1))))


def test_a_collapsed_cloud_is_no_crash():
    table = cloud(subjects=4)
    table[["z0", "z1", "z2", "z3"]] = 0.0
    found = numbers(table)
    assert found["latent_scale"] == 0
    assert found["relative_gap"] == 0
    assert found["centroid_gap"] == 0


def test_one_subject_has_no_cross_validated_accuracy():
    z, modality = np.zeros((4, 2)), np.array([0, 1, 0, 1])
    assert np.isnan(modality_accuracy(z, modality, np.zeros(4, dtype=int)))


# --- the table --------------------------------------------------------------------------------------------------------


def test_intervals_are_over_subjects_and_hold_the_value():
    table = gap(cloud(offset=1.0), draws=100).set_index("metric")
    assert list(table.index) == ["centroid_gap", "relative_gap", "latent_scale", "effective_rank", "modality_accuracy"]
    bounded = table.drop("modality_accuracy")
    assert (bounded["low"] <= bounded["value"] + 0.05).all()
    assert (bounded["high"] >= bounded["value"] - 0.05).all()
    assert (bounded["low"] < bounded["high"]).all()
    assert table.loc["modality_accuracy", ["low", "high"]].isna().all()


def test_the_interval_shrinks_with_the_number_of_subjects():
    widths = []
    for subjects in (5, 80):
        row = gap(cloud(offset=1.0, subjects=subjects), draws=200).set_index("metric").loc["relative_gap"]
        widths.append(row["high"] - row["low"])
    assert widths[1] < 0.6 * widths[0]


def test_the_order_of_rows_does_not_matter():
    table = cloud(offset=1.0, shared=0.5, modalities=3)
    shuffled = table.sample(frac=1, random_state=0)
    assert numbers(shuffled).to_dict() == pytest.approx(numbers(table).to_dict(), abs=0.02)
    assert numbers(shuffled)["relative_gap"] == pytest.approx(numbers(table)["relative_gap"], rel=1e-9)


def test_voxels_that_lack_a_modality_are_left_out():
    table = cloud(offset=1.0, modalities=3)
    lacking = table.drop(table[(table["modality"] == "t2w") & (table["subject"] < "P4")].index)
    assert set(complete_pairs(lacking)["subject"]) == {"P4", "P5", "P6", "P7"}
    whole = table[table["subject"] >= "P4"]
    assert numbers(lacking)["relative_gap"] == pytest.approx(numbers(whole)["relative_gap"])


def test_a_gap_needs_two_modalities():
    with pytest.raises(InputError, match="these latents are of t1n alone; a gap needs two"):
        gap(cloud(modalities=1))
    halves = cloud()
    apart = halves[(halves["modality"] == "t1n") == (halves["subject"] < "P4")]
    with pytest.raises(InputError, match="no voxel of these latents has all modalities"):
        gap(apart)


# --- latents of a run -------------------------------------------------------------------------------------------------


@pytest.fixture
def run(tiny_recipe) -> Run:
    """Two steps old; the cache keeps it for the whole session."""
    return train(tiny_recipe(steps=2))


def test_latents_are_paired(run, cohort):
    table = latents(run, cohort, voxels=7)
    assert list(table) == ["subject", "site", "tissue", "voxel", "modality", "z0", "z1", "z2"]
    sizes = table.groupby(["subject", "tissue", "voxel"])["modality"].agg(["size", "nunique"])
    assert (sizes == 4).all(axis=None), "every voxel once in every modality"
    assert table.groupby(["subject", "tissue"])["voxel"].nunique().max() <= 7
    assert set(table["subject"]) == {s.name for s in read_manifest(cohort).split("test")}
    assert set(table["tissue"]) <= {"brain", "NCR", "ED", "ET"}
    assert {"brain", "ED"} <= set(table["tissue"])


def test_latents_are_those_of_the_encoder_at_their_voxel(run, cohort):
    table = latents(run, cohort, voxels=5)
    test = read_manifest(cohort).split("test")
    samples = cached_dataset(test.subjects, run.modalities, run.recipe.preprocessing)
    for subject, sample in zip(test, samples, strict=True):
        with torch.inference_mode(), precision_context(torch.device("cpu"), "auto"):
            encoded = run.backbone().encode(sample["image"][None], sample["present"][None])[0][0].float().flatten(2)
        for row in table[table["subject"] == subject.name].itertuples():
            z = encoded[run.modalities.index(row.modality), :, row.voxel]
            assert z.tolist() == pytest.approx([row.z0, row.z1, row.z2], abs=1e-6)
            tissue = ("brain", *run.schema.class_names[1:])[int(sample["label"].flatten()[row.voxel])]
            assert tissue == row.tissue
            assert sample["brain"].flatten()[row.voxel] == 1


def test_a_seed_fixes_the_voxels(run, cohort):
    once = latents(run, cohort, voxels=7, seed=3)
    pd.testing.assert_frame_equal(latents(run, read_manifest(cohort), voxels=7, seed=3), once)
    assert not latents(run, cohort, voxels=7, seed=4)["voxel"].equals(once["voxel"])


def test_latents_can_be_measured(run, cohort):
    found = mtg_lab.gap(mtg_lab.latents(run, cohort, split="train", voxels=10), draws=5)
    assert np.isfinite(found["value"]).all()
    assert 0 <= found.set_index("metric")["value"]["relative_gap"] <= 1


@pytest.mark.parametrize(
    ("options", "told"), [({"split": "exam"}, "no subject in split 'exam'"), ({"scale": 3}, r"scale is 3; .* has 1")]
)
def test_latents_that_are_not_there_are_told(run, cohort, options, told):
    with pytest.raises(InputError, match=told):
        latents(run, cohort, **options)


# --- calling it -------------------------------------------------------------------------------------------------------


def test_gap_can_be_called_by_the_name_of_the_package():
    """The function and its module share a name; importing the module must not hide the function."""
    code = (
        "import mtg_lab, numpy as np, pandas as pd; z = np.random.default_rng(0).normal(size=(8, 2));"
        "t = pd.DataFrame({'subject': list('aabbccdd'), 'tissue': 'x', 'voxel': 0, 'modality': ['p', 'q'] * 4,"
        "'z0': z[:, 0], 'z1': z[:, 1]}); print(len(mtg_lab.gap(t, draws=0)));"
        "import mtg_lab.gap; print(len(mtg_lab.gap(t, draws=0)), len(mtg_lab.gap.gap(t, draws=0)))"
    )  # fmt: skip
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert child.stdout.split() == ["5", "5", "5"], child.stderr


# --- embeddings -------------------------------------------------------------------------------------------------------


def test_pca_is_that_of_scikit_learn_on_unit_spreads():
    from sklearn.decomposition import PCA
    from sklearn.preprocessing import StandardScaler

    table = cloud(offset=2.0)
    z = StandardScaler().fit_transform(table[["z0", "z1", "z2", "z3"]].to_numpy())
    ours = Embedding("pca").fit(table).transform(table)
    np.testing.assert_allclose(np.abs(ours[["x", "y"]]), np.abs(PCA(2).fit_transform(z)), atol=1e-8)
    assert list(ours) == ["subject", "site", "tissue", "voxel", "modality", "x", "y"]


def test_a_map_fitted_on_one_table_is_applied_to_another():
    """Before and after alignment are compared on one map: a point has one place, whichever table it stands in."""
    before, after = cloud(offset=2.0, seed=0), cloud(offset=0.5, seed=1)
    fitted = Embedding("pca").fit(before)
    both = fitted.transform(pd.concat([before, after], ignore_index=True))
    alone = fitted.transform(after)
    np.testing.assert_allclose(both[["x", "y"]].to_numpy()[len(before) :], alone[["x", "y"]])


def test_neighbours_are_kept_by_a_map_that_loses_nothing_and_not_by_noise():
    table = cloud(channels=2, subjects=3)
    kept = neighbourhood_kept(table, Embedding("pca").fit(table).transform(table))
    noise = table.assign(x=np.random.default_rng(0).normal(size=len(table)), y=0.0)
    assert kept == pytest.approx(1, abs=1e-3)
    assert 0 <= neighbourhood_kept(table, noise) < 0.7


@pytest.mark.slow
def test_umap_keeps_neighbours():
    """Never its coordinates, which differ between systems."""
    table = cloud(offset=8.0, subjects=2, voxels=30)
    embedded = Embedding("umap", seed=0).fit(table).transform(table)
    assert neighbourhood_kept(table, embedded) > 0.8


def test_an_unknown_map_is_told_which_there_are():
    with pytest.raises(InputError, match="unknown embedding 'tsne'; there are: pca, umap"):
        Embedding("tsne")
