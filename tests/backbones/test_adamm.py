"""AdaMM's network: how large it is, whose adapters a sample goes through, what the switches of the release change."""

import pytest
import torch
from torch import nn

from mtg_lab.backbones import AdaMM, build
from mtg_lab.backbones.adamm import PointBank
from mtg_lab.backbones.graph import GraphRefinement, NodeProjection
from mtg_lab.errors import InputError

MODALITIES = ("t1n", "t1c", "t2w", "t2f")
TINY = {"width": 4, "adapter_width": 4, "nodes": 2}
# Counted in the release at f2e1733 (Quanato607/AdaMM), four modalities, four outputs.
RELEASED, ONE_SET, PLAIN, HEAD, LIVE_GRAPH, DEAD_GRAPH = 7101885, 134288, 4785223, 7011, 119936, 182406


def network(seed=0, **options):
    torch.manual_seed(seed)
    return build("adamm", MODALITIES, 4, TINY | options).eval()


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def mask(*rows):
    return torch.tensor(rows, dtype=torch.bool)


def count(module):
    return sum(p.numel() for p in module.parameters())


# --- sizes ------------------------------------------------------------------------------------------------------------


def test_parameters_are_those_of_the_release_less_what_nothing_uses():
    with torch.device("meta"):
        net = AdaMM(MODALITIES, 4)
    assert count(net) == 6785191 == RELEASED - ONE_SET - DEAD_GRAPH  # its set of adapters for nothing, its dead modules
    assert count(net.bank) == 14 * ONE_SET
    assert count(net.graph) == LIVE_GRAPH
    assert count(net.presence) == HEAD
    assert count(net) - count(net.bank) - count(net.graph) == PLAIN


@pytest.mark.parametrize("norm", ["instance", "batch"])
def test_norms_of_other_kinds_have_as_many_parameters(norm):
    with torch.device("meta"):
        assert count(AdaMM(MODALITIES, 4, norm=norm)) == 6785191


def test_the_presence_head_may_go_without_a_norm():
    net = network(presence_norm="none")
    assert not [m for m in net.presence.modules() if "Norm" in type(m).__name__]
    assert [m for m in net.graph.modules() if "Norm" in type(m).__name__]


@pytest.mark.parametrize("grid", [(64, 64, 64), (48, 32, 40)])
def test_maps_have_the_channels_and_grids_of_the_release(grid):
    eighth, full = tuple(n // 8 for n in grid), (1, 16, *grid)
    with torch.inference_mode():
        answer = build("adamm", MODALITIES, 4, {}).eval()(noise(1, 4, *grid), mask([1, 0, 1, 0]))
    assert answer.features.shape == full
    assert answer.presence.shape == (1, 3)
    assert answer.inner.keys() == {"encoder", "style", "content", "bottleneck"}
    assert all(z.shape == (1, 128, *eighth) for z in answer.inner.values())


@pytest.mark.parametrize(("modalities", "sets"), [(1, 0), (2, 2), (3, 6), (4, 14), (6, 62)])
def test_every_subset_that_is_not_everything_has_adapters(modalities, sets):
    net = build("adamm", [f"m{i}" for i in range(modalities)], 2, TINY)
    assert len(net.bank.narrow[0].weight) == sets


def test_too_many_subsets_are_refused_by_number():
    with pytest.raises(InputError, match=r"126 subsets of 7 modalities .* subsets=\[...\]"):
        build("adamm", [f"m{i}" for i in range(7)], 2, TINY)


# --- who goes through which adapters ----------------------------------------------------------------------------------


def gradients_by_set(net, present):
    net.zero_grad()
    net.train()(noise(len(present), 4, 8, 8, 8), present).logits.square().mean().backward()
    return net.bank.narrow[2].weight.grad.abs().flatten(1).sum(dim=1)


def test_each_sample_goes_through_the_adapters_of_its_own_subset():
    net = network()
    for number in range(1, 15):  # the bits of the subset, the first modality last
        present = mask([bool(number >> m & 1) for m in range(4)])
        assert gradients_by_set(net, present).nonzero().flatten().tolist() == [number - 1]
    both = gradients_by_set(net, mask([0, 1, 0, 0], [1, 1, 0, 1]))
    assert both.nonzero().flatten().tolist() == [1, 10]


def test_everything_goes_past_adapters_and_graph():
    net, images = network(), noise(1, 4, 8, 8, 8)
    with torch.inference_mode():
        before = net(images, mask([1, 1, 1, 1])).logits
        for module in (net.bank, net.graph):
            for parameter in module.parameters():
                parameter.fill_(float("nan"))
        torch.testing.assert_close(net(images, mask([1, 1, 1, 1])).logits, before, rtol=0, atol=0)
        assert net(images, mask([1, 1, 1, 0])).logits.isnan().all()


def test_a_subset_without_adapters_goes_past_them_too():
    net = network(subsets=["t1c", "t2f+t1n"])
    assert net.bank.rows(mask([0, 1, 0, 0], [1, 0, 0, 1], [0, 0, 0, 1], [1, 1, 1, 1])).tolist() == [0, 1, -1, -1]
    assert net.bank.rows(mask([1, 1, 1, 0])).tolist() == [-1]


def test_a_bank_is_one_convolution_a_set():
    torch.manual_seed(0)
    bank, x = PointBank(3, 5, 2), noise(2, 5, 3, 4, 2)
    found = bank(x, torch.tensor([2, 0]))
    for sample, row in enumerate((2, 0)):
        convolution = nn.Conv3d(5, 2, 1)
        convolution.weight.data, convolution.bias.data = bank.weight[row][..., None, None, None], bank.bias[row]
        torch.testing.assert_close(found[sample], convolution(x[sample]))


def test_banks_start_as_convolutions_do():
    torch.manual_seed(0)
    bank, reference = PointBank(200, 16, 8).requires_grad_(False), nn.Conv3d(16, 3200, 1).requires_grad_(False)
    assert float(bank.weight.abs().max()) == pytest.approx(float(reference.weight.abs().max()), rel=0.01)
    assert float(bank.weight.std()) == pytest.approx(float(reference.weight.std()), rel=0.02)
    assert float(bank.bias.abs().max()) == pytest.approx(16**-0.5, rel=0.01)


def test_evaluation_is_deterministic_and_training_drops():
    net, images, present = network(), noise(1, 4, 8, 8, 8), mask([1, 0, 1, 0])
    with torch.inference_mode():
        torch.testing.assert_close(net(images, present).logits, net(images, present).logits, rtol=0, atol=0)
        net.train()
        assert not torch.equal(net(images, present).logits, net(images, present).logits)


def test_without_adapters_a_plain_network_is_left():
    net = network(adapters=False, graph=False)
    assert net.bank is None
    assert net.graph is None
    with pytest.raises(InputError, match="graph=true needs adapters=true"):
        network(adapters=False)


def test_a_batch_norm_does_not_see_the_mask_of_evaluation():
    """In eval mode, where the release never goes, its norm is a fixed one: samples do not see each other."""
    net, images = network(norm="batch"), noise(2, 4, 16, 16, 16)
    present = mask([1, 0, 1, 0], [0, 1, 0, 0])
    net.train()(images, present)
    net.eval()
    with torch.inference_mode():
        together = net(images, present).logits
        torch.testing.assert_close(net(images[:1], present[:1]).logits, together[:1], rtol=1e-4, atol=1e-4)


# --- graph refinement -------------------------------------------------------------------------------------------------


def projected_by_hand(projection, f):
    a, s = projection.anchors, projection.widths.sigmoid()
    scaled = (f.T[None] - a[:, None]) / s[:, None]  # [K, N, C]
    share = (-0.5 * scaled.square().sum(dim=2)).softmax(dim=0)  # [K, N]
    nodes = (share[..., None] * scaled).sum(dim=1) / (share.sum(dim=1, keepdim=True) + 1e-9)
    nodes = nodes / nodes.norm(dim=1, keepdim=True)
    return share, nodes / nodes.norm()


def test_nodes_are_the_normalised_means_of_what_is_assigned_to_them():
    torch.manual_seed(0)
    projection, f = NodeProjection(5, 3).double(), noise(2, 5, 40).double()
    share, nodes = projection(f)
    for sample in range(2):
        expected_share, expected = projected_by_hand(projection, f[sample])
        torch.testing.assert_close(share[sample], expected_share)
        torch.testing.assert_close(nodes[sample].T, expected)


def test_the_release_reads_nodes_as_channels():
    torch.manual_seed(0)
    projection, f = NodeProjection(4, 2), noise(1, 4, 30)
    nodes = projection(f)[1][0].T  # [K, C]
    torch.testing.assert_close(projection(f, "reshaped")[1][0], nodes.reshape(4, 2))
    assert not torch.allclose(projection(f, "reshaped")[1][0].T, nodes)


def test_every_voxel_is_shared_out_among_the_nodes():
    torch.manual_seed(0)
    found = GraphRefinement(8, nodes=3).nodes_of(noise(2, 8, 4, 3, 2), noise(2, 8, 4, 3, 2, seed=1))
    for share in (found.general, found.own):
        torch.testing.assert_close(share.sum(dim=1), torch.ones(2, 24))
    assert found.refined.shape == (2, 8, 24)


def test_neighbours_are_nodes_of_like_direction():
    torch.manual_seed(0)
    graph = GraphRefinement(4, nodes=2)
    z = torch.tensor([[[1.0, 0, 0, 0], [0, 1.0, 0, 0], [1.0, 0.2, 0, 0], [0, 0, -1.0, 0]]])
    expected = torch.eye(4, dtype=torch.bool)[None].clone()
    expected[0, 0, 2] = expected[0, 2, 0] = True  # cosine .98 > .8; the others are at most .2
    assert torch.equal(graph._neighbours(z), expected)


def test_a_node_without_neighbours_keeps_to_itself():
    torch.manual_seed(0)
    graph, z = GraphRefinement(4, nodes=2), noise(1, 3, 4)
    alone = graph._attend(z, torch.eye(3, dtype=torch.bool)[None])
    torch.testing.assert_close(alone, graph.mix(graph.query(z)))


def test_the_threshold_matters_only_where_the_adjacency_does():
    general, own = noise(1, 8, 4, 4, 4), noise(1, 8, 4, 4, 4, seed=1)

    def refined(**options):
        torch.manual_seed(0)
        graph = GraphRefinement(8, nodes=4, **options).eval()
        with torch.inference_mode():
            return graph(general, own)

    torch.testing.assert_close(
        refined(adjacency="ignored", threshold=-1.1), refined(adjacency="ignored", threshold=1.1), rtol=0, atol=0
    )
    assert not torch.allclose(refined(threshold=-1.1), refined(threshold=1.1))
    torch.testing.assert_close(refined(threshold=-1.1), refined(adjacency="ignored"), rtol=0, atol=0)


def test_graphs_are_there_to_be_looked_at():
    net, images = network(), noise(1, 4, 16, 16, 16)
    found = net.graphs(images, mask([1, 0, 0, 1]))
    assert found.general.shape == (1, 2, 8)
    with pytest.raises(ValueError, match="no graph is formed"):
        net.graphs(images, mask([1, 1, 1, 1]))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"adjacency": "some"}, "adjacency is 'some'; it can be masked or ignored"),
        ({"node_layout": "flat"}, "node_layout is 'flat'; it can be transposed or reshaped"),
        ({"norm": "layer"}, "norm is 'layer'; it can be group, instance, batch, none"),
        ({"presence_norm": "layer"}, "presence_norm is 'layer'; it can be group, instance, batch, none, or empty"),
        ({"nodes": 0}, "nodes is 0"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"subsets": ["t9"]}, "names 't9'"),
    ],
)
def test_a_bad_option_is_told_what_would_work(options, told):
    with pytest.raises(InputError, match=told):
        network(**options)
