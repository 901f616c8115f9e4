"""Who lacks what, drawn: counts, dots and cells are those of the table, in the colours of the house."""

import warnings

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import same_color, to_rgb
from matplotlib.figure import Figure

from mtg_lab import missingness
from mtg_lab.figures_missingness import absence_modes, subject_matrix, upset
from mtg_lab.palette import modality_style

BRATS = ("t1n", "t1c", "t2f", "t2w")
EIGHT = (*BRATS, "adc", "rcbv", "dwi", "swi")


@pytest.fixture(autouse=True)
def _no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.simplefilter("error", RuntimeWarning)
        yield


def drawn(figure):
    assert isinstance(figure, Figure)
    figure.canvas.draw()
    return figure


def published():
    """PASSION's mr2468: 219 patients, 15 combinations, 9 of them complete."""
    rates = dict(zip(BRATS, (0.2, 0.4, 0.6, 0.8), strict=True))
    return pd.DataFrame(missingness.imbalanced(219, rates), columns=list(BRATS))


def drawn_subsets(count=300, modalities=EIGHT):
    rng = np.random.default_rng(0)
    rows = [missingness.draw_subset(np.ones(len(modalities), bool), rng) for _ in range(count)]
    return pd.DataFrame(rows, columns=list(modalities))


def combinations(axes, modalities):
    """The filled dots of each column, as sets of names."""
    filled = {}
    for number, points in enumerate(axes.collections):
        modality, has = modalities[number // 2], number % 2  # what lacks it is drawn first
        for x, y in np.asarray(points.get_offsets()):
            assert modalities[int(y)] == modality
            if has:
                filled.setdefault(int(x), set()).add(modality)
    return filled


def test_bars_are_the_counts_of_the_combinations_below_them():
    table = published()
    _, bars, totals, dots = drawn(upset(table)).axes
    heights = [int(bar.get_height()) for bar in bars.patches]
    assert sum(heights) == 219
    assert heights == sorted(heights, reverse=True)
    found = combinations(dots, list(BRATS))
    for place, height in enumerate(heights):
        there = table[list(BRATS)].apply(lambda row, place=place: {m for m in BRATS if row[m]} == found[place], axis=1)
        assert there.sum() == height
    assert [text.get_text() for text in bars.texts] == [str(h) for h in heights]
    assert [int(bar.get_width()) for bar in totals.patches] == [184, 135, 90, 43]
    assert [t.get_text() for t in totals.get_yticklabels()] == list(BRATS)
    for bar, modality in zip(totals.patches, BRATS, strict=True):
        assert same_color(bar.get_facecolor(), modality_style(BRATS)[modality][0])


def test_the_title_says_how_many_are_complete():
    assert upset(published()).get_suptitle() == "9 of 219 subjects have everything"
    assert upset(published(), "Mine").get_suptitle() == "Mine"


def test_rows_of_dots_stand_at_the_height_of_their_totals():
    figure = drawn(upset(drawn_subsets()))
    _, bars, totals, dots = figure.axes
    assert totals.get_ylim() == dots.get_ylim()
    assert bars.get_xlim() == dots.get_xlim()
    assert totals.get_window_extent().y0 == pytest.approx(dots.get_window_extent().y0, abs=1)


def test_rare_combinations_are_summed_up_in_words():
    table = drawn_subsets()
    _, bars, _, dots = drawn(upset(table, most=10)).axes
    assert len(bars.patches) == 10
    shown = sum(int(bar.get_height()) for bar in bars.patches)
    distinct = len(table.drop_duplicates())
    assert dots.get_xlabel() == f"and {distinct - 10} rarer combinations with {300 - shown} subjects"


@pytest.mark.parametrize("modalities", [EIGHT, BRATS, ("t1c",)])
@pytest.mark.parametrize("count", [1, 5, 300])
def test_any_number_of_modalities_and_subjects_can_be_drawn(modalities, count):
    table = drawn_subsets(count, modalities)
    drawn(upset(table))
    drawn(subject_matrix(table))
    drawn(subject_matrix(table, ["A"] * count))
    drawn(subject_matrix(table, [None] * count, table | True))


def cells(figure):
    return figure.axes[0].get_images()[0].get_array()


def test_a_cell_is_filled_where_the_subject_has_it_and_sites_stand_together():
    table = pd.DataFrame({"t1n": [1, 1, 0, 1], "t1c": [0, 1, 1, 1]}, index=list("abcd")).astype(bool)
    figure = drawn(subject_matrix(table, ["B", "A", "B", "A"]))
    style = {m: to_rgb(modality_style(table.columns)[m][0]) for m in table}
    white = (1.0, 1.0, 1.0)
    expected = [[style["t1n"]] * 3 + [white], [style["t1c"]] * 2 + [white, style["t1c"]]]
    np.testing.assert_allclose(cells(figure), expected)
    axes = figure.axes[0]
    assert [t.get_text() for t in axes.texts] == ["A", "B"]
    assert [t.xy[0] for t in axes.texts] == [0.5, 2.5]
    assert [t.get_text() for t in axes.get_yticklabels()] == ["t1n", "t1c"]
    assert axes.get_xlabel() == "4 subjects, by site"
    assert figure.get_suptitle() == "2 of 8 cells are missing"


def test_what_the_cohort_lacks_anyway_is_told_apart():
    table = pd.DataFrame({"t1n": [True, True], "t1c": [False, False]}, index=["a", "b"])
    had = pd.DataFrame({"t1c": [True, False], "t1n": [True, True]}, index=["b", "a"])
    figure = drawn(subject_matrix(table, had=had))
    lower = cells(figure)[1]
    assert not np.allclose(lower[0], lower[1]), "a never had it, b lost it"
    words = [t.get_text() for t in figure.legends[0].get_texts()]
    assert words == ["there (in its colour)", "missing", "not in the cohort"]
    assert len(drawn(subject_matrix(table)).legends[0].get_texts()) == 2


def test_modes_of_absence_stand_side_by_side():
    rows = [("t1c", "input", 0.2), ("t1c", "input", 0.4), ("t1c", "features", 0.7), ("t1c", "absent", 0.7)]
    figure = drawn(absence_modes(pd.DataFrame(rows, columns=["subset", "mode", "value"])))
    values = {p.get_label(): float(p.get_offsets()[0][0]) for p in figure.axes[0].collections}
    assert values == pytest.approx({"input": 0.3, "features": 0.7, "absent": 0.7})
