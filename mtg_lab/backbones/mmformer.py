"""mmFormer (Zhang et al., MICCAI 2022): a transformer within each modality, one across them, at the coarsest scale."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mtg_lab.backbones.blocks import (
    ConvEncoder,
    TransformerLayer,
    UniDecoder,
    bottleneck,
    check_sizes,
    conv_block_norm_first,
    covering,
    encode_scales,
    filled_scales,
    resampled,
    start_convolutions,
    uni_prediction,
    way_up,
)
from mtg_lab.backbones.contract import Latents, Mixture, ModalityBackbone, Prediction
from mtg_lab.backbones.layout import PointConv, as_channels


class MMFormer(ModalityBackbone):
    """Convolutions and a transformer per modality, a transformer over all their tokens, a U-Net way up.

    ::

        image m -> convolutions -> scales 0 ... depth [B, width 2^s, ...] ------------------- latents 0 ... depth
                                          | coarsest: 1x1x1 to ``tokens``, + position, transformer m
                                          `------------------------------------------------- latents depth + 1
        decode:
        tokens of all M modalities + positions -> one transformer -> side by side per voxel -> M C_depth channels
                                          |
                          convolutions to C_depth -> auxiliary logits at 1/2^depth
                                          v
        latents s, joined by convolutions -> U-Net way up, auxiliary logits at ... 1/4, 1/2 -> logits

    Latents: ``depth`` + 1 scales of the convolutions, and at the coarsest grid once more what the intra-modal
    transformer makes of them. The fused decoder does not look at the coarsest of the convolutions itself, the decoder
    of single modalities does not look at the transformer's.

    Facts from the release within PASSION (base width 8): with the uni-modal decoder, four modalities, four classes and
    an 80^3 crop it has 35.60 M parameters at width 8 and 60.24 M at 16, as this network has but for the mixture's M
    numbers. Otherwise than there: logits instead of probabilities; any crop size, M, K and width; positions are
    resampled to the tokens at hand (``positions`` is the edge of the learned grid: 5 is that of an 80^3 crop); after
    the inter-modal transformer the channels of a voxel are the M modalities' tokens of that voxel, where the release
    joins M neighbouring tokens of one modality; the fusion's convolutions reflect the border as all others do, where
    the release has zeros; dropout once, not twice, on what an attention answers. As there: absent modalities are tokens
    of zeros plus their position, and nothing keeps the others from attending to them.

    Args:
        modalities: names, in channel order.
        classes: K, background included.
        width: channels of the first stage.
        depth: how often the grid is halved.
        tokens: width of the transformers.
        heads: of the attention.
        mlp: hidden width of the transformers' perceptrons.
        dropout: in the transformers.
        positions: edge of the learned grid of positions.
        fill: what stands for an absent latent, ``zeros`` or ``anchor``, see :class:`~mtg_lab.backbones.Mixture`.
        learned_mixture: whether the mixture's weights are trained.
        aux_heads: auxiliary logits at 1/2, 1/4, ... resolution; None is ``depth``, as in the release.
        uni_decoder: whether there is a decoder of single modalities, see :meth:`uni_decode`.

    Raises:
        ValueError: an unknown ``fill``, a size below one, ``heads`` that do not divide ``tokens``, or more auxiliary
            heads than scales.
    """

    def __init__(
        self,
        modalities: Sequence[str],
        classes: int,
        width: int = 8,
        depth: int = 4,
        tokens: int = 512,
        heads: int = 8,
        mlp: int = 4096,
        dropout: float = 0.1,
        positions: int = 5,
        fill: str = "zeros",
        learned_mixture: bool = True,
        aux_heads: int | None = None,
        uni_decoder: bool = False,
    ):
        super().__init__()
        check_sizes(width=width, depth=depth, tokens=tokens, heads=heads, mlp=mlp, positions=positions)
        supervised = depth if aux_heads is None else aux_heads
        if not 0 <= supervised <= depth:
            raise ValueError(f"aux_heads is {aux_heads}; with depth {depth} it can be 0 to {depth}")
        self.modalities, self.depth = tuple(modalities), depth
        count, block = len(self.modalities), conv_block_norm_first
        self.mixture = Mixture(count, learned_mixture, fill)
        widths = [width * 2**s for s in range(depth + 1)]
        self.encoders = nn.ModuleList(_Encoder(widths, tokens, heads, mlp, dropout, positions) for _ in self.modalities)
        self.across = TransformerLayer(tokens, heads, mlp, dropout)
        self.untoken = PointConv(tokens * count, widths[-1] * count)
        self.fuse = nn.ModuleList(bottleneck(w * count, w, w, block) for w in widths)
        self.enlarge, self.merge = way_up(widths, block)
        self.head = PointConv(width, classes)
        self.aux = nn.ModuleList(PointConv(w, classes) for w in widths[1 : 1 + supervised])
        self.uni = UniDecoder(widths, classes, block) if uni_decoder else None
        start_convolutions(self)

    def encode(self, images: Tensor, present: Tensor) -> Latents:
        """``depth`` + 1 scales [B, M, width 2^s, ...], and [B, M, tokens, ...] at the grid of the coarsest."""
        return encode_scales(self.encoders, images, present, self.modalities, self.depth)

    def decode(self, latents: Latents, present: Tensor) -> Prediction:
        """Attend across modalities, then a U-Net way up; auxiliary logits at 1/2, 1/4, ... resolution."""
        *scales, intra = filled_scales(latents, present, self.mixture, self.depth)
        x = self.fuse[-1](self.untoken(self._attended(intra)))
        maps, inner = [x], {"encoder": scales[-1].mean(dim=1), "bottleneck": x}
        for s in reversed(range(self.depth)):
            enlarged = self.enlarge[s](x, scales[s].shape[-3:])
            x = self.merge[s](self.fuse[s](as_channels(scales[s])), enlarged)
            maps.insert(0, x)
        size = latents[0].shape[-3:]
        features = covering(x, size, 1)
        aux = tuple(head(covering(maps[s], size, 2**s)) for s, head in enumerate(self.aux, start=1))
        return self.told(Prediction(self.head(features), features, aux, inner=inner))

    def _attended(self, intra: Tensor) -> Tensor:
        """[B, M, T, d, h, w] to [B, M T, d, h, w] after attention over all tokens of all modalities."""
        grid = intra.shape[-3:]
        positions = torch.cat([resampled(e.get_parameter("positions"), grid) for e in self.encoders])  # [M, T, d, h, w]
        tokens = (intra + positions).flatten(3).transpose(2, 3)  # [B, M, voxels, T]
        attended = self.across(tokens.flatten(1, 2)).unflatten(1, tokens.shape[1:3])
        return attended.transpose(2, 3).flatten(1, 2).unflatten(2, grid)

    def uni_decode(self, latents: Latents, modality: int) -> Prediction:
        """Logits of one modality alone, from the scales of its convolutions; needs ``uni_decoder``."""
        if self.uni is None:
            return super().uni_decode(latents, modality)
        return uni_prediction(self.uni, latents, modality, self.depth)


class _Encoder(nn.Module):
    """Convolutions of one modality, and a transformer on the tokens of the coarsest scale."""

    def __init__(self, widths: Sequence[int], tokens: int, heads: int, mlp: int, dropout: float, positions: int):
        super().__init__()
        stem = nn.Conv3d(1, widths[0], kernel_size=3, padding=1, padding_mode="reflect")
        self.convolutions = ConvEncoder(widths, conv_block_norm_first, stem)
        self.embed = PointConv(widths[-1], tokens)
        self.positions = nn.Parameter(torch.zeros(1, tokens, positions, positions, positions))
        self.within = TransformerLayer(tokens, heads, mlp, dropout)

    def forward(self, image: Tensor) -> list[Tensor]:
        scales = self.convolutions(image)
        embedded = self.embed(scales[-1])
        grid = embedded.shape[-3:]
        tokens = (embedded + resampled(self.positions, grid)).flatten(2).transpose(1, 2)  # [B, voxels, T]
        return [*scales, self.within(tokens).transpose(1, 2).unflatten(2, grid)]
