"""AdaMM looked into: how far each subset's adapters bend the features, and which voxels its graphs' nodes stand for."""

import numpy as np
import pandas as pd
import seaborn as sns
import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional

from mtg_lab.backbones import AdaMM, Backbone
from mtg_lab.backbones.blocks import covering
from mtg_lab.errors import InputError
from mtg_lab.figure_notes import titled
from mtg_lab.vocabulary import subset_name, subsets

# Of the adapters of one set, in the order in which a map meets them but for the fourth, which stands beside a block.
PLACES = ("down 1/2", "down 1/4", "down 1/8", "bottleneck", "up 1/4", "up 1/2", "up 1/1")


def as_adamm(network: Backbone) -> AdaMM:
    """The same network, if it is AdaMM's.

    Raises:
        InputError: it is another one.
    """
    if not isinstance(network, AdaMM):
        raise InputError(f"this is a {type(network).__name__}; give a run on the backbone adamm")
    return network


@torch.inference_mode()
def adapter_strength(network: AdaMM, images: Tensor) -> pd.DataFrame:
    """Length of what each adapter adds, as a share of the length of what it is added to.

    Args:
        network: in eval mode, with adapters.
        images: [1, M, D, H, W] of a subject who has everything.

    Returns:
        One row a subset that has adapters, one column a place.

    Raises:
        InputError: the network has no adapters.
    """
    if network.bank is None:
        raise InputError("this network has no adapters (backbone.adapters=false)")
    bank, met = network.bank, dict[int, list[float]]()

    def note(place: int, values: Tensor) -> None:
        met.setdefault(place, []).append(float(values.float().norm()))

    handles = []
    for place, (narrow, widen) in enumerate(zip(bank.narrow, bank.widen, strict=True)):
        handles.append(narrow.register_forward_pre_hook(lambda _, given, place=place: note(place, given[0])))
        handles.append(widen.register_forward_hook(lambda _, given, answer, place=place: note(place, answer)))
    rows = {}
    try:
        for subset in subsets(network.modalities):
            present = torch.tensor([[m in subset for m in network.modalities]], device=images.device)
            met.clear()
            network(images, present)
            if met:
                rows[subset_name(subset, network.modalities)] = [met[p][1] / met[p][0] for p in range(len(PLACES))]
    finally:
        for handle in handles:
            handle.remove()
    return pd.DataFrame.from_dict(rows, orient="index", columns=list(PLACES)).rename_axis("subset")


def adapter_map(strength: pd.DataFrame, title: str = "") -> Figure:
    """The table of :func:`adapter_strength` in colours, its numbers written in."""
    figure = Figure(figsize=(8, 0.6 + 0.32 * len(strength)), layout="constrained")
    axes = figure.subplots()
    sns.heatmap(strength, annot=True, fmt=".2f", cmap="cividis", vmin=0, ax=axes, cbar=False, annot_kws={"size": 8})
    axes.set(xlabel="", ylabel="")
    axes.tick_params(axis="x", labelrotation=0)
    titled(figure, title or "What each subset's adapters add, as a share of the map they add it to")
    return figure


@torch.inference_mode()
def node_maps(network: AdaMM, images: Tensor, present: Tensor) -> dict[str, np.ndarray]:
    """How much of each voxel belongs to each node, on the grid of the images.

    Args:
        network: in eval mode, with a graph.
        images: [1, M, D, H, W].
        present: bool [1, M], a subset that has adapters.

    Returns:
        ``general`` and ``own``, each [K, D, H, W]; the K maps sum to one. Blocks of eight voxels a side are one voxel
        of the bottleneck.

    Raises:
        ValueError: there is no graph, or the subset has no adapters.
    """
    found = network.graphs(images, present)
    size = images.shape[-3:]
    grid = network.bottleneck_grid(size)
    maps = {}
    for name, shares in (("general", found.general), ("own", found.own)):
        enlarged = functional.interpolate(shares.unflatten(2, grid).float(), scale_factor=network.stride)
        maps[name] = covering(enlarged, size, 1)[0].cpu().numpy()
    return maps
