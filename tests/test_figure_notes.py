"""Under every figure of scores stands the protocol, below everything else and without changing what is there."""

from dataclasses import asdict, replace

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from score_tables import table_of

from mtg_lab import figures
from mtg_lab.evaluation import missingness_curve, paired_difference
from mtg_lab.figure_notes import note, titled
from mtg_lab.figures_scores import case_scatter, claims_against_spread, rank_plot, shapley_bars
from mtg_lab.literature import claimed_gains, reported_spread
from mtg_lab.protocol import Protocol, protocol_line
from mtg_lab.shapley import pair_interactions, worth
from mtg_lab.statistics import paired_tests, rank_stability, seed_spread
from mtg_lab.subset_statistics import added_sequences, missingness_area, monotonicity_violations, worst_subset

PROTOCOL = Protocol("cohort", "test", ("P0", "P1", "P2", "P3"), ("t1c",), ("WT", "ET"), 2.0, 0, 0.0, "one", "fp32")


def scored(protocol=PROTOCOL, shift=0.0):
    table = table_of(lambda p, s, r: 0.1 * len(s) + 0.02 * p + shift, protocol=protocol.digest())
    table.attrs["protocol"] = asdict(protocol)
    return table


def drawings():
    a, b = scored(), scored(shift=0.05)
    seeds = {"a": {0: a, 1: b}, "b": {0: b, 1: b}}
    yield "heat map", figures.subset_heatmap(a)
    yield "lines", figures.missingness_lines({"a": a, "b": b}, draws=5)
    yield "forest", figures.forest(paired_difference({0: a}, {0: b}, 20).assign(name="a"))
    yield "bars", shapley_bars(worth(a, draws=10))
    yield "scatter", case_scatter(a, b)
    yield "ranks", rank_plot(rank_stability(seeds, draws=10), paired_tests(seeds, draws=10))
    yield "claims", claims_against_spread(claimed_gains(), reported_spread(), seed_spread(seeds))


def boxes(figure):
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    (below,) = [t for t in figure.texts if t.get_gid() == "note"]
    panels = [a.get_tightbbox(renderer) for a in figure.axes]
    hanging = [a.get_window_extent(renderer) for a in figure.legends]
    if figure.get_supxlabel():
        hanging.append(figure._supxlabel.get_window_extent(renderer))
    return below, below.get_window_extent(renderer), panels, hanging


@pytest.mark.parametrize(("name", "figure"), drawings(), ids=lambda x: x if isinstance(x, str) else "")
def test_the_protocol_stands_below_everything_else(name, figure):
    below, box, panels, hanging = boxes(figure)
    assert below.get_text().replace("\n", " ") == str(PROTOCOL)
    # Half a point for the rounding of letters to pixels.
    slack = figure.dpi / 144
    assert all(part.y0 >= box.y1 - slack for part in (*panels, *hanging)), "nothing reaches into it"
    assert all(panel.y0 >= part.y1 - slack for panel in panels for part in hanging), "nor into a legend"
    assert box.x0 >= 0
    assert box.y0 >= 0
    assert box.x1 <= figure.bbox.x1


def test_what_is_drawn_keeps_its_size():
    def plotted():
        figure = Figure(figsize=(5, 3), layout="constrained")
        figure.subplots().set_xlabel("x")
        figure.suptitle("title")
        return figure

    def inches(figure):
        figure.draw_without_rendering()
        return figure.axes[0].get_window_extent().size / figure.dpi

    assert inches(note(plotted(), "a protocol " * 40)) == pytest.approx(inches(plotted()), abs=0.02)
    assert plotted().get_size_inches().tolist() == note(plotted(), "").get_size_inches().tolist()


def test_tables_that_are_computed_from_scores_know_the_protocol():
    a, b = scored(), scored(shift=0.1)
    steps = added_sequences(a, draws=5)
    both = {"a": a, "b": b}
    for table in (
        a, worth(a, draws=5), pair_interactions(a, draws=5), missingness_area(a, draws=5), worst_subset(a, draws=5),
        steps, monotonicity_violations(steps), paired_tests(both, draws=5), rank_stability(both, draws=5),
        missingness_curve(a), paired_difference({0: a}, {0: b}, 5),
    ):  # fmt: skip
        assert protocol_line(table) == str(PROTOCOL)
    bare = table_of(lambda p, s, r: 0.5, protocol="0123abcd")
    assert protocol_line(bare) == protocol_line(worst_subset(bare, draws=5)) == "protocol 0123abcd"
    assert protocol_line(bare.drop(columns="protocol")) == ""


def test_lines_of_two_protocols_are_not_drawn_together():
    from mtg_lab.errors import InputError

    with pytest.raises(InputError, match=r"they differ in empty \(one against nan\)"):
        figures.missingness_lines({"a": scored(), "b": scored(replace(PROTOCOL, empty="nan"))})


def test_a_note_needs_a_layout_that_makes_room():
    with pytest.raises(TypeError, match="constrained"):
        note(Figure(), "words")


@pytest.mark.parametrize("width", [3.0, 7.0, 14.0])
def test_a_title_is_never_cut_off(width):
    figure = Figure(figsize=(width, 3), layout="constrained")
    figure.subplots()
    words = "Where the gate helps most: phantom-045 from t1n+t1c, Dice of the enhancing tumour +0.00, gate shut"
    titled(figure, words)
    FigureCanvasAgg(figure).draw()
    box = figure._suptitle.get_window_extent()
    assert 0 <= box.x0 < box.x1 <= figure.bbox.width
    assert figure._suptitle.get_text().replace("\n", " ") == words
