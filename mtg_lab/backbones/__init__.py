"""Networks that can miss a modality; each is one file behind the contract."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mtg_lab.backbones.contract import Backbone, Latents, Mixture, ModalityBackbone, Prediction, with_latents
from mtg_lab.backbones.m2ftrans import M2FTrans
from mtg_lab.backbones.mmformer import MMFormer
from mtg_lab.backbones.outside import segresnet, wrapped
from mtg_lab.backbones.rfnet import RFNet
from mtg_lab.backbones.unet import UNet
from mtg_lab.errors import InputError

# What builds a network from modalities, number of classes and options.
BACKBONES: dict[str, Callable[..., Backbone]] = {
    "unet": UNet,
    "rfnet": RFNet,
    "mmformer": MMFormer,
    "m2ftrans": M2FTrans,
    "segresnet": segresnet,
}

__all__ = [
    "BACKBONES",
    "Backbone",
    "Latents",
    "M2FTrans",
    "MMFormer",
    "Mixture",
    "ModalityBackbone",
    "Prediction",
    "RFNet",
    "UNet",
    "build",
    "with_latents",
    "wrapped",
]


def build(name: str, modalities: Sequence[str], classes: int, options: Mapping[str, Any]) -> Backbone:
    """The backbone called ``name`` with its options.

    Raises:
        InputError: an unknown name, or an option that it does not take.
    """
    if name not in BACKBONES:
        raise InputError(f"unknown backbone {name!r}; there are: {', '.join(BACKBONES)}")
    try:
        return BACKBONES[name](modalities, classes, **options)
    except (TypeError, ValueError, RuntimeError, ArithmeticError) as error:
        raise InputError(
            f"backbone {name}: {str(error).splitlines()[0]}; mend its options (--set backbone.NAME=VALUE)"
        ) from error
