"""What NiiVue is given: light volumes in their place, one crosshair, colours of the house; and what comes without."""

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from test_widgets import control, walk

pytest.importorskip("ipyniivue")

import ipyniivue

from mtg_lab.errors import InputError
from mtg_lab.figures import COLOURS
from mtg_lab.widgets_viewer import _sources, niivue_viewer, payload

SHAPE = (30, 34, 26)
SPACING = (2.0, 1.0, 3.0)


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    head = np.zeros(SHAPE)
    head[6:20, 8:30, 5:21] = 1
    return {m: np.where(head > 0, rng.normal(5, 1, SHAPE), 0) for m in ("t1c", "t2f")}


@pytest.fixture
def label():
    label = np.zeros(SHAPE, dtype=int)
    label[8:12, 10:15, 9:12] = 2
    label[9:11, 12:14, 10] = 4
    return label


@pytest.fixture
def viewer(images, label):
    return niivue_viewer(images, label, SPACING, label_names={2: "ED", 4: "ET"})


def canvases(box):
    return [w for w in walk(box) if isinstance(w, ipyniivue.NiiVue)]


def caption(box) -> str:
    return box.children[-1].value


def nifti(volume) -> nib.Nifti1Image:
    return nib.Nifti1Image.from_bytes(gzip.decompress(volume.data))


def test_volumes_are_cropped_to_the_head_one_byte_a_voxel_and_stay_in_their_place(viewer, images, label):
    for canvas, (name, original) in zip(canvases(viewer), images.items(), strict=True):
        sent = nifti(canvas.volumes[0])
        assert canvas.volumes[0].name == f"{name}.nii.gz"
        assert sent.shape == (18, 26, 20), "14 x 22 x 16 and a rim of two"
        assert sent.get_data_dtype() == np.uint8
        np.testing.assert_allclose(nib.affines.apply_affine(sent.affine, (0, 0, 0)), np.multiply((4, 6, 3), SPACING))
        pixels = np.asarray(sent.dataobj)
        cut = original[4:22, 6:32, 3:23]
        assert np.array_equal(pixels == 0, cut == 0)
        low, high = np.percentile(original[original != 0], (1, 99.5))
        inside = (cut > low) & (cut < high)
        np.testing.assert_allclose(pixels[inside], 1 + 254 * (cut[inside] - low) / (high - low), atol=0.51)
        np.testing.assert_array_equal(nifti(canvas.volumes[1]).dataobj, label[4:22, 6:32, 3:23])


def test_the_source_is_sent_once_and_shared(viewer):
    sources = {c.source for c in canvases(viewer)}
    assert len(sources) == 1
    script = Path(ipyniivue.__file__).parent / "static" / "widget.js"
    for canvas in canvases(viewer):
        state = canvas.get_state()
        assert len(state["_esm"]) < 3000 < script.stat().st_size
        assert payload(canvas) < 20_000
    assert sources == {_sources[-1].model_id}
    assert _sources[-1].text == script.read_text(encoding="utf-8")
    _sources[-1].close()
    (again,) = canvases(niivue_viewer({"t1c": np.ones(SHAPE)}))
    assert again.source == _sources[-1].model_id not in sources


def test_labels_have_the_colours_of_the_house(viewer):
    lut = np.asarray(canvases(viewer)[0].volumes[1].colormap_label.lut, dtype=int).reshape(-1, 4)
    first = canvases(viewer)[0].volumes[1].colormap_label.min
    for value, colour in ((2, COLOURS[0]), (4, COLOURS[1])):
        assert lut[int(value - first)][:3].tolist() == [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    assert lut[int(0 - first)][3] == 0, "no label is clear"


def test_a_slider_moves_the_crosshair_of_every_canvas_and_the_words(viewer, images):
    control(viewer, "left to right").value = 12
    control(viewer, "back to front").value = 20
    control(viewer, "bottom to top").value = 11
    for canvas in canvases(viewer):
        np.testing.assert_allclose(canvas.scene.crosshair_pos, [8.5 / 18, 14.5 / 26, 8.5 / 20])
    said = caption(viewer)
    assert "voxel 12, 20, 11 (24, 20, 33 mm)" in said
    assert all(f"{name} {volume[12, 20, 11]:.3g}" in said for name, volume in images.items())
    assert "label: none" in said


def test_a_click_in_one_canvas_moves_the_others_and_the_sliders(viewer):
    first, second = canvases(viewer)
    location = {
        "vox": [5, 7, 7],
        "ax_cor_sag": 0,
        "frac": [0, 0, 0],
        "mm": [0, 0, 0],
        "string": "",
        "values": [],
        "xy": [],
    }
    first._handle_custom_msg({"event": "location_change", "data": location}, [])
    assert [control(viewer, w).value for w in ("left to right", "back to front", "bottom to top")] == [9, 13, 10]
    np.testing.assert_allclose(second.scene.crosshair_pos, [5.5 / 18, 7.5 / 26, 7.5 / 20])
    assert "label: ET" in caption(viewer)


def test_plane_and_opacity_reach_every_canvas(viewer):
    control(viewer, "plane").value = "all three"
    control(viewer, "opacity of the label").value = 0.9
    for canvas in canvases(viewer):
        assert canvas.opts.slice_type == ipyniivue.SliceType.MULTIPLANAR
        assert canvas.volumes[1].opacity == 0.9


def test_without_webgl_the_kernel_draws_the_slices(viewer):
    canvases(viewer)[0].webgl2 = False
    note, slices = viewer.children
    assert "no WebGL 2" in note.value
    assert control(slices, "slice").value == 9, "the first of three that show as much label"
    assert "outlined: ED." in slices.children[-1].value
    canvases_left = canvases(viewer)
    assert canvases_left == []


def test_what_does_not_fit_is_refused(images, label):
    with pytest.raises(InputError, match="one shape"):
        niivue_viewer(images, label[1:])
    with pytest.raises(InputError, match="none"):
        niivue_viewer({})
    with pytest.raises(InputError, match=r"affine has the shape \(3, 3\)"):
        niivue_viewer(images, label, np.eye(3))


def test_empty_and_nan_volumes_are_shown_as_black():
    for image in (np.zeros((4, 5, 6)), np.full((4, 5, 6), np.nan)):
        (canvas,) = canvases(niivue_viewer({"t1n": image}))
        assert np.asarray(nifti(canvas.volumes[0]).dataobj).max() == 0
        assert len(canvas.volumes) == 1


def test_labels_without_names_are_called_by_their_number(images, label):
    box = niivue_viewer(images, label)
    control(box, "left to right").value = 9
    control(box, "back to front").value = 13
    control(box, "bottom to top").value = 10
    assert "label: label 4" in caption(box)


def test_a_background_that_is_not_zero_is_cropped_as_well(images):
    shifted = {m: image - 3 for m, image in images.items()}
    assert nifti(canvases(niivue_viewer(shifted))[0].volumes[0]).shape == (18, 26, 20)
