"""AdaMM looked into: adapters by subset, nodes as maps, what passes between teacher and student, which classes it sees.

Presence and the gate are looked at on any network that has a head for them.
"""

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
import seaborn as sns
import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional

from mtg_lab.backbones import AdaMM, Backbone
from mtg_lab.backbones.blocks import covering
from mtg_lab.cases import Case
from mtg_lab.errors import InputError
from mtg_lab.figure_notes import titled
from mtg_lab.inference import window_places
from mtg_lab.methods.presence import presence_target
from mtg_lab.palette import COLOURS, OUTLINES
from mtg_lab.slices import fullest_slice, mark_sides
from mtg_lab.vocabulary import parse_subset, subset_name, subsets

# Of the adapters of one set, in the order in which a map meets them but for the fourth, which stands beside a block.
PLACES = ("down 1/2", "down 1/4", "down 1/8", "bottleneck", "up 1/4", "up 1/2", "up 1/1")
# Terms between teacher and student, and what they are worth where a critic cannot tell the two apart.
_COURSE = {"presence": None, "voxel": None, "content": None, "style": None, "adversary": math.log(2),
           "critic": 2 * math.log(2)}  # fmt: skip


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


def node_panels(maps: Mapping[str, np.ndarray], brain: np.ndarray, label: np.ndarray, title: str = "") -> Figure:
    """The slice with most lesion of every node's map, all on the scale from 0 to 1, the lesion outlined.

    Above each panel: the node's share of the brain, and of the lesion.

    Args:
        maps: of :func:`node_maps`.
        brain: bool [D, H, W].
        label: class indices [D, H, W].
        title: of the figure.
    """
    count, index, lesion = len(next(iter(maps.values()))), fullest_slice(label), label > 0
    figure = Figure(figsize=(1.35 * count + 0.6, 2.0 * len(maps) + 0.5), layout="constrained")
    grid = figure.subplots(len(maps), count, squeeze=False)
    for row, (name, shares) in zip(grid, maps.items(), strict=True):
        for k, (axes, share) in enumerate(zip(row, shares, strict=True)):
            shown = np.where(brain, share, np.nan)[..., index].T
            picture = axes.imshow(shown, cmap="cividis", vmin=0, vmax=1, origin="lower")
            if lesion[..., index].any():
                axes.contour(lesion[..., index].T, levels=[0.5], colors="white", linewidths=0.8)
            there = f"{share[brain].mean():.0%}" + (f" | {share[lesion].mean():.0%}" if lesion.any() else "")
            axes.set_title(f"{k + 1}: {there}", fontsize=9)
            axes.set(xticks=[], yticks=[])
        row[0].set_ylabel(f"{name} graph", fontsize=9)
        mark_sides(row[0])
    figure.colorbar(picture, ax=grid, shrink=0.7, pad=0.01)
    titled(figure, title or "Which voxels each node stands for: its share of the brain | of the lesion")
    return figure


def guidance_course(history: pd.DataFrame, title: str = "") -> Figure:
    """What passes between teacher and student over training, a panel a term; where a critic cannot tell, a grey line.

    Args:
        history: of a run of the method ``adamm``.
        title: of the figure.

    Raises:
        InputError: the history has none of the terms.
    """
    there = [c for c in _COURSE if c in history]
    if not there:
        raise InputError(f"this history has none of the terms {', '.join(_COURSE)}; give a run of the method adamm")
    columns = min(3, len(there))
    rows = -(-len(there) // columns)
    figure = Figure(figsize=(3.1 * columns, 2.3 * rows + 0.4), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid[len(there) :]:
        axes.set_axis_off()
    for axes, column in zip(grid, there, strict=False):
        if (undecided := _COURSE[column]) is not None:
            axes.axhline(undecided, color="#888888", lw=0.8)
        smooth = history[column].rolling(max(1, len(history) // 20), min_periods=1).mean()
        axes.plot(smooth.index, smooth, color=COLOURS[4], lw=1.5)
        axes.set(title=column, xlabel="step")
        axes.spines[["top", "right"]].set_visible(False)
    titled(figure, title or "What passes between teacher and student (running means over a twentieth)")
    return figure


@torch.inference_mode()
def presence_by_window(
    network: Backbone,
    samples: Iterable[Mapping[str, Tensor]],
    window: int,
    chosen: Sequence[str] | None = None,
) -> pd.DataFrame:
    """What the presence head says of every class in the windows in which a volume is segmented, and what is true.

    Args:
        network: in eval mode, with a head for presence.
        samples: image [M, D, H, W], label and brain [1, D, H, W] of subjects who have everything.
        window: edge in voxels; windows without brain are left out.
        chosen: names of subsets; by default all.

    Returns:
        Columns sample (its number), window (its number), subset, modalities (how many), class (index), probability,
        present (bool).

    Raises:
        InputError: the network has no such head.
    """
    names = network.modalities
    wanted = [parse_subset(s, names) for s in chosen] if chosen is not None else subsets(names)
    masks = torch.tensor([[m in s for m in names] for s in wanted])
    rows = []
    for number, sample in enumerate(samples):
        pads, places = window_places(sample["image"].shape[1:], window)
        image, label, brain = (functional.pad(sample[k], pads) for k in ("image", "label", "brain"))
        for place_number, place in enumerate(p for p in places if (brain[0][p] > 0).any()):
            cut = (slice(None), *place)
            told = network(image[cut].expand(len(masks), -1, -1, -1, -1), masks).presence
            if told is None:
                raise InputError("this network does not tell which classes there are; train it with a gate")
            truth = presence_target(label[cut][None], told.shape[1] + 1)[0]
            for subset, said in zip(wanted, told.float().sigmoid(), strict=True):
                head = (number, place_number, subset_name(subset, names), len(subset))
                rows += [(*head, k + 1, float(q), bool(y)) for k, (q, y) in enumerate(zip(said, truth, strict=True))]
    return pd.DataFrame(rows, columns=["sample", "window", "subset", "modalities", "class", "probability", "present"])


def presence_panels(table: pd.DataFrame, names: Mapping[int, str], title: str = "") -> Figure:
    """How often a window is held to show a class, where it does and where it does not, by number of sequences.

    What the gate closes rightly lies low on the dashed line, what it loses is missing from the solid one.

    Args:
        table: of :func:`presence_by_window`.
        names: class index to its name.
        title: of the figure.
    """
    figure = Figure(figsize=(2.9 * len(names) + 0.4, 3.2), layout="constrained")
    row = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    for axes, (index, name) in zip(row, names.items(), strict=True):
        part = table[table["class"] == index].assign(held=lambda t: t["probability"] > 0.5)
        for number, (there, words) in enumerate(((True, "shows it"), (False, "does not"))):
            shares = part[part["present"] == there].groupby("modalities")["held"].mean()
            axes.plot(shares.index, shares, marker="os"[number], ls=OUTLINES[number], color=COLOURS[(4, 3)[number]],
                      label=f"the window {words}")  # fmt: skip
        axes.set(title=name, xlabel="sequences", ylim=(-0.03, 1.03), xticks=sorted(set(table["modalities"])))
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#e5e5e5")
    row[0].set_ylabel("windows held to show it")
    figure.legend(*row[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    titled(figure, title or "What the presence head says of windows")
    return figure


def gate_effect(cases: Iterable[Case], opened: str, closed: str, voxel_ml: float) -> pd.DataFrame:
    """What the gate takes away, in millilitres: what was wrong, and what was true.

    Args:
        cases: with masks of one network under both names.
        opened, closed: names of its masks with the gate open and at work.
        voxel_ml: volume of a voxel.

    Returns:
        A row a case and class: subject, subset, class (name), reference, drawn (with the gate open), spared (closed,
        and not in the reference), lost (closed, and in the reference).
    """
    rows = []
    for case in cases:
        truth, before, after = (case.masks[n] for n in ("reference", opened, closed))
        for index, name in case.labels.items():
            shut = (before == index) & (after != index)
            right = truth == index
            counts = (right.sum(), (before == index).sum(), (shut & ~right).sum(), (shut & right).sum())
            rows.append((case.subject, case.subset, name, *(voxel_ml * int(n) for n in counts)))
    return pd.DataFrame(rows, columns=["subject", "subset", "class", "reference", "drawn", "spared", "lost"])
