"""The report: every promised file, links that lead somewhere, sentences that statistics carry, nothing from outside."""

import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image
from score_tables import all_subsets, table_of

from mtg_lab.cases import Case
from mtg_lab.errors import InputError
from mtg_lab.report import sections, write_report
from mtg_lab.report_page import svg

SUBJECTS = 8
PROTOCOL = {
    "cohort": "c", "split": "test", "cases": tuple(f"P{p}" for p in range(SUBJECTS)),
    "subsets": tuple("+".join(s) for s in all_subsets()), "regions": ("WT", "ET"), "spacing_mm": 2.0, "window": 0,
    "overlap": 0.0, "empty": "one", "precision": "fp32",
}  # fmt: skip
OWN = {"t1n": 0.05, "t1c": 0.4, "t2w": 0.15, "t2f": 0.2}


def scored(gain=0.0, subjects=SUBJECTS):
    """Additive in the sequences, so that Shapley values are known; patients differ a little."""
    table = table_of(lambda p, s, r: sum(OWN[m] for m in s) * (0.8 + 0.02 * p) + gain, subjects=subjects)
    table.attrs["protocol"] = PROTOCOL
    return table


def case_of(subject):
    volume = np.zeros((12, 12, 12), np.float32)
    volume[3:9, 3:9, 3:9] = np.linspace(1, 2, 6)
    truth = np.zeros((12, 12, 12), np.uint8)
    truth[4:7, 4:7, 4:7] = 1
    return Case(subject, "t1c", "t1c", volume, {"reference": truth, "ours": np.roll(truth, 1, 0)}, {1: "lesion"})


class Links(HTMLParser):
    """What a page refers to, and what it can be referred to by."""

    def __init__(self, text):
        super().__init__()
        self.ids, self.hrefs, self.sources, self.scripts = [], [], [], 0
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        facts = dict(attrs)
        self.scripts += tag == "script"
        if "id" in facts:
            self.ids.append(facts["id"])
        for name in ("href", "xlink:href"):
            if name in facts:
                self.hrefs.append(facts[name])
        if "src" in facts:
            self.sources.append(facts["src"])


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    scores = {"base": {0: scored(), 1: scored(0.01)}, "gains_0.1": {0: scored(0.1), 1: scored(0.12)}}
    page = write_report(scores, folder, cases=[case_of("P1"), case_of("P2")], about={"base": "a run"})
    return folder, page.read_text()


def test_every_link_of_the_page_leads_somewhere_and_no_id_is_twice(written):
    folder, text = written
    found = Links(text)
    assert len(found.ids) == len(set(found.ids))
    for href in found.hrefs:
        if href.startswith("#"):
            assert href[1:] in found.ids, href
        else:
            assert (folder / href).is_file(), href
    assert {"#case-P1", "#case-P2"} <= set(found.hrefs)


def test_the_page_has_no_script_and_asks_nobody_for_anything(written):
    found = Links(written[1])
    assert found.scripts == 0
    assert all(source.startswith("data:image/webp") for source in found.sources)
    assert not [href for href in found.hrefs if re.match(r"\w+:", href)]
    assert "@import" not in written[1]


def test_pictures_are_there_for_screen_and_for_print(written):
    folder, _ = written
    names = {p.stem for p in (folder / "figures").glob("*.png")}
    assert {"missingness", "subsets_0", "subsets_1", "worth_0", "worth_1", "cases_0", "ranks"} <= names
    assert names == {p.stem for p in (folder / "figures").glob("*.pdf")}
    for path in (folder / "figures").glob("*.pdf"):
        assert path.read_bytes().startswith(b"%PDF")
    with Image.open(folder / "figures" / "worth_0.png") as picture:
        picture.load()
        assert picture.info["Description"].startswith("Shapley values for base; worth most: t1c for WT")


def test_numbers_on_disk_are_those_of_the_scores(written):
    folder, _ = written
    means = pd.read_csv(folder / "tables" / "summary.csv").set_index(["method", "region"])["mean"]
    # Every sequence is in 8 of the 15 subsets.
    expected = sum(OWN.values()) * 8 / 15 * np.mean(0.8 + 0.02 * np.arange(SUBJECTS))
    assert means["base", "WT"] == pytest.approx(expected + 0.005)
    assert means["gains_0.1", "ET"] == pytest.approx(expected + 0.11)
    worth = pd.read_csv(folder / "tables" / "worth.csv").query("method == 'base' and region == 'WT'")
    assert worth["value"].sum() == pytest.approx(worth["full"].iloc[0])
    again = pd.read_csv(folder / "scores.csv")
    assert len(again) == 4 * SUBJECTS * 15 * 2
    assert set(again["arm"]) == {"base", "gains_0.1"}
    assert set(again["seed"]) == {0, 1}
    assert r"\textbf" in (folder / "tables" / "summary.tex").read_text()


def test_the_verdict_is_in_words_and_the_protocol_stands_on_top_and_below(written):
    text = written[1]
    assert "base is worse than gains_0.1 over all regions" in text
    assert text.count("8 test cases, 15 subsets, WT/ET, 2 mm grid") >= 2


def test_cases_are_sorted_from_worst_to_best(written):
    order = re.findall(r'<article class="case" id="case-(P\d)"', written[1])
    assert order == [f"P{p}" for p in range(SUBJECTS)]


def test_one_method_has_no_verdict_and_no_scatter():
    titles = [s.title for s in sections({"only": scored()})]
    assert titles == ["Means", "As sequences go missing", "What each sequence is worth"]


def test_what_cannot_be_told_of_some_subsets_is_said():
    some = scored()
    some = some[some["subset"].isin(["t1c", "t2f", "t1c+t2f"])].query("subset != 't1c+t2f'")
    some.attrs["protocol"] = PROTOCOL
    told = {s.title: s for s in sections({"only": some})}
    assert "need all" in told["What each sequence is worth"].words[0]
    assert not told["What each sequence is worth"].figures
    assert any("No area" in words for words in told["As sequences go missing"].words)


def test_scores_without_their_protocol_are_refused(tmp_path):
    with pytest.raises(InputError, match="carry no protocol"):
        write_report({"only": table_of(lambda p, s, r: 0.5)}, tmp_path)
    with pytest.raises(InputError, match="no scores"):
        write_report({}, tmp_path)
    assert not list(tmp_path.iterdir())


def test_two_drawings_of_one_figure_share_no_id_and_keep_their_links():
    figure = Figure()
    axes = figure.subplots()
    axes.scatter([0, 1], [0, 1]).set_urls(["#case-a", "#case-b"])
    axes.set_title("Words <that> need & care")
    first, second = (Links(svg(figure, "words", name)) for name in ("one", "two"))
    assert not set(first.ids) & set(second.ids)
    for drawn in (first, second):
        assert {"#case-a", "#case-b"} <= set(drawn.hrefs)
        assert all(h[1:] in drawn.ids for h in drawn.hrefs if not h.startswith("#case"))
