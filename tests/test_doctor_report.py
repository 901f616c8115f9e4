"""Doctor's page stands alone, says what every picture shows, and hides findings without a script."""

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from mtg_lab import doctor_report
from mtg_lab.doctor import check
from mtg_lab.manifest import Subject, read_manifest, write_manifest


class Page(HTMLParser):
    """Tags of a page with their attributes, and whether every tag that is opened is closed."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.text = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in ("meta", "img", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data

    def all(self, wanted):
        return [attributes for tag, attributes in self.tags if tag == wanted]


@pytest.fixture(scope="module")
def page(cohort, tmp_path_factory):
    """The page of nine phantoms, one of which lacks its t1c and another of which has an ugly name."""
    folder = tmp_path_factory.mktemp("page")
    rows = []
    for number, s in enumerate(read_manifest(cohort)):
        name = "<b>P&1</b>" if number == 1 else s.name
        row = {"subject": name, "split": s.split, "site": s.site, "schema": s.schema}
        rows.append(row | {c: str(p) for c, p in s.files.items()})
    rows[0]["t1c"] = ""
    rows[2]["t2w"] = "nowhere.nii.gz"
    checkup = check(write_manifest(rows, ("t1n", "t1c", "t2w", "t2f"), folder / "m.csv"), draw=doctor_report.draw)
    text = doctor_report.write(checkup, folder / "page.html").read_text(encoding="utf-8")
    return text, Page(text)


def test_the_page_is_whole_and_stands_alone(page):
    text, parsed = page
    assert parsed.open == []
    assert "<script" not in text
    assert not re.search(r"""(src|href)=["'](?!data:)|url\(|@import|https?:""", text)
    assert "prefers-color-scheme: dark" in text


def test_every_picture_says_what_it_shows(page):
    _, parsed = page
    pictures = parsed.all("img")
    assert len(pictures) == 9 * 4 - 2, "one sequence is missing and one cannot be read"
    assert pictures[0]["alt"] == "t1n of phantom-001: axial, coronal, sagittal slice, the label outlined"
    assert len({p["alt"] for p in pictures}) == len(pictures)
    data = base64.b64decode(pictures[0]["src"].removeprefix("data:image/webp;base64,"))
    assert Image.open(io.BytesIO(data)).size[1] == 150


def test_what_a_manifest_says_is_text_and_no_markup(page):
    text, parsed = page
    assert "<b>" not in text
    assert "<b>P&1</b>" in parsed.text


def test_findings_stand_with_their_subject_and_can_be_filtered(page):
    text, parsed = page
    article = next(a for a in text.split("<article")[1:] if "nowhere.nii.gz" in a)
    assert article.startswith(' class="has-error')
    assert "file-unreadable" in article
    assert "Mend: mend the path or leave the cell empty." in article
    buttons = [b["id"] for b in parsed.all("input")]
    assert buttons[:2] == ["show-all", "show-error"]
    for severity in ("error", "warning", "note"):
        assert f"#show-{severity}:checked ~ main li:not(.{severity})" in text


def test_the_cohort_is_summed_up(page):
    _, parsed = page
    assert "44x56x44" in parsed.text
    assert "4x4x4 mm" in parsed.text
    tables = parsed.text.split("Sequences, in subjects that have them")[1]
    assert "t1c" in tables.split("Volumes")[0]
    assert "5 of 6" in tables


def test_slices_are_upright_with_square_pixels_and_the_outline_in_the_label_s_colour():
    """A long thin voxel grid: 20 x 10 x 5 voxels of 1 x 1 x 4 mm, the label in the right anterior superior corner."""
    volume = np.ones((20, 10, 5), np.float32)
    volume[10:] = 2
    label = np.zeros(volume.shape, np.uint8)
    label[15:18, 6:9, 3] = 1
    files = dict.fromkeys(("t1c",), "x")
    pictures = doctor_report.draw(Subject("P", files, schema="lesion"), np.diag([1.0, 1, 4, 1]),
                                  {"t1c": volume, "label": label})  # fmt: skip
    pixels = np.asarray(Image.open(io.BytesIO(pictures["t1c"])).convert("RGB")).astype(int)
    # Axial 20 x 10 mm, coronal 20 x 20 mm, sagittal 10 x 20 mm, all of one height.
    assert pixels.shape == (150, 300 + 150 + 75, 3)
    axial = pixels[:, :300]
    orange = (axial[..., 0] > axial[..., 2] + 60) & (axial[..., 0] > 120)
    rows, columns = np.nonzero(orange)
    assert columns.min() > 300 * 13 / 20, "right of the patient on the right"
    assert rows.max() < 150 * 5 / 10, "anterior on top"
    assert axial[75, 60].sum() < axial[75, 250].sum()


def test_a_subject_without_any_image_has_no_picture():
    assert doctor_report.draw(Subject("P", {}), np.eye(4), {"label": np.zeros((4, 4, 4))}) == {}
