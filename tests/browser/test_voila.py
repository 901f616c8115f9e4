"""Every widget of the package, moved in a real browser: the whole way through page, comm and kernel and back."""

import numpy as np
import pytest
from driving import press, redrawn, settled, slide, tick
from gallery import CELLS, write_gallery
from serving import REPAINT_MS, START_S, required, server, voila

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def page(browser, open_page, tmp_path_factory):
    required("voila")
    notebook = write_gallery(tmp_path_factory.mktemp("gallery") / "gallery.ipynb")
    with server(voila(notebook), notebook.parent) as address:
        page = open_page(browser)
        page.goto(address, timeout=START_S * 1000)
        page.wait_for_selector(f".{list(CELLS)[-1]}", timeout=START_S * 1000)
        yield page


@pytest.fixture(autouse=True)
def _keep(request, page, screenshot):
    yield
    name = request.node.name.removeprefix("test_")
    widget = request.node.get_closest_marker("widget")
    if widget is not None:
        screenshot(page.locator(f".{widget.args[0]}"), f"voila_{widget.args[0]}_{name}"[:80])


@pytest.mark.widget("volume")
def test_an_arrow_key_moves_the_slice(page):
    said = page.inner_text(".volume p[aria-live]")
    assert said.startswith("Axial slice 6 of 19")
    assert slide(page, "volume").startswith("Axial slice 7 of 19")


@pytest.mark.widget("volume")
def test_a_tick_takes_a_sequence_away(page):
    assert "taken away: t2f" in tick(page, "volume", "t2f")


@pytest.mark.widget("subsets")
def test_a_tick_shows_the_scores_of_another_subset(page):
    assert tick(page, "subsets", "t2f").startswith("Mean dice with t1c: WT 0.60")


@pytest.mark.widget("quiz")
def test_the_quiz_answers_the_keyboard(page):
    page.locator(".quiz input[type=radio]").nth(1).focus()
    page.keyboard.press("Space")
    page.locator(".quiz button").focus()
    page.keyboard.press("Enter")
    page.wait_for_selector(".quiz p[role=status]:has-text('Yes. Because.')", timeout=REPAINT_MS)


@pytest.mark.widget("gaussians")
@pytest.mark.parametrize("number", range(3))
def test_each_slider_moves_the_gaussians(page, number):
    assert slide(page, "gaussians", number).startswith("Cost of alignment")


@pytest.mark.widget("weights")
def test_the_weight_of_alignment_shows_another_teacher(page):
    assert slide(page, "weights").startswith("Weight 0.1: relative gap 0.60")


@pytest.mark.widget("masks")
def test_the_weight_of_alignment_draws_another_mask(page):
    assert slide(page, "masks").startswith(
        "Weight 1 from t1n+t1c: 20 of 672 pixels are not as in the reference, 20 not"
    )


@pytest.mark.widget("anchors")
def test_the_weight_of_a_sequence_moves_the_anchor(page):
    assert "t1c: weight 0.29" in slide(page, "anchors", 1), "1.25 of 4.25"


@pytest.mark.widget("patients")
def test_a_patient_is_chosen_from_the_list(page):
    before = [image.get_attribute("src") for image in page.query_selector_all(".patients img")]
    page.locator(".patients select").focus()
    page.keyboard.press("ArrowDown")
    page.wait_for_selector(".patients >> text=P2: mean dice 0.700 under ours", timeout=REPAINT_MS)
    page.wait_for_selector(".patients >> text=What was drawn for P2", timeout=REPAINT_MS)
    assert [image.get_attribute("src") for image in page.query_selector_all(".patients img")] != before


# --- NiiVue -----------------------------------------------------------------------------------------------------------


def spot(page, canvas, across: float, down: float) -> None:
    box = canvas.bounding_box()
    page.mouse.click(box["x"] + across * box["width"], box["y"] + down * box["height"])


@pytest.mark.widget("niivue")
def test_a_click_in_one_sequence_moves_the_crosshair_in_the_other_and_the_sliders(page):
    first, second = (page.locator(".niivue canvas").nth(i) for i in range(2))
    first.scroll_into_view_if_needed()
    before = settled(page, second)
    said = page.inner_text(".niivue p[aria-live]")
    spot(page, first, 0.4, 0.35)
    page.wait_for_function(
        "said => document.querySelector('.niivue p[aria-live]').innerText !== said", arg=said, timeout=REPAINT_MS
    )
    settled(page, second, before)
    place = page.inner_text(".niivue p[aria-live]").removeprefix("Crosshair at voxel ").split(" (")[0].split(", ")
    sliders = page.locator(".niivue .noUi-handle")
    values = [sliders.nth(i).get_attribute("aria-valuetext") for i in range(1, 4)]
    assert [float(v) for v in values] == [float(v) for v in place]


@pytest.mark.widget("niivue")
def test_an_arrow_key_moves_the_crosshair_in_every_sequence(page):
    canvases = [page.locator(".niivue canvas").nth(i) for i in range(2)]
    before = [settled(page, canvas) for canvas in canvases]
    for _ in range(3):
        press(page, "niivue", ".noUi-handle", "ArrowRight", 1)()
    for canvas, seen in zip(canvases, before, strict=True):
        settled(page, canvas, seen)


@pytest.mark.widget("niivue")
def test_without_opacity_the_label_is_grey_again(page):
    canvas = page.locator(".niivue canvas").first
    coloured = settled(page, canvas)
    assert np.ptp(coloured, axis=2).max() > 30, "the house colours"
    press(page, "niivue", ".noUi-handle", "Home", 0)()
    assert np.ptp(settled(page, canvas, coloured), axis=2).max() < 30


def test_without_webgl_the_slices_take_the_place_of_the_canvases(
    browser_without_webgl, open_page, tmp_path, screenshot
):
    required("voila")
    notebook = write_gallery(tmp_path / "viewer.ipynb", ["niivue"])
    with server(voila(notebook), tmp_path) as address:
        page = open_page(browser_without_webgl)
        page.goto(address, timeout=START_S * 1000)
        page.wait_for_selector("text=This browser has no WebGL 2", timeout=START_S * 1000)
        assert slide(page, "niivue").startswith("Axial slice")
        screenshot(page, "voila_niivue_without_webgl")


# --- latents ----------------------------------------------------------------------------------------------------------


@pytest.mark.widget("decoder")
def test_a_tick_draws_another_mask(page):
    assert "from t1n, t2w, t2f, without t1c" in tick(page, "decoder", "t1c")


@pytest.mark.widget("anchoring")
def test_a_weight_of_the_anchor_draws_another_mask(page):
    said = slide(page, "anchoring", 3)
    assert "an anchor stands for t1c, t2w" in said
    assert "t2f 0.33" in said, "1.5 of 4.5"


@pytest.mark.widget("gap")
@pytest.mark.parametrize(("number", "words"), [(0, "offset taken away: 0.1"), (1, "pulled to the mean: 0.1")])
def test_closing_the_gap_draws_the_latents_elsewhere(page, number, words):
    assert words in slide(page, "gap", number)


@pytest.mark.widget("phantom")
def test_a_step_further_the_phantom_is_scanned(page):
    assert "Step 2 of 2, scanner: noise" in slide(page, "phantom")


@pytest.mark.widget("points")
def test_an_arrow_key_chooses_the_next_point_on_that_side(page):
    canvas = page.locator(".points canvas")
    said = redrawn(page, "points", press(page, "points", "canvas", "ArrowRight"))
    assert canvas.get_attribute("aria-valuetext") == said
    assert f"Point {canvas.get_attribute('aria-valuenow')} of 240" in said
    assert "3px" in canvas.evaluate("canvas => canvas.style.outline"), "the focus is seen"


@pytest.mark.widget("points")
def test_a_click_chooses_a_point_and_rings_its_pairs(page):
    canvas = page.locator(".points canvas")
    canvas.scroll_into_view_if_needed()
    before = settled(page, canvas)
    said = redrawn(page, "points", lambda: spot(page, canvas, 0.9, 0.2))
    assert "ringed: the same voxel in" in said
    settled(page, canvas, before)


@pytest.mark.widget("points")
def test_points_take_other_colours_by_the_keyboard(page):
    canvas = page.locator(".points canvas")
    before = settled(page, canvas)
    press(page, "points", "select", "ArrowDown")()
    page.wait_for_selector(".points >> text=brain", timeout=REPAINT_MS)
    after = settled(page, canvas, before)
    ink, again = ((picture[9:-9, 9:-9] < 200).any(axis=2).sum() for picture in (before, after))  # without the frame
    assert 0.7 < again / ink < 1.4, "every point is still there"


@pytest.mark.widget("rotation")
def test_the_angle_turns_the_points(page):
    assert "seen from 35 degrees" in slide(page, "rotation")


@pytest.mark.widget("rotation")
def test_the_points_turn_by_themselves(page):
    redrawn(page, "rotation", lambda: page.locator(".rotation .jupyter-widgets button").first.click())
    page.locator(".rotation .jupyter-widgets button").nth(1).click()


@pytest.mark.widget("guess")
def test_a_guess_is_told_how_far_off_it_was(page):
    picture = ".guess img.widget-image"
    before = page.get_attribute(picture, "src")
    press(page, "guess", ".noUi-handle", "ArrowRight")()
    page.wait_for_function("b => document.querySelector('.guess img').src !== b", arg=before, timeout=REPAINT_MS)
    page.locator(".guess button").focus()
    page.keyboard.press("Enter")
    page.wait_for_selector(".guess >> text=It is 0.25; your guess of 0.51 is 0.26 too high", timeout=REPAINT_MS)
