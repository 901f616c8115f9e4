"""What the categories of strategies are taught beside segmentation."""

import pytest
import torch

from mtg_lab.backbones import build
from mtg_lab.data import subset_mask
from mtg_lab.errors import InputError
from mtg_lab.methods import METHODS, checked_options

MODALITIES = ("t1n", "t1c", "t2w", "t2f")
NAMES = ("data_generation", "feature_generation", "sample_retrieval", "multi_task")
WEIGHTS = {"data_generation": "painting_weight", "feature_generation": "guess_weight",
           "multi_task": "reconstruction_weight"}  # fmt: skip


def method(name, backbone=None, **options):
    torch.manual_seed(0)
    net = build(backbone or METHODS[name].usual_backbone, MODALITIES, 3, {"width": 4, "latent": 3, "depth": 2})
    return METHODS[name](net, **checked_options(METHODS[name], options)).train()


def sample_batch(samples=2, size=8):
    generator = torch.Generator().manual_seed(0)
    return {
        "image": torch.randn(samples, 4, size, size, size, generator=generator),
        "label": torch.randint(0, 3, (samples, 1, size, size, size), generator=generator),
        "present": torch.ones(samples, 4, dtype=torch.bool),
        "draw": torch.randint(2**62, (samples,), generator=generator),
    }


@pytest.mark.parametrize(("name", "weight"), WEIGHTS.items())
def test_the_total_is_segmentation_plus_weight_times_the_term(name, weight):
    found = method(name, **{weight: 3.0})(sample_batch())
    segmentation, term = found.parts.values()
    assert float(found.total.detach()) == pytest.approx(float(segmentation + 3 * term))
    with pytest.raises(InputError, match=f"{weight} is -1.0; it must be 0 or more"):
        method(name, **{weight: -1.0})


def test_painting_is_held_to_what_was_hidden_and_is_known():
    built, batch = method("data_generation"), sample_batch()
    batch["present"][1, 2] = False
    hidden = batch["present"] & ~subset_mask(batch["present"], batch["draw"])
    before = built(batch).parts["painting"]
    with torch.no_grad():
        painted = built.backbone(batch["image"], batch["present"] & ~hidden).inner["synthesised"]
    expected = (painted - batch["image"]).abs()[hidden].mean()
    torch.testing.assert_close(before, expected)


def test_a_guess_is_held_to_latents_that_do_not_move_for_it():
    built, batch = method("feature_generation"), sample_batch()
    found = built(batch)
    (found.total - built.segmentation(built.backbone.decode(
        built.backbone.encode(batch["image"], batch["present"]), subset_mask(batch["present"], batch["draw"])
    ), batch["label"])).backward()  # fmt: skip
    assert all(p.grad is not None and p.grad.isfinite().all() for p in built.backbone.generator.parameters())
    assert float(found.parts["guess"]) > 0


@pytest.mark.parametrize("name", ["data_generation", "feature_generation"])
def test_where_nothing_was_hidden_there_is_nothing_to_learn(name):
    built, batch = method(name), sample_batch()
    batch["present"] = torch.tensor([[True, False, False, False]] * 2)  # one sequence is never hidden
    losses = built(batch)
    losses.total.backward()
    assert float(list(losses.parts.values())[1]) == 0
    assert all(p.grad.isfinite().all() for p in built.parameters() if p.grad is not None)


def test_only_complete_patients_are_remembered():
    built, batch = method("sample_retrieval", voxels=5), sample_batch()
    for complete in (2, 1, 0):
        batch["present"][complete:, 3] = False
        before = int(built.backbone.remembered)
        losses = built(batch)
        built.after_backward(losses.statistics, 0, 1)
        assert int(built.backbone.remembered) - before == (5 if complete else 0)
    z = built.backbone.encode(batch["image"], torch.ones(2, 4, dtype=torch.bool))[0]
    known = z.flatten(3).permute(0, 3, 1, 2).flatten(0, 1).flatten(1)  # [voxels, M C]
    exact = "donot_use_mm_for_euclid_dist"
    assert torch.cdist(built.backbone.memory[:10].flatten(1), known, compute_mode=exact).amin(dim=1).max() < 1e-5


def test_each_process_fills_rows_of_its_own(monkeypatch):
    """Statistics are means over processes; nothing of one may blur what another remembers."""
    built, batch = method("sample_retrieval", voxels=3), sample_batch()
    alone = built(batch).statistics["voxels"]
    found = []
    for rank in (0, 1):
        monkeypatch.setattr("mtg_lab.methods.strategies._processes", lambda rank=rank: (rank, 2))
        found.append(built(batch).statistics)
    mean = {k: (found[0][k] + found[1][k]) / 2 for k in found[0]}
    assert mean["there"].tolist() == [1.0] * 6
    torch.testing.assert_close(mean["voxels"][:3], alone)
    torch.testing.assert_close(mean["voxels"][3:], alone)


def test_what_reconstructs_is_left_behind():
    built = method("multi_task")
    assert not any("reconstruct" in name for name in built.trained())
    assert built.reconstruct[-1].out_channels == 4


@pytest.mark.parametrize(("name", "told"), [
    ("data_generation", "needs a network that fills what is absent; give --backbone synthesis"),
    ("feature_generation", "needs a network that fills what is absent; give --backbone feature_generation"),
    ("sample_retrieval", "needs a memory; give --backbone sample_retrieval"),
])  # fmt: skip
def test_a_network_that_fills_nothing_is_refused(name, told):
    with pytest.raises(InputError, match=told):
        method(name, backbone="unet")
