"""Figures hold the facts that they are drawn from: one colour a modality, one scale a comparison, right is right."""

import subprocess
import sys
import warnings

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import same_color, to_rgba
from matplotlib.figure import Figure
from PIL import Image

from mtg_lab import figures, vocabulary
from mtg_lab.figures import COLOURS, MARKERS, modality_style

MODALITIES = ("t1n", "t1c", "t2w", "t2f")
NAMES = {1: "NCR", 2: "ED", 3: "ET"}


@pytest.fixture(autouse=True)
def _no_warnings():
    """What a figure warns of would stand in the notebook above it."""
    with warnings.catch_warnings():
        for category in (UserWarning, RuntimeWarning):  # not those of what other tests have left open
            warnings.simplefilter("error", category)
        warnings.simplefilter("ignore", pytest.PytestUnraisableExceptionWarning)
        yield


def drawn(figure):
    """Draw once, as a page would: faults of layout and labels show only then."""
    assert isinstance(figure, Figure)
    figure.canvas.draw()
    return figure


def legend_of(figure):
    (legend,) = figure.legends
    return [text.get_text() for text in legend.get_texts()]


def titles(figure):
    return [axes.get_title() for axes in figure.axes]


def scores(modalities=MODALITIES, regions=("WT", "TC", "ET"), subjects=3, empty=()):
    """A table of Dice: 0.2 for each modality, regions in ``empty`` without a value."""
    rows = [
        {"subject": f"P{s}", "subset": vocabulary.subset_name(subset, modalities), "modalities": len(subset),
         "region": region, "value": np.nan if region in empty else 0.2 * len(subset) + 0.01 * s}
        for s in range(subjects) for subset in vocabulary.subsets(modalities) for region in regions
    ]  # fmt: skip
    return pd.DataFrame(rows)


# --- colours ----------------------------------------------------------------------------------------------------------


def test_a_modality_looks_the_same_in_every_cohort():
    full = modality_style((*MODALITIES, "dwi", "adc"))
    for cohort in (("t1c", "t2f"), ("t2f", "t1c"), ("adc", "dwi", "t2f"), ("dwi",), ("t2f", "dwi", "pet")):
        found = modality_style(cohort)
        assert tuple(found) == cohort
        assert all(found[m] == full[m] for m in cohort if m in full)


def test_other_names_look_the_same_in_whatever_order_they_come():
    names = ("pet", "swi", "t1c")
    assert modality_style(names) == modality_style(names[::-1])


@pytest.mark.parametrize("names", [MODALITIES, ("adc", "dwi", "t2f"), tuple("abcdefgh"), ("t1c", "a", "b", "c", "d")])
def test_modalities_of_one_figure_differ_in_colour_and_marker(names):
    """In marker as well, so that a page printed in grey can be read."""
    styles = modality_style(names).values()
    assert len({colour for colour, _ in styles}) == len({marker for _, marker in styles}) == len(names)
    assert {c for c, _ in styles} <= set(COLOURS)
    assert {m for _, m in styles} <= set(MARKERS)


def test_more_modalities_than_colours_are_no_fault():
    assert len(modality_style([f"m{i}" for i in range(11)])) == 11
    assert len(modality_style([*MODALITIES, "dwi", "adc", *"abcdef"])) == 12


# --- slices -----------------------------------------------------------------------------------------------------------


def head(at=(7, 3, 5), shape=(10, 12, 8)):
    """A volume of ones with one bright voxel, and a label that marks it."""
    volume, label = np.ones(shape), np.zeros(shape, int)
    volume[at], label[at] = 9.0, 3
    return volume, label


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_marked_voxel_lands_where_it_must(axis):
    """Image x is the first axis that is left, y the second and upwards: right is on the right, the front at the top."""
    at = (7, 3, 5)
    volume, label = head(at)
    figure = drawn(figures.sequences({"t1c": volume}, label, NAMES, axis))
    (axes,) = figure.axes
    (picture,) = axes.get_images()
    x, y = (at[i] for i in range(3) if i != axis)
    row, column = np.unravel_index(np.argmax(picture.get_array()), picture.get_array().shape)
    assert (column, row) == (x, y)
    assert picture.origin == "lower"
    assert axes.get_xlim()[0] < axes.get_xlim()[1]
    assert axes.get_ylim()[0] < axes.get_ylim()[1]
    (outline,) = axes.collections
    inside = np.concatenate([path.vertices for path in outline.get_paths()]).mean(axis=0)
    np.testing.assert_allclose(inside, (x, y), atol=0.2)


@pytest.mark.parametrize(("axis", "sides"), [(0, []), (1, ["L", "R"]), (2, ["L", "R"])])
def test_right_and_left_are_marked_where_both_are_seen(axis, sides):
    """The stored axis runs to the patient's right, so L stands at its beginning: left of the picture."""
    volume, label = head()
    (axes,) = drawn(figures.sequences({"t1c": volume}, label, NAMES, axis)).axes
    texts = sorted(axes.texts, key=lambda t: t.get_position()[0])
    assert [t.get_text() for t in texts] == sides
    if sides:
        assert texts[0].get_position()[0] < 0.5 < texts[1].get_position()[0]
        assert all(t.get_transform() == axes.transAxes for t in texts)


def test_every_panel_states_its_window_and_shares_the_outlines():
    rng = np.random.default_rng(0)
    _, label = head()
    label[2:5, 2:5, 4:7] = 2
    images = {m: rng.normal(size=label.shape) * (i + 1) for i, m in enumerate(MODALITIES)}
    figure = drawn(figures.sequences(images, label, NAMES, title="One patient"))
    assert len(figure.axes) == 4
    for axes, (modality, volume) in zip(figure.axes, images.items(), strict=True):
        low, high = figures.intensity_window(volume)
        assert axes.get_title() == f"{modality}  [{low:.3g}, {high:.3g}]"
        assert axes.get_images()[0].get_clim() == (low, high)
        assert len(axes.collections) == 2, "oedema and enhancing tumour; this patient has no necrosis"
        colours = [c.get_edgecolor()[0] for c in axes.collections]
        assert all(same_color(a, b) for a, b in zip(colours, COLOURS[1:3], strict=True))
    assert legend_of(figure) == ["NCR", "ED", "ET"]
    assert figure.get_suptitle() == "One patient"


def test_the_slice_is_the_one_that_shows_most():
    _, label = head()
    label[1:4, 1:4, 2] = 1
    assert figures.fullest_slice(label) == 2
    assert figures.fullest_slice(label, 0) in (1, 2, 3)
    volume = np.ones((10, 12, 8)) * np.arange(1, 9)
    for options, expected in (({"label": label}, 3), ({}, 5), ({"index": 6, "label": label}, 7)):
        (axes,) = drawn(figures.sequences({"t1c": volume}, **options)).axes
        assert float(axes.get_images()[0].get_array().mean()) == expected


def test_a_healthy_patient_is_shown_in_the_middle_and_not_at_the_edge():
    volume, label = head()
    assert figures.fullest_slice(np.zeros_like(label)) == 4
    assert figures.fullest_slice(np.zeros_like(label), 0) == 5
    figure = drawn(figures.sequences({"t1c": volume}, np.zeros_like(label), NAMES))
    assert not figure.axes[0].collections
    drawn(figures.predictions(volume, {"reference": np.zeros_like(label), "t1c": label}, NAMES))


def test_outside_the_brain_is_black():
    """Zero is a middle grey among z-scores."""
    volume = np.array([[-2.0, 0.0], [1.0, 3.0]])[..., None]
    low, high = figures.intensity_window(volume)
    (axes,) = drawn(figures.sequences({"t1c": volume})).axes
    np.testing.assert_allclose(axes.get_images()[0].get_array(), [[-2, 1], [low, 3]])
    assert (low, high) == pytest.approx((-1.94, 2.98))


@pytest.mark.parametrize("volume", [np.zeros((3, 3, 3)), np.full((3, 3, 3), np.nan), np.full((3, 3, 3), 7.0)])
def test_a_window_is_never_empty(volume):
    low, high = figures.intensity_window(volume)
    assert np.isfinite([low, high]).all()
    assert low < high


def test_a_missing_sequence_is_said_so_and_keeps_its_place():
    pixels = np.ones((6, 4))
    figure = drawn(figures.slice_panels({"t1n": None, "t1c": pixels}, {"t1c": (0.0, 1.0)}))
    assert titles(figure) == ["t1n", "t1c  [0, 1]"]
    assert [t.get_text() for t in figure.axes[0].texts] == ["missing"]
    assert not figure.axes[0].get_images()


@pytest.mark.parametrize(("panels", "rows", "columns"), [(1, 1, 1), (4, 1, 4), (5, 2, 3), (15, 2, 8)])
def test_many_panels_go_into_two_rows(panels, rows, columns):
    pixels = {f"p{i}": np.ones((5, 5)) for i in range(panels)}
    figure = drawn(figures.slice_panels(pixels, dict.fromkeys(pixels, (0.0, 1.0))))
    spec = figure.axes[0].get_gridspec()
    assert (spec.nrows, spec.ncols) == (rows, columns)
    assert [bool(t) for t in titles(figure)] == [True] * panels + [False] * (rows * columns - panels)


def test_predictions_share_slice_and_window_and_have_masks_of_their_own():
    volume, label = head()
    other = np.zeros_like(label)
    other[1:3, 1:3, 5] = 2
    figure = drawn(figures.predictions(volume, {"reference": label, "t1c": other, "none": 0 * label}, NAMES, "Title"))
    pictures = [axes.get_images()[0] for axes in figure.axes]
    assert len({p.get_clim() for p in pictures}) == 1
    for picture in pictures:
        np.testing.assert_array_equal(picture.get_array(), volume[:, :, 5].T)
    colours = [[c.get_edgecolor()[0] for c in axes.collections] for axes in figure.axes]
    assert [len(c) for c in colours] == [1, 1, 0]
    assert same_color(colours[0][0], COLOURS[2])
    assert same_color(colours[1][0], COLOURS[1])


def test_layers_are_one_row_of_slices():
    volume, _ = head()
    figure = drawn(figures.growth_layers({"healthy_gm": volume, "brain": volume}, index=5, title="Layers"))
    assert titles(figure) == ["healthy gm", "brain"]
    assert figure.axes[0].get_images()[0].get_array()[3, 7] == 9
    drawn(figures.growth_layers({"brain": volume}))


# --- tables -----------------------------------------------------------------------------------------------------------


def test_presence_shows_which_subject_has_what():
    table = pd.DataFrame({"t1c": [True, False, True], "t2f": [True, True, False]})
    figure = drawn(figures.presence(table))
    (axes,) = figure.axes
    np.testing.assert_array_equal(axes.collections[0].get_array().reshape(2, 3), [[1, 0, 1], [1, 1, 0]])
    assert [t.get_text() for t in axes.get_yticklabels()] == ["t1c", "t2f"]
    assert axes.get_xlabel() == "3 subjects"
    for lone in (table[:1], table[["t1c"]], table[:1][["t2f"]], table & False):
        drawn(figures.presence(lone))


def densities(modalities=("t1c", "t2f"), tissues=("brain", "ED"), count=50, **extra):
    rng = np.random.default_rng(0)
    rows = [(m, t, v) for m in modalities for t in tissues for v in rng.normal(size=count)]
    return pd.DataFrame(rows, columns=["modality", "tissue", "value"]).assign(**extra)


def test_densities_have_a_panel_a_modality_and_a_curve_a_tissue():
    figure = drawn(figures.tissue_densities(densities()))
    assert titles(figure) == ["t1c", "t2f"]
    for axes in figure.axes:
        assert [line.get_color() for line in axes.lines] == list(COLOURS[:2])
        for line in axes.lines:
            x, y = line.get_data()
            assert float(np.trapezoid(y, x)) == pytest.approx(1, abs=0.1)
    assert legend_of(figure) == ["brain", "ED"]


def test_densities_of_two_sources_differ_in_their_strokes():
    both = pd.concat([densities(source="phantom"), densities(source="real")])
    figure = drawn(figures.tissue_densities(both))
    assert [line.get_linestyle() for line in figure.axes[0].lines] == ["-", "--", "-", "--"]
    assert legend_of(figure) == ["brain", "ED", "phantom", "real"]


def test_a_tissue_of_a_few_voxels_or_one_value_has_no_density():
    few = pd.concat([densities(), densities(tissues=("ET",), count=3), densities(tissues=("NCR",)).assign(value=1.0)])
    figure = drawn(figures.tissue_densities(few))
    assert all(len(axes.lines) == 2 for axes in figure.axes)
    drawn(figures.tissue_densities(densities(modalities=("t1c",), tissues=("brain",))))


def embedded(shift=0.0, modalities=MODALITIES, count=20):
    rng = np.random.default_rng(0)
    table = pd.DataFrame(rng.normal(size=(count * len(modalities), 2)) + shift, columns=["x", "y"])
    return table.assign(modality=list(modalities) * count, subject=[f"P{i % 15}" for i in range(len(table))])


def test_embeddings_share_their_axes_and_their_colours():
    """Two panels with scales of their own would show a gap that closes where none does."""
    figure = drawn(figures.embedding({"before": embedded(), "after": embedded(30)}, "modality"))
    before, after = figure.axes
    assert titles(figure) == ["before", "after"]
    assert before.get_xlim() == after.get_xlim()
    assert before.get_ylim() == after.get_ylim()
    assert before.get_xlim()[0] < 0
    assert after.get_xlim()[1] > 30
    for axes in figure.axes:
        assert [c.get_label() for c in axes.collections] == list(MODALITIES)
        for points in axes.collections:
            assert same_color(points.get_facecolor()[0][:3], modality_style(MODALITIES)[points.get_label()][0])
            assert points.get_alpha() == 0.55, "both panels are equally transparent"
    assert legend_of(figure) == list(MODALITIES)
    assert all(handle.get_alpha() == 1 for handle in figure.legends[0].legend_handles)


def test_every_point_of_an_embedding_is_drawn():
    table = embedded()
    (axes,) = drawn(figures.embedding({"PCA": table}, "modality")).axes
    for points in axes.collections:
        own = table.loc[table["modality"] == points.get_label(), ["x", "y"]].to_numpy()
        assert sorted(map(tuple, np.asarray(points.get_offsets()))) == sorted(map(tuple, own))


def test_embeddings_by_other_columns():
    figure = drawn(figures.embedding({"PCA": embedded()}, "subject"))
    assert not figure.legends, "fifteen subjects would fill the page"
    figure = drawn(figures.embedding({"PCA": embedded(modalities=("t1c",))}, "modality"))
    assert legend_of(figure) == ["t1c"]
    palette = ("#111111", "#222222")
    figure = drawn(figures.embedding({"PCA": embedded().assign(site=["A", "B"] * 40)}, "site", palette=palette))
    assert [same_color(c.get_facecolor()[0][:3], p) for c, p in zip(figure.axes[0].collections, palette)] == [True] * 2


def test_gap_metrics_have_a_panel_each_with_intervals_where_there_are_any():
    table = pd.DataFrame(
        [("unaligned", "centroid_gap", 2.0, 1.5, 2.5), ("aligned", "centroid_gap", 0.5, 0.4, 0.6),
         ("unaligned", "modality_accuracy", 0.9, np.nan, np.nan), ("aligned", "modality_accuracy", np.nan, np.nan,
                                                                   np.nan)],
        columns=["run", "metric", "value", "low", "high"],
    )  # fmt: skip
    figure = drawn(figures.gap_dots(table, "The gap"))
    assert titles(figure) == ["centroid gap", "modality accuracy"]
    intervals = [[line for line in axes.lines if len(line.get_xdata()) == 2] for axes in figure.axes]
    assert [[list(line.get_xdata()) for line in found] for found in intervals] == [[[1.5, 2.5], [0.4, 0.6]], []]
    assert [t.get_text() for t in figure.axes[0].texts] == ["2.00", "0.50"]
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["unaligned", "aligned"]
    assert all(axes.get_xlim()[0] == 0 for axes in figure.axes)


@pytest.mark.parametrize("modalities", [MODALITIES, ("t1c", "t2f"), ("adc", "dwi", "t2f"), ("t1c",)])
def test_the_heat_map_has_a_row_a_subset_and_dots_in_the_modality_s_colour(modalities):
    figure = drawn(figures.subset_heatmap(scores(modalities)))
    dots, heat = figure.axes
    subsets = vocabulary.subsets(modalities)
    assert [t.get_text() for t in dots.get_xticklabels()] == list(modalities)
    assert [t.get_text() for t in heat.get_xticklabels()] == ["WT", "TC", "ET"]
    shown = heat.collections[0].get_array().reshape(len(subsets), 3)
    np.testing.assert_allclose(shown, [[0.2 * len(s) + 0.01] * 3 for s in subsets])
    assert heat.collections[0].get_clim() == (0, 1)
    assert len(dots.lines) == len(subsets) * len(modalities)
    style = modality_style(MODALITIES) | modality_style(modalities)
    for dot in dots.lines:
        modality, row = modalities[int(dot.get_xdata()[0])], int(dot.get_ydata()[0])
        assert same_color(dot.get_markeredgecolor(), style[modality][0])
        there = modality in subsets[row]
        assert same_color(dot.get_markerfacecolor(), style[modality][0] if there else "white")
    assert dots.get_ylim() == heat.get_ylim(), "a row of dots stands beside its row of numbers"


def test_a_heat_map_of_63_rows_fits_a_page_and_separates_the_sizes():
    names = ("t1n", "t1c", "t2w", "t2f", "adc", "rcbv")
    figure = drawn(figures.subset_heatmap(scores(names)))
    assert figure.get_figheight() <= 14
    dots, heat = figure.axes
    assert len(heat.texts) == 63 * 3
    rows = heat.get_window_extent().height / 63
    assert all(text.get_window_extent().height <= rows for text in heat.texts), "numbers do not touch each other"
    edges = np.cumsum([6, 15, 20, 15, 6])
    for axes, lines in ((dots, dots.collections[0]), (heat, heat.collections[1])):
        assert [segment[0, 1] for segment in lines.get_segments()] == list(edges), axes


def test_lines_fall_over_the_number_of_missing_modalities():
    figure = drawn(figures.missingness_lines({"dropout": scores(), "student": scores()}, draws=50))
    assert titles(figure) == ["WT", "TC", "ET"]
    for axes in figure.axes:
        for line in axes.lines:
            found = dict(zip(*line.get_data(), strict=True))
            assert found == pytest.approx({0: 0.81, 1: 0.61, 2: 0.41, 3: 0.21})
        assert axes.get_ylim() == (0, 1)
        assert list(axes.get_xticks()) == [0, 1, 2, 3]
    assert legend_of(figure) == ["dropout", "student"]


def test_missing_modalities_are_counted_against_the_same_whole_in_every_run():
    """A run that was scored on single modalities only has three missing, not none."""
    table = scores()
    singles = table[table["modalities"] == 1]
    figure = drawn(figures.missingness_lines({"all": table, "singles": singles}, draws=20))
    assert list(figure.axes[0].lines[1].get_xdata()) == [3]
    ends = table[table["modalities"].isin([1, 4])]
    figure = drawn(figures.missingness_lines({"ends": ends}, draws=20))
    assert sorted(figure.axes[0].lines[0].get_xdata()) == [0, 3]
    assert list(figure.axes[0].get_xticks()) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "options",
    [{"modalities": ("t1c",)}, {"subjects": 1}, {"regions": ("lesion",)}, {"empty": ("ET",)}, {"empty": ("WT",)}],
    ids=str,
)
def test_small_cohorts_and_empty_regions_can_be_drawn(options):
    """Enhancing tumour that no reference holds has no Dice under the rule 'nan'."""
    table = scores(**options)
    figure = drawn(figures.missingness_lines({"dropout": table, "student": table}, draws=20))
    assert legend_of(figure) == ["dropout", "student"]
    assert titles(figure) == list(dict.fromkeys(table["region"]))
    drawn(figures.subset_heatmap(table))


def test_many_runs_have_lines_each():
    table = scores(("t1c", "t2f"), ("WT",))
    figure = drawn(figures.missingness_lines({f"run {i}": table for i in range(10)}, draws=5))
    assert len(figure.axes[0].lines) == 10


def test_differences_are_filled_where_the_interval_excludes_zero():
    table = pd.DataFrame({"name": ["a", "b", "c"], "difference": [0.1, 0.0, -0.1], "low": [0.05, -0.1, -0.2],
                          "high": [0.15, 0.1, -0.01]})  # fmt: skip
    (axes,) = drawn(figures.forest(table)).axes
    dots = [line for line in axes.lines if line.get_marker() == "o"]
    assert [float(d.get_xdata()[0]) for d in dots] == [0.1, 0.0, -0.1]
    assert [same_color(d.get_markerfacecolor(), "white") for d in dots] == [False, True, False]
    assert [t.get_text() for t in axes.get_yticklabels()] == ["a", "b", "c"]
    assert axes.get_ylim()[0] > axes.get_ylim()[1], "the first row is at the top"
    drawn(figures.forest(table[:1]))


def test_learning_curves_are_running_means():
    long = pd.DataFrame({"segmentation": np.linspace(1, 0, 80)}, index=pd.RangeIndex(80, name="step"))
    other = long.rename(columns={"segmentation": "distil_logits"})
    figure = drawn(figures.learning_curves({"dropout": long, "student": other, "one step": long[:1]}))
    (axes,) = figure.axes
    assert [line.get_label() for line in axes.lines] == ["dropout", "one step"], "the student logs no such term"
    np.testing.assert_allclose(axes.lines[0].get_ydata()[1:], (long["segmentation"] + 0.5 / 79)[1:])
    assert axes.get_ylabel() == "segmentation"
    assert not drawn(figures.learning_curves({"dropout": long}, "align")).axes[0].lines


def test_anchors_show_the_mixture_and_the_price_of_each():
    costs = pd.DataFrame({"anchor": ["mixture", "t1c"], "js": [0.3, 0.3], "price": [0.0, 0.4]})
    figure = drawn(figures.gaussian_anchors([0, 2, 4], [1, 1, 1], [1, 1, 1], ["t1c", "t2w", "t2f"], costs, (2.0, 0.6)))
    left, right = figure.axes
    style = modality_style(("t1c", "t2w", "t2f"))
    assert [line.get_color() for line in left.lines[:3]] == [style[m][0] for m in ("t1c", "t2w", "t2f")]
    *each, mixture, barycentre = left.lines
    np.testing.assert_allclose(mixture.get_ydata(), np.mean([line.get_ydata() for line in each], axis=0))
    assert float(np.trapezoid(mixture.get_ydata(), mixture.get_xdata())) == pytest.approx(1, abs=1e-3)
    assert barycentre.get_ydata().max() == pytest.approx(1 / 0.6 / np.sqrt(2 * np.pi), rel=1e-3)
    assert [bar.get_width() for bar in right.patches] == pytest.approx([0.3, 0.3, 0.0, 0.4])
    assert [bar.get_x() for bar in right.patches] == pytest.approx([0, 0, 0.3, 0.3])
    assert [t.get_text() for t in right.get_yticklabels()] == ["mixture", "t1c"]
    drawn(figures.gaussian_anchors([0], [1], [1], ["t1c"], costs[:1]))


# --- files and processes ----------------------------------------------------------------------------------------------


def test_a_saved_figure_carries_its_description(tmp_path):
    volume, label = head()
    words = "Oedema (σ = 2) is bright in t2f & dark in t1n."
    path = figures.save(figures.sequences({"t1c": volume}, label), tmp_path / "figures", "slices", words)
    assert path == tmp_path / "figures" / "slices.png"
    with Image.open(path) as picture:
        assert picture.text["Description"] == words
        assert picture.info["dpi"] == pytest.approx((150, 150), abs=0.1)
    assert list(path.parent.iterdir()) == [path], "nothing is left aside"


def test_no_figure_is_given_to_pyplot():
    """Pyplot keeps what it is given until it is closed, and shows it a second time in a notebook.

    seaborn imports pyplot; drawing must not use it all the same, nor choose a backend of windows.
    """
    code = """
import sys
import numpy as np, pandas as pd
from mtg_lab import figures
import matplotlib.pyplot as plt
def refuse(*arguments, **options):
    raise AssertionError("a figure of pyplot")
plt.figure = plt.subplots = plt.gcf = plt.gca = refuse
scores = pd.DataFrame({"subject": ["P"], "subset": ["t1c"], "modalities": [1], "region": ["WT"], "value": [0.5]})
for figure in (figures.sequences({"t1c": np.ones((4, 4, 4))}), figures.presence(pd.DataFrame({"t1c": [True]})),
               figures.subset_heatmap(scores), figures.missingness_lines({"run": scores}, draws=2)):
    figure.canvas.draw()
print(plt.get_fignums(), "import matplotlib.pyplot" in open(figures.__file__).read())
"""
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert child.stdout.strip() == "[] False"


def test_colours_are_colours():
    assert all(to_rgba(colour)[3] == 1 for colour in COLOURS)
    assert len(set(COLOURS)) == len(COLOURS) == len(MARKERS)
