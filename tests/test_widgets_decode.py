"""Latents to move: another control draws another mask and says so, and another slice needs no new one."""

import pytest
from test_encoded_crop import crop_of, unet
from test_widgets import caption, changes, control, picture
from threshold import MODALITIES

from mtg_lab import widgets_decode
from mtg_lab.encoded_crop import LatentMap, crop_offsets, decode_crop
from mtg_lab.widgets_decode import anchor_decoder, decoded_picture, decoded_words, gap_decoder, subset_decoder


@pytest.fixture(scope="module")
def crop():
    return crop_of(unet())


def test_a_tick_draws_the_mask_of_that_subset(crop):
    box = subset_decoder(crop)
    assert changes(box, "t1c", False)
    expected = decode_crop(crop, ["t1n", "t2w", "t2f"])
    assert caption(box) == decoded_words(crop, expected)
    assert f"WT {expected.dice['WT']:.2f}" in caption(box)
    for name in ("t1n", "t2w", "t2f"):
        control(box, name).value = False
    assert "no mask can be drawn" in caption(box)
    assert picture(box)


def test_another_slice_is_drawn_from_the_same_mask(crop, monkeypatch):
    calls = []
    monkeypatch.setattr(widgets_decode, "decode_crop", lambda *a, **k: calls.append(k) or decode_crop(*a, **k))
    box = subset_decoder(crop)
    before, said = picture(box), caption(box)
    control(box, "axial slice").value += 1
    assert picture(box) != before
    assert caption(box) == said
    assert len(calls) == 1
    control(box, "t1c").value = False
    assert len(calls) == 2


def test_the_weights_of_the_anchor_are_normalised_and_said(crop):
    box = anchor_decoder(crop, ticked=["t1n", "t2f"])
    assert "an anchor stands for t1c, t2w; anchor weights t1n 0.25, t1c 0.25" in caption(box)
    assert changes(box, "weight of t1n", 3.0)
    assert "anchor weights t1n 0.50, t1c 0.17" in caption(box)
    expected = decode_crop(crop, ["t1n", "t2f"], weights=[3, 1, 1, 1])
    assert f"WT {expected.dice['WT']:.2f}, TC {expected.dice['TC']:.2f}" in caption(box)


def test_the_gap_is_closed_by_the_offsets_that_are_given(crop):
    offsets = [2 * o for o in crop_offsets(crop)]
    box = gap_decoder(crop, offsets)
    assert "which changes 0 of" in caption(box)
    assert changes(box, "offset taken away", 0.5)
    plain, moved = decode_crop(crop, MODALITIES), decode_crop(crop, MODALITIES, offsets=offsets, amount=0.5)
    assert f"which changes {(plain.classes != moved.classes).sum()} of" in caption(box)
    assert changes(box, "pulled to the mean", 1.0)
    both = decode_crop(crop, MODALITIES, offsets=offsets, amount=0.5, pull=1.0)
    assert f"which changes {(plain.classes != both.classes).sum()} of" in caption(box)


def test_only_sequences_that_the_patient_has_can_be_ticked():
    box = subset_decoder(crop_of(unet(), present=(True, False, True, True)))
    with pytest.raises(ValueError, match="not enough values"):
        control(box, "t1c")
    assert "from t1n, t2w, t2f, without t1c" in caption(box)


def test_the_static_twin_has_a_panel_for_each_mask_and_one_for_the_latents(crop):
    found = decode_crop(crop, ["t1n", "t2f"], weights=[1, 1, 1, 1])
    figure = decoded_picture(crop, found, LatentMap(crop), "t2f")
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["reference", "from t1n+t2f", "latents of some voxels (PCA)"]
    entries = [text.get_text() for text in figure.axes[2].get_legend().get_texts()]
    assert entries == ["t1n", "t1c (anchor)", "t2w (anchor)", "t2f"]
    assert len(decoded_picture(crop, None).axes) == 1
