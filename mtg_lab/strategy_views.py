"""What stands in for an absent sequence: painted images, guessed latents, latents borrowed from other patients."""

from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor

from mtg_lab.backbones import Backbone
from mtg_lab.backbones.blocks import covering, whole_cells
from mtg_lab.backbones.contract import mask_latents
from mtg_lab.backbones.imputation import FeatureGeneration, SampleRetrieval, Synthesis
from mtg_lab.backbones.layout import as_channels
from mtg_lab.errors import InputError
from mtg_lab.slices import fullest_slice, intensity_window, slice_panels
from mtg_lab.vocabulary import subset_name, subsets


@torch.inference_mode()
def stand_ins(network: Backbone, images: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
    """What would be there, and what stands in for it, of every sequence.

    Args:
        network: in eval mode, of data generation, feature generation or sample retrieval.
        images: [1, M, D, H, W] of a subject who has everything.
        present: bool [1, M], what the network is shown.

    Returns:
        Truth and stand-ins, float32 [M, C, D, H, W]: images (C = 1), or latents.

    Raises:
        InputError: a network that puts nothing in place of what is absent.
    """
    if isinstance(network, Synthesis):
        painted = network(images, present).inner["synthesised"]
        return images[0, :, None].float(), painted[0, :, None].float()
    if isinstance(network, FeatureGeneration | SampleRetrieval):
        latents = network.encode(images, torch.ones_like(present))
        truth = latents[0]
        if isinstance(network, FeatureGeneration):
            found = network.decode(latents, present).inner["generated"]
        else:
            seen = whole_cells(as_channels(mask_latents(truth, present)), 2)
            found = covering(network.borrowed(seen, present), truth.shape[-3:], 1).unflatten(1, truth.shape[1:3])
        return truth[0].float(), found[0].float()
    raise InputError(
        f"a {type(network).__name__} puts nothing in place of what is absent; give a run on the backbone synthesis, "
        "feature_generation or sample_retrieval"
    )


def stand_in_errors(
    network: Backbone, samples: Iterable[Mapping[str, Tensor]], names: Mapping[int, str], given: Sequence[int] = ()
) -> pd.DataFrame:
    """Squared error of what stands in for each sequence, in units of its variance over the brain.

    0 is the truth; the mean over the brain, put everywhere, has 1 in the brain as a whole. In a region that differs
    from the rest, as enhancing tumour does in t1c, that mean is further off: ``of_mean``.

    Args:
        network: as for :func:`stand_ins`.
        samples: image [M, D, H, W], label and brain [1, D, H, W] of subjects who have everything.
        names: class index to its name.
        given: how many other sequences are shown, each number; by default one, and all others.

    Returns:
        Columns sample (its number), modality (the absent one), given (names of those shown), count (how many), where
        (``brain`` or a class), error, of_mean.
    """
    modalities = network.modalities
    counts = given or sorted({1, len(modalities) - 1})
    rows = []
    for number, sample in enumerate(samples):
        label, brain = sample["label"][0], sample["brain"][0] > 0
        places = {"brain": brain, **{name: there for k, name in names.items() if (there := label == k).any()}}
        for shown in (s for s in subsets(modalities)[:-1] if len(s) in counts):
            truth, found = stand_ins(network, sample["image"][None], _mask(shown, modalities))
            words = subset_name(shown, modalities)
            for m in (m for m, name in enumerate(modalities) if name not in shown):
                inside = truth[m][:, brain]
                mean, variance = inside.mean(dim=1, keepdim=True), inside.var(dim=1).mean().clamp_min(1e-12)
                for where, place in places.items():
                    t, f = truth[m][:, place], found[m][:, place]
                    errors = ((t - x).square().mean() / variance for x in (f, mean))
                    rows.append((number, modalities[m], words, len(shown), where, *map(float, errors)))
    return pd.DataFrame(rows, columns=["sample", "modality", "given", "count", "where", "error", "of_mean"])


def painted_panels(
    network: Backbone, sample: Mapping[str, Tensor], modality: str, names: Mapping[int, str], title: str = ""
) -> Figure:
    """One slice of a sequence as it is, and as it is painted from all others and from each of them.

    Args:
        network: of data generation, in eval mode.
        sample: image [M, D, H, W], label and brain [1, D, H, W] of a subject who has everything.
        modality: that is painted.
        names: class index to its name, outlined.
        title: of the figure.

    Raises:
        InputError: see :func:`stand_ins`; a network that has no such modality.
    """
    modalities = network.modalities
    if modality not in modalities:
        raise InputError(f"no sequence {modality!r} to paint; this network knows {', '.join(modalities)}")
    m, label, brain = modalities.index(modality), sample["label"][0].numpy(), sample["brain"][0].numpy() > 0
    index, volumes = fullest_slice(label), {f"{modality}, true": sample["image"][m].numpy()}
    others = [name for name in modalities if name != modality]
    for shown in ({*others}, *({name} for name in others)):
        painted = stand_ins(network, sample["image"][None], _mask(shown, modalities))[1][m, 0]
        volumes[f"from {subset_name(shown, modalities)}"] = np.where(brain, painted.numpy(), 0)
    slices = {name: volume[..., index] for name, volume in volumes.items()}
    windows = dict.fromkeys(slices, intensity_window(next(iter(volumes.values()))))
    return slice_panels(slices, windows, label[..., index], names, title=title or f"{modality}, true and painted")


def _mask(shown: Collection[str], modalities: Sequence[str]) -> Tensor:
    """Bool [1, M]."""
    return torch.tensor([[m in shown for m in modalities]])
