"""Sliders on stored latents: they draw what the table holds, and their numbers are those of the paper's identity."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtg_lab.widgets_latents import alignment_weight, anchor_distances, anchor_weights

MODALITIES = ("t1n", "t1c", "t2w")


def latents(seed=0, voxels=30):
    """Paired points in the plane; the second modality sits elsewhere."""
    rng = np.random.default_rng(seed)
    common = rng.standard_normal((voxels, 2))
    parts = [
        pd.DataFrame(common + offset + 0.1 * rng.standard_normal((voxels, 2)), columns=["x", "y"]).assign(
            subject=[f"P{i % 3}" for i in range(voxels)], voxel=range(voxels), modality=name, tissue="brain"
        )
        for name, offset in zip(MODALITIES, (0.0, 3.0, -1.0), strict=True)
    ]
    return pd.concat(parts, ignore_index=True)


def swept():
    stored = pd.concat([latents(0).assign(weight=0.0), latents(1).assign(weight=0.1)], ignore_index=True)
    facts = pd.DataFrame(
        {"weight": [0.0, 0.1], "relative_gap": [0.8, 0.6], "effective_rank": [4.0, 3.0], "dice": [0.5, 0.47]}
    )
    return stored, facts


def test_an_anchor_that_is_one_modality_is_no_distance_from_it():
    distances = anchor_distances(latents(), [0, 1, 0])
    assert distances[1] == 0
    assert distances[0] == pytest.approx(18, rel=0.1), "3 away in both axes"
    assert distances[2] == pytest.approx(32, rel=0.1)


@given(st.lists(st.floats(0.01, 1), min_size=3, max_size=3), st.lists(st.floats(0.01, 1), min_size=3, max_size=3))
def test_with_its_own_weights_the_weighted_mean_is_the_cheapest_anchor(ours, others):
    """sum w |z - a|^2 = sum w |z - zbar|^2 + |zbar - a|^2 (mind_the_gap.md section 2)."""
    stored = latents()
    w, v = (np.array(x) / sum(x) for x in (ours, others))
    assert w @ anchor_distances(stored, w) <= w @ anchor_distances(stored, v) + 1e-9


def test_the_slider_of_the_alignment_weight_shows_another_teacher_and_says_its_numbers():
    box = alignment_weight(*swept())
    slider, colouring, image, caption = box.children
    before = image.value
    assert "relative gap 0.80, effective rank 4.0, mean Dice over all subsets 0.500" in caption.value
    slider.value = 0.1
    assert "relative gap 0.60" in caption.value
    assert image.value != before
    before = image.value
    colouring.value = "tissue"
    assert image.value != before


def test_a_weight_on_one_modality_alone_is_said():
    box = anchor_weights(latents())
    *sliders, image, caption = box.children
    before = image.value
    for slider, value in zip(sliders, (0, 2, 0), strict=True):
        slider.value = value
    assert "t1c: weight 1.00, 0.00 away" in caption.value
    assert "Cost with these weights: 0.00" in caption.value
    assert image.value != before
    sliders[1].value = 0
    assert "t1c: weight 0.33" in caption.value, "no weight at all means equal weights"


def test_tables_that_do_not_fit_are_refused():
    stored, facts = swept()
    with pytest.raises(ValueError, match="share no weight"):
        alignment_weight(stored, facts.assign(weight=[5.0, 6.0]))
    with pytest.raises(ValueError, match="not paired"):
        anchor_distances(latents().iloc[:-1], [1, 1, 1])
