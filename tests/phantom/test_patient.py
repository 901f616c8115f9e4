"""What a patient of the phantom must be: bits, masks, labels, and contrast that costs what it costs in a clinic."""

import hashlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from mtg_lab import phantom
from mtg_lab.phantom.atlas import Grid, Person, load_atlas


def _digest(case):
    digest = hashlib.sha256()
    for name in phantom.MODALITIES:
        digest.update(np.ascontiguousarray(case.images[name]).tobytes())
    digest.update(np.ascontiguousarray(case.label).tobytes())
    return digest.hexdigest()


def _z(case, modality):
    image = case.images[modality].astype(float)
    inside = image > 0
    return (image - image[inside].mean()) / image[inside].std()


def _healthy(seed, tissue, spacing_mm=4.0):
    maps = phantom.layers(seed, spacing_mm)
    return (maps[tissue] > 0.9) & (maps["label"] == 0)


@pytest.fixture(scope="module")
def ring(find_case):
    return find_case(lambda facts: facts["pattern"] == "ring" and min(facts["volumes_ml"].values()) > 5)


def test_same_bits_again_whatever_was_made_in_between(make_case):
    # That another process makes the same bits is shown by the pool's test in test_cohort.py.
    first = _digest(make_case(2, "B"))
    phantom.synthesise(9, "C", 5.0)
    assert _digest(phantom.synthesise(2, "B", 4.0)) == first


def test_another_site_is_another_scan_of_the_same_patient(make_case):
    a, b = make_case(2, "A"), make_case(2, "B")
    assert np.array_equal(a.label, b.label)
    assert not np.array_equal(a.images["t1n"], b.images["t1n"])


def test_same_patient_at_two_spacings(make_case):
    coarse, fine = make_case(2, "A", 4.0), make_case(2, "A", 2.0)
    whole = fine.label.reshape(44, 2, 56, 2, 44, 2) > 0
    back = whole.mean(axis=(1, 3, 5)) > 0.5
    overlap = 2 * np.count_nonzero(back & (coarse.label > 0)) / (back.sum() + np.count_nonzero(coarse.label))
    assert overlap > 0.85
    # The corner of the field of view is the same point: half a voxel from the first centre.
    corners = [c.affine[:3, 3] - np.diag(c.affine)[:3] / 2 for c in (coarse, fine)]
    assert corners[0] == pytest.approx(corners[1])


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10**6), site=st.sampled_from("ABC"))
def test_every_patient_keeps_the_promises(seed, site):
    case = phantom.synthesise(seed, site, 4.0)
    masks = [case.images[name] > 0 for name in phantom.MODALITIES]
    for name, mask in zip(phantom.MODALITIES, masks):
        assert case.images[name].dtype == np.int16
        assert case.images[name].min() == 0
        assert case.images[name].max() <= 4095
        assert np.array_equal(mask, masks[0])
    assert case.label.dtype == np.uint8
    assert set(np.unique(case.label)) <= {0, 1, 2, 3}
    assert (case.label[~masks[0]] == 0).all()
    assert np.count_nonzero(case.label) > 0
    assert 1100 < case.facts["brain_ml"] < 2200
    if case.facts["grade"] == "low":
        assert not (case.label == 3).any()


def test_the_field_of_view_holds_the_whole_brain():
    grid = Grid.box(6.0)
    for seed in range(30):
        person = Person.draw(np.random.default_rng(seed))
        inside = load_atlas(0.0).grid.sample(load_atlas(0.0).depth_mm, person.to_atlas_mm(grid), outside=-20.0) > 1
        assert not any(inside.take(i, axis=axis).any() for axis in range(3) for i in (0, -1))


def test_enhancement_is_seen_after_contrast_only(ring):
    white = _healthy(ring.facts["seed"], "wm")
    enhancing = ring.label == 3
    after = _z(ring, "t1c")
    before = _z(ring, "t1n")
    assert after[enhancing].mean() > after[white].mean() + 0.8
    assert before[enhancing].mean() < before[white].mean()


def test_oedema_is_bright_on_t2w_and_t2f(ring):
    white = _healthy(ring.facts["seed"], "wm")
    for modality in ("t2w", "t2f"):
        z = _z(ring, modality)
        assert z[ring.label == 2].mean() > z[white].mean() + 1


def test_csf_is_dark_on_t2f_and_bright_on_t2w(ring):
    maps = phantom.layers(ring.facts["seed"], 4.0)
    csf, white = (maps["csf"] > 0.9), _healthy(ring.facts["seed"], "wm")
    assert _z(ring, "t2f")[csf].mean() < _z(ring, "t2f")[white].mean() - 0.8
    assert _z(ring, "t2w")[csf].mean() > _z(ring, "t2w")[white].mean() + 1.5


def test_necrosis_is_darker_than_its_rim_after_contrast(ring):
    z = _z(ring, "t1c")
    assert z[ring.label == 1].mean() < z[ring.label == 3].mean() - 0.5


def test_low_grade_never_enhances(find_case):
    case = find_case(lambda facts: facts["grade"] == "low")
    assert case.facts["volumes_ml"][3] == 0
    assert case.facts["volumes_ml"][1] > 0


def test_tumour_stays_out_of_csf():
    maps = phantom.layers(1, 2.0)
    tumour = maps["label"] > 0
    assert maps["csf"][tumour].max() < 0.5
    assert maps["brain"][tumour].min() == 1


def test_the_scan_is_the_signal_seen_through_a_scanner(make_case):
    """Noise, coil and slices blur what tissues shine; they make no other picture of it."""
    case, maps = make_case(2), phantom.layers(2, 4.0)
    inside = maps["brain"] > 0
    for modality in phantom.MODALITIES:
        signal, image = maps[f"signal_{modality}"], case.images[modality]
        assert not signal[~inside].any()
        assert spearmanr(signal[inside], image[inside]).statistic > 0.8
    everywhere = np.stack([maps[f"signal_{m}"][inside] for m in phantom.MODALITIES])
    assert (everywhere > 0).mean() > 0.999


def test_mass_effect_squeezes_ventricles_and_displaces_outwards():
    maps = phantom.layers(4, 2.0)
    push = maps["push_mm"]
    assert 0.5 < np.abs(push).max() < 15
    # The Monro-Kellie doctrine: what the tumour gains CSF gives.
    assert maps["csf"].sum() < maps["healthy_csf"].sum()
    # Around the core, tissue moved away from it: up the slope of the distance, which falls outwards.
    core = maps["core_mm"]
    shell = (core < 0) & (core > -10) & (maps["brain"] > 0)
    outwards = -np.stack(np.gradient(core))
    assert (push * outwards).sum(axis=0)[shell].mean() > 0


def test_facts_count_the_label(ring):
    voxel_ml = 4.0**3 / 1000
    for value, volume in ring.facts["volumes_ml"].items():
        assert volume == pytest.approx(np.count_nonzero(ring.label == value) * voxel_ml)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [((0, "Z", 2.0), "site"), ((0, "A", 0.5), "spacing"), ((0, "A", 7.0), "spacing"), ((-1, "A", 2.0), "seed")],
)
def test_bad_requests_are_named_in_one_line(arguments, word):
    with pytest.raises(ValueError, match=word) as error:
        phantom.synthesise(*arguments)
    assert "\n" not in str(error.value)
