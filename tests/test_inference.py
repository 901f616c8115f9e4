"""Encoding once, decoding many: every subset as if it had been encoded alone, whole or in windows."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from monai.data.utils import dense_patch_slices
from monai.inferers import sliding_window_inference
from threshold import MODALITIES, Threshold

from mtg_lab import hardware, inference, vocabulary
from mtg_lab.backbones import build
from mtg_lab.inference import choose_window, subset_classes, subset_logits, window_places
from mtg_lab.runs import Run


def mask(*names):
    return torch.tensor([m in names for m in MODALITIES])


@pytest.fixture
def network():
    torch.manual_seed(0)
    return build("unet", MODALITIES, 4, {"width": 4, "latent": 3, "depth": 2}).eval()


@pytest.fixture
def image():
    return torch.randn(4, 12, 14, 10, generator=torch.Generator().manual_seed(0))


# --- encode once, decode many -----------------------------------------------------------------------------------------


def test_logits_of_a_subset_are_those_of_forward_with_its_mask(network, image):
    masks = [mask("t1c"), mask("t1n", "t2f"), mask(*MODALITIES)]
    logits = list(subset_logits(network, image, masks, precision="fp32"))
    for m, found in zip(masks, logits, strict=True):
        with torch.inference_mode():
            expected = network(image[None], m[None]).logits[0]
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_what_no_mask_looks_at_is_never_seen(network, image):
    masks = [mask("t1c"), mask("t1c", "t2f")]
    clean = list(subset_logits(network, image, masks))
    image[~mask("t1c", "t2f")] = float("nan")
    for before, after in zip(clean, subset_logits(network, image, masks), strict=True):
        torch.testing.assert_close(after, before, rtol=0, atol=0)


def test_a_window_that_covers_the_volume_is_the_whole_volume(network, image):
    masks = [mask("t1c"), mask("t2w", "t2f")]
    whole = list(subset_logits(network, image, masks))
    for window in (14, 64):
        for a, b in zip(whole, subset_logits(network, image, masks, window=window), strict=True):
            torch.testing.assert_close(b, a, rtol=0, atol=0)


@pytest.mark.parametrize("window", [5, 8, 13])
@pytest.mark.parametrize("overlap", [0.0, 0.5])
def test_windows_join_without_a_seam(image, window, overlap):
    """A network that looks at one voxel at a time answers the same, however the volume is cut."""
    masks = [mask("t1c"), mask("t2w", "t2f"), mask(*MODALITIES)]
    whole = list(subset_logits(Threshold(), image, masks, precision="fp32"))
    cut = list(subset_logits(Threshold(), image, masks, window, overlap, precision="fp32"))
    assert len(cut) == 3
    for a, b in zip(whole, cut, strict=True):
        assert b.shape == a.shape
        torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-4)


def test_many_subsets_go_through_the_windows_in_groups(image, monkeypatch):
    """The logits of all 63 subsets of six modalities for a whole volume would fill gigabytes."""
    masks = [torch.tensor([m in s for m in MODALITIES]) for s in vocabulary.subsets(MODALITIES)]
    together = list(subset_logits(Threshold(), image, masks, 8))
    monkeypatch.setattr(inference, "_MASKS_AT_ONCE", 4)
    for a, b in zip(together, subset_logits(Threshold(), image, masks, 8), strict=True):
        assert torch.equal(a, b)


def test_one_encoding_serves_all_subsets(image):
    network = Threshold()
    masks = [torch.tensor([m in s for m in MODALITIES]) for s in vocabulary.subsets(MODALITIES)]
    classes = list(subset_classes(network, image, masks))
    assert network.encodings == 1
    assert len(classes) == 15
    assert all(c.shape == (12, 14, 10) and c.dtype == torch.uint8 for c in classes)
    expected = torch.where(image[1] > 1, 3, 0).to(torch.uint8)
    assert torch.equal(classes[1], expected), "the second subset is t1c alone"


# --- against the naive loop -------------------------------------------------------------------------------------------


def naive(network, image, masks, window, overlap):
    """A full forward pass for each subset and window, joined by MONAI."""
    for m in masks:
        with torch.inference_mode():
            yield sliding_window_inference(
                image[None], window, 1, lambda patch, m=m: network(patch, m[None]).logits, overlap, "gaussian"
            )[0]


@pytest.mark.parametrize(
    ("name", "options"), [("unet", {"width": 4, "latent": 3, "depth": 2}), ("rfnet", {"width": 2, "depth": 2}),
                          ("segresnet", {"init_filters": 8, "blocks_down": (1, 1), "blocks_up": (1,)})],
)  # fmt: skip
@pytest.mark.parametrize(("window", "overlap"), [(8, 0.5), (12, 0.25), (16, 0.0)])
def test_windows_are_those_of_the_naive_loop(name, options, window, overlap):
    """To 1e-4 of logits of order one, whatever is encoded once and decoded in batches; the volume is smaller than some
    windows on one axis."""
    torch.manual_seed(0)
    network = build(name, MODALITIES, 4, options).eval()
    image = torch.randn(4, 20, 13, 10)
    masks = [torch.tensor([m in s for m in MODALITIES]) for s in vocabulary.subsets(MODALITIES)][::3]
    found = list(subset_logits(network, image, masks, window, overlap, "fp32"))
    for expected, logits in zip(naive(network, image, masks, window, overlap), found, strict=True):
        assert float(expected.std()) > 0.01
        torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


def test_windows_without_brain_are_left_out_and_change_nothing_inside_it(network, monkeypatch):
    image, brain = torch.zeros(4, 40, 12, 12), torch.zeros(40, 12, 12, dtype=torch.bool)
    brain[12:20, 2:10, 2:10] = True
    image[:, brain] = torch.randn(4, int(brain.sum()))
    masks = [mask("t1c"), mask("t1n", "t2f"), mask(*MODALITIES)]
    encoded = []
    encode = network.encode
    monkeypatch.setattr(network, "encode", lambda *a: encoded.append(1) or encode(*a))
    found = list(subset_logits(network, image, masks, 8, 0.5, precision="fp32", brain=brain))
    # Starts along the axes: 0, 4, ..., 32 and 0, 4. Those from 8 to 16 along the first axis meet the brain.
    assert len(encoded) == 3 * 2 * 2
    for expected, logits in zip(naive(network, image, masks, 8, 0.5), found, strict=True):
        torch.testing.assert_close(logits[:, brain], expected[:, brain], rtol=1e-4, atol=1e-4)
        nowhere = logits[:, 24:].softmax(dim=0)
        assert (nowhere.argmax(dim=0) == 0).all()
        assert nowhere[0].min() > 1 - 1e-7


@pytest.mark.parametrize("together", [1, 4, 100])
def test_subsets_in_batches_are_those_one_by_one(network, image, monkeypatch, together):
    masks = [torch.tensor([m in s for m in MODALITIES]) for s in vocabulary.subsets(MODALITIES)]
    sizes = []
    after = network.stem.after
    monkeypatch.setattr(network.stem, "after", lambda x: sizes.append(len(x)) or after(x))
    monkeypatch.setattr(inference, "_VOXELS_AT_ONCE", together * image[0].numel())
    found = list(subset_logits(network, image, masks, precision="fp32"))
    assert sizes == {1: [1] * 15, 4: [4, 4, 4, 3], 100: [15]}[together]
    for m, logits in zip(masks, found, strict=True):
        with torch.inference_mode():
            torch.testing.assert_close(logits, network(image[None], m[None]).logits[0], rtol=1e-4, atol=1e-4)


# --- windows and devices ----------------------------------------------------------------------------------------------


def test_what_is_larger_than_a_training_crop_goes_by_windows_of_its_size(tiny_recipe, tmp_path):
    run = Run(tmp_path / "run", tiny_recipe(), "hash", MODALITIES, vocabulary.schema("brats2021"))
    crop = run.recipe.sampling.crop_voxels
    assert choose_window(run, (crop, crop - 3, crop)) == 0
    assert choose_window(run, (crop - 9, crop + 1, crop)) == crop


def test_devices_and_precisions_have_one_place():
    assert hardware.default_device().type in ("cpu", "cuda")
    with hardware.precision_context(torch.device("cpu"), "bf16"):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
    with hardware.precision_context(torch.device("cpu"), "fp32"):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


@pytest.mark.parametrize("size", [(9, 20, 8), (16, 17, 5), (8, 8, 30)])
def test_windows_cover_the_padded_volume_which_has_the_volume_in_its_middle(size):
    pads, places = window_places(size, 8, 0.25)
    padded = [max(n, 8) for n in size]
    covered = torch.zeros(padded)
    for place in places:
        assert [s.stop - s.start for s in place] == [8, 8, 8]
        covered[place] += 1
    assert covered.all()
    assert torch.nn.functional.pad(torch.zeros(size), pads).shape == covered.shape
    assert all(abs(pads[i] - pads[i + 1]) <= 1 for i in (0, 2, 4))


@given(size=st.tuples(*[st.integers(1, 90)] * 3), window=st.integers(4, 60), overlap=st.sampled_from([0.0, 0.25, 0.5]))
def test_an_axis_a_little_longer_than_a_window_has_one_that_covers_it(size, window, overlap):
    """Every voxel is seen, by no more windows than MONAI has, none of them more than a fifth longer than was asked for,
    and a network that halves windows halves the longer ones as often, four times at most."""
    pads, places = window_places(size, window, overlap)
    seen = torch.zeros([n + a + b for n, a, b in zip(size, pads[-2::-2], pads[::-2], strict=True)])
    edges = {tuple(side.stop - side.start for side in place) for place in places}
    for place in places:
        seen[place] += 1
    assert seen.all()
    assert len(edges) == 1
    if max(size) <= window:
        return
    step = max(int(window * (1 - overlap)), 1)
    assert len(places) <= len(dense_patch_slices([max(n, window) for n in size], (window,) * 3, (step,) * 3))
    for n, edge in zip(size, edges.pop(), strict=True):
        assert window <= edge <= 1.2 * window
        assert (edge - window) % math.gcd(window, 16) == 0
        assert edge == window or n <= edge < n + 16


def test_longer_windows_are_those_of_the_naive_loop(network):
    """24 covers 23 voxels where windows of 20 are asked for; it does not cover 26."""
    image = torch.randn(4, 23, 26, 12)
    masks = [mask("t1c"), mask("t1n", "t2f")]
    padded = torch.nn.functional.pad(image, (4, 4, 0, 0, 0, 1))
    found = subset_logits(network, image, masks, 20, 0.25, "fp32")
    for expected, logits in zip(naive(network, padded, masks, (24, 20, 20), 0.25), found, strict=True):
        torch.testing.assert_close(logits, expected[:, :23, :, 4:16], rtol=1e-4, atol=1e-4)


def test_a_volume_no_larger_than_a_window_is_one_window():
    assert window_places((8, 5, 7), 8) == ([0] * 6, [(slice(0, 8), slice(0, 5), slice(0, 7))])
    assert len(window_places((40, 50, 60), 0)[1]) == 1
