"""Pictures of surgery show the numbers that they were given, where they belong."""

import io
from itertools import pairwise

import numpy as np
import pandas as pd
from matplotlib.text import Text

from mtg_lab.figures_surgery import along, gap_against_dice


def ledger():
    rows = [
        ("teacher", "offset removed", 0.7, 0.5, 0.00, -0.01, 0.01), ("teacher", "matched", 0.7, 0.4, -0.2, -0.3, -0.1),
        ("student", "offset removed", 0.6, 0.45, 0.001, -0.01, 0.01), ("student", "matched", 0.6, 0.3, -0.1, -0.2, 0.0),
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=["network", "operation", "gap_before", "gap", "difference", "low", "high"])


def test_a_panel_each_and_a_line_a_column_in_the_order_of_amounts():
    gap = pd.DataFrame({"centroid gap": [0.5, 0.7, 1.2]}, index=[1.0, 0.0, -1.0])
    dice = pd.DataFrame({"0 missing": [0.8, 0.8, 0.7], "1 missing": [0.5, 0.4, 0.3]}, index=[1.0, 0.0, -1.0])
    figure = along({"gap": gap, "mean Dice": dice}, "share removed")
    left, right = figure.axes
    assert [axes.get_title() for axes in figure.axes] == ["gap", "mean Dice"]
    assert len(right.lines) == 2
    np.testing.assert_array_equal(left.lines[0].get_xydata(), [[-1, 1.2], [0, 0.7], [1, 0.5]])
    assert left.get_ylim()[1] > 1.2, "a gap above one is not cut off"
    assert [text.get_text() for text in right.get_legend().get_texts()] == ["0 missing", "1 missing"]


def test_operations_stand_at_their_gap_and_difference_and_start_at_none():
    (axes,) = gap_against_dice(ledger(), "centroid gap").axes
    drawn = {tuple(point) for line in axes.lines for point in np.round(line.get_xydata(), 6)}
    for row in ledger().itertuples():
        assert (row.gap, row.difference) in drawn
        assert (row.gap_before, 0.0) in drawn
        assert (row.gap, row.low) in drawn


def test_names_of_operations_do_not_overlap():
    figure = gap_against_dice(ledger(), "centroid gap")
    figure.savefig(io.BytesIO(), format="png")
    boxes = sorted((Text.get_window_extent(text) for text in figure.axes[0].texts), key=lambda box: box.y0)
    assert len(boxes) == 4
    assert all(above.y0 >= below.y1 - 1 for below, above in pairwise(boxes))
