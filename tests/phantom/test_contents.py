"""Blood, chalk and cavities: where they are, what is labelled, and what the sequences show of them."""

import numpy as np
import pytest

from mtg_lab import phantom
from mtg_lab.phantom.contents import BLOOD, CHALK, FLUID, Contents
from mtg_lab.phantom.signal import SITES, TISSUES


def _signal(modality, tissue):
    return float(SITES["A"].sequences[modality].signal(tissue.t1_ms, tissue.t2_ms, tissue.density))


def _seed(kind):
    return next(s for s in range(60) if getattr(Contents.draw(s, (kind,)), _FIELD[kind]) is not None)


_FIELD = {"haemorrhage": "blood", "calcification": "chalk", "cavity": "wall"}
_SHARE = {"haemorrhage": "blood", "calcification": "chalk", "cavity": "fluid"}


def test_blood_looks_as_its_age_says():
    white = TISSUES["wm"]
    for stage in ("early", "late"):  # methaemoglobin is bright before contrast agent
        assert _signal("t1n", BLOOD[stage]) > 1.2 * _signal("t1n", white)
    assert _signal("t2w", BLOOD["early"]) < _signal("t2w", white) < _signal("t2w", BLOOD["late"])
    assert _signal("t2w", BLOOD["old"]) < 0.5 * _signal("t2w", white)


def test_chalk_is_dark_and_a_cavity_like_fluid():
    for modality in phantom.MODALITIES:
        assert _signal(modality, CHALK) < 0.6 * _signal(modality, TISSUES["wm"])
    assert _signal("t2w", FLUID) > 2 * _signal("t2w", TISSUES["gm"])
    assert _signal("t2f", FLUID) < 0.5 * _signal("t2f", TISSUES["oedema"])


@pytest.mark.parametrize("kind", ["haemorrhage", "calcification"])
def test_what_a_core_holds_lies_in_the_core_and_changes_no_label(kind):
    for seed in range(60):
        if getattr(Contents.draw(seed, (kind,)), _FIELD[kind]) is None:
            continue
        plain, full = phantom.layers(seed, 4.0), phantom.layers(seed, 4.0, kind)
        held = full[_SHARE[kind]]
        if held.max() > 0.5:
            break
    else:
        pytest.fail(f"nobody of sixty has {kind} in the core")
    assert np.array_equal(plain["label"], full["label"])
    core = plain["solid"] + plain["necrosis"] + plain["enhancing"]
    assert (held <= core + 1e-5).all()
    for name in ("solid", "necrosis", "enhancing", "wm", "oedema"):
        assert (full[name] <= plain[name] + 1e-5).all()


def test_a_cavity_takes_tumour_and_label_away():
    seed = _seed("cavity")
    plain, full = phantom.layers(seed, 4.0), phantom.layers(seed, 4.0, "cavity")
    taken = full["fluid"] > 0.5
    assert taken.sum() * 4.0**3 / 1000 > 1  # ml
    assert (plain["label"][taken] > 0).any()
    assert not full["label"][taken].any()
    assert np.array_equal(plain["label"][~taken], full["label"][~taken])


@pytest.mark.parametrize(("kind", "share"), [("haemorrhage", 0.35), ("calcification", 0.2), ("cavity", 0.5)])
def test_they_are_as_frequent_as_is_said(kind, share):
    there = [getattr(Contents.draw(s, (kind,)), _FIELD[kind]) is not None for s in range(300)]
    assert np.mean(there) == pytest.approx(share, abs=0.08)
    assert Contents.draw(0, ()).tissues == {}
