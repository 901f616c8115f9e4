"""The list of patients: those that differ most first, and a choice that moves both pictures."""

import pytest
from matplotlib.figure import Figure
from score_tables import table_of

from mtg_lab.widgets_cases import case_explorer


@pytest.fixture
def explorer():
    asked = []

    def picture(subject):
        asked.append(subject)
        return Figure(figsize=(2, 2))

    ours = table_of(lambda p, s, r: 0.5 + (0.3 if p == 2 else 0.01 * p))
    theirs = table_of(lambda p, s, r: 0.5)
    return case_explorer(ours, theirs, ("ours", "theirs"), picture), asked


def parts(box):
    upper, lower = box.children
    return upper.children, lower.children


def test_the_patient_who_differs_most_is_first_and_shown(explorer):
    box, asked = explorer
    (chosen, _, caption), _ = parts(box)
    assert [value for _, value in chosen.options] == ["P2", "P3", "P1", "P0"]
    assert chosen.options[0][0].endswith("+0.300")
    assert chosen.value == "P2"
    assert asked == ["P2"]
    assert "P2: mean dice 0.800 under ours, 0.500 under theirs (difference +0.300)." in caption.value


def test_a_choice_moves_scatter_and_case(explorer):
    box, asked = explorer
    (chosen, scatter, caption), (_, said) = parts(box)
    before = scatter.value
    chosen.value = "P1"
    assert asked == ["P2", "P1"]
    assert scatter.value != before
    assert "P1: mean dice 0.510" in caption.value
    assert "drawn for P1" in said.value


def test_the_list_stands_once():
    box = case_explorer(
        table_of(lambda p, s, r: 0.1 * p), table_of(lambda p, s, r: 0.5), ("a", "b"), lambda s: Figure()
    )
    (chosen, *_), below = parts(box)
    assert chosen not in below
