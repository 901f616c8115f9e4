"""Domain randomisation: what it may change and what it may not."""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, RandBiasField

from mtg_lab.data import CropStream, Sampling
from mtg_lab.randomisation import EachSequence, randomising


@pytest.fixture
def sample():
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(3, 20, 20, 20, generator=generator)
    image[:, :, :5] = 0  # outside the brain
    image[1] = 0  # a sequence that is not there
    label = torch.zeros(1, 20, 20, 20, dtype=torch.uint8)
    label[:, 6:14, 8:16, 6:14] = 1
    return {"image": image, "label": label}


def _apply(sample, strength, seed):
    transform = Compose(randomising(strength)).set_random_state(seed)
    return transform({key: MetaTensor(value) for key, value in sample.items()})


def test_nothing_is_done_without_strength(sample):
    assert randomising(0.0) == []


@pytest.mark.parametrize("strength", [0.3, 1.0, 3.0])
def test_outside_the_brain_stays_outside_and_labels_stay_labels(sample, strength):
    for seed in range(12):
        changed = _apply(sample, strength, seed)
        image, label = (changed[key].as_tensor() for key in ("image", "label"))
        assert image.isfinite().all()
        assert (image[1] == 0).all()
        assert ((image[0] == 0) == (image[2] == 0)).float().mean() > 0.95  # the same outside, turned together
        assert set(label.unique().tolist()) <= {0, 1}
        assert image.shape == sample["image"].shape


def test_the_same_seed_gives_the_same_and_another_does_not(sample):
    one, again, other = (_apply(sample, 1.0, seed)["image"] for seed in (3, 3, 4))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_image_and_label_turn_together(sample):
    image = sample["label"].float().repeat(3, 1, 1, 1)  # each sequence is the label itself
    spatial = Compose(randomising(1.0)[:1])
    for seed in range(8):
        spatial.set_random_state(seed)
        turned = spatial({"image": MetaTensor(image), "label": MetaTensor(sample["label"])})
        wrong = (turned["image"][0] > 0.5) != (turned["label"][0] > 0)
        assert wrong.sum() < 0.06 * (turned["label"] > 0).sum()  # linear and nearest differ at the surface


def test_sequences_are_changed_apart_from_each_other(sample):
    sample["image"][2] = sample["image"][0]
    apart = [not torch.equal(c[0], c[2]) for seed in range(10) if len(c := _apply(sample, 1.0, seed)["image"])]
    assert sum(apart) >= 8


def test_a_coils_profile_multiplies_what_is_above_zero(sample, monkeypatch):
    seen = []
    monkeypatch.setattr(RandBiasField, "__call__", lambda self, image, **_: seen.append(float(image.min())) or image)
    for seed in range(3):
        _apply(sample, 1.0, seed)
    assert len(seen) == 6, "two sequences that are there, three times"
    assert min(seen) > -1.5, "the noise of the sample reaches -4"


def test_a_coils_profile_is_bright_on_any_side():
    around = _intensities(1.0)
    place = next(n for n, t in enumerate(around) if isinstance(t, RandBiasField))
    lifted = Compose([around[place - 1], RandBiasField(degree=3, coeff_range=(-0.1, 0.1), prob=1), around[place + 1]])
    assert around[place].coeff_range == (-0.1, 0.1)
    assert around[place - 1].offset == -around[place + 1].offset == 4
    corners = []
    for seed in range(40):
        lifted.set_random_state(seed)
        seen = lifted(torch.zeros(1, 16, 16, 16))
        corners.append(float(seen[0, -1, -1, -1] - seen[0, 0, 0, 0]))
    assert 0.2 < np.mean(np.array(corners) > 0) < 0.8


def _intensities(strength):
    return randomising(strength)[1].transform.transforms


def test_a_sequence_is_masked_by_its_own_zeros(sample):
    changed = EachSequence(Compose([lambda image: image + 1]))({"image": sample["image"]})["image"]
    assert torch.equal(changed == 0, (sample["image"] == 0) | (sample["image"] == -1))


def test_a_stream_of_crops_is_randomised_and_still_a_matter_of_seed_and_number(sample):
    cached = [{**sample, "present": torch.tensor([True, False, True])}] * 2
    plain, one, two = (CropStream(cached, 6, Sampling(12, randomise=r), 5, classes=2) for r in (0.0, 1.0, 1.0))
    assert any(not torch.equal(plain[n]["image"], one[n]["image"]) for n in range(6))
    for number in (4, 1, 5):
        assert all(torch.equal(one[number][key], two[number][key]) for key in one[number])
    assert np.array_equal(plain[2]["draw"], one[2]["draw"])


def test_one_with_it_has_another_name(tiny_recipe):
    recipe = tiny_recipe()
    with_it = [tiny_recipe(sampling=Sampling(recipe.sampling.crop_voxels, randomise=r)) for r in (0.0, 0.5, 1)]
    names = [r.digest() for r in with_it]
    assert len(set(names)) == 3
