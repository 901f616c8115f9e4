"""Scanners that are drawn: whatever their times, they show what each sequence is there for."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mtg_lab.phantom.scanners import at_field, dosed, draw_scanner
from mtg_lab.phantom.signal import TISSUES, Body, shortened


def _signals(sequence, tissues=TISSUES):
    return {name: float(sequence.signal(t.t1_ms, t.t2_ms, t.density)) for name, t in tissues.items()}


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10**9))
def test_any_scanner_shows_what_radiology_says(seed):
    rng = np.random.default_rng(seed)
    scanner, tesla = draw_scanner(rng)
    tissues = at_field(Body.draw(np.random.default_rng(0)), tesla).tissues
    t1, t2, flair = (_signals(scanner.sequences[name], tissues) for name in ("t1n", "t2w", "t2f"))
    assert t1["wm"] > t1["gm"] > t1["csf"]
    assert t2["csf"] > t2["oedema"] > t2["gm"] > t2["wm"]
    assert flair["oedema"] > flair["gm"] > 1.5 * flair["csf"]


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10**9))
def test_enhancing_tumour_is_brighter_after_contrast_by_any_scanner(seed):
    rng = np.random.default_rng(seed)
    scanner, tesla = draw_scanner(rng)
    body = dosed(at_field(Body.draw(rng), tesla), rng)
    tumour, sequence = body.tissues["enhancing"], scanner.sequences["t1c"]
    t1, t2 = shortened(tumour.t1_ms, tumour.t2_ms, body.uptake * tumour.gadolinium_mm)
    before = float(sequence.signal(tumour.t1_ms, tumour.t2_ms, tumour.density))
    assert float(sequence.signal(t1, t2, tumour.density)) > 1.15 * before


def test_t1_grows_with_the_third_root_of_the_field_but_that_of_water():
    body = Body.draw(np.random.default_rng(0))
    low = at_field(body, 1.5)
    for name, tissue in body.tissues.items():
        factor = 1.0 if name == "csf" else 0.5 ** (1 / 3)
        assert low.tissues[name].t1_ms == pytest.approx(factor * tissue.t1_ms)
        assert low.tissues[name].t2_ms == tissue.t2_ms
    assert at_field(body, 3.0).tissues["wm"].t1_ms == body.tissues["wm"].t1_ms


def test_kinds_and_slices_vary():
    drawn = [draw_scanner(np.random.default_rng(seed))[0] for seed in range(60)]
    assert {s.sequences["t1n"].kind for s in drawn} == {
        "spoiled_gradient_echo", "inversion_recovery", "spin_echo"
    }  # fmt: skip
    thickness = np.array([s.sequences["t2f"].thickness_mm for s in drawn])
    assert thickness.min() < 1.6
    assert thickness.max() > 5
    assert {s.sequences["t2w"].slice_axis for s in drawn} == {0, 1, 2}
