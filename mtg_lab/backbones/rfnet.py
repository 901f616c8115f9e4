"""RFNet: fusion region by region, guided by a first guess of the segmentation (Ding, Yu, Yang, ICCV 2021)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mtg_lab.backbones.blocks import (
    ConvEncoder,
    UniDecoder,
    bottleneck,
    check_sizes,
    conv_block,
    covering,
    encode_scales,
    filled_scales,
    start_convolutions,
    uni_prediction,
    way_up,
)
from mtg_lab.backbones.contract import Latents, Mixture, ModalityBackbone, Prediction
from mtg_lab.backbones.layout import PointConv, as_channels, mixed_modalities, side_by_side


class RFNet(ModalityBackbone):
    """Encoders E_m, and at every scale a guess (PRM) of where each class lies and a fusion per guessed region (RFM).

    ::

        image m [B, 1, D, H, W] -> E_m -> latents [B, M, C_s, d_s, h_s, w_s], s = 0 ... depth, C_s = width 2^s
                                             |
        scale s, from coarse to fine:        v
            latents, enlarged decoder map -> PRM -> logits [B, K, ...]  (auxiliary, deep supervision)
                                             |  softmax, no gradient
                                             v
            latents x regions -> K weightings of the modalities -> [B, K C_s, ...] -> convolutions \\
            latents of all modalities ------------------------------------------- -> convolutions / -> C_s
                                             |
            with the enlarged decoder map -> convolutions -> decoder map -> ... -> logits at scale 0

    Facts from the release within PASSION (base width 8): with the uni-modal decoder, four modalities and four classes
    it has 2.38 M parameters at width 8 and 8.98 M at 16, as this network has but for the mixture's M numbers. Otherwise
    than there: logits instead of probabilities; any crop size, M, K and width; the sums over a region are taken before
    the products with the modalities are formed, which needs M times less memory. The release's four stages are a
    ``depth`` of 3. The first guesses are part of the network: it always answers depth + 1 auxiliary maps, at full,
    1/2, 1/4, ... resolution, and trained without them it would be guided by guesses that nobody teaches.

    Args:
        modalities: names, in channel order.
        classes: K, background included.
        width: channels of the first stage, at least two.
        depth: how often the grid is halved.
        guess_width: channels before the logits of a first guess.
        hidden: width of the perceptron that weighs the modalities of a region.
        fill: what stands for an absent latent, ``zeros`` or ``anchor``, see :class:`~mtg_lab.backbones.Mixture`.
        learned_mixture: whether the mixture's weights are trained.
        uni_decoder: whether there is a decoder of single modalities, see :meth:`uni_decode`.

    Raises:
        ValueError: an unknown ``fill``, or a size too small.
    """

    def __init__(
        self,
        modalities: Sequence[str],
        classes: int,
        width: int = 8,
        depth: int = 3,
        guess_width: int = 16,
        hidden: int = 128,
        fill: str = "zeros",
        learned_mixture: bool = True,
        uni_decoder: bool = False,
    ):
        super().__init__()
        if width < 2:
            raise ValueError(f"width is {width}; it must be at least 2, for half of it comes from the regions")
        check_sizes(depth=depth, guess_width=guess_width, hidden=hidden)
        self.modalities, self.depth = tuple(modalities), depth
        count = len(self.modalities)
        self.mixture = Mixture(count, learned_mixture, fill)
        widths = [width * 2**s for s in range(depth + 1)]
        self.encoders = nn.ModuleList(ConvEncoder(widths) for _ in self.modalities)
        self.guess = nn.ModuleList(
            _RegionGuess(w, count, classes, guess_width, with_decoder=s < depth) for s, w in enumerate(widths)
        )
        self.fuse = nn.ModuleList(_RegionFusion(w, count, classes, hidden) for w in widths)
        self.enlarge, self.merge = way_up(widths)
        self.head = PointConv(width, classes)
        self.uni = UniDecoder(widths, classes) if uni_decoder else None
        start_convolutions(self)

    def encode(self, images: Tensor, present: Tensor) -> Latents:
        """``depth`` + 1 scales [B, M, width 2^s, ...], the finest at full resolution; zero where absent."""
        return encode_scales(self.encoders, images, present, self.modalities, self.depth)

    def decode(self, latents: Latents, present: Tensor) -> Prediction:
        """Guess and fuse from coarse to fine; auxiliary logits at full, 1/2, ... 1/2^depth resolution."""
        scales = filled_scales(latents, present, self.mixture, self.depth)
        z = scales[-1]
        guesses = [self.guess[-1](z, None)]
        x = self.fuse[-1](z, guesses[0])
        inner = {"encoder": z.mean(dim=1), "bottleneck": x}
        for s in reversed(range(self.depth)):
            z = scales[s]
            enlarged = self.enlarge[s](x, z.shape[-3:])
            guesses.insert(0, self.guess[s](z, enlarged))
            x = self.merge[s](self.fuse[s](z, guesses[0]), enlarged)
        size = latents[0].shape[-3:]
        features = covering(x, size, 1)
        aux = tuple(covering(guess, size, 2**s) for s, guess in enumerate(guesses))
        return self.told(Prediction(self.head(features), features, aux, inner=inner))

    def uni_decode(self, latents: Latents, modality: int) -> Prediction:
        """Logits of one modality alone, from all of its scales; needs ``uni_decoder``."""
        if self.uni is None:
            return super().uni_decode(latents, modality)
        return uni_prediction(self.uni, latents, modality, self.depth)


class _RegionGuess(nn.Module):
    """Logits of every class from the modalities' latents and, but for the coarsest scale, the decoder's map."""

    def __init__(self, width: int, modalities: int, classes: int, inside: int, with_decoder: bool):
        super().__init__()
        self.embed = bottleneck(width * modalities, max(1, width // 4), width)
        self.head = nn.Sequential(conv_block(width * (2 if with_decoder else 1), inside, 1), PointConv(inside, classes))

    def forward(self, z: Tensor, decoded: Tensor | None) -> Tensor:
        """z [B, M, C, d, h, w] and decoded [B, C, d, h, w] to [B, K, d, h, w]."""
        embedded = self.embed(as_channels(z))
        return self.head(embedded if decoded is None else side_by_side(decoded, embedded))


class _RegionFusion(nn.Module):
    """Modalities are weighted anew in every guessed region; a second path joins them without regions."""

    def __init__(self, width: int, modalities: int, classes: int, hidden: int):
        super().__init__()
        self.weigh = nn.ModuleList(
            nn.Sequential(nn.Linear(modalities * width + 1, hidden), nn.LeakyReLU(0.2), nn.Linear(hidden, modalities))
            for _ in range(classes)
        )
        self.regions = bottleneck(width * classes, width, width // 2)
        self.plain = bottleneck(width * modalities, width, width - width // 2)

    def forward(self, z: Tensor, guess: Tensor) -> Tensor:
        """z [B, M, C, d, h, w] and the guess's logits [B, K, d, h, w] to [B, C, d, h, w]."""
        share = guess.detach().softmax(dim=1)
        size = share.mean(dim=(2, 3, 4)) + 1e-7  # [B, K]
        share = share.to(z.dtype)
        # Mean of every modality's features over a region, weighted by the region's probability.
        means = torch.einsum("bmcdhw,bkdhw->bkmc", z, share) / share[0, 0].numel() / size[..., None, None]
        told = torch.cat([means.flatten(2), size[..., None]], dim=2)  # [B, K, M C + 1]
        weights = torch.stack([weigh(told[:, k]).sigmoid() for k, weigh in enumerate(self.weigh)], dim=1)
        # sum_m w_km (z_m p_k) = p_k sum_m w_km z_m: the products of all modalities and regions are never formed.
        mixed = mixed_modalities(z, weights) * share[:, :, None]
        return side_by_side(self.regions(as_channels(mixed)), self.plain(as_channels(z)))
