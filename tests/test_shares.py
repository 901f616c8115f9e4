"""Losses over the samples of several processes: values and gradients are those of one process with all samples."""

import sys
from pathlib import Path

import pytest
import torch

from mtg_lab.alignment import align
from mtg_lab.backbones import Prediction
from mtg_lab.distillation import latent_distillation
from mtg_lab.methods.contract import SegmentationLoss
from mtg_lab.shares import over_processes

PROCESSES = 2
REGIONS = {"WT": (1, 2, 3), "TC": (1, 3), "ET": (3,)}


def data():
    """Latents, masks, labels of four samples; in the second half a modality is missing from every sample."""
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(4, 3, 5, 4, 4, 4, generator=generator) * torch.arange(1.0, 5)[:, None, None, None, None, None]
    present = torch.tensor([[1, 1, 1], [1, 0, 1], [1, 1, 0], [0, 1, 0]]).bool()
    label = torch.randint(0, 4, (4, 1, 4, 4, 4), generator=generator)
    label[2:, ..., :3] = 0
    return latents, present, label, torch.randn(4, 5, 4, 4, 4, generator=generator)


def losses(samples):
    """Each with the gradient of a weight that all samples pass through."""
    latents, present, label, target = (x[samples] for x in data())
    weights = present / present.sum(dim=1, keepdim=True)
    found = {}
    for name in ("dice", "mse", "kl", "latent"):
        mixing = torch.linspace(-1, 1, 20).reshape(4, 5).requires_grad_()
        channels = torch.linspace(0.5, 2, 5).requires_grad_()
        moved = latents * channels[:, None, None, None]
        if name == "dice":
            logits = torch.einsum("kc,bcdhw->bkdhw", mixing, latents[:, 0])
            value = SegmentationLoss(REGIONS)(Prediction(logits, logits), label, together=True)
        elif name == "latent":
            value = latent_distillation(moved[:, 0], target, together=True)
        else:
            value = align([moved], weights, present, name, normalise=True)
        (gradient,) = torch.autograd.grad(value, mixing if name == "dice" else channels)
        found[name] = value.detach(), gradient
    return found


def one_of_two(rank: int, folder: str) -> None:
    torch.distributed.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=PROCESSES)
    found = losses(slice(2 * rank, 2 * rank + 2))
    for value, gradient in found.values():
        for told in (value, gradient):  # as DistributedDataParallel averages gradients, and the history losses
            torch.distributed.all_reduce(told)
            told /= PROCESSES
    if rank == 0:
        torch.save(found, Path(folder) / "found.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.skipif(sys.platform == "win32", reason="no gloo through a file")
def test_two_processes_with_half_the_samples_each_are_one_with_all(tmp_path):
    torch.multiprocessing.spawn(one_of_two, (str(tmp_path),), nprocs=PROCESSES)
    halves, whole = torch.load(tmp_path / "found.pt", weights_only=True), losses(slice(None))
    assert halves.keys() == whole.keys()
    for name, (value, gradient) in whole.items():
        torch.testing.assert_close(halves[name][0], value, rtol=1e-4, atol=1e-6, msg=f"{name}: {halves[name]}, {value}")
        torch.testing.assert_close(halves[name][1], gradient, rtol=1e-4, atol=1e-6, msg=f"gradient of {name}")
    apart = [losses(slice(2 * rank, 2 * rank + 2)) for rank in range(PROCESSES)]
    for name, (value, _) in whole.items():
        mean = sum(half[name][0] for half in apart) / PROCESSES
        assert abs(mean - value) > 1e-3 * abs(value), f"{name} would have told nothing"


def test_alone_a_sum_is_what_it_was():
    sums = torch.ones(3), torch.tensor(2)
    assert all(a is b for a, b in zip(over_processes(*sums), sums, strict=True))
