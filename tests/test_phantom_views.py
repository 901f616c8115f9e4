"""The phantom taken apart: steps end with what `synthesise` makes, and every panel has a window of its own."""

import numpy as np
import pytest

from mtg_lab import phantom
from mtg_lab.errors import InputError
from mtg_lab.phantom_views import built_up, common_slice, step_panels


@pytest.fixture(scope="module")
def steps():
    return built_up(2, 6.0, "B", "anatomy+scanners+ceilings")


def test_steps_lead_from_tissue_to_the_plain_phantom_and_on_to_all_that_was_asked(steps):
    assert [s.name for s in steps] == [
        "healthy tissue", "a tumour", "its mass", "signal", "scanner", "+ anatomy", "+ scanners", "+ ceilings",
    ]  # fmt: skip
    for words, step in (("", steps[4]), ("anatomy", steps[5]), ("anatomy+scanners+ceilings", steps[-1])):
        case = phantom.synthesise(2, "B", 6.0, ingredients=words)
        assert np.array_equal(step.label, case.label)
        assert all(np.array_equal(step.panels[m], case.images[m]) for m in phantom.MODALITIES)
    assert not steps[0].label.any()
    signals = phantom.layers(2, 6.0, site="B")
    assert all(np.array_equal(steps[3].panels[m], signals[f"signal_{m}"]) for m in phantom.MODALITIES)
    assert not np.array_equal(steps[3].panels["t1n"], phantom.layers(2, 6.0)["signal_t1n"]), "another site's sequence"


def test_shares_are_shown_from_nothing_to_all_and_images_by_their_own_grey_values(steps):
    assert set(steps[0].windows().values()) == {(0.0, 1.0)}
    assert all(np.max(v) <= 1.001 for step in steps[:3] for v in step.panels.values())
    assert len(set(steps[4].windows().values())) == 4


def test_a_sequence_is_drawn_for_every_step_that_has_it(steps):
    figure = step_panels(steps, "t1c", {1: "NCR", 2: "ED", 3: "ET"})
    drawn = [axes.get_title().split("  ")[0] for axes in figure.axes if axes.get_title()]
    assert drawn == [s.name for s in steps[3:]]
    place = common_slice(steps)
    assert any(step.label[:, :, place].any() for step in steps)
    with pytest.raises(InputError, match="no step shows 'adc'; there are: t1n, t1c, t2w, t2f"):
        step_panels(steps, "adc", {})
