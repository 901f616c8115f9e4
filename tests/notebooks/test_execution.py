"""Every notebook is executed in the smoke preset, through the runner that the command uses."""

import json
import re
from pathlib import Path

import pytest

from mtg_lab.notebooks import default_folder, find_notebooks, run_notebooks

NAMES = [path.stem for path in find_notebooks([], default_folder())]


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    out = tmp_path_factory.mktemp("smoke")
    outcomes = run_notebooks(find_notebooks([], default_folder()), out, preset="smoke", progress=False)
    return {outcome.notebook: outcome for outcome in outcomes}, out


def test_the_suite_has_these_lessons():
    assert NAMES == [
        "00_start_here",
        "01_data",
        "02_missing_modalities",
        "03_modality_gap",
        "04_pmix_alignment",
        "05_teacher",
        "06_students",
        "07_evaluation",
        "08_backbones",
        "09_passion",
        "10_adamm",
        "11_strategies",
        "12_trained_on_nobody",
        "13_report",
        "14_representation_surgery",
        "15_explore",
    ]


@pytest.mark.slow
@pytest.mark.timeout(2400)  # of all together; cells have limits of their own
@pytest.mark.parametrize("name", NAMES)
def test_it_runs_and_leaves_pictures_with_words_numbers_and_a_page(executed, name):
    outcome = executed[0][name]
    assert outcome.status == "done", f"cell {outcome.cell}: {outcome.message}"
    folder = outcome.executed.parent
    numbers = json.loads((folder / "metrics.json").read_text())
    assert numbers
    page = outcome.html.read_text()
    pictures = re.findall(r"<img[^>]*>", page)
    assert len(list((folder / "figures").glob("*.png"))) >= 2
    assert len(pictures) >= 2
    assert all('alt="' in picture for picture in pictures)


@pytest.mark.slow
def test_what_one_notebook_trained_the_next_one_loads(executed):
    """The runs of 07 are those of 06: it trains nothing."""
    outcomes, _ = executed
    again = outcomes["07_evaluation"]
    assert again.metrics["seeds_count"] == 1
    assert again.seconds < outcomes["06_students"].seconds + outcomes["05_teacher"].seconds


@pytest.mark.slow
def test_the_index_shows_the_dice_table_of_the_last_lesson(executed):
    _, out = executed
    page = (out / "index.html").read_text()
    assert "student, aligned teacher" in page
    for link in re.findall(r'href="([^"#:]+)"', page):
        assert (Path(out) / link).is_file(), link


@pytest.mark.slow
def test_every_number_is_finite_or_said_not_to_be(executed):
    outcomes, _ = executed
    dice = {k: v for k, v in outcomes["07_evaluation"].metrics.items() if k.startswith("dice_")}
    assert len(dice) == 4
    assert all(0 <= v <= 1 for v in dice.values())
