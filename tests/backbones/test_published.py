"""What the published networks are known to be: how large, who sees whom, which maps are weighted by what."""

import pytest
import torch
from torch import nn

from mtg_lab.backbones import build
from mtg_lab.backbones.blocks import TransformerLayer, resampled
from mtg_lab.errors import InputError

MODALITIES = ("t1n", "t1c", "t2w", "t2f")
TRIO = ("rfnet", "mmformer", "m2ftrans")
TINY = {
    "rfnet": {"width": 4, "depth": 2, "guess_width": 4, "hidden": 8},
    "mmformer": {"width": 4, "depth": 2, "tokens": 16, "heads": 2, "mlp": 16, "positions": 2},
    "m2ftrans": {"width": 4, "depth": 2, "layers": 2, "heads": 2, "mlp": 16, "positions": 2},
}
EVERYTHING = torch.ones(1, 4, dtype=torch.bool)

every_network = pytest.mark.parametrize("name", TRIO)


def network(name, **options):
    torch.manual_seed(0)
    return build(name, MODALITIES, 4, TINY[name] | options).eval()


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# --- sizes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "width", "released"),
    [
        # Counted in the three networks of the PASSION release (Jun-Jie-Shi/PASSION at fd308b5), which has four
        # modalities, four classes, 80^3 crops and a decoder of single modalities. 8984960 is 8.98 M; it has been
        # quoted as 8.99, which is 8.985 rounded once more.
        ("rfnet", 8, 2381792),
        ("rfnet", 16, 8984960),
        ("mmformer", 8, 35599184),
        ("mmformer", 16, 60236680),
        ("m2ftrans", 8, 13194788),
        ("m2ftrans", 16, 45429660),
    ],
)
def test_parameters_are_those_of_the_release_and_one_a_modality_for_the_mixture(name, width, released):
    with torch.device("meta"):
        net = build(name, MODALITIES, 4, {"width": width, "uni_decoder": True})
    assert sum(p.numel() for p in net.parameters()) == released + len(MODALITIES)


@pytest.mark.parametrize(("name", "shrinks"), [("rfnet", 8), ("mmformer", 16), ("m2ftrans", 16)])
def test_stages_widths_and_heads_are_those_of_the_release(name, shrinks):
    """PASSION's notes: channels 8, 16, ... at full, 1/2, ... resolution, and the published auxiliary heads."""
    with torch.inference_mode():
        net = build(name, MODALITIES, 4, {}).eval()
        latents = net.encode(noise(1, 4, 32, 32, 32), EVERYTHING)
        aux = net.decode(latents, EVERYTHING).aux
    scales = [z for z in latents if z.shape[2] != 512]
    assert [(z.shape[2], 32 // z.shape[3]) for z in scales] == [(8 * s, s) for s in (1, 2, 4, 8, 16) if s <= shrinks]
    finest = 2 if name == "mmformer" else 1
    assert [32 // a.shape[2] for a in aux] == [s for s in (1, 2, 4, 8, 16) if finest <= s <= shrinks]


def test_mmformer_has_the_tokens_of_each_modality_among_its_latents():
    with torch.inference_mode():
        latents = network("mmformer").encode(noise(1, 4, 12, 8, 8), EVERYTHING)
    assert [tuple(z.shape[1:]) for z in latents[-2:]] == [(4, 16, 3, 2, 2), (4, 16, 3, 2, 2)]


# --- the decoder of single modalities ---------------------------------------------------------------------------------


@every_network
@pytest.mark.parametrize("grid", [(8, 8, 8), (9, 5, 3)])
def test_the_decoder_of_single_modalities_reads_one(name, grid):
    net = network(name, uni_decoder=True)
    with torch.inference_mode():
        latents = net.encode(noise(1, 4, *grid), EVERYTHING)
        clean = net.uni_decode(latents, 1)
        for z in latents:
            z[:, [0, 2, 3]] = float("nan")
        alone = net.uni_decode(latents, 1)
    assert clean.logits.shape == (1, 4, *grid)
    assert torch.isfinite(clean.logits).all()
    torch.testing.assert_close(alone.logits, clean.logits, rtol=0, atol=0)


@every_network
def test_every_weight_of_the_decoder_of_single_modalities_learns(name):
    net = network(name, uni_decoder=True)
    net.uni_decode(net.encode(noise(1, 4, 8, 8, 8), EVERYTHING), 2).logits.square().mean().backward()
    weights = {n: p for n, p in net.uni.named_parameters() if n.endswith("weight")}  # norms take biases away
    assert [n for n, p in weights.items() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("name", ["unet", *TRIO])
def test_a_network_without_a_decoder_of_single_modalities_says_so(name):
    net = build(name, MODALITIES, 4, TINY.get(name, {"width": 4, "latent": 3, "depth": 2}))
    latents = net.encode(noise(1, 4, 8, 8, 8), EVERYTHING)
    with pytest.raises(InputError, match=r"no uni-modal decoder; take .* uni_decoder=true") as refusal:
        net.uni_decode(latents, 0)
    assert "\n" not in str(refusal.value)


# --- RFNet ------------------------------------------------------------------------------------------------------------


def test_regions_are_fused_as_the_paper_says_it():
    """For a class k: modality features times its probability, averaged over it, decide one weight a modality."""
    fuse = network("rfnet").fuse[1]
    z, guess = noise(2, 4, 8, 3, 4, 5), noise(2, 4, 3, 4, 5, seed=1)
    share = guess.softmax(dim=1)
    fused = []
    for k in range(4):
        inside = z * share[:, k, None, None]  # [B, M, C, d, h, w]
        size = share[:, k].mean(dim=(1, 2, 3))
        means = inside.mean(dim=(3, 4, 5)) / size[:, None, None]
        weights = torch.sigmoid(fuse.weigh[k](torch.cat([means.flatten(1), size[:, None]], dim=1)))
        fused.append((inside * weights[..., None, None, None, None]).sum(dim=1))
    expected = torch.cat([fuse.regions(torch.cat(fused, dim=1)), fuse.plain(z.flatten(1, 2))], dim=1)
    torch.testing.assert_close(fuse(z, guess), expected, rtol=1e-4, atol=1e-4)


def test_first_guesses_learn_from_their_own_loss_alone():
    net = network("rfnet")
    net(noise(1, 4, 8, 8, 8), EVERYTHING).logits.square().mean().backward()
    assert all(p.grad is None or not p.grad.any() for p in net.guess.parameters())


# --- mmFormer ---------------------------------------------------------------------------------------------------------


def test_after_attention_the_channels_of_a_voxel_are_its_own_tokens():
    net = network("mmformer")
    net.across = nn.Identity()
    for number, encoder in enumerate(net.encoders):
        nn.init.constant_(encoder.positions, float(number))
    intra = noise(2, 4, 16, 2, 2, 2)
    joined = net._attended(intra)
    torch.testing.assert_close(joined.unflatten(1, (4, 16)), intra + torch.arange(4.0).reshape(4, 1, 1, 1, 1))


# --- M2FTrans ---------------------------------------------------------------------------------------------------------


def test_a_modality_sees_itself_and_fusion_sees_who_is_there():
    layer, tokens = network("m2ftrans").first, noise(1, 5, 8, 16)  # the last of five are the fusion tokens
    seen = torch.tensor([[True, False, True, True]])
    with torch.inference_mode():
        before = layer(tokens, seen)
        for changed, concerned in [(0, {0, 4}), (1, {1}), (4, {4})]:
            other = tokens.clone()
            other[:, changed] = noise(8, 16, seed=9)
            moved = (layer(other, seen) - before).abs().amax(dim=(0, 2, 3)) > 1e-4
            assert set(moved.nonzero()[:, 0].tolist()) == concerned


def test_what_fusion_looks_at_adds_up():
    """Each of n queries in each of h heads hands out one; alike keys get alike shares, an absent modality none."""
    layer, seen = network("m2ftrans").first, torch.tensor([[True, False, True, True]])
    looked = layer.looked_at(noise(1, 5, 8, 16), seen)
    assert looked.shape == (1, 4, 8)
    assert not looked[:, 1].any()
    assert 0 < looked.sum() < 2 * 8
    nn.init.zeros_(layer.project.weight)
    alike = layer.looked_at(noise(1, 5, 8, 16), seen)
    torch.testing.assert_close(alike[:, [0, 2, 3]], torch.full((1, 3, 8), 2 / 4))


# --- tokens on any grid -----------------------------------------------------------------------------------------------


def test_learned_positions_fit_any_grid():
    parameter = noise(1, 3, 5, 5, 5)
    assert resampled(parameter, (5, 5, 5)) is parameter
    assert resampled(parameter, (2, 7, 9)).shape == (1, 3, 2, 7, 9)
    ramp = torch.arange(5.0).reshape(1, 1, 5, 1, 1).expand(1, 1, 5, 5, 5)
    # Voxel centres: the middle of the volume stays in the middle.
    assert resampled(ramp, (3, 3, 3))[0, 0, :, 0, 0].tolist() == pytest.approx([1 / 3, 2, 11 / 3])


def test_the_attention_is_that_of_pytorch():
    """Against nn.TransformerEncoderLayer with the same weights, its biases of queries, keys and values zero."""
    torch.manual_seed(0)
    ours, theirs = TransformerLayer(16, 4, 32, 0.1).eval(), nn.TransformerEncoderLayer(
        16, 4, 32, activation="gelu", batch_first=True, norm_first=True
    ).eval()  # fmt: skip
    attention, (norm, perceptron) = theirs.self_attn, ours.perceptron
    pairs = [(ours.norm, theirs.norm1), (norm, theirs.norm2), (ours.out[0], attention.out_proj)]
    pairs += [(perceptron.linear1, theirs.linear1), (perceptron.linear2, theirs.linear2)]
    with torch.no_grad():
        attention.in_proj_weight.copy_(ours.project.weight)
        attention.in_proj_bias.zero_()
        for source, target in pairs:
            target.load_state_dict(source.state_dict())
        tokens = noise(2, 7, 16)
        torch.testing.assert_close(ours(tokens), theirs(tokens), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["mmformer", "m2ftrans"])
def test_dropout_is_for_training_only(name):
    net, images = network(name, dropout=0.5), noise(1, 4, 8, 8, 8)
    with torch.inference_mode():
        assert torch.equal(net(images, EVERYTHING).logits, net(images, EVERYTHING).logits)
        net.train()
        assert not torch.equal(net(images, EVERYTHING).logits, net(images, EVERYTHING).logits)


@pytest.mark.parametrize(
    ("name", "option", "told"),
    [
        ("rfnet", {"hidden": 0}, "hidden is 0; it must be at least 1"),
        ("mmformer", {"heads": 3}, "3 heads do not divide tokens of width 16"),
        ("mmformer", {"aux_heads": 3}, "aux_heads is 3; with depth 2 it can be 0 to 2"),
        ("m2ftrans", {"heads": 5}, "5 heads do not divide tokens of width 16"),
        ("m2ftrans", {"aux_heads": 4}, "aux_heads is 4; with depth 2 it can be 0 to 3"),
        ("m2ftrans", {"positions": 0}, "positions is 0"),
    ],
)
def test_sizes_that_cannot_be_are_one_line(name, option, told):
    with pytest.raises(InputError, match=f"backbone {name}: {told}"):
        build(name, MODALITIES, 4, TINY[name] | option)
