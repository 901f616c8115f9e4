"""Every way of training has its row in every cohort, at its mean and over its interval."""

import pandas as pd
import pytest

from mtg_lab.errors import InputError
from mtg_lab.figures_transfer import before_and_after, fine_tuning_curve, ingredient_forest, transfer_dots


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


def _differences(theirs="all", cohorts=("varied", "sites")):
    rows = [(arm, theirs, cohort, region, number, d + shift, d + shift - 0.02, d + shift + 0.02)
            for cohort, shift in zip(cohorts, (0.0, 0.01), strict=True)
            for arm, d in (("no_lesions", -0.05), ("no_motion", 0.0)) for region in ("WT", "ET", "all")
            for number in ("all", "1")]  # fmt: skip
    names = ["ours", "theirs", "cohort", "region", "modalities", "difference", "low", "high"]
    return pd.DataFrame(rows, columns=names)


def test_a_way_of_training_has_its_difference_in_every_cohort_filled_where_it_is_clear():
    figure = ingredient_forest(_differences(), ["no_motion", "no_lesions", "no_ghosts"])
    assert [axes.get_title() for axes in figure.axes] == ["on varied", "on sites"]
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["no_motion", "no_lesions"]
    for axes, shift in zip(figure.axes, (0.0, 0.01), strict=True):
        dots = {line.get_label(): list(line.get_xdata()) for line in axes.lines}
        assert dots["WT"] == dots["ET"] == pytest.approx([shift, -0.05 + shift])
        diamonds = [line for line in axes.lines if line.get_marker() == "D"]
        assert [d.get_xdata()[0] for d in diamonds] == pytest.approx([shift, -0.05 + shift])
        assert [d.get_markerfacecolor() for d in diamonds] == ["white", "black"]
        spans = [segment[:, 0].tolist() for part in axes.collections for segment in part.get_segments()]
        assert spans[1] == pytest.approx([-0.07 + shift, -0.03 + shift])


@pytest.mark.parametrize(
    ("table", "rows", "told"),
    [
        (_differences(), ["no_ghosts"], "no picture of no_ghosts against all; there are no_lesions, no_motion"),
        (pd.concat([_differences(), _differences("plain")]), ["no_motion"], "against all, plain; .*one is needed"),
    ],
)
def test_what_is_not_there_and_what_is_held_against_two_is_refused(table, rows, told):
    with pytest.raises(InputError, match=told):
        ingredient_forest(table, rows)


def test_trainings_are_dots_and_their_means_a_line_over_the_patients_learnt_from():
    runs = pd.DataFrame({
        "arm": ["start", "start", "start", "scratch", "scratch"], "patients": [0, 1, 1, 1, 1],
        "dice_WT": [0.8, 0.7, 0.9, 0.3, 0.4], "dice_ET": [0.5, 0.6, 0.8, 0.0, 0.1], "dice_1": [0.1] * 5,
    })  # fmt: skip
    figure = fine_tuning_curve(runs)
    assert [axes.get_title() for axes in figure.axes] == ["WT", "ET"], "a number of sequences is no region"
    lines = {line.get_label(): line for line in figure.axes[1].lines if not line.get_label().startswith("_")}
    assert list(lines["start"].get_xdata()) == [0, 1]
    assert list(lines["start"].get_ydata()) == pytest.approx([0.5, 0.7])
    assert list(lines["scratch"].get_ydata()) == pytest.approx([0.05])
    dots = [line for line in figure.axes[0].lines if line.get_label().startswith("_")]
    assert [list(d.get_ydata()) for d in dots] == [[0.8, 0.7, 0.9], [0.3, 0.4]]


def test_no_training_is_no_curve():
    with pytest.raises(InputError, match=r"no run to draw; .*dice_<region>"):
        fine_tuning_curve(pd.DataFrame({"arm": [], "patients": []}))


def test_what_was_before_is_open_and_what_is_after_filled():
    overall = pd.DataFrame(
        [("plain", "all", "dice", 0.5, 0.6), ("plain", "ET", "dice", 0.4, 0.7), ("plain", "ET", "hd95", 60.0, 20.0),
         ("sites", "ET", "dice", 0.3, 0.2), ("sites", "ET", "hd95", 90.0, 50.0)],
        columns=["cohort", "region", "metric", "before", "after"],
    )  # fmt: skip
    figure = before_and_after(overall)
    assert [axes.get_xlabel() for axes in figure.axes] == ["mean Dice", "mean HD95 in mm"]
    before, after = figure.axes[0].lines
    assert list(before.get_xdata()) == [0.4, 0.3]
    assert list(after.get_xdata()) == [0.7, 0.2]
    assert (before.get_markerfacecolor(), after.get_label()) == ("white", "ET")
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["plain", "sites"]
    with pytest.raises(InputError, match="nothing to draw"):
        before_and_after(overall.query("region == 'all'"))
