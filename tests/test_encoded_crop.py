"""A crop that is encoded once: what is decoded from it, and what moving its latents can and cannot do."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from threshold import MODALITIES, Threshold
from torch import nn

from mtg_lab import hardware
from mtg_lab.backbones import Mixture, Prediction, build
from mtg_lab.encoded_crop import (
    EncodedCrop,
    LatentMap,
    _around,
    crop_offsets,
    decode_crop,
    encode_crop,
    mixture_of,
)
from mtg_lab.errors import InputError
from mtg_lab.runs import Run
from mtg_lab.vocabulary import schema

SHAPE = (16, 18, 14)


@pytest.fixture(autouse=True)
def _full_precision(monkeypatch):
    monkeypatch.setattr(hardware, "use_bf16", lambda precision: False)


def crop_of(network, present=(True,) * 4):
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(4, *SHAPE, generator=generator)
    truth = torch.zeros(SHAPE, dtype=torch.uint8)
    truth[4:10, 5:12, 4:9] = 2
    truth[6:8, 6:9, 5:7] = 3
    brain, there = torch.ones(SHAPE, dtype=torch.bool), torch.tensor(present)
    with torch.inference_mode():
        latents = network.encode(image[None], there[None])
    return EncodedCrop("P1", network, schema("brats2023"), image, truth, brain, latents, there)


def unet(**options):
    torch.manual_seed(0)
    return build("unet", MODALITIES, 4, {"width": 4, "latent": 3, "depth": 2, **options}).eval()


@pytest.fixture
def crop():
    return crop_of(unet())


@pytest.mark.parametrize("subset", [("t1c",), ("t1n", "t2f"), MODALITIES])
def test_a_subset_is_decoded_as_if_the_network_had_seen_it_alone(crop, subset):
    mask = torch.tensor([[m in subset for m in MODALITIES]])
    with torch.inference_mode():
        expected = crop.backbone(crop.image[None], mask).logits[0].argmax(dim=0)
    found = decode_crop(crop, subset)
    assert found.sequences == subset
    assert found.filled == ()
    assert np.array_equal(found.classes, expected.numpy())


def test_dice_is_that_of_the_crop_by_region():
    """The threshold draws class 3 where the mean exceeds one; TC and ET hold it, and so does WT."""
    crop = crop_of(Threshold())
    found = decode_crop(crop, ["t1c"])
    drawn, truth = (crop.image[1] > 1).numpy(), crop.truth.numpy()
    for region, members in {"WT": (1, 2, 3), "TC": (1, 3), "ET": (3,)}.items():
        reference = np.isin(truth, members)
        expected = 2 * (drawn & reference).sum() / (drawn.sum() + reference.sum())
        assert found.dice[region] == pytest.approx(expected, abs=1e-6)


def test_offsets_sum_to_zero_and_are_gone_once_they_are_taken_away(crop):
    known = torch.arange(12.0).reshape(4, 3)
    apart = [crop.latents[0] + known[None, :, :, None, None, None]]
    crop, before = EncodedCrop(**{**vars(crop), "latents": apart}), crop_offsets(crop)[0]
    (offsets,) = crop_offsets(crop)
    torch.testing.assert_close(offsets.sum(dim=0), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(offsets - before, known - known.mean(dim=0), atol=1e-4, rtol=0)
    moved = decode_crop(crop, MODALITIES, offsets=[offsets], amount=1.0).latents
    after = crop_offsets(EncodedCrop(**{**vars(crop), "latents": moved}))[0]
    torch.testing.assert_close(after, torch.zeros(4, 3), atol=1e-4, rtol=0)


def test_a_sequence_that_the_subject_lacks_has_no_offset_and_is_not_looked_at():
    crop = crop_of(unet(), present=(True, False, True, True))
    assert crop_offsets(crop)[0][1].abs().max() == 0
    assert decode_crop(crop, MODALITIES).sequences == ("t1n", "t2w", "t2f")


def test_the_same_vector_everywhere_is_invisible_away_from_the_border(crop):
    """A convolution makes a constant of it, and the instance norm takes constants away."""
    (offsets,) = crop_offsets(crop)
    everywhere = [offsets * 0 + torch.tensor([1.0, -2.0, 0.5])]
    with torch.inference_mode():
        shifted = crop.latents[0] - everywhere[0][None, :, :, None, None, None]
        stem = crop.backbone.stem
        before, after = (stem.conv1(z.flatten(1, 2)) for z in (crop.latents[0], shifted))
    difference = (after - before)[0, :, 1:-1, 1:-1, 1:-1]
    assert difference.flatten(1).std(dim=1).max() < 1e-5
    assert difference.abs().max() > 0.1


def test_pulled_all_the_way_the_sequences_of_a_voxel_agree_and_none_is_counted_that_is_absent(crop):
    there = [0, 2]
    (pulled,) = decode_crop(crop, ["t1n", "t2w"], pull=1.0).latents
    expected = crop.latents[0][:, there].mean(dim=1)
    for m in there:
        torch.testing.assert_close(pulled[:, m], expected, atol=1e-5, rtol=1e-5)


def test_an_anchor_with_all_its_weight_on_one_sequence_is_that_sequence(crop):
    found = decode_crop(crop, ["t1n", "t2w", "t2f"], weights=[0, 5, 2, 0])
    assert found.filled == ("t1c",)
    torch.testing.assert_close(found.latents[0][:, 1], crop.latents[0][:, 2], atol=1e-5, rtol=1e-5)


def test_where_the_network_fills_by_its_own_anchor_equal_weights_change_nothing():
    crop = crop_of(unet(fill="anchor"))
    own, ours = decode_crop(crop, ["t1c", "t2f"]), decode_crop(crop, ["t1c", "t2f"], weights=[1, 1, 1, 1])
    assert np.array_equal(own.classes, ours.classes)


def test_no_weight_at_all_means_equal_weights_and_the_anchor_is_then_the_mean():
    present = torch.tensor([[True, False, True, False]])
    torch.testing.assert_close(mixture_of([0] * 4, 4).weights(present), torch.tensor([[0.5, 0, 0.5, 0]]))
    torch.testing.assert_close(
        mixture_of([1, 1, 3, 0], 4).weights(present), torch.tensor([[0.25, 0, 0.75, 0]]), atol=1e-6, rtol=0
    )
    assert isinstance(mixture_of([1, 1], 2), Mixture)


def test_what_cannot_be_meant_is_refused(crop):
    with pytest.raises(InputError, match="none of t1n, t1c, t2w, t2f is left"):
        decode_crop(crop, [])
    with pytest.raises(InputError, match="4 of zero or more"):
        decode_crop(crop, ["t1c"], weights=[1, 1])
    with pytest.raises(InputError, match="4 of zero or more"):
        decode_crop(crop, ["t1c"], weights=[1, 1, 1, -1])
    with pytest.raises(InputError, match=r"\[\(4, 3\)\]"):
        decode_crop(crop, ["t1c"], offsets=[torch.zeros(4, 5)], amount=1.0)


@settings(max_examples=30)
@given(st.data())
def test_the_box_holds_the_lesion_and_lies_in_the_volume(data):
    size = [data.draw(st.integers(8, 40)) for _ in range(3)]
    lesion = torch.zeros(size, dtype=torch.bool)
    for _ in range(data.draw(st.integers(0, 2))):
        lesion[tuple(data.draw(st.integers(0, n - 1)) for n in size)] = True
    edge = data.draw(st.integers(4, 32))
    box = _around(lesion, edge)
    for s, n in zip(box, size, strict=True):
        assert 0 <= s.start < s.stop <= n
        assert s.stop - s.start >= min(edge, n)
    assert lesion[box].sum() == lesion.sum()


def test_a_run_and_a_sample_make_a_crop(tiny_recipe, tmp_path, monkeypatch):
    network = unet()
    monkeypatch.setattr(Run, "backbone", lambda self, device="cpu": network)
    recipe = tiny_recipe()
    run = Run(tmp_path, recipe, "hash", MODALITIES, schema("brats2023"))
    label = torch.zeros(1, 40, 40, 40, dtype=torch.uint8)
    label[0, 30:34, 8:12, 20:24] = 1
    sample = {
        "image": torch.randn(4, 40, 40, 40), "label": label, "brain": torch.ones(1, 40, 40, 40),
        "present": torch.ones(4, dtype=torch.bool),
    }  # fmt: skip
    crop = encode_crop(run, sample, "P1")
    edge = max(recipe.sampling.crop_voxels, 16)
    assert crop.truth.shape == (edge,) * 3
    assert int((crop.truth > 0).sum()) == 64
    assert crop.labels == {1: "NCR", 2: "ED", 3: "ET"}


def test_a_map_draws_each_tissue_and_leaves_unmoved_latents_where_they_are(crop):
    places = LatentMap(crop)
    points = places(crop.latents)
    assert points.shape == (4, len(places.tissue), 2)
    assert set(places.tissue) == {0, 2, 3}
    assert np.array_equal(points, places(decode_crop(crop, ["t1c"]).latents))
    (pulled,) = [places(decode_crop(crop, MODALITIES, pull=1.0).latents)]
    np.testing.assert_allclose(pulled, np.broadcast_to(points.mean(axis=0), pulled.shape), atol=1e-4)


class Coarse(Threshold):
    """Latents at half the resolution, one channel more than one."""

    def __init__(self):
        super().__init__()
        self.pool = nn.AvgPool3d(2)

    def encode(self, images, present):
        half = torch.stack([self.pool(images[:, m]) for m in range(4)], dim=1)
        return [torch.stack([half, -half], dim=2)]

    def decode(self, latents, present):
        return Prediction(torch.zeros(len(present), 4, *SHAPE), latents[0][:, 0])


def test_a_coarser_grid_takes_its_tissue_from_the_nearest_voxel():
    crop = crop_of(Coarse())
    places = LatentMap(crop)
    assert set(places.tissue) <= {0, 2, 3}
    assert 2 in places.tissue
    assert crop_offsets(crop)[0].shape == (4, 2)
