"""What the pictures of balance show is what their tables hold."""

import numpy as np
import pandas as pd
import pytest
from balancing_tables import MODALITIES, study_runs
from matplotlib.colors import same_color

from mtg_lab.errors import InputError
from mtg_lab.figures_balancing import ablation_forest, balance_course, balance_scores, dice_by_share, modality_curves
from mtg_lab.palette import modality_style


def history(steps=40, columns=("student", "distance", "preference", "coefficient")):
    """Straight lines, one height a modality; t2w is there in every second step only."""
    index = pd.Index(range(steps), name="step")
    table = pd.DataFrame({f"{c}_{m}": float(n) for c in columns for n, m in enumerate(MODALITIES)}, index=index)
    table.loc[index % 2 == 0, "student_t2w"] = np.nan
    return table


def drawn(figure):
    figure.canvas.draw()
    return figure


def test_every_run_has_a_panel_and_every_modality_its_colour():
    silent = pd.DataFrame({"loss": [1.0, 0.9]})
    figure = drawn(modality_curves({"no_gate": history(), "fused": silent, "passion": history()}))
    assert [axes.get_title() for axes in figure.axes] == ["no gate", "passion"], "who tells nothing has no panel"
    style = modality_style(MODALITIES)
    for line, (number, modality) in zip(figure.axes[0].lines, enumerate(MODALITIES), strict=True):
        assert same_color(line.get_color(), style[modality][0])
        assert np.nanmax(abs(line.get_ydata() - number)) == 0, "steps without the modality do not pull its mean"
    assert len(figure.legends[0].get_texts()) == 4


def test_curves_are_running_means_of_a_twentieth_but_coefficients_are_as_they_were():
    table = history()
    table["student_t1n"] = np.arange(40.0)
    table["coefficient_t1n"] = np.arange(40.0)
    student = modality_curves({"run": table}).axes[0].lines[0].get_ydata()
    assert student[10] == pytest.approx(9.5), "40 steps, windows of 2"
    coefficient = modality_curves({"run": table}, "coefficient").axes[0].lines
    np.testing.assert_array_equal(coefficient[1].get_ydata(), np.arange(40.0))
    assert list(coefficient[0].get_ydata()) == [1, 1], "where every coefficient begins"


def test_the_course_of_balance_marks_where_nobody_lags():
    figure = drawn(balance_course(history()))
    words = [axes.get_title() for axes in figure.axes]
    assert words == ["distance to the fused prediction", "relative preference", "coefficient"]
    assert [len(axes.lines) for axes in figure.axes] == [4, 5, 5]
    assert list(figure.axes[1].lines[0].get_ydata()) == [0, 0]


def test_a_history_of_another_method_is_refused_in_words():
    with pytest.raises(InputError, match="no columns gate_<modality>"):
        balance_course(history(), ("distance", "gate"))
    with pytest.raises(InputError, match="no history has columns score_<modality>"):
        modality_curves({"run": history()}, "score")


def test_a_modality_is_compared_with_itself_under_other_rates():
    figure = drawn(dice_by_share(study_runs()))
    t1n = figure.axes[0]
    assert t1n.get_title() == "t1n"
    fused, passion = t1n.lines
    np.testing.assert_allclose(fused.get_xdata(), [0.494, 0.794])
    np.testing.assert_allclose(fused.get_ydata(), [0.26, 0.41])
    np.testing.assert_allclose(passion.get_ydata(), [0.36, 0.51])
    spans = [segment[:, 1] for segment in t1n.collections[0].get_segments()]
    np.testing.assert_allclose(spans, [[0.25, 0.27], [0.4, 0.42]])


def test_scores_stand_under_what_is_alone_and_over_what_is_missing():
    runs = study_runs().query("rates == 'mr2468'").assign(protocol="0123abcd")
    figure = drawn(balance_scores(runs))
    alone, missing = figure.axes
    np.testing.assert_allclose(alone.lines[0].get_ydata(), [0.41, 0.31, 0.11, 0.21])
    np.testing.assert_allclose(missing.lines[1].get_ydata(), [0.81, 0.71, 0.61, 0.51])
    assert all(line.get_linestyle() == "None" for line in alone.lines), "modalities are no scale to draw a line along"
    assert [t.get_text() for t in alone.get_xticklabels()][2] == "t2w\n20% had it"
    assert [t.get_text() for t in figure.texts][-1] == "protocol 0123abcd"


def test_runs_that_cannot_stand_side_by_side_are_refused():
    with pytest.raises(InputError, match="2 sets of rates"):
        balance_scores(study_runs())
    mixed = pd.concat([study_runs(), study_runs().assign(backbone="rfnet")])
    with pytest.raises(InputError, match="unet, rfnet"):
        dice_by_share(mixed)


def test_ablations_are_named_after_what_is_gone():
    rows = [
        {"ours": ours, "theirs": theirs, "region": region, "subsets": "all", "seeds": 3, "difference": -0.1,
         "low": -0.2, "high": high}
        for ours, theirs, region, high in (
            ("no_gate", "passion", "all", -0.05),
            ("no_inverse_frequency", "passion", "all", 0.1),
            ("no_gate", "passion", "WT", 0.0),
            ("passion", "fused", "all", 0.0),
        )
    ]  # fmt: skip
    figure = drawn(ablation_forest(pd.DataFrame(rows)))
    labels = [t.get_text() for t in figure.axes[0].get_yticklabels()]
    assert labels == ["without gate", "without inverse frequency"]
    with pytest.raises(InputError, match="one set of rates"):
        ablation_forest(pd.DataFrame(rows + rows))
