"""What every network of the lab promises, asked of each of them."""

from dataclasses import replace
from itertools import product

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from mtg_lab.backbones import BACKBONES, Mixture, build, map_sizes
from mtg_lab.errors import InputError

MODALITIES = ("t1n", "t1c", "t2w", "t2f", "dwi", "adc", "rcbv", "swi")
FILLS = ("zeros", "anchor")
# The smallest networks that still have every part.
TINY = {
    "unet": {"width": 4, "latent": 3, "depth": 2},
    "rfnet": {"width": 4, "depth": 2, "guess_width": 4, "hidden": 8},
    "mmformer": {"width": 4, "depth": 2, "tokens": 16, "heads": 2, "mlp": 16, "positions": 3},
    "m2ftrans": {"width": 4, "depth": 2, "layers": 2, "heads": 2, "mlp": 16, "positions": 3, "guess_width": 4},
    "adamm": {"width": 4, "adapter_width": 4, "nodes": 2, "subsets": ["t1c", "t1n+t2w", "t1c+t2f"]},
    "nnunet": {"width": 4, "depth": 2},
    "segresnet": {"init_filters": 8, "blocks_down": [1, 1], "blocks_up": [1]},
    "synthesis": {"width": 4, "latent": 3, "depth": 2, "painter_width": 4},
    "feature_generation": {"width": 4, "latent": 3, "depth": 2, "generator_width": 4},
    "sample_retrieval": {"width": 4, "latent": 3, "depth": 2, "memory": 6, "neighbours": 2},
}
WITHOUT_LATENTS = ("adamm", "nnunet", "segresnet", "synthesis")
WITH_LATENTS = [name for name in BACKBONES if name not in WITHOUT_LATENTS]
# With aux_heads auxiliary maps where that is an option: their resolutions, as 1/n.
SUPERVISED = {"rfnet": (1, 2, 4, 8), "m2ftrans": (1, 2)}  # the others: at 1/2 and 1/4

every_backbone = pytest.mark.parametrize("name", BACKBONES)
every_latent_backbone = pytest.mark.parametrize("name", WITH_LATENTS)
FILL_THEMSELVES = ("feature_generation", "sample_retrieval")
FILLINGS = [(n, f) for n in WITH_LATENTS for f in ((None,) if n in FILL_THEMSELVES else FILLS)]
every_filling = pytest.mark.parametrize(("name", "fill"), FILLINGS)
every_answer = pytest.mark.parametrize(("name", "fill"), FILLINGS + [(n, None) for n in WITHOUT_LATENTS])
every_size = pytest.mark.parametrize(("modalities", "classes"), [(1, 2), (2, 2), (3, 4), (4, 4), (5, 2), (8, 4)])


def network(name, modalities=4, classes=4, seed=0, fill=None, **options):
    torch.manual_seed(seed)
    options |= {} if fill is None else {"fill": fill}
    tiny = dict(TINY[name])
    if name == "adamm" and modalities <= 4:  # every subset; what more modalities have too many of is named
        del tiny["subsets"]
    return build(name, MODALITIES[:modalities], classes, tiny | options).eval()


def heads(name, count):
    """The option for so many auxiliary heads, where it is one: RFNet's are part of its fusion."""
    return {} if name in ("rfnet", *WITHOUT_LATENTS) else {"aux_heads": count}


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def alternating(batch, modalities):
    """A mask in which every other modality is there, shifted from sample to sample; of one modality that one."""
    return (torch.arange(modalities) + torch.arange(batch)[:, None]) % min(2, modalities) == 0


@every_answer
@every_size
@pytest.mark.parametrize("poison", [float("nan"), float("inf"), 1e30])
def test_an_absent_modality_never_matters(name, fill, modalities, classes, poison):
    net, images = network(name, modalities, classes, fill=fill), noise(2, modalities, 8, 8, 8)
    present = alternating(2, modalities)
    absent = ~present[..., None, None, None].expand_as(images)
    with torch.inference_mode():
        clean = net(images.masked_fill(absent, 0), present)
        poisoned = net(images.masked_fill(absent, poison), present)
    assert torch.isfinite(clean.logits).all()
    torch.testing.assert_close(poisoned.logits, clean.logits, rtol=0, atol=0)


@every_filling
def test_latents_of_an_absent_modality_never_matter(name, fill):
    net, present = network(name, fill=fill), alternating(2, 4)
    with torch.inference_mode():
        latents = net.encode(noise(2, 4, 8, 8, 8), torch.ones(2, 4, dtype=torch.bool))
        clean = net.decode(latents, present)
        for z in latents:
            z[~present] = float("nan")
        poisoned = net.decode(latents, present)
    torch.testing.assert_close(poisoned.logits, clean.logits, rtol=0, atol=0)


@every_answer
def test_poison_does_not_reach_a_gradient(name, fill):
    net, images, present = network(name, fill=fill).train(), noise(2, 4, 8, 8, 8), alternating(2, 4)
    images[~present] = float("nan")
    net(images, present).logits.square().mean().backward()
    assert all(torch.isfinite(p.grad).all() for p in net.parameters() if p.grad is not None)


@every_filling
@every_size
def test_decoding_with_a_mask_is_forward_with_that_mask(name, fill, modalities, classes):
    # In double precision: instance norms over a few voxels make much of the last digit of a float.
    net, images = network(name, modalities, classes, fill=fill).double(), noise(2, modalities, 8, 8, 8).double()
    everything, some = torch.ones(2, modalities, dtype=torch.bool), alternating(2, modalities)
    with torch.inference_mode():
        latents = net.encode(images, everything)
        for mask in (some, some.flip(0), everything):
            torch.testing.assert_close(net.decode(latents, mask).logits, net(images, mask).logits, rtol=0, atol=1e-5)


@every_filling
@every_size
@pytest.mark.parametrize("together", [1, 3, 100])
def test_decoding_each_of_many_masks_is_decoding_one_by_one(name, fill, modalities, classes, together):
    net, images = network(name, modalities, classes, fill=fill).double(), noise(1, modalities, 9, 8, 7).double()
    masks = torch.tensor(list(product([False, True], repeat=min(modalities, 4)))[1:])
    masks = torch.cat([masks, torch.zeros(len(masks), modalities - masks.shape[1], dtype=torch.bool)], dim=1)
    with torch.inference_mode():
        net.mixture.theta.copy_(noise(modalities))
        latents = net.encode(images, torch.ones(1, modalities, dtype=torch.bool))
        answers = list(net.decode_each(latents, masks, together))
        assert [len(a.logits) for a in answers] == [len(part) for part in masks.split(together)]
        for mask, logits in zip(masks, torch.cat([a.logits for a in answers]), strict=True):
            torch.testing.assert_close(logits, net.decode(latents, mask[None]).logits[0], rtol=0, atol=1e-6)


@every_filling
@every_size
def test_decoding_modalities_alone_is_decoding_under_masks_of_one(name, fill, modalities, classes):
    """Values and gradients, pairs in any order; what the pairs do not name may be anything."""
    net, images = network(name, modalities, classes, fill=fill).double(), noise(3, modalities, 9, 8, 7).double()
    pairs = [(s, m) for s in range(3) for m in range(modalities) if (s + m) % 3][::-1]
    sample, modality = torch.tensor(pairs).T
    hidden = torch.ones(3, modalities, dtype=torch.bool).index_put((sample, modality), torch.tensor(False))
    with torch.no_grad():
        net.mixture.theta.copy_(noise(modalities))
        encoded = net.encode(images, torch.ones(3, modalities, dtype=torch.bool))

    def answered(decode):
        net.zero_grad()
        latents = [z.clone().requires_grad_() for z in encoded]
        logits = decode([z.masked_fill(hidden[..., None, None, None, None], torch.nan) for z in latents])
        logits.square().mean().backward()
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in (*latents, *net.parameters())]
        return logits, torch.cat([gradient.flatten() for gradient in gradients])

    def one_by_one(latents):
        alone = torch.eye(modalities, dtype=torch.bool)
        return torch.cat([net.decode([z[s : s + 1] for z in latents], alone[m][None]).logits for s, m in pairs])

    together = answered(lambda latents: net.decode_alone(latents, sample, modality).logits)
    for found, expected in zip(together, answered(one_by_one), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@every_filling
def test_a_latent_that_one_of_many_masks_hides_does_not_matter_to_that_one(name, fill):
    net, masks = network(name, fill=fill), torch.tensor([[True, False, True, False], [True, False, False, False]])
    with torch.inference_mode():
        latents = net.encode(noise(1, 4, 8, 8, 8), torch.ones(1, 4, dtype=torch.bool))
        clean = [answer.logits for answer in net.decode_each(latents, masks)]
        for z in latents:
            z[:, 2:] = float("nan")
        poisoned = [answer.logits for answer in net.decode_each(latents, masks)]
    assert poisoned[0].isnan().any()
    torch.testing.assert_close(poisoned[1], clean[1], rtol=0, atol=0)


@every_backbone
@every_size
@pytest.mark.parametrize("grid", [(17, 20, 13), (5, 6, 7), (2, 1, 3), (16, 16, 16)])
def test_logits_lie_on_the_grid_of_the_images(name, modalities, classes, grid):
    net = network(name, modalities, classes)
    with torch.inference_mode():
        answer = net(noise(1, modalities, *grid), torch.ones(1, modalities, dtype=torch.bool))
    assert answer.logits.shape == (1, classes, *grid)
    assert answer.features.shape[2:] == grid
    assert torch.isfinite(answer.logits).all()


@every_latent_backbone
def test_latents_have_one_room_a_modality(name):
    net, present = network(name, modalities=3), torch.tensor([[True, False, True]])
    with torch.inference_mode():
        for z in net.encode(noise(1, 3, 8, 8, 8), present):
            assert z.shape[:2] == (1, 3)
            assert z.ndim == 6
            assert not z[:, 1].any(), "the latent of an absent modality is zero"


@every_answer
def test_whatever_must_learn_gets_a_gradient(name, fill):
    """Dead parameters hide in networks whose modules nothing calls."""
    net = network(name, fill=fill, **heads(name, 1)).train()
    missing = name in ("adamm", "synthesis", *FILL_THEMSELVES)  # they have parts for what is absent alone
    present = alternating(2, 4) if missing else torch.ones(2, 4, dtype=torch.bool)
    answer = net(noise(2, 4, 8, 8, 8), present)
    maps = [answer.logits, *answer.aux, *([] if answer.presence is None else [answer.presence])]
    sum(a.square().mean() for a in maps).backward()
    dead = [n for n, p in net.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    # A norm takes the bias before it away again: there it is enough that the weight beside it learns.
    dead = [n for n in dead if not n.endswith(".bias") or n.replace(".bias", ".weight") in dead]
    assert [n for n in dead if not n.endswith("mixture.theta")] == []
    assert all(torch.isfinite(p.grad).all() for p in net.parameters() if p.grad is not None)


@pytest.mark.parametrize("name", [n for n in WITH_LATENTS if n not in FILL_THEMSELVES])
def test_the_mixture_learns_where_it_fills_a_gap(name):
    net = network(name, fill="anchor").train()
    net(noise(2, 4, 8, 8, 8), torch.tensor([[True, True, True, False]] * 2)).logits.square().mean().backward()
    gradient = net.mixture.theta.grad
    assert gradient[:3].abs().min() > 0
    assert gradient[3] == 0


@every_answer
def test_bf16_agrees_with_float32(name, fill):
    net, images, present = network(name, fill=fill), noise(2, 4, 16, 16, 16), alternating(2, 4)
    with torch.inference_mode():
        exact = net(images, present).logits
        with torch.autocast("cpu", torch.bfloat16):
            rounded = net(images, present).logits.float()
    assert (rounded - exact).norm() / exact.norm() < 0.1


@every_answer
def test_samples_of_a_batch_do_not_see_each_other(name, fill):
    net, images, present = network(name, fill=fill).double(), noise(2, 4, 9, 8, 7).double(), alternating(2, 4)
    with torch.inference_mode():
        together = net(images, present).logits
        apart = torch.cat([net(i[None], p[None]).logits for i, p in zip(images, present, strict=True)])
    torch.testing.assert_close(together, apart)


@every_latent_backbone
@pytest.mark.parametrize("grid", [(16, 16, 16), (17, 20, 13)])
def test_auxiliary_heads_answer_from_fine_to_coarse(name, grid):
    net = network(name, depth=3, **heads(name, 2))
    with torch.inference_mode():
        aux = net(noise(1, 4, *grid), torch.ones(1, 4, dtype=torch.bool)).aux
    assert [tuple(a.shape) for a in aux] == [(1, 4, *(-(-n // s) for n in grid)) for s in SUPERVISED.get(name, (2, 4))]


@every_backbone
def test_a_modality_that_is_there_does_matter(name):
    net, present = network(name), torch.ones(1, 4, dtype=torch.bool)
    with torch.inference_mode():
        images = noise(1, 4, 8, 8, 8)
        before = net(images, present).logits
        for m in range(4):
            changed = images.clone()
            changed[:, m] = noise(8, 8, 8, seed=m + 1)
            assert not torch.allclose(net(changed, present).logits, before)


@every_backbone
@pytest.mark.parametrize(
    ("images", "present", "told"),
    [
        ((1, 3, 8, 8, 8), torch.ones(1, 3, dtype=torch.bool), r"expected \[B, 4, D, H, W\] for t1n, t1c, t2w, t2f"),
        ((1, 4, 8, 8), torch.ones(1, 4, dtype=torch.bool), r"expected \[B, 4, D, H, W\]"),
        ((1, 4, 8, 8, 8), torch.ones(1, 4), r"expected bool \[1, 4\], true = there"),
        ((2, 4, 8, 8, 8), torch.ones(1, 4, dtype=torch.bool), r"expected bool \[2, 4\]"),
        ((1, 4, 8, 8, 8), torch.zeros(1, 4, dtype=torch.bool), "at least one"),
    ],
)
def test_a_wrong_shape_is_told_what_would_work(name, images, present, told):
    with pytest.raises(ValueError, match=told):
        network(name)(noise(*images), present)


# --- what builds them -------------------------------------------------------------------------------------------------


def test_an_unknown_backbone_is_told_which_there_are():
    with pytest.raises(InputError, match="unknown backbone 'vgg'; there are: unet"):
        build("vgg", MODALITIES, 4, {})


@every_backbone
@pytest.mark.parametrize("option", [{"colour": 3}, {"fill": "mean"}, {"width": -4}, {"width": 0}, {"aux_heads": 9}])
def test_a_bad_option_is_one_line(name, option):
    with pytest.raises(InputError, match=f"backbone {name}: ") as refusal:
        build(name, MODALITIES, 4, TINY[name] | option)
    assert "\n" not in str(refusal.value)


# --- the mixture ------------------------------------------------------------------------------------------------------

thetas = st.lists(st.floats(-8, 8, width=32), min_size=2, max_size=6)


def mixture_of(theta):
    mixture = Mixture(len(theta))
    mixture.theta.data = torch.tensor(theta)
    return mixture


def test_the_mixture_starts_uniform():
    weights = Mixture(4).weights(torch.tensor([[True] * 4, [True, False, True, False]]))
    torch.testing.assert_close(weights, torch.tensor([[0.25] * 4, [0.5, 0.0, 0.5, 0.0]]))


@settings(deadline=None)
@given(thetas, st.integers(1, 2**6 - 1))
def test_weights_are_a_softmax_over_the_modalities_that_are_there(theta, bits):
    present = np.array([bool(bits >> m & 1) for m in range(len(theta))])
    if not present.any():
        present[0] = True
    expected = np.where(present, np.exp(np.array(theta) - max(theta)), 0)
    weights = mixture_of(theta).weights(torch.tensor(present)[None])[0]
    np.testing.assert_allclose(weights.detach().numpy(), expected / expected.sum(), rtol=1e-4, atol=1e-7)


@settings(deadline=None, max_examples=50)
@given(thetas, st.integers(0, 2**20))
def test_the_barycentre_of_identical_latents_is_that_latent(theta, seed):
    latent = noise(2, 3, 4, 4, 4, seed=seed)
    together = latent[:, None].expand(-1, len(theta), -1, -1, -1, -1)
    present = alternating(2, len(theta))
    torch.testing.assert_close(mixture_of(theta).barycentre(together, present), latent, rtol=1e-5, atol=1e-5)


def test_the_barycentre_is_the_weighted_mean():
    mixture = mixture_of([float(np.log(3)), 0.0])  # weights 3/4 and 1/4
    z = torch.tensor([[[8.0], [4.0]]])  # [1 sample, 2 modalities, 1 channel]
    torch.testing.assert_close(mixture.barycentre(z, torch.ones(1, 2, dtype=torch.bool)), torch.tensor([[7.0]]))


def test_uniform_weights_are_not_trained():
    assert not Mixture(3, learned=False).theta.requires_grad


# --- which classes there are ------------------------------------------------------------------------------------------


@every_backbone
def test_any_network_can_tell_which_classes_there_are(name):
    net = network(name, classes=3, gate="hard").train()
    answer = net(noise(2, 4, 8, 8, 8), alternating(2, 4))
    assert answer.presence.shape == (2, 2)
    answer.presence.square().mean().backward()
    assert all(p.grad is not None and p.grad.any() for p in net.presence.parameters() if p.ndim > 1)


@every_backbone
def test_the_gate_closes_what_is_held_absent_and_nothing_else(name):
    net, images, present = network(name, gate="hard"), noise(2, 4, 8, 8, 8), alternating(2, 4)
    with torch.inference_mode():
        answer = net(images, present)
        told = torch.tensor([[3.0, -3.0, 3.0], [-3.0, 3.0, 3.0]])
        closed = net.final_logits(replace(answer, presence=told))
    torch.testing.assert_close(closed[0, [0, 1, 3]], answer.logits[0, [0, 1, 3]], rtol=0, atol=0)
    torch.testing.assert_close(closed[1, [0, 2, 3]], answer.logits[1, [0, 2, 3]], rtol=0, atol=0)
    assert not (closed[0].argmax(dim=0) == 2).any()
    assert not (closed[1].argmax(dim=0) == 1).any()


@every_backbone
def test_a_gate_that_does_not_exist_is_one_line(name):
    with pytest.raises(InputError, match=r"gate is 'ajar'; it can be hard, soft, off"):
        network(name, gate="ajar")


@pytest.mark.parametrize("name", [n for n in BACKBONES if n not in ("segresnet", "nnunet")])
def test_maps_around_the_bottleneck_have_a_batch_and_a_grid(name):
    with torch.inference_mode():
        inner = network(name)(noise(2, 4, 16, 16, 16), alternating(2, 4)).inner
    assert {"encoder", "bottleneck"} <= set(inner)
    assert all(z.ndim >= 5 and len(z) == 2 for z in inner.values())
    assert map_sizes(network(name)).keys() == {"logits", "features", *inner}
