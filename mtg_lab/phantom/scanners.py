"""Scanners that nobody has met before: every patient's own field strength, sequences, noise and coil.

Three sites teach a network three protocols. Here kind and times of each sequence are drawn from the ranges in clinical
use, so that contrasts vary as they do between hospitals; the equations of the signal are those of `signal`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

import numpy as np

from .signal import MODALITIES, TISSUES, Body, Scanner, Sequence, null_ti_ms

# T1 grows with about the third root of the field (Bottomley et al., Med. Phys. 11:425, 1984); water's own does not.
_EXPONENT = 1 / 3
_REFERENCE_TESLA = 3.0


def draw_scanner(rng: np.random.Generator) -> tuple[Scanner, float]:
    """A scanner and its field strength in tesla (1.5 or 3)."""
    tesla = float(rng.choice([1.5, 3.0]))
    before = _t1_weighted(rng, tesla)
    after = _slices(before, rng) if rng.random() < 0.5 else _t1_weighted(rng, tesla)
    t2 = Sequence("spin_echo", rng.uniform(3500, 7000), rng.uniform(80, 130))
    repeat = float(rng.uniform(6500, 11000))
    inversion = null_ti_ms(TISSUES["csf"].t1_ms, repeat) * float(rng.uniform(0.95, 1.03))
    flair = Sequence("inversion_recovery", repeat, float(rng.uniform(80, 140)), inversion, noise=1.5)
    chosen = (before, after, _slices(t2, rng), _slices(flair, rng))
    noise, bias, gain = np.exp(rng.uniform(np.log([0.02, 0.04, 200]), np.log([0.065, 0.25, 1000])))
    sequences = MappingProxyType(dict(zip(MODALITIES, chosen)))
    return Scanner("drawn", sequences, float(noise), float(bias), float(gain)), tesla


def at_field(body: Body, tesla: float) -> Body:
    """The same patient in another field: T1 (B / 3 T)^(1/3) of all tissues but free fluid."""
    tissues = {
        name: t if name in ("csf", "fluid") else replace(t, t1_ms=t.t1_ms * _longer(tesla))
        for name, t in body.tissues.items()
    }
    return replace(body, tissues=MappingProxyType(tissues))


def dosed(body: Body, rng: np.random.Generator) -> Body:
    """Contrast agent given in another dose and imaged sooner or later: less or more of it in each tissue.

    Seldom much less than usual: what does not brighten would not have been labelled as enhancing.
    """
    # Drawn for the tissues that everybody has, so that blood or chalk in some patients move no other number.
    factors: Mapping[str, float] = {name: float(np.exp(rng.normal(0, 0.1))) for name in TISSUES}
    tissues = {
        name: replace(t, gadolinium_mm=t.gadolinium_mm * factors.get(name, 1.0)) for name, t in body.tissues.items()
    }
    return replace(body, tissues=MappingProxyType(tissues), uptake=body.uptake * float(np.exp(rng.uniform(-0.1, 0.5))))


def _t1_weighted(rng: np.random.Generator, tesla: float) -> Sequence:
    kind = str(rng.choice(["spoiled_gradient_echo", "inversion_recovery", "spin_echo"], p=[0.4, 0.3, 0.3]))
    if kind == "spoiled_gradient_echo":
        repeat = rng.uniform(8, 30)
        # At its Ernst angle a tissue is brightest; well beyond that of white matter the contrast is that of T1.
        ernst = np.rad2deg(np.arccos(np.exp(-repeat / TISSUES["wm"].t1_ms)))
        found = Sequence(kind, repeat, rng.uniform(2.5, 6), flip_deg=rng.uniform(1.7, 2.6) * ernst)
    elif kind == "inversion_recovery":  # magnetisation-prepared: the inversion sets the contrast, echoes are short
        repeat, grey = rng.uniform(1800, 2400), TISSUES["gm"].t1_ms * _longer(tesla)
        # Later than grey matter is null, before white matter has recovered.
        found = Sequence(kind, repeat, rng.uniform(2.5, 4.5), rng.uniform(1.2, 1.4) * null_ti_ms(grey, repeat))
    else:
        found = Sequence(kind, rng.uniform(420, 750), rng.uniform(8, 17))
    return _slices(found, rng)


def _longer(tesla: float) -> float:
    return (tesla / _REFERENCE_TESLA) ** _EXPONENT


def _slices(sequence: Sequence, rng: np.random.Generator) -> Sequence:
    """In three dimensions, or in slices along some axis, mostly from below upwards."""
    if sequence.kind != "spin_echo" and rng.random() < 0.6:
        return replace(sequence, thickness_mm=float(rng.uniform(0.9, 1.6)), slice_axis=0)
    axis = int(rng.choice([2, 1, 0], p=[0.7, 0.15, 0.15]))
    return replace(sequence, thickness_mm=float(rng.uniform(2, 6.5)), slice_axis=axis)
