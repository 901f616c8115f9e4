"""What the pictures of alignment studies show is what their tables hold."""

import itertools

import numpy as np
import pandas as pd
import pytest

from mtg_lab.figures_alignment import anchor_front, loss_by_anchor, weight_sweep


def swept():
    rows = [
        {
            "align_weight": w,
            "seed": s,
            "dice": 0.5 - 0.1 * w + 0.01 * s,
            "relative_gap": 1 / (1 + w),
            "effective_rank": 4,
        }
        for w, s in itertools.product((0.0, 1.0, 0.1), (0, 1))
    ]
    return pd.DataFrame(rows)


def test_lines_are_means_over_seeds_in_the_order_of_the_weights():
    figure = weight_sweep(swept())
    dice, gap, _ = figure.axes
    np.testing.assert_allclose(dice.lines[0].get_ydata(), [0.505, 0.495, 0.405])
    np.testing.assert_allclose(gap.lines[0].get_ydata(), [1, 1 / 1.1, 0.5])
    assert [t.get_text() for t in dice.get_xticklabels()] == ["0", "0.1", "1"]
    assert len(dice.lines) == 3, "the mean and two seeds"


def test_cells_are_means_over_seeds_and_what_is_missing_stays_empty():
    rows = [
        {"align_loss": loss, "anchor": anchor, "seed": s, "dice": 0.1 * place + 0.02 * s, "relative_gap": 0.5}
        for place, (loss, anchor) in enumerate([("mse", "learned"), ("kl", "learned"), ("kl", "normal")])
        for s in (0, 1)
    ]
    figure = loss_by_anchor(pd.DataFrame(rows))
    picture = figure.axes[0].images[0].get_array()
    np.testing.assert_allclose(np.ma.filled(np.ma.masked_invalid(picture), -1), [[0.01, -1], [0.11, 0.21]])
    words = [t.get_text() for t in figure.axes[0].texts]
    assert words == ["0.010\n±0.014", "0.110\n±0.014", "0.210\n±0.014"]
    assert [t.get_text() for t in figure.axes[1].get_xticklabels()] == ["learned", "normal"]


@pytest.mark.parametrize("column", ["dice", "relative_gap"])
def test_a_single_panel_will_do(column):
    runs = swept().assign(align_loss="mse", anchor="learned")
    assert len(loss_by_anchor(runs, [column]).axes) == 1


def test_the_front_puts_each_difference_over_the_gap_that_it_left():
    pairs = [("mse", "learned"), ("kl", "normal")]
    rows = [
        {"align_loss": loss, "anchor": anchor, "align_weight": w, "seed": s, "relative_gap": 0.5 - 0.1 * w + 0.2 * s}
        for (loss, anchor), w, s in itertools.product(pairs, (0.1, 1.0), (0, 1))
    ]
    rows.append({"align_loss": None, "anchor": None, "align_weight": 0.0, "seed": 0, "relative_gap": 0.9})
    found = [
        {"align_loss": loss, "anchor": anchor, "align_weight": w, "difference": w / 10, "low": -0.1, "high": 0.3}
        for (loss, anchor), w in itertools.product(pairs, (0.1, 1.0))
    ]
    figure = anchor_front(pd.DataFrame(rows), pd.DataFrame(found))
    assert [a.get_title() for a in figure.axes] == ["weight 0.1", "weight 1"]
    _, reference, bar, point, *_ = figure.axes[1].lines
    assert reference.get_xdata()[0] == 0.9
    np.testing.assert_allclose([bar.get_ydata(), point.get_xydata()[0]], [[-0.1, 0.3], [0.5, 0.1]])
    shapes = {line.get_marker() for line in figure.axes[0].lines[3::2]}
    assert len(shapes) == 2, "an anchor is told by its marker, for readers in grey"
