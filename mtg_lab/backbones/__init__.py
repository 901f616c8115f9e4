"""Networks that can miss a modality; each is one file behind the contract."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mtg_lab.backbones.adamm import AdaMM
from mtg_lab.backbones.contract import Backbone, Latents, Mixture, ModalityBackbone, Prediction, map_sizes, with_latents
from mtg_lab.backbones.imputation import FeatureGeneration, SampleRetrieval, Synthesis
from mtg_lab.backbones.layout import with_fast_convolutions
from mtg_lab.backbones.m2ftrans import M2FTrans
from mtg_lab.backbones.mmformer import MMFormer
from mtg_lab.backbones.outside import NnUNet, segresnet, wrapped
from mtg_lab.backbones.presence import PresenceHead, check_gate
from mtg_lab.backbones.rfnet import RFNet
from mtg_lab.backbones.unet import UNet
from mtg_lab.errors import InputError

# What builds a network from modalities, number of classes and options.
BACKBONES: dict[str, Callable[..., Backbone]] = {
    "unet": UNet,
    "rfnet": RFNet,
    "mmformer": MMFormer,
    "m2ftrans": M2FTrans,
    "adamm": AdaMM,
    "nnunet": NnUNet,
    "segresnet": segresnet,
    "synthesis": Synthesis,
    "feature_generation": FeatureGeneration,
    "sample_retrieval": SampleRetrieval,
}

__all__ = [
    "BACKBONES",
    "AdaMM",
    "Backbone",
    "FeatureGeneration",
    "Latents",
    "M2FTrans",
    "MMFormer",
    "Mixture",
    "ModalityBackbone",
    "NnUNet",
    "Prediction",
    "RFNet",
    "SampleRetrieval",
    "Synthesis",
    "UNet",
    "build",
    "map_sizes",
    "with_latents",
    "with_presence",
    "wrapped",
]


def build(name: str, modalities: Sequence[str], classes: int, options: Mapping[str, Any]) -> Backbone:
    """The backbone called ``name`` with its options.

    One option all of them take: ``gate`` (``hard``, ``soft`` or ``off``) adds a head that tells which classes the
    images show, and says what inference does with the answer, see :mod:`mtg_lab.backbones.presence`. AdaMM has it.

    Raises:
        InputError: an unknown name, or an option that it does not take.
    """
    if name not in BACKBONES:
        raise InputError(f"unknown backbone {name!r}; there are: {', '.join(BACKBONES)}")
    try:
        own = {k: v for k, v in options.items() if k != "gate" or name == "adamm"}
        network = BACKBONES[name](modalities, classes, **own)
        network = network if len(own) == len(options) else with_presence(network, options["gate"])
        with_fast_convolutions(network)
        return network
    except (TypeError, ValueError, RuntimeError, ArithmeticError) as error:
        raise InputError(
            f"backbone {name}: {str(error).splitlines()[0]}; mend its options (--set backbone.NAME=VALUE)"
        ) from error


def with_presence(network: Backbone, gate: str) -> Backbone:
    """The same network with a head for the presence of classes on its last features, and a gate.

    Raises:
        InputError: an unknown gate.
    """
    check_gate(gate)
    sizes = map_sizes(network)
    network.presence, network.gate = PresenceHead(sizes["features"], sizes["logits"]), gate
    return network
