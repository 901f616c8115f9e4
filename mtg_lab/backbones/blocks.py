"""What RFNet, mmFormer and M2FTrans have in common: convolution block, encoder, way up, decoder of one modality.

Sizes follow the input: a stage of stride 2 turns n voxels into ceil(n / 2), and the way up enlarges to the grid of the
features that it meets, so that no crop size is written anywhere.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

from monai.networks.blocks.mlp import MLPBlock
from torch import Tensor, nn
from torch.nn import functional

from mtg_lab.backbones.contract import Latents, Mixture, Prediction, check_images, encode_each
from mtg_lab.backbones.layout import InstanceNorm, PointConv, side_by_side

Block = Callable[..., nn.Module]  # (channels in, channels out, kernel=3, stride=1)


def conv_block(channels_in: int, channels_out: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    """Convolution (reflected border), instance norm without weights, LeakyReLU 0.2: RFNet's and M2FTrans' block.

    The norm takes the convolution's bias away again; it is kept because the released networks count it.
    """
    return nn.Sequential(_conv(channels_in, channels_out, kernel, stride), *_norm_and_act(channels_out))


def conv_block_norm_first(channels_in: int, channels_out: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    """The same three in mmFormer's order: norm, LeakyReLU, convolution."""
    return nn.Sequential(*_norm_and_act(channels_in), _conv(channels_in, channels_out, kernel, stride))


def bottleneck(channels_in: int, inside: int, channels_out: int, block: Block = conv_block) -> nn.Sequential:
    """1x1x1 to ``inside`` channels, 3x3x3, 1x1x1 to ``channels_out``: how all three join modalities."""
    return nn.Sequential(block(channels_in, inside, 1), block(inside, inside), block(inside, channels_out, 1))


class ConvEncoder(nn.Module):
    """Stages of one entering convolution (stride 2 from the second stage on) and a residual pair.

    Args:
        widths: channels of the stages, fine to coarse.
        block: which convolution block.
        stem: the first convolution, if it is not a block.
    """

    def __init__(self, widths: Sequence[int], block: Block = conv_block, stem: nn.Module | None = None):
        super().__init__()
        downs = (block(a, b, stride=2) for a, b in pairwise(widths))
        self.enter = nn.ModuleList([stem or block(1, widths[0]), *downs])
        self.refine = nn.ModuleList(nn.Sequential(block(w, w), block(w, w)) for w in widths)

    def forward(self, image: Tensor) -> list[Tensor]:
        """[B, 1, D, H, W] to [B, C_s, d_s, h_s, w_s] for every stage."""
        x, scales = image, []
        for enter, refine in zip(self.enter, self.refine, strict=True):
            x = enter(x)
            x = x + refine(x)
            scales.append(x)
        return scales


class Enlarge(nn.Module):
    """To a finer grid with fewer channels: [B, coarse, ...] to [B, fine, *size]."""

    def __init__(self, coarse: int, fine: int, block: Block = conv_block):
        super().__init__()
        self.reduce = block(coarse, fine)

    def forward(self, x: Tensor, size: Sequence[int]) -> Tensor:
        """Trilinear, then convolved."""
        return self.reduce(functional.interpolate(x, tuple(size), mode="trilinear", align_corners=True))


class Merge(nn.Module):
    """Two maps [B, C, ...] to one: the features of a scale and what came from the coarser one."""

    def __init__(self, width: int, block: Block = conv_block):
        super().__init__()
        self.join = nn.Sequential(block(2 * width, width), block(width, width, 1))

    def forward(self, skip: Tensor, enlarged: Tensor) -> Tensor:
        """Side by side, then convolved."""
        return self.join(side_by_side(skip, enlarged))


def way_up(widths: Sequence[int], block: Block = conv_block) -> tuple[nn.ModuleList, nn.ModuleList]:
    """:class:`Enlarge` and :class:`Merge` of every scale but the coarsest, fine to coarse."""
    enlarge = nn.ModuleList(Enlarge(coarse, fine, block) for fine, coarse in pairwise(widths))
    return enlarge, nn.ModuleList(Merge(w, block) for w in widths[:-1])


class UniDecoder(nn.Module):
    """A plain U-Net way up over the scales of one modality; its weights serve all modalities."""

    def __init__(self, widths: Sequence[int], classes: int, block: Block = conv_block):
        super().__init__()
        self.enlarge, self.merge = way_up(widths, block)
        self.head = PointConv(widths[0], classes)

    def forward(self, scales: Sequence[Tensor]) -> Prediction:
        """Scales [B, C_s, ...] of one modality, fine to coarse, to its prediction."""
        *finer, x = scales
        for s, skip in reversed(list(enumerate(finer))):
            x = self.merge[s](skip, self.enlarge[s](x, skip.shape[-3:]))
        return Prediction(self.head(x), x)


class TransformerLayer(nn.Module):
    """Pre-norm self-attention and perceptron (Vaswani et al. 2017; queries, keys and values without a bias).

    PyTorch's own layer has these biases. MONAI's holds a norm that nothing uses, needs einops, and with
    ``use_flash_attention`` drops attention weights in eval mode too (1.6).

    Args:
        width: of a token.
        heads: must divide it.
        mlp: hidden width of the perceptron.
        dropout: of attention weights and of both outputs.
    """

    def __init__(self, width: int, heads: int, mlp: int, dropout: float):
        super().__init__()
        if width % heads:
            raise ValueError(f"{heads} heads do not divide tokens of width {width}; choose a divisor")
        self.heads, self.rate = heads, dropout
        self.norm = nn.LayerNorm(width)
        self.project = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Sequential(nn.Linear(width, width), nn.Dropout(dropout))
        self.perceptron = nn.Sequential(nn.LayerNorm(width), MLPBlock(width, mlp, dropout))

    def forward(self, tokens: Tensor) -> Tensor:
        """[..., n, width] to the same; axes before the tokens do not see each other."""
        tokens = tokens + self.out(self.attend(*self.queries_keys_values(tokens)))
        return tokens + self.perceptron(tokens)

    def queries_keys_values(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[..., n, width] to three of [..., heads, n, width / heads]."""
        projected = self.project(self.norm(tokens)).unflatten(-1, (3, self.heads, -1))
        query, key, value = projected.transpose(-4, -2).unbind(-3)  # from [..., heads, 3, n, width / heads]
        return query, key, value

    def attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        """[..., heads, n, d] to [..., n, heads d]; ``mask`` bool, true where a query may look."""
        rate = self.rate if self.training else 0.0
        found = functional.scaled_dot_product_attention(query, key, value, mask, rate)
        return found.transpose(-3, -2).flatten(-2)


def encode_scales(
    encoders: nn.ModuleList, images: Tensor, present: Tensor, modalities: tuple[str, ...], depth: int
) -> Latents:
    """Latents of encoders that halve the grid ``depth`` times; scale s covers the images with ceil(n / 2^s) voxels.

    Images too small for two voxels at the coarsest stage are padded with zeros for the encoders alone.
    """
    check_images(images, present, modalities)
    size = images.shape[-3:]
    latents = encode_each(list(encoders), at_least(images, 2**depth + 1), present)
    return Latents([covering(z, size, 2 ** min(s, depth)) for s, z in enumerate(latents)])


def filled_scales(latents: Latents, present: Tensor, mixture: Mixture, depth: int) -> list[Tensor]:
    """Latents as a decoder takes them: absent ones filled, at least two voxels along each axis of the coarsest."""
    filled = mixture.fill_absent(latents, present)
    return [at_least(z, 2 ** (depth - min(s, depth)) + 1) for s, z in enumerate(filled)]


def uni_prediction(decoder: UniDecoder, latents: Latents, modality: int, depth: int) -> Prediction:
    """What the shared decoder of one modality says, on the grid of the finest latents."""
    scales = [at_least(z[:, modality], 2 ** (depth - s) + 1) for s, z in enumerate(latents[: depth + 1])]
    found, size = decoder(scales), latents[0].shape[-3:]
    return Prediction(covering(found.logits, size, 1), covering(found.features, size, 1))


def at_least(x: Tensor, voxels: int) -> Tensor:
    """Zeros behind the last three axes that are shorter than ``voxels``."""
    return padded_to(x, [max(n, voxels) for n in x.shape[-3:]])


def padded_to(x: Tensor, size: Sequence[int]) -> Tensor:
    """Zeros behind the last three axes up to ``size``; no copy where nothing is missing."""
    padding = [pad for n, wanted in zip(reversed(x.shape[-3:]), reversed(size), strict=True) for pad in (0, wanted - n)]
    return functional.pad(x, padding) if any(padding) else x


def cells(size: Sequence[int], edge: int, least: int = 1) -> list[int]:
    """How many cells of so many voxels cover a grid, ``least`` of them along each axis."""
    return [max(-(-n // edge), least) for n in size]


def whole_cells(x: Tensor, edge: int, least: int = 1) -> Tensor:
    """Zeros behind the last three axes up to a multiple of ``edge``, ``least`` times that at least."""
    return padded_to(x, [n * edge for n in cells(x.shape[-3:], edge, least)])


def covering(x: Tensor, size: Sequence[int], shrink: int) -> Tensor:
    """The part of a map at 1/``shrink`` resolution that covers a grid of ``size``, without padding behind it."""
    d, h, w = cells(size, shrink)
    return x[..., :d, :h, :w]


def resampled(parameter: Tensor, grid: Sequence[int]) -> Tensor:
    """A learned map [N, C, g, g, g] on another grid (trilinear): positions are shares of the volume, not voxels."""
    if tuple(parameter.shape[-3:]) == tuple(grid):
        return parameter
    return functional.interpolate(parameter, tuple(grid), mode="trilinear", align_corners=False)


def start_convolutions(network: nn.Module) -> None:
    """Normal weights by fan-in (He et al. 2015), as in all three releases."""
    for module in network.modules():
        if isinstance(module, nn.Conv3d):
            nn.init.kaiming_normal_(module.weight)


def check_sizes(**sizes: int) -> None:
    """Refuse sizes below one.

    Raises:
        ValueError: the first of them.
    """
    for name, value in sizes.items():
        if value < 1:
            raise ValueError(f"{name} is {value}; it must be at least 1")


def _conv(channels_in: int, channels_out: int, kernel: int, stride: int) -> nn.Conv3d:
    if kernel == stride == 1:
        return PointConv(channels_in, channels_out)
    return nn.Conv3d(channels_in, channels_out, kernel, stride, padding=kernel // 2, padding_mode="reflect")


def _norm_and_act(channels: int) -> tuple[nn.Module, nn.Module]:
    return InstanceNorm(channels), nn.LeakyReLU(0.2, inplace=True)
