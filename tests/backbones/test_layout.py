"""Channels-last memory: the same numbers as PyTorch's own modules, and the layout kept from image to logits."""

import pytest
import torch
from monai.networks.blocks.dynunet_block import UnetUpBlock
from torch import nn

from mtg_lab.backbones import contract
from mtg_lab.backbones.layout import (
    Conv,
    InstanceNorm,
    PointConv,
    UpBlock,
    apart,
    as_channels,
    channels_last,
    is_channels_last,
    mixed_modalities,
    rows_of_zeros,
    side_by_side,
    with_fast_convolutions,
)
from tests.backbones.test_contract import WITH_LATENTS, alternating, network, noise

LAST = torch.channels_last_3d
# Where oneDNN does not convolve bf16, PyTorch does so itself, voxels side by side; small maps in fp32 as well.
BF16_IN_ONEDNN = torch.ops.mkldnn._is_mkldnn_bf16_supported()
needs_bf16 = pytest.mark.skipif(not BF16_IN_ONEDNN, reason="oneDNN has no bf16 on this processor")
both_layouts = pytest.mark.parametrize("layout", [torch.contiguous_format, LAST])


def with_gradients(function, *inputs):
    """What a function answers and the gradients of a fixed weighting of it."""
    inputs = [x.detach().clone(memory_format=torch.preserve_format).requires_grad_() for x in inputs]
    found = function(*inputs)
    weighting = torch.empty_like(found).copy_(noise(*found.shape, seed=9))
    return [found, *torch.autograd.grad((found * weighting).sum(), inputs)]


@both_layouts
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("channels", [1, 2, 8, 9, 24])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_the_norm_is_that_of_pytorch(layout, affine, channels, dtype, tolerance):
    ours, theirs = (kind(channels, affine=affine) for kind in (InstanceNorm, nn.InstanceNorm3d))
    if affine:
        with torch.no_grad():
            ours.weight.copy_(noise(channels, seed=1))
            ours.bias.copy_(noise(channels, seed=2))
    theirs.load_state_dict(ours.state_dict())
    x = 3 * noise(3, channels, 4, 5, 6).to(dtype) + 2
    found = with_gradients(ours, x.to(memory_format=layout))
    expected = with_gradients(theirs, x)
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
    if layout is LAST and channels > 1:
        assert is_channels_last(found[0])
    if affine:
        for name in ("weight", "bias"):
            gradients = [torch.autograd.grad(m(x).float().square().sum(), getattr(m, name)) for m in (ours, theirs)]
            torch.testing.assert_close(*gradients, rtol=tolerance, atol=tolerance)


@both_layouts
def test_maps_side_by_side_are_those_of_cat_and_so_are_their_gradients(layout):
    maps = [noise(2, c, 3, 4, 5, seed=c).contiguous(memory_format=layout) for c in (2, 3, 4)]
    found = with_gradients(side_by_side, *maps)
    torch.testing.assert_close(found, with_gradients(lambda *x: torch.cat(x, dim=1), *maps), rtol=0, atol=0)
    assert all(x.is_contiguous(memory_format=layout) for x in found), "no gradient is a view into the joined one"


def test_one_map_that_is_channels_last_makes_all_so():
    maps = [noise(2, 3, 4, 4, 4, seed=1), noise(2, 5, 4, 4, 4, seed=2).contiguous(memory_format=LAST)]
    found = with_gradients(side_by_side, *maps)
    torch.testing.assert_close(found, with_gradients(lambda *x: torch.cat(x, dim=1), *maps), rtol=0, atol=0)
    assert is_channels_last(found[0])


@both_layouts
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_convolution_of_single_voxels_is_that_of_pytorch_and_keeps_the_layout(layout, dtype):
    ours, theirs = PointConv(4, 6).to(dtype), nn.Conv3d(4, 6, kernel_size=1).to(dtype)
    theirs.load_state_dict(ours.state_dict())
    x = noise(2, 4, 5, 6, 7).to(dtype)
    found = with_gradients(ours, x.to(memory_format=layout))
    torch.testing.assert_close(
        found, with_gradients(theirs, x), rtol=1e-2, atol=2e-2 if dtype is torch.bfloat16 else 1e-5
    )
    if dtype is torch.float32 or BF16_IN_ONEDNN:
        assert is_channels_last(found[0]) == (layout is LAST)


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("depth", [1, 2, 5, 6])
@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 3, "padding": 1},
        {"kernel_size": 3, "padding": 1, "stride": 2},
        {"kernel_size": (1, 3, 3), "padding": (0, 1, 1), "bias": False},
        {"kernel_size": 3, "padding": (2, 0, 1), "stride": (3, 1, 2)},
        {"kernel_size": 4, "padding": 3, "stride": 2},
        {"kernel_size": 3, "padding": 1, "groups": 2},
        {"kernel_size": 3, "padding": 2, "dilation": 2},
        {"kernel_size": 3, "padding": "same"},
    ],
    ids=str,
)
def test_a_convolution_is_that_of_pytorch_however_few_samples_and_slices(batch, depth, options):
    theirs = nn.Conv3d(2, 4, **options)
    ours = Conv(2, 4, **options)
    ours.load_state_dict(theirs.state_dict())
    x = channels_last(noise(batch, 2, depth, 7, 6))
    torch.testing.assert_close(with_gradients(ours, x), with_gradients(theirs, x), rtol=1e-4, atol=1e-5)
    weights = [torch.autograd.grad(m(x).square().sum(), m.weight)[0] for m in (ours, theirs)]
    torch.testing.assert_close(*weights, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_a_convolution_pads_as_pytorch_does(mode):
    theirs = nn.Conv3d(2, 3, (3, 5, 1), padding=(1, 2, 0), padding_mode=mode)
    ours = Conv(2, 3, (3, 5, 1), padding=(1, 2, 0), padding_mode=mode)
    ours.load_state_dict(theirs.state_dict())
    x = noise(1, 2, 5, 6, 4)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-5)


def test_a_single_small_sample_in_float32_is_convolved_by_onednn_channels_last():
    x, convolution = channels_last(noise(1, 8, 7, 8, 8)), Conv(8, 8, 3, padding=1)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen:
        answer = convolution(x)
    names = {event.key for event in seen.key_averages()}
    assert "aten::mkldnn_convolution" in names
    assert not any("slow_conv" in name for name in names)
    assert is_channels_last(answer)
    assert answer.stride() == torch.empty_like(answer, memory_format=LAST).stride()


def test_networks_of_others_convolve_fast_with_the_weights_they_have():
    network = nn.Sequential(nn.Conv3d(1, 2, 3), nn.Sequential(nn.Conv3d(2, 2, 1)), nn.ConvTranspose3d(2, 2, 2))
    kinds = [type(m) for m in network.modules()]
    before, x = {k: v.clone() for k, v in network.state_dict().items()}, noise(1, 1, 6, 6, 6)
    answer = network(x)
    with_fast_convolutions(network)
    assert [type(m) for m in network.modules()] == [
        Conv if m is network[0] else k for m, k in zip(network.modules(), kinds, strict=True)
    ]
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
    torch.testing.assert_close(network(x), answer)


@pytest.mark.parametrize("batch", [1, 3])
def test_a_single_sample_is_encoded_as_among_others(batch):
    encoder = Conv(1, 2, 3, padding=1)
    images, there = noise(batch, 1, 16, 16, 16), torch.arange(batch) == batch - 1
    (found,) = contract.encode_present(encoder, images, there)
    expected = encoder(images) * there[:, None, None, None, None]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    gradients = [torch.autograd.grad(z.square().sum(), encoder.weight) for z in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-3)
    assert is_channels_last(found)


@both_layouts
def test_the_block_on_the_way_up_is_monais(layout):
    options = {"kernel_size": 3, "stride": 1, "upsample_kernel_size": 2}
    ours = UpBlock(3, 6, 3, **options, norm_name=("instance_any_layout", {"affine": True}))
    theirs = UnetUpBlock(3, 6, 3, **options, norm_name=("INSTANCE", {"affine": True}))
    theirs.load_state_dict(ours.state_dict())
    coarse, skip = (x.contiguous(memory_format=layout) for x in (noise(2, 6, 3, 3, 3), noise(2, 3, 6, 6, 6)))
    torch.testing.assert_close(
        with_gradients(ours, coarse, skip), with_gradients(theirs, coarse, skip), rtol=1e-4, atol=1e-4
    )


def test_the_barycentre_is_the_same_in_both_layouts():
    present, mixture = alternating(2, 4), contract.Mixture(4)
    with torch.no_grad():
        mixture.theta.copy_(noise(4))
    z = noise(2, 12, 4, 5, 6)

    def barycentre(joined):
        return mixture.barycentre(joined.unflatten(1, (4, 3)), present)

    last = with_gradients(barycentre, z.contiguous(memory_format=LAST))
    torch.testing.assert_close(last, with_gradients(barycentre, z))
    assert all(is_channels_last(x) for x in last)


@pytest.mark.parametrize("batch", [1, 2])
def test_modalities_are_mixed_alike_in_both_layouts(batch):
    z, weights = noise(batch, 12, 4, 5, 6), noise(batch, 3, 4, seed=1)

    def mixed(joined, weights):
        return mixed_modalities(joined.unflatten(1, (4, 3)), weights)

    expected = with_gradients(lambda x, w: torch.einsum("bkm,bmcxyz->bkcxyz", w, x.unflatten(1, (4, 3))), z, weights)
    torch.testing.assert_close(with_gradients(mixed, z, weights), expected)
    last = with_gradients(mixed, z.contiguous(memory_format=LAST), weights)
    torch.testing.assert_close(last, expected)
    assert is_channels_last(as_channels(last[0]))
    assert is_channels_last(last[1])


@both_layouts
def test_zeros_are_laid_out_as_what_they_stand_for(layout):
    x = noise(1, 2, 3, 4, 5).contiguous(memory_format=layout)
    zeros = rows_of_zeros(x, 4)
    assert zeros.shape == (4, 2, 3, 4, 5)
    assert not zeros.any()
    assert zeros.is_contiguous(memory_format=layout)


@needs_bf16
@pytest.mark.parametrize("batch", [1, 2])
def test_an_image_of_one_channel_starts_the_layout(batch):
    image = noise(batch, 3, 32, 32, 32).to(torch.bfloat16)[:, 1:2]
    marked = channels_last(image)
    torch.testing.assert_close(marked, image, rtol=0, atol=0)
    assert marked.untyped_storage().data_ptr() == image.untyped_storage().data_ptr(), "without a copy"
    assert is_channels_last(nn.Conv3d(1, 2, 3, dtype=torch.bfloat16)(marked))


@pytest.mark.parametrize("everybody", [True, False])
def test_joined_latents_of_the_unet_are_a_view(everybody):
    present = torch.ones(4, 4, dtype=torch.bool) if everybody else alternating(4, 4)
    (z,) = network("unet").encode(noise(4, 4, 8, 8, 8), present)
    joined = contract.mask_latents(z, present).flatten(1, 2)
    assert is_channels_last(joined)
    assert z.flatten(1, 2).data_ptr() == z.data_ptr()


@pytest.mark.parametrize("batch", [1, 2])
def test_latents_as_channels_keep_the_layout_without_a_copy(batch):
    joined = noise(batch, 12, 4, 5, 6).contiguous(memory_format=LAST)
    found = as_channels(joined.unflatten(1, (4, 3)))
    torch.testing.assert_close(found, joined, rtol=0, atol=0)
    assert found.data_ptr() == joined.data_ptr()
    assert found.stride() == joined.stride(), "the batch's too: by it PyTorch chooses how to convolve"
    other = noise(batch, 4, 3, 4, 5, 6)
    torch.testing.assert_close(as_channels(other), other.flatten(1, 2), rtol=0, atol=0)


@both_layouts
def test_maps_taken_apart_have_memory_of_their_own(layout):
    joined = noise(2, 6, 3, 4, 5).contiguous(memory_format=layout)
    parts = apart(joined, [1, 2, 3])
    torch.testing.assert_close(torch.cat(parts, dim=1), joined, rtol=0, atol=0)
    assert all(part.is_contiguous(memory_format=layout) for part in parts)


@needs_bf16
@pytest.mark.parametrize("batch", [1, 2])
def test_every_map_on_the_unets_way_is_channels_last(batch):
    """Also that of a single sample, whose strides tell less."""
    net, images = network("unet").to(torch.bfloat16), noise(batch, 4, 16, 16, 16).to(torch.bfloat16)
    turned = []
    for module_name, module in net.named_modules():
        if isinstance(module, nn.Conv3d) and module.out_channels > 1 and module.groups == 1:
            module.register_forward_hook(
                lambda _, inputs, found, n=module_name: turned.append(n) if not_last(inputs[0], found) else None
            )
    present = torch.ones(batch, 4, dtype=torch.bool)
    with torch.inference_mode():
        latents = net.encode(images, present)
        net.decode(latents, present)
        net.decode_alone(latents, *present.nonzero(as_tuple=True))
        if batch == 1:
            list(net.decode_each(latents, present))
    assert turned == []


def not_last(*maps):
    return any(x[0].numel() > x.shape[1] > 1 and not is_channels_last(x) for x in maps)


@pytest.mark.parametrize("name", WITH_LATENTS)
def test_the_layout_changes_no_number(name, monkeypatch):
    net, images, present = network(name), noise(4, 4, 16, 16, 16), alternating(4, 4)

    def found():
        net.zero_grad()
        prediction = net(images, present)
        prediction.logits.square().mean().backward()
        gradient = torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None])
        return prediction.features.detach(), prediction.logits.detach(), gradient

    last = found()
    monkeypatch.setattr(contract, "channels_last", lambda image: image)
    other = found()
    assert is_channels_last(last[0])
    assert not is_channels_last(other[0])
    for one, another in zip(last, other, strict=True):  # as wholes: processors round single elements differently
        assert float((one - another).norm()) < 3e-3 * float(another.norm())
