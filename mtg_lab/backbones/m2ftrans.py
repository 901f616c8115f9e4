"""M2FTrans: learned fusion tokens that attend to the modalities that are there (Shi, Yu, Cheng, Yan, JBHI 2024)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from mtg_lab.backbones.blocks import (
    ConvEncoder,
    TransformerLayer,
    UniDecoder,
    bottleneck,
    check_sizes,
    conv_block,
    covering,
    encode_scales,
    filled_scales,
    resampled,
    start_convolutions,
    uni_prediction,
    way_up,
)
from mtg_lab.backbones.contract import Latents, Mixture, ModalityBackbone, Prediction
from mtg_lab.backbones.layout import PointConv, as_channels, side_by_side


class M2FTrans(ModalityBackbone):
    """Encoders E_m, a transformer with fusion tokens at the coarsest scale, masked fusion at every scale on the way up.

    ::

        image m -> E_m -> latents [B, M, width 2^s, ...], s = 0 ... depth
        decode:
        tokens of M modalities, learned fusion tokens, + positions -> ``layers`` of masked attention
              |  a modality's token sees its own modality,         |
              |  a fusion token those and all present ones         v
              |                                              fusion map -> auxiliary logits at 1/2^depth
              v                                                    |
        how much the fusion tokens looked at each place of each    |
        modality (first layer, no gradient) x latents of all scales|
              |                                                    v
              |--> the two coarsest scales: channels of the decoder map attend to channels of the present modalities
              `--> finer scales: joined by convolutions -> way up, auxiliary logits at ... 1/2, full -> logits

    Facts from the release within PASSION (base width 8): with the uni-modal decoder, four modalities, four classes and
    an 80^3 crop it has 13.19 M parameters at width 8 and 45.43 M at 16, as this network has but for the mixture's M
    numbers. Otherwise than there: logits instead of probabilities; any crop size, M, K and width; fusion tokens and
    positions are resampled to the grid at hand (``positions`` is the edge of the learned grid: 5 is that of an 80^3
    crop); the rule of who sees whom is written as two attentions, each over what may be seen, instead of one over
    everything with a mask; dropout once, not twice, on what an attention answers. With ``fill`` "anchor" a filled
    latent counts as present in every attention, else nobody would look at the filling.

    Args:
        modalities: names, in channel order.
        classes: K, background included.
        width: channels of the first stage.
        depth: how often the grid is halved.
        layers: of the transformer.
        heads: of its attention; must divide its width, ``width`` 2^``depth``.
        mlp: hidden width of the transformer's perceptrons.
        dropout: in the transformer and after the attention over channels.
        positions: edge of the learned grid of positions and fusion tokens.
        guess_width: channels before auxiliary logits.
        fill: what stands for an absent latent, ``zeros`` or ``anchor``, see :class:`~mtg_lab.backbones.Mixture`.
        learned_mixture: whether the mixture's weights are trained.
        aux_heads: auxiliary logits at full, 1/2, 1/4, ... resolution; None is ``depth`` + 1, as in the release.
        uni_decoder: whether there is a decoder of single modalities, see :meth:`uni_decode`.

    Raises:
        ValueError: an unknown ``fill``, a size below one, ``heads`` that do not divide the width, or more auxiliary
            heads than scales.
    """

    def __init__(
        self,
        modalities: Sequence[str],
        classes: int,
        width: int = 8,
        depth: int = 4,
        layers: int = 3,
        heads: int = 8,
        mlp: int = 4096,
        dropout: float = 0.1,
        positions: int = 5,
        guess_width: int = 16,
        fill: str = "zeros",
        learned_mixture: bool = True,
        aux_heads: int | None = None,
        uni_decoder: bool = False,
    ):
        super().__init__()
        check_sizes(width=width, depth=depth, layers=layers, heads=heads, mlp=mlp, positions=positions)
        check_sizes(guess_width=guess_width)
        supervised = depth + 1 if aux_heads is None else aux_heads
        if not 0 <= supervised <= depth + 1:
            raise ValueError(f"aux_heads is {aux_heads}; with depth {depth} it can be 0 to {depth + 1}")
        self.modalities, self.depth = tuple(modalities), depth
        count = len(self.modalities)
        self.mixture = Mixture(count, learned_mixture, fill)
        widths = [width * 2**s for s in range(depth + 1)]
        coarsest = widths[-1]
        self.encoders = nn.ModuleList(ConvEncoder(widths) for _ in self.modalities)
        self.positions = nn.Parameter(torch.zeros(count + 1, coarsest, positions, positions, positions))
        self.fusion = nn.Parameter(torch.randn(1, coarsest, positions, positions, positions))
        first, *more = [_FusionLayer(coarsest, heads, mlp, dropout) for _ in range(layers)]
        self.first, self.more = first, nn.ModuleList(more)
        self.fuse = nn.ModuleList(
            _ChannelFusion(w, count, dropout) if s >= depth - 1 else _Joined(w, count) for s, w in enumerate(widths)
        )
        self.join = nn.Sequential(conv_block(2 * coarsest, coarsest), conv_block(coarsest, coarsest, 1))
        self.enlarge, self.merge = way_up(widths)
        self.head = PointConv(width, classes)
        self.aux = nn.ModuleList(
            nn.Sequential(conv_block(w, guess_width, 1), PointConv(guess_width, classes)) for w in widths[:supervised]
        )
        self.uni = UniDecoder(widths, classes) if uni_decoder else None
        start_convolutions(self)

    def encode(self, images: Tensor, present: Tensor) -> Latents:
        """``depth`` + 1 scales [B, M, width 2^s, ...], the finest at full resolution; zero where absent."""
        return encode_scales(self.encoders, images, present, self.modalities, self.depth)

    def decode(self, latents: Latents, present: Tensor) -> Prediction:
        """Attend, weigh, and fuse from coarse to fine; auxiliary logits at full, 1/2, ... resolution."""
        scales, seen = filled_scales(latents, present, self.mixture, self.depth), self.mixture.seen(present)
        scales[-1], fusion, looked = self._attended(scales[-1], seen)
        scales = [z * functional.interpolate(looked, z.shape[-3:]).to(z.dtype)[:, :, None] for z in scales]
        maps = [fusion]
        x = self.join(side_by_side(self.fuse[-1](fusion, scales[-1], seen), fusion))
        inner = {"encoder": scales[-1].mean(dim=1), "bottleneck": x}
        for s in reversed(range(self.depth)):
            enlarged = self.enlarge[s](x, scales[s].shape[-3:])
            maps.insert(0, enlarged)
            x = self.merge[s](self.fuse[s](enlarged, scales[s], seen), enlarged)
        size = latents[0].shape[-3:]
        features = covering(x, size, 1)
        aux = tuple(covering(head(maps[s]), size, 2**s) for s, head in enumerate(self.aux))
        return self.told(Prediction(self.head(features), features, aux, inner=inner))

    def _attended(self, z: Tensor, seen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Coarsest latents [B, M, C, d, h, w] and fusion map [B, C, ...] after attention, and who was looked at where.

        The last is [B, M, d, h, w], on average heads / (modalities seen + 1) whatever the grid.
        """
        grid = z.shape[-3:]
        fusion = resampled(self.fusion, grid).expand(len(z), -1, -1, -1, -1)
        everything = torch.cat([z, fusion[:, None].to(z.dtype)], dim=1) + resampled(self.positions, grid)
        tokens = everything.flatten(3).transpose(2, 3)  # [B, M + 1, voxels, C]
        looked = self.first.looked_at(tokens, seen)
        tokens = self.first(tokens, seen)
        for layer in self.more:
            tokens = layer(tokens, seen)
        volumes = tokens.transpose(2, 3).unflatten(3, grid)
        return volumes[:, :-1], volumes[:, -1], looked.unflatten(2, grid)

    def uni_decode(self, latents: Latents, modality: int) -> Prediction:
        """Logits of one modality alone, from all of its scales; needs ``uni_decoder``."""
        if self.uni is None:
            return super().uni_decode(latents, modality)
        return uni_prediction(self.uni, latents, modality, self.depth)


class _FusionLayer(TransformerLayer):
    """Tokens [B, M + 1, n, C], the fusion tokens last: they see the modalities, which see only themselves."""

    def forward(self, tokens: Tensor, seen: Tensor) -> Tensor:  # type: ignore[override]
        query, key, value = self.queries_keys_values(tokens)  # [B, M + 1, heads, n, d]
        alone = self.attend(query[:, :-1], key[:, :-1], value[:, :-1])
        everyone, mask = self._everyone, self._mask(seen, tokens.shape[2])
        fused = self.attend(query[:, -1], everyone(key), everyone(value), mask)
        tokens = tokens + self.out(torch.cat([alone, fused[:, None]], dim=1))
        return tokens + self.perceptron(tokens)

    @torch.no_grad()
    def looked_at(self, tokens: Tensor, seen: Tensor) -> Tensor:
        """How much fusion tokens look at each token of each modality: [B, M, n], summed over heads and queries."""
        query, key, _ = self.queries_keys_values(tokens)
        scores = query[:, -1] @ self._everyone(key).transpose(2, 3) / query.shape[-1] ** 0.5
        weights = scores.masked_fill(~self._mask(seen, tokens.shape[2]), float("-inf")).softmax(dim=3)
        return weights.sum(dim=(1, 2)).unflatten(1, tokens.shape[1:3])[:, :-1]

    @staticmethod
    def _everyone(x: Tensor) -> Tensor:
        """[B, M + 1, heads, n, d] to [B, heads, (M + 1) n, d]."""
        return x.transpose(1, 2).flatten(2, 3)

    @staticmethod
    def _mask(seen: Tensor, voxels: int) -> Tensor:
        """Bool [B, 1, 1, (M + 1) n]: the tokens of present modalities and the fusion tokens."""
        return functional.pad(seen, (0, 1), value=True).repeat_interleave(voxels, dim=1)[:, None, None]


class _Joined(nn.Module):
    """Modalities of a fine scale joined by convolutions; absent ones are zero there."""

    def __init__(self, width: int, modalities: int):
        super().__init__()
        self.join = bottleneck(width * modalities, width, width)

    def forward(self, x: Tensor, z: Tensor, seen: Tensor) -> Tensor:
        """z [B, M, C, ...] to [B, C, ...]; the other two are what a coarse scale needs."""
        return self.join(as_channels(z))


class _ChannelFusion(nn.Module):
    """Two layers in which the decoder's channels attend to the channels of all modalities seen."""

    def __init__(self, width: int, modalities: int, dropout: float):
        super().__init__()
        self.attention = nn.ModuleList(_ChannelAttention(width, modalities, dropout) for _ in range(2))
        self.perceptron = nn.ModuleList(_ChannelPerceptron(width) for _ in range(2))
        self.refine = _ChannelPerceptron(width)  # of the modalities, between the two layers

    def forward(self, x: Tensor, z: Tensor, seen: Tensor) -> Tensor:
        """x [B, C, d, h, w] and z [B, M, C, d, h, w] to [B, C, d, h, w]."""
        x = self.perceptron[0](self.attention[0](x, z, seen))
        z = self.refine(z.flatten(0, 1)).unflatten(0, z.shape[:2])
        return self.perceptron[1](self.attention[1](x, z, seen))


class _ChannelAttention(nn.Module):
    """Attention in which a token is a channel and its features are the voxels."""

    def __init__(self, width: int, modalities: int, dropout: float):
        super().__init__()
        self.query = _depthwise(width, width)
        self.keys = nn.ModuleList(_depthwise(width, width) for _ in range(modalities))
        self.values = nn.ModuleList(_depthwise(width, width) for _ in range(modalities))
        self.out = nn.Sequential(_depthwise(width, width), nn.Dropout(dropout))

    def forward(self, x: Tensor, z: Tensor, seen: Tensor) -> Tensor:
        query = self.query(x).flatten(2)  # [B, C, voxels]
        key, value = (
            torch.cat([project(z[:, m]) for m, project in enumerate(maps)], dim=1).flatten(2)  # [B, M C, voxels]
            for maps in (self.keys, self.values)
        )
        mask = seen.repeat_interleave(x.shape[1], dim=1)[:, None]  # [B, 1, M C]
        found = functional.scaled_dot_product_attention(query, key, value, mask)
        return x + self.out(found.reshape(x.shape))


class _ChannelPerceptron(nn.Module):
    """Inverted bottleneck of four times the channels, with its input added."""

    def __init__(self, width: int):
        super().__init__()
        self.inside = _depthwise(width, 4 * width)

    def forward(self, x: Tensor) -> Tensor:
        return functional.gelu(x + self.inside(x))


def _depthwise(width: int, inside: int) -> nn.Sequential:
    """1x1x1, a 3x3x3 convolution in ``width`` groups, 1x1x1, each with a norm over channels, GELU between them."""
    return nn.Sequential(
        PointConv(width, inside),
        _ChannelNorm(inside, eps=1e-6),
        nn.GELU(),
        nn.Conv3d(inside, inside, kernel_size=3, padding=1, groups=width),
        _ChannelNorm(inside, eps=1e-6),
        nn.GELU(),
        PointConv(inside, width),
        _ChannelNorm(width, eps=1e-6),
    )


class _ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of each voxel."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)
