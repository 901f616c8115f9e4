"""Networks from elsewhere: wrapped in one line, trained, loaded and scored; refused where latents are needed."""

import pytest
import torch
from monai.networks.nets import SegResNet
from torch import nn

from mtg_lab import backbones, gap
from mtg_lab.backbones import BACKBONES, wrapped
from mtg_lab.errors import InputError
from mtg_lab.evaluation import evaluate
from mtg_lab.inference import subset_logits
from mtg_lab.methods import METHODS, find
from mtg_lab.runs import load_run
from mtg_lab.training import train

MODALITIES = ("t1n", "t1c", "t2w", "t2f")
SMALL = {"init_filters": 8, "blocks_down": [1, 1], "blocks_up": [1]}


def noise(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def network():
    """MONAI's SegResNet, in one line."""
    torch.manual_seed(0)
    return wrapped(SegResNet(init_filters=8, in_channels=4, out_channels=3), MODALITIES, multiple=8).eval()


def test_what_is_absent_is_zero(network):
    images, present = noise(2, 4, 8, 8, 8), torch.tensor([[True, False, True, True], [False, True, True, True]])
    expected = network.module(images.masked_fill(~present[..., None, None, None], 0))
    images[~present] = float("nan")
    answer = network(images, present)
    torch.testing.assert_close(answer.logits, expected, rtol=0, atol=0)
    assert answer.aux == ()


def test_grids_that_the_network_cannot_take_are_padded(network):
    answer = network(noise(1, 4, 9, 5, 14), torch.ones(1, 4, dtype=torch.bool))
    assert answer.logits.shape == (1, 3, 9, 5, 14)


@pytest.mark.parametrize(
    ("module", "told"),
    [
        (nn.MaxPool3d(2), r"answered \[1, 4, 4, 4, 4\] for images \[1, 4, 8, 8, 8\]; it must answer logits"),
        (nn.Flatten(), r"answered \[1, 2048\]"),
        (nn.Unflatten(0, (1, 1)), r"answered \[1, 1, 4, 8, 8, 8\]"),
    ],
)
def test_a_network_that_gives_no_logits_is_told(module, told):
    with pytest.raises(InputError, match=told):
        wrapped(module, MODALITIES)(noise(1, 4, 8, 8, 8), torch.ones(1, 4, dtype=torch.bool))


@pytest.mark.parametrize("window", [0, 8])
def test_every_subset_is_a_forward_pass(network, window):
    image = noise(4, 8, 10, 9)
    masks = [torch.tensor([True, False, False, True]), torch.tensor([False, True, True, False])]
    found = list(subset_logits(network, image, masks, window=window, precision="fp32"))
    assert [f.shape for f in found] == [(3, 8, 10, 9)] * 2
    if not window:
        for mask, logits in zip(masks, found, strict=True):
            torch.testing.assert_close(logits, network(image[None], mask[None]).logits[0], rtol=0, atol=1e-5)


# What methods lack in a network of logits alone, where it is not latents.
OTHER_NEEDS = {
    "adamm": r"this backbone \(Wrapped\) has no map called 'bottleneck'; set content_weight=0, style=off",
    "data_generation": "needs a network that fills what is absent; give --backbone synthesis",
}


@pytest.mark.parametrize("name", METHODS)
def test_methods_that_need_latents_refuse_it_in_one_line(name, network):
    method = find(name)
    teacher = {"teacher": network} if method.needs_teacher else {}
    if not method.needs_latents and name not in OTHER_NEEDS:
        assert method(network, **teacher).backbone is network
        return
    told = OTHER_NEEDS.get(name, r"needs latents.* \(Wrapped\) has none")
    with pytest.raises(InputError, match=rf"method {name}:? {told}") as refusal:
        method(network, **teacher)
    assert "\n" not in str(refusal.value)


def test_a_teacher_without_latents_is_refused(network):
    student = backbones.build("unet", MODALITIES, 3, {"width": 4, "latent": 3, "depth": 2})
    with pytest.raises(InputError, match="a teacher needs latents"):
        find("student")(student, teacher=network)


@pytest.mark.parametrize("method", ["dropout", "complete"])
def test_a_recipe_names_it_so_that_its_run_is_loaded_and_scored(tiny_recipe, tmp_path, method):
    recipe = tiny_recipe(backbone="segresnet", backbone_options=SMALL, method=method, steps=2)
    run = load_run(train(recipe, tmp_path / "run").folder)
    assert isinstance(run.backbone().module, SegResNet)
    scores = evaluate(run, recipe.cohort(), subsets=["t1c", "t1n+t2f"])
    assert set(scores["subset"]) == {"t1c", "t1n+t2f"}
    assert scores["value"].between(0, 1).all()
    assert set(gap.latents(run, recipe.cohort(), voxels=3)["modality"]) == set(run.modalities)
    with pytest.raises(InputError, match="no latents before fusion") as refusal:
        gap.latents(run, recipe.cohort(), stage="encoder")
    assert "\n" not in str(refusal.value)


def test_a_recipe_that_needs_latents_is_refused_before_a_folder_is_made(tiny_recipe, tmp_path):
    recipe = tiny_recipe(backbone="segresnet", backbone_options=SMALL, method="aligned_teacher")
    with pytest.raises(InputError, match="choose unet, rfnet, mmformer or m2ftrans"):
        train(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_network_of_your_own_gets_a_name_in_one_line(tiny_recipe, tmp_path, monkeypatch):
    monkeypatch.setitem(BACKBONES, "mine", lambda names, classes: wrapped(nn.Conv3d(len(names), classes, 1), names))
    recipe = tiny_recipe(backbone="mine", backbone_options={}, steps=2)
    run = load_run(train(recipe, tmp_path / "run").folder)
    assert isinstance(run.backbone().module, nn.Conv3d)
