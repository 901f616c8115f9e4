"""What is shown of AdaMM is what the network does."""

import pytest
import torch

from mtg_lab.adamm_views import PLACES, adapter_map, adapter_strength, as_adamm, node_maps
from mtg_lab.backbones import build
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
