"""A number to guess: nothing is told before the reader commits."""

import pytest
from test_widgets import control

from mtg_lab.errors import InputError
from mtg_lab.widgets_guess import guess, guess_picture, verdict


def test_the_truth_is_shown_only_after_the_guess():
    box = guess("How much?", 0.25, "Because of <that>.", unit="Dice")
    _, slider, button, image, words = box.children
    assert control(box, "your guess") is slider
    before = image.value
    slider.value = 0.8
    assert image.value != before
    assert "0.25" not in words.value
    button.click()
    assert "It is 0.25 Dice; your guess of 0.80 is 0.55 too high. Because of &lt;that&gt;." in words.value
    shown = image.value
    slider.value = 0.2
    assert image.value != shown, "the guess can be moved to the truth"
    button.click()
    assert "Close: it is 0.25 Dice, and your guess of 0.20 is 0.05 off" in words.value


@pytest.mark.parametrize(
    ("guessed", "words"), [(0.5, "✗ It is 0.20; your guess of 0.50 is 0.30 too high."), (0.1, "0.10 too low")]
)
def test_the_verdict_says_how_far_off_and_to_which_side(guessed, words):
    assert words in verdict(guessed, 0.2)


def test_the_static_twin_marks_what_it_is_given():
    texts = [t.get_text() for t in guess_picture(None, 0.25).axes[0].texts]
    assert texts == ["truth 0.25"]
    assert len(guess_picture(0.5, 0.25).axes[0].texts) == 2


def test_a_truth_beyond_the_slider_is_refused():
    with pytest.raises(InputError, match=r"1\.5 is not between 0"):
        guess("?", 1.5, "")
