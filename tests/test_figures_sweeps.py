"""Figures of sweeps show the numbers of their tables."""

import pandas as pd
import pytest

from mtg_lab.errors import InputError
from mtg_lab.figures_sweeps import costs, leaderboard, promises

RUNS = pd.DataFrame(
    [("a", 0, "done", 0.4, 10, 0.1, 1.0), ("a", 1, "done", 0.5, 10, 0.3, 3.0), ("b", 0, "done", 0.6, 20, 0.4, 5.0),
     ("b", 1, "failed", None, None, None, None)],
    columns=["arm", "seed", "status", "dice", "parameters", "seconds_per_step", "scoring_seconds"],
)  # fmt: skip
SUMMARY = pd.DataFrame(
    [("a", "WT", 0.9, 0.8, 1.0), ("a", "all", 0.45, 0.4, 0.5), ("b", "all", 0.6, 0.55, 0.65)],
    columns=["method", "region", "mean", "low", "high"],
)


def test_the_leaderboard_has_the_best_first_and_a_circle_a_seed():
    (axes,) = leaderboard(SUMMARY, RUNS).axes
    assert [t.get_text() for t in axes.get_yticklabels()] == ["b", "a"]
    diamonds = [line.get_xdata()[0] for line in axes.lines if line.get_marker() == "D"]
    assert diamonds == [0.6, 0.45]
    assert [list(line.get_xdata()) for line in axes.lines if line.get_marker() == "o"] == [[0.6], [0.4, 0.5]]
    assert [list(line.get_xdata()) for line in axes.lines if line.get_marker() == "None"] == [[0.55, 0.65], [0.4, 0.5]]
    with pytest.raises(InputError, match="no run of this sweep is done"):
        leaderboard(SUMMARY[:0], RUNS)


def test_costs_are_means_over_the_seeds_that_ended():
    figure = costs(RUNS)
    points = [[(line.get_xdata()[0], line.get_ydata()[0]) for line in axes.lines] for axes in figure.axes]
    assert points[0] == [(10, 0.45), (20, 0.6)]
    assert points[1] == [(pytest.approx(0.2), 0.45), (0.4, 0.6)]
    assert {t.get_text() for t in figure.axes[2].texts} == {"a", "b"}
    with pytest.raises(InputError, match="no run of this sweep is done"):
        costs(RUNS[3:])


def test_promises_have_a_line_at_their_means():
    draws = pd.DataFrame({"chosen": ["a", "b"], "promised": [0.1, 0.3], "kept": [0.0, -0.2]})
    (axes,) = promises(draws).axes
    means = [line.get_xdata()[0] for line in axes.lines if line.get_color() == "black"]
    assert means == [pytest.approx(0.2), pytest.approx(-0.1)]
