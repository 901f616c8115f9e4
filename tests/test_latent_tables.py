"""Latents of a run: drawn in pairs, from any stage, layer or network, and kept in a file."""

import numpy as np
import pandas as pd
import pytest
import torch
from clouds import cloud
from torch import nn

import mtg_lab
from mtg_lab.data import cached_dataset
from mtg_lab.errors import InputError
from mtg_lab.hardware import precision_context
from mtg_lab.latent_tables import (
    WHOLE,
    complete_pairs,
    hooked,
    latents,
    latents_from,
    of_unit_spread,
    read_latents,
    save_latents,
    thinned,
    z_columns,
)
from mtg_lab.manifest import read_manifest
from mtg_lab.runs import Run
from mtg_lab.training import train


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
    found = mtg_lab.gap(mtg_lab.latents(run, cohort, split="train", voxels=10), draws=5, nulls=5)
    assert np.isfinite(found["value"]).all()
    assert 0 <= found.set_index("metric")["value"]["relative_gap"] <= 1


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"split": "exam"}, "no subject in split 'exam'"),
        ({"scale": 3}, r"scale is 3; this UNet has 1, the finest is 0"),
        ({"stage": "fused"}, "stage is 'fused'; it can be encoder or decoder"),
        ({"layer": "nowhere"}, r"UNet has no layer 'nowhere'; it has mixture, encoders, "),
        ({"layer": "aux"}, "layer 'aux' was not run"),
    ],
)
def test_latents_that_are_not_there_are_told(run, cohort, options, told):
    with pytest.raises(InputError, match=told):
        latents(run, cohort, **options)


# --- other stages and other networks ----------------------------------------------------------------------------------


def test_after_fusion_a_latent_is_the_last_feature_of_that_modality_alone(run, cohort):
    table = latents(run, cohort, voxels=3, stage="decoder")
    subject, sample = _first(run, cohort)
    backbone = run.backbone()
    for m, modality in enumerate(run.modalities):
        mask = torch.eye(4, dtype=torch.bool)[m : m + 1]
        with torch.inference_mode(), precision_context(torch.device("cpu"), "auto"):
            features = backbone(sample["image"][None], mask).features[0].float().flatten(1).clone()
        rows = table[(table["subject"] == subject) & (table["modality"] == modality)]
        expected = features[:, rows["voxel"].to_numpy()].T.numpy()
        # Encoded with the others and alone: the same network, rounded in bfloat16 on the way.
        np.testing.assert_allclose(rows[z_columns(rows)].to_numpy(), expected, atol=0.05 * np.abs(expected).max())


def test_a_hook_takes_what_the_layer_answered(run, cohort):
    """The layer before the head is what ``features`` are made of: the stage and the hook must agree, though the layer
    answers on a grid that is padded to halve well.
    """
    layer = f"up.{len(run.backbone().up) - 1}"
    by_hook = latents(run, cohort, voxels=3, layer=layer)
    by_stage = latents(run, cohort, voxels=3, stage="decoder")
    pd.testing.assert_frame_equal(by_hook[["subject", "tissue"]], by_stage[["subject", "tissue"]])
    assert not by_hook["voxel"].equals(by_stage["voxel"])
    a, b = (t[z_columns(t)].to_numpy() for t in (by_hook, by_stage))
    np.testing.assert_allclose(a, b, atol=0.05 * np.abs(b).max())


class _Outside(nn.Module):
    """A stranger's network: no mask, one input of all channels."""

    def __init__(self):
        super().__init__()
        self.body = nn.Conv3d(4, 2, 1, bias=False)
        self.pool = nn.AvgPool3d(2)
        with torch.no_grad():
            self.body.weight.copy_(torch.tensor([[1.0, 10, 100, 1000], [0, 0, 0, 1]]).reshape(2, 4, 1, 1, 1))

    def forward(self, images):
        return self.pool(self.body(images))


def test_any_network_gives_latents_of_each_modality_alone(run, cohort):
    table = latents_from(
        hooked(_Outside(), "body"), cohort, run.modalities, preprocessing=run.recipe.preprocessing, voxels=5
    )
    subject, sample = _first(run, cohort)
    for m, modality in enumerate(run.modalities):
        rows = table[(table["subject"] == subject) & (table["modality"] == modality)]
        image = sample["image"][m].flatten()[rows["voxel"].to_numpy()].numpy()
        np.testing.assert_allclose(rows["z0"], image * 10**m, rtol=0.02, atol=1e-3)
        np.testing.assert_allclose(rows["z1"], image * (m == 3), rtol=0.02, atol=1e-3)


def test_a_coarser_layer_takes_the_tissue_at_the_same_place(run, cohort):
    table = latents_from(hooked(_Outside(), "pool"), cohort, run.modalities, preprocessing=run.recipe.preprocessing)
    _, sample = _first(run, cohort)
    grid = [n // 2 for n in sample["label"].shape[1:]]
    first = table[table["subject"] == table["subject"].iloc[0]]
    places = np.stack(np.unravel_index(first["voxel"], grid))
    classes = sample["label"][0].numpy()[tuple(2 * places + 1)]
    names = np.array(["brain", *run.schema.class_names[1:]])
    assert names[classes].tolist() == first["tissue"].tolist()
    assert (sample["brain"][0].numpy()[tuple(2 * places + 1)] > 0).all()


def test_pooled_latents_are_means_over_all_voxels_of_a_tissue(run, cohort):
    table = latents(run, cohort, pooled=True)
    subject, sample = _first(run, cohort)
    with torch.inference_mode(), precision_context(torch.device("cpu"), "auto"):
        encoded = run.backbone().encode(sample["image"][None], sample["present"][None])[0][0].float()
    brain, label = sample["brain"][0] > 0, sample["label"][0]
    for tissue, inside in ((WHOLE, brain), ("brain", brain & (label == 0)), ("ED", brain & (label == 2))):
        rows = table[(table["subject"] == subject) & (table["tissue"] == tissue)]
        assert rows["modality"].tolist() == list(run.modalities)
        assert (rows["voxel"] == -1).all()
        expected = encoded[:, :, inside].mean(dim=2).numpy()
        np.testing.assert_allclose(rows[["z0", "z1", "z2"]].to_numpy(), expected, atol=1e-4)


def test_a_network_without_encoders_has_latents_after_fusion_only(tiny_recipe, cohort):
    small = {"init_filters": 8, "blocks_down": [1, 1], "blocks_up": [1]}
    outside = train(tiny_recipe(steps=2, backbone="segresnet", method="dropout", backbone_options=small))
    with pytest.raises(InputError, match="has no encoder a modality, hence no latents before fusion; take stage"):
        latents(outside, cohort, stage="encoder")
    table = latents(outside, cohort, voxels=5)
    assert len(z_columns(table)) == outside.schema.classes
    inner = latents(outside, cohort, voxels=5, layer="module.down_layers.1")
    assert len(z_columns(inner)) == 16


def _first(run, cohort):
    test = read_manifest(cohort).split("test")
    samples = cached_dataset(test.subjects, run.modalities, run.recipe.preprocessing)
    return next(iter(test)).name, samples[0]


# --- in a file --------------------------------------------------------------------------------------------------------


def test_what_is_kept_comes_back(tmp_path):
    table = cloud(offset=3.0, modalities=3, tissues=3, subjects=5)
    kept = read_latents(save_latents(table, tmp_path / "latents.safetensors"))
    columns = z_columns(table)
    pd.testing.assert_frame_equal(kept.drop(columns=columns), table.drop(columns=columns), check_dtype=False)
    np.testing.assert_allclose(kept[columns], table[columns], rtol=2**-11, atol=1e-7)
    size = (tmp_path / "latents.safetensors").stat().st_size
    assert size < len(table) * (2 * len(columns) + 4 * 2 + 4) + 1000, "half precision and codes, nothing else"


def test_what_cannot_be_kept_is_told(tmp_path):
    table = cloud(subjects=2)
    table.loc[3, "z1"] = 1e6
    with pytest.raises(InputError, match="latents beyond 65504"):
        save_latents(table, tmp_path / "latents.safetensors")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [b"", b"not latents", None])
def test_a_file_that_holds_no_latents_is_told(tmp_path, content):
    path = tmp_path / "latents.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"holds no latents .*; make it with save_latents"):
        read_latents(path)


def test_weights_are_no_latents(run):
    with pytest.raises(InputError, match="holds no latents"):
        read_latents(run.folder / "weights.safetensors")


def test_thinned_tables_keep_whole_voxels_and_the_same_ones():
    table = cloud(modalities=3)
    few = thinned(table, 50, seed=1)
    assert len(few) == 150
    assert len(complete_pairs(few)) == 150
    other = table.assign(z0=-table["z0"])
    keys = ["subject", "voxel", "modality"]
    pd.testing.assert_frame_equal(thinned(other, 50, seed=1)[keys], few[keys])
    assert not thinned(table, 50, seed=2)[keys].equals(few[keys])
    assert len(thinned(table, 10**6)) == len(table)


def test_voxels_that_lack_a_modality_are_left_out():
    table = cloud(offset=1.0, modalities=3)
    lacking = table.drop(table[(table["modality"] == "t2w") & (table["subject"] < "P4")].index)
    assert set(complete_pairs(lacking)["subject"]) == {"P4", "P5", "P6", "P7"}


def test_unit_spread_moves_and_scales_all_channels_together():
    table = cloud(offset=3.0)
    found = of_unit_spread(table)
    z = table[z_columns(table)].to_numpy()
    np.testing.assert_allclose(found[z_columns(table)], (z - z.mean(axis=0)) / z.std())
    pd.testing.assert_frame_equal(found.drop(columns=z_columns(table)), table.drop(columns=z_columns(table)))
