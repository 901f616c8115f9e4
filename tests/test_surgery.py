"""Operations on latents do to them exactly what they say, and nothing to what is absent."""

import pytest
import torch

from mtg_lab import read_manifest, train
from mtg_lab.backbones import Latents
from mtg_lab.surgery import modality_moments, modality_offsets, moved


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def apart(batch=2, modalities=3, scales=((4, 5), (6, 3))):
    """Latents of several scales, each modality around a place of its own."""
    return Latents([
        noise(batch, modalities, c, n, n, n, seed=c) + 3 * noise(1, modalities, c, 1, 1, 1, seed=c + 1)
        for c, n in scales
    ])  # fmt: skip


def centroids(z):
    return z.mean(dim=(0, 3, 4, 5))


def offsets_of(latents):
    return [centroids(z) - centroids(z).mean(dim=0) for z in latents]


def everybody(latents):
    return torch.ones(latents[0].shape[:2], dtype=torch.bool)


@pytest.fixture(scope="module")
def run(cohort, tmp_path_factory):
    from mtg_lab.data import Preprocessing, Sampling
    from mtg_lab.recipes import Recipe

    recipe = Recipe(manifest=str(cohort), preprocessing=Preprocessing(4.0), sampling=Sampling(24), steps=2,
                    backbone_options={"width": 4, "latent": 3, "depth": 2}, precision="fp32")  # fmt: skip
    return train(recipe, tmp_path_factory.mktemp("surgery") / "run")


# --- offsets ----------------------------------------------------------------------------------------------------------


def test_without_their_offsets_the_centroids_coincide():
    latents = apart()
    for before, after in zip(latents, moved(latents, offsets_of(latents), everybody(latents), 1.0), strict=True):
        middle = centroids(before).mean(dim=0)
        torch.testing.assert_close(centroids(after), middle.expand(3, -1), rtol=0, atol=1e-5)


@pytest.mark.parametrize("amount", [-1.0, 0.25, 0.5, 2.0])
def test_the_distance_of_centroids_shrinks_by_the_amount(amount):
    latents = apart()
    for before, after in zip(latents, moved(latents, offsets_of(latents), everybody(latents), amount), strict=True):
        distances = [torch.pdist(centroids(z)) for z in (before, after)]
        torch.testing.assert_close(distances[1], abs(1 - amount) * distances[0], rtol=0, atol=1e-5)


def test_no_amount_is_the_identity_bit_for_bit():
    latents = apart()
    for dtype in (torch.float32, torch.bfloat16):
        given = Latents([z.to(dtype) for z in latents])
        assert all(map(torch.equal, moved(given, offsets_of(latents), everybody(latents), 0.0), given))


def test_what_is_absent_stays_as_it_is():
    latents, present = apart(), torch.tensor([[True, False, True], [False, True, True]])
    for z in latents:
        z[~present] = float("nan")
    for before, after in zip(latents, moved(latents, offsets_of(apart()), present, 1.0), strict=True):
        assert after[~present].isnan().all()
        assert after[present].isfinite().all()
        assert not torch.equal(after[present], before[present])


@pytest.mark.parametrize("window", [None, 0])
def test_measured_offsets_are_those_of_the_latents_in_the_brain(run, cohort, window):
    """Against the plain way: every latent of the split side by side, then numpy's mean and covariance."""
    import numpy as np

    from mtg_lab.data import cached_dataset

    part = read_manifest(cohort).split("train")
    found = modality_moments(run, part, "train", window=0)[0]
    network, seen = run.backbone(), []
    with torch.inference_mode():
        for sample in cached_dataset(part.subjects, run.modalities, run.recipe.preprocessing):
            with torch.autocast("cpu", torch.bfloat16, enabled=False):
                (z,) = network.encode(sample["image"][None], sample["present"][None])
            seen.append(z[0][:, :, sample["brain"][0] > 0])
    side_by_side = torch.cat(seen, dim=2).numpy()
    np.testing.assert_allclose(found.mean, side_by_side.mean(axis=2), atol=0.02)
    for m, covariance in enumerate(found.covariance):
        np.testing.assert_allclose(covariance, np.cov(side_by_side[m], bias=True), atol=0.02)
    (offset,) = modality_offsets(run, part, "train", window)
    torch.testing.assert_close(offset.sum(dim=0), torch.zeros(3), rtol=0, atol=1e-5)
