"""A point leads to the voxel that it came from, and to its pairs."""

import numpy as np
import pandas as pd
import pytest
from test_widgets import caption

from mtg_lab.errors import InputError
from mtg_lab.palette import modality_style
from mtg_lab.widgets_points import MOST_POINTS, PointPicker, point_explorer, point_picture, point_words, voxel_of

SHAPE = (5, 6, 4)
VOLUMES = {m: np.arange(120.0).reshape(SHAPE) + i for i, m in enumerate(("t1c", "t2f"))}


@pytest.fixture
def table():
    rng = np.random.default_rng(0)
    rows = [
        (subject, "A", tissue, voxel, modality, *rng.normal(size=2))
        for subject in ("P1", "P2")
        for tissue, voxel in (("brain", 7), ("ET", 119))
        for modality in ("t1c", "t2f")
    ]
    return pd.DataFrame(rows, columns=["subject", "site", "tissue", "voxel", "modality", "x", "y"])


def picker(box) -> PointPicker:
    return box.children[0].children[0].children[1]


def image(box) -> bytes:
    return box.children[0].children[1].value


def test_a_flat_index_is_read_as_numpy_wrote_it(table):
    assert voxel_of(table.iloc[2], VOLUMES) == (4, 5, 3)
    i, j, k = voxel_of(table.iloc[0], VOLUMES)
    assert VOLUMES["t1c"][i, j, k] == 7
    with pytest.raises(InputError, match="outside its grid"):
        voxel_of(table.assign(voxel=120).iloc[0], VOLUMES)


def test_a_chosen_point_shows_its_patient_its_voxel_and_its_pairs(table):
    asked = []
    box = point_explorer(table, lambda name: asked.append(name) or VOLUMES)
    before = image(box)
    picker(box).selected = 6  # P2, ET, t1c
    assert asked == ["P1", "P2"]
    assert picker(box).ringed == [7]
    assert image(box) != before
    assert "Point 7 of 8: P2, ET, t1c, voxel 4, 5, 3; ringed: the same voxel in t2f." in caption(box)
    assert picker(box).words in caption(box), "told to screen readers too"
    picker(box).selected = 7
    assert asked == ["P1", "P2"], "the same patient is not loaded again"


def test_points_have_the_colours_and_markers_of_the_house(table):
    box = point_explorer(table, lambda name: VOLUMES)
    styles = modality_style(["t1c", "t2f"])
    assert picker(box).colours == [styles[m][0] for m in ("t1c", "t2f")]
    assert picker(box).markers == [styles[m][1] for m in ("t1c", "t2f")]
    assert list(picker(box).codes) == [0, 1] * 4
    box.children[0].children[0].children[0].value = "tissue"
    assert list(picker(box).codes) == [0, 0, 1, 1] * 2


def test_places_fill_the_unit_square(table):
    places = np.frombuffer(picker(point_explorer(table, lambda name: VOLUMES)).places, np.float32).reshape(-1, 2)
    assert places.min(axis=0).tolist() == [0, 0]
    assert places.max(axis=0).tolist() == [1, 1]
    np.testing.assert_array_equal(np.argsort(places[:, 0]), np.argsort(table["x"]))


def test_five_thousand_points_are_light():
    """Twelve bytes a point and no more, however long the names are."""
    rng = np.random.default_rng(0)
    many = pd.DataFrame(rng.normal(size=(MOST_POINTS, 2)), columns=["x", "y"]).assign(
        subject="a rather long name", tissue="brain", voxel=0, modality="t1c"
    )
    state = picker(point_explorer(many.assign(voxel=np.arange(MOST_POINTS) % 120), lambda name: VOLUMES)).get_state()
    assert len(state["places"]) + len(state["codes"]) == 9 * MOST_POINTS
    with pytest.raises(InputError, match="5001 points"):
        point_explorer(pd.concat([many, many.iloc[:1]]), lambda name: VOLUMES)


def test_the_static_twin_says_the_same(table):
    figure, words = point_picture(table, lambda name: VOLUMES, 6, "tissue")
    assert words == point_words(table, 6, (4, 5, 3))
    assert len(figure.findobj(lambda artist: artist.__class__.__name__ == "AxesImage")) == len(VOLUMES)


def test_a_table_without_places_is_refused(table):
    with pytest.raises(InputError, match="lack the column voxel, y"):
        point_explorer(table.drop(columns=["voxel", "y"]), lambda name: VOLUMES)
