"""Figures of strategies show the numbers of their tables, and only strategies."""

import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from mtg_lab.errors import InputError
from mtg_lab.figures_strategies import (
    CATEGORIES,
    TITLES,
    cost_against_dice,
    invented_bars,
    strategy_forest,
    strategy_name,
)


def differences():
    rows = [
        (ours, "dropout", region, count, value, value - 0.02, value + 0.02)
        for ours, value in (("zero_fill", -0.1), ("adamm", 0.01), ("multi_task", 0.05))
        for region in ("all", "WT")
        for count in ("all", 1, 2)
    ]
    return pd.DataFrame(rows, columns=["ours", "theirs", "region", "modalities", "difference", "low", "high"])


def test_every_strategy_has_a_name_and_a_category():
    assert set(TITLES) == set(CATEGORIES)
    assert len(set(CATEGORIES.values())) == 7, "six categories and the baselines"
    assert strategy_name("adamm_no_graph_open") == "AdaMM, no graph, gate open"
    assert strategy_name("adamm_open") == "AdaMM, gate open"


def test_the_forest_has_a_panel_a_number_of_missing_sequences_and_a_row_a_strategy():
    figure = strategy_forest(differences())
    assert [axes.get_title() for axes in figure.axes] == ["mean of these", "0 missing", "1 missing"]
    first = figure.axes[0]
    assert [t.get_text() for t in first.get_yticklabels()] == ["zero-fill", "reconstruction beside", "AdaMM"]
    middles = [line.get_xdata()[0] for line in first.lines if line.get_marker() not in ("None", "")]
    assert middles == [-0.1, 0.05, 0.01]
    faces = [line.get_markerfacecolor() for line in first.lines if line.get_marker() not in ("None", "")]
    assert [face == "white" for face in faces] == [False, False, True], "only AdaMM's interval holds zero"


@pytest.mark.parametrize("counts", [["all"], ["all", 1, 2], ["all", 1, 2, 3, 4]])
def test_a_legend_of_all_categories_fits_a_figure_of_any_width(counts):
    rows = [(arm, "dropout", "all", count, 0.0, -0.1, 0.1) for arm in CATEGORIES for count in counts]
    figure = strategy_forest(pd.DataFrame(rows, columns=list(differences())))
    FigureCanvasAgg(figure).draw()
    legend = figure.legends[0].get_window_extent()
    assert 0 <= legend.x0 < legend.x1 <= figure.bbox.width


def test_a_forest_of_nothing_is_refused():
    with pytest.raises(InputError, match="no differences to 'adamm'; there are those to: dropout"):
        strategy_forest(differences(), "adamm")


def test_costs_are_drawn_where_they_are_the_best_first():
    columns = ["arm", "dice", "parameters", "seconds_per_step", "scoring_seconds"]
    rows = [
        ("dropout", 0.4, 1e6, 0.1, 1.0),
        ("dropout", 0.6, 1e6, 0.3, 1.0),
        ("adamm", 0.7, 3e6, 0.4, 2.0),
        ("adamm_no_graph", 0.9, 2e6, 0.3, 3.0),
    ]
    runs = pd.DataFrame(rows, columns=columns)
    figure = cost_against_dice(runs)
    assert [axes.get_xlabel() for axes in figure.axes] == [
        "mean Dice",
        "million parameters",
        "seconds a step",
        "seconds a patient",
    ]
    names = [t.get_text() for t in figure.axes[0].get_yticklabels()]
    assert names == ["AdaMM", "subsets drawn"], "the best first, and a part of AdaMM is no strategy"
    dice, parameters, step, _ = [[list(line.get_xdata()) for line in axes.lines] for axes in figure.axes]
    assert dice == [[0.7, 0.7], [0.7], [0.4, 0.6], [0.5]]
    assert parameters[1::2] == [[3.0], [1.0]]
    assert step[3] == pytest.approx([0.2])
    many = cost_against_dice(runs.assign(networks=[15, 15, 1, 1]))
    assert many.axes[2].lines[3].get_xdata() == pytest.approx([3.0])
    with pytest.raises(InputError, match="none of adamm_no_graph is a strategy"):
        cost_against_dice(runs[3:])


def test_bars_are_means_over_subsets_of_one_size():
    rows = [("adamm", 1, 0.2, 1.0), ("adamm", 1, 0.4, 3.0), ("adamm", 2, 0.0, 0.0), ("dropout", 1, 1.0, 5.0)]
    table = pd.DataFrame(rows, columns=["arm", "modalities", "share", "millilitres"])
    left, right = invented_bars(table, ["dropout", "adamm"]).axes
    assert [bar.get_height() for bar in left.patches] == pytest.approx([1.0, 0.3, 0.0])
    assert [bar.get_height() for bar in right.patches] == pytest.approx([5.0, 2.0, 0.0])
