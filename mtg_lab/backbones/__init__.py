"""Networks that can miss a modality; each is one file behind the contract."""

from collections.abc import Mapping, Sequence
from typing import Any

from mtg_lab.backbones.contract import Backbone, Latents, Mixture, ModalityBackbone, Prediction
from mtg_lab.backbones.unet import UNet
from mtg_lab.errors import InputError

BACKBONES: dict[str, type[ModalityBackbone]] = {"unet": UNet}

__all__ = ["BACKBONES", "Backbone", "Latents", "Mixture", "ModalityBackbone", "Prediction", "UNet", "build"]


def build(name: str, modalities: Sequence[str], classes: int, options: Mapping[str, Any]) -> ModalityBackbone:
    """The backbone called ``name`` with its options.

    Raises:
        InputError: an unknown name, or an option that it does not take.
    """
    if name not in BACKBONES:
        raise InputError(f"unknown backbone {name!r}; there are: {', '.join(BACKBONES)}")
    try:
        return BACKBONES[name](modalities, classes, **options)  # type: ignore[call-arg]
    except (TypeError, ValueError, RuntimeError, ArithmeticError) as error:
        raise InputError(
            f"backbone {name}: {str(error).splitlines()[0]}; mend its options (--set backbone.NAME=VALUE)"
        ) from error
