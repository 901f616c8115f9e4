"""Networks from elsewhere behind the contract: what is absent is zero, and there are no latents."""

from collections.abc import Sequence
from typing import Any

from monai.networks.nets.segresnet import SegResNet
from torch import Tensor, nn

from mtg_lab.backbones.blocks import covering, padded_to
from mtg_lab.backbones.contract import Backbone, Prediction, check_images, mask_latents
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
        padded = padded_to(mask_latents(images, present), [-(-n // self.multiple) * self.multiple for n in size])
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
