"""Maps of latents: fitted once, applied to others, and never trusted further than neighbours go."""

import numpy as np
import pandas as pd
import pytest
import torch
from clouds import cloud

from mtg_lab.embedding import Embedding, neighbourhood_kept
from mtg_lab.errors import InputError


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
    threads = torch.get_num_threads()
    embedded = Embedding("umap", seed=0).fit(table).transform(table)
    assert neighbourhood_kept(table, embedded) > 0.8
    assert torch.get_num_threads() == threads


def test_an_unknown_map_is_told_which_there_are():
    with pytest.raises(InputError, match="unknown embedding 'tsne'; there are: pca, umap"):
        Embedding("tsne")
    with pytest.raises(InputError, match="components is 4; an embedding has 2 or 3"):
        Embedding("pca", components=4)


def test_a_third_axis_is_the_third_component():
    table = cloud(offset=2.0, turn=True)
    flat, deep = (Embedding("pca", components=n).fit(table).transform(table) for n in (2, 3))
    np.testing.assert_allclose(deep[["x", "y"]], flat[["x", "y"]])
    assert neighbourhood_kept(table, deep) > neighbourhood_kept(table, flat)
    line = table.drop(columns=["z1", "z2", "z3"])
    assert (Embedding("pca", components=3).fit(line).transform(line)[["y", "z"]] == 0).all(axis=None)


def test_trust_is_measured_on_a_draw_where_there_are_many():
    table = cloud(offset=2.0, subjects=4, voxels=200)
    drawn = Embedding("pca").fit(table).transform(table)
    assert neighbourhood_kept(table, drawn, most=800) == pytest.approx(neighbourhood_kept(table, drawn), abs=0.05)
