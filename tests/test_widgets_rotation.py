"""An embedding of three dimensions, from several sides."""

import numpy as np
import pandas as pd
import pytest
from test_widgets import caption, changes

from mtg_lab.errors import InputError
from mtg_lab.widgets_rotation import angles_picture, rotating_view


@pytest.fixture
def table():
    rng = np.random.default_rng(0)
    points = pd.DataFrame(rng.normal(size=(40, 3)), columns=["x", "y", "z"])
    return points.assign(modality=["t1c", "t2f"] * 20, tissue=["brain"] * 30 + ["ET"] * 10)


def test_angle_and_colour_draw_another_picture(table):
    box = rotating_view(table)
    assert changes(box, "angle", 120)
    assert "seen from 120 degrees" in caption(box)
    assert changes(box, "coloured by", "tissue")


def test_the_static_twin_looks_from_four_sides_on_the_same_axes(table):
    axes = angles_picture(table).axes
    assert [a.azim for a in axes] == [30, 120, 210, 300]
    assert len({(a.get_xlim(), a.get_ylim(), a.get_zlim()) for a in axes}) == 1


def test_a_table_of_two_dimensions_is_refused(table):
    with pytest.raises(InputError, match="needs columns x, y, z"):
        rotating_view(table.drop(columns="z"))
    with pytest.raises(InputError, match="of 0 points"):
        angles_picture(table.iloc[:0])
