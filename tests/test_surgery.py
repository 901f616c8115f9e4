"""Operations on latents do to them exactly what they say, and nothing to what is absent."""

from contextlib import nullcontext
from itertools import product

import numpy as np
import pandas as pd
import pytest
import torch

from mtg_lab import evaluate, gap, predict, read_manifest, train
from mtg_lab.backbones import Latents, build
from mtg_lab.data import Preprocessing, Sampling, cached_dataset
from mtg_lab.errors import InputError
from mtg_lab.evaluation import Protocol, paired_difference, read_scores, save_scores
from mtg_lab.recipes import Recipe
from mtg_lab.surgery import (
    LatentMoments,
    Operated,
    at_centroids,
    dice_change,
    dice_changes,
    interpolated,
    matched,
    modality_moments,
    modality_offsets,
    moved,
    operated,
    refilled,
    translated,
    with_adapters,
    with_gate,
    with_matched_moments,
    with_mean_images,
    without_offsets,
)

MODALITIES = ("t1n", "t1c", "t2w")
# The smallest networks that still have every part.
TINY = {
    "unet": {"width": 4, "latent": 3, "depth": 2},
    "rfnet": {"width": 4, "depth": 2, "guess_width": 4, "hidden": 8},
    "mmformer": {"width": 4, "depth": 2, "tokens": 16, "heads": 2, "mlp": 16, "positions": 3},
    "m2ftrans": {"width": 4, "depth": 2, "layers": 2, "heads": 2, "mlp": 16, "positions": 3, "guess_width": 4},
}
every_backbone = pytest.mark.parametrize("name", TINY)


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


def moments_of(latents):
    """Of all voxels, by numpy."""
    found = []
    for z in latents:
        rows = z.movedim(2, -1).transpose(0, 1).flatten(1, -2).numpy()  # [M, n, C]
        spread = np.stack([np.cov(r.T, bias=True).reshape(2 * r.shape[1:]) for r in rows])
        found.append(LatentMoments(torch.tensor(rows.mean(axis=1)), torch.tensor(spread, dtype=torch.float32)))
    return found


def network(name="unet", seed=0, **options):
    torch.manual_seed(seed)
    return build(name, MODALITIES, 4, TINY[name] | options).eval()


def recipe(cohort, **changes):
    settings = {"preprocessing": Preprocessing(4.0), "sampling": Sampling(24), "steps": 2, "precision": "fp32",
                "backbone_options": TINY["unet"]}  # fmt: skip
    return Recipe(manifest=str(cohort), **{**settings, **changes})


@pytest.fixture(scope="module")
def run(cohort, tmp_path_factory):
    return train(recipe(cohort), tmp_path_factory.mktemp("surgery") / "one")


@pytest.fixture(scope="module")
def other(cohort, tmp_path_factory):
    """From the same start, another way."""
    return train(recipe(cohort, learning_rate=1e-2), tmp_path_factory.mktemp("surgery") / "other")


@pytest.fixture(scope="module")
def moments(run, cohort):
    return modality_moments(run, cohort)


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


@pytest.fixture
def exact(monkeypatch):
    """Latents in float32, whatever the processor multiplies in hardware."""
    monkeypatch.setattr("mtg_lab.latent_moments.precision_context", lambda *_: nullcontext())


def brain_latents(run, part):
    """[M, C, voxels of all brains], encoded without windows."""
    seen = []
    with torch.inference_mode():
        for sample in cached_dataset(part.subjects, run.modalities, run.recipe.preprocessing):
            (z,) = run.backbone().encode(sample["image"][None], sample["present"][None])
            seen.append(z[0][:, :, sample["brain"][0] > 0])
    return torch.cat(seen, dim=2)


def test_measured_moments_are_those_of_the_latents_in_the_brain(run, cohort, exact):
    part = read_manifest(cohort).split("train")
    (found,) = modality_moments(run, part, "train", window=0)
    expected = brain_latents(run, part).numpy()
    np.testing.assert_allclose(found.mean, expected.mean(axis=2), atol=1e-5)
    for covariance, rows in zip(found.covariance, expected, strict=True):
        np.testing.assert_allclose(covariance, np.cov(rows, bias=True), atol=1e-5)
    (offsets,) = modality_offsets(run, part, "train", window=0)
    np.testing.assert_allclose(offsets, expected.mean(axis=2) - expected.mean(axis=(0, 2)), atol=1e-5)


def test_moments_are_measured_on_the_windows_that_scoring_takes(run, cohort, exact):
    (whole,), (windows,), (given,) = (modality_moments(run, cohort, "test", window=w) for w in (0, None, 24))
    assert torch.equal(windows.mean, given.mean)
    assert not torch.allclose(windows.mean, whole.mean, atol=1e-3)


def test_a_modality_that_nobody_has_cannot_be_measured(run, cohort, tmp_path):
    from mtg_lab.manifest import write_manifest

    rows = [
        {"subject": s.name, "split": s.split, "schema": s.schema, "label": str(s.label)}
        | {m: str(p) for m, p in s.images.items() if m != "t1c"}
        for s in read_manifest(cohort).split("val")
    ]
    manifest = write_manifest(rows, run.modalities, tmp_path / "m.csv")
    with pytest.raises(InputError, match="nobody of split val has t1c"):
        modality_moments(run, manifest, "val")


# --- moments ----------------------------------------------------------------------------------------------------------


def test_matched_modalities_have_one_mean_and_one_covariance():
    latents = apart()
    found = moments_of(matched(latents, moments_of(latents), everybody(latents), ridge=0.0))
    for before, after in zip(moments_of(latents), found, strict=True):
        for m in range(3):
            torch.testing.assert_close(after.mean[m], before.mean.mean(dim=0), rtol=0, atol=1e-4)
            torch.testing.assert_close(after.covariance[m], before.covariance.mean(dim=0), rtol=0, atol=1e-4)


def test_matching_modalities_that_match_changes_nothing():
    z = noise(2, 1, 4, 5, 5, 5).expand(-1, 3, -1, -1, -1, -1).contiguous()
    (found,) = matched(Latents([z]), moments_of([z]), everybody([z]))
    torch.testing.assert_close(found, z, rtol=0, atol=1e-5)


def test_a_channel_that_never_varies_is_not_blown_up():
    latents = apart()
    for z in latents:
        z[:, 0, 1] = 7.0
    for z in matched(latents, moments_of(latents), everybody(latents)):
        assert z.isfinite().all()
        assert z.abs().max() < 100


def test_no_matching_is_the_identity_bit_for_bit_and_half_is_half_way():
    latents, present = apart(), everybody(apart())
    none, half, whole = (matched(latents, moments_of(latents), present, amount) for amount in (0.0, 0.5, 1.0))
    assert all(map(torch.equal, none, latents))
    for z, middle, end in zip(latents, half, whole, strict=True):
        torch.testing.assert_close(middle, (z + end) / 2, rtol=0, atol=1e-5)


def test_matching_leaves_what_is_absent_as_it_is():
    latents, present = apart(), torch.tensor([[True, False, True], [False, True, True]])
    clean = matched(latents, moments_of(latents), present)
    poisoned = Latents([z.clone() for z in latents])
    for z in poisoned:
        z[~present] = float("nan")
    for one, two, z in zip(clean, matched(poisoned, moments_of(latents), present), latents, strict=True):
        assert torch.equal(one[present], two[present])
        assert torch.equal(one[~present], z[~present])
        assert two[~present].isnan().all()


# --- what fills a gap -------------------------------------------------------------------------------------------------


def test_centroids_stand_where_a_modality_is_absent_and_nowhere_else():
    latents, present = apart(), torch.tensor([[True, False, True], [True, True, True]])
    for z in latents:
        z[0, 1] = float("nan")
    for z, scale, filled in zip(latents, moments_of(apart()), at_centroids(latents, moments_of(apart()), present)):
        assert torch.equal(filled[present], z[present])
        torch.testing.assert_close(filled[0, 1], scale.mean[1][:, None, None, None].expand_as(filled[0, 1]))


def test_a_dialect_that_is_a_linear_map_of_another_is_translated_exactly():
    """z_1 = B z_0 + b with B symmetric and of the same eigenvectors: then whitened they are one."""
    white = noise(1, 1, 3, 9, 9, 9)
    scale, shift = torch.tensor([2.0, 0.5, 3.0]), torch.tensor([1.0, -4.0, 2.0])
    (found,) = moments_of([white])
    root = LatentMoments(found.mean, found.covariance).root(-0.5, 0.0)[0]
    white = torch.einsum("cd,bmdxyz->bmcxyz", root, white - found.mean[0][:, None, None, None])
    second = white * scale[:, None, None, None] + shift[:, None, None, None]
    latents = Latents([torch.cat([white, second, noise(1, 1, 3, 9, 9, 9, seed=5)], dim=1)])
    moments, present = moments_of(latents), torch.tensor([[True, False, False]])
    hidden = Latents([latents[0].clone()])
    hidden[0][:, 1:] = float("nan")
    (filled,) = translated(hidden, moments, present, torch.tensor([[1.0, 0.0, 0.0]]))
    torch.testing.assert_close(filled[:, 1], latents[0][:, 1], rtol=0, atol=0.02)
    assert torch.equal(filled[:, 0], latents[0][:, 0])
    after = moments_of([filled])[0]
    torch.testing.assert_close(after.covariance[2], moments[0].covariance[2], rtol=0, atol=0.02)


@every_backbone
@pytest.mark.parametrize("fill", ["zeros", "anchor"])
def test_the_swapped_anchor_is_the_one_that_a_network_of_that_kind_has(name, fill, tmp_path):
    """Weights of a network built with the other fill: swapping makes the two agree."""
    built, swapped = (network(name, fill=f) for f in (fill, {"zeros": "anchor", "anchor": "zeros"}[fill]))
    change = refilled(stub(tmp_path), "zeros" if fill == "zeros" else "uniform").change
    images, present = noise(1, 3, 8, 8, 8), torch.tensor([[True, False, True]])
    with torch.inference_mode():
        expected, before = built(images, present).logits, swapped(images, present).logits
        torch.testing.assert_close(change(swapped)(images, present).logits, expected, rtol=0, atol=1e-6)
    assert not torch.allclose(before, expected, atol=1e-3)


def stub(folder):
    """A run whose network is never asked for."""
    from mtg_lab import vocabulary
    from mtg_lab.runs import Run

    return Run(folder, Recipe(), "hash", MODALITIES, vocabulary.schema("brats2023"))


def test_one_modality_as_the_anchor_and_the_others_where_it_is_absent_too(tmp_path):
    net = refilled(stub(tmp_path), "modality:t2w").change(network())
    masks = torch.tensor([[True, False, True], [True, True, False], [False, True, False]])
    weights = net.mixture.weights(masks)
    assert weights.tolist() == [[0, 0, 1], [0.5, 0.5, 0], [0, 1, 0]]
    z = noise(1, 3, 3, 4, 4, 4)
    assert torch.equal(net.mixture.fill_absent([z], masks[:1])[0][:, 1], z[:, 2])


@pytest.mark.parametrize(
    ("fill", "told"),
    [("mean", "cannot be filled with 'mean'; choose zeros, learned, uniform, centroid, translated, modality:t1n"),
     ("modality:pet", "cannot be filled with 'modality:pet'"), ("centroid", "needs the moments")],
)  # fmt: skip
def test_a_fill_that_cannot_be_is_told_what_can(fill, told, tmp_path):
    with pytest.raises(InputError, match=told):
        refilled(stub(tmp_path), fill)


def test_a_gap_is_filled_once(tmp_path):
    with pytest.raises(InputError, match="absent latents filled: zeros: they can be filled once"):
        refilled(refilled(stub(tmp_path), "zeros"), "uniform")


# --- the contract -----------------------------------------------------------------------------------------------------


def operations(folder, name):
    """Every kind of operation on a network of this name, with moments of its own latents."""
    images, everyone = noise(2, 3, 8, 8, 8), torch.ones(2, 3, dtype=torch.bool)
    with torch.inference_mode():
        moments = moments_of(network(name).encode(images, everyone))
    run = stub(folder)
    return [
        without_offsets(run, moments, 0.7), with_matched_moments(run, moments), refilled(run, "centroid", moments),
        refilled(run, "translated", moments), refilled(run, "uniform"), refilled(run, "zeros"),
    ]  # fmt: skip


@every_backbone
def test_an_operated_network_keeps_the_promises_of_every_network(name, tmp_path):
    images, everyone = noise(1, 3, 8, 8, 8), torch.ones(1, 3, dtype=torch.bool)
    masks = torch.tensor(list(product([False, True], repeat=3))[1:])
    for operation in operations(tmp_path, name):
        net = operation.change(network(name)).double()
        with torch.inference_mode():
            latents = net.encode(images.double(), everyone)
            each = torch.cat([p.logits for p in net.decode_each(latents, masks, 2)])
            for mask, answer in zip(masks, each, strict=True):
                poisoned = images.double().masked_fill(~mask[None, :, None, None, None], float("nan"))
                found = net(poisoned, mask[None]).logits
                assert found.isfinite().all(), operation.done
                torch.testing.assert_close(answer[None], found, rtol=0, atol=1e-4)
                hidden = Latents([z.masked_fill(~mask.reshape(1, 3, 1, 1, 1, 1), float("nan")) for z in latents])
                torch.testing.assert_close(net.decode(hidden, mask[None]).logits, found, rtol=0, atol=1e-4)
        partly = torch.tensor([[True, False, True]])
        assert not any(z[:, 1].any() for z in net.encode(images.double(), partly)), "an absent latent is zero"


# --- weights between two runs ----------------------------------------------------------------------------------------


def test_interpolation_ends_at_the_two_networks(run, other):
    for share, end in ((0.0, run), (1.0, other)):
        found, expected = (r.backbone().state_dict() for r in (interpolated(run, other, share), end))
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[k], w) for k, w in expected.items())


@pytest.mark.parametrize("share", [-0.25, 0.5, 1.25])
def test_between_and_beyond_weights_lie_on_the_line(run, other, share):
    ours, theirs, found = (r.backbone().state_dict() for r in (run, other, interpolated(run, other, share)))
    assert any(not torch.equal(ours[k], theirs[k]) for k in ours)
    for k, w in found.items():
        torch.testing.assert_close(w, (1 - share) * ours[k] + share * theirs[k], rtol=0, atol=1e-5)


def test_networks_of_two_architectures_are_not_interpolated(run, cohort, tmp_path):
    wide = train(recipe(cohort, steps=1, backbone_options=TINY["unet"] | {"width": 8}), tmp_path / "wide")
    with pytest.raises(InputError, match=r"weights of one \(unet width=4, .* and wide \(unet width=8") as refusal:
        interpolated(run, wide, 0.5)
    assert "\n" not in str(refusal.value)


def test_a_network_without_latents_has_nothing_to_operate_on(cohort, moments, tmp_path):
    options = {"backbone": "segresnet", "backbone_options": {"init_filters": 8, "blocks_down": [1], "blocks_up": []}}
    plain = train(recipe(cohort, steps=1, **options), tmp_path / "plain")
    with pytest.raises(InputError, match="surgery needs latents"):
        without_offsets(plain, moments).backbone()


# --- the gate ---------------------------------------------------------------------------------------------------------


class Shut(torch.nn.Module):
    """A presence head that sees no tumour."""

    def forward(self, features):
        return torch.full((len(features), 3), -5.0)


@pytest.mark.parametrize("options", [
    {"backbone": "adamm", "backbone_options": {"width": 4, "adapter_width": 4, "nodes": 2}},
    {"backbone_options": TINY["unet"] | {"gate": "hard"}},
])  # fmt: skip
def test_a_gate_is_opened_and_shut_after_training(cohort, tmp_path, monkeypatch, options):
    gated = train(recipe(cohort, steps=1, **options), tmp_path / "gated")
    backbone = gated.backbone
    monkeypatch.setattr(type(gated), "backbone", lambda self, device="cpu": shut(backbone()))
    errors = [evaluate(with_gate(gated, g), cohort, metrics=["absolute_volume_error_ml"]) for g in ("hard", "off")]
    nothing = evaluate(gated, cohort, metrics=["sensitivity"], empty="nan")
    assert not nothing["value"].any(), "the gate of the recipe is hard"
    assert not errors[0]["value"].equals(errors[1]["value"])
    assert with_gate(gated, "soft").operations == ("gate soft",)


def shut(network):
    network.presence = Shut()
    return network


def test_the_mean_of_what_is_there_stands_in_for_what_is_not(run, cohort):
    filled = with_mean_images(run)
    images, present = noise(1, 4, 8, 8, 8), torch.tensor([[True, False, True, False]])
    mean = images[:, [0, 2]].mean(dim=1)
    with torch.inference_mode():
        found = filled.backbone()(images, present).logits
        images[:, 1] = images[:, 3] = mean
        torch.testing.assert_close(found, run.backbone()(images, torch.ones_like(present)).logits)
    everything = {"subsets": ["t1n+t1c+t2w+t2f"]}
    scores, before = (evaluate(r, cohort, **everything)["value"] for r in (filled, run))
    np.testing.assert_allclose(scores, before, atol=5e-3)  # by another way through the network, rounded to bf16
    assert filled.operations == ("absent images: mean of the others",)


def test_a_network_that_does_not_tell_has_no_gate(run):
    with pytest.raises(InputError, match=r"does not tell which classes there are; train it with --set backbone\.gate"):
        with_gate(run, "hard")
    with pytest.raises(InputError, match="gate is 'ajar'"):
        with_gate(run, "ajar")


@pytest.fixture(scope="module")
def adamm(cohort, tmp_path_factory):
    options = {"backbone": "adamm", "backbone_options": {"width": 4, "adapter_width": 4, "nodes": 2}}
    return train(recipe(cohort, steps=1, **options), tmp_path_factory.mktemp("adamm") / "run")


def test_exchanged_adapters_are_those_of_a_subset_as_large(adamm):
    images = noise(1, 4, 16, 16, 16)
    own, other = adamm.backbone(), with_adapters(adamm, "exchanged").backbone()
    masks = torch.tensor([[bool(k >> m & 1) for m in range(4)] for k in range(1, 16)])
    before, after = own.bank.rows(masks), other.bank.rows(masks)
    assert (before[:-1] != after[:-1]).all()
    assert sorted(before.tolist()) == sorted(after.tolist()), "every set is used by somebody"
    sizes = masks.sum(dim=1)
    owner = {int(row): int(size) for row, size in zip(before, sizes, strict=True)}
    assert [owner[int(row)] for row in after] == sizes.tolist()
    with torch.inference_mode():
        everything = masks[-1:]
        torch.testing.assert_close(own(images, everything).logits, other(images, everything).logits)
        assert not torch.allclose(own(images, masks[:1]).logits, other(images, masks[:1]).logits)


def test_without_adapters_a_subset_goes_the_way_of_everything(adamm):
    off, plain = with_adapters(adamm, "off").backbone(), adamm.backbone()
    plain.bank = None
    images, present = noise(1, 4, 16, 16, 16), torch.tensor([[True, False, False, True]])
    with torch.inference_mode():
        torch.testing.assert_close(off(images, present).logits, plain(images, present).logits)
    assert with_adapters(adamm, "off").operations == ("adapters off",)


def test_adapters_are_exchanged_where_there_are_some(run, adamm):
    with pytest.raises(InputError, match="has no adapters; train one on the backbone adamm"):
        with_adapters(run, "off")
    with pytest.raises(InputError, match="adapters can be exchanged or off, not 'mine'"):
        with_adapters(adamm, "mine")


# --- what it did to the scores ---------------------------------------------------------------------------------------


def scored(extra):
    """Made-up scores of four subjects and three modalities; ``extra`` is added, by number of modalities."""
    rows = [
        {"subject": f"P{p}", "site": "a", "subset": subset, "modalities": n, "region": region, "metric": "dice",
         "value": 0.1 * n + 0.01 * p + extra.get(n, 0.0), "protocol": "p"}
        for p in range(4) for subset, n in (("a", 1), ("b", 1), ("a+b", 2), ("a+b+c", 3)) for region in ("WT", "ET")
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_a_change_is_told_by_number_of_missing_modalities():
    found = dice_change({"better": scored({1: 0.2}), "worse": scored({3: -0.1})}, scored({}))
    by = found.set_index(["operation", "missing"])["difference"].to_dict()
    assert by["better", 2] == pytest.approx(0.2)
    assert by["better", 0] == by["better", 1] == 0
    assert by["worse", 0] == pytest.approx(-0.1)
    assert by["worse", 2] == 0
    # As paired_difference has it: a number of modalities counts as often as the others, however many subsets it has.
    assert by["better", "all"] == pytest.approx(0.2 / 3)
    same = found.query("operation == 'better' and missing == 2").iloc[0]
    assert same["low"] == pytest.approx(0.2)
    assert same["high"] == pytest.approx(0.2)


def test_each_operation_is_compared_with_the_run_that_it_was_done_to():
    after = {"one: better": scored({1: 0.2}), "two: better": scored({1: 0.2})}
    found = dice_changes(after, {"one": scored({}), "two": scored({1: 0.1}), "nothing done": scored({})})
    by = found.set_index(["operation", "missing"])["difference"]
    assert by["one: better", 2] == pytest.approx(0.2)
    assert by["two: better", 2] == pytest.approx(0.1)
    assert set(found["operation"]) == set(after)


# --- a run that was operated on is a run ------------------------------------------------------------------------------


def test_scores_name_what_was_done_and_can_be_compared_with_those_before(run, cohort, moments, tmp_path):
    subsets = ["t1c", "t1n+t1c+t2w+t2f"]
    before = evaluate(run, cohort, subsets=subsets)
    twice = refilled(without_offsets(run, moments, 0.5), "uniform")
    after = evaluate(twice, cohort, subsets=subsets)
    done = ("0.5 of the centroids' offsets removed", "absent latents filled: uniform")
    assert twice.operations == done
    assert Protocol(**after.attrs["protocol"]).operations == done
    assert f"after training: {'; '.join(done)}" in str(Protocol(**after.attrs["protocol"]))
    assert "after training" not in str(Protocol(**before.attrs["protocol"]))
    assert read_scores(save_scores(after, tmp_path / "scores.csv")).attrs["protocol"]["operations"] == done
    found = paired_difference({0: after}, {0: before})
    assert found.attrs["protocol"]["operations"] == done
    assert np.isfinite(found["difference"]).all()


def test_an_operation_that_does_nothing_scores_the_same(run, cohort, moments):
    before = evaluate(run, cohort)
    assert evaluate(without_offsets(run, moments, 0.0), cohort)["value"].equals(before["value"])
    assert evaluate(refilled(run, "zeros"), cohort)["value"].equals(before["value"])


def test_the_gap_is_measured_of_the_operated_latents(run, cohort, exact):
    part = read_manifest(cohort).split("test")
    moments = modality_moments(run, part, "test", window=0)
    numbers = []
    for changed in (run, without_offsets(run, moments), with_matched_moments(run, moments)):
        (found,) = modality_moments(changed, part, "test", window=0)
        numbers.append(float(found.offsets.norm()))
        assert gap.latents(changed, part, "test", 5).shape == gap.latents(run, part, "test", 5).shape
    assert numbers[0] > 0.1
    assert max(numbers[1:]) < 1e-4


def test_a_patient_is_segmented_by_the_operated_network(run, other, cohort):
    subject = read_manifest(cohort).split("test").subjects[0]
    images = {"t1c": subject.images["t1c"], "t2f": subject.images["t2f"]}
    ours, theirs, ended = (predict(r, **images) for r in (run, other, interpolated(run, other, 1.0)))
    np.testing.assert_array_equal(np.asarray(ended.dataobj), np.asarray(theirs.dataobj))
    assert (np.asarray(ours.dataobj) != np.asarray(theirs.dataobj)).any()


def test_what_was_measured_of_the_run_is_not_said_of_the_operated_one(run, cohort, moments, monkeypatch):
    from mtg_lab.patients import segment

    monkeypatch.setattr("mtg_lab.patients.reliability.load", lambda _: pytest.fail("this is of another network"))
    subject = read_manifest(cohort).split("test").subjects[0]
    report = segment(without_offsets(run, moments), t1c=subject.images["t1c"]).report
    assert report["operations"] == ["1 of the centroids' offsets removed"]
    assert report["run"] == run.digest


def test_a_change_of_ones_own_is_an_operation(run, cohort):
    """Latents of another brain half: whatever is done, the wrapper keeps the contract."""
    flipped = operated(run, "latents flipped", lambda net: Operated(net, lambda z, _: Latents([x.flip(3) for x in z])))
    assert flipped.operations == ("latents flipped",)
    image, everyone = noise(1, 4, 8, 8, 8), torch.ones(1, 4, dtype=torch.bool)
    with torch.inference_mode():
        (z,), (again,) = (r.backbone().encode(image, everyone) for r in (run, flipped))
    assert torch.equal(again, z.flip(3))
