"""AdaMM's network (arXiv 2509.15017): one U-Net for all sequences, with a set of adapters for every subset of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from mtg_lab import vocabulary
from mtg_lab.backbones.blocks import cells, check_sizes, covering, whole_cells
from mtg_lab.backbones.contract import Backbone, Prediction, check_images, mask_latents
from mtg_lab.backbones.graph import GraphRefinement, Nodes
from mtg_lab.backbones.layout import PointConv, channels_last, side_by_side
from mtg_lab.backbones.presence import NORMS, PresenceHead, check_gate, groups_of

_HALVINGS = 3
_MOST_SUBSETS = 6  # modalities, up to which every subset has adapters


class AdaMM(Backbone):
    """Pre-activation residual U-Net (after Myronenko 2018) whose stages are bent by adapters of the subset at hand.

    ::

        images [B, M, D, H, W], absent ones zero -> conv, block -> 1/2, 2 blocks -> 1/4, 2 blocks -> 1/8, 4 blocks
                                                             adapter e0       e1              e2   \\
                 general: c4, and a style s of the ways down without adapters, joined by a convolution
                 own:     e3 beside the fourth block, and a style of the ways down with adapters, joined by its own
                 graph refinement of both (:class:`~mtg_lab.backbones.graph.GraphRefinement`)
                                                                             -> way up with adapters d0, d1, d2

    From the description of the release at f2e1733, which has 7,101,885 parameters for four modalities and classes:
    a set of adapters for the subset without any modality (134,288) and modules that nothing calls (182,406) are left
    out here, so that 6,785,191 remain. Subsets are told sample by sample, not by one mask a batch. A sample that has
    everything, or a subset without adapters, takes the plain U-Net's way. Grids need not be multiples of eight. Classes
    are joined by a softmax, as everywhere in the lab; the release has a sigmoid a class and leaves background untaught.

    There is no encoder a modality, hence no latents before fusion: the gap is measured on the last features that each
    modality alone leads to, or on any layer.

    Args:
        modalities: names, in channel order.
        classes: K, background included.
        width: channels of the first stage, doubled at each of three halvings; 16 in the release.
        adapter_width: channels inside an adapter; 64 in the release, whatever the stage.
        dropout: of the adapters' outputs and of the joined bottleneck.
        nodes: of each of the two graphs.
        adapters: without them (and ``graph``) a plain U-Net is left.
        graph: without it the decoder gets the sum of both bottlenecks.
        adjacency, node_layout: of the graph refinement, see there; ``ignored`` and ``reshaped`` are the release's.
        norm: of graph refinement and presence head, ``group``, ``instance``, ``batch`` (the release's) or ``none``.
        presence_norm: of the presence head alone, empty for the same; see there what a norm hides from it.
        gate: what inference does with the presence of classes, ``hard``, ``soft`` or ``off``.
        subsets: names of those that have adapters, such as ``t1c+t2f``; none for all, which more than six modalities
            have too many of.

    Raises:
        ValueError: an option out of range, graph without adapters, or too many subsets.
    """

    stride = 2**_HALVINGS  # voxels of the images a voxel of the bottleneck

    def __init__(
        self,
        modalities: Sequence[str],
        classes: int,
        width: int = 16,
        adapter_width: int = 64,
        dropout: float = 0.2,
        nodes: int = 8,
        adapters: bool = True,
        graph: bool = True,
        adjacency: str = "masked",
        node_layout: str = "transposed",
        norm: str = "group",
        presence_norm: str = "",
        gate: str = "hard",
        subsets: Sequence[str] = (),
    ):
        super().__init__()
        check_sizes(width=width, adapter_width=adapter_width)
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout is {dropout}; it is a share from 0 to below 1")
        check_gate(gate)
        if presence_norm not in ("", *NORMS):
            raise ValueError(f"presence_norm is {presence_norm!r}; it can be {', '.join(NORMS)}, or empty for norm")
        if graph and not adapters:
            raise ValueError("graph=true needs adapters=true: the graph joins their features to the general ones")
        self.modalities, self.gate = tuple(modalities), gate
        w = [width * 2**s for s in range(_HALVINGS + 1)]
        self.enter = nn.Sequential(nn.Conv3d(len(self.modalities), w[0], 3, padding=1), _Residual(w[0]))
        self.down = nn.ModuleList(nn.Conv3d(a, b, 3, stride=2, padding=1) for a, b in pairwise(w))
        self.refine = nn.ModuleList(
            nn.Sequential(*(_Residual(c) for _ in range(n))) for c, n in zip(w[1:], (2, 2, 3), strict=True)
        )
        self.last = _Residual(w[3])
        self.style = PointConv(w[2] + 2 * w[3], w[3])
        self.fuse = PointConv(2 * w[3], w[3])
        self.drop = nn.Dropout(dropout)
        self.narrow = nn.ModuleList(PointConv(b, a) for a, b in pairwise(w))
        self.up = nn.ModuleList(_Residual(c) for c in w[:-1])
        self.head = PointConv(width, classes)
        self.presence: PresenceHead = PresenceHead(width, classes, presence_norm or norm)
        self.bank = AdapterBank(_keys(self.modalities, subsets), w, adapter_width, dropout) if adapters else None
        self.graph = GraphRefinement(w[3], nodes, norm, adjacency, node_layout) if graph else None

    def forward(self, images: Tensor, present: Tensor) -> Prediction:
        """Logits, presence [B, K - 1], and maps [B, C, d, h, w] of the bottleneck: encoder, style, content, bottleneck.

        ``encoder`` is the last way down without adapter, ``content`` the last block, ``bottleneck`` enters the decoder.
        """
        size = images.shape[-3:]
        skips, found = self._way_down(images, present)
        bank, rows = found.bank, found.rows
        bottleneck = found.general
        if bank and found.own is not None:
            refined = self.graph(found.general, found.own) if self.graph else found.general + found.own
            bottleneck = _where(rows, refined, found.general)
        x = bottleneck
        for s in reversed(range(_HALVINGS)):
            x = functional.interpolate(self.narrow[s](x), skips[s].shape[-3:])
            if s:
                x = self.up[s](x + skips[s])
            x = bank.bent(x, 2 * _HALVINGS - s, rows) if bank else x
        x = x + skips[0]
        presence = self.presence(covering(x, size, 1))
        features = covering(self.up[0](x), size, 1)
        return Prediction(
            self.head(features), features, presence=presence, inner=found.inner | {"bottleneck": bottleneck}
        )

    def bottleneck_grid(self, size: Sequence[int]) -> list[int]:
        """Voxels along each axis of the bottleneck, blocks of ``stride`` a side, for images of ``size``."""
        return cells(size, self.stride, least=2)

    def graphs(self, images: Tensor, present: Tensor) -> Nodes:
        """The graphs' nodes for images and mask as for :meth:`forward`, on the grid of the bottleneck, for pictures.

        Raises:
            ValueError: there is no graph, or a sample's subset has no adapters.
        """
        found = self._way_down(images, present)[1]
        if self.graph is None or found.own is None or bool((found.rows < 0).any()):
            raise ValueError("no graph is formed: every sample needs a subset that has adapters, and graph=true")
        return self.graph.nodes_of(found.general, found.own)

    def _way_down(self, images: Tensor, present: Tensor) -> tuple[list[Tensor], "_Bottom"]:
        """Maps of the ways down at full, 1/2 and 1/4 resolution, and the bottleneck."""
        check_images(images, present, self.modalities)
        bank, rows = self._adapters(present)
        # Two voxels at the bottleneck, for an instance norm.
        x = whole_cells(mask_latents(images, present), self.stride, least=2)
        skips, ways = [self.enter(channels_last(x))], []
        for s, (down, refine) in enumerate(zip(self.down, self.refine, strict=True)):
            plain = down(skips[-1])
            ways.append((plain, bank.bent(plain, s, rows) if bank else plain))
            skips.append(refine(ways[-1][1]))
        before = skips.pop()
        content = self.last(before)
        style = self.style(_joined(ways[1][0], ways[2][0], content))
        general = self.drop(self.fuse(side_by_side(style, content)))
        own = bank.own(ways[1][1], ways[2][1], before, rows) if bank else None
        return skips, _Bottom(general, own, bank, rows, {"encoder": ways[2][0], "style": style, "content": content})

    def _adapters(self, present: Tensor) -> tuple["AdapterBank | None", Tensor]:
        """The bank if a sample needs it, and its set of adapters for every sample, int64 [B], -1 for none."""
        if self.bank is None:
            return None, present.new_full((len(present),), -1, dtype=torch.int64)
        rows = self.bank.rows(present)
        return (self.bank if bool((rows >= 0).any()) else None), rows


@dataclass(frozen=True)
class _Bottom:
    """General and own bottleneck, the adapters that are in use and each sample's set of them, the maps on the way."""

    general: Tensor
    own: Tensor | None
    bank: "AdapterBank | None"
    rows: Tensor
    inner: dict[str, Tensor]


class AdapterBank(nn.Module):
    """Adapters of many subsets; each sample of a batch goes through those of its own subset.

    A set is: an adapter after each way down (e0, e1, e2) and beside the last block (e3), after each stage of the way up
    (d0, d1, d2), and two convolutions that make its own bottleneck of e1, e2 and e3. An adapter is
    x + dropout(W_up gelu(W_down x)), with PyTorch's usual weights at the start: no identity.
    """

    def __init__(self, keys: Sequence[int], widths: Sequence[int], inside: int, dropout: float):
        super().__init__()
        self.register_buffer("keys", torch.tensor(keys, dtype=torch.int64), persistent=False)
        _, a, b, c = widths
        places = (a, b, c, c, b, a, widths[0])  # e0 e1 e2 e3 d0 d1 d2
        self.narrow = nn.ModuleList(PointBank(len(keys), n, inside) for n in places)
        self.widen = nn.ModuleList(PointBank(len(keys), inside, n) for n in places)
        self.style, self.fuse = PointBank(len(keys), b + 2 * c, c), PointBank(len(keys), 2 * c, c)
        self.drop = nn.Dropout(dropout)

    def rows(self, present: Tensor) -> Tensor:
        """Number of the set for masks bool [B, M], int64 [B]; -1 where there is none."""
        key = (present.long() << torch.arange(present.shape[1], device=present.device)).sum(dim=1)
        found = key[:, None] == self.get_buffer("keys")
        return torch.where(found.any(dim=1), found.long().argmax(dim=1), -1) if found.shape[1] else key * 0 - 1

    def bent(self, x: Tensor, place: int, rows: Tensor) -> Tensor:
        """A map [B, C, ...] after the adapter of ``place``; unchanged for samples without a set."""
        sets = rows.clamp_min(0)
        inside = functional.gelu(self.narrow[place](x, sets))
        return _where(rows, x + self.drop(self.widen[place](inside, sets)), x)

    def own(self, second: Tensor, third: Tensor, before: Tensor, rows: Tensor) -> Tensor:
        """The subset's own bottleneck from the adapted second and third way down and the map before the last block."""
        sets, content = rows.clamp_min(0), self.bent(before, 3, rows)
        style = self.style(_joined(second, third, content), sets)
        return self.drop(self.fuse(side_by_side(style, content), sets))


class PointBank(nn.Module):
    """Convolutions of single voxels, one for each of S sets, of which every sample uses one."""

    def __init__(self, sets: int, channels_in: int, channels_out: int):
        super().__init__()
        bound = channels_in**-0.5  # as nn.Conv3d starts
        self.weight = nn.Parameter(torch.empty(sets, channels_out, channels_in).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(sets, channels_out).uniform_(-bound, bound))

    def forward(self, x: Tensor, sets: Tensor) -> Tensor:
        """[B, C_in, D, H, W] and sets int64 [B] to [B, C_out, D, H, W], channels-last."""
        flat = x.movedim(1, -1).flatten(1, 3)
        weight, bias = (p[sets].to(flat.dtype) for p in (self.weight, self.bias))
        found = torch.baddbmm(bias[:, None], flat, weight.transpose(1, 2))
        return found.unflatten(1, x.shape[2:]).movedim(-1, 1)


class _Residual(nn.Module):
    """x + conv(relu(norm(conv(relu(norm(x)))))), group norms."""

    def __init__(self, channels: int):
        super().__init__()
        parts: list[nn.Module] = []
        for _ in range(2):
            norm = nn.GroupNorm(groups_of(channels), channels)
            parts += [norm, nn.ReLU(inplace=True), nn.Conv3d(channels, channels, 3, padding=1)]
        self.branch = nn.Sequential(*parts)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, D, H, W] to the same."""
        return x + self.branch(x)


def _joined(fine: Tensor, *coarse: Tensor) -> Tensor:
    return side_by_side(functional.max_pool3d(fine, 2), *coarse)


def _where(rows: Tensor, changed: Tensor, plain: Tensor) -> Tensor:
    """``changed`` for samples that have a set of adapters, else ``plain``."""
    if bool((rows >= 0).all()):
        return changed
    return torch.where((rows >= 0)[:, None, None, None, None], changed, plain)


def _keys(modalities: tuple[str, ...], subsets: Sequence[str]) -> list[int]:
    """Sums of 2^m over the members of every subset that has adapters."""
    count = len(modalities)
    if subsets:
        members = [vocabulary.parse_subset(name, modalities) for name in subsets]
        return sorted({sum(1 << m for m, name in enumerate(modalities) if name in chosen) for chosen in members})
    if count > _MOST_SUBSETS:
        raise ValueError(
            f"{2**count - 2} subsets of {count} modalities would each have adapters; name those you want, subsets=[...]"
        )
    return list(range(1, 2**count - 1))
