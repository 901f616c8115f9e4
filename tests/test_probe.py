"""What is seen of a network while it trains: the same crops every time, numbers that other code agrees with."""

from dataclasses import replace

import pandas as pd
import pytest
import torch
from torch import nn

from mtg_lab.backbones import Latents, ModalityBackbone, Prediction
from mtg_lab.manifest import read_manifest
from mtg_lab.probe import Probe
from mtg_lab.training import build_method, train


class Oracle(ModalityBackbone):
    """Knows the truth where t1c is there, else calls everything background; latents are the images."""

    def __init__(self, modalities, truth):
        super().__init__()
        self.modalities, self.truth, self.one = modalities, truth, nn.Parameter(torch.zeros(()))

    def encode(self, images, present):
        return Latents([images[:, :, None]])

    def decode(self, latents, present):
        size = latents[0].shape[-3:]
        classes = [self.truth.long() if mask[1] else torch.zeros(size, dtype=torch.long) for mask in present]
        logits = nn.functional.one_hot(torch.stack(classes), 4).movedim(-1, 1).float()
        return Prediction(logits, logits)


@pytest.fixture
def probe(tiny_recipe, cohort):
    return Probe(read_manifest(cohort), tiny_recipe())


def test_dice_is_one_for_the_truth_and_zero_for_nothing(probe):
    (crop,) = probe._loaded(probe.cohort.modalities)  # this cohort has one validation subject
    assert (crop["label"] > 0).any(), "the crop is around the lesion"
    seen = probe.look(Oracle(probe.cohort.modalities, crop["label"][0]))
    assert seen["probe_dice"] == seen["probe_dice_t1c"] == 1
    assert seen["probe_dice_t1n"] == seen["probe_dice_t2f"] == seen["probe_dice_t2w"] == 0


def test_the_gap_is_the_relative_gap_of_all_voxels_of_the_crops(probe):
    (crop,) = probe._loaded(probe.cohort.modalities)
    z = crop["image"].flatten(1).double()  # [M, V]
    expected = float(((z - z.mean(0)) ** 2).sum() / ((z - z.mean()) ** 2).sum())
    seen = probe.look(Oracle(probe.cohort.modalities, crop["label"][0]))
    assert seen["probe_gap"] == pytest.approx(expected, rel=1e-4)


def test_nothing_is_left_changed(probe, tiny_recipe, cohort):
    backbone = build_method(tiny_recipe(), read_manifest(cohort).split("train"), None).backbone.train()
    before, state = {k: v.clone() for k, v in backbone.state_dict().items()}, torch.get_rng_state()
    first = probe.look(backbone)
    assert backbone.training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(v, before[k]) for k, v in backbone.state_dict().items())
    assert probe.look(backbone) == first


def test_a_look_is_taken_once_an_epoch_and_sixty_times_at_most(tiny_recipe, cohort):
    manifest = read_manifest(cohort)
    short, long = (Probe(manifest, tiny_recipe(steps=n)) for n in (10, 6000))
    epoch = -(-6 // tiny_recipe().batch)
    assert [s for s in range(1, 11) if short.due(s)] == sorted({*range(epoch, 11, epoch), 10})
    assert sum(long.due(s) for s in range(1, 6001)) == 60


def test_without_a_validation_split_the_training_split_stands_in(tiny_recipe, cohort):
    whole = read_manifest(cohort)
    without = replace(whole, subjects=tuple(s for s in whole if s.split != "val"))
    assert {s.split for s in Probe(without, tiny_recipe()).cohort} == {"train"}
    assert len(Probe(without, tiny_recipe()).cohort) == 2


def test_a_broken_validation_subject_does_not_stop_the_training(tiny_recipe, cohort, tmp_path):
    table = pd.read_csv(cohort, dtype=str)
    table.loc[table["split"] == "val", "label"] = "nowhere.nii.gz"
    where = cohort.parent / "broken.csv"
    table.to_csv(where, index=False)
    run = train(tiny_recipe(steps=4, manifest=str(where)), tmp_path / "run")
    assert "nobody looks at the validation split: subject" in (run.folder / "log.txt").read_text()
    assert "probe_dice" not in run.history
