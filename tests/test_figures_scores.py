"""What is drawn is what the tables say: bars, points, brackets and bands, in the colours of the house."""

import warnings

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import same_color
from matplotlib.figure import Figure
from score_tables import MODALITIES, table_of

from mtg_lab.errors import InputError
from mtg_lab.figures_calibration import reliability_diagram, risk_coverage_curves
from mtg_lab.figures_scores import case_scatter, claims_against_spread, rank_plot, shapley_bars
from mtg_lab.literature import claimed_gains, reported_spread
from mtg_lab.palette import COLOURS, modality_style
from mtg_lab.shapley import worth
from mtg_lab.statistics import paired_tests, rank_stability, seed_spread

OWN = {"t1n": 0.05, "t1c": 0.4, "t2w": 0.15, "t2f": 0.2}


@pytest.fixture(autouse=True)
def _no_warnings():
    """What a figure warns of would stand in the notebook above it."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.simplefilter("error", RuntimeWarning)
        yield


def drawn(figure):
    assert isinstance(figure, Figure)
    figure.canvas.draw()
    return figure


def additive(p, s, r):
    return sum(OWN[m] for m in s) if r == "ET" else 0.2 * len(s) + 0.04 * p * ("t2f" in s)


# --- Shapley ----------------------------------------------------------------------------------------------------------


def test_bars_are_the_values_in_the_modalities_colours():
    figure = drawn(shapley_bars(worth(table_of(additive), draws=20)))
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["WT: 0.86 with all", "ET: 0.80 with all", "all regions: 0.83 with all"]
    enhancing = figure.axes[1]
    assert [bar.get_width() for bar in enhancing.patches] == pytest.approx(list(OWN.values()))
    style = modality_style(MODALITIES)
    for bar, modality in zip(enhancing.patches, MODALITIES, strict=True):
        assert same_color(bar.get_facecolor(), style[modality][0])
    assert [t.get_text() for t in enhancing.texts] == ["6%", "50%", "19%", "25%"]
    assert figure.get_suptitle() == "Worth most: t2f for WT, t1c for ET"
    assert {axes.get_xlim() for axes in figure.axes} == {enhancing.get_xlim()}


def test_one_region_and_nothing_found_can_be_drawn():
    figure = drawn(shapley_bars(worth(table_of(lambda p, s, r: 0.0, regions=("lesion",)), draws=5), "Nothing"))
    assert [t.get_text() for t in figure.axes[0].texts] == ["0.00"] * 4
    assert figure.get_suptitle() == "Nothing"


# --- case by case -----------------------------------------------------------------------------------------------------


def test_a_point_a_subject_and_the_furthest_has_its_name():
    theirs = table_of(lambda p, s, r: 0.5 + 0.05 * p)
    ours = theirs.assign(value=theirs["value"] + theirs["subject"].map({"P0": 0.02, "P1": -0.2, "P2": 0.0, "P3": 0.05}))
    figure = drawn(case_scatter(ours, theirs, ("student", "dropout")))
    axes = figure.axes[0]
    better, rest = (np.asarray(points.get_offsets()) for points in axes.collections)
    assert better == pytest.approx(np.array([[0.5, 0.52], [0.65, 0.70]]))
    assert rest == pytest.approx(np.array([[0.55, 0.35], [0.6, 0.6]]))
    assert [t.get_text() for t in axes.texts] == ["P1"]
    assert axes.get_title() == "WT: 2 of 4 better"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("dropout", "student")
    assert axes.get_xlim() == axes.get_ylim()


def test_of_a_distance_below_the_diagonal_is_better():
    far = table_of(lambda p, s, r: 9.0 + p).assign(metric="hd95")
    figure = drawn(case_scatter(far.assign(value=3.0), far, metric="hd95"))
    assert figure.axes[0].get_title() == "WT: 4 of 4 better"


def test_equal_and_empty_cases_can_be_drawn():
    same = table_of(lambda p, s, r: np.nan if r == "ET" else 0.5)
    figure = drawn(case_scatter(same, same))
    assert [axes.get_title() for axes in figure.axes] == [
        "WT: 0 of 4 better", "ET: 0 of 0 better", "all regions: 0 of 4 better"]  # fmt: skip
    with pytest.raises(InputError, match="cannot be compared"):
        case_scatter(same, same.assign(protocol="other"))


# --- rankings ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def methods():
    """Two that are alike, and one far below."""
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.01, (3, 12))
    levels = {"first": 0.7, "second": 0.7, "third": 0.3}
    return {n: table_of(lambda p, s, r, i=i, v=v: v + noise[i, p], subjects=12, regions=("WT",))
            for i, (n, v) in enumerate(levels.items())}  # fmt: skip


def test_brackets_join_what_the_tests_cannot_tell_apart(methods):
    table = rank_stability(methods, draws=200)
    axes = drawn(rank_plot(table, paired_tests(methods, draws=50))).axes[0]
    labels = [t.get_text().split("  ") for t in axes.get_yticklabels()]
    assert [name for name, _ in labels][2] == "third"
    firsts = table.set_index("method")["first"]
    assert all(share == f"{firsts[name]:.0%}" for name, share in labels)
    brackets = [line for line in axes.lines if line.get_linewidth() == 2.5]
    assert [tuple(np.round(line.get_ydata()).astype(int)) for line in brackets] == [(0, 1)]
    points = [line for line in axes.lines if line.get_marker() not in ("None", "")]
    assert [float(p.get_xdata()[0]) for p in points] == sorted(table["rank"])
    without = drawn(rank_plot(table)).axes[0]
    assert len(without.lines) == len(axes.lines) - 1


def test_what_a_ranking_means_is_wholly_on_the_figure(methods):
    figure = drawn(rank_plot(rank_stability(methods, draws=20), paired_tests(methods, draws=50)))
    words = figure._supxlabel.get_window_extent()
    assert words.x0 >= 0
    assert words.x1 <= figure.bbox.width


def test_a_method_keeps_its_colour_in_every_panel():
    scores = {n: table_of(lambda p, s, r, i=i: 0.5 + 0.1 * i * (1 if r == "WT" else -1)) for i, n in enumerate("abc")}
    figure = drawn(rank_plot(rank_stability(scores, draws=20)))
    colours = []
    for axes in figure.axes[:2]:
        names = [t.get_text().split("  ")[0] for t in axes.get_yticklabels()]
        points = [line for line in axes.lines if line.get_marker() not in ("None", "")]
        colours.append({n: (p.get_color(), p.get_marker()) for n, p in zip(names, points, strict=True)})
    assert list(colours[0]) == list("cba")
    assert list(colours[1]) == list("abc")
    assert colours[0] == colours[1]


# --- claims -----------------------------------------------------------------------------------------------------------


def test_claims_stand_at_their_gains_open_where_reports_lie_further_apart():
    gains = pd.DataFrame({"block": "b", "method": ["A", "B", "A"], "dataset": "BraTS", "year": [2018, 2020, 2018],
                          "region": ["WT", "WT", "ET"], "gain": [1.0, 3.0, -0.5]})  # fmt: skip
    reports = pd.DataFrame({"region": ["WT", "WT", "ET"], "range": [1.0, 3.0, 0.2]})
    seeds = pd.DataFrame({"region": ["WT", "ET"], "chance": [0.025, 0.1]})
    figure = drawn(claims_against_spread(gains, reports, seeds, "phantom"))
    whole = figure.axes[0]
    points = [line for line in whole.lines if line.get_marker() == "o"]
    assert [float(p.get_xdata()[0]) for p in points] == [1.0, 3.0]
    assert [p.get_markerfacecolor() == "white" for p in points] == [True, False], "the median distance is 2"
    assert whole.get_title() == "WT (seeds: ±2.5)"
    assert figure.get_suptitle().startswith("1 of 3 claimed gains are smaller")
    assert [t.get_text() for t in figure.legends[0].get_texts()][2].endswith(": phantom")
    assert [t.get_text() for t in whole.get_yticklabels()] == ["A, BraTS 2018", "B, BraTS 2020"]


def test_the_literature_is_drawn_with_and_without_our_seeds():
    runs = {"a": {i: table_of(lambda p, s, r, i=i: 0.5 + 0.01 * i, subjects=2, regions=("WT", "TC", "ET"))
                  for i in range(2)}}  # fmt: skip
    gains, reports = claimed_gains(), reported_spread()
    assert len(drawn(claims_against_spread(gains, reports)).legends[0].get_texts()) == 2
    figure = drawn(claims_against_spread(gains, reports, seed_spread(runs)))
    drawn_claims = sum(line.get_marker() == "o" for axes in figure.axes for line in axes.lines)
    assert drawn_claims == len(gains)
    low, high = figure.axes[0].get_xlim()
    assert low < gains["gain"].min() < gains["gain"].max() < high


# --- calibration ------------------------------------------------------------------------------------------------------


def calibration_tables():
    """Two bins, two subjects, subsets of two sequences."""
    subsets, regions = ("t1c+t2f", "t1c", "t2f"), ("WT", "ET")
    bins = pd.DataFrame([
        {"subset": s, "modalities": s.count("+") + 1, "region": r, "bin": b, "low": b / 2, "high": b / 2 + 0.5,
         "count": 100 - 100 * (b == 0 and s == "t1c"), "confidence": 0.25 + 0.5 * b, "frequency": 0.2 + 0.3 * b}
        for s in subsets for r in regions for b in (0, 1)
    ])  # fmt: skip
    cases = pd.DataFrame([
        {"subject": f"P{p}", "subset": s, "modalities": s.count("+") + 1, "region": r, "confidence": 0.9 - 0.2 * p,
         "dice": 0.8 - 0.4 * p}
        for s in subsets for r in regions for p in (0, 1)
    ])  # fmt: skip
    return bins, cases


def test_a_reliability_line_is_frequency_over_confidence_of_filled_bins():
    bins, _ = calibration_tables()
    figure = drawn(reliability_diagram(bins))
    diagonal, *lines = figure.axes[0].lines
    assert list(diagonal.get_xdata()) == list(diagonal.get_ydata())
    assert [line.get_label() for line in lines] == ["t1c+t2f", "t1c", "t2f"]
    assert list(lines[0].get_xydata().ravel()) == pytest.approx([0.25, 0.2, 0.75, 0.5])
    assert list(lines[1].get_xydata().ravel()) == pytest.approx([0.75, 0.5]), "its other bin is empty"
    assert same_color(lines[0].get_color(), COLOURS[7])
    chosen = drawn(reliability_diagram(bins, ["t2f"]))
    assert [t.get_text() for t in chosen.legends[0].get_texts()] == ["t2f"]
    with pytest.raises(InputError, match="no subset 'adc'; it has t1c"):
        reliability_diagram(bins, ["adc"])


def test_risk_starts_at_the_surest_case_and_ends_at_the_mean():
    _, cases = calibration_tables()
    figure = drawn(risk_coverage_curves(cases, ["t1c+t2f"]))
    optimum, curve, end = figure.axes[0].lines
    assert list(curve.get_ydata()) == pytest.approx([0.2, 0.4])
    assert list(optimum.get_ydata()) == pytest.approx([0.2, 0.4])
    assert float(end.get_ydata()[0]) == pytest.approx(0.4)
    assert [t.get_text() for t in figure.axes[0].texts] == ["0.30"]
    texts = [t.get_text() for t in figure.legends[0].get_texts()]
    assert texts == ["t1c+t2f", "best possible order"]


def test_numbers_at_the_ends_do_not_lie_on_each_other():
    _, cases = calibration_tables()
    heights = sorted(text.xy[1] for text in drawn(risk_coverage_curves(cases)).axes[0].texts)
    assert len(heights) == 3
    assert (np.diff(heights) > 0.05).all()
    assert np.mean(heights) == pytest.approx(0.4)
