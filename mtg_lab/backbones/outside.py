"""Networks from elsewhere behind the contract: what is absent is zero, and there are no latents."""

from collections.abc import Sequence
from typing import Any

from monai.networks.nets.dynunet import DynUNet
from monai.networks.nets.segresnet import SegResNet
from torch import Tensor, nn

from mtg_lab.backbones.blocks import check_sizes, covering, whole_cells
from mtg_lab.backbones.contract import Backbone, Prediction, check_images, mask_latents
from mtg_lab.backbones.layout import channels_last
from mtg_lab.errors import InputError


class Wrapped(Backbone):
    """Any network from images [B, M, D, H, W] to logits [B, K, D, H, W]; see :func:`wrapped`."""

    def __init__(self, module: nn.Module, modalities: Sequence[str], multiple: int = 1):
        super().__init__()
        self.module, self.modalities, self.multiple = module, tuple(modalities), multiple

    def forward(self, images: Tensor, present: Tensor) -> Prediction:
        """The module's logits with zeros for absent modalities; nothing but the logits is known as a feature map.

        Raises:
            InputError: the module answers something else than logits on the grid of the images.
        """
        check_images(images, present, self.modalities)
        size = images.shape[-3:]
        padded = whole_cells(mask_latents(images, present), self.multiple)
        logits = self.module(padded)
        if not isinstance(logits, Tensor) or logits.ndim != 5 or logits.shape[2:] != padded.shape[2:]:
            what = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise InputError(
                f"the wrapped {type(self.module).__name__} answered {what} for images {list(padded.shape)}; it must "
                "answer logits [B, K, D, H, W] on the same grid (some networks need 'multiple' for that)"
            )
        logits = covering(logits, size, 1)
        return self.told(Prediction(logits, features=logits))


def wrapped(module: nn.Module, modalities: Sequence[str], multiple: int = 1) -> Wrapped:
    """Any network as a backbone: ``wrapped(MyNet(in_channels=4, out_channels=4), ("t1n", "t1c", "t2w", "t2f"))``.

    Absent modalities are zeros before the network sees them, as is the background of z-scored images. There are no
    latents: methods and measures that need them refuse such a backbone. A recipe names its backbone, so that a run can
    be loaded again; a network of your own gets a name by one line before the recipe is used::

        BACKBONES["mine"] = lambda modalities, classes, **options: wrapped(MyNet(len(modalities), classes), modalities)

    Args:
        module: from images [B, M, D, H, W] to logits [B, K, D, H, W]. Its norms should be within a sample: batch norm
            lets samples see each other.
        modalities: names, in channel order.
        multiple: grids are padded with zeros to multiples of so many voxels, for networks that need them.
    """
    return Wrapped(module, modalities, multiple)


def segresnet(modalities: Sequence[str], classes: int, **options: Any) -> Wrapped:
    """MONAI's SegResNet (Myronenko 2018, arXiv 1810.11654, without its autoencoder) with MONAI's options."""
    network = SegResNet(spatial_dims=3, in_channels=len(modalities), out_channels=classes, **options)
    return wrapped(network, modalities, multiple=2 ** (len(network.blocks_down) - 1))


class NnUNet(Backbone):
    """The network that nnU-Net's rules lead to for crops of this size (Isensee et al. 2021), as MONAI's DynUNet.

    Images side by side, absent ones zero; stages of two convolutions, instance norm, LeakyReLU 0.01, strided
    convolutions down, transposed ones up, auxiliary logits at 1/2, 1/4, ... resolution but for the two coarsest. Of
    nnU-Net it is the network and not the framework: its augmentation, patches and ensembles are not here.

    Args:
        modalities: names, in channel order.
        classes: K, background included.
        width: channels of the first stage, doubled at each halving up to 320; 32 in nnU-Net.
        depth: how often the grid is halved.

    Raises:
        ValueError: a size below one.
    """

    def __init__(self, modalities: Sequence[str], classes: int, width: int = 32, depth: int = 4):
        super().__init__()
        check_sizes(width=width, depth=depth)
        self.modalities, self.depth = tuple(modalities), depth
        strides = [1, *[2] * depth]
        self.network = DynUNet(
            3, len(self.modalities), classes, [3] * (depth + 1), strides, strides[1:],
            filters=[min(width * 2**s, 320) for s in range(depth + 1)],
            norm_name=("instance_any_layout", {"affine": True}),
            deep_supervision=depth > 1, deep_supr_num=max(1, depth - 1),
        )  # fmt: skip

    def forward(self, images: Tensor, present: Tensor) -> Prediction:
        """Logits, and in training auxiliary ones; features are the logits."""
        check_images(images, present, self.modalities)
        size = images.shape[-3:]
        found = self.network(channels_last(whole_cells(mask_latents(images, present), 2**self.depth, least=2)))
        maps = list(found.unbind(dim=1)) if found.ndim == 6 else [found]
        logits = covering(maps[0], size, 1)
        return self.told(Prediction(logits, features=logits, aux=tuple(covering(m, size, 1) for m in maps[1:])))
