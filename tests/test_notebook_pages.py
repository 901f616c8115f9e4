"""Pages of notebooks: formulas without a network, widgets in words, the goal found."""

import re
from xml.etree import ElementTree

import nbformat.v4 as v4
import pytest

from mtg_lab.notebook_pages import export_html, goal

MATHML = "{http://www.w3.org/1998/Math/MathML}"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    cells = [
        v4.new_markdown_cell("# A title\n\nThe *gap* of `x`.\n\nInline $\\frac{a_1}{b^2}$, costs 5\\$ and"),
        v4.new_markdown_cell("$$\\sum_m w_m\\,\\mathrm{KL}(q_m\\|P) < \\overline D$$"),
        v4.new_markdown_cell("| a | $\\omega$ |\n| - | - |\n| 1 | 2 |"),
        v4.new_markdown_cell("Broken: $a^1^2$"),
        v4.new_code_cell("x", outputs=[v4.new_output("display_data", data={
            "application/vnd.jupyter.widget-view+json": {"model_id": "1"}, "text/plain": "HBox()"})]),
    ]  # fmt: skip
    path = tmp_path_factory.mktemp("page") / "page.html"
    return export_html(v4.new_notebook(cells=cells), path).read_text()


def test_formulas_are_set_without_a_script(page):
    inline, block, in_table = (ElementTree.fromstring(m) for m in re.findall(r"<math.*?</math>", page, re.DOTALL))
    above, below = next(inline.iter(f"{MATHML}mfrac"))
    assert ["".join(part.itertext()) for part in (above, below)] == ["a1", "b2"]
    assert (inline.get("display"), block.get("display")) == ("inline", "block")
    assert "".join(block.itertext()).startswith("∑")
    assert "".join(in_table.itertext()) == "ω"


def test_a_dollar_and_a_formula_that_cannot_be_read_stay_as_they_are_written(page):
    assert "costs 5$ and" in page.replace("\\$", "$")
    assert "$a^1^2$" in page


def test_the_page_asks_nobody_for_anything(page):
    assert not re.findall(r"<(?:script|link|img|iframe)[^>]+(?:src|href)=[\"']?(?:https?:)?//", page)
    assert "mathjax" not in page.lower()


def test_a_widget_is_told_in_words(page):
    assert "Interactive: open the notebook to move this widget." in page
    assert "HBox()" not in page


def test_the_goal_is_the_first_heading_and_paragraph():
    notebook = v4.new_notebook(
        cells=[v4.new_code_cell("1"), v4.new_markdown_cell("# A *title*\n\nThe [gap](x) of `y`.")]
    )
    assert goal(notebook) == ("A title", "The gap of y.")
