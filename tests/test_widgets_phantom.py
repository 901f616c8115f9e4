"""A step's slider shows what is there after that step, and says what it did."""

import pytest
from test_widgets import caption, changes, control, picture

from mtg_lab.errors import InputError
from mtg_lab.phantom_views import built_up
from mtg_lab.widgets_phantom import phantom_builder


@pytest.fixture(scope="module")
def steps():
    return built_up(2, 6.0, ingredients="lesions")


def test_every_step_is_shown_and_told(steps):
    box, seen = phantom_builder(steps, {1: "NCR", 2: "ED", 3: "ET"}), set()
    for number, step in enumerate(steps):
        control(box, "step").value = number
        assert caption(box).startswith(f"Step {number + 1} of {len(steps)}, {step.name}: {step.words}")
        seen.add(picture(box))
    assert len(seen) == len(steps)


@pytest.mark.parametrize(("words", "value"), [("slice", 3), ("outline of the label", True)])
def test_other_controls_change_the_picture(steps, words, value):
    box = phantom_builder(steps, {1: "NCR", 2: "ED", 3: "ET"})
    control(box, "step").value = 4
    assert changes(box, words, value)


def test_nothing_to_show_is_told():
    with pytest.raises(InputError, match="there is no step to show"):
        phantom_builder([])
