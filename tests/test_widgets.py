"""Widgets without a browser: a moved control draws another picture and says so in words."""

import io
import itertools
import re
import threading

import numpy as np
import pandas as pd
import pytest
from PIL import Image

pytest.importorskip("ipywidgets")

from mtg_lab.widgets import gaussian_anchor, quiz, subset_explorer, volume_viewer

MODALITIES = ("t1n", "t1c", "t2w", "t2f")


def picture(box) -> bytes:
    return box.children[-2].value


def caption(box) -> str:
    return re.sub(r"<[^>]+>", "", box.children[-1].value)


def walk(widget):
    yield widget
    for child in getattr(widget, "children", ()):
        yield from walk(child)


def control(box, words: str):
    (found,) = [widget for widget in walk(box) if getattr(widget, "description", "") == words]
    return found


def changes(box, words: str, value) -> bool:
    before = picture(box), caption(box)
    control(box, words).value = value
    after = picture(box), caption(box)
    assert Image.open(io.BytesIO(after[0])).format == "PNG"
    return before[0] != after[0] and before[1] != after[1]


@pytest.fixture
def viewer():
    rng = np.random.default_rng(0)
    images = {name: rng.normal(size=(12, 14, 10)).astype(np.float32) for name in MODALITIES}
    label = np.zeros((12, 14, 10), dtype=np.int16)
    label[3:8, 3:8, 6:8] = 2
    label[4:6, 4:6, 6] = 3
    return volume_viewer(images, label, present=("t1c", "t2f"), label_names={2: "oedema", 3: "enhancing"})


@pytest.fixture
def scores():
    subsets = [s for size in range(1, 5) for s in itertools.combinations(MODALITIES, size)]
    rows = [
        {"subject": subject, "subset": "+".join(s), "region": region, "metric": metric, "value": value + 0.1 * len(s)}
        for s in subsets
        for region in ("WT", "ET")
        for metric, base in (("dice", 0.3), ("hd95", 9.0))
        for subject, value in (("P1", base), ("P2", base + 0.2))
    ]
    return pd.DataFrame(rows)


def test_the_viewer_opens_on_the_slice_with_most_label(viewer):
    assert control(viewer, "slice").value == 6
    assert "outlined: oedema, enhancing" in caption(viewer)
    assert "shown: t1c, t2f; taken away: t1n, t2w" in caption(viewer)


@pytest.mark.parametrize(
    ("words", "value"), [("slice", 7), ("t1n", True), ("t1c", False), ("outline of the label", False)]
)
def test_every_control_of_the_viewer_changes_picture_and_caption(viewer, words, value):
    assert changes(viewer, words, value)


def test_the_viewer_shows_left_on_the_left():
    # Bright where x is small, which is the patient's left in RAS.
    image = np.ones((20, 20, 5))
    image[:10] = 5
    pixels = np.asarray(Image.open(io.BytesIO(picture(volume_viewer({"t1n": image})))).convert("L")).astype(float)
    row = pixels[pixels.shape[0] // 2]
    middle = len(row) // 2
    assert row[middle - 40 : middle - 20].mean() > row[middle + 20 : middle + 40].mean() + 100


def test_the_viewer_survives_nan_constant_and_empty_volumes():
    for image in (np.zeros((4, 4, 4)), np.full((4, 4, 4), np.nan), np.full((4, 4, 4), 3.0)):
        assert picture(volume_viewer({"t1n": image}, np.zeros((4, 4, 4), dtype=int)))


def test_the_viewer_refuses_what_does_not_fit():
    image = np.zeros((4, 4, 4))
    with pytest.raises(ValueError, match="one shape"):
        volume_viewer({"t1n": image, "t1c": image[:3]})
    with pytest.raises(ValueError, match="none"):
        volume_viewer({})
    with pytest.raises(ValueError, match="present names t2f; there are t1n"):
        volume_viewer({"t1n": image}, present=["t2f"])


def test_the_explorer_averages_the_rows_of_the_ticked_subset(scores):
    box = subset_explorer(scores)
    assert changes(box, "t1n", False)
    assert changes(box, "t2w", False)
    # Mean of 0.3 and 0.5, and 0.1 for each of two sequences; HD95 is another metric.
    assert caption(box) == "Mean dice with t1c+t2f: WT 0.60, ET 0.60. With all sequences: WT 0.80, ET 0.80."
    for name in ("t1c", "t2f"):
        control(box, name).value = False
    assert caption(box) == "Nothing is ticked."


def test_the_explorer_takes_a_subset_in_any_order_and_says_when_one_was_not_scored(scores):
    turned = scores.assign(subset=["+".join(reversed(s.split("+"))) for s in scores["subset"]])
    box = subset_explorer(turned[turned["subset"] != "t1c+t1n"])
    for name in ("t2w", "t2f"):
        control(box, name).value = False
    assert "was not scored" in caption(box)


def test_the_explorer_refuses_a_table_of_another_kind(scores):
    with pytest.raises(ValueError, match="lack the column region"):
        subset_explorer(scores.drop(columns="region"))
    with pytest.raises(ValueError, match="no score of the metric nsd"):
        subset_explorer(scores, metric="nsd")


def test_the_quiz_judges_and_explains():
    box = quiz("Which goes first?", ["WT", "ET"], "ET", "Only t1c shows <it>.")
    _, choice, check, feedback = box.children
    check.click()
    assert "Choose one first" in feedback.value
    choice.value = "WT"
    check.click()
    assert "Not quite: ET" in feedback.value
    choice.value = "ET"
    check.click()
    assert "Yes. Only t1c shows &lt;it&gt;." in feedback.value
    with pytest.raises(ValueError, match="none of the options"):
        quiz("?", ["a"], "b", "")


@pytest.mark.parametrize("words", ["distance of the q_m", "mean of the anchor P", "width of the anchor P"])
def test_every_slider_of_the_anchor_changes_picture_and_caption(words):
    assert changes(gaussian_anchor(), words, 0.7)


def test_cost_is_gap_plus_price_and_the_mixture_has_no_price():
    box = gaussian_anchor()
    for value in (-2.0, 0.0, 3.0):
        control(box, "mean of the anchor P").value = value
        cost, gap, price = map(float, re.findall(r"\d+\.\d{3}", caption(box)))
        assert cost == pytest.approx(gap + price, abs=0.0016)
        assert price > 0
    control(box, "let P be the mixture of the q_m").value = True
    assert re.search(r"anchor -?0\.000", caption(box))


def test_the_anchor_takes_two_modalities_and_another_computing_function():
    def half(means, sds, weights, anchor_mean, anchor_sd):
        return {"cost": 1.0, "js": 0.5, "price": 0.5}

    assert "0.500" in caption(gaussian_anchor((-1, 1), (1, 1), compute=half))
    with pytest.raises(ValueError, match="equally many"):
        gaussian_anchor((-1, 1), (1, 1, 1))


def test_callbacks_on_another_thread_leave_the_current_figure_alone(viewer):
    import matplotlib.pyplot as plt

    mine = plt.figure()
    before = picture(viewer)
    mover = threading.Thread(target=lambda: setattr(control(viewer, "slice"), "value", 1))
    mover.start()
    mover.join()
    assert picture(viewer) != before
    assert plt.get_fignums() == [mine.number]
    plt.close(mine)
