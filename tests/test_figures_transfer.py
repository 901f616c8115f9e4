"""Every way of training has its row in every cohort, at its mean and over its interval."""

import pandas as pd
import pytest

from mtg_lab.errors import InputError
from mtg_lab.figures_transfer import transfer_dots


def _table(shift=0.0, methods=("plain", "varied")):
    rows = [(m, r, v + shift, v + shift - 0.1, v + shift + 0.1)
            for m, v in zip(methods, (0.3, 0.5), strict=True) for r in ("WT", "ET", "all")]  # fmt: skip
    return pd.DataFrame(rows, columns=["method", "region", "mean", "low", "high"])


def test_a_panel_a_cohort_with_every_row_at_its_mean():
    figure = transfer_dots({"theirs": _table(), "ours": _table(0.2)})
    assert [axes.get_title() for axes in figure.axes] == ["theirs", "ours"]
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["plain", "varied"]
    for axes, shift in zip(figure.axes, (0.0, 0.2), strict=True):
        marks = {line.get_label(): list(line.get_xdata()) for line in axes.lines}
        assert set(marks) == {"WT", "ET"}, "the mean of the regions is in the table, not in the picture"
        assert marks["WT"] == pytest.approx([0.3 + shift, 0.5 + shift])
        spans = [segment[:, 0].tolist() for part in axes.collections for segment in part.get_segments()]
        assert spans[0] == pytest.approx([0.2 + shift, 0.4 + shift])


@pytest.mark.parametrize(
    ("tables", "told"),
    [({}, "there is none"), ({"a": _table(), "b": _table(methods=("plain", "other"))}, "b: plain, other")],
)
def test_cohorts_of_different_methods_are_refused(tables, told):
    with pytest.raises(InputError, match=told):
        transfer_dots(tables)
