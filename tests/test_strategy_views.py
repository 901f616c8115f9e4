"""What stands in for a sequence is what the network puts there; its error is that of the mean where it is the mean."""

import pytest
import torch

from mtg_lab.backbones import build
from mtg_lab.errors import InputError
from mtg_lab.strategy_views import painted_panels, stand_in_errors, stand_ins

MODALITIES = ("t1n", "t1c", "t2w")
SMALL = {"width": 4, "latent": 3, "depth": 2}
KINDS = {
    "synthesis": {"painter_width": 4},
    "feature_generation": {"generator_width": 4},
    "sample_retrieval": {"memory": 32, "neighbours": 4},
}


def network(kind):
    torch.manual_seed(0)
    net = build(kind, MODALITIES, 3, SMALL | KINDS[kind]).eval()
    if kind == "sample_retrieval":
        net.remember(torch.randn(32, 3, 3))
    return net


def sample(size=(9, 12, 10)):
    chance = torch.Generator().manual_seed(0)
    label = torch.zeros(1, *size, dtype=torch.int64)
    label[0, 2:5, 2:6, 3:7] = 2
    brain = torch.zeros(1, *size)
    brain[0, 1:-1, 1:-1, 1:-1] = 1
    return {"image": torch.randn(3, *size, generator=chance), "label": label, "brain": brain}


@pytest.mark.parametrize("kind", KINDS)
def test_truth_and_stand_in_lie_on_one_grid_and_nothing_absent_is_looked_at(kind):
    images = sample()["image"][None]
    present = torch.tensor([[True, False, True]])
    net = network(kind)
    truth, found = stand_ins(net, images, present)
    assert truth.shape == found.shape
    assert truth.shape[2:] == images.shape[2:]
    if kind == "synthesis":
        assert torch.equal(truth[:, 0], images[0])
    other = images.clone()
    other[:, 1] += 5
    torch.testing.assert_close(stand_ins(net, other, present)[1], found)


def test_what_the_decoder_gets_is_what_is_shown():
    """The guess replaces the latent: decoding with everything there, the guess put in by hand, gives the same mask."""
    net, images = network("feature_generation"), sample((8, 12, 8))["image"][None]
    present = torch.tensor([[True, False, True]])
    with torch.inference_mode():
        (z,) = net.encode(images, torch.ones(1, 3, dtype=torch.bool))
        z = z.clone()
        z[0, 1] = stand_ins(net, images, present)[1][1]
        by_hand = net.decode((z,), torch.ones(1, 3, dtype=torch.bool)).logits
        torch.testing.assert_close(
            by_hand, net.decode(net.encode(images, present), present).logits, rtol=1e-4, atol=1e-4
        )


def test_a_perfect_painter_has_no_error_and_one_who_paints_the_mean_that_of_the_mean(monkeypatch):
    data, net = sample(), network("synthesis")
    inside = data["image"][:, data["brain"][0] > 0].mean(dim=1)
    means = inside[:, None, None, None, None].expand(3, 1, *data["image"].shape[1:])
    for painted, same in ((data["image"][:, None], "nothing"), (means, "of_mean")):
        monkeypatch.setattr("mtg_lab.strategy_views.stand_ins", lambda *_, p=painted: (data["image"][:, None], p))
        table = stand_in_errors(net, [data], {1: "ED", 2: "ET"})
        wanted = table["of_mean"] if same == "of_mean" else 0 * table["of_mean"]
        assert table["error"].tolist() == pytest.approx(wanted.tolist(), abs=1e-6)
    assert table.query("where == 'brain'")["of_mean"].tolist() == pytest.approx([1.0] * 9, rel=1e-2)
    assert set(table["where"]) == {"brain", "ET"}, "what the subject lacks has no row"
    assert set(table["count"]) == {1, 2}
    assert set(zip(table["modality"], table["given"], strict=True)) == {
        *((m, g) for m in MODALITIES for g in MODALITIES if g != m),
        ("t1n", "t1c+t2w"), ("t1c", "t1n+t2w"), ("t2w", "t1n+t1c"),
    }  # fmt: skip


def test_a_painted_sequence_has_a_panel_from_all_others_and_from_each():
    figure = painted_panels(network("synthesis"), sample(), "t1c", {2: "ET"})
    titles = [axes.get_title().split("  ")[0] for axes in figure.axes]
    assert titles == ["t1c, true", "from t1n+t2w", "from t1n", "from t2w"]
    with pytest.raises(InputError, match="no sequence 'adc' to paint; this network knows t1n, t1c, t2w"):
        painted_panels(network("synthesis"), sample(), "adc", {})


def test_a_network_that_puts_nothing_there_is_told_so():
    net = build("unet", MODALITIES, 3, SMALL).eval()
    with pytest.raises(InputError, match="a UNet puts nothing in place of what is absent"):
        stand_ins(net, sample()["image"][None], torch.tensor([[True, False, True]]))
