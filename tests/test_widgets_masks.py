"""Stored masks are those that were stored, and the slider shows the one that it says."""

from itertools import combinations

import numpy as np
import pytest

from mtg_lab.errors import InputError
from mtg_lab.widgets_masks import StoredMasks, masks_picture, masks_words, measured_masks, weight_masks

MODALITIES = ("t1n", "t1c")
SUBSETS = ("t1n", "t1c", "t1n+t1c")


def stored():
    rng = np.random.default_rng(0)
    reference = np.zeros((9, 7), np.uint8)
    reference[2:5, 2:5] = 1
    images = rng.normal(size=(2, 9, 7)).astype(np.float32)
    images[1][reference == 1] += 20.0
    masks = np.repeat(reference[None, None], 2, axis=0).repeat(3, axis=1)
    masks[1, 2, 2, 2] = 0  # one pixel less with both sequences at the greater weight
    masks[:, 0] = 0  # nothing is found from t1n
    return StoredMasks(images, reference, masks, (0.0, 10.0), MODALITIES, SUBSETS, ("ET",), "P1")


def test_what_is_written_is_read_again(tmp_path):
    ours = stored()
    again = StoredMasks.read(ours.save(tmp_path / "masks.npz"))
    np.testing.assert_array_equal(again.masks, ours.masks)
    np.testing.assert_array_equal(again.reference, ours.reference)
    np.testing.assert_allclose(again.images, ours.images, rtol=1e-3)
    assert (again.weights, again.modalities, again.subsets) == ((0.0, 10.0), MODALITIES, SUBSETS)
    assert (again.labels, again.subject) == (("ET",), "P1")


def test_another_file_is_refused_in_a_line(tmp_path):
    (tmp_path / "words.npz").write_text("no arrays")
    np.savez(tmp_path / "lacking.npz", images=np.zeros(3))
    np.savez(tmp_path / "pickle.npz", **{k: np.array([{}], dtype=object) for k in ("images", "reference")})
    for name in ("words", "lacking", "pickle", "absent"):
        with pytest.raises(InputError, match=f"{name}.npz holds no stored masks") as refusal:
            StoredMasks.read(tmp_path / f"{name}.npz")
        assert "\n" not in str(refusal.value)
    ours = stored()
    with pytest.raises(InputError, match="do not fit together"):
        StoredMasks(ours.images, ours.reference, ours.masks[:1], ours.weights, MODALITIES, SUBSETS, ("ET",), "P1")


def test_moving_the_slider_and_the_ticks_draws_another_mask():
    box = weight_masks(stored())
    slider, boxes, image, caption = box.children
    assert "0 of 63 pixels are not as in the reference, 0 not as at weight 0" in caption.value
    before = image.value
    slider.value = 10.0
    assert "Weight 10 from t1n+t1c: 1 of 63 pixels are not as in the reference, 1 not as at weight 0" in caption.value
    assert image.value != before
    before = image.value
    boxes.children[1].value = False
    assert "Weight 10 from t1n: 9 of 63 pixels are not as in the reference, 0 not as" in caption.value
    assert image.value != before
    boxes.children[0].value = False
    assert "Tick a sequence" in caption.value


def test_the_picture_is_over_the_sequence_that_shows_the_lesion():
    figure = masks_picture(stored(), 10.0, "t1n+t1c")
    assert figure.get_suptitle() == "P1 from t1n+t1c, over t1c"
    assert [a.get_title().split("  ")[0] for a in figure.axes] == ["reference", "weight 0", "weight 10, chosen"]
    assert masks_picture(stored(), 0.0, "t1n").get_suptitle() == "P1 from t1n, over t1n"


def test_the_masks_in_the_package_are_of_all_weights_and_subsets():
    found = measured_masks("alignment_sweep")
    assert found.weights == (0.0, 0.1, 1.0, 10.0, 100.0)
    assert set(found.subsets) == {"+".join(c) for n in range(1, 5) for c in combinations(found.modalities, n)}
    whole = "+".join(found.modalities)
    lesion, tumour = found.reference > 0, found.mask(0.1, whole) > 0
    assert 2 * (lesion & tumour).sum() / (lesion.sum() + tumour.sum()) > 0.8, (
        "with everything there it finds the lesion"
    )
    assert len({found.mask(w, whole).tobytes() for w in found.weights}) == 5
    assert "from t1n+t1c+t2w+t2f" in masks_words(found, 1.0, whole)
