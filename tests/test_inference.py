"""Encoding once, decoding many; and masks that lie where the patient's lesion lies, in the patient's own grid."""

import nibabel as nib
import numpy as np
import pytest
import torch
from scipy.ndimage import distance_transform_edt

from mtg_lab import inference, vocabulary
from mtg_lab.backbones import ModalityBackbone, Prediction, build
from mtg_lab.data import Preprocessing
from mtg_lab.errors import InputError
from mtg_lab.inference import choose_window, predict, subset_classes, subset_logits
from mtg_lab.runs import Run

MODALITIES = ("t1n", "t1c", "t2w", "t2f")


class Threshold(ModalityBackbone):
    """A network whose answer is known: class 3 where the mean of what is there exceeds a z-score of one."""

    modalities = MODALITIES

    def __init__(self):
        super().__init__()
        self.threshold = torch.nn.Parameter(torch.ones(()))
        self.encodings = 0

    def encode(self, images, present):
        self.encodings += 1
        return [images[:, :, None]]

    def decode(self, latents, present):
        there = torch.where(present[..., None, None, None], latents[0][:, :, 0], 0).sum(1) / present.sum(1)
        score = 10 * (there - self.threshold)
        return Prediction(torch.stack([-score, 0 * score - 99, 0 * score - 99, score], dim=1), latents[0][:, 0])


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


# --- in the patient's own grid ----------------------------------------------------------------------------------------


@pytest.fixture
def known(tiny_recipe, tmp_path, monkeypatch):
    """A run on a 2 mm grid whose network is the threshold."""
    recipe = tiny_recipe(preprocessing=Preprocessing(2.0))
    monkeypatch.setattr(Run, "backbone", lambda self, device="cpu": Threshold())
    return Run(tmp_path / "run", recipe, "hash", MODALITIES, vocabulary.schema("brats2021"))


def rotation(degrees, axis):
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    i, j = (k for k in range(3) if k != axis)
    matrix = np.eye(3)
    matrix[[i, i, j, j], [i, j, i, j]] = c, -s, s, c
    return matrix


AFFINES = {
    "RAS, 1.5 mm": np.diag([1.5, 1.5, 1.5]),
    "LPS, 2 mm": np.diag([-2.0, -2.0, 2.0]),
    "anisotropic": np.diag([1.0, -1.2, 4.0]),
    "axes exchanged": np.array([[0, 0, 2.0], [-2.0, 0, 0], [0, 2.0, 0]]),
    "oblique": rotation(20, 0) @ rotation(10, 2) @ np.diag([-1.5, 1.5, 2.5]),
}


def patient(name):
    """A brain of 100 with a block of 300 in it, off the centre on every axis, in the named grid."""
    linear = AFFINES[name]
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = linear, (-30, 12, 7)
    sizes = np.sqrt((linear**2).sum(axis=0))
    shape = np.round(64 / sizes).astype(int) + np.array([0, 3, 1])
    voxels = np.moveaxis(np.indices(shape), 0, -1) * sizes  # distances in mm along the axes of the grid
    brain = (np.abs(voxels - 32) < 26).all(axis=-1)
    block = (np.abs(voxels - [24, 40, 30]) < [8, 6, 10]).all(axis=-1)
    noise = np.random.default_rng(0).normal(0, 3, shape)
    data = np.where(brain, 100 + noise + 200 * block, 0).astype(np.float32)
    return nib.Nifti1Image(data, affine), block, sizes


@pytest.mark.parametrize("name", AFFINES)
def test_the_mask_lies_where_the_lesion_lies(known, name):
    image, block, sizes = patient(name)
    found = predict(known, t1c=image)
    assert found.shape == image.shape
    np.testing.assert_array_equal(found.affine, image.affine)
    assert found.get_data_dtype() == np.uint8
    integers = np.asarray(found.dataobj)
    assert set(np.unique(integers)) == {0, 4}, "class 3 of this schema is the integer 4"
    border = max(2.0, *sizes) + 0.1  # one voxel of the coarser of the two grids
    inside, outside = (distance_transform_edt(b, sampling=sizes) for b in (block, ~block))
    assert (integers[inside > border] == 4).all()
    assert (integers[outside > border] == 0).all()


def test_every_subset_of_sequences_gives_a_mask(known):
    image, block, _ = patient("LPS, 2 mm")
    for subset in vocabulary.subsets(MODALITIES):
        found = np.asarray(predict(known, **dict.fromkeys(subset, image)).dataobj)
        assert 2 * (found.astype(bool) & block).sum() / (found.astype(bool).sum() + block.sum()) > 0.8


def test_files_images_and_aliases_are_understood(known, tmp_path):
    image, _, _ = patient("LPS, 2 mm")
    nib.save(image, tmp_path / "t1ce.nii.gz")
    expected = np.asarray(predict(known, t1c=image, t2f=image).dataobj)
    for source in (tmp_path / "t1ce.nii.gz", str(tmp_path / "t1ce.nii.gz")):
        np.testing.assert_array_equal(np.asarray(predict(known, t1ce=source, flair=image).dataobj), expected)


def test_a_background_that_is_not_zero_needs_the_brain_mask(known):
    image, block, _ = patient("LPS, 2 mm")
    data = np.asarray(image.dataobj)
    brain = nib.Nifti1Image((data != 0).astype(np.uint8), image.affine)
    shifted = nib.Nifti1Image(data - 500, image.affine)
    found = np.asarray(predict(known, mask=brain, t1c=shifted).dataobj).astype(bool)
    assert 2 * (found & block).sum() / (found.sum() + block.sum()) > 0.8
    assert not found[~np.asarray(brain.dataobj).astype(bool)].any()


def test_windows_of_the_working_grid_change_nothing_for_a_local_network(known):
    image, _, _ = patient("anisotropic")
    whole, cut = (np.asarray(predict(known, window=w, t2w=image).dataobj) for w in (0, 12))
    np.testing.assert_array_equal(whole, cut)


def test_a_trained_run_predicts(tiny_recipe):
    from mtg_lab.training import train

    image, _, _ = patient("oblique")
    found = predict(train(tiny_recipe(steps=1)), t1c=image)
    assert found.shape == image.shape
    assert set(np.unique(np.asarray(found.dataobj))) <= {0, 1, 2, 3}


def test_large_volumes_go_by_windows(known):
    assert choose_window(known, (160, 160, 160)) == 0
    assert choose_window(known, (161, 160, 160)) == 2 * known.recipe.sampling.crop_voxels


# --- bad input --------------------------------------------------------------------------------------------------------


def refused(run, told, **images):
    with pytest.raises(InputError, match=told) as refusal:
        predict(run, **images)
    assert "\n" not in str(refusal.value)


def test_no_image_is_told(known):
    refused(known, "nothing to predict from; give at least one of t1n, t1c, t2w, t2f")


def test_an_unknown_modality_is_told(known):
    refused(known, "the patient has the modality 'dwi'", dwi=patient("LPS, 2 mm")[0])


def test_one_modality_under_two_names_is_told(known):
    image, _, _ = patient("LPS, 2 mm")
    refused(known, "t1ce and t1c are one modality and both are given", t1c=image, t1ce=image)


def test_grids_that_differ_are_told(known):
    image, _, _ = patient("LPS, 2 mm")
    other = nib.Nifti1Image(np.asarray(image.dataobj)[:-1], image.affine)
    refused(known, "resample t2f to t1c's grid", t1c=image, t2f=other)


def test_a_file_that_is_not_there_or_no_image_is_told(known, tmp_path):
    refused(known, "no such file", t1c=tmp_path / "nothing.nii.gz")
    (tmp_path / "text.nii.gz").write_text("no image")
    refused(known, "not a readable NIfTI file", t1c=tmp_path / "text.nii.gz")


def test_an_image_of_zeros_is_told(known):
    image, _, _ = patient("LPS, 2 mm")
    refused(known, "no brain voxel", t1c=nib.Nifti1Image(np.zeros(image.shape, np.float32), image.affine))


def test_devices_and_precisions_have_one_place():
    assert inference.default_device().type in ("cpu", "cuda")
    with inference.precision_context(torch.device("cpu"), "bf16"):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
    with inference.precision_context(torch.device("cpu"), "fp32"):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
