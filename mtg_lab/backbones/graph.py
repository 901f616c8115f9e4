"""AdaMM's graph-guided refinement (GARM): two maps of the bottleneck meet as graphs of a few nodes each.

AdaMM (arXiv 2509.15017), from the description of its release at f2e1733 and what is known of the paper. Shapes: B
samples, C channels, N voxels, K nodes a graph.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from mtg_lab.backbones.layout import PointConv
from mtg_lab.backbones.presence import small_norm

ADJACENCIES = ("masked", "ignored")
LAYOUTS = ("transposed", "reshaped")


class GraphRefinement(nn.Module):
    """General features, refined by what the subset's own features say, through two graphs of K nodes.

    1. Every map is projected onto K learned anchors a_k with widths s_k: voxel i belongs to node k with
       p_ki = softmax_k(-|(f_i - a_k) / s_k|^2 / 2), and node k is the mean of (f_i - a_k) / s_k under p_ki, of unit
       length; all nodes together have unit length too.
    2. Both graphs are propagated along E = Z_general^T Z_own with one shared matrix: Z <- softmax(E) Z^T W.
    3. Attention within each graph, then within the union of both, with one set of weights. Nodes whose cosine exceeds
       ``threshold`` are neighbours.
    4. The union's general half goes back to the voxels along the joined assignments, P* = R_own P_own + R_general
       P_general with R a softmax over the 2 K rows of both, and is added to both maps.

    Args:
        channels: C.
        nodes: K.
        norm: see :func:`~mtg_lab.backbones.presence.small_norm`.
        adjacency: ``masked``, a node looks at its neighbours and itself, as the paper's figure has it; ``ignored``, at
            all nodes: the release computes neighbours and does not use them.
        layout: ``transposed``, nodes as columns; ``reshaped``, as the release reads the memory of [K, C] as [C, K],
            which mixes channels of different nodes.
        threshold: tau, 0.8 in the release.

    Raises:
        ValueError: an unknown ``adjacency``, ``layout`` or ``norm``, or no node.
    """

    def __init__(
        self,
        channels: int,
        nodes: int = 8,
        norm: str = "group",
        adjacency: str = "masked",
        layout: str = "transposed",
        threshold: float = 0.8,
    ):
        super().__init__()
        for name, value, known in (("adjacency", adjacency, ADJACENCIES), ("node_layout", layout, LAYOUTS)):
            if value not in known:
                raise ValueError(f"{name} is {value!r}; it can be {' or '.join(known)}")
        if nodes < 1:
            raise ValueError(f"nodes is {nodes}; it must be at least 1")
        self.nodes, self.adjacency, self.layout, self.threshold = nodes, adjacency, layout, threshold
        self.project_general = NodeProjection(channels, nodes)
        self.project_own = NodeProjection(channels, nodes)
        self.embed_own = nn.Sequential(
            nn.Conv1d(channels, channels, 1, bias=False), small_norm(norm, channels, dimensions=1), nn.ReLU()
        )
        bound = 1 / math.sqrt(channels)
        self.propagate = nn.Parameter(torch.empty(channels, channels).uniform_(-bound, bound))
        self.query, self.mix = nn.Linear(channels, channels), nn.Linear(channels, channels)
        self.from_nodes = _pointwise(channels, norm)
        self.join = _pointwise(channels, norm)
        self.out = PointConv(channels, channels)

    def forward(self, general: Tensor, own: Tensor) -> Tensor:
        """Maps [B, C, d, h, w], general and of the subset's adapters, to the refined map of the same shape."""
        back = self.nodes_of(general, own).refined
        refined = self.from_nodes(back.unflatten(2, general.shape[2:]).to(general.dtype))
        return self.out(self.join(general + refined + own))

    def nodes_of(self, general: Tensor, own: Tensor) -> "Nodes":
        """The graphs on the way, at least in float32: distances of bf16 would tell nodes badly apart.

        Args:
            general, own: as for :meth:`forward`.
        """
        with torch.autocast(general.device.type, enabled=False):
            exact = torch.promote_types(general.dtype, torch.float32)
            return self._nodes(general.to(exact), own.to(exact))

    def _nodes(self, general: Tensor, own: Tensor) -> "Nodes":
        p_general, z_general = self.project_general(general.flatten(2), self.layout)
        p_own, z_own = self.project_own(own.flatten(2), self.layout)
        z_own = self.embed_own(z_own)
        along = torch.bmm(z_general.transpose(1, 2), z_own).softmax(dim=2)  # [B, K, K]
        z_general, z_own = (along @ (z.transpose(1, 2) @ self.propagate) for z in (z_general, z_own))  # [B, K, C]
        neighbours = self._neighbours(torch.cat([z_own, z_general], dim=1))
        k = self.nodes
        z_own = self._attend(z_own, neighbours[:, :k, :k])
        z_general = self._attend(z_general, neighbours[:, k:, k:])
        union = self._attend(torch.cat([z_own, z_general], dim=1), neighbours)[:, k:]
        shares = torch.cat([p_own, p_general], dim=1)  # [B, 2 K, N]
        joined = (shares.softmax(dim=1) * shares).unflatten(1, (2, k)).sum(dim=1)
        return Nodes(p_general, p_own, neighbours, torch.bmm(union.transpose(1, 2), joined))

    def _neighbours(self, z: Tensor) -> Tensor:
        """Bool [B, n, n]: whom a node looks at; itself always."""
        if self.adjacency == "ignored":
            return torch.ones(len(z), z.shape[1], z.shape[1], dtype=torch.bool, device=z.device)
        directions = functional.normalize(z, dim=2)
        near = torch.bmm(directions, directions.transpose(1, 2)) > self.threshold
        return near | torch.eye(z.shape[1], dtype=torch.bool, device=z.device)

    def _attend(self, z: Tensor, neighbours: Tensor) -> Tensor:
        """Nodes [B, n, C]; queries, keys and values are one projection, scores divided by sqrt(n): the release's."""
        q = self.query(z)
        scores = torch.bmm(q, q.transpose(1, 2)) / math.sqrt(z.shape[1])
        return self.mix(torch.bmm(scores.masked_fill(~neighbours, float("-inf")).softmax(dim=2), q))


@dataclass(frozen=True)
class Nodes:
    """What :meth:`GraphRefinement.nodes_of` finds.

    Attributes:
        general, own: assignments of voxels to nodes, [B, K, N], summing to one over the nodes.
        neighbours: bool [B, 2 K, 2 K], the own graph's nodes first.
        refined: what goes back to the voxels, [B, C, N].
    """

    general: Tensor
    own: Tensor
    neighbours: Tensor
    refined: Tensor


class NodeProjection(nn.Module):
    """Soft assignment of voxels to K learned anchors, and the nodes that result."""

    def __init__(self, channels: int, nodes: int):
        super().__init__()
        self.anchors = nn.Parameter(torch.rand(nodes, channels))
        self.widths = nn.Parameter(torch.rand(nodes, channels))  # sigmoid of these

    def forward(self, f: Tensor, layout: str = "transposed") -> tuple[Tensor, Tensor]:
        """f [B, C, N] to assignments [B, K, N] and nodes [B, C, K]."""
        inverse = 1 / self.widths.sigmoid()
        # |(f - a) / s|^2 by its three parts: [B, K, C, N] is never formed.
        squares = inverse.square()
        distance = (
            torch.einsum("kc,bcn->bkn", squares, f.square())
            - 2 * torch.einsum("kc,bcn->bkn", squares * self.anchors, f)
            + (squares * self.anchors.square()).sum(dim=1)[:, None]
        )
        share = (-0.5 * distance).softmax(dim=1)
        weight = share.sum(dim=2, keepdim=True)
        means = (torch.bmm(share, f.transpose(1, 2)) - weight * self.anchors) * inverse / (weight + 1e-9)
        nodes = functional.normalize(functional.normalize(means, dim=2).flatten(1), dim=1)
        shape = (f.shape[1], len(self.anchors))
        if layout == "reshaped":
            return share, nodes.unflatten(1, shape)
        return share, nodes.unflatten(1, shape[::-1]).transpose(1, 2)


def _pointwise(channels: int, norm: str) -> nn.Sequential:
    return nn.Sequential(PointConv(channels, channels, bias=False), small_norm(norm, channels), nn.ReLU())
