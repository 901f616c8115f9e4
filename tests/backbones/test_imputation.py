"""What stands in place of an absent sequence: painted, guessed or borrowed."""

import pytest
import torch

from mtg_lab.backbones import build
from mtg_lab.errors import InputError

MODALITIES = ("t1n", "t1c", "t2w", "t2f")
TRUNK = {"width": 4, "latent": 3, "depth": 2}
EVERYTHING = torch.ones(1, 4, dtype=torch.bool)
SOME = torch.tensor([[True, False, True, False]])


def network(name, seed=0, **options):
    torch.manual_seed(seed)
    return build(name, MODALITIES, 4, TRUNK | options).eval()


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", ["synthesis", "feature_generation", "sample_retrieval"])
def test_where_nothing_is_absent_the_trunk_answers(name):
    net, images = network(name), noise(1, 4, 8, 8, 8)
    trunk = network("unet", seed=1)
    state = (net.trunk if name == "synthesis" else net).state_dict()
    trunk.load_state_dict({k: v for k, v in state.items() if k in trunk.state_dict()})
    if name == "sample_retrieval":
        net.remember(noise(64, 4, 3))
    with torch.inference_mode():
        torch.testing.assert_close(net(images, EVERYTHING).logits, trunk(images, EVERYTHING).logits)


def test_painted_images_are_segmented_as_if_they_were_there():
    net, images = network("synthesis"), noise(1, 4, 8, 8, 8)
    with torch.inference_mode():
        answer = net(images, SOME)
        painted = answer.inner["synthesised"]
        assert painted.shape == images.shape
        completed = torch.where(SOME[..., None, None, None], images, painted)
        torch.testing.assert_close(answer.logits, net.trunk(completed, EVERYTHING).logits)


def test_the_painter_is_told_who_is_there():
    """An image of zeros and an absent one are two things."""
    net, images = network("synthesis"), noise(1, 4, 8, 8, 8)
    images[:, 1] = images[:, 3] = 0
    with torch.inference_mode():
        painted = [net(images, mask).inner["synthesised"] for mask in (SOME, EVERYTHING)]
    assert not torch.allclose(*painted)


def test_guessed_latents_are_decoded_as_if_they_were_there():
    net, images = network("feature_generation"), noise(1, 4, 8, 8, 8)
    with torch.inference_mode():
        latents = net.encode(images, EVERYTHING)
        answer = net.decode(latents, SOME)
        filled = torch.where(SOME[..., None, None, None, None], latents[0], answer.inner["generated"])
        torch.testing.assert_close(answer.logits, net.decode([filled], EVERYTHING).logits)


def test_an_empty_memory_gives_zeros():
    net, trunk = network("sample_retrieval"), network("unet")
    trunk.load_state_dict({k: v for k, v in net.state_dict().items() if k in trunk.state_dict()})
    with torch.inference_mode():
        torch.testing.assert_close(net(noise(1, 4, 8, 8, 8), SOME).logits, trunk(noise(1, 4, 8, 8, 8), SOME).logits)


def test_the_oldest_are_forgotten():
    net = network("sample_retrieval", memory=4, neighbours=1)
    voxels = torch.arange(7.0)[:, None, None].expand(7, 4, 3)
    net.remember(voxels[:3])
    assert net.memory[:, 0, 0].tolist() == [0, 1, 2, 0]
    assert net.remembered == 3
    net.remember(voxels[3:6])
    assert sorted(net.memory[:, 0, 0].tolist()) == [2, 3, 4, 5]
    net.remember(noise(9, 4, 3))
    torch.testing.assert_close(net.memory.sum(), noise(9, 4, 3)[-4:].sum())


def test_the_nearest_in_what_is_there_lends_what_is_not():
    net = network("sample_retrieval", memory=16, neighbours=1)
    net.remember(noise(16, 4, 3))
    chosen = net.memory[5]
    seen = torch.where(SOME[0, :, None], chosen, torch.zeros(()))  # what is hidden says nothing
    joined = seen.reshape(1, 12, 1, 1, 1).expand(1, 12, 4, 4, 4).clone()
    found = net.borrowed(joined, SOME)
    torch.testing.assert_close(found, chosen.reshape(1, 12, 1, 1, 1).expand(1, 12, 4, 4, 4))


def test_neighbours_answer_by_their_distance():
    net = network("sample_retrieval", memory=3, neighbours=2)
    memory = torch.zeros(3, 4, 3)
    memory[0, 0, 0], memory[1, 0, 0], memory[2, 0, 0] = 1.0, 3.0, 9.0  # of the sequence that is there
    memory[0, 1, 0], memory[1, 1, 0] = 10.0, 20.0  # of one that is not
    net.remember(memory)
    found = net.borrowed(torch.zeros(1, 12, 2, 2, 2), torch.tensor([[True, False, False, False]]))
    share = torch.tensor([-1.0 / 5, -9.0 / 5]).softmax(dim=0)  # squares 1 and 9, of which the mean is 5
    assert float(found[0, 3, 0, 0, 0]) == pytest.approx(float(share @ torch.tensor([10.0, 20.0])))


@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        ("synthesis", {"painter_width": 0}, "painter_width is 0"),
        ("feature_generation", {"generator_width": 0}, "generator_width is 0"),
        ("sample_retrieval", {"memory": 4, "neighbours": 5}, "neighbours is 5; the memory holds 4"),
        ("sample_retrieval", {"fill": "anchor"}, "fill is no option of a network that fills what is absent itself"),
    ],
)
def test_a_bad_option_is_told_what_would_work(name, options, told):
    with pytest.raises(InputError, match=told):
        network(name, **options)
