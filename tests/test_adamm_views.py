"""What is shown of AdaMM is what the network does."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

from mtg_lab.adamm_views import (
    PLACES,
    adapter_map,
    adapter_strength,
    as_adamm,
    gate_effect,
    guidance_course,
    node_maps,
    node_panels,
    presence_by_window,
    presence_panels,
)
from mtg_lab.backbones import build
from mtg_lab.cases import Case
from mtg_lab.errors import InputError

MODALITIES = ("t1n", "t1c", "t2w")


def network(**options):
    torch.manual_seed(0)
    return build("adamm", MODALITIES, 4, {"width": 4, "adapter_width": 4, "nodes": 3} | options).eval()


def images(*size):
    return torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0))


def test_adapters_that_add_nothing_have_no_strength():
    net = network()
    with torch.no_grad():
        for parameter in net.bank.widen.parameters():
            parameter.zero_()
    table = adapter_strength(net, images(16, 16, 16))
    assert list(table.index) == ["t1n", "t1c", "t2w", "t1n+t1c", "t1n+t2w", "t1c+t2w"], "everything has no adapters"
    assert tuple(table.columns) == PLACES
    assert not table.to_numpy().any()


def test_strength_is_what_an_adapter_adds_over_what_it_meets():
    net = network()
    rows = net.bank.rows(torch.tensor([[False, True, False]]))
    met = []
    net.bank.narrow[0].register_forward_pre_hook(lambda _, given: met.append(given[0].clone()))
    found = adapter_strength(net, images(16, 16, 16)).loc["t1c", "down 1/2"]
    plain = met[1]  # t1n comes before
    with torch.inference_mode():
        added = net.bank.bent(plain, 0, rows) - plain
    assert found == pytest.approx(float(added.norm() / plain.norm()), rel=1e-4)


def test_looking_leaves_nothing_behind():
    net = network()
    adapter_strength(net, images(16, 16, 16))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.bank.modules())


def test_the_map_has_a_row_a_subset_and_its_numbers():
    table = adapter_strength(network(), images(16, 16, 16))
    (axes,) = adapter_map(table).axes
    assert [t.get_text() for t in axes.get_yticklabels()] == list(table.index)
    assert axes.texts[0].get_text() == f"{table.iloc[0, 0]:.2f}"


@pytest.mark.parametrize("size", [(16, 16, 16), (17, 20, 24), (5, 9, 8)])
def test_nodes_share_out_every_voxel(size):
    maps = node_maps(network(), images(*size), torch.tensor([[True, False, True]]))
    for shares in maps.values():
        assert shares.shape == (3, *size)
        torch.testing.assert_close(torch.tensor(shares).sum(dim=0), torch.ones(size))


def test_networks_without_the_part_are_told_so():
    with pytest.raises(InputError, match="this is a UNet; give a run on the backbone adamm"):
        as_adamm(build("unet", MODALITIES, 4, {}))
    with pytest.raises(InputError, match="has no adapters"):
        adapter_strength(network(adapters=False, graph=False), images(8, 8, 8))


def history(steps=20, **columns):
    return pd.DataFrame({k: np.full(steps, v) for k, v in columns.items()})


def test_every_node_has_a_panel_and_its_shares_of_brain_and_lesion():
    shares = np.zeros((2, 6, 6, 6))
    shares[0, :3], shares[1, 3:] = 1, 1
    brain, label = np.ones((6, 6, 6), dtype=bool), np.zeros((6, 6, 6), dtype=int)
    label[3:5, 2:4, 2:4] = 1
    figure = node_panels({"general": shares, "own": shares[::-1]}, brain, label)
    words = [axes.get_title() for axes in figure.axes[:4]]
    assert words == ["1: 50% | 0%", "2: 50% | 100%", "1: 50% | 100%", "2: 50% | 0%"]
    assert all(axes.images[0].get_clim() == (0, 1) for axes in figure.axes[:4]), (
        "one scale, or an empty node looks full"
    )


def test_the_course_shows_what_the_run_has_and_where_a_critic_cannot_tell():
    figure = guidance_course(history(presence=0.5, critic=1.4, style=2.0, loss=9.0))
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert titles == ["presence", "style", "critic"]
    undecided = {axes.get_title(): [line.get_ydata()[0] for line in axes.lines] for axes in figure.axes if axes.lines}
    assert undecided["critic"][0] == pytest.approx(2 * math.log(2))
    assert undecided["presence"] == [0.5]
    with pytest.raises(InputError, match="this history has none of the terms presence, voxel"):
        guidance_course(history(loss=1.0))


def sample(label):
    volume = torch.randn(3, *label.shape[1:], generator=torch.Generator().manual_seed(1))
    return {"image": volume, "label": label, "brain": torch.ones_like(label)}


def test_presence_is_told_of_every_window_subset_and_class_beside_what_is_true():
    label = torch.zeros(1, 24, 16, 16, dtype=torch.int64)
    label[0, 20:, :4, :4] = 3
    net = network()
    table = presence_by_window(net, [sample(label)], 16, ["t1c", "t1n+t2w"])
    assert set(table["window"]) == {0, 1}
    assert len(table) == 2 * 2 * 3
    there = table[table["present"]]
    assert set(there["class"]) == {3}
    assert set(there["window"]) == {1}, "only the last window reaches the lesion"
    window = {"image": sample(label)["image"][None, :, 8:], "present": torch.tensor([[False, True, False]])}
    with torch.inference_mode():
        said = net(window["image"], window["present"]).presence.sigmoid()[0]
    found = table.query("window == 1 and subset == 't1c'")["probability"].to_numpy()
    np.testing.assert_allclose(found, said.numpy(), rtol=1e-4)


def test_volumes_smaller_than_a_window_are_one_window():
    label = torch.ones(1, 8, 12, 10, dtype=torch.int64)
    table = presence_by_window(network(), [sample(label)], 16)
    assert set(table["window"]) == {0}
    assert len(set(table["subset"])) == 7


def test_without_a_head_nothing_is_told():
    net = build("unet", MODALITIES, 4, {"width": 4, "depth": 2}).eval()
    with pytest.raises(InputError, match="does not tell which classes there are; train it with a gate"):
        presence_by_window(net, [sample(torch.ones(1, 8, 8, 8, dtype=torch.int64))], 8)


def test_presence_lines_are_shares_of_windows():
    rows = [(1, c, q, there) for c in (1, 2) for q, there in ((0.9, True), (0.2, True), (0.7, False), (0.6, False))]
    table = pd.DataFrame(rows, columns=["modalities", "class", "probability", "present"])
    figure = presence_panels(table, {1: "NCR", 2: "ED"})
    assert [axes.get_title() for axes in figure.axes] == ["NCR", "ED"]
    assert [line.get_ydata()[0] for line in figure.axes[0].lines] == [0.5, 1.0]


def test_the_gate_spares_what_was_wrong_and_loses_what_was_true():
    truth = np.zeros((4, 4, 4), dtype=int)
    truth[0] = 1
    before = truth.copy()
    before[1] = 2  # invented
    after = np.where(before == 2, 0, before)  # spared
    after[0, :2] = 0  # lost
    masks = {"reference": truth, "open": before, "closed": after}
    case = Case("P1", "t1c", "t1c", np.zeros((4, 4, 4)), masks, {1: "NCR", 2: "ET"})
    table = gate_effect([case], "open", "closed", 0.5).set_index("class")
    columns = ["reference", "drawn", "spared", "lost"]
    assert table.loc["NCR", columns].tolist() == [8, 8, 0, 4]
    assert table.loc["ET", columns].tolist() == [0, 8, 8, 0]
