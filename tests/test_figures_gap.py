"""Plots of the gap: what is drawn is what the tables say."""

import itertools

import numpy as np
import pandas as pd
import pytest
from clouds import MODALITIES, cloud
from matplotlib.backends.backend_agg import FigureCanvasAgg

from mtg_lab.figures_gap import (
    correlation_words,
    gap_against_chance,
    gap_against_dice,
    gap_by_part,
    gap_in_training,
    gap_matrices,
    one_voxel,
)
from mtg_lab.gap import gap, gap_by, gap_matrix
from mtg_lab.gap_dice import correlation

METRICS = ["centroid_gap", "relative_gap", "effective_rank"]


def panels(figure):
    return {axes.get_title(): axes for axes in figure.axes if axes.get_visible()}


def test_every_measure_has_a_panel_with_its_value_and_what_chance_gives():
    tables = {k: gap(cloud(offset=o, shared=0.5, subjects=16), nulls=39, draws=20, measures=METRICS)
              for k, o in (("far", 3.0), ("near", 0.0))}  # fmt: skip
    shown = panels(gap_against_chance(tables))
    assert list(shown) == ["centroid gap", "relative gap", "effective rank"]
    for metric, axes in zip(METRICS, shown.values(), strict=True):
        dots = [line for line in axes.lines if line.get_marker() not in ("None", None, "")]
        values = [t.set_index("metric").loc[metric, "value"] for t in tables.values()]
        assert [d.get_xdata()[0] for d in dots] == pytest.approx(values)
        assert len(axes.patches) == (0 if metric == "effective_rank" else 2), "chance, where there is one"
    faces = [line.get_markerfacecolor() for line in shown["centroid gap"].lines if len(line.get_xdata()) == 1]
    assert faces[0] != "white"
    assert faces[1] == "white", "no offset: not told from chance"


def test_parts_are_joined_by_a_line_a_run():
    tables = {k: gap_by(cloud(offset=o, tissues=3), "tissue", draws=5, nulls=0, measures=METRICS[:2])
              for k, o in (("far", 3.0), ("near", 0.0))}  # fmt: skip
    figure = gap_by_part(tables, "tissue", METRICS[:2])
    axes = panels(figure)["relative gap"]
    for line, table in zip(axes.lines, tables.values(), strict=True):
        assert list(line.get_ydata()) == table.loc[table["metric"] == "relative_gap", "value"].tolist()
    assert [t.get_text() for t in axes.get_xticklabels()] == ["brain", "ED", "ET"]
    assert len(figure.legends) == 1


def test_matrices_share_one_scale():
    near, far = (gap_matrix(cloud(offset=o, modalities=3), "centroid_gap") for o in (0.5, 3.0))
    figure = gap_matrices({"near": near, "far": far}, measure="centroid gap")
    limits = {panels(figure)[run].collections[0].get_clim() for run in ("near", "far")}
    assert len(limits) == 1
    assert limits.pop()[1] == pytest.approx(np.nanmax(far))
    written = [t.get_text() for t in panels(figure)["far"].texts]
    assert f"{far.iloc[0, 1]:.2f}" in written


def test_training_is_drawn_where_it_was_looked_at():
    history = pd.DataFrame({"loss": np.ones(6), "probe_gap": [np.nan, 0.8, np.nan, 0.6, np.nan, 0.5],
                            "probe_dice": [np.nan, 0.1, np.nan, 0.4, np.nan, 0.6],
                            "probe_dice_t1c": [np.nan, 0.0, np.nan, 0.1, np.nan, 0.2]})  # fmt: skip
    shown = panels(gap_in_training({"a": history, "no latents": history.drop(columns="probe_gap")}))
    (line,) = shown["The gap"].lines
    assert list(line.get_xdata()) == [1, 3, 5]
    assert list(line.get_ydata()) == [0.8, 0.6, 0.5]
    assert len(shown["Dice (thick: all sequences, thin: one alone)"].lines) == 4


def test_points_are_named_and_the_correlation_is_written():
    rows = [(f"s{i}", u, i % 3 + 1, i + 0.1 * u, 2.0 * i - u) for i in range(6) for u in range(4)]
    table = pd.DataFrame(rows, columns=["group", "subject", "modalities", "x", "y"])
    found = correlation(table, "x", "y", "subject")
    (axes,) = gap_against_dice(table, "x", "y", found, "Title").axes
    assert {t.get_text() for t in axes.texts} == {f"s{i}" for i in range(6)}
    assert sum(len(line.get_xdata()) for line in axes.lines) == 6
    assert axes.get_title() == correlation_words(found)
    assert correlation_words(found).startswith("rank correlation +1.00 [+1.00, +1.00]; among subsets of one size ")
    assert len(axes.get_legend().get_texts()) == 3


def test_names_of_points_do_not_lie_upon_each_other():
    rng = np.random.default_rng(0)
    rows = [(f"t1n+t2w+{i}", u, *rng.normal(size=2) * 0.02 + i % 3) for i in range(12) for u in range(4)]
    table = pd.DataFrame(rows, columns=["group", "subject", "x", "y"])
    found = correlation(table, "x", "y", "subject")
    figures = [gap_against_dice(table, "x", "y", found) for _ in range(2)]
    boxes = []
    for figure in figures:
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        boxes.append([t.get_window_extent(canvas.get_renderer()) for t in figure.axes[0].texts])
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes[0], 2))
    assert [b.bounds for b in boxes[0]] == [b.bounds for b in boxes[1]], "the same picture again"


def test_one_voxel_is_ringed_where_it_is():
    rng = np.random.default_rng(0)
    images = {m: rng.normal(size=(6, 8, 5)) for m in MODALITIES[:2]}
    figure = one_voxel(images, (1, 2, 3), {m: np.array([1.0, -2.0]) for m in images})
    top, bottom = figure.axes[0], figure.axes[2]
    shown = np.asarray(top.images[0].get_array())
    (ring,) = top.lines
    across, down = int(ring.get_xdata()[0]), int(ring.get_ydata()[0])
    assert shown[down, across] == images["t1n"][1, 2, 3]
    assert top.images[0].origin == "lower", "as in every picture of the lab: left on the left, the front above"
    assert [t.get_text() for t in top.texts] == ["L", "R"]
    assert [bar.get_height() for bar in bottom.patches] == [1.0, -2.0]
    assert figure.axes[2].get_ylim() == figure.axes[3].get_ylim()
